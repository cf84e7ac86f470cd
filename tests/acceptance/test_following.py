"""A follower in a running Dagster: its sensor keeps one run alive, over crashes and reorganisations."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.support.followers import chain_rows, following, held_rows, services
from tests.support.project import REPOSITORY, Project
from tests.support.stack import Materialized, Stack, running_stack
from trace_dagster import metadata
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.store import scan_polars
from trace_dagster.testing.anvil import Anvil, running_anvil


def dag(name: str, *, pool: str = "tip", **config: object) -> str:
    """Return a DAG of one follower."""
    given = "".join(f"\n      {key}: {value}" for key, value in config.items())
    return f"""\
name: {name}
defaults: {{ heartbeat_timeout_seconds: 5 }}
jobs:
  - name: tip
    activation: source
    runtime: ecs_platform
    operator: block_follower
    source: {{ kind: always_on }}
    config:
      chain_id: 31337
      rpc_pool: {pool}
      start_block: 1
      datasets: [blocks, transactions, logs]{given}
    outputs: 3
    update_strategy: append
    unique_key: [chain_id, block_hash]
"""


AGGREGATED = """\
  - name: full
    activation: reactive
    runtime: dispatcher
    operator: range_aggregator
    execution_strategy: PerUpdate
    inputs: [ { from: { job: tip, output: 0 } } ]
    config: { range_size: 10, finality_blocks: 5 }
    outputs: 1
    update_strategy: replace
  - name: cold
    activation: reactive
    runtime: ecs_platform
    operator: cryo_ingest
    execution_strategy: PerPartition
    inputs: [ { from: { job: full, output: 0 } } ]
    config: { chain_id: 31337, datasets: [blocks, logs], rpc_pool: tip, engine: native }
    outputs: 2
    update_strategy: replace
"""


ACTIVITY = """\
  - name: activity
    activation: reactive
    runtime: dispatcher
    operator: activity
    execution_strategy: PerUpdate
    inputs: [ { from: { job: tip, output: 0 } }, { from: { job: tip, output: 1 } } ]
    outputs: 1
    update_strategy: append
    unique_key: [block_hash]
"""


def install_operators(project: Project) -> None:
    """Let the project's processes find the operators of ``tests.support.activity`` as those of a package."""
    facts = project.root / "plugins" / "trace_activity-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: trace-activity\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[trace_dagster.operators]\nactivity = tests.support.activity:Activity\n"
    )
    project.settings["PYTHONPATH"] = f"{facts.parent}:{REPOSITORY}"


@dataclass(frozen=True)
class Followed:
    """A running Dagster that follows a chain of a block a second."""

    stack: Stack
    anvil: Anvil

    def head(self) -> int:
        """The node's newest block."""
        return int(self.anvil.call("eth_blockNumber"), 16)

    def cursor(self, name: str) -> int:
        """How far a DAG's follower is."""
        project = self.stack.project
        with services(project.home, self.anvil.url) as opened:
            state = opened.ledger.follower(f"{name}/tip")
        return -1 if state is None or state.cursor_block is None else state.cursor_block

    def wait_beyond(self, name: str, block: int) -> int:
        """Wait until the follower is behind a block, and return how far it is."""

        def look() -> int | None:
            cursor = self.cursor(name)
            return cursor if cursor > block else None

        return self.stack.wait_for(f"{name} behind block {block}", look)

    def settled(self, name: str) -> int:
        """Wait until the follower is on the node's branch, at a block mined from now on; return which."""
        head = self.head()

        def look() -> int | None:
            with services(self.stack.project.home, self.anvil.url) as opened:
                state = opened.ledger.follower(f"{name}/tip")
            if state is None or state.cursor_block is None or state.cursor_hash is None:
                return None
            block = self.anvil.call("eth_getBlockByNumber", hex(state.cursor_block), False)  # noqa: FBT003
            is_same = block is not None and block["hash"] == f"0x{state.cursor_hash.hex()}"
            return state.cursor_block if is_same and state.cursor_block > head else None

        return self.stack.wait_for(f"{name} on the branch of block {head}", look)

    def alive(self, name: str) -> list[str]:
        """The runs of a follower that have not ended."""
        runs = self.stack.runs_with(metadata.FOLLOWER_TAG, f"{name}/tip")
        return [run for run, status in runs.items() if status not in ("SUCCESS", "FAILURE", "CANCELED")]


@pytest.fixture(scope="module")
def followed(new_project: Callable[[str], Project]) -> Iterator[Followed]:
    """Start chain and Dagster; the sensors run by default."""
    with running_anvil("--block-time", "1") as anvil:
        project = new_project("following")
        project.settings["TRACE_RPC_POOL_TIP_URL"] = anvil.url
        project.write("rotating.yaml", dag("rotating", run_seconds=6))
        install_operators(project)
        project.write("killed.yaml", dag("killed") + ACTIVITY)
        project.write("ticking.yaml", dag("ticking", follow="tick"))
        project.write("aggregated.yaml", dag("aggregated", finality=200) + AGGREGATED)
        project.write("lonely.yaml", dag("lonely", pool="unknown"))
        with running_stack(project) as stack:
            yield Followed(stack, anvil)


def test_a_run_that_is_old_is_replaced(followed: Followed) -> None:
    """Runs follow each other, one at a time, and the cursor goes on; each told Dagster how far it came."""
    name = "rotating"

    def look() -> bool | None:
        assert len(followed.alive(name)) <= 1
        runs = followed.stack.runs_with(metadata.FOLLOWER_TAG, f"{name}/tip")
        return True if list(runs.values()).count("SUCCESS") >= 2 else None

    followed.stack.wait_for("two runs", look)
    followed.wait_beyond(name, followed.cursor(name))
    told = followed.stack.latest_metadata([name, "tip", "blocks"])
    assert told[metadata.CURSOR] > 0
    assert told[metadata.HEAD] - told[metadata.CURSOR] == told[metadata.LAG_BLOCKS]
    assert told[metadata.LAG_SECONDS] is not None


def test_a_killed_worker_is_replaced(followed: Followed) -> None:
    """The sensor asks for another run, which waits for the dead one's lease and goes on behind its cursor."""
    before = followed.wait_beyond("killed", 3)
    (run_id,) = followed.alive("killed")
    os.kill(followed.stack.worker_of(run_id), signal.SIGKILL)
    followed.wait_beyond("killed", before + 5)
    assert followed.stack.run(run_id)["status"] == "FAILURE"
    assert len(followed.alive("killed")) == 1


def test_a_reorganisation_is_told_at_once(followed: Followed) -> None:
    """Dagster shows how many there were, and how deep the deepest was."""
    followed.wait_beyond("killed", 8)

    def look() -> int | None:
        told = followed.stack.latest_metadata(["killed", "tip", "logs"])  # the last of the three to be told
        if told.get(metadata.REORGS):
            return int(told[metadata.DEEPEST_REORG])
        if followed.cursor("killed") == followed.head():  # else it has not seen what is taken away
            followed.anvil.call("anvil_rollback", 3)
        return None

    assert followed.stack.wait_for("the reorganisation", look) >= 1
    told = followed.stack.latest_metadata(["killed", "tip", "blocks"])
    assert told[metadata.REORGS] >= 1
    assert metadata.LAST_REORG in told


def test_ticks_follow_too(followed: Followed) -> None:
    """Each run does what was new, and ends."""
    followed.wait_beyond("ticking", followed.wait_beyond("ticking", 0))
    runs = followed.stack.runs_with(metadata.FOLLOWER_TAG, "ticking/tip")
    assert "SUCCESS" in runs.values()
    assert "FAILURE" not in runs.values()


def test_full_ranges_are_ingested_once_and_in_order(followed: Followed) -> None:
    """What the follower has, and is final, lands in the object store by itself, range by range."""
    path = ["aggregated", "cold", "blocks"]

    def look() -> list[Materialized] | None:
        found = followed.stack.materializations(path)
        return found if len(found) >= 2 else None

    found = followed.stack.wait_for("two ranges", look)
    partitions = [one.partition for one in reversed(found)]
    assert len(partitions) == len(set(partitions))
    starts = sorted(BlockRange.parse(key).start_block for key in partitions)
    assert starts == list(range(10, 10 * len(starts) + 1, 10))  # 0_9 lacks the first block
    assert not any(one.kept for one in found)
    recorded = followed.stack.materializations(["aggregated", "full", "ranges"])
    assert {one.partition for one in recorded} >= set(partitions)


def test_a_deep_reorganisation_is_ingested_anew(followed: Followed) -> None:
    """Ranges that were taken for final, and changed, are made stale and again; those before them are not."""
    path = ["aggregated", "cold", "blocks"]
    stack = followed.stack

    def given() -> list[str]:
        found = {one.partition for one in stack.materializations(path)}
        return sorted(found, key=lambda key: BlockRange.parse(key).start_block)

    *before, last = stack.wait_for("two ranges", lambda: found if len(found := given()) >= 2 else None)
    followed.wait_beyond("aggregated", followed.head() - 1)
    changed = BlockRange.parse(last)
    # By the head of this very moment: that of a few seconds ago would leave the range as it is.
    followed.anvil.call("anvil_rollback", followed.head() - changed.start_block - 5)

    def again() -> list[Materialized] | None:
        found = [one for one in stack.materializations(path) if one.partition == last]
        return found if len(found) >= 2 else None

    found = stack.wait_for("the range once more", again)
    assert [one.kept for one in found] == [False, False]
    assert stack.stale_statuses(path, [last]) == ["FRESH"]
    events = stack.materializations(["aggregated", "full", "ranges"])
    assert [one.partition for one in events].count(last) == 3  # by a run, by the sensor, by the second run
    for key in before:
        assert [one.partition for one in stack.materializations(path)].count(key) == 1
    with services(stack.project.home, followed.anvil.url) as opened:
        order = opened.ledger.current(opened.store.url, 31337, "blocks")
        rows = scan_polars(opened.store, 31337, "blocks", *changed, order=order).collect()
        due = chain_rows(opened.settings.rpc_endpoint("tip"), ("blocks",), changed)["blocks"]
        assert rows["block_hash"].to_list() == [row["block_hash"] for row in due]
        assert opened.ledger.last_invalidation("aggregated", "cold", changed) is not None


def test_a_job_that_reads_the_follower_runs_on_new_rows(followed: Followed) -> None:
    """By its sensor, one run at a time; what the reorganisations changed was done again, and said so."""
    path = ["killed", "activity", "blocks"]
    followed.wait_beyond("killed", 8)
    with services(followed.stack.project.home, followed.anvil.url) as opened:

        def look() -> bool | None:
            if opened.ledger.invalidations("killed", "activity"):
                return True
            state, head = opened.ledger.consumer("killed/activity"), followed.head()
            if state and state.cursor_block > 12:
                followed.anvil.call("anvil_rollback", head - state.cursor_block + 2)
                followed.wait_beyond("killed", head)
            return None

        followed.stack.wait_for("what a reorganisation changed", look)
        runs = followed.stack.runs_with(metadata.CONSUMER_TAG, "killed/activity")
        assert "FAILURE" not in runs.values()
        told = followed.stack.latest_metadata(path)
        assert BlockRange.parse(told[metadata.RANGE]).end_block == told[metadata.CURSOR]
        with opened.ledger.connection() as connection:
            held = connection.execute(
                "SELECT block_number, block_hash, transactions FROM killed.activity_blocks ORDER BY 1"
            ).fetchall()
            due = connection.execute("SELECT block_number, block_hash FROM killed.tip_blocks").fetchall()
    assert [row["block_number"] for row in held] == list(range(1, len(held) + 1))
    of_tip = {row["block_number"]: row["block_hash"] for row in due}
    same = [row["block_hash"] == of_tip.get(row["block_number"]) for row in held]
    assert all(same[:-3])  # the newest may have been taken away this very moment


def test_a_pool_without_endpoint_starts_nothing(followed: Followed) -> None:
    """The sensor says what is missing; no run fails for it."""
    reasons = followed.stack.skip_reasons("lonely__tip__follow")
    assert any("TRACE_RPC_POOL_UNKNOWN_URL" in reason for reason in reasons)
    assert followed.stack.runs_with(metadata.FOLLOWER_TAG, "lonely/tip") == {}


@pytest.mark.parametrize("name", ["rotating", "killed", "ticking"])
def test_the_rows_are_the_chains(followed: Followed, name: str) -> None:
    """After all of that, every row up to a cursor equals the node's chain."""
    cursor = followed.settled(name)
    follower = following(name)
    with services(followed.stack.project.home, followed.anvil.url) as opened:
        blocks = BlockRange(1, cursor)
        due = chain_rows(opened.settings.rpc_endpoint("tip"), follower.config.datasets, blocks)
        for dataset, table in follower.tables.items():
            held = [row for row in held_rows(opened.ledger, table) if row["block_number"] <= cursor]
            assert held == due[dataset], dataset
