"""A run of consecutive blocks as the node gave it, decoded and not yet checked."""

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
