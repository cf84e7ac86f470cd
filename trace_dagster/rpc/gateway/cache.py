"""Answers that cannot change, on disk: bounded, whole or absent, and never a reason to fail."""

import os
import sqlite3
import time
import zlib
from pathlib import Path
from typing import Final, Self

from trace_dagster.errors import ConfigurationError

__all__ = ["AnswerCache", "LargeAnswer"]

_FILE: Final = "answers.sqlite3"
_FORMAT: Final = 1
_PAGE_BYTES: Final = 8192
# After so many pages the write-ahead log is written back, which takes a millisecond or two.
_MOST_LOG_PAGES: Final = 128
_FEWEST_LOG_PAGES: Final = 8
_SHARED_MEMORY_BYTES: Final = 64 * 1024
_FEWEST_PAGES: Final = 64
# An answer that takes more than this part of the cache would only drive out the others.
_LARGEST_PART: Final = 8
_EVICTED_AT_ONCE: Final = 4
# Of each row beside its key and value, in the table and in the index of keys.
_ROW_BYTES: Final = 100
# Pages of the trees that one insertion may split.
_SPLIT_PAGES: Final = 4

_SETTINGS: Final = (
    f"PRAGMA page_size = {_PAGE_BYTES}",
    "PRAGMA journal_mode = WAL",
    # A killed process loses nothing; where the machine loses power, checksums and SQLite find what is torn.
    "PRAGMA synchronous = OFF",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -16384",
)
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key BLOB NOT NULL UNIQUE,
    checksum INTEGER NOT NULL,
    value BLOB NOT NULL
)
"""
_FIND: Final = """
SELECT checksum, CASE WHEN length(value) <= ? THEN value END FROM answers WHERE key = ?
"""
_ANY_LENGTH: Final = 2**62
# So long a lookup goes without a look at whether the file is still the same.
_FOLLOWED_SECONDS: Final = 1.0
_INSERT: Final = "INSERT OR IGNORE INTO answers (key, checksum, value) VALUES (?, ?, ?)"
_DELETE: Final = "DELETE FROM answers WHERE key = ?"
_EVICT: Final = "DELETE FROM answers WHERE number IN (SELECT number FROM answers ORDER BY number LIMIT ?)"


class LargeAnswer(Exception):
    """An answer is longer than was asked for."""


class AnswerCache:
    """Keeps answers by key in a folder; the oldest go where there is no more room.

    For one thread at a time. Several of them, and several processes, may share a folder. A fault of the disk
    or of the file makes ``get`` find nothing and ``put`` do nothing; a file that is damaged is made anew.

    Args:
        path: folder; it is made where it is missing.
        max_bytes: most bytes of its files, at least 1 MiB.

    Attributes:
        failures: how often the disk or the file failed, or held an answer that was not whole.

    Raises:
        ConfigurationError: the folder cannot be made or written to.
    """

    def __init__(self, path: str | Path, max_bytes: int) -> None:
        self._file = Path(path).expanduser() / _FILE
        self._log_pages = min(_MOST_LOG_PAGES, max(_FEWEST_LOG_PAGES, max_bytes // _PAGE_BYTES // 8))
        self._max_value_bytes = max_bytes // _LARGEST_PART
        # The log is written back after the insertion that filled it, which may be one of the largest.
        log_bytes = self._log_pages * _PAGE_BYTES + self._max_value_bytes
        rest = max_bytes - log_bytes - _SHARED_MEMORY_BYTES
        self._max_pages = max(_FEWEST_PAGES, rest // _PAGE_BYTES)
        self.failures = self._inode = 0
        self._followed_until = 0.0
        self._database: sqlite3.Connection | None = None
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._database = self._opened()
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigurationError(
                f"cache.path {str(path)!r} cannot be used: {reason}; name a folder that can be written to"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing is found or stored any more."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def get(self, key: bytes, most_bytes: int = _ANY_LENGTH) -> bytes | None:
        """Return the answer that was stored under ``key``, whole, or None.

        Raises:
            LargeAnswer: it is longer than ``most_bytes``, and was not read.
        """
        if time.monotonic() >= self._followed_until:
            self._follow()
        if self._database is None:
            return None
        try:
            row = self._database.execute(_FIND, (most_bytes, key)).fetchone()
            if row is None:
                return None
            checksum, value = row
            if value is None:
                raise LargeAnswer
            if isinstance(value, bytes) and checksum == _checksum(key, value):
                return value
            self.failures += 1
            self._database.execute(_DELETE, (key,))
        except sqlite3.Error as error:
            self._fail(error)
        return None

    def put(self, key: bytes, value: bytes) -> None:
        """Store an answer, unless there is one or it is very large; the oldest go where there is no room."""
        self._follow()
        if self._database is None or len(value) > self._max_value_bytes:
            return
        try:
            self._make_room(self._database, 2 * len(key) + len(value) + _ROW_BYTES)
            self._database.execute(_INSERT, (key, _checksum(key, value), value))
        except sqlite3.Error as error:
            self._fail(error)

    def clear(self) -> bool:
        """Forget all answers; return whether that is done."""
        if self._database is None:
            return True
        try:
            self._database.execute("DELETE FROM answers")
        except sqlite3.Error as error:
            self._fail(error)
            return False
        return True

    def _opened(self) -> sqlite3.Connection:
        """Return the open file; made anew where it is damaged, larger than allowed or of another format."""
        try:
            database = self._connected()
            if self._fits(database):
                return database
            database.close()
        except sqlite3.OperationalError:
            raise  # locked, or the folder cannot be written to: nothing is damaged
        except sqlite3.DatabaseError:
            self.failures += 1
        return self._made_anew()

    def _made_anew(self) -> sqlite3.Connection:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._file}{suffix}").unlink(missing_ok=True)
        return self._connected()

    def _connected(self) -> sqlite3.Connection:
        if not self._file.exists():  # to close it later would take away the locks of all who have it open
            os.close(os.open(self._file, os.O_CREAT | os.O_RDWR, 0o600))
        self._inode = self._file.stat().st_ino
        database = sqlite3.connect(self._file, timeout=0.05, isolation_level=None, check_same_thread=False)
        try:
            for statement in _SETTINGS:
                database.execute(statement)
            database.execute(f"PRAGMA wal_autocheckpoint = {self._log_pages}")
            database.execute(f"PRAGMA journal_size_limit = {self._log_pages * _PAGE_BYTES}")
            database.execute(_TABLE)
            if _number(database, "user_version") == 0:
                database.execute(f"PRAGMA user_version = {_FORMAT}")
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _follow(self) -> None:
        """Open the file anew where another has made it anew."""
        self._followed_until = time.monotonic() + _FOLLOWED_SECONDS
        if self._database is None:
            return
        try:
            if self._file.stat().st_ino == self._inode:
                return
            self.close()
            self._database = self._opened()
        except FileNotFoundError:
            return
        except (OSError, sqlite3.Error):
            self.failures += 1
            self.close()

    def _fits(self, database: sqlite3.Connection) -> bool:
        return (
            _number(database, "user_version") == _FORMAT
            and _number(database, "page_size") == _PAGE_BYTES
            and _number(database, "page_count") <= self._max_pages
        )

    def _make_room(self, database: sqlite3.Connection, more_bytes: int) -> None:
        """Remove the oldest answers until so many bytes fit."""
        most = self._max_pages - more_bytes // _PAGE_BYTES - _SPLIT_PAGES
        while _number(database, "page_count") - _number(database, "freelist_count") > most:
            if database.execute(_EVICT, (_EVICTED_AT_ONCE,)).rowcount == 0:
                return

    def _fail(self, error: sqlite3.Error) -> None:
        """Count a failure; make the file anew where it is damaged, rather than full or locked."""
        self.failures += 1
        if isinstance(error, sqlite3.OperationalError):
            return
        self.close()
        try:
            self._database = self._made_anew()
        except (OSError, sqlite3.Error):
            self._database = None


def _checksum(key: bytes, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key))


def _number(database: sqlite3.Connection, pragma: str) -> int:
    return int(database.execute(f"PRAGMA {pragma}").fetchone()[0])
