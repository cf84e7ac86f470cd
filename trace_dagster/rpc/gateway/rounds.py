"""One round of asking: every work goes to an endpoint once, and its answer is judged."""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from trace_dagster.rpc.gateway.agreement import Agreement, compared
from trace_dagster.rpc.gateway.choice import Groups
from trace_dagster.rpc.gateway.config import PoolConfig
from trace_dagster.rpc.gateway.endpoint import Endpoint, Key
from trace_dagster.rpc.gateway.failing import UNAVAILABLE, all_failed, busy, no_room
from trace_dagster.rpc.gateway.faults import BatchTooLarge, Fault, FaultKind
from trace_dagster.rpc.gateway.heads import Heads
from trace_dagster.rpc.gateway.hedging import Hedging
from trace_dagster.rpc.gateway.jsonrpc import Answer, ErrorObject, error_answer, result_answer
from trace_dagster.rpc.gateway.judging import Claim, Verdict, judge
from trace_dagster.rpc.gateway.methods import NEVER_NULL
from trace_dagster.rpc.gateway.records import Caller, Usage, Work
from trace_dagster.rpc.gateway.replies import NoRoom
from trace_dagster.rpc.gateway.sending import Sender
from trace_dagster.rpc.gateway.turns import Busy, Lease, Turns

__all__ = ["Round"]

_SHORTEST_EXCHANGE_SECONDS: Final = 0.05
# Errors in which an endpoint speaks of its own trouble.
_PASSING: Final = frozenset({FaultKind.INTERNAL, FaultKind.REFUSED, FaultKind.TIMEOUT})


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
                part, rest = rest[: lease.count], rest[lease.count :]
                if not rest and not tasks:
                    await self._ask(lease, endpoints, part, usage, until)
                    return
                tasks.append(asyncio.create_task(self._ask(lease, endpoints, part, usage, until)))
            if tasks:
                await asyncio.wait(
                    tasks
                )  # gather() would cancel those that have not begun, and keep their leases
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
        for work in works:
            work.sent += 1
            usage.retries += work.sent > 1
        try:
            key, answers = await self._hedging.send(lease, endpoints, works, usage, timeout_seconds)
        except Fault as fault:
            if fault.kind is FaultKind.INTERNAL and len(works) > 1 and not self._pool.several:
                return  # perhaps they were too many: fewer are asked for next
            for work in works:
                self._failed(work, lease.key.endpoint, fault.kind)
        except NoRoom as error:
            for work in works:
                work.answer = no_room(self._pool, error)
        except BatchTooLarge:
            if len(works) == 1:
                self._failed(works[0], lease.key.endpoint, FaultKind.TOO_LARGE)
        else:
            for work, answer in zip(works, answers, strict=True):
                secrets = key.endpoint.secrets
                verdict = judge(work.call, work.route, answer, secrets)
                self._take(work, key, verdict, len(works))

    def _failed(self, work: Work, endpoint: Endpoint, kind: FaultKind) -> None:
        """Ask elsewhere; a key that is only asked too often stays a choice, for when its pause ends."""
        if not work.route.repeatable:
            # It may have been done although there is no answer.
            work.answer = all_failed(self._pool, work)
        elif kind is not FaultKind.RATE_LIMITED:
            work.tried |= {endpoint}
            work.is_flaky = True

    def _take(self, work: Work, key: Key, verdict: Verdict, batch: int) -> None:
        endpoint = key.endpoint
        if verdict.split:
            self._learn_log_range(work, endpoint, by_width=verdict.by_width)
        elif verdict.is_null:
            self._take_null(work, endpoint, verdict)
        elif verdict.fault is None:
            self._take_good(work, endpoint, verdict)
        else:
            self._take_fault(work, key, verdict, verdict.fault, batch)

    def _learn_log_range(self, work: Work, endpoint: Endpoint, *, by_width: bool) -> None:
        work.too_many_logs = True
        work.tried |= {endpoint}
        if by_width and work.route.logs is not None:
            endpoint.refuses_logs_of(work.route.logs.width)

    def _take_null(self, work: Work, endpoint: Endpoint, verdict: Verdict) -> None:
        route, heads = work.route, self._pool.heads
        head = heads.head if heads.known_since(work.begun) else None
        is_above = route.highest is not None and head is not None and route.highest > head
        is_tip = route.tip and work.call.method not in NEVER_NULL
        if not self._pool.several or is_above or is_tip:
            work.answer = verdict.answer
            return
        work.nulls |= {endpoint}

    def _take_good(self, work: Work, endpoint: Endpoint, verdict: Verdict) -> None:
        for other in work.nulls:
            self._sender.count(other, FaultKind.NULL)
        work.nulls = frozenset()
        if work.route.logs is not None:
            endpoint.gives_logs_of(work.route.logs.width)
        if verdict.head is not None and not self._take_head(work, endpoint, verdict.head):
            return
        if verdict.claims and self._pool.several:
            work.candidate, work.source, work.claims = verdict.answer, endpoint, compared(verdict.claims)
        else:
            work.answer = verdict.answer

    def _take_head(self, work: Work, endpoint: Endpoint, head: int) -> bool:
        """Note an endpoint's newest block; return whether the answer is as new as the pool, and no newer."""
        best = self._pool.heads.head
        self._pool.heads.heard(endpoint, head)
        newest = self._pool.heads.head
        if best is None or newest is None or head == newest:
            return True
        if work.call.method == "eth_blockNumber":
            work.answer = result_answer(hex(newest))
            return False
        if head < newest:
            self._sender.count(endpoint, FaultKind.LAGS)
        work.tried |= {endpoint}
        work.is_flaky = True
        return False

    def _take_fault(self, work: Work, key: Key, verdict: Verdict, fault: FaultKind, batch: int) -> None:
        now = asyncio.get_running_loop().time()
        endpoint = key.endpoint
        if fault is FaultKind.TOO_LARGE:
            if batch > 1:
                endpoint.refuses_batch_of(batch)
            else:
                work.answer = verdict.answer
            return
        self._sender.count(endpoint, fault)
        if not work.route.repeatable:
            work.answer = verdict.answer or all_failed(self._pool, work)
        if fault is FaultKind.RATE_LIMITED:
            key.failed(Fault(fault, "in a JSON-RPC error"), now)
            return
        if fault is FaultKind.UNSUPPORTED:
            endpoint.lacks(work.call.method, now)
        work.tried |= {endpoint}
        work.is_flaky |= verdict.answer is None or fault in _PASSING
        work.error = verdict.answer or work.error

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
