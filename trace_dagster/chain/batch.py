"""A run of consecutive blocks as the node gave it, decoded and not yet checked."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from trace_dagster.chain.ranges import BlockRange

__all__ = ["BlockBatch"]


@dataclass(frozen=True)
class BlockBatch:
    """Everything that was asked of some consecutive blocks; each array has one entry a block, ascending.

    Attributes:
        range: the blocks, both ends inclusive.
        blocks: a ``StructArray`` of the shape BLOCK; null where the node answered null. Its transactions are
            whole, or, where only headers were asked for, have a hash and nothing else.
        has_transactions: whether transactions are whole.
        receipts: a ``LargeListArray`` of the shape RECEIPTS, each list in the order the node gave; null where
            the node answered null. None where receipts were not asked for.
        logs: a ``LargeListArray`` of the shape LOGS, where logs were asked for without receipts, each list in
            order of ``log_index``; with the job's filters applied.
        traces: a ``LargeListArray`` of the shape TRACES.
        frames: a ``LargeListArray`` of the shape FRAMES (call frames, outermost first, flattened).
    """

    range: BlockRange
    blocks: pa.StructArray
    has_transactions: bool = False
    receipts: pa.LargeListArray | None = None
    logs: pa.LargeListArray | None = None
    traces: pa.LargeListArray | None = None
    frames: pa.LargeListArray | None = None

    @staticmethod
    def joined(batches: "Sequence[BlockBatch]") -> "BlockBatch":
        """Return one batch of several that follow each other, and of which the same was asked."""
        if len(batches) == 1:
            return batches[0]
        first, last = batches[0], batches[-1]
        return BlockBatch(
            range=BlockRange.of(first.range.start_block, last.range.end_block),
            blocks=pa.concat_arrays([one.blocks for one in batches]),
            has_transactions=first.has_transactions,
            receipts=_joined([one.receipts for one in batches]),
            logs=_joined([one.logs for one in batches]),
            traces=_joined([one.traces for one in batches]),
            frames=_joined([one.frames for one in batches]),
        )


def _joined(arrays: Sequence[pa.LargeListArray | None]) -> pa.LargeListArray | None:
    held = [one for one in arrays if one is not None]
    return pa.concat_arrays(held) if held else None
