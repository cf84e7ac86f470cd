"""Jobs of which one run at a time goes on: whether their sensor is to ask for one."""

import time
from typing import Final

import dagster as dg

from trace_dagster.ledger import Ledger

__all__ = ["why_no_run"]

_SECONDS_AFTER_A_FAILURE: Final = 30.0
_ALIVE: Final = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


def why_no_run(instance: dg.DagsterInstance, ledger: Ledger, tag: str, key: str, task_key: str) -> str | None:
    """Return why no run is to be asked for now; None where one is.

    Args:
        instance: Dagster's.
        ledger: knows of runs that were started by hand.
        tag: the run tag that the job's runs have.
        key: its value, ``{dag}/{job}``.
        task_key: what a run holds in the ledger.

    Raises:
        LedgerUnavailable: Postgres cannot be reached, or refuses.
    """
    tags = {tag: key}
    alive = instance.get_run_records(dg.RunsFilter(tags=tags, statuses=list(_ALIVE)), limit=1)
    if alive:
        return f"run {alive[0].dagster_run.run_id} is at it"
    last = instance.get_run_records(dg.RunsFilter(tags=tags), limit=1)
    if last and last[0].dagster_run.status is dg.DagsterRunStatus.FAILURE:
        ago = time.time() - (last[0].end_time or 0.0)
        if ago < _SECONDS_AFTER_A_FAILURE:
            return f"run {last[0].dagster_run.run_id} failed {ago:.0f} s ago; the next begins after a pause"
    holder = ledger.holder(task_key)
    run = instance.get_run_by_id(holder) if holder else None
    if holder and (run is None or not run.is_finished):  # one that was started by hand
        return f"{holder} is at it"
    return None
