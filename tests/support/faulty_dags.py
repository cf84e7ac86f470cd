"""DAGs on one node that each take it for a chain of their own, and what is seen of their partitions."""

from collections.abc import Sequence
from typing import Any

from tests.support.dags import ingest_dag
from tests.support.project import Project
from tests.support.stack import Stack
from trace_dagster.chain.ranges import BlockRange

DATASETS = ("blocks", "transactions")
PARTITIONS = [piece.key for piece in BlockRange.of(0, 59).split(5)]
ASKED = PARTITIONS[:6]
"""What one run of a backfill carries: half of a job's partitions, as ``max_concurrency`` is 1."""
COMMITTED = ASKED[:2]
HELD_BLOCK = 12
HELD = ASKED[2]
FAULTY = ("canceled", "killed", "spoiled", "abandoned", "hung", "silent")
CHAINS = {dag: 101 + at for at, dag in enumerate((*FAULTY, "chained", "ticking"))}
HANGING = {"hung": HELD_BLOCK, "silent": None}
"""DAGs whose endpoint never answers: what is asked about one block, or anything at all."""


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
        timeout_seconds=2 if dag in HANGING else 300,
        max_attempts=2 if dag in HANGING else 1,
    )


def stub_dag(dag: str, *, end_block: int, schedule: str | None = None) -> str:
    """Return a DAG of ten blocks a partition that needs no endpoint."""
    return ingest_dag(
        dag,
        end_block=end_block,
        chunk_size=10,
        engine="stub",
        datasets=DATASETS,
        chain_id=CHAINS[dag],
        schedule=schedule,
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
