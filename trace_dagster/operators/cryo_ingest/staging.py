"""Local scratch space: one private directory for each attempt, its limits, and the removal of old ones.

Layout: ``{staging_dir}/cryo/<task_id>/<attempt>/``. The process that works in a directory holds an exclusive
``flock`` on it, which the kernel releases when that process ends in any way; a directory that is locked is
never removed, however old it is.
"""

import errno
import fcntl
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trace_dagster.errors import ConfigurationError, StagingFull, TraceError

__all__ = [
    "StagingLimits",
    "disk_errors_explained",
    "remove_dead_attempts",
    "remove_stale_staging",
    "staging_directory",
    "task_id_of",
]

_log = logging.getLogger(__name__)
_PRIVATE: Final = 0o700
_DISK_IS_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED: Final = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)
_TRIES: Final = 25
_SECONDS_BETWEEN_TRIES: Final = 0.02
_SETTING: Final = "TRACE_STAGING_DIR"


@dataclass(frozen=True)
class StagingLimits:
    """Caps on one partition's staging directory.

    Attributes:
        max_files: most files that may lie in it at once.
        max_bytes: most bytes of all of them together.
        min_free_bytes: bytes that must stay free on its disk.
    """

    max_files: int = 10_000
    max_bytes: int = 20 * 2**30
    min_free_bytes: int = 64 * 2**20

    def check(self, directory: Path) -> None:
        """Do nothing while ``directory``, with everything below it, is within the limits.

        Raises:
            StagingFull: it holds too many files or bytes, or its disk is almost full.
        """
        files, size = _usage(directory)
        if files > self.max_files:
            raise StagingFull(
                f"the partition has {files} files in staging, {self.max_files} are allowed: "
                "raise TRACE_STAGING_MAX_FILES, or make the partitions smaller"
            )
        if size > self.max_bytes:
            raise StagingFull(
                f"the partition has {size} bytes in staging, {self.max_bytes} are allowed: "
                "raise TRACE_STAGING_MAX_BYTES, or make the partitions smaller"
            )
        free = shutil.disk_usage(directory).free
        if free < self.min_free_bytes:
            raise StagingFull(
                f"the disk of {_SETTING} has {free} bytes free, {self.min_free_bytes} must stay free, and "
                f"the partition has {size} bytes there: free some space, point {_SETTING} to a larger disk, "
                "or make the partitions smaller"
            )


def _usage(directory: Path) -> tuple[int, int]:
    """Return how many files lie below ``directory``, and their bytes; files may vanish meanwhile."""
    files, size = 0, 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                size += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 (hot: once a row group)
            except FileNotFoundError:
                continue
            files += 1
    return files, size


@contextmanager
def disk_errors_explained(directory: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing below ``directory`` into errors that say what to do.

    Raises:
        StagingFull: the disk or the quota is full.
        ConfigurationError: the directory cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_IS_FULL:
            raise StagingFull(_full(directory)) from error
        if error.errno in _REFUSED:
            raise ConfigurationError(
                f"cannot write the staging directory ({error.strerror}: {error.filename or directory}): "
                f"point {_SETTING} to a directory that this user can write"
            ) from error
        raise


def _full(directory: Path) -> str:
    size = _usage(directory)[1]
    try:
        disk = shutil.disk_usage(directory)
        room = f"{disk.free} of {disk.total} bytes free"
    except OSError:
        room = "no more room"
    return (
        f"disk full: {_SETTING} has {room}, and the partition has {size} bytes there: free some space, point "
        f"{_SETTING} to a larger disk, or make the partitions smaller"
    )


def task_id_of(task_key: str) -> str:
    """Return ``task_key`` (``dag/job/partition``) as one folder name: slashes become dots.

    Raises:
        ValueError: the key has other characters than names and slashes, so that two could become one.
    """
    if not task_key or not all(part.replace("_", "").isalnum() for part in task_key.split("/")):
        raise ValueError(f"{task_key!r} is no task key; it looks like dag/job/0_999")
    return task_key.replace("/", ".")


@contextmanager
def staging_directory(
    staging_dir: Path, task_key: str, attempt: int, max_age_hours: float | None = None
) -> Iterator[Path]:
    """Make the attempt's own directory, 0700 and empty, and delete it at the end, also after an error.

    Args:
        staging_dir: root of the scratch space; made where it is missing.
        task_key: ``dag/job/partition``.
        attempt: the attempt's number.
        max_age_hours: first remove what dead workers left behind, as ``remove_stale_staging`` does;
            None: do not.

    Raises:
        StagingFull: the disk is full.
        ConfigurationError: the scratch space cannot be written, or is somebody else's.
        TraceError: another process works in this directory.
    """
    if max_age_hours is not None:
        remove_stale_staging(staging_dir, max_age_hours)
    directory = staging_dir / "cryo" / task_id_of(task_key) / str(attempt)
    with disk_errors_explained(staging_dir):
        lock = _make(directory)
    try:
        yield directory
    finally:
        _remove(directory)
        os.close(lock)


def remove_stale_staging(staging_dir: Path, max_age_hours: float) -> tuple[Path, ...]:
    """Delete the attempts' directories that nobody works in and nothing was written to for ``max_age_hours``.

    Returns:
        the directories that were deleted.
    """
    newest_kept = time.time() - max_age_hours * 3600
    removed = tuple(
        directory for directory in _attempts(staging_dir / "cryo") if _remove_stale(directory, newest_kept)
    )
    if removed:
        _log.info("Removed stale staging directories", extra={"directories": [str(one) for one in removed]})
    return removed


def remove_dead_attempts(staging_dir: Path, task_key: str) -> tuple[Path, ...]:
    """Delete what killed attempts of one task left behind, however new it is; live attempts are left alone.

    Returns:
        the directories that were deleted.
    """
    attempts = _folders(staging_dir / "cryo" / task_id_of(task_key))
    return tuple(directory for directory in attempts if _remove_stale(directory, float("inf")))


def _attempts(root: Path) -> list[Path]:
    return [attempt for task in _folders(root) for attempt in _folders(task)]


def _folders(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            return sorted(Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _make(directory: Path) -> int:
    """Make ``directory`` and return the descriptor that holds its lock."""
    in_the_way: FileExistsError | None = None
    vanished: FileNotFoundError | None = None
    for _ in range(_TRIES):
        # Another worker may remove the task's folder, empty just then, between any two of these steps.
        try:
            lock = _make_and_lock(directory)
        except FileNotFoundError as error:
            lock, vanished = None, error
        except FileExistsError as error:
            lock, in_the_way = None, error
        if lock is not None:
            _empty(directory)
            return lock
        time.sleep(_SECONDS_BETWEEN_TRIES)
    if in_the_way is not None and not Path(in_the_way.filename).is_dir():
        raise in_the_way
    if vanished is not None and not directory.parents[1].exists():
        raise vanished
    raise TraceError(
        f"another process works in staging directory {directory}: wait for it, or give every deployment "
        f"its own {_SETTING}"
    )


def _make_and_lock(directory: Path) -> int | None:
    for folder in (directory.parents[1], directory.parent):
        folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        _must_be_ours(folder)
    directory.mkdir(mode=_PRIVATE, exist_ok=True)
    return _lock(directory)


def _must_be_ours(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigurationError(
            f"staging folder {folder} belongs to user {found.st_uid}, and this process is user "
            f"{os.geteuid()}: point {_SETTING} to a directory of its own"
        )


def _lock(directory: Path) -> int | None:
    """Return a descriptor that holds the lock of ``directory``; None where another has it or it is gone."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), directory.lstat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _empty(directory: Path) -> None:
    """Remove what an earlier process left in ``directory``, which is locked by this one."""
    directory.chmod(_PRIVATE)
    for entry in list(directory.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _remove_stale(directory: Path, newest_kept: float) -> bool:
    if _last_written(directory) > newest_kept:
        return False
    try:
        lock = _lock(directory)
    except OSError:  # not ours
        return False
    if lock is None:
        return False
    try:
        _remove(directory)
    finally:
        os.close(lock)
    return not directory.exists()


def _last_written(directory: Path) -> float:
    newest = 0.0
    for folder, _, names in os.walk(directory):
        for path in (folder, *(os.path.join(folder, name) for name in names)):  # noqa: PTH118
            try:
                newest = max(newest, os.lstat(path).st_mtime)
            except FileNotFoundError:
                continue
    return newest


def _remove(directory: Path) -> None:
    """Delete ``directory``, and its task folder if that is empty now; log what cannot be deleted."""
    shutil.rmtree(directory, onerror=_log_left)
    try:
        directory.parent.rmdir()
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
            _log_left(os.rmdir, str(directory.parent), (type(error), error, None))


def _log_left(_function: object, path: str, failure: tuple[object, object, object]) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        _log.warning("Cannot delete from staging", extra={"path": path, "error": str(failure[1])})
