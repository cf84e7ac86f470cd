"""Slow reads are asked of a second endpoint, too; the first good answer is taken."""

import asyncio
from collections.abc import Sequence
from typing import Final

from trace_dagster.rpc.gateway.endpoint import Endpoint, Key
from trace_dagster.rpc.gateway.faults import BatchTooLarge, Fault
from trace_dagster.rpc.gateway.jsonrpc import Answer
from trace_dagster.rpc.gateway.metrics import Metrics
from trace_dagster.rpc.gateway.records import Usage, Work
from trace_dagster.rpc.gateway.sending import Sender
from trace_dagster.rpc.gateway.turns import Lease

__all__ = ["Hedging"]

_DEVIATIONS: Final = 4
_SOONEST_SECONDS: Final = 0.05
# Of all exchanges, so that a slow provider does not double the load of the others.
_MOST_HEDGED: Final = 0.1
_ALWAYS_ALLOWED: Final = 5

_Sent = tuple[Key, list[Answer | None]]


class Hedging:
    """Sends for one pool.

    Args:
        sender: how endpoints are asked.
        after_seconds: a read that takes longer is hedged; None: by what is usual, 0: never.
        metrics: where hedges are counted.
    """

    def __init__(self, sender: Sender, after_seconds: float | None, metrics: Metrics) -> None:
        self._sender, self._after_seconds, self._metrics = sender, after_seconds, metrics
        self._exchanges = self._hedges = 0

    async def send(
        self,
        lease: Lease,
        endpoints: tuple[Endpoint, ...],
        works: Sequence[Work],
        usage: Usage,
        timeout_seconds: float,
    ) -> _Sent:
        """Return the key that answered, and the answers.

        Args:
            lease: to send with.
            endpoints: who may be asked instead, the lease's own among them.
            works: what is asked.
            usage: what it takes is added there.
            timeout_seconds: of one exchange.

        Raises:
            Fault: the exchange failed, and the second one, if there was any.
            BatchTooLarge: the endpoint takes fewer at once.
        """
        self._exchanges += 1
        others = tuple(one for one in endpoints if one is not lease.key.endpoint)
        if not others or self._after_seconds == 0 or not all(work.route.repeatable for work in works):
            return await self._send(lease, works, usage, timeout_seconds)
        first = asyncio.create_task(self._send(lease, works, usage, timeout_seconds))
        try:
            await asyncio.wait((first,), timeout=self._patience_seconds(lease.key))
            if not first.done() and (second := self._second(others, works)) is not None:
                return await self._race(first, second, works, usage, timeout_seconds)
            return await first
        finally:
            if not first.done():
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)  # until what it holds is given back

    async def _send(self, lease: Lease, works: Sequence[Work], usage: Usage, timeout_seconds: float) -> _Sent:
        calls = [work.call for work in works]
        return lease.key, await self._sender.send(lease, calls, usage, timeout_seconds)

    def _patience_seconds(self, key: Key) -> float:
        if self._after_seconds is not None:
            return self._after_seconds
        return max(_SOONEST_SECONDS, key.latency_seconds + _DEVIATIONS * key.deviation_seconds)

    def _second(self, others: tuple[Endpoint, ...], works: Sequence[Work]) -> Lease | None:
        if self._hedges > _ALWAYS_ALLOWED + _MOST_HEDGED * self._exchanges:
            return None
        lease = self._sender.turns.take_now(others, [work.call.method for work in works])
        if lease is None or lease.count == len(works):
            return lease
        self._sender.turns.release(lease)
        return None

    async def _race(
        self,
        first: "asyncio.Task[_Sent]",
        lease: Lease,
        works: Sequence[Work],
        usage: Usage,
        timeout_seconds: float,
    ) -> _Sent:
        self._hedges += 1
        self._metrics.hedged(self._sender.pool)
        second = asyncio.create_task(self._send(lease, works, usage, timeout_seconds))
        left = {first, second}
        try:
            while True:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if not left or not isinstance(task.exception(), Fault | BatchTooLarge):
                        return task.result()
        finally:
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
