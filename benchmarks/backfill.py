"""What Dagster and this project cost per partition of a backfill, above the partitions' own work.

    .venv/bin/python benchmarks/backfill.py --partitions 1000 --datasets blocks,transactions,logs

Asks a real Dagster daemon, on the instance of dagster.yaml, for a backfill of stub partitions of ten blocks,
with run history in SQLite, or with --postgres in Postgres as in production. Takes the time from the first
run's creation to the last run's end. The partitions' own work is the same partitions done by the same
operator in a process without Dagster: extraction, checks, commit, ledger.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.utils import make_new_backfill_id
from psycopg.conninfo import conninfo_to_dict

from benchmarks.dags import ingest_dag
from trace_dagster.build import build_definitions
from trace_dagster.ledger.server import EmbeddedPostgres
from trace_dagster.operators.base import Task
from trace_dagster.operators.registry import catalog, operators
from trace_dagster.operators.services import Services
from trace_dagster.settings import Settings
from trace_dagster.spec.resolve import load_dags

REPOSITORY = Path(__file__).parents[1]
BLOCKS = 10


def main() -> None:
    """Measure both sides in turn and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--partitions", type=int, default=1000)
    parser.add_argument("--datasets", default="blocks,transactions,logs")
    parser.add_argument("--postgres", action="store_true", help="keep Dagster's history in Postgres")
    options = parser.parse_args()
    datasets = options.datasets.split(",")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "dags").mkdir()
        (root / "dags" / "bench.yaml").write_text(
            ingest_dag(
                "bench",
                start_block=0,
                end_block=options.partitions * BLOCKS - 1,
                chunk_size=BLOCKS,
                chain_id=1,
                datasets=datasets,
            )
        )
        own = _own_work(root)
        with ExitStack() as resources:
            history = _postgres(resources, root) if options.postgres else ""
            wall, runs = _backfill(root, history)
    count = options.partitions
    print(f"{count} partitions of {BLOCKS} blocks, {len(datasets)} datasets, {runs} runs of the ingest job:")
    print(f"  own work        {own / count * 1000:7.1f} ms a partition")
    print(f"  backfill        {wall / count * 1000:7.1f} ms a partition")
    print(f"  above own work  {(wall - own) / count * 1000:7.1f} ms a partition")


def _environment(root: Path, home: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRACE_", "AWS_", "DAGSTER_"))
    }
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {
        **kept,
        "TRACE_DAG_SPECS": str(root / "dags"),
        "TRACE_HOME": str(root / home),
        "DAGSTER_HOME": str(root / "dagster"),
    }


def _own_work(root: Path) -> float:
    environment = _environment(root, "own")
    (dag,) = load_dags(str(root / "dags"), catalog()).dags
    job = dag.jobs[-1]
    operator = operators()[job.operator.name]
    if job.plan is None or job.plan.ranges is None:
        raise SystemExit("the benchmark's DAG has no bounded ranges")
    with Services(Settings.from_environment(environment), environment) as services:
        tasks = [
            Task(
                dag=dag.name,
                job=job.name,
                partition=block_range,
                outputs=tuple(output.name for output in job.outputs),
                config=job.config,
                timeout_seconds=None,
                lease_seconds=60,
                force=False,
                run_id="benchmark",
            )
            for block_range in job.plan.ranges
        ]
        services.ledger.attempts_of("warm-up")
        begun = time.perf_counter()
        for task in tasks:
            operator.run(task, services, _no_progress)
        return time.perf_counter() - begun


def _no_progress(message: str, **fields: object) -> None:
    """Say nothing."""


def _postgres(resources: ExitStack, root: Path) -> str:
    """Start a Postgres and return the part of dagster.yaml that keeps history in it."""
    server = resources.enter_context(EmbeddedPostgres(root / "history"))
    parts = conninfo_to_dict(server.conninfo())
    url = f"postgresql+psycopg2://{parts['user']}@/{parts['dbname']}?host={parts['host']}"
    return f"storage:\n  postgres:\n    postgres_url: {url}\n"


def _backfill(root: Path, history: str) -> tuple[float, int]:
    """Return seconds from the first run's creation to the last run's end, and how many runs there were."""
    (root / "dagster").mkdir()
    (root / "dagster" / "dagster.yaml").write_text((REPOSITORY / "dagster.yaml").read_text() + history)
    environment = _environment(root, "backfill")
    os.environ.update(environment)
    with dg.DagsterInstance.get() as instance:
        backfill_id = _request(instance, environment)
        with _daemon(root, environment):
            until = time.monotonic() + 3600
            while time.monotonic() < until:
                backfill = instance.get_backfill(backfill_id)
                if backfill is not None and backfill.status != BulkActionStatus.REQUESTED:
                    break
                time.sleep(1)
        if backfill is None or backfill.status != BulkActionStatus.COMPLETED_SUCCESS:
            raise SystemExit(f"the backfill ended as {backfill and backfill.status}")
        records = instance.get_run_records(dg.RunsFilter(tags={"dagster/backfill": backfill_id}))
    ends = [record.end_time or 0.0 for record in records]
    return max(ends) - min(record.create_timestamp.timestamp() for record in records), len(records)


def _request(instance: dg.DagsterInstance, environment: dict[str, str]) -> str:
    repository = build_definitions(environment=environment).get_repository_def()
    subsets = {
        node.key: node.partitions_def.subset_with_all_partitions()
        for node in repository.asset_graph.asset_nodes
        if node.partitions_def is not None and node.key.path[1] == "ingest"
    }
    backfill = PartitionBackfill.from_asset_graph_subset(
        backfill_id=make_new_backfill_id(),
        backfill_timestamp=time.time(),
        tags={},
        dynamic_partitions_store=instance,
        asset_graph_subset=AssetGraphSubset(subsets, set()),
        title="benchmark",
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return str(backfill.backfill_id)


@contextmanager
def _daemon(root: Path, environment: dict[str, str]) -> Iterator[None]:
    with (root / "daemon.log").open("w") as log:
        command = [sys.executable, "-m", "dagster._daemon", "run", "-m", "trace_dagster.definitions"]
        daemon = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            daemon.terminate()
            daemon.wait(60)


if __name__ == "__main__":
    main()
