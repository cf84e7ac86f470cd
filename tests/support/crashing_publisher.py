"""A writer that commits one dataset version and can be killed at any moment; run as a program.

It reads one JSON object a line: ``{"store": url, "config": word, "kill_at": step, "kill_after": seconds}``,
the last two perhaps null. For each it forks, so that the imports are paid once. The child commits the
version, and is killed with SIGKILL at a step (before or after a statement to Postgres or a write to the
store), or after a time. It answers ``{"killed": bool, "steps": n}``.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.support.datasets import dataset_id, stage
from trace_dagster.io_managers.replace import ReplaceIOManager
from trace_dagster.ledger import open_ledger
from trace_dagster.ledger.connections import Connections
from trace_dagster.settings import Settings
from trace_dagster.store import open_store
from trace_dagster.store.objects import ObjectStore

FILES = 2


class _Steps:
    """Counts what reaches Postgres or the store, and kills this process before one of them."""

    def __init__(self, kill_at: int | None) -> None:
        self.kill_at = kill_at
        self.count = 0

    def wrap(self, owner: type, name: str) -> None:
        """Count every call of a method twice: before it and after it."""
        method = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            self._step()
            result = method(*arguments, **options)
            self._step()
            return result

        setattr(owner, name, counted)

    def _step(self) -> None:
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1


def commit(store_url: str, home: str, scratch: Path, config: str, lease_seconds: float = 60) -> None:
    """Commit the version that ``config`` names, as an operator would."""
    one = dataset_id(config=config)
    settings = Settings.from_environment({"TRACE_HOME": home})
    with open_ledger(settings) as ledger:
        replace = ReplaceIOManager(open_store(store_url, os.environ), ledger)
        wait_until = time.monotonic() + 60
        with ledger.attempt(
            one.prefix, run_id="r", lease_seconds=lease_seconds, wait_until=wait_until
        ) as attempt:
            if replace.committed(one) is None:
                replace.commit(attempt, stage(scratch / str(os.getpid()), one, files=FILES))


def _child(home: str, scratch: Path, request: dict[str, Any], answer: int) -> None:
    steps = _Steps(request["kill_at"])
    steps.wrap(ObjectStore, "put_new")
    steps.wrap(Connections, "_begin")
    if request["kill_after"] is not None:
        killer = threading.Timer(request["kill_after"], os.kill, (os.getpid(), signal.SIGKILL))
        killer.daemon = True
        killer.start()
    commit(request["store"], home, scratch, request["config"])
    os.write(answer, str(steps.count).encode())


def main() -> None:
    """Serve requests until the input ends."""
    home, scratch = sys.argv[1], Path(sys.argv[2])
    for line in sys.stdin:
        request = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            _child(home, scratch, request, write)
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            steps = pipe.read()
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not killed and status != 0:
            raise SystemExit(f"the writer ended with status {status}")
        print(json.dumps({"killed": killed, "steps": int(steps or 0)}), flush=True)


if __name__ == "__main__":
    main()
