"""A real EVM node for tests and demos: anvil of Foundry, from the npm package ``@foundry-rs/anvil``."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from pydantic import SecretStr

from trace_dagster.errors import ConfigurationError, EngineFailed
from trace_dagster.rpc import JsonRpcClient
from trace_dagster.settings import RpcEndpoint

__all__ = ["Anvil", "find_anvil", "running_anvil"]

_LISTENING: Final = re.compile(r"Listening on (127\.0\.0\.1:\d+)")


class Anvil:
    """A running node.

    Attributes:
        url: its JSON-RPC endpoint on loopback.
        pid: its process.
    """

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self.pid = pid
        endpoint = RpcEndpoint(pool="anvil", url=SecretStr(url), variable="TRACE_RPC_POOL_ANVIL_URL")
        self._client = JsonRpcClient(endpoint)
        self._guard = threading.Lock()  # a client is for one thread at a time

    def call(self, method: str, *params: Any) -> Any:
        """Return the result of one JSON-RPC request."""
        with self._guard:
            return self._client.call(method, params)

    def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Return the results of several requests."""
        with self._guard:
            return self._client.batch(calls)

    def close(self) -> None:
        """Close the connection to the node."""
        self._client.close()


def find_anvil(environment: Mapping[str, str]) -> str:
    """Return the program: ``TRACE_ANVIL``, ``./node_modules/.bin/anvil``, or ``anvil`` of ``PATH``.

    Raises:
        ConfigurationError: there is none.
    """
    for candidate in (environment.get("TRACE_ANVIL"), "node_modules/.bin/anvil", "anvil"):
        found = candidate and shutil.which(candidate, path=environment.get("PATH"))
        if found:
            return str(_native(Path(found).absolute()))
    raise ConfigurationError(
        "anvil is not installed: run `npm install @foundry-rs/anvil` in this folder (or `make node`), "
        "or set TRACE_ANVIL to the program"
    )


def _native(program: Path) -> Path:
    # npm's program is a wrapper that outlives or orphans the real one when it is killed; that lies beside it.
    beside = program.resolve().parent.parent.glob("anvil-*/bin/anvil")
    return next((path for path in beside if os.access(path, os.X_OK)), program)


@contextmanager
def running_anvil(
    *arguments: str,
    environment: Mapping[str, str] = os.environ,
    start_timeout_seconds: float = 60.0,
) -> Iterator[Anvil]:
    """Start anvil on a free loopback port, and stop it at the end.

    Args:
        arguments: more of anvil's own, e.g. ``"--chain-id", "10143"``.
        environment: where to look for the program.
        start_timeout_seconds: how long to wait until it listens.

    Raises:
        ConfigurationError: anvil is not installed.
        EngineFailed: it ended, or did not listen in time.
    """
    command = [find_anvil(environment), "--host", "127.0.0.1", "--port", "0", *arguments]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            anvil = Anvil(_wait_for_url(process, output, start_timeout_seconds), process.pid)
            try:
                yield anvil
            finally:
                anvil.close()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_url(process: "subprocess.Popen[bytes]", output: IO[bytes], timeout_seconds: float) -> str:
    until = time.monotonic() + timeout_seconds
    while time.monotonic() < until:
        ended = process.poll() is not None
        # pread leaves the offset alone, which the child's writes share.
        text = os.pread(output.fileno(), 1 << 20, 0).decode(errors="replace")
        if match := _LISTENING.search(text):
            return f"http://{match[1]}"
        if ended:
            raise EngineFailed(f"anvil ended with status {process.returncode}: {text[-300:].strip()}")
        time.sleep(0.02)
    raise EngineFailed(f"anvil did not listen within {timeout_seconds:g} s")
