"""Faults of runs in a running Dagster: what it shows of them, and what lies in store, ledger and staging."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.acceptance.conftest import Node
from tests.support.fault_proxy import FaultProxy
from tests.support.faulty_dags import (
    ASKED,
    CHAINS,
    COMMITTED,
    DATASETS,
    FAULTY,
    HANGING,
    HELD,
    HELD_BLOCK,
    everywhere,
    faulty_dag,
    left_in_staging,
    orphaned,
    paths,
    shown,
    stored,
    stub_dag,
    whole,
)
from tests.support.gates import Gate
from tests.support.project import MATERIALIZE, Project
from tests.support.stack import Stack, running_stack
from trace_dagster import metadata
from trace_dagster.ledger import Ledger, open_ledger
from trace_dagster.settings import Settings

HELD_UP = ("canceled", "killed")
"""DAGs whose backfill stands still at block 12 until the test lets it go on."""


@dataclass(frozen=True)
class Launched:
    """A running Dagster, and the work it was asked for at once, since its daemon looks every 30 seconds.

    Attributes:
        stack: Dagster.
        ledger: where its workers take leases.
        gates: by DAG, what holds block 12.
        proxies: by DAG, the endpoint of its pool, which says that it is of the DAG's own chain.
        backfills: by DAG, the backfill of the first six partitions.
        hanging: by DAG, the run of a partition whose endpoint hangs.
    """

    stack: Stack
    ledger: Ledger
    gates: Mapping[str, Gate]
    proxies: Mapping[str, FaultProxy]
    backfills: Mapping[str, str]
    hanging: Mapping[str, str]


@pytest.fixture(scope="module")
def launched(node: Node, new_project: Callable[[str], Project]) -> Iterator[Launched]:
    """Start Dagster on a DAG a fault, and launch everything."""
    project = new_project("faults")
    gates = {
        dag: Gate(block)
        for dag, block in {**HANGING, **dict.fromkeys((*HELD_UP, "abandoned"), HELD_BLOCK)}.items()
    }
    with ExitStack() as resources:
        proxies = {dag: FaultProxy(node.anvil.url) for dag in FAULTY}
        for dag, proxy in proxies.items():
            resources.callback(proxy.close)
            proxy.results["eth_chainId"] = hex(CHAINS[dag])
            proxy.intercept = gates.get(dag, proxy.intercept)
            project.settings[f"TRACE_RPC_POOL_{dag.upper()}_URL"] = proxy.url()
            project.write(f"{dag}.yaml", faulty_dag(dag))
        proxies["spoiled"].rewrite["eth_getBlockByNumber"] = orphaned
        for gate in gates.values():
            resources.callback(gate.open)
        project.write("chained.yaml", stub_dag("chained", end_block=59))
        project.write("ticking.yaml", stub_dag("ticking", end_block=19, schedule="* * * * *"))
        ledger = resources.enter_context(open_ledger(Settings.from_environment(project.environment)))
        ask(project, "chained", start_block=15, end_block=34)
        stack = resources.enter_context(running_stack(project))
        yield Launched(
            stack=stack,
            ledger=ledger,
            gates=gates,
            proxies=proxies,
            backfills={dag: stack.launch_backfill(paths(dag), ASKED) for dag in (*HELD_UP, "spoiled")},
            hanging={dag: stack.launch_partitions(paths(dag), HELD, HELD) for dag in HANGING},
        )


def ask(project: Project, dag: str, *, start_block: int, end_block: int) -> None:
    """Ask for a range before the daemon starts: three jobs take it three looks, and the first is at once."""
    config = {"ops": {"request": {"config": {"start_block": start_block, "end_block": end_block}}}}
    path = project.root / "asked.yaml"
    path.write_text(json.dumps(config))
    job = ("-m", "trace_dagster.definitions", "-j", f"{dag}__ask")
    project.run("dagster", "job", "execute", *job, "--config", str(path))


def first_run(stack: Stack, backfill_id: str) -> str:
    """Wait for the first run of a backfill, and return its id."""

    def look() -> str | None:
        runs = stack.backfill(backfill_id)["runs"]
        return str(runs[-1]["id"]) if runs else None

    return stack.wait_for(f"the run of backfill {backfill_id}", look)


def held_run(launched: Launched, dag: str) -> str:
    """Wait until the run works at the held block and has told of what it committed; return its id."""
    stack = launched.stack
    run_id = first_run(stack, launched.backfills[dag])

    def look() -> bool | None:
        told = shown(stack, dag, run_id) == everywhere(COMMITTED, kept=False)
        return True if told and launched.gates[dag].reached.is_set() else None

    stack.wait_for(f"{dag}'s third partition", look)
    return run_id


@dataclass(frozen=True)
class Broken:
    """A run that was broken, and what was there before anything was launched again.

    Attributes:
        run_id: the run.
        status: how it ended.
        told: what it told Dagster.
        stored: what lay in the store.
        staged: the attempts' directories in staging.
        again: the run, or the backfill, that was launched afterwards; empty where Dagster does so itself.
    """

    run_id: str
    status: str
    told: Mapping[str, Sequence[tuple[str, bool | None]]]
    stored: Mapping[str, set[str]]
    staged: Sequence[str]
    again: str


@pytest.fixture(scope="module")
def canceled(launched: Launched) -> Broken:
    """Terminate a run that works at its third partition of six, and launch all six again."""
    stack, run_id = launched.stack, held_run(launched, "canceled")
    worker = stack.worker_of(run_id)
    stack.terminate(run_id)
    stack.finished_run(run_id)
    stack.wait_for_end_of(worker)
    launched.gates["canceled"].open()
    return broken(
        launched, "canceled", run_id, lambda: stack.launch_partitions(paths("canceled"), ASKED[0], ASKED[-1])
    )


@pytest.fixture(scope="module")
def killed(launched: Launched) -> Broken:
    """Kill the worker of a run that works at its third partition of six."""
    stack, run_id = launched.stack, held_run(launched, "killed")
    os.kill(stack.worker_of(run_id), signal.SIGKILL)
    stack.finished_run(run_id)
    result = broken(launched, "killed", run_id, lambda: "")
    launched.gates["killed"].open()
    return result


@pytest.fixture(scope="module")
def spoiled(launched: Launched) -> Broken:
    """Wait for a run whose third partition of six the endpoint spoiled, mend that, and ask for all again."""
    stack, run_id = launched.stack, first_run(launched.stack, launched.backfills["spoiled"])
    stack.finished_run(run_id)

    def mend() -> str:
        launched.proxies["spoiled"].rewrite.clear()
        return stack.launch_backfill(paths("spoiled"), ASKED)

    return broken(launched, "spoiled", run_id, mend)


def broken(launched: Launched, dag: str, run_id: str, launch: Callable[[], str]) -> Broken:
    """Return what a run left, and then launch again."""
    stack = launched.stack
    return Broken(
        run_id=run_id,
        status=str(stack.run(run_id)["status"]),
        told=shown(stack, dag, run_id),
        stored=stored(stack.project, dag),
        staged=left_in_staging(stack.project, dag),
        again=launch(),
    )


@dataclass(frozen=True)
class Failure:
    """Why a run's step failed.

    Attributes:
        text: the lines for a person.
        message: what heads the failure in the UI.
        partitions: what its metadata names.
    """

    text: str
    message: str
    partitions: str | None


def failure(stack: Stack, run_id: str) -> Failure:
    """Return why the run's one step failed."""
    (event,) = stack.events(run_id, "ExecutionStepFailureEvent")
    told = event["failureMetadata"]
    entries = {entry["label"]: entry.get("text") for entry in told["metadataEntries"]}
    return Failure(told["description"], event["error"]["message"], entries.get("trace/failed_partitions"))


def test_a_run_is_terminated_in_the_ui(launched: Launched, canceled: Broken) -> None:
    """What was committed stays and is shown; of the partition in work, and of its worker, nothing is left."""
    assert canceled.status == "CANCELED"
    why = failure(launched.stack, canceled.run_id).text
    assert why == "interrupted; nothing of the partition in work was committed"
    assert canceled.told == everywhere(COMMITTED, kept=False)
    assert canceled.stored == whole(COMMITTED)
    assert canceled.staged == []
    first = launched.ledger.attempts_of(f"canceled/ingest/{HELD}")[0]
    assert (first.state, first.run_id) == ("failed", canceled.run_id)
    assert first.error == "Interrupted: given up, since the run ends; nothing of the partition was committed"


def test_a_run_worker_is_killed(killed: Broken) -> None:
    """Dagster sees it; what was committed stays and is shown, and nothing else is visible."""
    assert killed.status == "FAILURE"
    assert killed.told == everywhere(COMMITTED, kept=False)
    assert killed.stored == whole(COMMITTED)


def test_one_partition_of_many_is_spoiled(launched: Launched, spoiled: Broken) -> None:
    """The run goes on with the others, which are committed and shown; it fails, and names the one."""
    assert spoiled.status == "FAILURE"
    why = failure(launched.stack, spoiled.run_id)
    assert why.partitions == HELD
    assert why.text.startswith(
        f"1 of 6 partitions failed; the others are committed or were not begun\npartition {HELD}: block 12"
    )
    others = [one for one in ASKED if one != HELD]
    assert spoiled.told == everywhere(others, kept=False)
    assert spoiled.stored == whole(others)
    assert spoiled.staged == []


@pytest.mark.parametrize("dag", HANGING)
def test_an_endpoint_hangs(launched: Launched, dag: str) -> None:
    """``timeout_seconds`` ends an attempt, ``max_attempts`` are made, and nothing is committed."""
    stack, run_id = launched.stack, launched.hanging[dag]
    assert stack.finished_run(run_id) == "FAILURE"
    why = failure(stack, run_id)
    assert "took longer than timeout_seconds: 2" in why.text
    assert "took longer than timeout_seconds: 2" in why.message
    assert why.partitions == HELD
    assert len(stack.events(run_id, "ExecutionStepUpForRetryEvent")) == 1
    assert len(stack.events(run_id, "ExecutionStepRestartEvent")) == 1
    attempts = launched.ledger.attempts_of(f"{dag}/ingest/{HELD}")
    assert [(one.state, one.run_id) for one in attempts] == [("failed", run_id)] * 2
    assert all("timeout_seconds: 2" in (one.error or "") for one in attempts)
    assert shown(stack, dag, run_id) == everywhere([], kept=False)
    assert stored(stack.project, dag) == {}
    assert left_in_staging(stack.project, dag) == []


def test_a_launch_after_a_terminated_run_does_the_rest(launched: Launched, canceled: Broken) -> None:
    """A second run of the same partitions keeps what the first one committed, and makes the others."""
    assert launched.stack.finished_run(canceled.again) == "SUCCESS"
    check_completed(launched, "canceled", canceled.again, [False, False, True, True, True, True])


def test_a_killed_run_is_replaced(launched: Launched, killed: Broken) -> None:
    """Dagster starts another run, which gets the dead one's slot and lease, and does the rest."""
    stack = launched.stack

    def look() -> str | None:
        runs = stack.backfill(launched.backfills["killed"])["runs"]
        return next((str(run["id"]) for run in runs if run["id"] != killed.run_id), None)

    again = stack.wait_for("the run that replaces the killed one", look)
    assert stack.finished_run(again) == "SUCCESS"
    check_completed(launched, "killed", again, [False, False, True, True, True, True])
    attempts = launched.ledger.attempts_of(f"killed/ingest/{HELD}")
    assert [(one.state, one.run_id) for one in attempts] == [("lost", killed.run_id), ("succeeded", again)]


def test_a_killed_command_gives_its_slot_back_once_its_run_is_ended(launched: Launched) -> None:
    """Nobody sees that ``dagster asset materialize`` died; *Force termination* lets the next one go on."""
    stack, project, gate = launched.stack, launched.stack.project, launched.gates["abandoned"]
    arguments = project.command(*MATERIALIZE, "--select", "abandoned/ingest/blocks", "--partition", HELD)
    with subprocess.Popen(arguments, cwd=project.root, env=project.environment) as command:
        stack.wait_for("the command's partition", lambda: True if gate.reached.is_set() else None)
        command.kill()
    run_id = stack.started_run_of(paths("abandoned")[0])
    gate.open()
    stack.terminate(run_id, force=True)
    project.materialize("abandoned/ingest/blocks", partition=HELD)
    attempts = launched.ledger.attempts_of(f"abandoned/ingest/{HELD}")
    assert [(one.state, one.run_id == run_id) for one in attempts] == [("lost", True), ("succeeded", False)]
    assert stored(project, "abandoned") == {"blocks": {HELD}}


def test_a_backfill_after_the_endpoint_was_mended_does_the_rest(launched: Launched, spoiled: Broken) -> None:
    """It keeps the partitions that were right, and makes the one that was not."""
    again = first_run(launched.stack, spoiled.again)
    assert launched.stack.finished_run(again) == "SUCCESS"
    check_completed(launched, "spoiled", again, [one == HELD for one in ASKED])
    attempts = launched.ledger.attempts_of(f"spoiled/ingest/{HELD}")
    assert [(one.state, one.run_id) for one in attempts] == [("failed", spoiled.run_id), ("succeeded", again)]


def check_completed(launched: Launched, dag: str, run_id: str, makes: Sequence[bool]) -> None:
    """Check that a run told of all six partitions, made some and kept the others, and left nothing else."""
    expected = [(partition, not made) for partition, made in zip(ASKED, makes, strict=True)]
    assert shown(launched.stack, dag, run_id) == dict.fromkeys(DATASETS, expected)
    assert stored(launched.stack.project, dag) == whole(ASKED)
    assert left_in_staging(launched.stack.project, dag) == []
    for partition, made in zip(ASKED, makes, strict=True):
        attempts = launched.ledger.attempts_of(f"{dag}/ingest/{partition}")
        assert attempts[-1].state == "succeeded"
        assert (attempts[-1].run_id == run_id) == made


def test_a_cron_source_asks_for_its_range(launched: Launched) -> None:
    """The schedule runs without a manual step; its tick asks for every partition below the entry point."""
    stack = launched.stack

    def look() -> str | None:
        state = stack.schedule("ticking__ask__schedule")
        assert state["status"] == "RUNNING"
        assert [tick["error"] for tick in state["ticks"] if tick["error"]] == []
        return next((str(tick["runIds"][0]) for tick in state["ticks"] if tick["runIds"]), None)

    run_id = stack.wait_for("a tick of the schedule", look)
    assert stack.finished_run(run_id) == "SUCCESS"
    tags = {tag["key"]: tag["value"] for tag in stack.run(run_id)["tags"]}
    assert tags["dagster/schedule_name"] == "ticking__ask__schedule"
    assert tags[metadata.DAG] == "ticking"
    assert tags[metadata.JOB] == "ask"
    backfill_id = stack.backfills_with(metadata.DAG, "ticking")[-1]
    assert backfill_id in stack.backfills_with(metadata.REQUESTED_RANGE_TAG, "0_19")
    assert stack.targeted(backfill_id, ["ticking", "ask", "range"]) == ["0_19"]
    for path in (["ticking", "split", "ranges"], *paths("ticking")):
        assert sorted(stack.targeted(backfill_id, path)) == ["0_9", "10_19"]


@pytest.mark.usefixtures("canceled", "killed")
def test_backfills_end_as_their_runs_do(launched: Launched) -> None:
    """A backfill whose run was terminated or failed has failed; one whose killed run was replaced has not."""
    statuses = {
        dag: launched.stack.finished_backfill(backfill_id)["status"]
        for dag, backfill_id in launched.backfills.items()
    }
    assert statuses == {
        "canceled": "COMPLETED_FAILED",
        "killed": "COMPLETED_SUCCESS",
        "spoiled": "COMPLETED_FAILED",
    }


def test_some_blocks_of_a_bounded_range_are_asked_for(launched: Launched) -> None:
    """Exactly the partitions that hold them are run, and Dagster shows these as fresh from end to end."""
    stack = launched.stack
    (backfill_id,) = stack.backfills_with(metadata.DAG, "chained")
    assert stack.backfills_with(metadata.REQUESTED_RANGE_TAG, "15_34") == [backfill_id]
    asked, ranges = ["chained", "ask", "range"], ["chained", "split", "ranges"]
    expected = ["10_19", "20_29", "30_39"]
    assert stack.targeted(backfill_id, asked) == ["0_59"]
    for path in (ranges, *paths("chained")):
        assert sorted(stack.targeted(backfill_id, path)) == expected

    def look() -> bool | None:
        done = [sorted(one.partition for one in stack.materializations(path)) for path in paths("chained")]
        return True if done == [expected, expected] else None

    stack.wait_for("the partitions that were asked for", look)
    assert [one.partition for one in stack.materializations(asked)] == ["0_59"]
    assert sorted(one.partition for one in stack.materializations(ranges)) == expected
    assert stored(stack.project, "chained") == whole(expected)
    again = stack.launch_partitions([asked], "0_59", "0_59")
    assert stack.finished_run(again) == "SUCCESS"
    assert stack.stale_statuses(asked, ["0_59"]) == ["FRESH"]
    for path in (ranges, *paths("chained")):
        assert stack.stale_statuses(path, ["0_9", *expected]) == ["MISSING", "FRESH", "FRESH", "FRESH"]


def test_blocks_outside_of_a_bounded_range_are_refused(launched: Launched) -> None:
    """Nothing is asked for, and the failure says what can be."""
    stack = launched.stack
    config = {"ops": {"request": {"config": {"start_block": 50, "end_block": 60}}}}
    run_id = stack.launch_job("chained__ask", config)
    assert stack.finished_run(run_id) == "FAILURE"
    expected = "blocks 50 to 60 were asked for, but the DAG's range is 0 to 59; ask within it"
    assert failure(stack, run_id).text.startswith(expected)
    assert len(stack.backfills_with(metadata.DAG, "chained")) == 1
