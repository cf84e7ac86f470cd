"""From decoded blocks to checked tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from trace_dagster.chain.assembly import assemble
from trace_dagster.chain.batch import BlockBatch
from trace_dagster.chain.datasets import filters_of
from trace_dagster.chain.profiles import ChainProfile
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.chain.verification import FlatBatch, Verifier, unlinked
from trace_dagster.operators.cryo_ingest.native.plan import FetchPlan

__all__ = ["Made", "Wanted", "make"]


@dataclass(frozen=True)
class Wanted:
    """What is to be made of a range.

    Attributes:
        chain_id: of the chain.
        profile: which rules hold there.
        datasets: canonical names.
        filters: the job's filters.
        plan: what to ask for them.
        range: the blocks, both ends inclusive.
    """

    chain_id: int
    profile: ChainProfile
    datasets: Sequence[str]
    filters: Mapping[str, tuple[str, ...]]
    plan: FetchPlan
    range: BlockRange


@dataclass(frozen=True)
class Made:
    """The tables of some consecutive blocks, verified.

    Attributes:
        range: the blocks.
        tables: the rows, by dataset.
        checks: the outcome of every check.
        first_hash: hash of the first block.
        first_parent_hash: its parent's.
        last_hash: hash of the last block.
        extras: how many values were kept in ``extra`` columns, by dataset.
    """

    range: BlockRange
    tables: Mapping[str, pa.Table]
    checks: Mapping[str, str]
    first_hash: bytes
    first_parent_hash: bytes
    last_hash: bytes
    extras: Mapping[str, int]


def make(wanted: Wanted, batch: BlockBatch, parent_hash: bytes | None) -> Made:
    """Check a batch of blocks and return its tables.

    Args:
        wanted: what is to be made.
        batch: as the endpoint gave it.
        parent_hash: of the block before the first one; None where that is not known.

    Raises:
        DataMismatch: the batch disagrees with itself, or does not follow that block.
    """
    verifier = Verifier(wanted.profile, logs_filtered=bool(wanted.plan.log_filter))
    flat = verifier.verify(batch)
    parent = flat.column("parent_hash")[0].as_py()
    if parent_hash is not None and parent != parent_hash:
        raise unlinked(batch.range.start_block, parent, parent_hash)
    tables = {
        dataset: assemble(dataset, flat, wanted.chain_id, filters_of(dataset, wanted.filters))
        for dataset in wanted.datasets
    }
    return _made_of(flat, tables, verifier.checks)


def _made_of(flat: FlatBatch, tables: Mapping[str, pa.Table], checks: Mapping[str, str]) -> Made:
    hashes, parents = flat.column("block_hash"), flat.column("parent_hash")
    extras = {
        dataset: table.num_rows - table.column("extra").null_count
        for dataset, table in tables.items()
        if "extra" in table.schema.names
    }
    return Made(
        range=flat.range,
        tables=tables,
        checks=checks,
        first_hash=hashes[0].as_py(),
        first_parent_hash=parents[0].as_py(),
        last_hash=hashes[-1].as_py(),
        extras={dataset: count for dataset, count in extras.items() if count},
    )
