"""``PerUpdate`` jobs on a follower of a real node: their rows are those of the canonical chain."""

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from click.testing import CliRunner
from psycopg import sql

from tests.support.activity import Activity, Busy
from tests.support.followers import POOL, Fork, chain_rows, services
from tests.support.small_chain import CHAIN_ID, SmallChain, small_chain
from trace_dagster import metadata
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.cli import main as trace
from trace_dagster.errors import ConfigurationError, DeadlineExceeded, TraceError
from trace_dagster.hot_tables import read_rows
from trace_dagster.operators.base import Operator, OutputResult, Task
from trace_dagster.operators.block_follower import BlockFollower
from trace_dagster.operators.block_follower.following import following_of
from trace_dagster.operators.range_aggregator import RangeAggregator
from trace_dagster.operators.range_request import RangeRequest
from trace_dagster.operators.services import Services
from trace_dagster.operators.updating import UpdateStep, Updating, updating_of
from trace_dagster.spec.catalog import Catalog
from trace_dagster.spec.resolve import ResolvedDag, load_dags
from trace_dagster.translator.compile import compile_dags

OPERATORS: Mapping[str, Operator] = {
    one.name: one for one in (BlockFollower(), RangeRequest(), RangeAggregator(), Activity(), Busy())
}
DAG = """\
name: {name}
jobs:
  - name: tip
    activation: source
    runtime: ecs_platform
    operator: block_follower
    source: {{ kind: always_on }}
    config:
      chain_id: {chain_id}
      rpc_pool: tip
      start_block: 2
      poll_seconds: 0.01
      heads: poll
      datasets: [blocks, transactions]{more}
    outputs: 2
    update_strategy: append
    unique_key: [chain_id, block_hash]
  - name: activity
    activation: reactive
    runtime: dispatcher
    operator: activity
    execution_strategy: PerUpdate
    inputs: [ {{ from: {{ job: tip, output: 0 }} }}, {{ from: {{ job: tip, output: 1 }} }} ]
    outputs: 1
    update_strategy: {strategy}
    unique_key: [block_hash]
  - name: busy
    activation: reactive
    runtime: dispatcher
    operator: busy
    execution_strategy: PerUpdate
    inputs: [ {{ from: {{ job: activity, output: 0 }} }} ]
    outputs: 1
    update_strategy: replace
"""


class Chained:
    """A follower, a job that reads it, and one that reads that one."""

    def __init__(self, opened: Services, dag: ResolvedDag, *others: ResolvedDag) -> None:
        self.opened, self.dag = opened, dag
        jobs = {(one.name, job.name): job for one in (dag, *others) for job in one.jobs}
        self.tip = following_of(dag, jobs[dag.name, "tip"])
        self.updating = {name: updating_of(dag, jobs[dag.name, name], jobs) for name in ("activity", "busy")}

    def follow(self) -> None:
        """Let the follower catch up."""
        for step in self.tip.run(self.opened, run_id="test", progress=_unexpected):
            if not step.committed and not step.reorg_depth:
                return

    def update(self, name: str, operator: Operator | None = None) -> list[UpdateStep]:
        """Let a job do what is new."""
        updating: Updating = self.updating[name]
        made = operator or OPERATORS[name]
        return list(updating.run(made, self.opened, run_id="test", progress=_unexpected, seconds=60))

    def asked(self, name: str) -> list[str]:
        """Let a job do what is new, and return the ranges it was asked for."""
        return [one.due.blocks.key for one in self.update(name)]

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return a job's rows."""
        statement = sql.SQL("SELECT * FROM {} ORDER BY block_number").format(
            sql.Identifier(self.dag.name, f"{name}_blocks")
        )
        with self.opened.ledger.connection() as connection:
            return [dict(row) for row in connection.execute(statement)]

    def due(self, head: int) -> list[dict[str, Any]]:
        """Return what the rows of ``activity`` must be, by the node."""
        endpoint = self.opened.settings.rpc_endpoint(POOL)
        chain = chain_rows(endpoint, ("blocks", "transactions"), BlockRange(2, head))
        return [
            {
                "block_number": block["block_number"],
                "block_hash": block["block_hash"],
                "gas_used": block["gas_used"],
                "transactions": sum(
                    one["block_hash"] == block["block_hash"] for one in chain["transactions"]
                ),
            }
            for block in chain["blocks"]
        ]

    def check(self, head: int) -> None:
        """Compare both jobs' rows with the node's chain."""
        due = self.due(head)
        assert self.rows("activity") == due
        assert self.rows("busy") == [row for row in due if row["transactions"]]


def _unexpected(message: str, **fields: object) -> None:
    if not message.startswith("heads by"):
        raise AssertionError(f"{message} {fields}")


def other_results(*outputs: str, **rows: Any) -> list[OutputResult]:
    """Results of these names, with rows where columns are given."""
    table = pa.table(rows) if rows else None
    return [OutputResult(output, "v", rows=table) for output in outputs]


def resolved(path: Path, name: str, *, strategy: str = "append", more: str = "") -> ResolvedDag:
    """Return the DAG."""
    path.write_text(DAG.format(name=name, chain_id=CHAIN_ID, strategy=strategy, more=more), encoding="utf-8")
    loaded = load_dags(path, Catalog(operators=OPERATORS))
    assert [str(one) for one in loaded.problems] == []
    return loaded.dags[0]


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


@pytest.fixture
def chained(opened: Services, tmp_path: Path) -> Callable[..., Chained]:
    """Make the three jobs of a DAG of some name."""
    return lambda name, **given: Chained(opened, resolved(tmp_path / f"{name}.yaml", name, **given))


@pytest.fixture
def fork(chain: SmallChain) -> Fork:
    """Changes the node's chain."""
    return Fork(chain, random.Random(7))  # noqa: S311


@pytest.mark.parametrize("strategy", ["append", "replace"])
def test_new_rows_are_done_once(chained: Callable[..., Chained], fork: Fork, strategy: str) -> None:
    """From the follower's first block on; what is done is not done again, and rows have their types."""
    made = chained(f"updates_once_{strategy}", strategy=strategy)
    assert made.update("activity") == made.update("busy") == []
    made.follow()
    head = fork.head
    assert made.asked("activity") == [f"2_{head}"]
    assert made.asked("activity") == []
    fork.grow(3)
    made.follow()
    (step,) = made.update("activity")
    assert step.due.blocks == (head + 1, head + 3)
    assert step.results[0].metadata[metadata.ROWS_ADDED] == 3
    assert metadata.ROWS_REMOVED not in step.results[0].metadata
    assert made.asked("busy") == [f"2_{head + 3}"]
    made.check(head + 3)
    made.check(made.opened.ledger.extent(made.updating["busy"].key).end_block)


@pytest.mark.parametrize("strategy", ["append", "replace"])
def test_what_a_reorganisation_changed_is_done_again(
    chained: Callable[..., Chained], fork: Fork, strategy: str
) -> None:
    """Exactly from the first block that changed; and what reads that is told as well."""
    made = chained(f"updates_again_{strategy}", strategy=strategy)
    fork.grow(6)
    made.follow()
    made.update("activity")
    made.update("busy")
    head = fork.head
    fork.roll_back(4)
    fork.chain.anvil.call("evm_increaseTime", 1000)
    fork.chain.busy_block()
    made.follow()  # sees no more than the first of the new branch, if that
    fork.grow(5)
    made.follow()
    first, *others = made.update("activity")
    assert first.due.stale == (head - 3, head)
    assert first.due.blocks.start_block == head - 3
    assert first.results[0].metadata[metadata.ROWS_REMOVED] == 4
    assert [one.due.stale for one in others] == [None] * len(others)
    (told,) = made.opened.ledger.invalidations(made.dag.name, "activity")
    assert (told.start_block, told.end_block) == (head - 3, head)
    assert made.update("busy")[0].due.stale == (head - 3, head)
    made.check(fork.head)
    assert made.update("activity") == made.update("busy") == []


def test_a_job_that_had_not_come_so_far_does_nothing_twice(
    chained: Callable[..., Chained], fork: Fork
) -> None:
    """A reorganisation behind its cursor, and those before it began, are no matter."""
    made = chained("updates_behind")
    made.follow()
    head = fork.head
    made.update("activity")
    fork.grow(5)
    made.follow()
    fork.roll_back(3)
    fork.chain.anvil.call("evm_increaseTime", 1000)
    fork.grow(4)
    made.follow()
    assert [one.due.stale for one in made.update("activity")] == [None]
    assert made.asked("busy") == [f"2_{head + 6}"]
    made.check(fork.head)


def test_the_threshold_waits_for_so_many_blocks(chained: Callable[..., Chained], fork: Fork) -> None:
    """Whole multiples from the first block on; a reorganisation is heeded at once; others are per update."""
    made = chained("updates_threshold", more="\n      emit_strategy: threshold\n      threshold_blocks: 8")
    fork.grow(max(0, 20 - fork.head))
    made.follow()
    full = (fork.head - 1) // 8 * 8 + 1
    assert made.asked("activity") == [f"2_{full}"]
    assert made.asked("busy") == [f"2_{full}"]
    fork.grow(full + 7 - fork.head)
    made.follow()
    assert made.asked("activity") == []
    fork.grow(1)
    made.follow()
    assert made.asked("activity") == [f"{full + 1}_{full + 8}"]
    fork.roll_back(2)
    fork.chain.anvil.call("evm_increaseTime", 1000)
    fork.grow(3)
    made.follow()
    assert made.asked("activity") == [f"{full + 7}_{full + 8}"]
    assert made.asked("busy")[-1].endswith(f"_{full + 8}")
    made.check(full + 8)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_chain_does_the_rows_are_the_chains(
    chained: Callable[..., Chained], chain: SmallChain, seed: int
) -> None:
    """Growth, reorganisations, heads that go back, resets, operators that fail: in any order."""
    fork = Fork(chain, random.Random(seed))  # noqa: S311
    made = chained(f"updates_random_{seed}", strategy=fork.random.choice(["append", "replace"]))

    class Failing(Activity):
        def run(self, task: Task, services: Services, progress: Any) -> Any:
            super().run(task, services, progress)
            raise ConfigurationError("as a setting may fail")

    class ReorganisedMeanwhile(Activity):
        def run(self, task: Task, services: Services, progress: Any) -> Any:
            rows = super().run(task, services, progress)
            fork.roll_back(min(3, fork.head - 8))
            fork.chain.anvil.call("evm_increaseTime", 60)
            fork.grow(2)
            made.follow()
            return rows

    def fail() -> None:
        if made.updating["activity"].due(made.opened) is not None:
            with pytest.raises(ConfigurationError, match="as a setting may fail"):
                made.update("activity", Failing())

    def meanwhile() -> None:
        updating = made.updating["activity"]
        steps = updating.run(
            ReorganisedMeanwhile(), made.opened, run_id="test", progress=_unexpected, seconds=60
        )
        next(steps, None)
        steps.close()

    actions: list[Callable[[], object]] = [
        lambda: fork.grow(fork.random.randint(1, 5)),
        lambda: fork.roll_back(min(fork.random.randint(1, 6), fork.head - 8)),
        lambda: fork.chain.anvil.call("evm_increaseTime", 60),
        made.follow,
        made.follow,
        lambda: made.update("activity"),
        lambda: made.update("busy"),
        fail,
        meanwhile,
        lambda: made.tip.reset(made.opened),
    ]
    weights = [6, 4, 2, 4, 4, 4, 4, 1, 2, 0.3]
    for _ in range(40):
        fork.random.choices(actions, weights)[0]()
    fork.grow(7)  # a head that went back has no rows of its own until it is past the cursor
    made.follow()
    made.update("activity")
    made.update("busy")
    made.check(fork.head)


def test_a_follower_that_begins_anew_makes_everything_stale(
    chained: Callable[..., Chained], fork: Fork
) -> None:
    """What read it does it again, from the first block on."""
    made = chained("updates_anew")
    made.follow()
    made.update("activity")
    made.update("busy")
    head = fork.head
    made.tip.reset(made.opened)
    assert made.update("activity") == []
    made.follow()
    (step,) = made.update("activity")
    assert (step.due.reason, step.due.stale) == ("reset", (2, head))
    made.update("busy")
    made.check(head)


def test_rows_of_other_blocks_are_refused(chained: Callable[..., Chained]) -> None:
    """An operator that gives what it was not asked for changes nothing, nor one without blocks."""
    made = chained("other_blocks")
    made.follow()

    class Astray(Activity):
        def run(self, task: Task, services: Services, progress: Any) -> list[OutputResult]:
            return [OutputResult("blocks", "v", rows=pa.table({"block_number": [1], "block_hash": [b"x"]}))]

    class Placeless(Activity):
        def run(self, task: Task, services: Services, progress: Any) -> list[OutputResult]:
            return [OutputResult("blocks", "v", rows=pa.table({"block_hash": [b"x"]}))]

    with pytest.raises(ConfigurationError, match=r"rows of block 1 came for blocks 2_\d+ of other_blocks"):
        made.update("activity", Astray())
    with pytest.raises(ConfigurationError, match="its rows have no block_number; add that column"):
        made.update("activity", Placeless())
    assert made.opened.ledger.consumer("other_blocks/activity") is None


def test_status_shows_how_far_they_are(chained: Callable[..., Chained], fork: Fork, trace_home: Path) -> None:
    """As a table, JSON and Prometheus metrics."""
    made = chained("shown_jobs")
    made.follow()
    made.update("activity")
    head = fork.head
    fork.grow(2)
    made.follow()

    def status(*options: str) -> str:
        result = CliRunner().invoke(trace, ["status", *options], env={"TRACE_HOME": str(trace_home)})
        assert result.exit_code == 0, result.output
        return result.output

    rows = json.loads(status("--json"))["consumers"]
    (row,) = (one for one in rows if one["consumer"] == "shown_jobs/activity")
    assert (row["reads"], row["cursor_block"], row["behind_blocks"]) == (["shown_jobs/tip"], head, 2)
    assert 'trace_consumer_behind_blocks{consumer="shown_jobs/activity"} 2' in status("--prometheus")
    assert "shown_jobs/activity" in status()


def test_two_at_once_take_turns(chained: Callable[..., Chained]) -> None:
    """The second one waits for the first one's lease, and says whose it is."""
    made = chained("updates_turns")
    made.follow()
    updating = made.updating["activity"]
    with made.opened.ledger.attempt(updating.task_key, run_id="other", lease_seconds=30, wait_until=0):
        steps = updating.run(
            Activity(),
            made.opened,
            run_id="test",
            progress=_unexpected,
            seconds=60,
            is_stopped=lambda: True,
        )
        with pytest.raises(TraceError, match="given up, since the run ends"):
            next(steps)
        impatient = replace(updating, job=replace(updating.job, heartbeat_timeout_seconds=0))
        steps = impatient.run(Activity(), made.opened, run_id="test", progress=_unexpected, seconds=60)
        with pytest.raises(DeadlineExceeded, match="is still held by attempt 1 of run other"):
            next(steps)
    assert made.asked("activity") != []


def test_rows_come_back_as_they_were_written(chained: Callable[..., Chained], opened: Services) -> None:
    """Binary, wide numbers, nulls and empty texts; by block range and by the value of a column."""
    made = chained("reading")
    made.follow()
    with opened.ledger.connection() as connection:
        connection.execute(
            "CREATE TABLE reading.odd (block_number bigint, wide numeric(78,0), big numeric(20,0), "
            "text text, data bytea, yes boolean, share double precision, list jsonb)"
        )
        connection.execute(
            "INSERT INTO reading.odd VALUES (5, 2::numeric ^ 255, 18446744073709551615, '', '\\x', true, "
            "0.1, '[1, \"a\"]'), (6, NULL, NULL, NULL, NULL, NULL, NULL, NULL), "
            "(4, 0, 0, 'a,\"b\"\n', '\\x00ff', false, 'NaN', '{}'), (7, 1, 1, 'x', '\\x01', true, 1, '[]')"
        )
        found = read_rows(connection, "reading", "odd", BlockRange(4, 6)).to_pylist()
        narrow = read_rows(connection, "reading", "odd", BlockRange(0, 9), {"data": "0x01", "yes": True})
        none = read_rows(connection, "reading", "odd", BlockRange(8, 9))
        with pytest.raises(ConfigurationError, match=r"where names nope, which the table reading\.odd does"):
            read_rows(connection, "reading", "odd", BlockRange(0, 9), {"nope": 1})
        with pytest.raises(ConfigurationError, match=r"data of reading\.odd is bytea; write 0x"):
            read_rows(connection, "reading", "odd", BlockRange(0, 9), {"data": "xyz"})
        with pytest.raises(ConfigurationError, match=r"the table reading\.missing does not exist yet"):
            read_rows(connection, "reading", "missing", BlockRange(0, 9))
    assert [row["block_number"] for row in found] == [4, 5, 6]
    assert found[0]["text"] == 'a,"b"\n'
    assert (found[0]["data"], found[0]["yes"], found[0]["share"] != found[0]["share"]) == (
        b"\x00\xff",
        False,
        True,
    )
    assert found[1] == {
        "block_number": 5,
        "wide": str(2**255),
        "big": 2**64 - 1,
        "text": "",
        "data": b"",
        "yes": True,
        "share": 0.1,
        "list": '[1, "a"]',
    }
    assert set(found[2].values()) == {6, None}
    assert narrow.column("block_number").to_pylist() == [7]
    assert none.num_rows == 0
    assert none.schema == narrow.schema


def test_dagster_runs_what_is_new(chained: Callable[..., Chained], fork: Fork, opened: Services) -> None:
    """The sensor asks where there is something; the run tells ranges, and why something was done again."""
    made = chained("in_dagster")
    definitions = compile_dags(
        loaded=load_dags(made.dag.path, Catalog(operators=OPERATORS)),
        operators=OPERATORS,
        settings=opened.settings,
        environment={},
    )
    repository = definitions.get_repository_def()
    sensor = repository.get_sensor_def("in_dagster__activity__update")
    made_assets = [one for one in definitions.assets or () if isinstance(one, dg.AssetsDefinition)]
    assets = [one for one in made_assets if one.op.name == "in_dagster__activity"]
    with dg.instance_for_test() as instance:

        def look() -> Any:
            resources = {"trace": opened}
            with dg.build_sensor_context(
                instance=instance, repository_def=repository, resources=resources
            ) as context:
                return sensor.evaluate_tick(context)

        def run() -> list[dict[str, Any]]:
            done = dg.materialize(
                [*assets, *_above(assets)], instance=instance, resources={"trace": opened}, selection=assets
            )
            events = done.asset_materializations_for_node("in_dagster__activity")
            return [{key: one.value for key, one in event.metadata.items()} for event in events]

        assert look().skip_message == "nothing is due of in_dagster/tip"
        made.follow()
        (asked,) = look().run_requests
        assert asked.tags[metadata.CONSUMER_TAG] == "in_dagster/activity"
        (told,) = run()
        assert told[metadata.RANGE] == told["asked"] == f"2_{fork.head}"
        assert look().skip_message == "nothing is due of in_dagster/tip"
        head = fork.head
        fork.roll_back(2)
        fork.chain.anvil.call("evm_increaseTime", 1000)
        fork.grow(3)
        made.follow()
        assert len(look().run_requests) == 1
        again, new = run()
        assert again[metadata.INVALIDATED] == f"reorg: blocks {head - 1}_{head}"
        assert metadata.INVALIDATED not in new


def _above(assets: list[dg.AssetsDefinition]) -> list[dg.AssetSpec]:
    """Stand-ins of what they read."""
    return [dg.AssetSpec(key) for one in assets for key in one.dependency_keys]


def test_what_has_no_cursor_cannot_be_read_by_new_rows(tmp_path: Path) -> None:
    """The error names the job and says what to write."""
    path = tmp_path / "wrong.yaml"
    path.write_text(
        """\
name: wrong
jobs:
  - name: asked
    activation: source
    runtime: dispatcher
    operator: range_request
    source: { kind: manual }
    outputs: 1
  - name: activity
    activation: reactive
    runtime: dispatcher
    operator: activity
    execution_strategy: PerUpdate
    inputs: [ { from: { job: asked, output: 0 } } ]
    outputs: 1
    update_strategy: replace
""",
        encoding="utf-8",
    )
    (problem,) = load_dags(path, Catalog(operators=OPERATORS)).problems
    assert str(problem).endswith(
        "wrong.yaml:14:15: jobs[1].inputs[0]: is read by its new rows, but asked writes block ranges; "
        "read from a block_follower or a PerUpdate job, or write execution_strategy: PerPartition"
    )


def moved(made: Chained, **given: object) -> Chained:
    """Return the same jobs after an edit of the DAG: a field's first place gets another value."""
    text = made.dag.path.read_text(encoding="utf-8")
    for old, new in given.items():
        text = re.sub(rf"{old}: [^\n]*", f"{old}: {new}", text, count=1)
    made.dag.path.write_text(text, encoding="utf-8")
    (dag,) = load_dags(made.dag.path, Catalog(operators=OPERATORS)).dags
    return Chained(made.opened, dag)


def test_a_follower_that_begins_elsewhere(chained: Callable[..., Chained], fork: Fork) -> None:
    """Later and then earlier again: the rows begin where the follower does."""
    made = chained("updates_elsewhere")
    fork.grow(max(0, 24 - fork.head))
    for start in (2, 15, 8, 2):
        made = moved(made, start_block=start)
        made.tip.reset(made.opened)
        made.follow()
        made.update("activity")
        made.update("busy")
        held = [row["block_number"] for row in made.rows("activity")]
        assert held == list(range(start, fork.head + 1))
        for name in ("activity", "busy"):
            assert made.opened.ledger.extent(made.updating[name].key) == (start, fork.head)
    made.check(fork.head)


def test_steps_are_as_large_as_the_followers_commits(chained: Callable[..., Chained], fork: Fork) -> None:
    """``batch_blocks`` bounds what a step reads, also where something is done again."""
    made = chained("updates_small", more="\n      batch_blocks: 5")
    fork.grow(max(0, 20 - fork.head))
    made.follow()
    ranges = [BlockRange.parse(key) for key in made.asked("activity")]
    assert [one.blocks for one in ranges[:-1]] == [5] * (len(ranges) - 1)
    made.tip.reset(made.opened)
    made.follow()
    assert [one.due.blocks.key for one in made.update("activity")] == [one.key for one in ranges]
    made.update("busy")
    made.check(fork.head)


def test_a_job_that_was_changed_says_so(chained: Callable[..., Chained], trace_home: Path) -> None:
    """Rows by another config would mix with those that are there; begun anew, they are all by the new one."""
    made = chained("updates_changed")
    made.follow()
    made.update("activity")
    updating = replace(made.updating["activity"], definition="another")
    with pytest.raises(
        ConfigurationError, match=r"activity was changed: .* trace update updates_changed/activity"
    ):
        updating.due(made.opened)
    updating.reset(made.opened)
    assert made.rows("activity") == []
    assert updating.due(made.opened) is not None


def test_cursor_and_tables_tell_the_same(chained: Callable[..., Chained]) -> None:
    """A table that is gone, and rows that no cursor knows of, are errors, which a reset mends."""
    made = chained("updates_lost")
    made.follow()
    made.update("activity")
    rows = made.rows("activity")
    with made.opened.ledger.connection() as connection:
        connection.execute("DROP TABLE updates_lost.activity_blocks")
    with pytest.raises(ConfigurationError, match="does not exist, but blocks up to"):
        made.update("activity")
    made.updating["activity"].reset(made.opened)
    made.update("activity")
    assert made.rows("activity") == rows
    with made.opened.ledger.connection() as connection:
        connection.execute("DELETE FROM trace.consumers WHERE consumer = 'updates_lost/activity'")
    with pytest.raises(ConfigurationError, match="has rows, but the ledger knows of no block"):
        made.update("activity")


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_step_that_fails_is_tried_again(
    chained: Callable[..., Chained], monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    """``max_attempts`` times, under one lease; then the run ends with the cause."""
    monkeypatch.setattr("trace_dagster.operators.updating._FIRST_PAUSE_SECONDS", 0.01)
    made = chained(f"updates_tries_{attempts}")
    made.follow()
    updating = made.updating["activity"]
    updating = replace(updating, job=replace(updating.job, max_attempts=attempts))
    tries, told = [], []

    class Flaky(Activity):
        def run(self, task: Task, services: Services, progress: Any) -> Any:
            tries.append(task.partition)
            if len(tries) < 3:
                raise TraceError("as a provider may fail")
            return super().run(task, services, progress)

    def progress(message: str, **fields: object) -> None:
        told.append(fields["why"])

    steps = updating.run(Flaky(), made.opened, run_id="test", progress=progress, seconds=60)
    if attempts == 1:
        with pytest.raises(TraceError, match="as a provider may fail"):
            next(steps)
        return
    assert len(list(steps)) >= 1
    assert tries[0] == tries[1] == tries[2]
    assert told == ["as a provider may fail"] * 2
    assert len(made.opened.ledger.attempts_of(updating.task_key)) == 1


@pytest.mark.parametrize(
    "rows",
    [
        pa.table({"block_number": [], "block_hash": []}),
        pa.table({"block_number": pa.array([], pa.int64()), "block_hash": []}),
        pa.Table.from_pylist([]),
    ],
    ids=["untyped", "half", "bare"],
)
def test_an_empty_table_is_no_row(chained: Callable[..., Chained], fork: Fork, rows: pa.Table) -> None:
    """Whatever types its columns have, or not; what was there and changed is gone all the same."""
    made = chained(f"updates_empty_{sum(str(rows.schema).encode())}")
    made.follow()

    class Empty(Activity):
        def run(self, task: Task, services: Services, progress: Any) -> list[OutputResult]:
            return [OutputResult("blocks", "v", rows=rows)]

    assert made.update("activity", Empty()) != []
    made.tip.reset(made.opened)
    made.follow()
    made.update("activity")
    assert made.rows("activity") == made.due(fork.head)
    made.tip.reset(made.opened)
    made.follow()
    made.update("activity", Empty())
    assert made.rows("activity") == []


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "returned no list of OutputResult"),
        ([], "returned the outputs none instead of blocks, once each"),
        (other_results("blokcs"), "returned the outputs blokcs instead of blocks"),
        (other_results("blocks", "blocks"), "returned the outputs blocks, blocks instead"),
        ([OutputResult("blocks", "v", rows=[1])], "/activity/blocks returned list; return a pyarrow"),
        (
            other_results("blocks", block_number=["2"], block_hash=[b""]),
            "block_number of other_results.activity_blocks came as string",
        ),
        (
            other_results("blocks", block_number=[2], block_hash=[b""], xmin=[1]),
            "cannot have the column 'xmin'",
        ),
    ],
)
def test_what_is_no_result_moves_nothing(
    chained: Callable[..., Chained], returned: Any, message: str
) -> None:
    """The error says what came, and what is wanted."""
    made = chained("other_results")
    made.follow()

    class Odd(Activity):
        def run(self, task: Task, services: Services, progress: Any) -> Any:
            return returned

    with pytest.raises(ConfigurationError, match=re.escape(message)):
        made.update("activity", Odd())
    assert made.opened.ledger.consumer("other_results/activity") is None


def test_what_is_found_no_longer_is_gone(chained: Callable[..., Chained], fork: Fork) -> None:
    """Also where the operator gives no table at all for what a reorganisation changed."""
    made = chained("updates_none")
    fork.grow(3)
    made.follow()
    made.update("activity")
    head = fork.head
    fork.roll_back(2)
    fork.chain.anvil.call("evm_increaseTime", 1000)
    fork.grow(2)
    made.follow()

    class Nothing(Activity):
        def run(self, task: Task, services: Services, progress: Any) -> list[OutputResult]:
            return [OutputResult("blocks", "v")]

    (step,) = made.update("activity", Nothing())
    assert step.results[0].metadata[metadata.ROWS_REMOVED] == 2
    assert [row["block_number"] for row in made.rows("activity")] == list(range(2, head - 1))


def test_types_of_any_making(chained: Callable[..., Chained], fork: Fork) -> None:
    """Dictionaries, fixed widths, times, decimals; a column without a value yet gets its type later."""
    made = chained("updates_types")
    fork.grow(2)
    made.follow()

    class Typed(Activity):
        def run(self, task: Task, services: Services, progress: Any) -> list[OutputResult]:
            number = task.partition.start_block
            is_first = number == 2
            rows = {
                "block_number": pa.array([number], pa.uint32()),
                "block_hash": pa.array([number.to_bytes(32)], pa.binary(32)),
                "kind": pa.array(["a"]).dictionary_encode(),
                "day": pa.array([0], pa.date32()),
                "at": pa.array([1_800_000_000_000_000], pa.timestamp("us", "UTC")),
                "price": pa.array([Decimal("1.50")], pa.decimal128(10, 2)),
                "note": pa.nulls(1) if is_first else pa.array(["later"]),
                "list": pa.array([[float("nan"), 1.0]]),
            }
            return [OutputResult("blocks", "v", rows=pa.table(rows))]

    made.update("activity", Typed())
    fork.grow(1)
    made.follow()
    made.update("activity", Typed())
    first, second = made.rows("activity")
    assert (first["block_hash"], first["kind"], first.get("note")) == ((2).to_bytes(32), "a", None)
    assert (first["day"], first["price"]) == (date(1970, 1, 1), Decimal("1.50"))
    assert first["at"] == datetime(2027, 1, 15, 8, tzinfo=UTC)
    assert (first["list"], second["note"]) == ([None, 1.0], "later")


def test_a_reorganisation_while_the_operator_runs_is_no_error(
    chained: Callable[..., Chained], fork: Fork
) -> None:
    """A transaction that moves from one block to the next is in two of them for a moment."""
    made = chained("updates_race")
    made = moved(made, unique_key="[chain_id, block_hash]")
    fork.grow(2)
    made.follow()
    rolled = []

    class Hashes(Activity):
        """One row a step, with the same key every time, as a transaction that moved has."""

        def run(self, task: Task, services: Services, progress: Any) -> list[OutputResult]:
            if task.partition.start_block > 2 and not rolled:
                rolled.append(True)
                fork.roll_back(3)
                fork.chain.anvil.call("evm_increaseTime", 1000)
                fork.grow(4)
                made.follow()
                number, key = task.partition.start_block, b"moved"
            else:
                number = task.partition.end_block
                key = b"moved" if task.partition.start_block == 2 else number.to_bytes(8)
            rows = {"block_number": [number], "block_hash": [key]}
            return [OutputResult("blocks", "v", rows=pa.table(rows))]

    made.update("activity", Hashes())
    fork.grow(1)
    made.follow()
    steps = made.update("activity", Hashes())
    assert steps[0].due.stale is not None
    assert rolled == [True]


@pytest.mark.parametrize("first_call", ["invalidations", "extent"])
def test_a_reorganisation_between_two_looks(
    chained: Callable[..., Chained], fork: Fork, monkeypatch: pytest.MonkeyPatch, first_call: str
) -> None:
    """Right after the first of the two is read, a shorter branch comes: no row is lost or left."""
    made = chained(f"updates_between_{first_call}")
    fork.grow(5)
    made.follow()
    made.update("activity")
    fork.grow(4)
    made.follow()
    ledger, told = made.opened.ledger, []
    asked = getattr(ledger, first_call)

    def looked(*given: Any) -> Any:
        answer = asked(*given)
        if not told:
            told.append(True)
            fork.roll_back(6)
            fork.chain.anvil.call("evm_increaseTime", 1000)
            fork.grow(1)
            for step in made.tip.run(made.opened, run_id="test", progress=_unexpected):
                if step.reorg_depth:
                    break
                fork.grow(1)
        return answer

    monkeypatch.setattr(ledger, first_call, looked)
    made.update("activity")
    monkeypatch.undo()
    fork.grow(8)
    made.follow()
    made.update("activity")
    made.update("busy")
    made.check(fork.head)


def test_two_followers_are_read_as_far_as_both_are(
    chained: Callable[..., Chained], fork: Fork, tmp_path: Path
) -> None:
    """From where both have begun, and by the larger threshold."""
    more = "\n      emit_strategy: threshold\n      threshold_blocks: 3"
    other = chained("updates_second", more=more)
    path = other.dag.path
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}publish: {{ second: {{ from: {{ job: tip, output: 1 }} }} }}\n", encoding="utf-8")
    text = DAG.format(name="updates_both", chain_id=CHAIN_ID, strategy="append", more="")
    text = text.replace("{ job: tip, output: 1 }", "{ dataset: second }")
    both_path = tmp_path / "updates_both.yaml"
    both_path.write_text(text.replace("start_block: 2", "start_block: 4"), encoding="utf-8")
    loaded = load_dags([path, both_path], Catalog(operators=OPERATORS))
    assert [str(one) for one in loaded.problems] == []
    both = Chained(other.opened, *sorted(loaded.dags, key=lambda one: one.name))
    fork.grow(max(0, 16 - fork.head))
    other.follow()
    assert both.update("activity") == []
    behind = fork.head
    fork.grow(4)
    both.follow()
    full = (behind - 3) // 3 * 3 + 3
    assert both.asked("activity") == [f"4_{full}"]
    other.follow()
    assert both.asked("activity")[-1].endswith(f"_{(fork.head - 3) // 3 * 3 + 3}")
    assert {row["transactions"] for row in both.rows("activity")} > {0}


def test_rows_that_are_not_wanted_are_left_out(chained: Callable[..., Chained]) -> None:
    """``where`` is heeded by what an operator is given."""
    made = chained("updates_where")
    made.follow()
    (head, *_) = made.updating["activity"].inputs
    wanted = replace(head, where={"block_number": 3})
    assert wanted.rows(made.opened, BlockRange(2, 6))["block_number"].to_pylist() == [3]


@pytest.mark.parametrize(
    ("where", "mend"),
    [
        ({"gas_used": True}, "is numeric(20,0); write a whole number"),
        ({"gas_used": 1.5}, "write a whole number"),
        ({"block_number": "abc"}, "is bigint; write a whole number"),
        ({"block_hash": 12}, "is bytea; write 0x and pairs of hex digits, in quotes"),
        ({"block_hash": "0x1"}, "is bytea; write 0x"),
    ],
)
def test_where_that_does_not_fit_the_column(
    chained: Callable[..., Chained], where: dict[str, Any], mend: str
) -> None:
    """The error names the column and its type; nothing is silently left out."""
    made = chained("updates_unfit")
    made.follow()
    (head, *_) = made.updating["activity"].inputs
    with pytest.raises(ConfigurationError, match=re.escape(mend)):
        replace(head, where=where).rows(made.opened, BlockRange(2, 6))
    assert replace(head, where={"gas_used": None}).rows(made.opened, BlockRange(2, 6)).num_rows == 0


def test_traces_come_in_the_order_of_the_chain(chained: Callable[..., Chained], opened: Services) -> None:
    """The tenth sub-call is behind the second."""
    made = chained("updates_order")
    made.follow()
    with opened.ledger.connection() as connection:
        connection.execute("CREATE TABLE updates_order.t (block_number bigint, trace_address text)")
        connection.execute(
            "INSERT INTO updates_order.t VALUES "
            "(1, '10'), (1, '2_0'), (1, ''), (1, '2'), (0, '3'), (1, '0_11')"
        )
        found = read_rows(connection, "updates_order", "t", BlockRange(0, 1))
    assert found["trace_address"].to_pylist() == ["3", "", "0_11", "2", "2_0", "10"]


def test_the_command_does_what_is_new(
    chained: Callable[..., Chained], trace_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``trace update``: the same work in the foreground; ``--reset`` begins anew; a typo is named."""
    made = chained("updates_command")
    made.follow()
    monkeypatch.setattr("trace_dagster.cli.update.operators", lambda: OPERATORS)
    monkeypatch.setattr("trace_dagster.cli.loading.catalog", lambda: Catalog(operators=OPERATORS))

    def command(*options: str) -> Any:
        arguments = ["update", "--specs", str(made.dag.path), *options]
        return CliRunner().invoke(trace, arguments, env={"TRACE_HOME": str(trace_home)})

    done = command("updates_command/activity")
    assert done.output.startswith("updates_command/activity: blocks 2_")
    assert command("updates_command/activity").output == "updates_command/activity: nothing is due\n"
    anew = command("updates_command/activity", "--reset")
    assert anew.output == done.output
    wrong = command("updates_command/tip")
    assert wrong.exit_code == 1
    assert (
        "'updates_command/tip' is no PerUpdate job of the DAG files; there is updates_command/activity"
        in wrong.output
    )


def test_the_operator_of_the_docs_runs(chain: SmallChain, opened: Services, tmp_path: Path) -> None:
    """Module and DAG, as printed: the rows are those of the chain's transactions that move so much."""
    page = (Path(__file__).parents[2] / "docs" / "dag-format.md").read_text(encoding="utf-8")
    parts = page.split("<!-- update -->\n```")[1:]
    module, dag_text = (part.split("\n", 1)[1].split("\n```")[0] + "\n" for part in parts)
    namespace: dict[str, Any] = {"__name__": "big_transfers"}
    exec(compile(module, "dag-format.md", "exec"), namespace)  # noqa: S102
    operators = {**OPERATORS, "big_transfers": namespace["BigTransfers"]()}
    path = tmp_path / "large.yaml"
    path.write_text(dag_text, encoding="utf-8")
    loaded = load_dags(path, Catalog(operators=operators))
    assert [str(one) for one in (*loaded.problems, *loaded.warnings)] == []
    sender, receiver = chain.anvil.call("eth_accounts")[:2]
    for ether in (2, 0):
        sent = {"from": sender, "to": receiver, "value": hex(ether * 10**18)}
        chain.anvil.call("eth_sendTransaction", sent)
        chain.mine()
    (dag,) = loaded.dags
    jobs = {(dag.name, job.name): job for job in dag.jobs}
    for step in following_of(dag, jobs["large", "tip"]).run(opened, run_id="test", progress=_unexpected):
        if not step.committed:
            break
    updating = updating_of(dag, jobs["large", "big"], jobs)
    assert list(
        updating.run(
            operators["big_transfers"], opened, run_id="test", progress=lambda *_, **__: None, seconds=60
        )
    )
    with opened.ledger.connection() as connection:
        held = connection.execute("SELECT transaction_hash FROM large.big_transfers").fetchall()
        due = connection.execute(
            "SELECT transaction_hash FROM large.tip_transactions WHERE value_string >= 1e18"
        ).fetchall()
    assert len(held) >= 1
    assert sorted(row["transaction_hash"] for row in held) == sorted(row["transaction_hash"] for row in due)
