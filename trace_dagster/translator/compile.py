"""Resolved DAGs -> ``dagster.Definitions``. Pure: nothing is read, opened or asked."""

from collections.abc import Mapping

import dagster as dg

from trace_dagster.operators.base import Operator
from trace_dagster.operators.updating import updating_of
from trace_dagster.settings import Settings
from trace_dagster.spec.resolve import LoadResult, ResolvedDag, ResolvedJob
from trace_dagster.translator.aggregators import aggregator_sensor, is_aggregator
from trace_dagster.translator.assets import job_assets
from trace_dagster.translator.broken import broken_assets
from trace_dagster.translator.followers import follower_sensor, is_follower, lag_check
from trace_dagster.translator.pools import pool_limits, pool_sensor
from trace_dagster.translator.requests import request_job
from trace_dagster.translator.resources import resources_of
from trace_dagster.translator.schedules import request_schedule
from trace_dagster.translator.translator import TraceTranslator
from trace_dagster.translator.updates import update_sensor

__all__ = ["compile_dags"]


def compile_dags(
    *,
    loaded: LoadResult,
    operators: Mapping[str, Operator],
    settings: Settings,
    environment: Mapping[str, str],
    translator: TraceTranslator | None = None,
    scope: str = "",
) -> dg.Definitions:
    """Return everything that Dagster needs to know of the DAGs.

    Args:
        loaded: the DAGs, and the files that did not load.
        operators: the operators by name.
        settings: the environment's settings.
        environment: the variables that clients of the object store read at run time.
        translator: makes the asset specs; ``TraceTranslator()`` if None.
        scope: tells the names of what is no DAG's own apart, where several folders are loaded into one code
            location.
    """
    translator = translator or TraceTranslator()
    jobs = {(dag.name, job.name): job for dag in loaded.dags for job in dag.jobs}
    updates = {
        (dag.name, job.name): updating_of(dag, job, jobs)
        for dag in loaded.dags
        for job in dag.jobs
        if job.is_per_update
    }
    plans = {(dag.name, job.spec.name): job.plan for dag in loaded.dags for job in dag.jobs}
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = list(broken_assets(loaded.broken, scope))
    for dag in loaded.dags:
        for job in dag.jobs:
            made = job_assets(
                dag=dag,
                job=job,
                operator=operators[job.operator.name],
                plans=plans,
                translator=translator,
                synthetic=_is_synthetic(job, settings),
                updating=updates.get((dag.name, job.name)),
            )
            assets.extend([made] if isinstance(made, dg.AssetsDefinition) else made)
    entries = [(dag, job) for dag in loaded.dags for job in dag.jobs if _is_entry(job)]
    schedules = [request_schedule(dag, job) for dag, job in entries]
    limits = pool_limits(loaded.dags)
    return dg.Definitions(
        assets=assets,
        asset_checks=[lag_check(dag, job) for dag in loaded.dags for job in dag.jobs if is_follower(job)],
        jobs=[request_job(dag, job) for dag, job in entries],
        schedules=[schedule for schedule in schedules if schedule is not None],
        sensors=[
            *([pool_sensor(limits, scope)] if limits else []),
            *(follower_sensor(dag, job) for dag in loaded.dags for job in dag.jobs if is_follower(job)),
            *(aggregator_sensor(dag, job) for dag in loaded.dags for job in dag.jobs if is_aggregator(job)),
            *(update_sensor(updating) for updating in updates.values()),
        ],
        resources=resources_of(settings, environment),
        executor=dg.in_process_executor,
        metadata={f"trace/dag/{dag.name}": _summary(dag) for dag in loaded.dags},
    )


def _is_entry(job: ResolvedJob) -> bool:
    """Whether people ask this job for ranges."""
    return job.operator.name == "range_request"


def _is_synthetic(job: ResolvedJob, settings: Settings) -> bool:
    engine = getattr(job.config, "engine", "real")
    return (engine or settings.default_engine()) == "stub"


def _summary(dag: ResolvedDag) -> str:
    jobs = f"{dag.path.name}: {len(dag.jobs)} jobs"
    return f"{dag.spec.description} ({jobs})" if dag.spec.description else jobs
