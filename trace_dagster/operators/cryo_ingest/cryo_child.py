"""Runs Cryo once, in a process of its own, so that a crash, a hang or a memory spike of it stays there.

Started by path, and imports nothing of this project: every partition pays for it. One line of JSON comes on
standard input, which then stays open for as long as the parent lives; the counts that Cryo returns go to
standard output as one line of JSON. What Cryo itself prints, which holds the endpoint's URL, goes to
standard error.

The line holds: ``url``; ``parent``, the parent's process id; ``datasets``; ``arguments``, named as Cryo's
Python function names them; ``binary``, a program to run instead of the wheel, or null.
"""

import asyncio
import ctypes
import json
import os
import resource
import signal
import sys
import threading
import traceback
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Read the job, run it, write the counts, and leave without Python's or Rust's own clean-up."""
    job = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the URL
    _die_with(job["parent"])
    if job["binary"]:
        _become(job)
    threading.Thread(target=_watch_parent, daemon=True).start()
    answers = os.dup(1)
    os.dup2(2, 1)
    status = 1
    try:
        counts = asyncio.run(_freeze(job))
        os.write(answers, json.dumps(counts).encode() + b"\n")
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)  # the wheel sometimes aborts in its own clean-up, after everything is written


async def _freeze(job: dict[str, Any]) -> Any:
    from cryo import _cryo_rust  # noqa: PLC0415 (not there where a program is configured)

    freeze = _cryo_rust._freeze  # noqa: SLF001 (cryo.freeze adds only a thread)
    return await freeze(job["datasets"], rpc=job["url"], **job["arguments"])


def _become(job: dict[str, Any]) -> None:
    """Replace this process by the program; its URL goes the only other way it knows, ``ETH_RPC_URL``."""
    command = [job["binary"], *job["datasets"]]
    for name, value in job["arguments"].items():
        if value is not False:
            command.append(f"--{name.replace('_', '-')}")
        if not isinstance(value, bool):
            command += [str(item) for item in (value if isinstance(value, list) else [value])]
    os.dup2(2, 1)
    os.execve(command[0], command, {**os.environ, "ETH_RPC_URL": job["url"]})  # noqa: S606


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before this was in force
        os._exit(1)


def _watch_parent() -> None:
    """End with the parent also where the kernel does not see to it."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
