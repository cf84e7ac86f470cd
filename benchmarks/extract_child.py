"""One extraction in a process of its own, for ``extract.py``: prints CPU seconds and peak memory as JSON.

    extract_child.py ENGINE URL DATASETS START END OUT CONNECTIONS

``warm`` extracts twice, and tells of the second time: what a worker pays that has imported everything.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))


class Work(NamedTuple):
    """What the arguments ask for; ``end`` is exclusive."""

    url: str
    datasets: Sequence[str]
    start: int
    end: int
    out: str
    connections: int


def main() -> None:
    """Run the engine that the arguments name."""
    engine, url, datasets, start, end, out, connections = sys.argv[1:]
    work = Work(url, datasets.split(","), int(start), int(end), out, int(connections))
    told: dict[str, float] = {}
    if engine == "cryo":
        _cryo(work)
    else:
        if engine == "pure":
            _without_kernel()
        _native(work, out)
        if engine == "warm":
            begun, cpu = time.monotonic(), time.process_time()
            _native(work, f"{out}/again")
            told = {"wall": time.monotonic() - begun, "cpu": time.process_time() - cpu}
    usage = resource.getrusage(resource.RUSAGE_SELF)
    told = {"cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss / 1024, **told}
    print(json.dumps(told), flush=True)
    os._exit(0)  # Cryo sometimes aborts in its own clean-up


def _cryo(work: Work) -> None:
    import cryo  # noqa: PLC0415 (only where it is measured)

    Path(work.out).mkdir(parents=True)
    done = cryo.freeze(
        list(work.datasets),
        blocks=[f"{work.start}:{work.end}"],
        rpc=work.url,
        output_dir=work.out,
        no_report=True,
        verbose=False,
        max_concurrent_requests=work.connections,
    )
    assert not done["n_errored"], done


def _native(work: Work, out: str) -> None:
    from trace_dagster.cli import main as trace  # noqa: PLC0415 (its import is measured too)

    os.environ["TRACE_RPC_POOL_BENCH_URL"] = work.url
    arguments = ["--blocks", f"{work.start}:{work.end}", "--rpc-pool", "bench", "--out", out]
    arguments += ["--max-concurrent-requests", str(work.connections)]
    arguments += ["--chunk-size", str(work.end - work.start)]
    trace.main(["extract", *work.datasets, *arguments], standalone_mode=False)


def _without_kernel() -> None:
    """Leave out the compiled part, as where it could not be built."""
    from trace_dagster.chain.decoding import kernel  # noqa: PLC0415 (only where it is measured)

    kernel._library_path = lambda: None  # noqa: SLF001


if __name__ == "__main__":
    main()
