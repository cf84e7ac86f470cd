"""Whether the endpoints of a pool agree about the hash of a block; the majority is believed."""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from trace_dagster.rpc.gateway.endpoint import Endpoint
from trace_dagster.rpc.gateway.faults import FaultKind
from trace_dagster.rpc.gateway.jsonrpc import Call
from trace_dagster.rpc.gateway.judging import Claim, hash_in_header
from trace_dagster.rpc.gateway.metrics import Metrics
from trace_dagster.rpc.gateway.records import Usage
from trace_dagster.rpc.gateway.sending import Sender

__all__ = ["Agreement", "Belief", "compared"]

_MAX_KNOWN: Final = 100_000
# Above finality a hash that was agreed upon may be reorganised away.
_TIP_SECONDS: Final = 3.0
_EXCLUDED_SECONDS: Final = 120.0
# Of one answer so many blocks are compared, evenly spread; workers check the rest by its content.
_MAX_COMPARED: Final = 64

# So often those who look the same block up are waited for, rather than looking oneself.
_MOST_LOOKS: Final = 4

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of a claim.

    Attributes:
        holds: whether the answer may be handed out.
        why: where not: that it was outvoted, or that no majority agrees.
    """

    holds: bool
    why: str = ""


_HOLDS: Final = Belief(holds=True)


@dataclass(slots=True)
class _Known:
    block_hash: str
    until: float
    """Moment after which it is looked up again."""


@dataclass(slots=True)
class Agreement:
    """What the endpoints of one pool say about hashes.

    Args:
        endpoints: all of them.
        sender: how they are asked.
        finality_blocks: so far below the head a disagreement is an alarm.
        head: returns the block from which finality is counted.
        metrics: where disagreements are counted.

    Attributes:
        alarms: by block, what endpoints said that disagree below finality; the newest ones.
        disagreements: how many blocks they disagreed about.
    """

    endpoints: Sequence[Endpoint]
    sender: Sender
    finality_blocks: int
    head: Callable[[], int | None]
    metrics: Metrics
    _known: OrderedDict[int, _Known] = field(default_factory=OrderedDict)
    _asking: dict[int, asyncio.Future[None]] = field(default_factory=dict)
    _voting: dict[int, "asyncio.Task[None]"] = field(default_factory=dict)
    _excluded: dict[int, dict[Endpoint, float]] = field(default_factory=dict)
    alarms: OrderedDict[int, str] = field(default_factory=OrderedDict)
    disagreements: int = 0

    @property
    def is_undecided(self) -> bool:
        """Whether there is a block below finality about which no majority agrees."""
        return any(number not in self._known for number in self.alarms)

    def excludes(self, endpoint: Endpoint, first: int, last: int, now: float) -> bool:
        """Whether ``endpoint`` was outvoted about a block of a range."""
        if not self._excluded:
            return False
        for number in [one for one, by in self._excluded.items() if max(by.values()) <= now]:
            del self._excluded[number]
        return any(
            first <= number <= last and by.get(endpoint, 0.0) > now for number, by in self._excluded.items()
        )

    async def believe(self, source: Endpoint, claims: Sequence[Claim], usage: Usage) -> Belief:
        """Return whether what an answer of ``source`` says of blocks is what the others say, too.

        ``look_up`` was called with the same claims before, and perhaps with those of other answers.
        """
        for claim in claims:
            known = self._known.get(claim.number)
            if known is None or known.block_hash == claim.block_hash:
                continue
            await self._vote(claim.number, source, claim.block_hash, usage)
            known = self._known.get(claim.number)
            if known is not None and known.block_hash != claim.block_hash:
                self.exclude(source, claim.number)
                return Belief(holds=False, why=f"block {claim.number} has another hash at most endpoints")
        undecided = [one for one in claims if one.number in self.alarms and one.number not in self._known]
        if undecided:
            return Belief(holds=False, why=self.alarms[undecided[0].number])
        return _HOLDS

    async def look_up(self, source: Endpoint, claims: Sequence[Claim], usage: Usage) -> None:
        """Compare claims about blocks that are not known yet with one further endpoint's headers."""
        for _ in range(_MOST_LOOKS):
            if not await self._look_up(source, claims, usage):
                return

    async def _look_up(self, source: Endpoint, claims: Sequence[Claim], usage: Usage) -> bool:
        """Return whether others looked some of it up meanwhile, which may have been given up."""
        now = asyncio.get_running_loop().time()
        new = {
            claim.number: claim.block_hash
            for claim in claims
            if (known := self._known.get(claim.number)) is None or known.until <= now
        }
        under_way = [self._asking[number] for number in new if number in self._asking]
        mine = {number: block_hash for number, block_hash in new.items() if number not in self._asking}
        if mine:
            done = asyncio.get_running_loop().create_future()
            self._asking.update(dict.fromkeys(mine, done))
            try:
                await self._compare(source, mine, usage)
                if any(self.is_final(number) and number not in self._known for number in mine):
                    self.sender.count(source, FaultKind.UNCONFIRMED)
            finally:
                done.set_result(None)
                for number in mine:
                    del self._asking[number]
        for future in under_way:
            await asyncio.shield(future)
        return bool(under_way)

    async def _compare(self, source: Endpoint, claimed: dict[int, str], usage: Usage) -> None:
        left = dict(claimed)
        now = asyncio.get_running_loop().time()
        others = [one for one in self.endpoints if one is not source and one.is_up(now)]
        while left and others:
            able, numbers = self._ablest(others, left, now)
            if not able:
                return
            answers, asked = await self.sender.ask(able, [_header_of(one) for one in numbers], usage)
            others = [one for one in others if one not in asked]
            contested = []
            for number, answer in zip(numbers, answers, strict=True):
                said = hash_in_header(answer, number)
                if said is None:
                    continue
                if said == left[number]:
                    self._learn(number, said)
                else:
                    contested.append(number)
                del left[number]
            votes = (self._vote(number, source, claimed[number], usage) for number in contested)
            await asyncio.gather(*votes)
            if not asked:
                return

    def _ablest(
        self, others: Sequence[Endpoint], left: Iterable[int], now: float
    ) -> tuple[tuple[Endpoint, ...], list[int]]:
        """Return endpoints that can be asked about some of the blocks, and those blocks."""
        by_able: dict[tuple[Endpoint, ...], list[int]] = {}
        for number in left:
            able = tuple(
                one
                for one in others
                if one.has(number) is not False and not self.excludes(one, number, number, now)
            )
            by_able.setdefault(able, []).append(number)
        return max(by_able.items(), key=lambda item: (len(item[0]), len(item[1])))

    async def _vote(self, number: int, source: Endpoint, claimed: str, usage: Usage) -> None:
        """Ask every endpoint for a block's hash, and believe the majority."""
        task = self._voting.get(number)
        if task is None:
            task = self._voting[number] = asyncio.create_task(self._count(number, source, claimed, usage))
            task.add_done_callback(lambda _: self._voting.pop(number, None))
        await asyncio.shield(task)

    async def _count(self, number: int, source: Endpoint, claimed: str, usage: Usage) -> None:
        now = asyncio.get_running_loop().time()
        voters = [one for one in self.endpoints if one.is_up(now) and one.has(number) is not False]
        votes = await self._votes(number, voters, usage)
        self._known.pop(number, None)
        if not votes:
            return
        winner, count = Counter(votes.values()).most_common(1)[0]
        is_decided = 2 * count > len(votes)
        said_before = votes if source in votes else {**votes, source: claimed}
        if len(set(said_before.values())) > 1:
            self._tell(number, said_before, winner if is_decided else None)
        if is_decided:
            self._learn(number, winner)
            for voter, said in votes.items():
                if said != winner:
                    self.exclude(voter, number)

    async def _votes(self, number: int, voters: Sequence[Endpoint], usage: Usage) -> dict[Endpoint, str]:
        """Return what endpoints say, as soon as the others could not change which hash most have."""

        async def vote(voter: Endpoint) -> tuple[Endpoint, str | None]:
            (answer,), _ = await self.sender.ask((voter,), [_header_of(number)], usage)
            return voter, hash_in_header(answer, number)

        votes: dict[Endpoint, str] = {}
        left = {asyncio.create_task(vote(one)) for one in voters}
        try:
            while left and 2 * max(Counter(votes.values()).values(), default=0) <= len(voters):
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                votes.update(
                    (voter, said) for voter, said in (task.result() for task in done) if said is not None
                )
        finally:
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        return votes

    def _tell(self, number: int, votes: dict[Endpoint, str], winner: str | None) -> None:
        if not self.is_final(number) or number in self.alarms:
            return
        said = ", ".join(f"{voter.name} says {block_hash}" for voter, block_hash in votes.items())
        which = "no majority" if winner is None else f"most say {winner}"
        self.alarms[number] = f"endpoints disagree about block {number}, below finality: {said}; {which}"
        while len(self.alarms) > _MAX_COMPARED:
            self.alarms.popitem(last=False)
        self.disagreements += 1
        self.metrics.disagreement(self.sender.pool)
        _logger.error("pool %s: %s", self.sender.pool, self.alarms[number])

    def exclude(self, endpoint: Endpoint, number: int) -> None:
        """Count that ``endpoint`` was outvoted, and do not ask it about that block for a while."""
        self.sender.count(endpoint, FaultKind.DISAGREES)
        until = asyncio.get_running_loop().time() + (
            _EXCLUDED_SECONDS if self.is_final(number) else _TIP_SECONDS
        )
        self._excluded.setdefault(number, {})[endpoint] = until

    def is_final(self, number: int) -> bool:
        """Whether a block is below finality."""
        head = self.head()
        return head is not None and number <= head - self.finality_blocks

    def _learn(self, number: int, block_hash: str) -> None:
        now = asyncio.get_running_loop().time()
        until = float("inf") if self.is_final(number) else now + _TIP_SECONDS
        self._known[number] = _Known(block_hash, until)
        self._known.move_to_end(number)
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)


def compared(claims: Sequence[Claim]) -> Sequence[Claim]:
    """Return those claims of one answer that are compared: all, or some evenly spread."""
    if len(claims) <= _MAX_COMPARED:
        return claims
    return [claims[at * (len(claims) - 1) // (_MAX_COMPARED - 1)] for at in range(_MAX_COMPARED)]


def _header_of(number: int) -> Call:
    return Call("eth_getBlockByNumber", msgspec.json.encode([hex(number), False]))
