"""Serves a recorded chain with ``replay.c``."""

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.replay.chain import Recording

__all__ = ["ask", "serving"]


def ask(url: str) -> dict[str, int]:
    """Return what the server answers to a GET: its counters."""
    with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310 (loopback)
        counters: dict[str, int] = json.load(response)
    return counters


@contextmanager
def serving(recording: Recording, folder: Path) -> Iterator[str]:
    """Build the server, serve the recording, and end it."""
    program = folder / "replay"
    source = Path(__file__).with_name("replay.c")
    subprocess.run(["cc", "-O2", "-pthread", "-o", str(program), str(source)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = [str(recording.folder / name) for name in ("chain.bin", "chain.idx")]
    with subprocess.Popen([str(program), str(port), *files]) as server:
        try:
            until = time.monotonic() + 60
            while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < until:
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
