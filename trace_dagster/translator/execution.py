"""What a job's op does in a run: its partitions one by one, each told to Dagster once it is committed."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError

from trace_dagster import metadata
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import ConfigurationError, TraceError
from trace_dagster.hot_tables import HotTable
from trace_dagster.ledger import PublishedOutput
from trace_dagster.operators.base import MetadataValue, Operator, OutputResult, Progress, Task, TaskInput
from trace_dagster.operators.services import Services
from trace_dagster.spec.naming import table_name
from trace_dagster.spec.resolve import ResolvedDag, ResolvedJob
from trace_dagster.translator.dagster_internals import SILENT_OUTPUT_METADATA, provenance_tags
from trace_dagster.translator.pipeline import Done, Work, in_turn
from trace_dagster.translator.pools import set_pool_limits
from trace_dagster.translator.translator import asset_key, pool_name

__all__ = ["JobRunConfig", "OpEvent", "metadata_of", "progress_of", "register_names", "run_job"]

OpEvent = dg.MaterializeResult[None] | dg.AssetMaterialization | dg.Output[None]

_SECONDS_BETWEEN_PROGRESS_LINES = 10.0


class JobRunConfig(dg.Config):
    """Run config of a job's op.

    Attributes:
        force: do committed partitions again. The same content must come out: a dataset version never
            changes. To replace wrong data, raise ``config.revision`` in the DAG.
    """

    force: bool = False


def run_job(
    context: dg.AssetExecutionContext,
    dag: ResolvedDag,
    job: ResolvedJob,
    operator: Operator,
    config: JobRunConfig,
) -> Iterator[OpEvent]:
    """Do every partition of the run, and yield what was committed.

    A run of one partition yields results. A run of many yields a materialization after each partition, so
    that a crash keeps what was committed; it goes on past a partition that failed, and fails at its end.

    Raises:
        dagster.Failure: with one line a partition that failed, and whether a retry may help.
    """
    services: Services = context.resources.trace
    if job.max_concurrency is not None:
        set_pool_limits(context.instance, {pool_name(dag.name, job.spec.name): job.max_concurrency})
    selected = [output.name for output in job.outputs if _is_selected(context, dag, job, output.name)]
    try:
        partitions = [BlockRange.parse(key) for key in context.partition_keys]
    except ValueError as error:
        raise dg.Failure(f"a partition that is no block range: {error}", allow_retries=False) from None
    progress = progress_of(context)

    def results(work: Work) -> Sequence[OutputResult]:
        task = Task(
            dag=dag.name,
            job=job.spec.name,
            partition=work.partition,
            outputs=tuple(selected),
            config=job.config,
            timeout_seconds=job.timeout_seconds,
            lease_seconds=job.heartbeat_timeout_seconds,
            force=config.force,
            run_id=context.run_id,
            inputs=tuple(TaskInput(one.dag, one.job, one.output, one.where) for one in job.inputs),
            fetched=work.fetched,
            is_stopped=work.is_stopped,
        )
        return [_written(one, job, task, services) for one in operator.run(task, services, progress)]

    last_try = context.retry_number >= job.max_attempts - 1
    if len(partitions) > 1 and context.retry_number:
        told = _told_by_this_run(
            context, selected_keys=[asset_key(dag.name, job.spec.name, one) for one in selected]
        )
        partitions = [one for one in partitions if one.key not in told]
    try:
        try:
            register_names(context, dag, job, services)
        except TraceError as error:
            raise _failure([(one, error) for one in partitions], last_try=last_try) from None
        if len(context.partition_keys) == 1:
            with closing(in_turn(partitions, results)) as pipeline:
                yield from _one(dag, job, next(pipeline), last_try=last_try)
        else:
            yield from _many(
                context, dag, job, partitions, selected=selected, results=results, last_try=last_try
            )
    except (DagsterExecutionInterruptedError, KeyboardInterrupt):
        # With a retry policy Dagster would start the op again in a run that is over (dagster#15026).
        raise dg.Failure(
            "interrupted; nothing of the partition in work was committed", allow_retries=False
        ) from None


def _written(result: OutputResult, job: ResolvedJob, task: Task, services: Services) -> OutputResult:
    """Write the rows of an output that are to be written, and return it with what there is to tell."""
    if result.rows is None:
        return result
    strategy = job.spec.update_strategy or "replace"
    key = job.spec.unique_key or job.operator.default_unique_key
    if isinstance(key, Mapping):
        key = key.get(result.output, ())
    table = HotTable(task.dag, table_name(task.job, result.output), result.rows.schema, tuple(key))
    added = services.append.write(
        f"{task.key}/{result.output}",
        run_id=task.run_id,
        table=table,
        rows=result.rows,
        strategy=strategy,
        scope=task.partition,
    )
    told = {metadata.TABLE: table.shown, metadata.ROWS_ADDED: added, metadata.ROWS: result.rows.num_rows}
    return replace(result, rows=None, metadata={**result.metadata, **told})


def register_names(
    context: dg.AssetExecutionContext, dag: ResolvedDag, job: ResolvedJob, services: Services
) -> None:
    """Write the DAG's published names into the ledger, where this job makes one of them.

    Raises:
        LedgerUnavailable: Postgres cannot be reached, or refuses.
    """
    if not any(origin == job.spec.name for origin, _ in dag.publish.values()):
        return
    names = {name: PublishedOutput(origin, output) for name, (origin, output) in dag.publish.items()}
    try:
        services.ledger.publish_names(dag.name, names)
    except ConfigurationError as error:  # the data is right, and a name of the registry can wait
        context.log.warning("%s", error)


def _one(dag: ResolvedDag, job: ResolvedJob, done: Done, *, last_try: bool) -> Iterator[OpEvent]:
    if isinstance(done.outcome, TraceError):
        raise _failure([(done.partition, done.outcome)], last_try=last_try)
    for result in done.outcome:
        yield dg.MaterializeResult(
            asset_key=asset_key(dag.name, job.spec.name, result.output),
            data_version=dg.DataVersion(result.data_version),
            metadata=metadata_of(result),
        )


def _many(
    context: dg.AssetExecutionContext,
    dag: ResolvedDag,
    job: ResolvedJob,
    partitions: Sequence[BlockRange],
    *,
    selected: Sequence[str],
    results: Callable[[Work], Sequence[OutputResult]],
    last_try: bool,
) -> Iterator[OpEvent]:
    failed: list[tuple[BlockRange, TraceError]] = []
    with closing(in_turn(partitions, results)) as pipeline:
        for done in pipeline:
            if isinstance(done.outcome, TraceError):
                failed.append((done.partition, done.outcome))
                if done.outcome.stops_run:
                    break
                context.log.warning("partition %s failed: %s", done.partition.key, done.outcome)
                continue
            for result in done.outcome:
                key = asset_key(dag.name, job.spec.name, result.output)
                yield dg.AssetMaterialization(
                    asset_key=key,
                    partition=done.partition.key,
                    metadata=metadata_of(result),
                    tags=dict(provenance_tags(context, key, result.data_version)),
                )
    if failed:
        raise _failure(failed, of=len(context.partition_keys), last_try=last_try)
    for output in selected:
        yield dg.Output(
            None, output_name=_output_name(context, dag, job, output), metadata=dict(SILENT_OUTPUT_METADATA)
        )


def _is_selected(context: dg.AssetExecutionContext, dag: ResolvedDag, job: ResolvedJob, output: str) -> bool:
    return asset_key(dag.name, job.spec.name, output) in context.selected_asset_keys


def _output_name(context: dg.AssetExecutionContext, dag: ResolvedDag, job: ResolvedJob, output: str) -> str:
    key = asset_key(dag.name, job.spec.name, output)
    names: Mapping[str, dg.AssetKey] = context.assets_def.keys_by_output_name
    return next(name for name, candidate in names.items() if candidate == key)


def metadata_of(result: OutputResult) -> dict[str, dg.MetadataValue]:
    """Return an output's metadata as Dagster shows it."""
    return {name: _metadata_value(value) for name, value in result.metadata.items()}


def _metadata_value(value: MetadataValue | None) -> dg.MetadataValue:
    match value:
        case None:  # of an operator that does not heed the types; the data is committed, and is to be told
            return dg.MetadataValue.null()
        case bool():
            return dg.MetadataValue.bool(value)
        case int():
            return dg.MetadataValue.int(value)
        case float():
            return dg.MetadataValue.float(value)
        case str():
            return dg.MetadataValue.text(value)
        case _:
            return dg.MetadataValue.json(dict(value))


def _failure(failed: Sequence[tuple[BlockRange, TraceError]], *, of: int = 1, last_try: bool) -> dg.Failure:
    """Return the op's failure; it may be retried if one of the partitions may succeed then.

    After the last try it asks for no other one: Dagster would put "Exceeded max_retries" in its place.
    """
    lines = [f"partition {partition.key}: {error}" for partition, error in failed]
    if of > 1:
        lines.insert(
            0, f"{len(failed)} of {of} partitions failed; the others are committed or were not begun"
        )
    return dg.Failure(
        "\n".join(lines),
        metadata={"trace/failed_partitions": ", ".join(partition.key for partition, _ in failed)},
        allow_retries=not last_try and any(error.retryable for _, error in failed),
    )


def _told_by_this_run(context: dg.AssetExecutionContext, selected_keys: Sequence[dg.AssetKey]) -> set[str]:
    """Return the partitions of which an earlier try of the op has told every output."""
    records = context.instance.all_logs(context.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    told = {
        (event.asset_key, event.partition)
        for event in (record.get_dagster_event() for record in records)
        if event.asset_key is not None
    }
    return {
        partition
        for _, partition in told
        if partition is not None and all((key, partition) in told for key in selected_keys)
    }


def progress_of(context: dg.AssetExecutionContext) -> Progress:
    """Return a reporter that logs at most one line in ten seconds: every line is a write to event storage."""
    last = float("-inf")

    def report(message: str, **fields: object) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_PROGRESS_LINES:
            last = now
            shown = " ".join(f"{name}={value}" for name, value in fields.items())
            context.log.info("%s %s", message, shown)

    return report
