"""The native engine against Cryo: time, CPU, memory and requests on the same blocks, in one run.

    .venv/bin/python benchmarks/extract.py --rounds 5

Both read a recorded chain like mainnet's from a server that costs almost nothing (``replay/``), which is made
at the first run (five minutes, 1.2 GB below ``.trace/benchmarks``; needs ``make node`` and a C compiler).
Every figure is of a whole process with its start, except that of the warm worker; the engines take turns, and
medians are shown. ``pure`` is the native engine without its compiled part.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.replay.chain import Recording, record  # noqa: E402
from benchmarks.replay.server import ask, running_replay  # noqa: E402

MAIN = ("blocks", "transactions", "logs")
CONNECTIONS = 20


@dataclass(frozen=True)
class Work:
    """What is extracted.

    Attributes:
        name: for the table.
        kind: of the blocks.
        blocks: how many; at most as many as there are.
        datasets: what of them.
        latency_ms: how long each answer of the server waits.
        engines: what is compared.
    """

    name: str
    kind: str
    blocks: int
    datasets: Sequence[str] = MAIN
    latency_ms: int = 0
    engines: Sequence[str] = ("cryo", "native")


ALL_WORK = (
    Work("dense", "dense", 1000, engines=("cryo", "native", "pure")),
    Work("dense, a tenth", "dense", 100),
    Work("dense, 50 ms", "dense", 1000, latency_ms=50),
    Work("dense, 100 ms", "dense", 1000, latency_ms=100),
    Work("sparse", "sparse", 1000),
    Work("empty", "empty", 1000, engines=("cryo", "native", "warm")),
    Work("traces", "dense", 1000, ("traces",)),
)


@dataclass(frozen=True)
class Figures:
    """What one process took: seconds of wall and CPU, peak megabytes, and what it asked of the server."""

    wall: float
    cpu: float
    peak: float
    requests: float
    items: float
    bytes: float


def main() -> None:
    """Measure everything in turn, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=1000, help="recorded blocks of each kind")
    parser.add_argument("--only", help="work whose name begins so")
    options = parser.parse_args()
    count = options.blocks
    recording = Recording(REPOSITORY / ".trace/benchmarks" / f"{count}-{count}-{count}", count, count, count)
    record(recording)
    with tempfile.TemporaryDirectory() as folder, running_replay(recording.folder) as url:
        for work in ALL_WORK:
            if work.name.startswith(options.only or ""):
                _compare(work, recording, url, Path(folder), options.rounds)


def _compare(work: Work, recording: Recording, url: str, folder: Path, rounds: int) -> None:
    start = recording.first(work.kind)
    end = min(start + work.blocks, recording.first(work.kind) + getattr(recording, work.kind))
    taken: dict[str, list[Figures]] = {engine: [] for engine in work.engines}
    for _ in range(rounds):
        for engine in work.engines:
            out = folder / "out"
            taken[engine].append(_measure(engine, url, work, (start, end), out))
            shutil.rmtree(out)
    print(f"\n{work.name}: {end - start} blocks, {' + '.join(work.datasets)}")
    print("            wall s  of Cryo    CPU s  of Cryo   peak MB   requests     items   MB read")
    cryo = _median(taken["cryo"])
    for engine in work.engines:
        one = _median(taken[engine])
        print(
            f"  {engine:8}{one.wall:8.2f}{one.wall / cryo.wall:9.2f}{one.cpu:9.2f}{one.cpu / cryo.cpu:9.2f}"
            f"{one.peak:10.0f}{one.requests:11.0f}{one.items:10.0f}{one.bytes / 1e6:10.0f}",
            flush=True,
        )


def _median(taken: Sequence[Figures]) -> Figures:
    columns = zip(*(vars(one).values() for one in taken), strict=True)
    return Figures(*(statistics.median(column) for column in columns))


def _measure(engine: str, url: str, work: Work, blocks: tuple[int, int], out: Path) -> Figures:
    ask(f"{url}/reset/{work.latency_ms}")
    command = [sys.executable, __file__.replace("extract.py", "extract_child.py"), engine, url]
    command += [",".join(work.datasets), *map(str, blocks), str(out), str(CONNECTIONS)]
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, errors = process.communicate()
    wall = time.monotonic() - begun
    usage = json.loads(said.splitlines()[-1]) if process.returncode == 0 and said else None
    if usage is None:
        raise SystemExit(f"{engine} failed on {work.name}:\n{errors.decode()[-3000:]}")
    asked = ask(f"{url}/stats")
    return Figures(
        wall=usage.get("wall", wall),
        cpu=usage["cpu"],
        peak=usage["peak"],
        requests=usage.get("requests", asked["requests"]),
        items=asked["items"],
        bytes=asked["bytes"],
    )


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    main()
