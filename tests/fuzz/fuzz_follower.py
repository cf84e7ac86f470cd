"""Random schedules of growth and reorganisations against a follower, as many as wanted.

    .venv/bin/python -m tests.fuzz.fuzz_follower --schedules 2000 --seed 1

Each round of a hundred is one chain (``make node``) and one follower with a config of its own. One that fails
says its seed: ``--seed N --schedules 100`` does that round again, with the same draws.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

from tests.support.followers import Fork, following, services
from tests.support.schedules import Scheduled
from tests.support.small_chain import small_chain

SCHEDULES_OF_A_ROUND = 100


def main() -> None:
    """Run them, and print one line for each round."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schedules", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each has the next one")
    options = parser.parse_args()
    begun, failed = time.monotonic(), []
    with tempfile.TemporaryDirectory() as home:
        for done in range(0, options.schedules, SCHEDULES_OF_A_ROUND):
            seed = options.seed + done // SCHEDULES_OF_A_ROUND
            if not _round(Path(home), seed, min(SCHEDULES_OF_A_ROUND, options.schedules - done)):
                failed.append(seed)
    print(f"{options.schedules} schedules in {time.monotonic() - begun:.0f} s; failed: {failed or 'none'}")
    raise SystemExit(bool(failed))


def _round(home: Path, seed: int, schedules: int) -> bool:
    draw = random.Random(seed)  # noqa: S311
    is_replacing = draw.random() < 0.5
    config = {
        "start_block": draw.choice((1, 5, 9)),
        "confirmations": draw.choice((0, 0, 1, 3)),
        "batch_blocks": draw.choice((1, 5, 100)),
    }
    name = f"round {seed}: {'replace' if is_replacing else 'append'} {config}"
    begun = time.monotonic()
    with small_chain() as chain, services(home, chain.anvil.url) as opened:
        follower = following(f"round_{seed}", is_replacing=is_replacing, **config)
        scheduled = Scheduled(follower, opened, Fork(chain, draw), draw)
        try:
            scheduled.run(schedules)
        except AssertionError as error:
            print(f"{name}: FAILED: {str(error)[:2000]}", flush=True)
            return False
    seconds = time.monotonic() - begun
    print(f"{name}: {schedules} schedules, {scheduled.reorgs} reorganisations, {seconds:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    main()
