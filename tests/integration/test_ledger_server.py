"""The embedded Postgres, shared by processes that come, go and are killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trace_dagster.errors import LedgerUnavailable
from trace_dagster.ledger import open_ledger, postmaster, server
from trace_dagster.settings import Settings

REPOSITORY = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0

Client = subprocess.Popen[str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TRACE_HOME whose server the tests of this file start and stop."""
    return tmp_path_factory.mktemp("server")


def start(home: Path) -> Client:
    """Start a client process."""
    command = [sys.executable, "-m", "tests.support.ledger_client", str(home)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    )


def read(client: Client) -> str:
    """Return a client's next line."""
    assert client.stdout is not None
    return client.stdout.readline().strip()


def work(client: Client, key: str) -> str:
    """Let a client hold a task."""
    assert client.stdin is not None
    client.stdin.write(f"{key}\n")
    client.stdin.flush()
    return read(client)


def end(client: Client, *, kill: bool = False) -> None:
    """End a client, by SIGKILL or by closing its input."""
    assert client.stdin is not None
    assert client.stdout is not None
    if kill:
        client.kill()
    client.stdin.close()
    client.wait(PATIENCE_SECONDS)
    client.stdout.close()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, "it never came true"
        time.sleep(0.05)


def stopped(home: Path, pid: int) -> bool:
    """Return whether the server is gone, and its watcher with it."""
    return not postmaster.is_postgres(pid) and postmaster.running(home / "postgres") is None


def test_processes_share_one_server_which_stops_with_the_last(home: Path) -> None:
    """Three start at once on an empty folder; killing one harms no other; the last takes the server along."""
    clients = [start(home) for _ in range(3)]
    pids = {read(client) for client in clients}
    assert len(pids) == 1
    pid = int(pids.pop())
    assert [work(client, f"task {number}") for number, client in enumerate(clients)] == ["ok"] * 3
    end(clients[0], kill=True)
    end(clients[1])
    assert work(clients[2], "another") == "ok"
    assert postmaster.is_postgres(pid, home / "postgres")
    end(clients[2])
    wait_for(lambda: stopped(home, pid))
    assert not (home / "postgres" / "data" / "postmaster.pid").exists()


def test_a_server_whose_clients_were_all_killed_stops(home: Path) -> None:
    """SIGKILL leaves no server behind."""
    client = start(home)
    pid = int(read(client))
    end(client, kill=True)
    wait_for(lambda: stopped(home, pid))


def test_a_killed_server_is_started_again_under_its_clients(home: Path) -> None:
    """SIGKILL of the server in mid-run: the attempt goes on, and its commit counts."""
    settings = Settings.from_environment({"TRACE_HOME": str(home)})
    with open_ledger(settings) as ledger:
        before = postmaster.running(home / "postgres")
        assert before is not None
        until = time.monotonic() + PATIENCE_SECONDS
        with ledger.attempt("killed", run_id="r", lease_seconds=600, wait_until=until) as attempt:
            os.kill(before.pid, signal.SIGKILL)
            wait_for(lambda: not postmaster.occupant(home / "postgres"))
            attempt.still_mine()
            after = postmaster.running(home / "postgres")
            assert after is not None
            assert after.pid != before.pid
        assert [one.state for one in ledger.attempts_of("killed")] == ["succeeded"]
    wait_for(lambda: stopped(home, after.pid))


def test_a_stale_pid_file_is_no_obstacle(home: Path) -> None:
    """After a crash of the machine its number may be another program's: here, this test's."""
    file = home / "postgres" / "data" / "postmaster.pid"
    data = home / "postgres" / "data"
    file.write_text(f"{os.getpid()}\n{data}\n1\n5432\n{home}\n\n 1 1\nready   \n")
    client = start(home)
    pid = int(read(client))
    assert pid != os.getpid()
    assert work(client, "task") == "ok"
    end(client)
    wait_for(lambda: stopped(home, pid))


def test_the_folder_may_vanish_under_the_server(tmp_path: Path) -> None:
    """A deleted TRACE_HOME leaves no server behind either, and its long path needs no socket in it."""
    long = tmp_path / ("x" * 100)
    client = start(long)
    pid = int(read(client))
    assert work(client, "task") == "ok"
    subprocess.run(["rm", "-rf", str(long)], check=True)
    end(client)
    wait_for(lambda: not postmaster.is_postgres(pid))


def test_a_server_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cause is initdb's own error line, not its last hint; a later start makes the server."""
    monkeypatch.setattr(server, "_USER", "pg_reserved")
    settings = Settings.from_environment({"TRACE_HOME": str(tmp_path)})
    with pytest.raises(
        LedgerUnavailable, match=r'initialised in .*superuser name "pg_reserved" is disallowed'
    ):
        open_ledger(settings).close()
    monkeypatch.undo()
    open_ledger(settings).close()
