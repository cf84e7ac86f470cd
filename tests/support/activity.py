"""Operators ``activity`` and ``busy``: rows per block made of a follower's rows, and rows made of those."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_dagster.operators.base import OutputResult, Progress, Task
from trace_dagster.operators.services import Services
from trace_dagster.spec.catalog import OperatorConfig, OutputDeclaration


class NoConfig(OperatorConfig):
    """Nothing to say."""


class Activity:
    """For each block of a follower its hash, and how many transactions it has."""

    name = "activity"
    description = "Transactions of each block."
    config_model = NoConfig
    activations = frozenset({"reactive"})
    source_kinds: frozenset[str] = frozenset()
    update_strategies = frozenset({"append", "replace"})
    default_unique_key = ("block_hash",)
    subsettable = False
    runnable = True

    def outputs(self, config: NoConfig) -> tuple[OutputDeclaration, ...]:
        """One table."""
        return (OutputDeclaration(name="blocks", description="One row a block."),)

    def plan_ranges(self, job: str, config: NoConfig, upstream: Any) -> None:
        """It runs on whatever blocks are new."""

    def estimate_rpc_requests(self, config: NoConfig, blocks: int) -> None:
        """The chain is asked nothing."""

    def run(self, task: Task, services: Services, progress: Progress) -> Sequence[OutputResult]:
        """Count."""
        blocks, transactions = (one.rows(services, task.partition) for one in task.inputs)
        rows = []
        for block in blocks.select(["block_number", "block_hash", "gas_used"]).to_pylist():
            of_block = transactions.filter(
                pc.equal(transactions["block_hash"], pa.scalar(block["block_hash"]))
            )
            rows.append({**block, "transactions": of_block.num_rows})
        schema = pa.schema(
            {
                "block_number": pa.int64(),
                "block_hash": pa.large_binary(),
                "gas_used": pa.int64(),
                "transactions": pa.int64(),
            }
        )
        return [
            OutputResult(
                "blocks", "activity", {"asked": task.partition.key}, pa.Table.from_pylist(rows, schema)
            )
        ]


class Busy(Activity):
    """The blocks of ``activity`` that have a transaction."""

    name = "busy"

    def run(self, task: Task, services: Services, progress: Progress) -> Sequence[OutputResult]:
        """Filter."""
        (blocks,) = (one.rows(services, task.partition) for one in task.inputs)
        return [OutputResult("blocks", "busy", rows=blocks.filter(pc.greater(blocks["transactions"], 0)))]
