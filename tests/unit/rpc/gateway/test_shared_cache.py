"""Answers on disk for an event loop: found at once, and nothing long is done on the loop."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from trace_dagster.rpc.gateway import shared_cache
from trace_dagster.rpc.gateway.cache import AnswerCache
from trace_dagster.rpc.gateway.shared_cache import SharedCache

MIB = 2**20


def with_cache(
    folder: Path, use: Callable[[SharedCache], Awaitable[None]], max_bytes: int = 128 * MIB
) -> None:
    """Run ``use`` with a cache."""

    async def run() -> None:
        cache = SharedCache(str(folder), max_bytes)
        try:
            await asyncio.wait_for(use(cache), 30)
        finally:
            await cache.close()

    asyncio.run(run())


def test_what_was_put_is_found_at_once_and_later(tmp_path: Path) -> None:
    """Before it is stored, after that, and by another process; the first answer stays."""
    keys = [b"%d" % number for number in range(50)]

    async def use(cache: SharedCache) -> None:
        for key in keys:
            cache.put(key, key * 1000)
        cache.put(keys[0], b"another")
        assert await cache.get([*keys, b"none", None]) == [*(key * 1000 for key in keys), None, None]
        while cache._written:
            await asyncio.sleep(0.001)
        assert await cache.get([*keys, b"none", None]) == [*(key * 1000 for key in keys), None, None]
        assert await cache.get([None, keys[7]]) == [None, keys[7] * 1000]

    with_cache(tmp_path, use)
    with AnswerCache(tmp_path, 128 * MIB) as again:
        assert [again.get(key) for key in keys] == [key * 1000 for key in keys]


def test_what_takes_long_is_done_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is written, long answers, and the answers to a batch; a short one is looked up here."""
    here = threading.get_ident()
    done: list[tuple[str, bool, int]] = []
    get, put = AnswerCache.get, AnswerCache.put

    def noted_get(cache: AnswerCache, key: bytes, *most_bytes: int) -> bytes | None:
        found = get(cache, key, *most_bytes)
        done.append(("get", threading.get_ident() == here, len(found or b"")))
        return found

    def noted_put(cache: AnswerCache, key: bytes, value: bytes) -> None:
        done.append(("put", threading.get_ident() == here, len(value)))
        put(cache, key, value)

    monkeypatch.setattr(AnswerCache, "get", noted_get)
    monkeypatch.setattr(AnswerCache, "put", noted_put)

    async def use(cache: SharedCache) -> None:
        cache.put(b"short", b"x" * 1000)
        cache.put(b"long", b"x" * MIB)
        while cache._written:
            await asyncio.sleep(0.001)
        assert await cache.get([b"short"]) == [b"x" * 1000]
        assert await cache.get([b"long"]) == [b"x" * MIB]
        assert done == [
            ("put", False, 1000),
            ("put", False, MIB),
            ("get", True, 1000),
            ("get", False, MIB),
        ]
        done.clear()
        await cache.get([b"short"] * 20)
        assert done == [("get", False, 1000)] * 20

    with_cache(tmp_path, use)


def test_what_waits_to_be_stored_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is not kept; what comes later is."""
    monkeypatch.setattr(shared_cache, "_MOST_WAITING_BYTES", 1000)

    async def use(cache: SharedCache) -> None:
        for number in range(4):
            cache.put(b"%d" % number, b"x" * 400)
        assert await cache.get([b"0", b"1", b"2", b"3"]) == [b"x" * 400] * 2 + [None] * 2
        while cache._written:
            await asyncio.sleep(0.001)
        cache.put(b"2", b"x" * 400)
        assert await cache.get([b"2"]) == [b"x" * 400]

    with_cache(tmp_path, use)


def test_a_file_that_another_made_anew_is_followed(tmp_path: Path) -> None:
    """What one stores in the new file the other finds."""
    with AnswerCache(tmp_path, 4 * MIB) as one, AnswerCache(tmp_path, 4 * MIB) as two:
        one.put(b"old", b"value")
        assert two.get(b"old") == b"value"
        two.close()
        two._database = two._made_anew()
        two.put(b"new", b"value")
        one._followed_until = 0.0  # a second later
        assert (one.get(b"new"), one.get(b"old")) == (b"value", None)
        assert one.failures == two.failures == 0


def test_all_is_forgotten(tmp_path: Path) -> None:
    """What was stored, what is being stored and what waits; what comes later is kept."""

    async def use(cache: SharedCache) -> None:
        cache.put(b"stored", b"x")
        while cache._written:
            await asyncio.sleep(0.001)
        cache.put(b"being stored", b"x")
        cache.put(b"waiting", b"x")
        await cache.clear()
        assert await cache.get([b"stored", b"being stored", b"waiting"]) == [None] * 3
        cache.put(b"later", b"x")
        assert await cache.get([b"later"]) == [b"x"]

    with_cache(tmp_path, use)
    with AnswerCache(tmp_path, 128 * MIB) as again:
        found = [again.get(key) for key in (b"stored", b"being stored", b"waiting", b"later")]
        assert found == [None, None, None, b"x"]


def test_it_keeps_within_its_size(tmp_path: Path) -> None:
    """Also while it is read from as it is written to."""
    most = 0

    async def use(cache: SharedCache) -> None:
        nonlocal most
        for number in range(400):
            cache.put(b"%d" % number, os.urandom(10_000))
            while cache._written:
                await cache.get([b"%d" % (number - 20)])
                await asyncio.sleep(0)
            most = max(most, sum(one.stat().st_size for one in tmp_path.iterdir()))

    with_cache(tmp_path, use, MIB)
    assert MIB // 2 < most <= MIB


def test_another_process_that_ends_takes_nothing_away(tmp_path: Path) -> None:
    """Not the log that is written to here; what it keeps is found by the next one."""
    script = (
        "import sys; from trace_dagster.rpc.gateway.cache import AnswerCache\n"
        "with AnswerCache(sys.argv[1], 2**27) as cache: print(cache.get(b'key'))"
    )

    async def use(cache: SharedCache) -> None:
        cache.put(b"key", b"answer")
        while cache._written:
            await asyncio.sleep(0.001)
        log = tmp_path / "answers.sqlite3-wal"
        before = log.stat().st_ino
        for _ in range(2):
            command = [sys.executable, "-c", script, str(tmp_path)]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            assert told == "b'answer'\n"
            assert log.stat().st_ino == before

    with_cache(tmp_path, use)


def test_what_could_not_be_forgotten_is_said(tmp_path: Path) -> None:
    """While another process writes."""

    async def use(cache: SharedCache) -> None:
        other = sqlite3.connect(tmp_path / "answers.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert await cache.clear() is False
        other.execute("ROLLBACK")
        other.close()
        assert await cache.clear() is True

    with_cache(tmp_path, use)
