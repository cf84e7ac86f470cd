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
from trace_dagster.translator.translator import asset_key, code_version, op_name

__all__ = ["follower_assets", "follower_sensor", "is_follower", "lag_check"]

_SECONDS_BETWEEN_REPORTS: Final = 30.0
_SECONDS_BETWEEN_LOOKS: Final = 4  # of exactly 5, every other look falls out
_SECONDS_AFTER_A_FAILURE: Final = 30.0
_SECONDS_UNHEARD: Final = 30.0
"""Longer than a follower that waits for Postgres pauses, and than a run takes to end behind its work."""

_ALIVE: Final = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)

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
            unheard = _unheard_of(context.instance, services, following, context.cursor or "")
            context.update_cursor(unheard)
            reason = _why_not(context.instance, services, following)
            if reason is None and following.config.follow == "tick":
                reason = nothing_new(services, following)
        except TraceError as error:
            reason = str(error)
        if reason is not None:
            return dg.SkipReason(reason)
        return dg.RunRequest(asset_selection=keys, tags={metadata.FOLLOWER_TAG: following.key})

    return follow


def _unheard_of(instance: dg.DagsterInstance, services: Services, following: Following, before: str) -> str:
    """End a run that works no longer although Dagster takes it for running, and return what to remember.

    Not every run launcher notices that a worker is gone: the one for a single machine forgets its workers
    when its code server is killed. But a worker that lives renews its lease, or gets another soon.

    Args:
        instance: of Dagster.
        services: the ledger.
        following: whose run is looked at.
        before: what the last look returned: a run and since when its lease is over; empty where none is.
    """
    task = f"{following.key}/tip"
    tags = {metadata.FOLLOWER_TAG: following.key}
    started = instance.get_runs(dg.RunsFilter(tags=tags, statuses=[dg.DagsterRunStatus.STARTED]), limit=1)
    if not started or services.ledger.holder(task) is not None:
        return ""
    run = started[0]
    last = services.ledger.attempts_of(task)[-1:]
    if not last or last[0].run_id != run.run_id:
        return ""  # it waits for the endpoint, or for another's lease
    unheard, _, since = before.partition(" ")
    if unheard != run.run_id:
        return f"{run.run_id} {time.time():.0f}"
    if time.time() - float(since) >= _SECONDS_UNHEARD:
        instance.report_run_failed(run, f"the run's worker is gone: it holds the lease of {task} no longer")
        return ""
    return before


def _why_not(instance: dg.DagsterInstance, services: Services, following: Following) -> str | None:
    """Return why no run is to be asked for now; None where one is."""
    tags = {metadata.FOLLOWER_TAG: following.key}
    alive = instance.get_run_records(dg.RunsFilter(tags=tags, statuses=list(_ALIVE)), limit=1)
    if alive:
        return f"run {alive[0].dagster_run.run_id} follows"
    last = instance.get_run_records(dg.RunsFilter(tags=tags), limit=1)
    if last and last[0].dagster_run.status is dg.DagsterRunStatus.FAILURE:
        ago = time.time() - (last[0].end_time or 0.0)
        if ago < _SECONDS_AFTER_A_FAILURE:
            return f"run {last[0].dagster_run.run_id} failed {ago:.0f} s ago; the next begins after a pause"
    holder = services.ledger.holder(f"{following.key}/tip")
    run = instance.get_run_by_id(holder) if holder else None
    if holder and (run is None or not run.is_finished):  # one that was started by hand
        return f"{holder} follows"
    return None


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
    if head is not None:
        facts[metadata.HEAD] = dg.MetadataValue.int(head)
        facts[metadata.LAG_BLOCKS] = dg.MetadataValue.int(max(0, head - cursor))
    if state.final_block is not None:
        facts[metadata.FINAL] = dg.MetadataValue.int(min(cursor, state.final_block))
    if state.cursor_time is not None:
        age = (datetime.now(UTC) - state.cursor_time).total_seconds()
        facts[metadata.LAG_SECONDS] = dg.MetadataValue.float(round(age, 3))
    return facts
