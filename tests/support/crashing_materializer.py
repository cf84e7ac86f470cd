"""A worker that materializes partitions with Dagster and can be killed at any moment; run as a program.

It reads one JSON object a line: ``{"partitions": [...], "count": bool, "kill_at": call or null,
"delay": seconds}``. For each it forks, so that the imports are paid once. The child materializes the
partitions, one run each, and is killed with SIGKILL some time after the given call into this project's
code. It answers ``{"killed": bool, "status": exit status, "calls": n}``.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import dagster as dg

import trace_dagster
from trace_dagster.definitions import defs

# Where the work is done; making the rows of the simulated chain is left out, it would be most of the calls.
_COUNTED = tuple(
    str(Path(trace_dagster.__file__).parent / folder)
    for folder in ("translator", "operators", "io_managers", "store", "ledger")
)


class _Calls:
    """Counts calls of this project's functions, and kills this process a while after one of them."""

    def __init__(self, kill_at: int | None, delay: float) -> None:
        self.count = 0
        self._kill_at = kill_at
        self._delay = delay

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(_COUNTED):
            return
        self.count += 1
        if self.count == self._kill_at:
            threading.Thread(target=self._kill, daemon=True).start()

    def _kill(self) -> None:
        time.sleep(self._delay)
        os.kill(os.getpid(), signal.SIGKILL)


def _materialize(job: dg.JobDefinition, keys: Sequence[dg.AssetKey], partitions: Sequence[str]) -> bool:
    with dg.DagsterInstance.ephemeral() as instance:
        return all(
            job.execute_in_process(
                instance=instance, partition_key=partition, asset_selection=keys, raise_on_error=False
            ).success
            for partition in partitions
        )


def main() -> None:
    """Serve requests until the input ends."""
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    keys = [dg.AssetKey(path.split("/")) for path in sys.argv[1:]]
    job = defs.resolve_implicit_global_asset_job_def()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            calls = _Calls(request["kill_at"], request["delay"])
            if request["count"] or request["kill_at"] is not None:
                sys.setprofile(calls)
            success = _materialize(job, keys, request["partitions"])
            sys.setprofile(None)
            os.write(write, str(calls.count).encode())
            os._exit(0 if success else 1)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            counted = pipe.read()
        _, status = os.waitpid(child, 0)
        answer = {
            "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
            "status": os.waitstatus_to_exitcode(status),
            "calls": int(counted or 0),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
