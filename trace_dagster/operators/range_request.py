"""``range_request``: a person, an API call or a cron asks for a block range."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from trace_dagster import metadata
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.operators.base import OutputResult, Progress, Task
from trace_dagster.operators.range_versions import range_version
from trace_dagster.spec.catalog import OperatorConfig, OutputDeclaration, RangePlan

if TYPE_CHECKING:
    from trace_dagster.operators.services import Services

__all__ = ["RangeRequest", "RangeRequestConfig"]


class RangeRequestConfig(OperatorConfig):
    """The range, where it is known in advance; without it, ranges are asked for at run time.

    Attributes:
        start_block: first block, inclusive.
        end_block: last block, inclusive.
    """

    start_block: int | None = Field(default=None, ge=0)
    end_block: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _both_or_neither(self) -> "RangeRequestConfig":
        if (self.start_block is None) != (self.end_block is None):
            given, missing = "start_block", "end_block"
            if self.start_block is None:
                given, missing = missing, given
            raise ValueError(f"{given} is set but {missing} is not; set both, or neither for run-time ranges")
        if self.start_block is not None and self.end_block is not None and self.end_block < self.start_block:
            raise ValueError(
                f"end_block {self.end_block} is before start_block {self.start_block}; both are inclusive"
            )
        return self


class RangeRequest:
    """Entry point of a bounded sync: its output is the range that was asked for."""

    name = "range_request"
    description = "A block range, asked for by a person, an API call or a cron."
    config_model = RangeRequestConfig
    activations = frozenset({"source"})
    source_kinds = frozenset({"manual", "cron"})
    update_strategies: frozenset[str] = frozenset()
    default_unique_key: tuple[str, ...] = ()
    subsettable = False
    runnable = True

    def outputs(self, config: RangeRequestConfig) -> tuple[OutputDeclaration, ...]:
        """Return the one output, ``range``."""
        asked = "at run time" if config.start_block is None else f"{config.start_block} to {config.end_block}"
        return (OutputDeclaration(name="range", description=f"The requested block range: {asked}."),)

    def plan_ranges(self, job: str, config: RangeRequestConfig, upstream: RangePlan | None) -> RangePlan:  # noqa: ARG002
        """Return the one configured range, or this job's own lane of run-time ranges."""
        if config.start_block is None or config.end_block is None:
            return RangePlan(ranges=None, lane=job)
        return RangePlan(ranges=(BlockRange.of(config.start_block, config.end_block),))

    def estimate_rpc_requests(self, config: Any, blocks: int) -> None:
        """Return None: a request asks the chain nothing."""

    def run(self, task: Task, services: "Services", progress: Progress) -> Sequence[OutputResult]:  # noqa: ARG002
        """Record the range; there is nothing to compute."""
        return [
            OutputResult(
                output="range",
                data_version=range_version(task.partition),
                metadata={metadata.RANGE: task.partition.key, metadata.BLOCKS: task.partition.blocks},
            )
        ]
