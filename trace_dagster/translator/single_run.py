"""Jobs of which one run at a time goes on: whether their sensor is to ask for one."""

import time
from dataclasses import dataclass
from typing import Final

import dagster as dg

from trace_dagster.ledger import Ledger

__all__ = ["SingleRun", "end_unheard", "why_no_run"]

_SECONDS_AFTER_A_FAILURE: Final = 30.0
_SECONDS_BETWEEN_LOOKS: Final = 20.0
"""What passes between two looks that are further apart was seen by nobody."""

_SECONDS_UNHEARD: Final = 30.0
"""Longer than a follower that waits for Postgres pauses, and than a run takes to end behind its work."""

_SECONDS_SILENT: Final = 1800.0
"""A run without a lease waits for an endpoint, and logs that several times a minute, or for a lease."""

_ALIVE: Final = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


@dataclass(frozen=True)
class SingleRun:
    """A job of which one run at a time goes on.

    Attributes:
        tag: the run tag that its runs have.
        key: the tag's value, ``{dag}/{job}``.
        task_key: what a run holds in the ledger.
    """

    tag: str
    key: str
    task_key: str


def why_no_run(instance: dg.DagsterInstance, ledger: Ledger, job: SingleRun) -> str | None:
    """Return why no run is to be asked for now; None where one is.

    Args:
        instance: Dagster's.
        ledger: knows of runs that were started by hand.
        job: the job.

    Raises:
        LedgerUnavailable: Postgres cannot be reached, or refuses.
    """
    tags = {job.tag: job.key}
    alive = instance.get_run_records(dg.RunsFilter(tags=tags, statuses=list(_ALIVE)), limit=1)
    if alive:
        return f"run {alive[0].dagster_run.run_id} is at it"
    last = instance.get_run_records(dg.RunsFilter(tags=tags), limit=1)
    if last and last[0].dagster_run.status is dg.DagsterRunStatus.FAILURE:
        ago = time.time() - (last[0].end_time or 0.0)
        if ago < _SECONDS_AFTER_A_FAILURE:
            return f"run {last[0].dagster_run.run_id} failed {ago:.0f} s ago; the next begins after a pause"
    holder = ledger.holder(job.task_key)
    run = instance.get_run_by_id(holder) if holder else None
    if holder and (run is None or not run.is_finished):  # one that was started by hand
        return f"{holder} is at it"
    return None


def end_unheard(instance: dg.DagsterInstance, ledger: Ledger, job: SingleRun, before: str | None) -> str:
    """End a run that works no longer although Dagster takes it for running, and return what to remember.

    Not every run launcher notices that a worker is gone: the one for a single machine forgets its workers
    when its code server is killed. But a worker that lives renews its lease, or gets another soon.

    Args:
        instance: Dagster's.
        ledger: knows who holds the task.
        job: the job.
        before: what the last look returned: a run, since when its lease is over, and the time of that look;
            empty where none is.

    Raises:
        LedgerUnavailable: Postgres cannot be reached, or refuses.
    """
    started = instance.get_runs(
        dg.RunsFilter(tags={job.tag: job.key}, statuses=[dg.DagsterRunStatus.STARTED]), limit=1
    )
    if not started or ledger.holder(job.task_key) is not None:
        return ""
    run = started[0]
    last = ledger.attempts_of(job.task_key)[-1:]
    if not last or last[0].run_id != run.run_id:
        _end_if_silent(instance, run)
        return ""
    now = time.time()
    unheard, since, looked = (before or "").split(" ") if (before or "").count(" ") == 2 else ("", "0", "0")
    if unheard != run.run_id or not 0 <= now - float(looked) <= _SECONDS_BETWEEN_LOOKS:
        return f"{run.run_id} {now:.0f} {now:.0f}"
    if now - float(since) >= _SECONDS_UNHEARD:
        instance.report_run_failed(
            run, f"the run's worker is gone: it holds the lease of {job.task_key} no longer"
        )
        return ""
    return f"{run.run_id} {since} {now:.0f}"


def _end_if_silent(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """End a run that never had a lease, and has not logged anything for long."""
    newest = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
    if newest and time.time() - newest[0].event_log_entry.timestamp > _SECONDS_SILENT:
        instance.report_run_failed(run, "the run's worker is gone: it has no lease, and logs nothing")
