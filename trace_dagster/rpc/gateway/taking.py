"""What becomes of a request once an endpoint has answered it, or failed to."""

import asyncio
from typing import Final, Protocol

from trace_dagster.rpc.gateway.agreement import compared
from trace_dagster.rpc.gateway.endpoint import Endpoint, Key
from trace_dagster.rpc.gateway.failing import all_failed
from trace_dagster.rpc.gateway.faults import FaultKind
from trace_dagster.rpc.gateway.heads import Heads
from trace_dagster.rpc.gateway.jsonrpc import result_answer
from trace_dagster.rpc.gateway.judging import Verdict
from trace_dagster.rpc.gateway.records import Work
from trace_dagster.rpc.gateway.sending import Sender

__all__ = ["Taker"]

# Errors in which an endpoint speaks of its own trouble.
_PASSING: Final = frozenset({FaultKind.INTERNAL, FaultKind.REFUSED, FaultKind.TIMEOUT})
# So often a request that was limited alone is sent again.
_MOST_LIMITED: Final = 8
# Errors that are faults only where another endpoint has an answer.
_DOUBTFUL: Final = frozenset({FaultKind.ERROR, FaultKind.TOO_LARGE})


class _Pool(Protocol):
    name: str
    endpoints: tuple[Endpoint, ...]
    heads: Heads

    @property
    def several(self) -> bool: ...


class Taker:
    """Takes answers of the endpoints of one pool.

    Args:
        pool: the pool.
        sender: counts what endpoints did wrong.
    """

    def __init__(self, pool: _Pool, sender: Sender) -> None:
        self._pool, self._sender = pool, sender

    def failed(self, work: Work, endpoint: Endpoint, kind: FaultKind) -> None:
        """Ask elsewhere; a key that is only asked too often stays a choice, for when its pause ends."""
        if not work.route.repeatable:
            # It may have been done although there is no answer.
            work.answer = all_failed(self._pool, work)
        elif kind is not FaultKind.RATE_LIMITED:
            work.tried |= {endpoint}
            work.is_flaky = True

    def take(self, work: Work, key: Key, verdict: Verdict, batch: int) -> None:
        """Make of a verdict about an answer, which came with ``batch`` others, what it is good for."""
        endpoint = key.endpoint
        if verdict.split:
            self._learn_log_range(work, endpoint, by_width=verdict.by_width)
        elif verdict.is_null:
            self._take_null(work, endpoint, verdict)
        elif verdict.is_empty and self._pool.several and self._lags(endpoint):
            # It may not know the block.
            self._try_elsewhere(work, endpoint, FaultKind.LAGS)
        elif verdict.fault is None:
            self._take_good(work, endpoint, verdict)
        else:
            self._take_fault(work, key, verdict, verdict.fault, batch)

    def _learn_log_range(self, work: Work, endpoint: Endpoint, *, by_width: bool) -> None:
        work.too_many_logs = True
        work.tried |= {endpoint}
        if by_width and work.route.logs is not None:
            endpoint.refuses_logs_of(work.route.logs.width)

    def _lags(self, endpoint: Endpoint) -> bool:
        head = self._pool.heads.head
        return head is not None and (endpoint.head is None or endpoint.head < head)

    def _try_elsewhere(self, work: Work, endpoint: Endpoint, kind: FaultKind) -> None:
        self._sender.count(endpoint, kind)
        work.tried |= {endpoint}
        work.is_flaky = True

    def _take_null(self, work: Work, endpoint: Endpoint, verdict: Verdict) -> None:
        """Believe null for a block above the head, or where nobody else can be asked."""
        route, heads = work.route, self._pool.heads
        head = heads.head if heads.known_since(work.begun) else None
        is_above = route.highest is not None and head is not None and route.highest > head
        if not self._pool.several or not route.repeatable or is_above:
            work.answer = verdict.answer
        else:
            work.nulls |= {endpoint}

    def _take_good(self, work: Work, endpoint: Endpoint, verdict: Verdict) -> None:
        if work.nulls or work.doubted:
            self._count_contradicted(work)
        if work.route.logs is not None:
            endpoint.gives_logs_of(work.route.logs.width)
        if verdict.head is not None and not self._take_head(work, endpoint, verdict.head):
            return
        if verdict.claims and self._pool.several:
            work.candidate, work.source, work.claims = verdict.answer, endpoint, compared(verdict.claims)
        else:
            work.answer = verdict.answer

    def _count_contradicted(self, work: Work) -> None:
        for other in work.nulls:
            self._sender.count(other, FaultKind.NULL)
        for other in work.doubted:
            self._sender.count(other, FaultKind.ERROR)
            for key in other.keys:
                key.contradicted()
        work.nulls = work.doubted = frozenset()

    def _take_head(self, work: Work, endpoint: Endpoint, head: int) -> bool:
        """Note an endpoint's newest block; return whether the answer is as new as the pool, and no newer."""
        best = self._pool.heads.head
        self._pool.heads.heard(endpoint, head)
        newest = self._pool.heads.head
        if best is None or newest is None or head == newest:
            return True
        if work.call.method == "eth_blockNumber":
            work.answer = result_answer(hex(newest))
        elif head < newest:
            self._try_elsewhere(work, endpoint, FaultKind.LAGS)
        else:  # counted where it was heard
            work.tried |= {endpoint}
            work.is_flaky = True
        return False

    def _take_fault(self, work: Work, key: Key, verdict: Verdict, fault: FaultKind, batch: int) -> None:
        now = asyncio.get_running_loop().time()
        endpoint = key.endpoint
        if fault is FaultKind.TOO_LARGE and batch > 1:
            endpoint.refuses_batch_of(batch)
            return
        if not work.route.repeatable:
            work.answer = verdict.answer or all_failed(self._pool, work)
        if fault in _DOUBTFUL:
            work.doubted |= {endpoint}
        else:
            self._sender.count(endpoint, fault)
        if fault is FaultKind.RATE_LIMITED:
            work.limited += 1
            if work.limited < _MOST_LIMITED:  # then it is rather the request that is too much
                return
        if verdict.lacks and self._pool.several:  # a single one says so itself each time
            endpoint.lacks(work.call.method, now)
        work.tried |= {endpoint}
        work.is_flaky |= verdict.answer is None or fault in _PASSING
        work.error = verdict.answer or work.error
