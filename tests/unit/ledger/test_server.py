"""Parts of the embedded server that need no server."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from trace_dagster.errors import ConfigurationError
from trace_dagster.ledger import postmaster
from trace_dagster.ledger.server import EmbeddedPostgres, _Account, _account, _socket_folder


def write_pid_file(root: Path, pid: int) -> None:
    """Leave what a server would."""
    (root / "data").mkdir()
    (root / "data" / "postmaster.pid").write_text(f"{pid}\n{root}/data\n1\n5432\n{root}\n\n 1 1\nready   \n")


def test_a_pid_file_of_another_program_is_stale(tmp_path: Path) -> None:
    """After a crash its number may be anybody's: this very process is no server."""
    write_pid_file(tmp_path, os.getpid())
    assert postmaster.running(tmp_path) is None
    assert not postmaster.is_postgres(os.getpid())


def test_a_pid_file_of_a_dead_program_is_stale(tmp_path: Path) -> None:
    """A number that no process has is no server."""
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], check=True, capture_output=True
    )
    write_pid_file(tmp_path, int(done.stdout))
    assert postmaster.running(tmp_path) is None


@pytest.mark.parametrize("text", ["", "x\n"])
def test_a_broken_pid_file_is_stale(tmp_path: Path, text: str) -> None:
    """A file that a crash cut short is no server."""
    (tmp_path / "data").mkdir()
    assert postmaster.running(tmp_path) is None
    (tmp_path / "data" / "postmaster.pid").write_text(text)
    assert postmaster.running(tmp_path) is None


def test_a_long_path_gets_a_short_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Unix socket's path is bounded; the folder for it is private, and the same every time."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert _socket_folder(Path("/short"), _Account()) == Path("/short")
    long = Path("/") / ("x" * 100)
    folder = _socket_folder(long, _Account())
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert _socket_folder(long, _Account()) == folder
    assert _socket_folder(Path("/") / ("y" * 100), _Account()) != folder


def test_a_socket_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that somebody put in the way is not followed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    long = Path("/") / ("x" * 100)
    folder = _socket_folder(long, _Account())
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="belongs to somebody else; remove it"):
        _socket_folder(long, _Account())


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    """The message names TRACE_HOME."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="Not a directory; set TRACE_HOME"):
        EmbeddedPostgres(tmp_path / "file" / "postgres")


def test_root_without_namespaces_or_another_user_gets_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres refuses root: where there is no way round, the message says what to do."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda _program: None)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match=r"refuses to run as user 0.*or set TRACE_POSTGRES_URL"):
        _account(private / "postgres")


def test_an_ordinary_user_runs_postgres_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user that the system lists needs no detour."""
    listed = next(user.pw_uid for user in pwd.getpwall() if user.pw_uid != 0)
    monkeypatch.setattr("os.geteuid", lambda: listed)
    assert _account(tmp_path) == _Account()
