"""From decoded blocks to checked tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

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
    extras = {dataset: _extras_of(table) for dataset, table in tables.items()}
    return Made(
        range=flat.range,
        tables=tables,
        checks=checks,
        first_hash=hashes[0].as_py(),
        first_parent_hash=parents[0].as_py(),
        last_hash=hashes[-1].as_py(),
        extras={dataset: count for dataset, count in extras.items() if count},
    )


def _extras_of(table: pa.Table) -> int:
    """Return how many rows, and items of lists in them, have something in ``extra``."""
    found = 0
    for column in table.itercolumns():
        kind = column.type
        if pa.types.is_large_list(kind) and pa.types.is_struct(kind.value_type):
            items = pc.list_flatten(column.combine_chunks())
            if kind.value_type.get_field_index("extra") >= 0:
                found += len(items) - items.field("extra").null_count
    if "extra" in table.schema.names:
        found += table.num_rows - table.column("extra").null_count
    return found
