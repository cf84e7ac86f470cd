"""One round of asking: every work goes to an endpoint once, and its answer is judged."""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from trace_dagster.rpc.gateway.agreement import Agreement
from trace_dagster.rpc.gateway.choice import Groups
from trace_dagster.rpc.gateway.config import PoolConfig
from trace_dagster.rpc.gateway.endpoint import Endpoint
from trace_dagster.rpc.gateway.failing import UNAVAILABLE, busy, no_room
from trace_dagster.rpc.gateway.faults import BatchTooLarge, Fault, FaultKind
from trace_dagster.rpc.gateway.heads import Heads
from trace_dagster.rpc.gateway.hedging import Hedging
from trace_dagster.rpc.gateway.jsonrpc import Answer, ErrorObject, error_answer
from trace_dagster.rpc.gateway.judging import Claim, judge
from trace_dagster.rpc.gateway.records import Caller, Usage, Work
from trace_dagster.rpc.gateway.replies import NoRoom
from trace_dagster.rpc.gateway.sending import Sender
from trace_dagster.rpc.gateway.taking import Taker
from trace_dagster.rpc.gateway.turns import Busy, Lease, SentOn, Turns

__all__ = ["Round"]

_SHORTEST_EXCHANGE_SECONDS: Final = 0.05
# So long what takes no long work may take where another endpoint answered null.
_DOUBT_SECONDS: Final = 5.0


class _Pool(Protocol):
    name: str
    config: PoolConfig
    endpoints: tuple[Endpoint, ...]
    heads: Heads
    agreement: Agreement
    turns: Turns

    @property
    def several(self) -> bool: ...


class Round:
    """Asks the endpoints of one pool.

    Args:
        pool: the pool.
        sender: how endpoints are asked.
        hedging: asks a second one where the first is slow.
    """

    def __init__(self, pool: _Pool, sender: Sender, hedging: Hedging) -> None:
        self._pool, self._sender, self._hedging = pool, sender, hedging
        self._taker = Taker(pool, sender)

    async def run(
        self, groups: Groups, caller: Caller, usage: Usage, *, turn_until: float, until: float
    ) -> None:
        """Ask for every work of ``groups`` once.

        Args:
            groups: works by the endpoints that may be asked.
            caller: whose turn is used.
            usage: what it takes is added there.
            turn_until: when waiting for a turn ends.
            until: when waiting for an answer ends.
        """
        runs = [
            self._ask_group(endpoints, some, caller, usage, turn_until=turn_until, until=until)
            for endpoints, works in groups.items()
            for some in _exchanges(works)
        ]
        if len(runs) == 1:
            await runs[0]
        else:
            await asyncio.gather(*runs)
        if self._pool.several:
            works = [work for some in groups.values() for work in some]
            await self._confirm([work for work in works if work.candidate is not None], usage, until)

    async def _ask_group(
        self,
        endpoints: tuple[Endpoint, ...],
        works: Sequence[Work],
        caller: Caller,
        usage: Usage,
        *,
        turn_until: float,
        until: float,
    ) -> None:
        tasks: list[asyncio.Task[None]] = []
        rest = list(works)
        try:
            while rest:
                try:
                    lease = await self._pool.turns.take(
                        endpoints,
                        [work.call.method for work in rest],
                        caller=caller.name,
                        priority=caller.priority,
                        until=turn_until,
                    )
                except Busy as error:
                    for work in rest:
                        work.answer = busy(self._pool, error)
                    break
                except SentOn:
                    break
                part, rest = rest[: lease.count], rest[lease.count :]
                if not rest and not tasks:
                    await self._ask(lease, endpoints, part, usage, until)
                    return
                tasks.append(asyncio.create_task(self._ask(lease, endpoints, part, usage, until)))
            if tasks:  # gather() would cancel those that have not begun, and keep their leases
                await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        for task in tasks:
            task.result()

    async def _ask(
        self, lease: Lease, endpoints: tuple[Endpoint, ...], works: Sequence[Work], usage: Usage, until: float
    ) -> None:
        now = asyncio.get_running_loop().time()
        timeout_seconds = max(_SHORTEST_EXCHANGE_SECONDS, (until - now) / (2 if self._pool.several else 1))
        if all(work.nulls and work.route.capability is None for work in works):  # it is but to be doubted
            timeout_seconds = min(timeout_seconds, _DOUBT_SECONDS)
        for work in works:
            work.sent += 1
            usage.retries += work.sent > 1
        try:
            key, answers = await self._hedging.send(lease, endpoints, works, usage, timeout_seconds)
        except Fault as fault:
            if fault.kind is FaultKind.INTERNAL and len(works) > 1 and not self._pool.several:
                return  # perhaps they were too many: fewer are asked for next
            for work in works:
                self._taker.failed(work, lease.key.endpoint, fault.kind)
        except NoRoom as error:
            for work in works:
                work.answer = no_room(self._pool, error)
        except BatchTooLarge:
            if len(works) == 1:
                self._taker.failed(works[0], lease.key.endpoint, FaultKind.TOO_LARGE)
        else:
            for work, answer in zip(works, answers, strict=True):
                if answer is None:
                    self._taker.failed(work, key.endpoint, FaultKind.GARBLED)
                    continue
                verdict = judge(work.call, work.route, answer, key.endpoint.secrets)
                self._taker.take(work, key, verdict, len(works))
        self._send_on(lease.key.endpoint)

    def _send_on(self, asked: Endpoint) -> None:
        """Let those go who wait for endpoints that cannot be asked for a while, where others can."""
        now = asyncio.get_running_loop().time()
        if asked.is_free(now) or not self._pool.turns.waiting:
            return
        if any(one.is_free(now) for one in self._pool.endpoints):
            self._pool.turns.send_on(lambda endpoints: not any(one.is_free(now) for one in endpoints))

    async def _confirm(self, works: Sequence[Work], usage: Usage, until: float) -> None:
        """Keep answers that other endpoints confirm until a moment, or that may be wrong, above finality."""
        try:
            async with asyncio.timeout_at(until):
                await self._compare(works, usage)
        except TimeoutError:
            for work in works:
                self._take_unconfirmed(work)

    def _take_unconfirmed(self, work: Work) -> None:
        if work.source is None:
            return
        self._sender.count(work.source, FaultKind.UNCONFIRMED)
        final = [claim.number for claim in work.claims if self._pool.agreement.is_final(claim.number)]
        if final:
            work.answer = _contested(f"no other endpoint confirmed block {final[0]} in time")
        else:
            work.answer = work.candidate
        work.candidate = work.source = None

    async def _compare(self, works: Sequence[Work], usage: Usage) -> None:
        """Compare what answers say of blocks with what other endpoints say, and keep those that agree."""
        by_source: dict[Endpoint, list[Claim]] = {}
        for work in works:
            if work.source is not None:
                by_source.setdefault(work.source, []).extend(work.claims)
        agreement = self._pool.agreement
        await asyncio.gather(
            *(agreement.look_up(source, claims, usage) for source, claims in by_source.items())
        )
        for work in works:
            if work.source is None:
                continue
            belief = await agreement.believe(work.source, work.claims, usage)
            if belief.holds:
                work.answer = work.candidate
            else:
                work.tried |= {work.source}
                work.error = _contested(belief.why)
                work.is_flaky = True
            work.candidate = work.source = None


def _exchanges(works: Sequence[Work]) -> list[list[Work]]:
    """Return what may be asked for in one exchange; what is sent once goes alone."""
    reads = [work for work in works if work.route.repeatable]
    alone = [[work] for work in works if not work.route.repeatable]
    return [reads, *alone] if reads else alone


def _contested(why: str) -> Answer:
    return error_answer(ErrorObject(UNAVAILABLE, why), 503, 1)
