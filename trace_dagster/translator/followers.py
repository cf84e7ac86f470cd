"""Followers of a chain's tip: one op that goes on for long, and a sensor that keeps exactly one of it alive.

With ``follow: tick`` the op ends once it has the blocks that were there, and the sensor looks at the head.
"""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError

from trace_dagster import metadata
from trace_dagster.errors import ConfigurationError, TraceError
from trace_dagster.ledger import FollowerState
from trace_dagster.operators.block_follower.config import BlockFollowerConfig
from trace_dagster.operators.block_follower.following import Following, following_of, head_of, nothing_new
from trace_dagster.operators.services import Services
from trace_dagster.spec.naming import follower_sensor_name
from trace_dagster.spec.resolve import ResolvedDag, ResolvedJob
from trace_dagster.translator.dagster_internals import SILENT_OUTPUT_METADATA, provenance_tags
from trace_dagster.translator.single_run import SingleRun, end_unheard, why_no_run
from trace_dagster.translator.translator import asset_key, code_version, op_name

__all__ = ["follower_assets", "follower_sensor", "is_follower", "lag_check"]

_SECONDS_BETWEEN_REPORTS: Final = 30.0
_SECONDS_BETWEEN_LOOKS: Final = 4  # of exactly 5, every other look falls out

Event = dg.AssetMaterialization | dg.Output[None]


def is_follower(job: ResolvedJob) -> bool:
    """Whether a job follows the tip of a chain."""
    return isinstance(job.config, BlockFollowerConfig)


def follower_assets(dag: ResolvedDag, job: ResolvedJob, specs: Sequence[dg.AssetSpec]) -> dg.AssetsDefinition:
    """Return the job's assets, which are no partitions: rows of hot tables."""

    @dg.multi_asset(
        name=op_name(dag.name, job.name),
        specs=specs,
        required_resource_keys={"trace"},
        op_tags={"trace/runtime": job.spec.runtime, "trace/code_version": code_version(job)},
    )
    def op(context: dg.AssetExecutionContext) -> Iterator[Event]:
        yield from _follow(context, dag, job)

    return op


def lag_check(dag: ResolvedDag, job: ResolvedJob) -> dg.AssetChecksDefinition:
    """Return the check of how far the follower is behind: on the job's first asset, each minute."""
    key = asset_key(dag.name, job.name, job.outputs[0].name)

    @dg.asset_check(
        asset=key,
        name="lag",
        required_resource_keys={"trace"},
        description="Fails where the last committed block is older than config.max_lag_seconds.",
        automation_condition=dg.AutomationCondition.on_cron("* * * * *"),
    )
    def lag(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        following = following_of(dag, job)
        try:
            state = context.resources.trace.ledger.follower(following.key)
        except TraceError as error:
            raise dg.Failure(str(error), allow_retries=False) from None
        return _lag_result(state, following.config.max_lag_seconds)

    return lag


def _lag_result(state: FollowerState | None, most: float) -> dg.AssetCheckResult:
    if state is None or state.cursor_block is None or state.cursor_time is None:
        return dg.AssetCheckResult(passed=False, description="nothing is committed yet")
    age = (datetime.now(UTC) - state.cursor_time).total_seconds()
    behind = "" if state.head_block is None else f", {max(0, state.head_block - state.cursor_block)} blocks"
    return dg.AssetCheckResult(
        passed=age <= most,
        description=f"block {state.cursor_block} is {age:.0f} s old{behind} behind the head; "
        f"max_lag_seconds is {most:g}",
        metadata={
            metadata.CURSOR: state.cursor_block,
            metadata.LAG_SECONDS: round(age, 3),
        },
    )


def follower_sensor(dag: ResolvedDag, job: ResolvedJob) -> dg.SensorDefinition:
    """Return the sensor, running by default, that asks for the follower's run wherever there is none."""
    keys = [asset_key(dag.name, job.name, output.name) for output in job.outputs]

    @dg.sensor(
        name=follower_sensor_name(dag.name, job.name),
        minimum_interval_seconds=_SECONDS_BETWEEN_LOOKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.assets(*keys),
        required_resource_keys={"trace"},
        description=f"Keeps {dag.name}/{job.name} at the head of its chain.",
    )
    def follow(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        services: Services = context.resources.trace
        following = following_of(dag, job)
        try:
            services.settings.rpc_endpoint(following.config.rpc_pool)
        except ConfigurationError as error:
            return dg.SkipReason(str(error))
        try:
            single = _single(following)
            unheard = end_unheard(context.instance, services.ledger, single, context.cursor)
            context.update_cursor(unheard)
            reason = why_no_run(context.instance, services.ledger, single)
            if reason is None and following.config.follow == "tick":
                reason = nothing_new(services, following)
        except TraceError as error:
            context.update_cursor("")  # what was not seen is not counted
            reason = str(error)
        if reason is not None:
            return dg.SkipReason(reason)
        return dg.RunRequest(asset_selection=keys, tags={metadata.FOLLOWER_TAG: following.key})

    return follow


def _single(following: Following) -> SingleRun:
    return SingleRun(metadata.FOLLOWER_TAG, following.key, f"{following.key}/tip")


def _follow(context: dg.AssetExecutionContext, dag: ResolvedDag, job: ResolvedJob) -> Iterator[Event]:
    """Follow, and tell Dagster from time to time; ends when it is stopped, or old, or (tick) up to date.

    Raises:
        dagster.Failure: with one line, where the follower cannot go on.
    """
    services: Services = context.resources.trace
    following = following_of(dag, job)
    config = following.config

    def progress(message: str, **fields: object) -> None:
        log = context.log.warning if fields.get("is_warning", True) else context.log.info
        log("%s %s", message, fields.get("why", ""))

    try:
        until = None
        if config.follow == "tick":
            until = max(config.start_block, head_of(services, following).number - config.confirmations)
        begun = first = None
        told = time.monotonic()
        for step in following.run(
            services,
            run_id=context.run_id,
            progress=progress,
            until_block=until,
            seconds=config.run_seconds,
            patience_seconds=following.lease_seconds + _SECONDS_BETWEEN_LOOKS,
        ):
            if step.committed and first is None:
                first, begun = (step.cursor or 0) - step.committed + 1, time.monotonic()
            due = step.reorg_depth > 0 or time.monotonic() - told >= _SECONDS_BETWEEN_REPORTS
            if due and first is not None and begun is not None:
                yield from _report(context, dag, job, services, first=first, begun=begun)
                told, first = time.monotonic(), None
            if until is not None and not step.committed:
                break  # a head that went back: the sensor looks again
        if first is not None and begun is not None:
            yield from _report(context, dag, job, services, first=first, begun=begun)
    except TraceError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    except (DagsterExecutionInterruptedError, KeyboardInterrupt):
        raise dg.Failure("interrupted; what was committed stays", allow_retries=False) from None
    for name in context.op_execution_context.selected_output_names:
        yield dg.Output(None, output_name=name, metadata=dict(SILENT_OUTPUT_METADATA))


def _report(
    context: dg.AssetExecutionContext,
    dag: ResolvedDag,
    job: ResolvedJob,
    services: Services,
    *,
    first: int,
    begun: float,
) -> Iterator[dg.AssetMaterialization]:
    state = services.ledger.follower(f"{dag.name}/{job.name}")
    if state is None or state.cursor_block is None or state.cursor_hash is None:
        return
    version = f"{state.cursor_block}-{state.cursor_hash.hex()}"
    facts = _facts(state, first, time.monotonic() - begun)
    for output in job.outputs:
        key = asset_key(dag.name, job.name, output.name)
        yield dg.AssetMaterialization(
            asset_key=key, metadata=facts, tags=dict(provenance_tags(context, key, version))
        )


def _facts(state: FollowerState, first: int, seconds: float) -> dict[str, dg.MetadataValue]:
    cursor, head = state.cursor_block or 0, state.head_block
    facts: dict[str, dg.MetadataValue] = {
        metadata.RANGE: dg.MetadataValue.text(f"{first}_{cursor}"),
        metadata.CURSOR: dg.MetadataValue.int(cursor),
        metadata.BLOCKS_PER_SECOND: dg.MetadataValue.float(
            round(max(0, cursor - first + 1) / max(seconds, 0.001), 3)
        ),
        metadata.REORGS: dg.MetadataValue.int(state.reorgs or 0),
        metadata.DEEPEST_REORG: dg.MetadataValue.int(state.deepest_reorg or 0),
        metadata.FOLLOWER_ERRORS: dg.MetadataValue.int(state.errors),
    }
    if state.last_reorg_at is not None:
        facts[metadata.LAST_REORG] = dg.MetadataValue.timestamp(state.last_reorg_at)
    if head is not None:
        facts[metadata.HEAD] = dg.MetadataValue.int(head)
        facts[metadata.LAG_BLOCKS] = dg.MetadataValue.int(max(0, head - cursor))
    if state.final_block is not None:
        facts[metadata.FINAL] = dg.MetadataValue.int(min(cursor, state.final_block))
    if state.cursor_time is not None:
        age = (datetime.now(UTC) - state.cursor_time).total_seconds()
        facts[metadata.LAG_SECONDS] = dg.MetadataValue.float(round(age, 3))
    return facts
