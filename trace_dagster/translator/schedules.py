"""Cron sources as Dagster schedules: each tick asks for the DAG's range."""

import dagster as dg

from trace_dagster.spec.models import CronSource
from trace_dagster.spec.resolve import ResolvedDag, ResolvedJob
from trace_dagster.spec.schedules import to_cron
from trace_dagster.translator.requests import request_job_name

__all__ = ["request_schedule"]


def request_schedule(dag: ResolvedDag, entry: ResolvedJob) -> dg.ScheduleDefinition | None:
    """Return the schedule of a ``source.kind: cron`` entry point, running by default; else None."""
    source = entry.spec.source
    if not isinstance(source, CronSource):
        return None
    job_name = request_job_name(dag.name, entry.spec.name)
    return dg.ScheduleDefinition(
        name=f"{job_name}__schedule",
        job_name=job_name,
        cron_schedule=to_cron(source.schedule),
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Asks for the range of {dag.name}/{entry.spec.name}: {source.schedule}.",
    )
