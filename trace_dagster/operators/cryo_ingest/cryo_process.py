"""Cryo as a subprocess: started without a secret in sight, watched, and never left behind."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from trace_dagster.errors import EngineFailed
from trace_dagster.rpc.secrets import scrub

__all__ = ["CryoJob", "CryoOutcome", "run_cryo"]

_CHILD: Final = Path(__file__).with_name("cryo_child.py")
# The child needs none of this project's variables, and some of them hold credentials.
_PASSED_ON: Final = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONHOME",
    "PYTHONPATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
)
_KEPT_OUTPUT_BYTES: Final = 64 * 1024
_POLL_SECONDS: Final = 0.05
_ERROR_SUMMARY: Final = re.compile(r"^error summary\n─+\n(.*?)(?:\n\n\n|\Z)", re.DOTALL | re.MULTILINE)
_ERROR_LINE: Final = re.compile(r"^(?:\w*Error|error)\b: .*", re.MULTILINE)
_PANIC: Final = re.compile(r"^thread .* panicked at .*(?:\n.+)?", re.MULTILINE)


@dataclass(frozen=True)
class CryoJob:
    """One run of Cryo.

    Attributes:
        url: the endpoint with its credentials.
        secrets: every part of it that must not be shown.
        datasets: what to collect.
        arguments: Cryo's own, named as its Python function names them.
        directory: where it runs.
        binary: a program to run instead of the Python wheel, or None.
    """

    url: str
    secrets: tuple[str, ...]
    datasets: Sequence[str]
    arguments: Mapping[str, Any]
    directory: Path
    binary: str | None = None

    def __repr__(self) -> str:
        return f"CryoJob(datasets={self.datasets!r}, directory={self.directory!r})"


@dataclass(frozen=True)
class CryoOutcome:
    """How a run of Cryo ended; whether it did its work is to be judged by its files.

    Attributes:
        errored_chunks: how many chunks it says it gave up on; None where it returned nothing.
        said: its own words on what went wrong, short and without secrets; empty where it said nothing.
        panicked: whether some of its threads panicked, which a repetition will not mend.
        status: how the process ended, for messages.
    """

    errored_chunks: int | None
    said: str
    panicked: bool
    status: str


def run_cryo(job: CryoJob, watch: Callable[[], None]) -> CryoOutcome:
    """Run Cryo to its end.

    Args:
        job: what to run.
        watch: called many times a second; whatever it raises ends Cryo first.

    Raises:
        EngineFailed: the process could not be started.
    """
    process = _start(job)
    outputs = answers, noise = _Output(process.stdout), _Output(process.stderr)
    try:
        _send(process, job)
        while not _ended(process) and not answers.text().endswith("\n"):
            watch()
            time.sleep(_POLL_SECONDS)
        watch()
    finally:
        _end(process)
        for output in outputs:
            output.finish()
    return _outcome(job, process.returncode, answers.text(), noise.text())


def _start(job: CryoJob) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=job.directory,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            start_new_session=True,
        )
    except OSError as error:
        raise EngineFailed(f"the subprocess of Cryo cannot be started: {error.strerror}") from None


def _send(process: "subprocess.Popen[bytes]", job: CryoJob) -> None:
    line = {
        "url": job.url,
        "parent": os.getpid(),
        "datasets": list(job.datasets),
        "arguments": dict(job.arguments),
        "binary": job.binary,
    }
    pipe = _present(process.stdin)
    with contextlib.suppress(BrokenPipeError):  # it ended at once: what it said tells why
        pipe.write(json.dumps(line).encode() + b"\n")
        pipe.flush()


def _ended(process: "subprocess.Popen[bytes]") -> bool:
    # WNOWAIT leaves the process as a zombie, whose id, and so the group's, nobody else can get before _end.
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _end(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with contextlib.suppress(BrokenPipeError):
        _present(process.stdin).close()


class _Output:
    """What comes from a pipe, read by a thread of its own, the last 64 KiB of it."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        self._pipe = _present(pipe)
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while piece := os.read(self._pipe.fileno(), 1 << 16):
            self._kept += piece
            del self._kept[:-_KEPT_OUTPUT_BYTES]

    def text(self) -> str:
        """Return what came so far."""
        return bytes(self._kept).decode(errors="replace")

    def finish(self) -> None:
        """Wait for the rest, and close the pipe."""
        self._thread.join(timeout=5)  # a process that left the group may hold the other end
        if not self._thread.is_alive():
            self._pipe.close()


def _outcome(job: CryoJob, status: int, answers: str, noise: str) -> CryoOutcome:
    panicked = " panicked at " in noise
    try:
        errored = int(json.loads(answers)["n_errored"])
    except (ValueError, KeyError, TypeError):
        errored = None
    said = _words(noise) if errored or errored is None else ""
    return CryoOutcome(errored, scrub(said, job.secrets), panicked, _describe(status))


def _words(noise: str) -> str:
    """Return what matters of Cryo's output: its error summary, the first panic, the last error line."""
    summary, panic, lines = _ERROR_SUMMARY.search(noise), _PANIC.search(noise), _ERROR_LINE.findall(noise)
    found = [summary and summary[1], panic and panic[0], lines and lines[-1]]
    return "; ".join(text for text in found if text)


def _describe(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-status).name}"
    return f"signal {-status}"


def _present(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise EngineFailed("the subprocess of Cryo has no pipe")  # Popen was told to make all three
    return pipe
