"""Block ranges as Dagster partitions, and what they imply between two assets."""

from functools import cache
from itertools import groupby

import dagster as dg

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.spec.catalog import RangePlan

__all__ = ["backfill_policy", "lane_name", "partition_mapping", "partitions_of"]

_MOST_PARTITIONS_PER_RUN = 1000
_RUN_TIME_PARTITIONS_PER_RUN = 100
# Runs per pool slot, so that one slow run at the end does not leave the other slots idle for long.
_RUNS_PER_SLOT = 2


def lane_name(dag: str, lane: str) -> str:
    """Return the name of the dynamic partitions that the entry point ``lane`` registers."""
    return f"{dag}__{lane}"


def partitions_of(dag: str, plan: RangePlan | None) -> dg.PartitionsDefinition | None:
    """Return the partitions of ``plan``: static for bounded ranges, dynamic for run-time ones.

    Equal ranges give the same object, so that Dagster holds and serialises them once.
    """
    if plan is None:
        return None
    if plan.ranges is None:
        return _dynamic(lane_name(dag, plan.lane or ""))
    return _static(plan.ranges)


@cache
def _dynamic(name: str) -> dg.DynamicPartitionsDefinition:
    return dg.DynamicPartitionsDefinition(name=name)


@cache
def _static(ranges: tuple[BlockRange, ...]) -> dg.StaticPartitionsDefinition:
    return dg.StaticPartitionsDefinition([block_range.key for block_range in ranges])


def partition_mapping(upstream: RangePlan | None, downstream: RangePlan | None) -> dg.PartitionMapping | None:
    """Return which upstream partitions a downstream one reads: those that hold its blocks.

    None where one side has no partitions: Dagster's default is right there.
    """
    if upstream is None or downstream is None:
        return None
    if upstream.ranges is None or downstream.ranges is None or upstream.ranges == downstream.ranges:
        return dg.IdentityPartitionMapping()
    if len(upstream.ranges) == 1:
        return dg.AllPartitionMapping()
    return dg.StaticPartitionMapping(_children(upstream.ranges, downstream.ranges))


def _children(upstream: tuple[BlockRange, ...], downstream: tuple[BlockRange, ...]) -> dict[str, list[str]]:
    """Return the keys of ``downstream`` below the key of the ``upstream`` range that holds their blocks."""
    parents = iter(sorted(upstream))
    parent = next(parents)
    pairs = []
    for child in sorted(downstream):
        while child.start_block > parent.end_block:
            parent = next(parents)
        pairs.append((parent.key, child.key))
    return {key: [child for _, child in group] for key, group in groupby(pairs, key=lambda pair: pair[0])}


def backfill_policy(plan: RangePlan, max_concurrency: int | None, *, one_run: bool) -> dg.BackfillPolicy:
    """Return how many partitions of a backfill share a run.

    Many, because a run costs seconds and a partition milliseconds; few enough that ``max_concurrency`` runs
    find work. Each partition is committed on its own either way.

    Args:
        plan: the job's ranges.
        max_concurrency: the pool's limit; None for none.
        one_run: put all into one run, for jobs that only record ranges, and for range launches of the CLI.
    """
    if one_run:
        return dg.BackfillPolicy.single_run()
    if plan.ranges is None:
        return dg.BackfillPolicy.multi_run(_RUN_TIME_PARTITIONS_PER_RUN)
    runs = (max_concurrency or 1) * _RUNS_PER_SLOT
    per_run = -(-len(plan.ranges) // runs)
    return dg.BackfillPolicy.multi_run(min(max(per_run, 1), _MOST_PARTITIONS_PER_RUN))
