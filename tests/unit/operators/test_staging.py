"""Staging directories: private, temporary, limited, and cleaned up after crashes."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from trace_dagster.errors import ConfigurationError, StagingFull, TraceError
from trace_dagster.operators.cryo_ingest.staging import (
    StagingLimits,
    disk_errors_explained,
    remove_dead_attempts,
    remove_stale_staging,
    staging_directory,
    task_id_of,
)
from trace_dagster.settings import Settings

KEY = "monad/cryo_bootstrap/0_999"


@contextmanager
def wide_open_umask() -> Iterator[None]:
    """Give new files every permission by default."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def make_old(directory: Path, hours: float) -> None:
    """Let ``directory`` and everything in it look as if last written ``hours`` ago."""
    then = time.time() - hours * 3600
    for path in (*directory.rglob("*"), directory):
        os.utime(path, (then, then))


def leave_behind(root: Path, hours: float, attempt: int = 1) -> Path:
    """Make an attempt's directory as a crashed worker leaves it."""
    directory = root / "cryo" / task_id_of(KEY) / str(attempt)
    (directory / "nested").mkdir(parents=True)
    (directory / "nested" / "half.parquet").write_bytes(b"x" * 10)
    make_old(directory, hours)
    return directory


def test_the_directory_is_private_and_empty(tmp_path: Path) -> None:
    """Task and attempt name the directory; nobody else can look into it, whatever the umask."""
    with wide_open_umask(), staging_directory(tmp_path / "root", KEY, 3) as directory:
        assert directory == tmp_path / "root" / "cryo" / "monad.cryo_bootstrap.0_999" / "3"
        assert directory.stat().st_mode & 0o777 == 0o700
        assert directory.parents[1].stat().st_mode & 0o777 == 0o700
        assert list(directory.iterdir()) == []


def test_it_is_deleted_after_success(tmp_path: Path) -> None:
    """Nothing of the task stays after its work."""
    with staging_directory(tmp_path, KEY, 1) as directory:
        (directory / "blocks.parquet").write_bytes(b"x")
        (directory / "nested").mkdir()
    assert list((tmp_path / "cryo").iterdir()) == []


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_it_is_deleted_after_failure(tmp_path: Path, failure: type[BaseException]) -> None:
    """An error or an interrupt passes on, and nothing of the task stays."""

    def work() -> None:
        with staging_directory(tmp_path, KEY, 1) as directory:
            (directory / "blocks.parquet").write_bytes(b"x")
            raise failure

    with pytest.raises(failure):
        work()
    assert list((tmp_path / "cryo").iterdir()) == []


def test_attempts_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Two attempts of one task have two directories, and the end of one leaves the other."""
    with staging_directory(tmp_path, KEY, 1) as first:
        (first / "a").write_bytes(b"a")
        with staging_directory(tmp_path, KEY, 2) as second:
            assert first != second
            assert list(second.iterdir()) == []
        assert (first / "a").read_bytes() == b"a"


def test_leftovers_of_the_same_attempt_are_emptied(tmp_path: Path) -> None:
    """A directory that a dead process left under the same number starts empty."""
    leave_behind(tmp_path, hours=0, attempt=4)
    with staging_directory(tmp_path, KEY, 4) as directory:
        assert list(directory.iterdir()) == []


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    """The same attempt in a second process is an error, and the first goes on undisturbed."""
    with staging_directory(tmp_path, KEY, 1) as directory:
        (directory / "a").write_bytes(b"a")
        again = staging_directory(tmp_path, KEY, 1)
        with pytest.raises(TraceError, match="another process works in staging directory"):
            again.__enter__()
        assert (directory / "a").read_bytes() == b"a"


def test_stale_directories_are_removed_at_start(tmp_path: Path) -> None:
    """A worker that starts removes what is older than the limit, and keeps what is younger."""
    stale, fresh = leave_behind(tmp_path, hours=25, attempt=1), leave_behind(tmp_path, hours=23, attempt=2)
    with staging_directory(tmp_path, "monad/other/0_9", 1, max_age_hours=24):
        assert not stale.exists()
        assert (fresh / "nested" / "half.parquet").exists()


def test_a_recent_file_keeps_its_directory(tmp_path: Path) -> None:
    """A directory counts as old only when nothing in it was written for so long."""
    directory = leave_behind(tmp_path, hours=25)
    (directory / "nested" / "late.parquet").write_bytes(b"x")
    os.utime(directory / "nested", (0, 0))
    assert remove_stale_staging(tmp_path, 24) == ()


def test_a_directory_at_work_is_never_stale(tmp_path: Path) -> None:
    """However old its files are, a directory that a living process holds stays; a killed one's goes."""
    program = (
        "import sys, time, pathlib\n"
        "from trace_dagster.operators.cryo_ingest.staging import staging_directory\n"
        "with staging_directory(pathlib.Path(sys.argv[1]), sys.argv[2], 1) as directory:\n"
        "    (directory / 'half.parquet').write_bytes(b'x')\n"
        "    print(directory, flush=True)\n"
        "    time.sleep(600)\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), KEY],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    try:
        assert worker.stdout is not None
        directory = Path(worker.stdout.readline().strip())
        make_old(directory, hours=100)
        assert remove_stale_staging(tmp_path, 24) == ()
        assert (directory / "half.parquet").exists()
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.communicate(timeout=60)
    assert remove_stale_staging(tmp_path, 24) == (directory,)
    assert list((tmp_path / "cryo").iterdir()) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A symbolic link in the scratch space never leads to the removal of what it points to."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x")
    directory = leave_behind(tmp_path / "root", hours=25)
    (directory / "link").symlink_to(outside)
    (tmp_path / "root" / "cryo" / "linked").symlink_to(outside)
    make_old(directory, hours=25)
    os.utime(outside / "precious", (0, 0))
    remove_stale_staging(tmp_path / "root", 24)
    assert (outside / "precious").read_bytes() == b"x"


def test_cleaning_does_not_race_with_work(tmp_path: Path) -> None:
    """Workers that start and end while others clean up everything unused all do their work."""

    def work(number: int) -> bytes:
        with staging_directory(tmp_path, KEY, number, max_age_hours=0) as directory:
            (directory / "a").write_bytes(b"a")
            return (directory / "a").read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(200))) == {b"a"}
    assert list((tmp_path / "cryo").iterdir()) == []


def test_no_scratch_space_yet_is_nothing_to_clean(tmp_path: Path) -> None:
    """Cleaning before the first work does nothing."""
    assert remove_stale_staging(tmp_path / "none", 24) == ()


def test_scratch_space_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    """A file in the way is an error that names it and the setting."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cryo").write_bytes(b"")
    for root in ("file", "root"):
        place = staging_directory(tmp_path / root, KEY, 1)
        with pytest.raises(ConfigurationError, match=rf"cannot write the staging directory .*/{root}.*DIR"):
            place.__enter__()


@pytest.mark.parametrize("key", ["", "a//b", "../../etc", "a/b.c", "a b"])
def test_keys_that_are_no_task_keys_are_refused(key: str) -> None:
    """Only names and slashes make a folder's name."""
    with pytest.raises(ValueError, match="is no task key"):
        task_id_of(key)


def test_limits_tell_their_numbers(tmp_path: Path) -> None:
    """Files and bytes are counted with everything below the directory, and the message has both numbers."""
    (tmp_path / "nested").mkdir()
    for name in ("a", "nested/b"):
        (tmp_path / name).write_bytes(b"x" * 50)
    StagingLimits(max_files=2, max_bytes=100, min_free_bytes=0).check(tmp_path)
    with pytest.raises(
        StagingFull, match="has 2 files in staging, 1 are allowed: raise TRACE_STAGING_MAX_FILES"
    ):
        StagingLimits(max_files=1).check(tmp_path)
    with pytest.raises(
        StagingFull, match="has 100 bytes in staging, 99 are allowed: raise TRACE_STAGING_MAX_BYTES"
    ):
        StagingLimits(max_bytes=99).check(tmp_path)


def test_an_almost_full_disk_stops_early(tmp_path: Path) -> None:
    """Below the free space that must stay, writing stops with the numbers and the mend."""
    with pytest.raises(
        StagingFull, match=r"has \d+ bytes free, 4611686018427387904 must stay free.*larger disk"
    ):
        StagingLimits(min_free_bytes=2**62).check(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_explained(tmp_path: Path, code: int) -> None:
    """No space and no quota left are the same error, with how much is there."""
    (tmp_path / "a").write_bytes(b"x" * 7)
    explained = disk_errors_explained(tmp_path)
    with pytest.raises(StagingFull, match=r"disk full: .* the partition has 7 bytes there"), explained:
        raise OSError(code, os.strerror(code))


def test_other_errors_of_the_system_pass(tmp_path: Path) -> None:
    """An input/output error stays what it is."""
    with pytest.raises(OSError, match="Input/output error"), disk_errors_explained(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_dead_attempts_of_a_task_are_removed_at_once_and_live_ones_stay(tmp_path: Path) -> None:
    """What a killed worker left is gone when its partition is next run, without waiting for hours."""
    dead = tmp_path / "cryo" / task_id_of(KEY) / "1"
    dead.mkdir(parents=True)
    (dead / "half.parquet").write_bytes(b"x")
    other = tmp_path / "cryo" / task_id_of("monad/cryo_bootstrap/1000_1999") / "1"
    other.mkdir(parents=True)
    with staging_directory(tmp_path, KEY, 2) as live:
        assert remove_dead_attempts(tmp_path, KEY) == (dead,)
        assert live.is_dir()
    assert other.is_dir()
    assert not dead.parent.exists()


def test_a_relative_staging_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cryo works in another folder, and would write its files somewhere below that."""
    monkeypatch.chdir(tmp_path)
    assert Settings.from_environment({"TRACE_STAGING_DIR": "stage"}).staging_dir == tmp_path / "stage"
