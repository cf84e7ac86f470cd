"""Who may send next: priorities by weight, callers in turn, and a bounded wait for a key that has room."""

import asyncio
import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from trace_dagster.rpc.gateway.config import Priority
from trace_dagster.rpc.gateway.endpoint import Endpoint, Key
from trace_dagster.rpc.gateway.records import GATEWAY

__all__ = ["Busy", "Lease", "SentOn", "Turns"]

_WEIGHTS: Final[dict[Priority, float]] = {"high": 8, "normal": 4, "low": 1}
# So many waiting requests are looked at for one that a key with room may take.
_LOOKED_AT: Final = 32
# One job, and one token with all its jobs, may fill this many times the room that it leaves to others.
_GREED: Final = 4
_TOKENS_GREED: Final = 16
# This share of the queue is kept for each priority, whatever waits of the others.
_RESERVED: Final = 1 / 10
_MAX_REMEMBERED: Final = 1_000
_PACE_SECONDS: Final = 5.0
# More of those who stopped waiting are not kept, unless twice as many still wait.
_MOST_GONE: Final = 64

_Name = TypeVar("_Name")


class _Pace:
    """How many turns a second were given lately."""

    def __init__(self) -> None:
        self._begun, self._count, self._before = 0.0, 0, 0.0

    def add(self, count: int, now: float) -> None:
        """Count turns given now."""
        self._roll(now)
        self._count += count

    def per_second(self, now: float) -> float:
        """Return the rate of the present span, or of the one before where that was higher."""
        self._roll(now)
        return max(self._before, self._count / max(1.0, now - self._begun))

    def _roll(self, now: float) -> None:
        seconds = now - self._begun
        if seconds >= _PACE_SECONDS:
            self._before = self._count / seconds
            self._begun, self._count = now, 0


class Busy(Exception):
    """No turn came in time, or too many wait already.

    Attributes:
        retry_after_seconds: when asking again may help.
    """

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class SentOn(Exception):
    """Waiting for these endpoints would take long; others may be asked."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Leave to send so many requests with a key.

    Attributes:
        key: to send with; ``Turns.release`` gives it back.
        count: how many of the requests, from the first on.
    """

    key: Key
    count: int


@dataclass(slots=True)
class _Waiter:
    endpoints: tuple[Endpoint, ...]
    methods: Sequence[str]
    caller: str
    granted: asyncio.Future[Lease] = field(repr=False)


@dataclass(slots=True)
class _Class:
    """The waiting requests of one priority: callers share what it gets evenly."""

    weight: float
    waiting: list[tuple[float, int, _Waiter]] = field(default_factory=list)
    served: float = 0.0
    """Requests by weight, on the clock that all classes share."""
    clock: float = 0.0
    finished: dict[str, float] = field(default_factory=dict)
    items: int = 0
    """Requests that wait."""
    by_token: Counter[str] = field(default_factory=Counter)
    """Likewise, by token."""
    forget_at: int = _MAX_REMEMBERED
    gone: int = 0
    """Of those that wait, at most so many have stopped waiting."""

    def add(self, waiter: _Waiter, number: int) -> None:
        if len(self.finished) >= self.forget_at:
            self.finished = {name: end for name, end in self.finished.items() if end > self.clock}
            self.forget_at = max(_MAX_REMEMBERED, 2 * len(self.finished))
        begin = max(self.clock, self.finished.get(waiter.caller, 0.0))
        self.finished[waiter.caller] = begin + len(waiter.methods)
        heapq.heappush(self.waiting, (begin, number, waiter))

    def withdraw(self, waiter: _Waiter) -> None:
        """Forget a caller's wait: it took nothing, and must not fill the queue's memory either."""
        if waiter.caller in self.finished:
            self.finished[waiter.caller] -= len(waiter.methods)
        self.gone += 1
        if self.gone > max(_MOST_GONE, len(self.waiting) // 2):
            self.waiting = [entry for entry in self.waiting if not entry[2].granted.done()]
            heapq.heapify(self.waiting)
            self.gone = 0

    def drop_gone(self) -> None:
        while self.waiting and self.waiting[0][2].granted.done():
            heapq.heappop(self.waiting)
        if not self.waiting:
            self.finished.clear()
            self.clock = 0.0


class Turns:
    """The queue of one pool.

    Args:
        max_waiting: requests that may wait, of all callers.
        max_wait_seconds: so long one may wait.
    """

    def __init__(self, max_waiting: int, max_wait_seconds: float) -> None:
        self._max_waiting, self._max_wait_seconds = max_waiting, max_wait_seconds
        self._classes = {name: _Class(weight) for name, weight in _WEIGHTS.items()}
        self._waiting: Counter[tuple[Priority, str]] = Counter()
        self._total = 0
        self._number = 0
        self._pace = _Pace()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._total

    async def take(
        self,
        endpoints: Sequence[Endpoint],
        methods: Sequence[str],
        *,
        caller: str,
        priority: Priority,
        until: float,
    ) -> Lease:
        """Wait for a key of one of ``endpoints``.

        Args:
            endpoints: any of them will do.
            methods: of the requests; the lease may be for fewer.
            caller: whose turn it is.
            priority: its class.
            until: moment of the loop's clock at which waiting ends.

        Raises:
            Busy: too many requests wait, or no turn came in time.
            SentOn: ``send_on`` was called meanwhile, for these endpoints.
        """
        lease = self.take_now(endpoints, methods)
        if lease is not None:
            return lease
        loop = asyncio.get_running_loop()
        waiter = _Waiter(tuple(endpoints), methods, caller, loop.create_future())
        if caller != GATEWAY.name:  # without knowing heads and hashes nothing can be answered
            self._admit(waiter, priority)
        self._enqueue(waiter, priority)
        timer = loop.call_at(until, self._give_up, waiter)
        try:
            self.dispatch()
            return await waiter.granted
        except asyncio.CancelledError:
            granted = waiter.granted
            if granted.cancelled():
                self._classes[priority].withdraw(waiter)
            elif granted.done() and granted.exception() is None:
                self.release(granted.result())
            else:
                self._classes[priority].withdraw(waiter)
            raise
        except (Busy, SentOn):
            self._classes[priority].withdraw(waiter)
            raise
        finally:
            timer.cancel()
            self._count(caller, priority, -len(methods))

    def take_now(self, endpoints: Sequence[Endpoint], methods: Sequence[str]) -> Lease | None:
        """Return a lease where a key has room and nobody waits."""
        if self._total:
            return None
        now = asyncio.get_running_loop().time()
        lease, _ = _granted(endpoints, methods, now)
        if lease is not None:
            self._pace.add(lease.count, now)
        return lease

    def release(self, lease: Lease) -> None:
        """Give the key of ``lease`` back, for whoever waits."""
        lease.key.finished()
        if self._total:
            self.dispatch()

    def send_on(self, is_stuck: Callable[[Sequence[Endpoint]], bool]) -> None:
        """Let those go who wait for endpoints that have long to wait for, by ``SentOn``."""
        for one in self._classes.values():
            for _, _, waiter in one.waiting:
                if not waiter.granted.done() and is_stuck(waiter.endpoints):
                    waiter.granted.set_exception(SentOn())

    def dispatch(self) -> None:
        """Give turns to those who wait, as far as keys have room."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while True:
            given, ready_at = self._next(loop.time())
            if not given:
                break
        if ready_at < float("inf"):
            self._timer = loop.call_at(ready_at, self.dispatch)

    def _next(self, now: float) -> tuple[bool, float]:
        soonest = float("inf")
        classes = [one for one in self._classes.values() if one.waiting]
        for one in sorted(classes, key=lambda one: one.served):
            one.drop_gone()
            blocked: set[tuple[Endpoint, ...]] = set()
            passed: list[tuple[float, int, _Waiter]] = []
            lease = None
            while one.waiting and len(passed) < _LOOKED_AT:
                entry = heapq.heappop(one.waiting)
                waiter = entry[2]
                if waiter.granted.done():
                    continue
                if waiter.endpoints in blocked:  # whoever came before waits for the same, and goes first
                    passed.append(entry)
                    continue
                lease, ready_at = _granted(waiter.endpoints, waiter.methods, now)
                if lease is not None:
                    one.clock = max(one.clock, entry[0])
                    one.served += lease.count / one.weight
                    if waiter.caller in one.finished:
                        one.finished[waiter.caller] -= len(waiter.methods) - lease.count
                    self._pace.add(lease.count, now)
                    waiter.granted.set_result(lease)
                    break
                soonest = min(soonest, ready_at)
                blocked.add(waiter.endpoints)
                passed.append(entry)
            for entry in passed:
                heapq.heappush(one.waiting, entry)
            if lease is not None:
                return True, now
        return False, soonest

    def _admit(self, waiter: _Waiter, priority: Priority) -> None:
        caller, count = waiter.caller, len(waiter.methods)
        mine = self._classes[priority]
        reserved = int(self._max_waiting * _RESERVED)
        kept = sum(max(0, reserved - one.items) for one in self._classes.values() if one is not mine)
        free = self._max_waiting - self._total - kept
        yours, of_token = self._waiting[priority, caller], mine.by_token[_token(caller)]
        if count > free or yours + count > _GREED * free or of_token + count > _TOKENS_GREED * free:
            raise Busy(
                f"{self._total} requests wait for this pool, {of_token} of them yours, of "
                f"at most {self._max_waiting} (limits.max_waiting); ask again later, or for less at once",
                self._seconds_to_go(waiter),
            )

    def _give_up(self, waiter: _Waiter) -> None:
        if not waiter.granted.done():
            message = "no key of this pool had room for it in time; ask again later"
            waiter.granted.set_exception(Busy(message, self._seconds_to_go(waiter)))

    def _seconds_to_go(self, waiter: _Waiter) -> int:
        """Return in how many seconds, from 1 to the longest wait, one may have a turn.

        That is once what waits now will have had its turn, and there is a key whose pause is over.
        """
        now = asyncio.get_running_loop().time()
        per_second = self._pace.per_second(now)
        seconds = self._total / per_second if per_second else self._max_wait_seconds
        ready_at = min(
            (key.ready_at(waiter.methods[0], now) for one in waiter.endpoints for key in one.keys),
            default=now,
        )
        if ready_at < math.inf:
            seconds = max(seconds, ready_at - now)
        return max(1, math.ceil(min(seconds, self._max_wait_seconds)))

    def _enqueue(self, waiter: _Waiter, priority: Priority) -> None:
        mine = self._classes[priority]
        if not mine.waiting:
            others = [one.served for one in self._classes.values() if one.waiting]
            mine.served = max(mine.served, min(others, default=mine.served))
        self._number += 1
        mine.add(waiter, self._number)
        self._count(waiter.caller, priority, len(waiter.methods))

    def _count(self, caller: str, priority: Priority, count: int) -> None:
        mine = self._classes[priority]
        self._total += count
        mine.items += count
        _add(self._waiting, (priority, caller), count)
        _add(mine.by_token, _token(caller), count)


def _add(counter: Counter[_Name], name: _Name, count: int) -> None:
    counter[name] += count
    if not counter[name]:
        del counter[name]


def _token(caller: str) -> str:
    """Return the token of a caller's name, which no job's name can change."""
    return caller.partition("/")[0]


def _granted(endpoints: Sequence[Endpoint], methods: Sequence[str], now: float) -> tuple[Lease | None, float]:
    """Return a lease of the best key with room, or the moment at which one may have some."""
    best: Key | None = None
    soonest = best_score = float("inf")
    for endpoint in endpoints:
        for key in endpoint.keys:
            ready_at = key.ready_at(methods[0], now)
            if ready_at > now:
                soonest = min(soonest, ready_at)
            elif (score := key.score) < best_score:
                best, best_score = key, score
    if best is None:
        return None, soonest
    count = best.begin(methods, now)
    return Lease(best, count), now
