"""The life of an embedded Postgres server, for its clients and for the watcher that stops it.

Every client holds a shared lock on ``clients.lock``; the kernel drops it however the client ends. The
watcher, this file run as a program of its own, waits for an exclusive one: it gets it when no client is
left, and stops the server. Only the standard library is used here, so that the watcher starts fast and
stays small.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["CLIENTS_LOCK", "DATA", "WATCHER_LOCK", "Postmaster", "is_postgres", "occupant", "running"]

CLIENTS_LOCK = "clients.lock"
WATCHER_LOCK = "watcher.lock"
DATA = "data"

# How long a server without clients is kept for the next one, e.g. from one command to the next.
_LINGER_SECONDS = 1.0
# How long a fast shutdown may take before an immediate one follows; the next start then recovers.
_STOP_SECONDS = 30.0


class Postmaster(NamedTuple):
    """What ``postmaster.pid`` says of a server that is alive.

    Attributes:
        pid: its process.
        socket_folder: where it listens.
        ready: whether it takes connections.
    """

    pid: int
    socket_folder: str
    ready: bool


def running(root: Path) -> Postmaster | None:
    """Return the live server of the folder ``root``; None where there is none, or its pid file is stale."""
    try:
        lines = (root / DATA / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        pid = int(lines[0])
    except (OSError, ValueError, IndexError):
        return None
    if not is_postgres(pid, root):
        return None
    lines += [""] * (8 - len(lines))
    return Postmaster(pid, lines[4].strip(), lines[7].strip() == "ready")


def is_postgres(pid: int, root: Path | None = None) -> bool:
    """Whether the process is alive and a Postgres server; of the folder ``root``, if that is given.

    A pid file alone does not say so: after a crash its number may be another process's.
    """
    try:
        os.kill(pid, 0)
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except PermissionError:
        return root is None
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        if sys.platform == "linux":
            return False
        ask = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        command = subprocess.run(ask, check=False, capture_output=True).stdout
    return b"postgres" in command and (root is None or os.fsencode(root / DATA) in command)


def occupant(root: Path) -> int | None:
    """Return a process that works in the data folder, a server's or a session of a dead one; None if none.

    Only Linux says so; elsewhere Postgres' own check of its shared memory has to do.
    """
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if link.readlink() == root / DATA:
                return int(link.parent.name)
    return None


def _watch(root: Path) -> None:
    """Stop the server of ``root`` once it has no clients; return at once if that is watched already."""
    with (root / WATCHER_LOCK).open("a") as watcher, (root / CLIENTS_LOCK).open("a") as clients:
        try:
            fcntl.flock(watcher, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if os.fork() > 0:  # the starter returns once the lock is held; the child holds it on
            os._exit(0)
        os.setsid()
        os.chdir("/")
        last = running(root)
        while True:
            fcntl.flock(clients, fcntl.LOCK_EX)
            fcntl.flock(clients, fcntl.LOCK_UN)
            time.sleep(_LINGER_SECONDS)
            with suppress(BlockingIOError):
                fcntl.flock(clients, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
        server = running(root) or last  # the folder, and the pid file with it, may have been deleted
        if server is not None:
            _stop(server.pid, root)
        watcher.close()  # before clients.lock: a client that gets in sees no watcher, and starts one


def _stop(pid: int, root: Path) -> None:
    for how in (signal.SIGINT, signal.SIGQUIT):  # a fast shutdown, then an immediate one
        deadline = time.monotonic() + _STOP_SECONDS
        if is_postgres(pid, root):
            with suppress(ProcessLookupError):
                os.kill(pid, how)
        while time.monotonic() < deadline:
            if not is_postgres(pid, root):
                return
            time.sleep(0.02)


if __name__ == "__main__":
    _watch(Path(sys.argv[1]))
