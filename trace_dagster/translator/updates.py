"""``PerUpdate`` jobs: an op that does what is new, and a sensor that asks for it where anything is."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError

from trace_dagster import metadata
from trace_dagster.errors import TraceError
from trace_dagster.operators.base import Operator
from trace_dagster.operators.services import Services
from trace_dagster.operators.updating import UpdateStep, Updating
from trace_dagster.spec.naming import update_sensor_name
from trace_dagster.translator.dagster_internals import SILENT_OUTPUT_METADATA, provenance_tags
from trace_dagster.translator.execution import metadata_of, progress_of, register_names
from trace_dagster.translator.single_run import SingleRun, end_unheard, why_no_run
from trace_dagster.translator.translator import asset_key, code_version, op_name

__all__ = ["update_assets", "update_sensor"]

_SECONDS_BETWEEN_LOOKS: Final = 4  # of exactly 5, every other look falls out
_LONGEST_RUN_SECONDS: Final = 600.0

Event = dg.AssetMaterialization | dg.Output[None]


def update_assets(
    updating: Updating, operator: Operator, specs: Sequence[dg.AssetSpec]
) -> dg.AssetsDefinition:
    """Return the job's assets, which are no partitions: rows of hot tables."""
    dag, job = updating.dag, updating.job

    @dg.multi_asset(
        name=op_name(dag.name, job.name),
        specs=specs,
        required_resource_keys={"trace"},
        op_tags={"trace/runtime": job.spec.runtime, "trace/code_version": code_version(job)},
    )
    def op(context: dg.AssetExecutionContext) -> Iterator[Event]:
        yield from _update(context, updating, operator)

    return op


def update_sensor(updating: Updating) -> dg.SensorDefinition:
    """Return the sensor, running by default, that asks for a run wherever something is new or has changed."""
    dag, job = updating.dag, updating.job
    keys = [asset_key(dag.name, job.name, output.name) for output in job.outputs]

    @dg.sensor(
        name=update_sensor_name(dag.name, job.name),
        minimum_interval_seconds=_SECONDS_BETWEEN_LOOKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.assets(*keys),
        required_resource_keys={"trace"},
        description=f"Runs {updating.key} on the new rows of {', '.join(updating.emits)}.",
    )
    def update(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        services: Services = context.resources.trace
        single = SingleRun(metadata.CONSUMER_TAG, updating.key, updating.task_key)
        try:
            unheard = end_unheard(context.instance, services.ledger, single, context.cursor)
            context.update_cursor(unheard)
            reason = why_no_run(context.instance, services.ledger, single)
            due = updating.due(services) if reason is None else None
        except TraceError as error:
            context.update_cursor("")
            if not error.retryable:
                raise dg.Failure(str(error)) from None
            return dg.SkipReason(str(error))
        if due is None:
            return dg.SkipReason(reason or f"nothing is due of {', '.join(updating.emits)}")
        return dg.RunRequest(asset_selection=keys, tags={metadata.CONSUMER_TAG: updating.key})

    return update


def _update(context: dg.AssetExecutionContext, updating: Updating, operator: Operator) -> Iterator[Event]:
    """Do what is new, step by step, each told to Dagster once it is committed.

    Raises:
        dagster.Failure: with one line, where a step failed.
    """
    services: Services = context.resources.trace
    steps = updating.run(
        operator,
        services,
        run_id=context.run_id,
        progress=progress_of(context),
        seconds=_LONGEST_RUN_SECONDS,
    )
    try:
        register_names(context, updating.dag, updating.job, services)
        with closing(steps):
            while True:
                begun = time.monotonic()
                step = next(steps, None)
                if step is None:
                    break
                yield from _told(context, updating, step, time.monotonic() - begun)
    except TraceError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    except (DagsterExecutionInterruptedError, KeyboardInterrupt):
        raise dg.Failure("interrupted; what was committed stays", allow_retries=False) from None
    for name in context.op_execution_context.selected_output_names:
        yield dg.Output(None, output_name=name, metadata=dict(SILENT_OUTPUT_METADATA))


def _told(
    context: dg.AssetExecutionContext, updating: Updating, step: UpdateStep, seconds: float
) -> Iterator[dg.AssetMaterialization]:
    due = step.due
    facts: dict[str, dg.MetadataValue] = {
        metadata.RANGE: dg.MetadataValue.text(due.blocks.key),
        metadata.BLOCKS: dg.MetadataValue.int(due.blocks.blocks),
        metadata.CURSOR: dg.MetadataValue.int(due.blocks.end_block),
        metadata.BLOCKS_PER_SECOND: dg.MetadataValue.float(round(due.blocks.blocks / max(seconds, 0.001), 3)),
    }
    if due.stale is not None:
        facts[metadata.INVALIDATED] = dg.MetadataValue.text(f"{due.reason}: blocks {due.stale.key}")
    for result in step.results:
        key = asset_key(updating.dag.name, updating.job.name, result.output)
        version = ":".join((due.blocks.key, *map(str, due.seen.values()), result.data_version))
        yield dg.AssetMaterialization(
            asset_key=key,
            metadata={**facts, **metadata_of(result)},
            tags=dict(provenance_tags(context, key, version)),
        )
