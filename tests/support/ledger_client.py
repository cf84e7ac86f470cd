"""A process that uses the ledger of a folder; run as a program with TRACE_HOME.

It prints its server's process id, then answers each line of its input with ``ok`` once it has held a task,
and ends when the input does.
"""

import sys
import time
from pathlib import Path

from trace_dagster.ledger import open_ledger, postmaster
from trace_dagster.settings import Settings


def main() -> None:
    """Serve requests until the input ends."""
    home = Path(sys.argv[1])
    with open_ledger(Settings.from_environment({"TRACE_HOME": str(home)})) as ledger:
        server = postmaster.running(home / "postgres")
        print(server.pid if server else "none", flush=True)
        for line in sys.stdin:
            until = time.monotonic() + 60
            with ledger.attempt(line, run_id="r", lease_seconds=60, wait_until=until) as attempt:
                attempt.still_mine()
            print("ok", flush=True)


if __name__ == "__main__":
    main()
