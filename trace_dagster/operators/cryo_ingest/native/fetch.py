"""Fetches a range over several connections at once, and gives it back in order, within a memory budget."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from trace_dagster.chain.batch import BlockBatch
from trace_dagster.chain.decoding.decoded import Decoder
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import DataMismatch, RpcError
from trace_dagster.operators.base import Deadline
from trace_dagster.operators.cryo_ingest.native.making import Made, Wanted, make
from trace_dagster.operators.cryo_ingest.native.reader import Abilities, BlockReader
from trace_dagster.rpc import JsonRpcClient, ReplyError
from trace_dagster.settings import RpcEndpoint

__all__ = ["FetchLimits", "Fetcher"]

_TARGET_REPLY_BYTES: Final = 4_000_000
"""Larger replies do not get faster; much smaller ones cost more CPU."""

_FIRST_BLOCKS: Final = 4
_UNKNOWN_BLOCK_BYTES: Final = 1_000_000
_LEAST_BLOCK_BYTES: Final = 200_000
"""What is set aside for a block at least: blocks behind small ones may be large."""

_HELD_SHARE: Final = 3
"""A unit in flight needs about so many times its reply: the reply, its columns, and the tables of them."""

_JOINED_BYTES: Final = 12_000_000
"""Replies that wait are checked and assembled together up to here: a step costs as much for few blocks."""

_WAITING_SHARE: Final = 6
"""Replies that wait may take this part of the memory: more would only be further ahead of the writer."""

_LEAST_LONGEST_REPLY: Final = 64 * 2**20
_TRIES: Final = 4
_FIRST_WAIT_SECONDS: Final = 0.4
_SECONDS_BETWEEN_CHECKS: Final = 0.2
_CORES: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class FetchLimits:
    """How much at once.

    Attributes:
        connections: most HTTP requests in flight.
        memory_bytes: about how much may be in flight or wait to be written.
    """

    connections: int = 16
    memory_bytes: int = 192 * 2**20

    @property
    def reply_bytes(self) -> int:
        """Longest reply that is accepted."""
        return max(_LEAST_LONGEST_REPLY, self.memory_bytes // 2)


@dataclass
class Counts:
    """What was done so far.

    Attributes:
        requests: JSON-RPC requests, batch items one by one, repeats included.
        exchanges: HTTP requests.
        received_bytes: of the replies.
        repeated: how often a run of blocks was asked for again, by the kind of error.
    """

    requests: int = 0
    exchanges: int = 0
    received_bytes: int = 0
    repeated: dict[str, int] = field(default_factory=dict)


class Fetcher:
    """Iterates over the tables of a range, in order; a context manager, which ends its threads.

    Args:
        endpoint: where to ask.
        wanted: what to make.
        decoder: reads the replies.
        limits: how much at once.
        deadline: when to give up.

    Attributes:
        abilities: what the endpoint was found to do.
        counts: what was done so far.
    """

    def __init__(
        self,
        endpoint: RpcEndpoint,
        wanted: Wanted,
        decoder: Decoder,
        limits: FetchLimits,
        deadline: Deadline,
    ) -> None:
        self.abilities = Abilities()
        self.counts = Counts()
        self._endpoint, self._wanted, self._decoder = endpoint, wanted, decoder
        self._limits, self._deadline = limits, deadline
        self._next_block = wanted.range.start_block
        self._block_bytes: float | None = None
        self._in_flight: dict[int, int] = {}
        self._held: dict[int, int] = {}
        self._done: dict[int, BlockBatch | BaseException] = {}
        self._waited_seconds = self._busy_seconds = 0.0
        self._failed = self._closed = False
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __iter__(self) -> Iterator[Made]:
        """Yield what was made, block after block.

        Raises:
            DataMismatch: the endpoint's answers disagree with themselves, also when asked again.
            DeadlineExceeded: the deadline has passed.
            EngineFailed: the endpoint cannot give what is asked.
            RpcError: it does not answer.
        """
        at, before = self._wanted.range.start_block, None
        while at <= self._wanted.range.end_block:
            for made in self._make_all(self._await(at), before):
                yield made
                at, before = made.range.end_block + 1, made

    @property
    def all_fetched(self) -> bool:
        """Whether nothing more is asked of the endpoint."""
        with self._changed:
            return self._next_block > self._wanted.range.end_block and not self._in_flight

    def _await(self, start_block: int) -> list[BlockBatch]:
        """Return the batch that begins there, and those behind it that are there already, within limits."""
        with self._changed:
            while start_block not in self._done:
                self._start_threads()
                self._changed.wait(_SECONDS_BETWEEN_CHECKS)
                self._deadline.check()
            found: list[BlockBatch] = []
            size = 0
            while size <= _JOINED_BYTES:
                batch = self._done.get(start_block)
                if isinstance(batch, BaseException) and not found:
                    raise batch
                if not isinstance(batch, BlockBatch):
                    break
                size += self._held.pop(start_block, 0)
                del self._done[start_block]
                found.append(batch)
                start_block = batch.range.end_block + 1
            self._changed.notify_all()
        return found

    def _make_all(self, batches: Sequence[BlockBatch], before: Made | None) -> Iterator[Made]:
        """Yield the tables of batches that follow ``before``: of all at once, if nothing is wrong."""
        if len(batches) > 1:
            try:
                made = self._make(BlockBatch.joined(batches), before)
            except DataMismatch:
                pass  # it is found again in the batch that has it
            else:
                yield made
                return
        for batch in batches:
            try:
                before = self._make(batch, before)
            except DataMismatch as error:
                before = self._make_again(batch.range, before, error)
            yield before

    def _make(self, batch: BlockBatch, before: Made | None) -> Made:
        """Return the tables of blocks that follow ``before``.

        In the iterating thread alone: threads that share the interpreter's lock for it take longer together.
        """
        return make(self._wanted, batch, None if before is None else before.last_hash)

    def _make_again(self, blocks: BlockRange, before: Made | None, error: DataMismatch) -> Made:
        """Ask again for blocks whose answers do not fit together, or do not follow ``before``."""
        limit = _Limit(self._deadline, lambda: self._closed)
        with self._client(limit) as client:
            reader = BlockReader(client, self._wanted.plan, self._decoder, self.abilities)
            for attempt in range(1, _TRIES):
                limit.sleep(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
                limit.check()
                try:
                    return self._make(self._read(reader, blocks, limit), before)
                except DataMismatch as again:
                    error = again
                finally:
                    with self._changed:
                        self._count(client, DataMismatch.__name__)
        raise error

    def _count(self, client: JsonRpcClient, repeated: str | None = None) -> int:
        """Add up what ``client`` did, and return the bytes that it received."""
        received = client.received_bytes
        self.counts.requests += client.requests
        self.counts.exchanges += client.exchanges
        self.counts.received_bytes += received
        client.requests = client.exchanges = client.received_bytes = 0
        if repeated is not None:
            self.counts.repeated[repeated] = self.counts.repeated.get(repeated, 0) + 1
        return received

    def _client(self, limit: "_Limit") -> JsonRpcClient:
        return JsonRpcClient(self._endpoint, deadline=limit, max_reply_bytes=self._limits.reply_bytes)

    def _start_threads(self) -> None:
        """Start another thread where there is work and memory for it."""
        if len(self._in_flight) == len(self._threads):
            while len(self._threads) < self._useful_threads() and (unit := self._claim()) is not None:
                thread = threading.Thread(target=self._work, args=(unit,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _useful_threads(self) -> int:
        """Return how many keep the cores busy beside the iterating one, if they wait as often as so far."""
        share = 1 + self._waited_seconds / self._busy_seconds if self._busy_seconds else 1.0
        return min(self._limits.connections, max(1, math.ceil((_CORES - 1) * share)))

    def _claim(self) -> BlockRange | None:
        """Return the next run of blocks, or None where there is none or no memory for it."""
        last = self._wanted.range.end_block
        if self._failed or self._closed or self._next_block > last:
            return None
        size = self._unit_blocks()
        one = _UNKNOWN_BLOCK_BYTES if self._block_bytes is None else self._block_bytes
        need = int(size * max(one, _LEAST_BLOCK_BYTES)) * _HELD_SHARE
        waiting = sum(self._held.values())
        held = waiting + sum(self._in_flight.values())
        limit = self._limits.memory_bytes
        if held and (held + need > limit or waiting > limit // _WAITING_SHARE):
            return None
        first = self._next_block
        unit = BlockRange.of(first, min(last, first + size - 1))
        self._next_block = unit.end_block + 1
        self._in_flight[first] = need
        return unit

    def _unit_blocks(self) -> int:
        """Return how many blocks to ask for at once: as many as the batch and the reply should hold."""
        items = max(1, self.abilities.max_items // self._wanted.plan.items_per_block)
        if self._block_bytes is None:
            return min(items, _FIRST_BLOCKS)
        return max(1, min(items, int(_TARGET_REPLY_BYTES / max(_LEAST_BLOCK_BYTES, self._block_bytes))))

    def _work(self, unit: BlockRange | None) -> None:
        limit = _Limit(self._deadline, lambda: self._closed)
        client = self._client(limit)
        reader = BlockReader(client, self._wanted.plan, self._decoder, self.abilities)
        try:
            while unit is not None:
                waited, busy = client.waited_seconds, time.thread_time()
                batch = self._outcome(reader, unit, limit)
                with self._changed:
                    self._waited_seconds += client.waited_seconds - waited
                    self._busy_seconds += time.thread_time() - busy
                    self._finish(unit, batch, client)
                    unit = self._wait_for_work()
        finally:
            client.close()

    def _wait_for_work(self) -> BlockRange | None:
        while True:
            unit = self._claim()
            if unit is not None:
                return unit
            if self._failed or self._closed or self._next_block > self._wanted.range.end_block:
                return None
            self._changed.wait()

    def _finish(self, unit: BlockRange, batch: BlockBatch | BaseException, client: JsonRpcClient) -> None:
        received = self._count(client)
        del self._in_flight[unit.start_block]
        self._done[unit.start_block] = batch
        if isinstance(batch, BaseException):
            self._failed = True
        elif received:
            self._held[unit.start_block] = received
            seen = received / unit.blocks
            self._block_bytes = seen if self._block_bytes is None else (self._block_bytes + seen) / 2
        self._changed.notify_all()

    def _outcome(self, reader: BlockReader, unit: BlockRange, limit: "_Limit") -> BlockBatch | BaseException:
        try:
            return self._read(reader, unit, limit)
        except BaseException as error:  # noqa: BLE001 (raised again where the blocks are awaited)
            return error

    def _read(self, reader: BlockReader, blocks: BlockRange, limit: "_Limit") -> BlockBatch:
        """Return the answers; ask again where one cannot be read, or is an error that the client let pass.

        What the client itself has tried again, such as a rate limit, is not tried here once more.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                return reader.read(blocks)
            except (DataMismatch, ReplyError) as error:
                was_repeated = isinstance(error, ReplyError) and error.rate_limited
                if was_repeated or attempt == _TRIES or limit.remaining_seconds == 0:
                    raise
                with self._changed:
                    kind = type(error).__name__
                    self.counts.repeated[kind] = self.counts.repeated.get(kind, 0) + 1
            limit.sleep(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
        raise AssertionError("the last try returns or raises")


class _Limit:
    """The deadline, brought forward once the fetcher is closed."""

    def __init__(self, deadline: Deadline, is_closed: Callable[[], bool]) -> None:
        self._deadline, self._is_closed = deadline, is_closed

    @property
    def remaining_seconds(self) -> float:
        return 0.0 if self._is_closed() else self._deadline.remaining_seconds

    def check(self) -> None:
        if self._is_closed():
            raise RpcError("not asked: the work has ended")
        self._deadline.check()

    def sleep(self, seconds: float) -> None:
        until = time.monotonic() + min(seconds, self.remaining_seconds)
        while (left := until - time.monotonic()) > 0 and not self._is_closed():
            time.sleep(min(left, _SECONDS_BETWEEN_CHECKS))
