"""How far a follower is behind a chain of one block a second.

    .venv/bin/python benchmarks/follow.py --seconds 60

The chain is anvil's (``make node``), mined by this program; the lag of a block is the time from when it is
mined to when its rows are committed, both by this machine's clock.
"""

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from trace_dagster.operators.block_follower.config import BlockFollowerConfig  # noqa: E402
from trace_dagster.operators.block_follower.following import Following  # noqa: E402
from trace_dagster.operators.block_follower.tables import hot_table  # noqa: E402
from trace_dagster.operators.services import Services  # noqa: E402
from trace_dagster.settings import Settings  # noqa: E402
from trace_dagster.testing.anvil import Anvil, running_anvil  # noqa: E402

DATASETS = ("blocks", "transactions", "logs")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--block-seconds", type=float, default=1.0)
    parser.add_argument("--transactions", type=int, default=20, help="of a block")
    options = parser.parse_args()
    os.chdir(REPOSITORY)
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        anvil = stack.enter_context(running_anvil("--no-mining"))
        environment = {"TRACE_HOME": home, "TRACE_RPC_POOL_BENCH_URL": anvil.url}
        services = stack.enter_context(Services(Settings.from_environment(environment), environment))
        lags = _lags(anvil, services, options)
    shown = {share: lags[min(len(lags) - 1, int(len(lags) * share))] * 1000 for share in (0.5, 0.95, 0.99)}
    chain = f"{len(lags)} blocks of {options.transactions} transactions, one in {options.block_seconds:g} s"
    print(f"{chain}; lag in ms:")
    print("  " + "  ".join(f"p{share * 100:.0f} {value:.0f}" for share, value in shown.items()), end="")
    print(f"  mean {statistics.mean(lags) * 1000:.0f}  most {lags[-1] * 1000:.0f}")


def _lags(anvil: Anvil, services: Services, options: argparse.Namespace) -> list[float]:
    stopped = threading.Event()
    follower = Following(
        dag="bench",
        job="tip",
        config=BlockFollowerConfig(chain_id=31337, rpc_pool="bench", datasets=DATASETS),
        tables={dataset: hot_table("bench", "tip", dataset, ()) for dataset in DATASETS},
        is_replacing=False,
        lease_seconds=30,
    )

    def follow() -> None:
        for _ in follower.run(services, run_id="bench", progress=print, is_stopped=stopped.is_set):
            pass

    anvil.call("evm_mine")
    thread = threading.Thread(target=follow)
    thread.start()
    while (state := services.ledger.follower(follower.key)) is None or state.cursor_block is None:
        time.sleep(0.05)
    try:
        return _mined(anvil, services, options)
    finally:
        stopped.set()
        thread.join()


def _mined(anvil: Anvil, services: Services, options: argparse.Namespace) -> list[float]:
    """Mine block after block, and return how long each took to be committed, ascending."""
    seconds = options.block_seconds
    blocks = int(options.seconds / seconds)
    accounts = anvil.call("eth_accounts")
    lags = []
    for at in range(blocks + 10):
        begun = time.monotonic()
        transfer = {"from": accounts[0], "to": accounts[1], "value": "0x1"}
        anvil.batch([("eth_sendTransaction", [transfer])] * options.transactions)
        anvil.call("evm_mine")
        mined = time.time()
        time.sleep(max(0.0, seconds * 0.95 - (time.monotonic() - begun)))
        state = services.ledger.follower("bench/tip")
        assert state is not None
        assert state.committed_at is not None
        if at >= 10:  # the first ones are the start
            assert state.cursor_block == at + 2, f"block {at + 2} is not there after {seconds} s"
            lags.append(state.committed_at.timestamp() - mined)
        time.sleep(max(0.0, seconds - (time.monotonic() - begun)))
    return sorted(lags)


if __name__ == "__main__":
    main()
