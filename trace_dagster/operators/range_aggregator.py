"""``range_aggregator``: a follower's progress as full, final block ranges."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from trace_dagster import metadata
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.operators.base import OutputResult, Progress, Task
from trace_dagster.operators.range_versions import range_version
from trace_dagster.spec.catalog import OperatorConfig, OutputDeclaration, RangePlan, RangeProblem

if TYPE_CHECKING:
    from trace_dagster.operators.services import Services

__all__ = ["RangeAggregator", "RangeAggregatorConfig", "full_ranges", "last_final_block", "ranges_with"]


class RangeAggregatorConfig(OperatorConfig):
    """How ranges are cut.

    Attributes:
        range_size: blocks of a range; ranges begin at multiples of it.
        finality_blocks: so far behind the follower's cursor a block is taken for final; None: the blocks that
            the follower itself takes for final.
    """

    range_size: int = Field(ge=1)
    finality_blocks: int | None = Field(default=None, ge=0)


class RangeAggregator:
    """Gives each full range of blocks that a follower has committed and that are final, once and in order."""

    name = "range_aggregator"
    description = "Full ranges of final blocks, as a follower reaches them."
    config_model = RangeAggregatorConfig
    activations = frozenset({"reactive"})
    source_kinds: frozenset[str] = frozenset()
    update_strategies = frozenset({"replace"})
    default_unique_key: tuple[str, ...] = ()
    subsettable = False
    runnable = True
    reads = frozenset({"block_follower"})

    def outputs(self, config: RangeAggregatorConfig) -> tuple[OutputDeclaration, ...]:
        """Return the one output, ``ranges``."""
        behind = config.finality_blocks
        final = "as the follower says" if behind is None else f"{behind} blocks behind its cursor or more"
        text = f"Ranges of {config.range_size} final blocks, {final}."
        return (OutputDeclaration(name="ranges", description=text),)

    def plan_ranges(self, job: str, config: RangeAggregatorConfig, upstream: RangePlan | None) -> RangePlan:
        """Return this job's own lane of ranges, which are known at run time.

        Raises:
            RangeProblem: it is run by partitions of its input.
        """
        if upstream is not None:
            raise RangeProblem(
                ("execution_strategy",),
                f"{job} makes ranges of a follower's progress, which has none",
                "write execution_strategy: PerUpdate",
            )
        return RangePlan(ranges=None, lane=job, chunk_size=config.range_size)

    def estimate_rpc_requests(self, config: Any, blocks: int) -> None:
        """Return None: the chain is asked nothing."""

    def run(self, task: Task, services: "Services", progress: Progress) -> Sequence[OutputResult]:  # noqa: ARG002
        """Record the range."""
        changed = services.ledger.last_invalidation(task.dag, task.job, task.partition)
        return [
            OutputResult(
                output="ranges",
                data_version=range_version(task.partition, changed),
                metadata={metadata.RANGE: task.partition.key, metadata.BLOCKS: task.partition.blocks},
            )
        ]


def ranges_with(
    config: RangeAggregatorConfig, first_block: int, blocks: BlockRange, last_block: int
) -> list[BlockRange]:
    """Return the ranges up to ``last_block`` that hold any of ``blocks``; arguments as of ``full_ranges``."""
    size = config.range_size
    start = max(-(-first_block // size) * size, blocks.start_block // size * size)
    end = min(blocks.end_block, last_block)
    return [BlockRange(one, one + size - 1) for one in range(start, end + 1, size)]


def last_final_block(config: RangeAggregatorConfig, cursor_block: int, final_block: int | None) -> int:
    """Return the last block that a follower has and that is final; -1 for none.

    Args:
        config: may say how far behind the cursor.
        cursor_block: the last block that the follower has committed.
        final_block: the last block that the follower takes for final, where it knows.
    """
    if config.finality_blocks is not None:
        return cursor_block - config.finality_blocks
    return -1 if final_block is None else min(cursor_block, final_block)


def full_ranges(
    config: RangeAggregatorConfig, first_block: int, last_block: int, after_block: int | None, most: int
) -> list[BlockRange]:
    """Return the next full ranges.

    Args:
        config: how they are cut.
        first_block: where the follower began; a range that begins before it is never full.
        last_block: the last block that is committed and final.
        after_block: last block of the ranges given before; None for none.
        most: at most so many.
    """
    size = config.range_size
    start = -(-first_block // size) * size
    if after_block is not None:
        start = max(start, after_block + 1)
    count = max(0, (last_block + 1 - start) // size)
    return [BlockRange(start + at * size, start + (at + 1) * size - 1) for at in range(min(count, most))]
