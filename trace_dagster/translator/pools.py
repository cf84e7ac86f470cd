"""``scaling.max_concurrency`` as Dagster pools, kept in step with the YAML by a sensor."""

from collections.abc import Iterable, Mapping

import dagster as dg

from trace_dagster.spec.resolve import ResolvedDag
from trace_dagster.translator.translator import pool_name

__all__ = ["pool_limits", "pool_sensor", "set_pool_limits"]

POOL_SENSOR_NAME = "trace_pools"


def pool_limits(dags: Iterable[ResolvedDag]) -> Mapping[str, int]:
    """Return the limit of every pool that the DAGs ask for."""
    return {
        pool_name(dag.name, job.spec.name): job.max_concurrency
        for dag in dags
        for job in dag.jobs
        if job.max_concurrency is not None
    }


def set_pool_limits(instance: dg.DagsterInstance, limits: Mapping[str, int]) -> Mapping[str, int]:
    """Set the limits that differ from ``limits`` in ``instance``, and return those."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return {}
    known = {pool.name: pool.limit for pool in storage.get_pool_limits() if not pool.from_default}
    changed = {name: limit for name, limit in limits.items() if known.get(name) != limit}
    for name, limit in changed.items():
        storage.set_concurrency_slots(name, limit)
    return changed


def pool_sensor(limits: Mapping[str, int], scope: str = "") -> dg.SensorDefinition:
    """Return the sensor, running by default, that sets the limits soon after the daemon starts.

    Args:
        limits: of every pool.
        scope: put before its name.
    """

    @dg.sensor(
        name=f"{scope}{POOL_SENSOR_NAME}",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Keeps pool limits in step with scaling.max_concurrency of the DAG YAML.",
    )
    def trace_pools(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        changed = set_pool_limits(context.instance, limits)
        if not changed:
            return dg.SkipReason("pool limits are as the YAML says")
        return dg.SkipReason("set " + ", ".join(f"{name} to {limit}" for name, limit in changed.items()))

    return trace_pools
