"""``range_splitter``: fans a range out into partitions of ``chunk_size`` blocks, deterministically."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from trace_dagster import metadata
from trace_dagster.operators.base import OutputResult, Progress, Task
from trace_dagster.operators.range_versions import range_version
from trace_dagster.spec.catalog import (
    OperatorConfig,
    OutputDeclaration,
    RangePlan,
    RangeProblem,
    cut_ranges,
)

if TYPE_CHECKING:
    from trace_dagster.operators.services import Services

__all__ = ["RangeSplitter", "RangeSplitterConfig"]


class RangeSplitterConfig(OperatorConfig):
    """How a range is cut.

    Attributes:
        chunk_size: blocks per partition; the last partition of a range may be shorter.
    """

    chunk_size: int = Field(ge=1)


class RangeSplitter:
    """Cuts each upstream range, from its start, into partitions."""

    name = "range_splitter"
    description = "Block ranges of chunk_size blocks, cut from a requested range."
    config_model = RangeSplitterConfig
    activations = frozenset({"reactive"})
    source_kinds: frozenset[str] = frozenset()
    update_strategies = frozenset({"replace"})
    default_unique_key: tuple[str, ...] = ()
    subsettable = False
    runnable = True

    def outputs(self, config: RangeSplitterConfig) -> tuple[OutputDeclaration, ...]:
        """Return the one output, ``ranges``."""
        return (OutputDeclaration(name="ranges", description=f"Ranges of {config.chunk_size} blocks."),)

    def plan_ranges(self, job: str, config: RangeSplitterConfig, upstream: RangePlan | None) -> RangePlan:
        """Return every upstream range cut into chunks.

        Raises:
            RangeProblem: the input has no block ranges, or run-time ranges that are cut already, or too
                many of them.
        """
        if upstream is None:
            raise RangeProblem(
                ("inputs",),
                f"{job} splits ranges, but its input has none",
                "read from a range_request or another range_splitter",
            )
        if upstream.ranges is not None:
            return RangePlan(ranges=cut_ranges(upstream.ranges, config.chunk_size))
        if upstream.chunk_size not in (None, config.chunk_size):
            raise RangeProblem(
                ("config", "chunk_size"),
                f"ranges asked for at run time are cut once, and {upstream.lane} is cut into "
                f"{upstream.chunk_size} blocks already",
                f"write {upstream.chunk_size}, or use a range_request of its own",
            )
        return RangePlan(ranges=None, lane=upstream.lane, chunk_size=config.chunk_size)

    def estimate_rpc_requests(self, config: Any, blocks: int) -> None:
        """Return None: splitting asks the chain nothing."""

    def run(self, task: Task, services: "Services", progress: Progress) -> Sequence[OutputResult]:  # noqa: ARG002
        """Record the chunk; where it starts and ends follows from the DAG alone."""
        changed = services.ledger.last_invalidation(task.dag, task.job, task.partition)
        return [
            OutputResult(
                output="ranges",
                data_version=range_version(task.partition, changed),
                metadata={metadata.RANGE: task.partition.key, metadata.BLOCKS: task.partition.blocks},
            )
        ]
