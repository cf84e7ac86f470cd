"""Answers on disk: whole or absent, whatever happens to the process or the file."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from trace_dagster.errors import ConfigurationError
from trace_dagster.rpc.gateway.cache import AnswerCache

MIB = 2**20
WRITER = """
import hashlib, itertools, sys
from trace_dagster.rpc.gateway.cache import AnswerCache
cache = AnswerCache(sys.argv[1], int(sys.argv[2]))
for number in itertools.count():
    key = hashlib.sha256(b"%d" % number).digest()
    cache.put(key, key * (1 + number * 7919 % 2000))
    print(number, flush=True)
"""


def _key(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def _value(number: int) -> bytes:
    return _key(number) * (1 + number * 7919 % 2000)


def _bytes_on_disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def test_what_was_put_is_found_again(tmp_path: Path) -> None:
    """Answers are found by key, in this process and the next; the first one stays."""
    with AnswerCache(tmp_path / "a" / "b", 4 * MIB) as cache:
        cache.put(b"key", b"value")
        cache.put(b"key", b"another")
        cache.put(b"empty", b"")
        assert (cache.get(b"key"), cache.get(b"empty"), cache.get(b"none")) == (b"value", b"", None)
    with AnswerCache(tmp_path / "a" / "b", 4 * MIB) as cache:
        assert cache.get(b"key") == b"value"
        cache.clear()
        assert cache.get(b"key") is None
        assert cache.failures == 0
    assert cache.get(b"key") is None
    cache.put(b"key", b"after the end")


@pytest.mark.parametrize("max_bytes", [MIB, 4 * MIB, 32 * MIB])
@pytest.mark.parametrize("value_bytes", [10, 3_000, 100_000])
def test_disk_is_bounded(tmp_path: Path, max_bytes: int, value_bytes: int) -> None:
    """However much is put, the files stay within the bound, and the newest answers are kept."""
    count = min(20_000, 3 * max_bytes // value_bytes)
    largest = 0
    with AnswerCache(tmp_path, max_bytes) as cache:
        for number in range(count):
            cache.put(_key(number), os.urandom(value_bytes))
            if number % 50 == 0:
                largest = max(largest, _bytes_on_disk(tmp_path))
        assert max(largest, _bytes_on_disk(tmp_path)) <= max_bytes
        assert cache.get(_key(count - 1)) is not None
        assert cache.failures == 0
        kept = sum(cache.get(_key(number)) is not None for number in range(count))
    assert kept == count or kept * (value_bytes + 150) > max_bytes // 4


def test_oldest_go_first(tmp_path: Path) -> None:
    """Where there is no more room, it is the oldest answers that go."""
    with AnswerCache(tmp_path, MIB) as cache:
        for number in range(1000):
            cache.put(_key(number), b"x" * 2000)
        found = [cache.get(_key(number)) is not None for number in range(1000)]
    assert True in found
    assert found == sorted(found)


def test_very_large_answers_are_not_kept(tmp_path: Path) -> None:
    """An answer that would drive out most others is not stored."""
    with AnswerCache(tmp_path, 4 * MIB) as cache:
        cache.put(b"small", b"x")
        cache.put(b"large", b"x" * MIB)
        assert cache.get(b"large") is None
        assert cache.get(b"small") == b"x"


@pytest.mark.parametrize("wait_for", [3, 200, 900])
def test_killed_while_writing(tmp_path: Path, wait_for: int) -> None:
    """After kill -9 every answer is whole or absent, and those that were put before are there."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), str(64 * MIB)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    last = 0
    for line in writer.stdout:
        last = int(line)
        if last >= wait_for:
            break
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    with AnswerCache(tmp_path, 64 * MIB) as cache:
        for number in range(last + 1):
            assert cache.get(_key(number)) == _value(number)
        for number in range(last + 1, last + 100):
            assert cache.get(_key(number)) in (None, _value(number))
        cache.put(b"key", b"value")
        assert cache.get(b"key") == b"value"
        assert cache.failures == 0


def test_answer_that_was_changed_on_disk(tmp_path: Path) -> None:
    """An answer that does not fit its checksum is not returned, and is forgotten."""
    with AnswerCache(tmp_path, 4 * MIB) as cache:
        cache.put(b"key", b"true")
        with sqlite3.connect(tmp_path / "answers.sqlite3") as database:
            database.execute("UPDATE answers SET value = ?", (b"fals",))
        database.close()
        assert cache.get(b"key") is None
        assert cache.failures == 1
        cache.put(b"key", b"true")
        assert cache.get(b"key") == b"true"


def test_file_with_flipped_bytes(tmp_path: Path) -> None:
    """Wherever bytes of the file are torn, what is returned is right, and the cache goes on."""
    file = tmp_path / "answers.sqlite3"
    with AnswerCache(tmp_path, 4 * MIB) as cache:
        for number in range(200):
            cache.put(_key(number), _key(number) * 100)
    content = file.read_bytes()
    for offset in range(0, len(content), len(content) // 60):
        torn = bytearray(content)
        torn[offset : offset + 512] = b"\x5a" * 512
        for left in tmp_path.iterdir():
            left.unlink()
        file.write_bytes(torn)
        with AnswerCache(tmp_path, 4 * MIB) as cache:
            for number in range(200):
                assert cache.get(_key(number)) in (None, _key(number) * 100)
            cache.put(b"key", b"value")
            cache.put(b"other", b"value")
            assert cache.get(b"other") == b"value"


@pytest.mark.parametrize("content", [b"no database" * 1000, b"", b"SQLite format 3\x00"])
def test_file_that_is_no_cache(tmp_path: Path, content: bytes) -> None:
    """What is no cache's file is made anew."""
    (tmp_path / "answers.sqlite3").write_bytes(content)
    with AnswerCache(tmp_path, 4 * MIB) as cache:
        cache.put(b"key", b"value")
        assert cache.get(b"key") == b"value"


def test_another_format_or_a_smaller_bound(tmp_path: Path) -> None:
    """A file of another version, or one larger than is allowed now, is made anew."""
    with AnswerCache(tmp_path, 16 * MIB) as cache:
        for number in range(2000):
            cache.put(_key(number), b"x" * 4000)
    with AnswerCache(tmp_path, 2 * MIB) as cache:
        assert cache.get(_key(1999)) is None
        assert _bytes_on_disk(tmp_path) <= 2 * MIB
        cache.put(b"key", b"value")
    with sqlite3.connect(tmp_path / "answers.sqlite3") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with AnswerCache(tmp_path, 2 * MIB) as cache:
        assert cache.get(b"key") is None


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    """While another holds the lock, answers are found and not stored; nothing fails."""
    with AnswerCache(tmp_path, 4 * MIB) as one, AnswerCache(tmp_path, 4 * MIB) as two:
        one.put(b"key", b"value")
        assert two.get(b"key") == b"value"
        other = sqlite3.connect(tmp_path / "answers.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        two.put(b"late", b"value")
        assert two.failures == 1
        assert two.get(b"key") == b"value"
        other.execute("ROLLBACK")
        other.close()
        two.put(b"late", b"value")
        assert one.get(b"late") == b"value"


def test_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A path that is a file is a mistake of the configuration."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"cache\.path .* cannot be used: .*; name a folder"):
        AnswerCache(tmp_path / "file", MIB)


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    """Folder and file are the owner's."""
    with AnswerCache(tmp_path / "cache", MIB):
        assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "cache" / "answers.sqlite3").stat().st_mode & 0o077 == 0
