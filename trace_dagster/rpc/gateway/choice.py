"""Which endpoints may be asked for what: in rotation, with the block, able to, and not tried already."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trace_dagster.rpc.gateway.agreement import Agreement
from trace_dagster.rpc.gateway.endpoint import Endpoint
from trace_dagster.rpc.gateway.heads import Heads
from trace_dagster.rpc.gateway.methods import MAY_BE_NULL
from trace_dagster.rpc.gateway.records import Work

__all__ = ["Choice", "Groups"]

# Rather than wait longer for an untried endpoint, one that failed by chance is asked again.
_SOON_SECONDS: Final = 0.02
_WORTH_WAITING_SECONDS: Final = 5.0

Groups = dict[tuple[Endpoint, ...], list[Work]]


@dataclass(frozen=True, slots=True)
class Choice:
    """Chooses among the endpoints of one pool.

    Args:
        endpoints: all of them.
        heads: where they are.
        agreement: who was outvoted about what.
    """

    endpoints: tuple[Endpoint, ...]
    heads: Heads
    agreement: Agreement

    async def groups(self, works: Sequence[Work]) -> tuple[Groups, list[Work]]:
        """Return the works by the endpoints that may be asked, and those for which there is none."""
        if len(self.endpoints) > 1:
            highest = max(
                (work.route.highest for work in works if work.route.highest is not None), default=-1
            )
            head = self.heads.head
            if head is None or highest > head:
                await self.heads.refresh()
        now = asyncio.get_running_loop().time()
        head = self.heads.head
        groups: Groups = {}
        stuck = []
        for work in works:
            eligible = self._eligible(work, head, now)
            if eligible:
                groups.setdefault(eligible, []).append(work)
            else:
                stuck.append(work)
        return groups, stuck

    def all_said_null(self, work: Work) -> bool:
        """Whether every endpoint that should know answered null.

        A block below the head is somewhere: for that, those that are out of rotation count as well.
        """
        now = asyncio.get_running_loop().time()
        head = self.heads.head
        must_be = self._must_be(work)
        should_know = {
            one
            for one in self.endpoints
            if (one.chain_checked or must_be)
            and one.can(work.call.method, work.route, now)
            and self._is_there(one, work, head)
            and (must_be or (one not in work.doubted and self._can_be_asked(one, now)))
        }
        return bool(work.nulls) and should_know <= work.nulls

    def _can_be_asked(self, endpoint: Endpoint, now: float) -> bool:
        """Whether it is in rotation, and not paused for longer than a doubt is worth."""
        return endpoint.is_up(now) and not endpoint.is_paused(now, _WORTH_WAITING_SECONDS)

    def _must_be(self, work: Work) -> bool:
        """Whether there is something of which null is not true."""
        agreed, highest = self.heads.agreed, work.route.highest
        known = self.heads.head if agreed is None else agreed
        if known is None or highest is None or highest > known:
            return False
        return work.call.method not in MAY_BE_NULL

    def nobody_can(self, work: Work) -> bool:
        """Whether every endpoint is known to lack what the request needs."""
        now = asyncio.get_running_loop().time()
        return not any(one.can(work.call.method, work.route, now) for one in self.endpoints)

    def _eligible(self, work: Work, head: int | None, now: float) -> tuple[Endpoint, ...]:
        method, route = work.call.method, work.route
        left = [
            one
            for one in self.endpoints
            if one not in work.tried
            and one not in work.nulls
            and one.is_up(now)
            and one.can(method, route, now)
        ]
        if len(self.endpoints) > 1:
            left = [
                one for one in left if self._is_there(one, work, head) and self._is_trusted(one, work, now)
            ]
        if route.logs is not None and (width := route.logs.width) > 1:
            fitting = [one for one in left if one.log_range is None or one.log_range >= width]
            work.too_many_logs |= len(fitting) < len(left)
            left = fitting
        if left and work.tried and work.may_try_again and not _is_ready(left, method, now):
            return ()
        # Whoever is paused is waited for only where nobody else can be asked, or has answered.
        free = [one for one in left if not one.is_paused(now)]
        if not free and (work.nulls or work.error is not None):  # there is an answer, if a doubtful one
            free = [one for one in left if self._can_be_asked(one, now)]
        elif not free:
            free = left
        left = free
        if len(left) > 1:
            tier = min(one.tier for one in left)
            left = [one for one in left if one.tier == tier]
        return tuple(left)

    def _is_there(self, endpoint: Endpoint, work: Work, head: int | None) -> bool:
        """Whether it has the block; of what is newer than every head, those at the head say.

        One that claims to be above the head is far above all others: it is not asked for what is new.
        """
        if endpoint.head is None or head is None:
            return True
        wanted = head if work.route.tip or work.route.settled else work.route.highest
        if wanted is None:
            return True
        return min(wanted, head) <= endpoint.head and (endpoint.head <= head or wanted < head)

    def _is_trusted(self, endpoint: Endpoint, work: Work, now: float) -> bool:
        route = work.route
        if route.logs is not None:
            return not self.agreement.excludes(endpoint, route.logs.first, route.logs.last, now)
        return route.block is None or not self.agreement.excludes(endpoint, route.block, route.block, now)


def _is_ready(endpoints: Sequence[Endpoint], method: str, now: float) -> bool:
    return any(key.ready_at(method, now) <= now + _SOON_SECONDS for one in endpoints for key in one.keys)
