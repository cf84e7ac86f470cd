"""Random schedules of growth and reorganisations, and a follower that must equal the chain after each."""

import random
from dataclasses import dataclass

from tests.support.followers import POOL, Fork, chain_rows, held_rows
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.operators.block_follower.follower import Step
from trace_dagster.operators.block_follower.following import Following
from trace_dagster.operators.services import Services

__all__ = ["Scheduled", "catch_up", "check"]

LOWEST = 12
"""Blocks up to this one are never taken back."""

DEEPEST = 64
SCHEDULES_BETWEEN_CHECKS = 5


def catch_up(follower: Following, opened: Services) -> list[Step]:
    """Run until there is nothing more to do, and return what was done."""
    steps = []
    for step in follower.run(opened, run_id="test", progress=_unexpected):
        if not step.committed and not step.reorg_depth:
            return steps
        steps.append(step)
    raise AssertionError("the follower ended by itself")


def _unexpected(message: str, **fields: object) -> None:
    if not message.startswith("heads by"):
        raise AssertionError(f"{message} {fields}")


def check(follower: Following, opened: Services, head: int) -> None:
    """Compare every row of every table with the node's chain."""
    endpoint = opened.settings.rpc_endpoint(POOL)
    due = chain_rows(endpoint, follower.config.datasets, BlockRange(follower.config.start_block, head))
    for dataset, table in follower.tables.items():
        assert held_rows(opened.ledger, table) == due[dataset], dataset
    state = opened.ledger.follower(follower.key)
    assert state is not None
    assert state.cursor_block == head


@dataclass
class Scheduled:
    """A follower that is run while its chain changes at random, and must see each change.

    Attributes:
        follower: what follows.
        opened: its ledger and endpoint.
        fork: changes the chain.
        draw: what is drawn from.
        reorgs: how many reorganisations there were to be seen so far.
    """

    follower: Following
    opened: Services
    fork: Fork
    draw: random.Random
    reorgs: int = 0

    def run(self, schedules: int) -> None:
        """Do so many, and compare tables and counters with the chain."""
        self.fork.grow(80)
        catch_up(self.follower, self.opened)
        for number in range(1, schedules + 1):
            self._schedule()
            if number % SCHEDULES_BETWEEN_CHECKS == 0 or number == schedules:
                check(self.follower, self.opened, self.fork.head - self.follower.config.confirmations)
        state = self.opened.ledger.follower(self.follower.key)
        assert state is not None
        recorded = self.opened.ledger.reorgs_of(self.follower.key)
        assert (state.reorgs or 0) == self.reorgs == len(recorded)
        assert (state.deepest_reorg or 0) == max((one.depth for one in recorded), default=0)
        assert (state.deepest_reorg or 0) <= self.follower.config.max_reorg_depth

    def _schedule(self) -> None:
        draw, fork = self.draw, self.fork
        for _ in range(draw.randint(1, 4)):
            depth = draw.choice((0, 0, 1, 1, 2, 3, draw.randint(1, DEEPEST)))
            before = fork.head
            if depth:
                fork.roll_back(min(depth, before - LOWEST))
            fork.grow(draw.choice((0, 1, 2, depth, depth + 1)))
            if draw.random() < 0.5:
                self._catch_up()
        state = self.opened.ledger.follower(self.follower.key)
        assert state is not None
        # A chain that only went back, or came out the same, is a provider that lags, until it goes on.
        behind = self.follower.config.confirmations
        fork.grow(max(1, (state.cursor_block or 0) + 1 + behind - fork.head))
        self._catch_up()

    def _catch_up(self) -> None:
        """Catch up, and compare with how many reorganisations there were to be seen since the last time."""
        due = self._leaves()
        done = sum(one.reorg_depth > 0 for one in catch_up(self.follower, self.opened))
        assert done == due
        self.reorgs += done

    def _leaves(self) -> bool:
        """Whether the node's chain has another block than the follower, where both have one."""
        state = self.opened.ledger.follower(self.follower.key)
        assert state is not None
        assert state.cursor_block is not None
        number = min(state.cursor_block, self.fork.head)
        block = self.fork.chain.anvil.call("eth_getBlockByNumber", hex(number), False)  # noqa: FBT003
        held = self.opened.ledger.followed_blocks(self.follower.key, BlockRange(number, number))
        return f"0x{held[number].hex()}" != block["hash"]
