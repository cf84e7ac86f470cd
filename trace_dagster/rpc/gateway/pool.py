"""A pool: requests are answered by whichever of its endpoints can, and does it well."""

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

from trace_dagster.rpc.gateway.agreement import Agreement
from trace_dagster.rpc.gateway.caching import CachedAnswers
from trace_dagster.rpc.gateway.choice import Choice
from trace_dagster.rpc.gateway.config import RequestLimits
from trace_dagster.rpc.gateway.endpoint import Endpoint
from trace_dagster.rpc.gateway.exchange import Upstream
from trace_dagster.rpc.gateway.failing import all_failed, too_late, too_wide, unsupported
from trace_dagster.rpc.gateway.heads import Heads
from trace_dagster.rpc.gateway.hedging import Hedging
from trace_dagster.rpc.gateway.jsonrpc import Answer, Call, is_null
from trace_dagster.rpc.gateway.learning import Learning
from trace_dagster.rpc.gateway.metrics import Metrics
from trace_dagster.rpc.gateway.records import MAX_PASSES, Caller, Usage, Work
from trace_dagster.rpc.gateway.replies import ReplyRoom
from trace_dagster.rpc.gateway.resolved import ResolvedPool
from trace_dagster.rpc.gateway.rounds import Round
from trace_dagster.rpc.gateway.routing import LogRange, route_of
from trace_dagster.rpc.gateway.sending import Sender
from trace_dagster.rpc.gateway.shared_cache import SharedCache
from trace_dagster.rpc.gateway.splitting import joined, part_size, parts_of, up_to_head
from trace_dagster.rpc.gateway.turns import Turns

__all__ = ["Pool"]

_FIRST_WAIT_SECONDS: Final = 0.03
_MAX_CLOSE_SECONDS: Final = 120.0
# Parts of one range of logs that are asked for at a time.
_PARTS_AT_ONCE: Final = 128
_OK: Final = 200

_Shared = tuple[str, str, bytes]
"""Priority, method and parameters."""


class Pool:
    """The endpoints of one chain.

    Args:
        resolved: the pool with its secrets.
        limits: of requests.
        costs: by name, credits by method.
        metrics: where it is counted.
        cache: where answers that cannot change are kept; None: nowhere.
        room: for replies; None: the pool has one of its own.

    Attributes:
        name: the pool's name.
        endpoints: all of them.
        heads: where they are.
        agreement: what they say about hashes.
        turns: who waits.
        reply_room: for replies.
    """

    def __init__(
        self,
        resolved: ResolvedPool,
        limits: RequestLimits,
        costs: Mapping[str, Mapping[str, float]],
        metrics: Metrics,
        cache: SharedCache | None = None,
        *,
        room: ReplyRoom | None = None,
    ) -> None:
        self.name, self.config = resolved.name, resolved.config
        self.endpoints = tuple(
            Endpoint(one, costs[one.config.costs] if one.config.costs else None) for one in resolved.endpoints
        )
        self.turns = Turns(limits.max_waiting, limits.max_wait_seconds)
        self._limits, self._metrics = limits, metrics
        self.reply_room = room or ReplyRoom(limits.max_reply_bytes_at_once)
        self._upstream = Upstream(limits.max_reply_bytes, self.reply_room)
        sender = Sender(self.name, self._upstream, self.turns, metrics)
        self.heads = Heads(self.endpoints, self.config.chain_id, sender)
        self._learning = Learning(self.endpoints, sender)
        self.agreement = Agreement(
            self.endpoints, sender, self.config.finality_blocks, lambda: self.heads.agreed, metrics
        )
        self._cached = None
        if cache is not None:
            self._cached = CachedAnswers(
                cache,
                pool=self.name,
                chain_id=self.config.chain_id,
                finality_blocks=self.config.finality_blocks,
                heads=self.heads,
                agreement=self.agreement,
            )
        self._choice = Choice(self.endpoints, self.heads, self.agreement)
        self._round = Round(self, sender, Hedging(sender, self.config.hedge_after_seconds, metrics))
        self._in_flight: dict[_Shared, Work] = {}
        self._busy = 0

    @property
    def several(self) -> bool:
        """Whether there are endpoints to compare and to fall back on."""
        return len(self.endpoints) > 1

    async def start(self, timeout_seconds: float) -> None:
        """Check the chains of all endpoints, waiting at most so long."""
        await self.heads.start(timeout_seconds)
        self._learning.start()

    async def close(self) -> None:
        """Let requests under way end, then close connections."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _MAX_CLOSE_SECONDS
        while self._busy and loop.time() < until:
            await asyncio.sleep(0.05)
        await self._learning.close()
        await self.heads.close()
        await self._upstream.close()

    async def answer(self, calls: Sequence[Call], caller: Caller, usage: Usage) -> list[Answer]:
        """Return an answer to each of ``calls``; where none was to be had, an error with a status."""
        self._busy += 1
        if self.several:
            self.heads.asked()
        try:
            if self._cached is None:
                return await self._answer(calls, caller, usage)
            return await self._cached.answer(calls, usage, lambda rest: self._answer(rest, caller, usage))
        finally:
            self._busy -= 1

    async def _answer(
        self, calls: Sequence[Call], caller: Caller, usage: Usage, until: float | None = None
    ) -> list[Answer]:
        works: list[Work] = []
        mine: list[Work] = []
        keys: list[_Shared] = []
        waited: dict[int, asyncio.Future[Answer | None]] = {}
        in_flight = self._in_flight
        own: set[Work] = set()
        for call in calls:
            key: _Shared = (caller.priority, call.method, call.params)
            work = in_flight.get(key)
            if work is None:
                work = Work(call, route_of(call))
                mine.append(work)
                own.add(work)
                if work.route.repeatable and not work.route.tip:  # what is newest may have changed meanwhile
                    in_flight[key] = work
                    keys.append(key)
            elif work not in own:
                waited[len(works)] = work.followed()
            works.append(work)
        if len(mine) < len(calls):
            self._metrics.shared(self.name, len(calls) - len(mine))
        if until is None:
            until = self._until()
        try:
            await self._settle(mine, caller, usage, until)
        finally:
            for key in keys:
                del in_flight[key]
            for work in mine:
                work.tell_followers()
        answers = [work.answer for work in works]
        if waited:
            for at, future in waited.items():
                answers[at] = await future
            await self._answer_anew(answers, works, waited, caller, usage, until=until)
        return [one or too_late(self, []) for one in answers]

    async def _answer_anew(
        self,
        answers: list[Answer | None],
        works: Sequence[Work],
        waited: Iterable[int],
        caller: Caller,
        usage: Usage,
        *,
        until: float,
    ) -> None:
        """Answer what other callers' requests for the same could not.

        Those that waited for a caller that has gone share one request again. Those that waited for one that
        failed ask for themselves, for it may have had no turn; likewise those that got null, for what was not
        there when it was asked may have come since.
        """
        gone = [at for at in waited if answers[at] is None]
        if gone:
            asked = await self._answer([works[at].call for at in gone], caller, usage, until)
            for at, one in zip(gone, asked, strict=True):
                answers[at] = one
        again = {
            at: Work(works[at].call, works[at].route)
            for at in waited
            if at not in gone
            and (answer := answers[at]) is not None
            and (answer.status != _OK or is_null(answer))
        }
        await self._settle([*again.values()], caller, usage, until)
        for at, own in again.items():
            answers[at] = own.answer

    async def _settle(self, works: Sequence[Work], caller: Caller, usage: Usage, until: float) -> None:
        """Give every work an answer, until a moment."""
        loop = asyncio.get_running_loop()
        turn_until = min(until, loop.time() + self._limits.max_wait_seconds)
        pending = list(works)
        while pending:
            if loop.time() >= until:
                for work in pending:
                    work.answer = too_late(self, work.nulls)
                return
            groups, stuck = await self._choice.groups(pending)
            if groups:
                await self._round.run(groups, caller, usage, turn_until=turn_until, until=until)
            if stuck:
                await self._unstick(stuck, caller, usage, until, pause=not groups)
            pending = [work for work in pending if work.answer is None]

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self._limits.deadline_seconds

    async def _unstick(
        self, stuck: Sequence[Work], caller: Caller, usage: Usage, until: float, *, pause: bool
    ) -> None:
        """Give what no endpoint is left for another pass, after a pause, or its answer."""
        again = []
        split = []
        if not any(one.chain_checked for one in self.endpoints):
            await self.heads.checked()
        is_lost = not any(one.chain_checked for one in self.endpoints)
        for work in stuck:
            if self._choice.all_said_null(work):
                work.answer = _NULL
            elif work.too_many_logs and work.route.logs is not None:
                split.append(self._split(work, work.route.logs, caller, usage, until))
            elif work.error is not None and not work.is_flaky:
                work.answer = work.error
            elif self._choice.nobody_can(work):
                work.answer = work.error or unsupported(self, work)
            elif is_lost or work.passes >= MAX_PASSES:
                work.answer = work.error or all_failed(self, work)
            else:
                work.passes += 1
                work.tried, work.is_flaky = frozenset(), False
                again.append(work)
        await asyncio.gather(*split)
        if again and pause:
            passes = min(work.passes for work in again)
            pause_seconds = _FIRST_WAIT_SECONDS * 2**passes * random.uniform(0.5, 1.0)  # noqa: S311
            await asyncio.sleep(min(pause_seconds, max(0.0, until - asyncio.get_running_loop().time())))

    async def _split(self, work: Work, logs: LogRange, caller: Caller, usage: Usage, until: float) -> None:
        """Answer a range of logs by its parts, some at a time, up to the first that has no logs."""
        await self.heads.refresh()
        logs = up_to_head(logs, self.heads.head)
        size = part_size(logs, self.endpoints)
        if not work.parts.take(-(-logs.width // size)):
            work.answer = too_wide(self, logs.width, size)
            return
        if work.parts.is_first and all(one.log_range is None for one in self.endpoints):
            # What is refused for a single block, too, is not refused for the range.
            work.parts.is_first = False
            call = logs.part(logs.first, logs.first)
            single = Work(call, route_of(call), work.parts)
            await self._settle([single], caller, usage, until)
            if single.answer is None or single.answer.error is not None:
                work.answer = single.answer
                return
        answers: list[Answer | None] = []
        calls = parts_of(logs, size)
        while some := list(islice(calls, _PARTS_AT_ONCE)):
            children = [Work(call, route_of(call), work.parts) for call in some]
            await self._settle(children, caller, usage, until)
            answers += [child.answer for child in children]
            if any(one is None or one.result is None for one in answers[-len(some) :]):
                break
        work.answer = joined(answers)


_NULL: Final = Answer(result=b"null")
