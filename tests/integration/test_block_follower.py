"""The follower of the chain tip against a real node: whatever the chain did, the tables equal it."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.followers import POOL, Fork, chain_rows, following, services
from tests.support.schedules import Scheduled, catch_up, check
from tests.support.small_chain import SmallChain, small_chain
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.cli import main as trace
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


@pytest.mark.parametrize("is_replacing", [False, True])
def test_a_cold_start_catches_up_and_a_second_one_goes_on(
    chain: SmallChain, opened: Services, is_replacing: bool
) -> None:
    """From start_block on, in batches; the cursor is the ledger's."""
    fork = Fork(chain, seeded(1))
    follower = following(f"cold_{is_replacing:d}", is_replacing=is_replacing, start_block=2, batch_blocks=3)
    steps = catch_up(follower, opened)
    assert [one.committed for one in steps[:-1]] == [3] * (len(steps) - 1)
    check(follower, opened, fork.head)
    fork.grow(3)
    assert [one.committed for one in catch_up(follower, opened)] == [3]
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
    catch_up(follower, opened)
    head = Fork(chain, seeded(0)).head

    def status(*options: str) -> str:
        result = CliRunner().invoke(trace, ["status", *options], env={"TRACE_HOME": str(trace_home)})
        assert result.exit_code == 0, result.output
        return result.output

    (row,) = (one for one in json.loads(status("--json"))["followers"] if one["follower"] == "shown/tip")
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
    catch_up(follower, opened)
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
    catch_up(follower, opened)
    old_head = fork.head
    old = chain_rows(opened.settings.rpc_endpoint(POOL), ("blocks",), BlockRange(old_head - 3, old_head))
    fork.roll_back(4)
    fork.grow(6)
    (step,) = catch_up(follower, opened)
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
    follower = following(
        f"random_{is_replacing:d}", is_replacing=is_replacing, **{"start_block": 1, **config}
    )
    scheduled = Scheduled(follower, opened, Fork(chain, draw), draw)
    scheduled.run(100)
    assert scheduled.reorgs > 20
    state = opened.ledger.follower(follower.key)
    assert state is not None
    assert (state.deepest_reorg or 0) > 1


def test_more_confirmations_take_back_what_was_orphaned(chain: SmallChain, opened: Services) -> None:
    """Rows above the new target are compared with the chain, too, before it has grown past them."""
    fork = Fork(chain, seeded(6))
    fork.grow(6)
    catch_up(following("patient", start_block=1), opened)
    fork.roll_back(3)
    chain.anvil.call("evm_increaseTime", 1000)  # or the same blocks might come again
    for _ in range(4):
        chain.busy_block()
    follower = following("patient", start_block=1, confirmations=4)
    (step,) = catch_up(follower, opened)
    assert step.reorg_depth == 3
    check(follower, opened, fork.head - 4)
