"""How far a follower is behind its chain.

    .venv/bin/python benchmarks/follow.py --seconds 60
    .venv/bin/python benchmarks/follow.py --seconds 600 --heads poll --heads websocket --svg lag.svg
    .venv/bin/python benchmarks/follow.py --seconds 120 --block-seconds 0.4 --recorded

The lag of a block is the time from when it is there to when the follower's step that committed it is over,
both by this machine's clock. The chain is anvil's (``make node``), mined by this program: transfers. With
``--recorded`` it is one like mainnet's, of dense blocks (about 178 transactions, 363 logs), from a server
that costs almost nothing, so that only the follower is measured; it is made at the first run (needs a C
compiler).
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.lag_plot import Lags, plot  # noqa: E402
from benchmarks.replay.chain import Recording, record  # noqa: E402
from benchmarks.replay.server import ask, running_replay  # noqa: E402
from trace_dagster.operators.block_follower.config import BlockFollowerConfig  # noqa: E402
from trace_dagster.operators.block_follower.following import Following  # noqa: E402
from trace_dagster.operators.block_follower.tables import hot_table  # noqa: E402
from trace_dagster.operators.services import Services  # noqa: E402
from trace_dagster.settings import Settings  # noqa: E402
from trace_dagster.testing.anvil import running_anvil  # noqa: E402

DATASETS = ("blocks", "transactions", "logs")
WARM_UP_BLOCKS = 10
RECORDED_BLOCKS = 320


@dataclass(frozen=True)
class Chain:
    """A chain that grows when it is told to.

    Attributes:
        url: its endpoint.
        chain_id: its id.
        head: its newest block at first.
        grow: makes the next block, whose number is given, and returns when it was there.
    """

    url: str
    chain_id: int
    head: int
    grow: Callable[[int], float]


@contextmanager
def mined(transactions: int) -> Iterator[Chain]:
    """Anvil, with so many transfers in each block."""
    with running_anvil("--no-mining") as anvil:
        accounts = anvil.call("eth_accounts")
        transfer = {"from": accounts[0], "to": accounts[1], "value": "0x1"}

        def grow(_number: int) -> float:
            anvil.batch([("eth_sendTransaction", [transfer])] * transactions)
            anvil.call("evm_mine")
            return time.time()

        anvil.call("evm_mine")
        yield Chain(anvil.url, 31337, 1, grow)


@contextmanager
def recorded() -> Iterator[Chain]:
    """The dense blocks of a recorded chain, one after another."""
    folder = REPOSITORY / f".trace/benchmarks/1-1-{RECORDED_BLOCKS}"
    recording = Recording(folder, 1, 1, RECORDED_BLOCKS)
    record(recording)
    with running_replay(recording.folder) as url:

        def grow(number: int) -> float:
            ask(f"{url}/head/{number}")
            return time.time()

        first = recording.first("dense")
        ask(f"{url}/head/{first}")
        yield Chain(url, 1, first, grow)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--block-seconds", type=float, default=1.0)
    parser.add_argument("--transactions", type=int, default=20, help="of a block of anvil's")
    parser.add_argument("--recorded", action="store_true", help="dense blocks instead of anvil's")
    parser.add_argument(
        "--heads", action="append", choices=("auto", "poll", "websocket"), help="may be given more than once"
    )
    parser.add_argument("--svg", type=Path, help="where to draw the lags")
    options = parser.parse_args()
    os.chdir(REPOSITORY)
    blocks = round(options.seconds / options.block_seconds)
    if options.recorded and blocks + WARM_UP_BLOCKS > RECORDED_BLOCKS:
        parser.error(f"{blocks} blocks; only {RECORDED_BLOCKS - WARM_UP_BLOCKS} are recorded")
    series: dict[str, Lags] = {}
    for heads in options.heads or ["auto"]:
        chain = recorded() if options.recorded else mined(options.transactions)
        with tempfile.TemporaryDirectory() as home, chain as growing:
            series[heads] = followed(growing, Path(home), heads, blocks, options.block_seconds)
    filled = "of a recorded chain" if options.recorded else f"of {options.transactions} transactions"
    title = f"Lag of {blocks} blocks {filled}, one in {options.block_seconds:g} s"
    if options.svg:
        plot(options.svg, title, {f"heads: {heads}": lags for heads, lags in series.items()})


def followed(chain: Chain, home: Path, heads: str, blocks: int, block_seconds: float) -> Lags:
    """Let the chain grow with a follower behind it, print what it took, and return the lags."""
    environment = {"TRACE_HOME": str(home), "TRACE_RPC_POOL_BENCH_URL": chain.url}
    follower = Following(
        dag="bench",
        job="tip",
        config=BlockFollowerConfig(
            chain_id=chain.chain_id,
            rpc_pool="bench",
            start_block=chain.head,
            datasets=DATASETS,
            heads=heads,  # type: ignore[arg-type]
        ),
        tables={dataset: hot_table("bench", "tip", dataset, ()) for dataset in DATASETS},
        is_replacing=False,
        lease_seconds=30,
    )
    stopped = threading.Event()
    done: dict[int, float] = {}
    looks = 0

    def follow(services: Services) -> None:
        nonlocal looks
        for step in follower.run(
            services,
            run_id="bench",
            progress=lambda line, **fields: print(f"  {line} {fields.get('why', '')}", flush=True),
            is_stopped=stopped.is_set,
        ):
            looks += 1
            if step.committed and step.cursor is not None:
                now = time.time()
                done.update(dict.fromkeys(range(step.cursor - step.committed + 1, step.cursor + 1), now))

    with Services(Settings.from_environment(environment), environment) as services:
        thread = threading.Thread(target=follow, args=(services,))
        thread.start()
        while chain.head not in done:
            time.sleep(0.05)
        there, load = grown(chain, blocks, block_seconds)
        looks_then = looks
        until = time.monotonic() + 10 * block_seconds + 10
        while max(there) not in done and time.monotonic() < until:
            time.sleep(0.05)
        behind = max(there) - max(done)
        stopped.set()
        thread.join()
    kept = sorted(there)[WARM_UP_BLOCKS:]
    first = there[kept[0]]
    lags = [(there[number] - first, done[number] - there[number]) for number in kept if number in done]
    ascending = sorted(lag for _, lag in lags)
    print(f"heads: {heads}; {len(lags)} blocks, one in {block_seconds:g} s; {looks_then} looks at the head")
    shown = {share: ascending[min(len(lags) - 1, int(len(lags) * share))] for share in (0.5, 0.95, 0.99)}
    percentiles = "  ".join(f"p{share * 100:.0f} {lag * 1000:.0f}" for share, lag in shown.items())
    print(f"  lag in ms: {percentiles}  mean {statistics.mean(ascending) * 1000:.0f}", end="")
    print(f"  most {ascending[-1] * 1000:.0f}; at the end {behind} behind")
    print(f"  {load}", flush=True)
    return lags


def grown(chain: Chain, blocks: int, block_seconds: float) -> tuple[dict[int, float], str]:
    """Make block after block; return when each was there, and what was used meanwhile."""
    there: dict[int, float] = {}
    cpu, begun = _cpu_seconds(), time.monotonic()
    for at in range(1, blocks + WARM_UP_BLOCKS):
        there[chain.head + at] = chain.grow(chain.head + at)
        time.sleep(max(0.0, begun + at * block_seconds - time.monotonic()))
    seconds = time.monotonic() - begun
    share = (_cpu_seconds() - cpu) / seconds
    late = seconds / ((blocks + WARM_UP_BLOCKS - 1) * block_seconds)
    loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
    return there, (
        f"{share:.2f} cores of {os.cpu_count()} for this process; load of the machine {loads}; "
        f"the chain itself took {late:.2f} times its time"
    )


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
