"""A batch of blocks with its nested lists laid out in rows, each with the place it has in its block."""

from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from trace_dagster.chain.ranges import BlockRange

__all__ = ["FlatBatch", "Items", "counting", "path_texts"]

_COUNTED: Final = pa.array(range(2**16), pa.int64())


def counting(count: int) -> pa.Int64Array:
    """Return 0, 1, 2... of so many."""
    return _COUNTED[:count] if count <= len(_COUNTED) else pa.array(range(count), pa.int64())


@dataclass(frozen=True)
class Items:
    """The items of a column of lists, one after the other.

    Attributes:
        rows: the items, structs.
        parent: the list that each is in: its number.
        starts: where each list begins; where the next one does, for an empty or null one.
        counts: the length of each list, 0 for a null one.
    """

    rows: pa.StructArray
    parent: pa.Int64Array
    starts: pa.Int64Array
    counts: pa.Int64Array

    @classmethod
    def of(cls, lists: pa.LargeListArray) -> "Items":
        """Lay out ``lists``."""
        counts = pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int64())
        ends = pc.cumulative_sum(counts)
        return cls(
            rows=pc.list_flatten(lists),
            parent=pc.list_parent_indices(lists).cast(pa.int64()),
            starts=pc.subtract(ends, counts),
            counts=counts,
        )

    @property
    def position(self) -> pa.Int64Array:
        """The place of each item in its list, counted from 0."""
        return pc.subtract(counting(len(self.rows)), self.starts.take(self.parent))

    def summed(self, values: pa.Int64Array) -> pa.Int64Array:
        """Return the sum of ``values``, one for each item, by list."""
        total = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(values)])
        return pc.subtract(total.take(pc.add(self.starts, self.counts)), total.take(self.starts))

    def column(self, name: str) -> pa.Array:
        """Return one column of the items."""
        return self.rows.field(name)

    def of_parent(self, values: pa.Array) -> pa.Array:
        """Return for each item the value that its list has."""
        return values.take(self.parent)


def path_texts(steps: pa.LargeListArray) -> pa.Array:
    """Return each path as text, its steps joined by ``_``; nothing for none."""
    items = pc.list_flatten(steps).cast(pa.string())
    counts = pc.fill_null(pc.list_value_length(steps), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(counts).cast(pa.int64())])
    lists = pa.LargeListArray.from_arrays(offsets, items)
    return pc.fill_null(pc.binary_join(lists, "_").cast(pa.large_string()), "")


@dataclass(frozen=True)
class FlatBatch:
    """A batch of blocks in rows; what was not asked for is None.

    Attributes:
        range: the blocks, both ends inclusive.
        blocks: one struct a block, ascending.
        transactions: their transactions, by block.
        has_transactions: whether these are whole, or only hashes.
        receipts: one for each transaction, in the same order; parents are blocks.
        logs: their parents are blocks.
        log_transaction: the place of each log's transaction among ``transactions``.
        traces: their parents are blocks.
        frames: their parents are blocks.
    """

    range: BlockRange
    blocks: pa.StructArray
    transactions: Items
    has_transactions: bool
    receipts: Items | None = None
    logs: Items | None = None
    log_transaction: pa.Int64Array | None = None
    traces: Items | None = None
    frames: Items | None = None

    def column(self, name: str) -> pa.Array:
        """Return one column of the blocks."""
        return self.blocks.field(name)

    def items(self, name: str) -> Items:
        """Return ``receipts``, ``logs``, ``traces`` or ``frames``.

        Raises:
            ValueError: they were not asked for.
        """
        found: Items | None = getattr(self, name)
        if found is None:
            raise ValueError(f"the batch has no {name}")
        return found
