"""How long definitions take to load, and how much memory the code server needs for them.

    .venv/bin/python benchmarks/load.py --dags 20 --partitions 20000

Each repetition is a fresh process, with bytecode compiled, that imports Dagster and the definitions, builds
the repository, and serialises it as the code server does for the webserver.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.dags import ingest_dag

_CHILD = """
import json, resource, time
begun, cpu = time.perf_counter(), time.process_time()
import dagster
imported = time.perf_counter()
from trace_dagster.definitions import defs
repository = defs.get_repository_def()
loaded, loaded_cpu = time.perf_counter(), time.process_time()
steady = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value
size = len(serialize_value(RepositorySnap.from_def(repository)))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({
    "import dagster, s": imported - begun,
    "definitions, s": loaded - imported,
    "both, s": loaded - begun,
    "both, CPU s": loaded_cpu - cpu,
    "memory once loaded, MB": steady / 1024,
    "peak memory while serialising, MB": peak / 1024,
    "snapshot, MB": size / 1e6,
}))
"""


def main() -> None:
    """Measure and print medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dags", type=int, default=20)
    parser.add_argument("--partitions", type=int, default=20_000, help="partitions of each DAG")
    parser.add_argument("--shared", action="store_true", help="let all DAGs have the same block ranges")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        blocks = options.partitions * 1000
        for number in range(options.dags):
            start = 0 if options.shared else number * blocks
            text = ingest_dag(
                f"dag{number}",
                start_block=start,
                end_block=start + blocks - 1,
                chunk_size=1000,
                chain_id=number + 1,
                datasets=["blocks", "transactions", "logs"],
            )
            (Path(folder) / f"dag{number}.yaml").write_text(text)
        environment = {**os.environ, "TRACE_DAG_SPECS": folder, "TRACE_HOME": f"{folder}/home"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        runs = [_run(environment) for _ in range(options.repeat + 1)][1:]
    print(f"{options.dags} DAGs of {options.partitions} partitions, medians of {options.repeat}:")
    for name in runs[0]:
        print(f"  {name}: {statistics.median(run[name] for run in runs):.2f}")


def _run(environment: dict[str, str]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD], env=environment, check=True, capture_output=True, text=True
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    main()
