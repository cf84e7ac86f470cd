"""The follower of the chain tip against a real node: whatever the chain did, the tables equal it."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.followers import POOL, Fork, chain_rows, following, held_rows, services
from tests.support.small_chain import SmallChain, small_chain
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.cli import main as trace
from trace_dagster.operators.block_follower.follower import Step
from trace_dagster.operators.block_follower.following import Following
from trace_dagster.operators.services import Services
from trace_dagster.translator.followers import _lag_result


@pytest.fixture(scope="module")
def chain() -> Iterator[SmallChain]:
    """A node whose chain the tests change."""
    with small_chain() as built:
        yield built


@pytest.fixture(scope="module")
def opened(chain: SmallChain, trace_home: Path) -> Iterator[Services]:
    """Ledger and endpoint."""
    with services(trace_home, chain.anvil.url) as services_:
        yield services_


def seeded(seed: int) -> random.Random:
    """Return a source of the same draws every time."""
    return random.Random(seed)  # noqa: S311


def caught_up(follower: Following, opened: Services) -> list[Step]:
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


@pytest.mark.parametrize("is_replacing", [False, True])
def test_a_cold_start_catches_up_and_a_second_one_goes_on(
    chain: SmallChain, opened: Services, is_replacing: bool
) -> None:
    """From start_block on, in batches; the cursor is the ledger's."""
    fork = Fork(chain, seeded(1))
    follower = following(f"cold_{is_replacing:d}", is_replacing=is_replacing, start_block=2, batch_blocks=3)
    steps = caught_up(follower, opened)
    assert [one.committed for one in steps[:-1]] == [3] * (len(steps) - 1)
    check(follower, opened, fork.head)
    fork.grow(3)
    assert [one.committed for one in caught_up(follower, opened)] == [3]
    check(follower, opened, fork.head)
    with opened.ledger.connection() as connection:
        views = connection.execute(
            "SELECT viewname FROM pg_views WHERE schemaname = %s", [follower.dag]
        ).fetchall()
        assert {row["viewname"] for row in views} == (
            set() if is_replacing else {f"tip_{dataset}_canonical" for dataset in follower.config.datasets}
        )


def test_status_shows_every_follower(chain: SmallChain, opened: Services, trace_home: Path) -> None:
    """As a table, as JSON, and as metrics."""
    follower = following("shown", start_block=1)
    caught_up(follower, opened)
    head = Fork(chain, seeded(0)).head

    def status(*options: str) -> str:
        result = CliRunner().invoke(trace, ["status", *options], env={"TRACE_HOME": str(trace_home)})
        assert result.exit_code == 0, result.output
        return result.output

    (row,) = (one for one in json.loads(status("--json")) if one["follower"] == "shown/tip")
    assert (row["head_block"], row["cursor_block"], row["lag_blocks"]) == (head, head, 0)
    assert (row["chain_id"], row["errors"], row["last_error"]) == (31337, 0, None)
    assert row["cursor_age_seconds"] >= 0
    labels = '{follower="shown/tip",chain_id="31337"}'
    metrics = status("--prometheus")
    assert f"\ntrace_follower_cursor_block{labels} {head}\n" in metrics
    assert f"\ntrace_follower_blocks_total{labels} {head}\n" in metrics
    assert "# TYPE trace_follower_reorgs_total counter" in metrics
    assert str(head) in status()


def test_the_lag_check(opened: Services) -> None:
    """Nothing committed, and an old block, are failures with the numbers."""
    follower = following("lagging", start_block=1)
    assert _lag_result(None, 10).passed is False
    caught_up(follower, opened)
    state = opened.ledger.follower(follower.key)
    assert state is not None
    assert state.cursor_time is not None
    age = (datetime.now(UTC) - state.cursor_time).total_seconds()
    assert _lag_result(state, age + 3600).passed is True
    late = _lag_result(state, 1e-9)
    assert late.passed is False
    assert f"block {state.cursor_block} is " in (late.description or "")


def test_a_reorganisation_is_followed_and_recorded(chain: SmallChain, opened: Services) -> None:
    """The old branch's rows go in the transaction that the new one's come in; what was orphaned is known."""
    fork = Fork(chain, seeded(2))
    fork.grow(12)
    follower = following("reorg", start_block=1)
    caught_up(follower, opened)
    old_head = fork.head
    old = chain_rows(opened.settings.rpc_endpoint(POOL), ("blocks",), BlockRange(old_head - 3, old_head))
    fork.roll_back(4)
    fork.grow(6)
    (step,) = caught_up(follower, opened)
    assert (step.reorg_depth, step.committed) == (4, 6)
    check(follower, opened, fork.head)
    (reorg,) = opened.ledger.reorgs_of("reorg/tip")
    assert (reorg.ancestor_block, reorg.old_cursor_block, reorg.new_cursor_block, reorg.depth) == (
        old_head - 4,
        old_head,
        old_head + 2,
        4,
    )
    orphaned = opened.ledger.orphaned_blocks("reorg/tip")
    assert [one.block_hash for one in orphaned] == [one["block_hash"] for one in old["blocks"]]
    assert all(one.replaced_by is not None for one in orphaned)
    (stale,) = opened.ledger.invalidations("reorg", "tip")
    assert (stale.start_block, stale.end_block, stale.reason) == (old_head - 3, old_head, "reorg")


@pytest.mark.parametrize(
    ("is_replacing", "config"),
    [(False, {}), (True, {"confirmations": 2, "batch_blocks": 5, "start_block": 9})],
    ids=["append", "replace"],
)
def test_random_schedules(
    chain: SmallChain, opened: Services, *, is_replacing: bool, config: dict[str, int]
) -> None:
    """Growth, reorganisations of up to 64 blocks, heads that go back: afterwards the tables are the chain."""
    draw = seeded(3)
    fork = Fork(chain, draw)
    fork.grow(80)
    follower = following(
        f"random_{is_replacing:d}", is_replacing=is_replacing, **{"start_block": 1, **config}
    )
    caught_up(follower, opened)
    behind = follower.config.confirmations
    reorgs = 0

    def catch_up() -> int:
        """Catch up, and return how many reorganisations there were to be seen since the last time."""
        due = leaves(opened, follower, fork)
        done = sum(one.reorg_depth > 0 for one in caught_up(follower, opened))
        assert done == due
        return done

    for schedule in range(100):
        for _ in range(draw.randint(1, 4)):
            depth = draw.choice((0, 0, 1, 1, 2, 3, draw.randint(1, 64)))
            before = fork.head
            if depth:
                fork.roll_back(min(depth, before - 12))
            fork.grow(draw.choice((0, 1, 2, depth, depth + 1)))
            if draw.random() < 0.5:
                reorgs += catch_up()
        state = opened.ledger.follower(follower.key)
        assert state is not None
        # A chain that only went back, or came out the same, is a provider that lags, until it goes on.
        fork.grow(max(1, (state.cursor_block or 0) + 1 + behind - fork.head))
        reorgs += catch_up()
        if schedule % 5 == 4:
            check(follower, opened, fork.head - behind)
    state = opened.ledger.follower(follower.key)
    assert state is not None
    assert state.reorgs == reorgs == len(opened.ledger.reorgs_of(follower.key))
    assert 1 < (state.deepest_reorg or 0) <= follower.config.max_reorg_depth


def leaves(opened: Services, follower: Following, fork: Fork) -> bool:
    """Whether the node's chain has another block than the follower, where both have one."""
    state = opened.ledger.follower(follower.key)
    assert state is not None
    assert state.cursor_block is not None
    number = min(state.cursor_block, fork.head)
    block = fork.chain.anvil.call("eth_getBlockByNumber", hex(number), False)  # noqa: FBT003
    held = opened.ledger.followed_blocks(follower.key, BlockRange(number, number))
    return f"0x{held[number].hex()}" != block["hash"]


def test_more_confirmations_take_back_what_was_orphaned(chain: SmallChain, opened: Services) -> None:
    """Rows above the new target are compared with the chain, too, before it has grown past them."""
    fork = Fork(chain, seeded(6))
    fork.grow(6)
    caught_up(following("patient", start_block=1), opened)
    fork.roll_back(3)
    chain.anvil.call("evm_increaseTime", 1000)  # or the same blocks might come again
    for _ in range(4):
        chain.busy_block()
    follower = following("patient", start_block=1, confirmations=4)
    (step,) = caught_up(follower, opened)
    assert step.reorg_depth == 3
    check(follower, opened, fork.head - 4)
