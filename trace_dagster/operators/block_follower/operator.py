"""``block_follower``: its declaration. What it does has no partitions, and is in ``following``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trace_dagster.chain.schemas import columns_of
from trace_dagster.errors import ConfigurationError
from trace_dagster.operators.base import OutputResult, Progress, Task
from trace_dagster.operators.block_follower.config import BlockFollowerConfig
from trace_dagster.spec.catalog import OutputDeclaration, RangePlan

if TYPE_CHECKING:
    from trace_dagster.operators.services import Services

__all__ = ["BlockFollower"]


class BlockFollower:
    """Follows the head of a chain into Postgres hot tables."""

    name = "block_follower"
    description = "New blocks of a chain, in Postgres."
    config_model = BlockFollowerConfig
    activations = frozenset({"source"})
    source_kinds = frozenset({"always_on"})
    update_strategies = frozenset({"append", "replace"})
    default_unique_key = ("chain_id", "block_hash")
    subsettable = False
    runnable = True
    resets_outputs = True

    def outputs(self, config: BlockFollowerConfig) -> tuple[OutputDeclaration, ...]:
        """Return one output for each dataset."""
        return tuple(
            OutputDeclaration(
                name=dataset,
                description=f"{dataset} of chain {config.chain_id} from block {config.start_block} on.",
                columns=columns_of(dataset),
                kinds=("postgres",),
            )
            for dataset in config.datasets
        )

    def plan_ranges(self, job: str, config: Any, upstream: RangePlan | None) -> None:
        """Return None: the tip has no bounded ranges."""

    def estimate_rpc_requests(self, config: Any, blocks: int) -> None:
        """Return None: the tip has no end to count to."""

    def run(self, task: Task, services: "Services", progress: Progress) -> Sequence[OutputResult]:  # noqa: ARG002
        """Refuse: a follower has no partitions; see ``Following``.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(f"{task.dag}/{task.job} follows the tip of a chain, which has no partitions")
