"""The engine ``stub``: rows of a simulated chain, without RPC and without Cryo."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import lru_cache
from typing import Final

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import ConfigurationError
from trace_dagster.operators.base import Progress
from trace_dagster.operators.cryo_ingest.engines import (
    Extracted,
    Extraction,
    ExtractionResult,
    RangeFacts,
    not_checked,
)
from trace_dagster.operators.cryo_ingest.writer import DatasetWriter
from trace_dagster.testing.simulated_chain import LAST_BLOCK, SimulatedChain
from trace_dagster.testing.simulated_datasets import simulated_schema

__all__ = ["StubEngine"]

_BLOCKS_PER_BATCH: Final = 1_000
"""Blocks whose rows are in memory at once; four transactions a block make this a few megabytes."""


class StubEngine:
    """Writes the rows that ``trace_dagster.testing.SimulatedChain`` has, of every dataset of Cryo.

    The same chain id and range give the same bytes everywhere, and neighbouring ranges link.

    Attributes:
        name: ``stub``.
        format_version: raised whenever the simulated rows change.
        synthetic: always; nothing here comes from a chain.
        needs_endpoint: never.
        streams: never.
    """

    name = "stub"
    format_version = 1
    synthetic = True
    needs_endpoint = False
    streams = False

    def extract(self, work: Extraction, progress: Progress) -> ExtractionResult:
        """Write the simulated rows of ``work.range``.

        Raises:
            ConfigurationError: the range passes the simulated chain's end, or a filter is not hex.
            DeadlineExceeded: ``work.deadline`` has passed.
            StagingFull: ``work.limits`` or the disk are used up.
        """
        if work.range.end_block > LAST_BLOCK:
            raise ConfigurationError(
                f"engine stub has blocks 0 to {LAST_BLOCK}, and the range ends at {work.range.end_block}: "
                "ask for earlier blocks, or use engine cryo"
            )
        chain = _chain(work.chain_id)
        with ExitStack() as stack:
            writers = {dataset: stack.enter_context(_writer(work, dataset)) for dataset in work.datasets}
            _write(work, chain, writers, progress)
            facts = _facts(chain, work.range)
            checks = {"chain": not_checked("rows are synthetic")}
            outputs = tuple(
                Extracted(dataset, writer.finish(), writer.schema, facts, checks)
                for dataset, writer in writers.items()
            )
        return ExtractionResult(outputs, rpc_requests=0)


@lru_cache(maxsize=8)
def _chain(chain_id: int) -> SimulatedChain:
    return SimulatedChain(chain_id=chain_id)


def _writer(work: Extraction, dataset: str) -> DatasetWriter:
    return DatasetWriter(
        destination=work.files_of(dataset),
        dataset=dataset,
        range=work.range,
        schema=simulated_schema(dataset),
        deadline=work.deadline,
    )


def _write(
    work: Extraction, chain: SimulatedChain, writers: Mapping[str, DatasetWriter], progress: Progress
) -> None:
    done = 0
    for batch in work.range.split(_BLOCKS_PER_BATCH):
        work.deadline.check()
        try:
            tables = chain.tables(work.datasets, batch, work.filters)
        except ValueError as error:
            raise ConfigurationError(
                f"engine stub cannot use filters {dict(work.filters)}: {error}"
            ) from error
        for dataset, table in tables.items():
            writers[dataset].write(table)
        done += batch.blocks
        progress("Made synthetic blocks", blocks=done, of=work.range.blocks)


def _facts(chain: SimulatedChain, blocks: BlockRange) -> RangeFacts:
    first = chain.block(blocks.start_block)
    return RangeFacts(
        first_block_hash=f"0x{first.hash.hex()}",
        last_block_hash=f"0x{chain.block_hash(blocks.end_block).hex()}",
        first_parent_hash=f"0x{first.parent_hash.hex()}",
    )
