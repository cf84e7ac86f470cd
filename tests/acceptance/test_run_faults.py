"""Faults of runs in a running Dagster: what it shows of them, and what lies in store, ledger and staging."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from tests.acceptance.conftest import Node
from tests.support.dags import ingest_dag
from tests.support.fault_proxy import FaultProxy
from tests.support.gates import Gate
from tests.support.project import Project
from tests.support.stack import Stack, running_stack
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.ledger import Ledger, open_ledger
from trace_dagster.settings import Settings

DATASETS = ("blocks", "transactions")
PARTITIONS = [piece.key for piece in BlockRange.of(0, 59).split(5)]
ASKED = PARTITIONS[:6]
"""What one run of a backfill carries: half of a job's partitions, as ``max_concurrency`` is 1."""
COMMITTED = ASKED[:2]
HELD_BLOCK = 12
HELD = ASKED[2]
CHAINS = {"canceled": 101, "killed": 102, "hung": 103, "spoiled": 104}


@dataclass(frozen=True)
class Launched:
    """A running Dagster, and the work it was asked for at once, since its daemon looks every 30 seconds.

    Attributes:
        stack: Dagster.
        ledger: where its workers take leases.
        gates: by DAG, what holds block 12.
        proxies: by DAG, the endpoint of its pool, which says that it is of the DAG's own chain.
        backfills: by DAG, the backfill of the first six partitions.
        hung: the run of the partition whose endpoint hangs.
    """

    stack: Stack
    ledger: Ledger
    gates: Mapping[str, Gate]
    proxies: Mapping[str, FaultProxy]
    backfills: Mapping[str, str]
    hung: str


@pytest.fixture(scope="module")
def launched(node: Node, new_project: Callable[[str], Project]) -> Iterator[Launched]:
    """Start Dagster on a DAG a fault, and launch everything."""
    project = new_project("faults")
    gates = {dag: Gate(HELD_BLOCK) for dag in ("canceled", "killed", "hung")}
    with ExitStack() as resources:
        proxies = {dag: FaultProxy(node.anvil.url) for dag in CHAINS}
        for dag, proxy in proxies.items():
            resources.callback(proxy.close)
            proxy.results["eth_chainId"] = hex(CHAINS[dag])
            proxy.intercept = gates.get(dag, proxy.intercept)
            project.settings[f"TRACE_RPC_POOL_{dag.upper()}_URL"] = proxy.url()
            project.write(f"{dag}.yaml", faulty_dag(dag))
        proxies["spoiled"].rewrite["eth_getBlockByNumber"] = orphaned
        for gate in gates.values():
            resources.callback(gate.open)
        ledger = resources.enter_context(open_ledger(Settings.from_environment(project.environment)))
        stack = resources.enter_context(running_stack(project))
        yield Launched(
            stack=stack,
            ledger=ledger,
            gates=gates,
            proxies=proxies,
            backfills={
                dag: stack.launch_backfill(paths(dag), ASKED) for dag in ("canceled", "killed", "spoiled")
            },
            hung=stack.launch_partitions(paths("hung"), HELD, HELD),
        )


def orphaned(params: list[Any], block: dict[str, Any]) -> dict[str, Any]:
    """Return an answer to ``eth_getBlockByNumber``; block 12 has a parent that nobody knows."""
    return {**block, "parentHash": "0x" + "ab" * 32} if params[0] == hex(HELD_BLOCK) else block


def faulty_dag(dag: str) -> str:
    """Return a DAG on a chain and a pool of its own."""
    return ingest_dag(
        dag,
        end_block=59,
        chunk_size=5,
        engine="cryo",
        datasets=DATASETS,
        chain_id=CHAINS[dag],
        rpc_pool=dag,
        max_concurrency=1,
        heartbeat_timeout_seconds=10,
        **({"timeout_seconds": 2, "max_attempts": 2} if dag == "hung" else {}),
    )


def paths(dag: str) -> list[list[str]]:
    """Return the asset keys of a DAG's ingest job."""
    return [[dag, "ingest", dataset] for dataset in DATASETS]


def shown(stack: Stack, dag: str, run_id: str) -> dict[str, list[tuple[str, bool | None]]]:
    """Return what a run told Dagster: by dataset, its partitions in order, and whether they were kept."""
    return {
        dataset: [
            (one.partition, one.kept)
            for one in reversed(stack.materializations([dag, "ingest", dataset]))
            if one.run_id == run_id
        ]
        for dataset in DATASETS
    }


def everywhere(partitions: Sequence[str], *, kept: bool) -> dict[str, list[tuple[str, bool | None]]]:
    """Return what ``shown`` does where these partitions were told for each dataset."""
    return {dataset: [(partition, kept) for partition in partitions] for dataset in DATASETS}


@dataclass(frozen=True)
class Failure:
    """Why a run's step failed.

    Attributes:
        text: the lines for a person.
        partitions: what its metadata names.
    """

    text: str
    partitions: str | None


def failure(stack: Stack, run_id: str) -> Failure:
    """Return why the run's one step failed."""
    (event,) = stack.events(run_id, "ExecutionStepFailureEvent")
    told = event["failureMetadata"]
    entries = {entry["label"]: entry.get("text") for entry in told["metadataEntries"]}
    return Failure(told["description"], entries.get("trace/failed_partitions"))


def stored(project: Project, dag: str) -> dict[str, set[str]]:
    """Return the partitions of a DAG of which something lies in the store, by dataset; all must be whole."""
    found: dict[str, set[str]] = {}
    folders: dict[str, list[str]] = {}
    for path in project.objects():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, []).append(name)
    for folder, names in folders.items():
        _, chain_id, dataset, partition, _ = folder.split("/")
        if int(chain_id) == CHAINS[dag]:
            assert len(names) == 2
            assert "_manifest.json" in names
            found.setdefault(dataset, set()).add(partition)
    return found


def whole(partitions: Sequence[str]) -> dict[str, set[str]]:
    """Return what ``stored`` does where these partitions are committed, and nothing else is there."""
    return {dataset: set(partitions) for dataset in DATASETS}


def left_in_staging(project: Project, dag: str) -> list[str]:
    """Return the directories of attempts that are still there."""
    return [str(path) for path in (project.home / "staging" / "cryo").glob(f"{dag}.*/*")]


def first_run(launched: Launched, dag: str) -> str:
    """Wait for the run of a DAG's backfill, and return its id."""
    stack = launched.stack

    def look() -> str | None:
        runs = stack.backfill(launched.backfills[dag])["runs"]
        return str(runs[0]["id"]) if runs else None

    return stack.wait_for(f"the run of {dag}", look)


def held_run(launched: Launched, dag: str) -> str:
    """Wait until the run works at the held block and has told of what it committed; return its id."""
    stack, run_id = launched.stack, first_run(launched, dag)

    def look() -> bool | None:
        told = shown(stack, dag, run_id) == everywhere(COMMITTED, kept=False)
        return True if told and launched.gates[dag].reached.is_set() else None

    stack.wait_for(f"{dag}'s third partition", look)
    return run_id


def wait_for_end(stack: Stack, pid: int) -> None:
    """Wait until a process is no more."""

    def look() -> bool | None:
        if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            return None
        return True

    stack.wait_for(f"the end of process {pid}", look)


def test_a_run_is_terminated_in_the_ui(launched: Launched) -> None:
    """What was committed stays and is shown; the partition in work leaves nothing; a new launch goes on."""
    stack, project = launched.stack, launched.stack.project
    run_id = held_run(launched, "canceled")
    worker = stack.worker_of(run_id)
    stack.terminate(run_id)
    assert stack.finished_run(run_id) == "CANCELED"
    why = failure(stack, run_id).text
    assert why == "interrupted; nothing of the partition in work was committed"
    assert [step["status"] for step in stack.run(run_id)["stepStats"]] == ["FAILURE"]
    wait_for_end(stack, worker)
    launched.gates["canceled"].open()
    assert shown(stack, "canceled", run_id) == everywhere(COMMITTED, kept=False)
    assert stored(project, "canceled") == whole(COMMITTED)
    assert [(one.state, one.error) for one in launched.ledger.attempts_of(f"canceled/ingest/{HELD}")] == [
        ("failed", "Interrupted: given up, since the run ends; nothing of the partition was committed")
    ]
    assert [launched.ledger.attempts_of(f"canceled/ingest/{one}") for one in ASKED[3:]] == [(), (), ()]
    assert left_in_staging(project, "canceled") == []
    again = stack.launch_partitions(paths("canceled"), ASKED[0], ASKED[-1])
    assert stack.finished_run(again) == "SUCCESS"
    check_completed(launched, "canceled", again)


def check_completed(launched: Launched, dag: str, run_id: str) -> None:
    """Check that a run kept the two partitions committed before it, and made all others."""
    kept, made = everywhere(COMMITTED, kept=True), everywhere(ASKED[2:], kept=False)
    told = shown(launched.stack, dag, run_id)
    assert told == {dataset: kept[dataset] + made[dataset] for dataset in DATASETS}
    assert stored(launched.stack.project, dag) == whole(ASKED)
    assert left_in_staging(launched.stack.project, dag) == []
    for partition in COMMITTED:
        assert [one.state for one in launched.ledger.attempts_of(f"{dag}/ingest/{partition}")] == [
            "succeeded"
        ]


def test_a_run_worker_is_killed(launched: Launched) -> None:
    """Dagster sees it, keeps showing what was committed, and starts a run that does the rest."""
    stack, project = launched.stack, launched.stack.project
    run_id = held_run(launched, "killed")
    os.kill(stack.worker_of(run_id), signal.SIGKILL)
    assert stack.finished_run(run_id) == "FAILURE"
    assert shown(stack, "killed", run_id) == everywhere(COMMITTED, kept=False)
    assert stored(project, "killed") == whole(COMMITTED)
    launched.gates["killed"].open()

    def look() -> str | None:
        runs = stack.backfill(launched.backfills["killed"])["runs"]
        return next((str(run["id"]) for run in runs if run["id"] != run_id), None)

    again = stack.wait_for("the run that replaces the killed one", look)
    assert stack.finished_run(again) == "SUCCESS"
    check_completed(launched, "killed", again)
    assert [(one.state, one.run_id) for one in launched.ledger.attempts_of(f"killed/ingest/{HELD}")] == [
        ("lost", run_id),
        ("succeeded", again),
    ]


def test_an_endpoint_hangs(launched: Launched) -> None:
    """``timeout_seconds`` ends an attempt, ``max_attempts`` are made, and nothing is committed."""
    stack, run_id = launched.stack, launched.hung
    assert stack.finished_run(run_id) == "FAILURE"
    assert "took longer than timeout_seconds: 2" in failure(stack, run_id).text
    assert failure(stack, run_id).partitions == HELD
    assert len(stack.events(run_id, "ExecutionStepUpForRetryEvent")) == 1
    assert len(stack.events(run_id, "ExecutionStepRestartEvent")) == 1
    attempts = launched.ledger.attempts_of(f"hung/ingest/{HELD}")
    assert [(one.state, one.run_id) for one in attempts] == [("failed", run_id)] * 2
    assert all("timeout_seconds: 2" in (one.error or "") for one in attempts)
    assert shown(stack, "hung", run_id) == everywhere([], kept=False)
    assert stored(stack.project, "hung") == {}
    assert left_in_staging(stack.project, "hung") == []


def test_one_partition_of_many_is_spoiled(launched: Launched) -> None:
    """The others are committed and shown, the run fails and names it; a backfill afterwards completes it."""
    stack, project = launched.stack, launched.stack.project
    run_id = first_run(launched, "spoiled")
    assert stack.finished_run(run_id) == "FAILURE"
    told = failure(stack, run_id)
    assert told.partitions == HELD
    assert told.text.startswith(
        f"1 of 6 partitions failed; the others are committed or were not begun\npartition {HELD}: block 12"
    )
    others = [one for one in ASKED if one != HELD]
    assert shown(stack, "spoiled", run_id) == everywhere(others, kept=False)
    assert stored(project, "spoiled") == whole(others)
    launched.proxies["spoiled"].rewrite.clear()
    backfill = stack.finished_backfill(stack.launch_backfill(paths("spoiled"), ASKED))
    assert backfill["status"] == "COMPLETED_SUCCESS"
    assert shown(stack, "spoiled", backfill["runs"][0]["id"]) == {
        dataset: [(one, one != HELD) for one in ASKED] for dataset in DATASETS
    }
    assert stored(project, "spoiled") == whole(ASKED)
    states = [one.state for one in launched.ledger.attempts_of(f"spoiled/ingest/{HELD}")]
    assert states == ["failed", "succeeded"]


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
