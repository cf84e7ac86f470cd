"""Aggregators of ranges: a sensor that asks for runs of each full range as the follower reaches it."""

from typing import Final

import dagster as dg

from trace_dagster.errors import TraceError
from trace_dagster.operators.range_aggregator import RangeAggregatorConfig, full_ranges
from trace_dagster.spec.catalog import MAX_PARTITIONS
from trace_dagster.spec.naming import aggregator_sensor_name
from trace_dagster.spec.resolve import ResolvedDag, ResolvedJob
from trace_dagster.translator.partitions import lane_name
from trace_dagster.translator.requests import readers_of
from trace_dagster.translator.translator import asset_key

__all__ = ["aggregator_sensor", "is_aggregator"]

_SECONDS_BETWEEN_LOOKS: Final = 10
_RANGES_PER_LOOK: Final = 20


def is_aggregator(job: ResolvedJob) -> bool:
    """Whether a job makes ranges of a follower's progress."""
    return isinstance(job.config, RangeAggregatorConfig)


def aggregator_sensor(dag: ResolvedDag, job: ResolvedJob) -> dg.SensorDefinition:
    """Return the sensor, running by default, that registers full ranges and asks for their runs.

    One run does a range in every job that reads it. The sensor's cursor is the last block asked for, and each
    run has a key: a daemon that died between the two asks again, and Dagster knows what it has.
    """
    readers = [one for one in readers_of(dag, job) if one.operator.runnable and one.plan is not None]
    keys = [asset_key(dag.name, one.name, output.name) for one in readers for output in one.outputs]
    config = job.config
    if not isinstance(config, RangeAggregatorConfig):
        raise TypeError(f"{dag.name}/{job.name} is no range_aggregator")
    lane = lane_name(dag.name, job.name)
    partitions = dg.DynamicPartitionsDefinition(name=lane)
    follower = f"{job.inputs[0].dag}/{job.inputs[0].job}"

    @dg.sensor(
        name=aggregator_sensor_name(dag.name, job.name),
        minimum_interval_seconds=_SECONDS_BETWEEN_LOOKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.assets(*keys),
        required_resource_keys={"trace"},
        description=f"Asks for each full range of {config.range_size} final blocks of {follower}.",
    )
    def aggregate(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            state = context.resources.trace.ledger.follower(follower)
        except TraceError as error:
            raise dg.Failure(str(error)) from None
        if state is None or state.cursor_block is None or state.first_block is None:
            return dg.SkipReason(f"{follower} has committed nothing yet")
        after = int(context.cursor) if context.cursor else None
        ranges = full_ranges(config, state.first_block, state.cursor_block, after, _RANGES_PER_LOOK)
        if not ranges:
            return dg.SkipReason(f"{follower} is at block {state.cursor_block}; the next range is not full")
        known = len(context.instance.get_dynamic_partitions(lane))
        if known + len(ranges) > MAX_PARTITIONS:
            raise dg.Failure(
                f"{known} ranges are there already, and one asset can have {MAX_PARTITIONS}; write a larger "
                "range_size in a job of another name"
            )
        return dg.SensorResult(
            dynamic_partitions_requests=[partitions.build_add_request([one.key for one in ranges])],
            run_requests=[
                dg.RunRequest(run_key=f"{lane}:{one.key}", asset_selection=keys, partition_key=one.key)
                for one in ranges
            ],
            cursor=str(ranges[-1].end_block),
        )

    return aggregate
