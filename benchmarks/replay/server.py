"""The server of a recording, as a process."""

import json
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ask", "running_replay"]


def ask(url: str) -> dict[str, int]:
    """Return what the server answers to a GET: its counters."""
    with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310 (loopback)
        counters: dict[str, int] = json.load(response)
    return counters


@contextmanager
def running_replay(recording: Path, before: Sequence[str] = ()) -> Iterator[str]:
    """Build the server, serve the recording in the folder, and end it.

    Args:
        recording: folder with ``chain.bin`` and ``chain.idx``.
        before: a command to run it with, e.g. ``taskset``.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "replay"
        source = Path(__file__).with_name("replay.c")
        subprocess.run(["cc", "-O2", "-pthread", "-o", str(program), str(source)], check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        files = [str(recording / name) for name in ("chain.bin", "chain.idx")]
        with subprocess.Popen([*before, str(program), str(port), *files]) as server:
            try:
                until = time.monotonic() + 60
                while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < until:
                    time.sleep(0.05)
                yield f"http://127.0.0.1:{port}"
            finally:
                server.terminate()
