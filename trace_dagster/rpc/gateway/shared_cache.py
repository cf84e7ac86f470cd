"""The answers on disk, for an event loop: what takes long is done in a thread."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from trace_dagster.rpc.gateway.cache import AnswerCache, LargeAnswer

__all__ = ["SharedCache"]

# Fewer keys are looked up sooner than a thread is woken.
_MOST_LOOKED_UP_HERE: Final = 4
_LARGEST_READ_HERE_BYTES: Final = 64 * 2**10
_MOST_WAITING_BYTES: Final = 64 * 2**20
_CLOSE_PAUSE_SECONDS: Final = 0.01


class SharedCache:
    """Finds and keeps answers by key.

    The file is open twice: here, for lookups that take a few microseconds, and in a thread for all others and
    for all that is written. An answer is found from the moment on at which it is put.

    Args:
        path: folder of the answers.
        max_bytes: most bytes of its files.

    Raises:
        ConfigurationError: the folder cannot be made or written to.
    """

    def __init__(self, path: str, max_bytes: int) -> None:
        self._near = AnswerCache(path, max_bytes)
        self._far = AnswerCache(path, max_bytes)
        self._thread = ThreadPoolExecutor(1, "answers on disk")
        self._waiting: dict[bytes, bytes] = {}
        self._written: Mapping[bytes, bytes] = {}
        self._waiting_bytes = 0
        # Whoever reads while it is written back would keep the write-ahead log from being begun anew.
        self._writing = threading.Lock()

    async def get(self, keys: Sequence[bytes | None]) -> list[bytes | None]:
        """Return the answer to each key that has one, whole, else None."""
        found = [None if key is None else self._waiting.get(key, self._written.get(key)) for key in keys]
        missing = [(at, key) for at, key in enumerate(keys) if key is not None and found[at] is None]
        if len(missing) <= _MOST_LOOKED_UP_HERE and self._writing.acquire(blocking=False):
            try:
                for at, key in missing:
                    found[at] = self._near.get(key, _LARGEST_READ_HERE_BYTES)
            except LargeAnswer:
                pass
            else:
                return found
            finally:
                self._writing.release()
        loop = asyncio.get_running_loop()
        values = await loop.run_in_executor(self._thread, self._read, [key for _, key in missing])
        for (at, _), value in zip(missing, values, strict=True):
            found[at] = value
        return found

    def put(self, key: bytes, value: bytes) -> None:
        """Store an answer soon, unless too much waits to be stored already."""
        is_put = key in self._waiting or key in self._written
        if is_put or self._waiting_bytes + len(value) > _MOST_WAITING_BYTES:
            return
        self._waiting[key] = value
        self._waiting_bytes += len(value)
        if not self._written:
            self._write()

    async def clear(self) -> bool:
        """Forget all answers; return whether that is done: another process may be writing."""
        self._waiting_bytes -= sum(map(len, self._waiting.values()))
        self._waiting = {}
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._far.clear)

    async def close(self) -> None:
        """Store what waits, and close the file."""
        while self._written:
            await asyncio.sleep(_CLOSE_PAUSE_SECONDS)
        self._near.close()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._far.close)
        self._thread.shutdown()

    def _write(self) -> None:
        self._written, self._waiting = self._waiting, {}
        writing = asyncio.get_running_loop().run_in_executor(self._thread, self._store, self._written)
        writing.add_done_callback(self._stored)

    def _stored(self, writing: "asyncio.Future[None]") -> None:
        self._waiting_bytes -= sum(map(len, self._written.values()))
        self._written = {}
        if self._waiting:
            self._write()
        writing.result()

    def _read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._far.get(key) for key in keys]

    def _store(self, answers: Mapping[bytes, bytes]) -> None:
        for key, value in answers.items():
            with self._writing:
                self._far.put(key, value)
