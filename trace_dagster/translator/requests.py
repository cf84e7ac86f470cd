"""The job that asks for a block range: it registers partitions and requests a backfill of what reads them."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.execution.backfill import PartitionBackfill
from dagster._core.utils import make_new_backfill_id
from pydantic import Field

from trace_dagster import metadata
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.operators.range_request import RangeRequestConfig
from trace_dagster.spec.catalog import MAX_PARTITIONS, RangePlan, RangeProblem, cut_ranges
from trace_dagster.spec.resolve import ResolvedDag, ResolvedJob
from trace_dagster.translator.partitions import lane_name, partitions_of
from trace_dagster.translator.translator import asset_key

__all__ = ["readers_of", "request_job", "request_job_name", "requested_ranges"]

_KEYS_PER_CALL = 10_000
_LAST_BLOCK = 2**63 - 1


def request_job_name(dag: str, job: str) -> str:
    """Return the name of the job that asks for ranges of an entry point: ``{dag}__{job}``."""
    return f"{dag}__{job}"


def readers_of(dag: ResolvedDag, entry: ResolvedJob) -> tuple[ResolvedJob, ...]:
    """Return ``entry`` and every job of the DAG that reads it, at any distance, in dependency order."""
    reached = {entry.spec.name}
    for job in dag.jobs:
        if any(source.dag == dag.name and source.job in reached for source in job.inputs):
            reached.add(job.spec.name)
    return tuple(job for job in dag.jobs if job.spec.name in reached)


def requested_ranges(plan: RangePlan, requested: BlockRange) -> tuple[BlockRange, ...]:
    """Return the partitions of ``plan`` that hold blocks of ``requested``.

    Raises:
        ValueError: bounded ranges do not hold all of ``requested``, or it passes 64 bits.
        RangeProblem: it makes more partitions than one asset can have.
    """
    if requested.end_block > _LAST_BLOCK:
        raise ValueError(f"end_block {requested.end_block} is above {_LAST_BLOCK}; no chain has such blocks")
    if plan.ranges is None:
        return cut_ranges([requested], plan.chunk_size) if plan.chunk_size else (requested,)
    found = tuple(block_range for block_range in plan.ranges if block_range.overlaps(requested))
    first, last = plan.ranges[0].start_block, plan.ranges[-1].end_block
    if not BlockRange(first, last).covers(requested):
        raise ValueError(
            f"blocks {requested.start_block} to {requested.end_block} were asked for, but the DAG's range is "
            f"{first} to {last}; ask within it, or change start_block and end_block in the YAML"
        )
    return found


def request_job(dag: ResolvedDag, entry: ResolvedJob) -> dg.JobDefinition:
    """Return the launchable job of a ``range_request``, with a config form for the range."""
    readers = tuple(job for job in readers_of(dag, entry) if job.operator.runnable and job.plan is not None)
    config_type = _config_type(entry)
    lane = _lane_plan(readers)

    @dg.op(
        name=f"{request_job_name(dag.name, entry.spec.name)}__request",
        description="Registers the range's partitions and requests a backfill of every job that reads them.",
    )
    def request(context: dg.OpExecutionContext, config: config_type) -> None:  # type: ignore[valid-type]
        try:
            asked = BlockRange.of(config.start_block, config.end_block)  # type: ignore[attr-defined]
            by_job = {
                job.spec.name: requested_ranges(lane if job.plan.ranges is None else job.plan, asked)
                for job in readers
                if job.plan is not None
            }
            if lane.lane is not None:
                _register(context.instance, lane_name(dag.name, lane.lane), by_job[entry.spec.name])
        except (ValueError, RangeProblem) as error:
            raise dg.Failure(str(error), allow_retries=False) from None
        backfill_id = _request_backfill(context, dag, readers, by_job, asked)
        context.log.info("requested blocks %s as backfill %s", asked.key, backfill_id)
        context.add_output_metadata({"backfill": backfill_id, metadata.RANGE: asked.key})

    @dg.job(
        name=request_job_name(dag.name, entry.spec.name),
        description=(
            f"Asks for a block range of {dag.name}/{entry.spec.name}: registers partitions and requests a "
            "backfill, which the Dagster daemon carries out."
        ),
        tags={metadata.DAG: dag.name, metadata.JOB: entry.spec.name},
        executor_def=dg.in_process_executor,
    )
    def ask() -> None:
        # Definitions of a code location need names of their own; run config says ``request`` in every DAG.
        request.alias("request")()

    return ask


def _config_type(entry: ResolvedJob) -> type[dg.Config]:
    """Return the form's model; the DAG's own range, where it has one, is filled in."""
    asked = entry.config
    if not isinstance(asked, RangeRequestConfig):
        raise TypeError(f"{entry.name} is no range_request")
    start: Any = ... if asked.start_block is None else asked.start_block
    end: Any = ... if asked.end_block is None else asked.end_block

    class RangeForm(dg.Config):
        """The block range to ask for, inclusive at both ends."""

        start_block: int = Field(default=start, description="First block, inclusive; 0 or more.")
        end_block: int = Field(default=end, description="Last block, inclusive.")

    return RangeForm


def _lane_plan(readers: Sequence[ResolvedJob]) -> RangePlan:
    """Return how run-time ranges are cut: as the first splitter below the entry point cuts them."""
    plans = [job.plan for job in readers if job.plan is not None]
    return next((plan for plan in plans if plan.chunk_size is not None), plans[0])


def _register(instance: dg.DagsterInstance, name: str, ranges: Sequence[BlockRange]) -> None:
    known = set(instance.get_dynamic_partitions(name))
    total = len(known | {one.key for one in ranges})
    if total > MAX_PARTITIONS:
        raise ValueError(
            f"{len(ranges)} partitions were asked for, and {len(known)} are there already: together {total}, "
            f"more than the {MAX_PARTITIONS} that one asset can have; raise chunk_size, or ask in another DAG"
        )
    for start in range(0, len(ranges), _KEYS_PER_CALL):
        keys = [block_range.key for block_range in ranges[start : start + _KEYS_PER_CALL]]
        instance.add_dynamic_partitions(name, keys)


def _request_backfill(
    context: dg.OpExecutionContext,
    dag: ResolvedDag,
    readers: Iterable[ResolvedJob],
    by_job: Mapping[str, Sequence[BlockRange]],
    asked: BlockRange,
) -> str:
    """Store a backfill for the daemon, as the UI's own launch button does."""
    subsets = {}
    for job in readers:
        partitions_def = partitions_of(dag.name, job.plan)
        if partitions_def is None:
            continue
        subset = partitions_def.subset_with_partition_keys([one.key for one in by_job[job.spec.name]])
        for output in job.outputs:
            subsets[asset_key(dag.name, job.spec.name, output.name)] = subset
    backfill = PartitionBackfill.from_asset_graph_subset(
        backfill_id=make_new_backfill_id(),
        backfill_timestamp=time.time(),
        tags={metadata.REQUESTED_RANGE_TAG: asked.key, metadata.DAG: dag.name},
        dynamic_partitions_store=context.instance,
        asset_graph_subset=AssetGraphSubset(subsets, set()),  # type: ignore[call-arg]  # its wrapper hides it
        title=f"{dag.name}: blocks {asked.start_block} to {asked.end_block}",
        description=None,
        run_config=None,
    )
    context.instance.add_backfill(backfill)
    return str(backfill.backfill_id)
