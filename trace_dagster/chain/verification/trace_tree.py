"""Whether the traces of a block are whole trees: every inner one there, once, and of a transaction."""

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from trace_dagster.chain.verification.flat import FlatBatch, Items, path_texts
from trace_dagster.errors import DataMismatch

__all__ = ["UNCOUNTED", "check_tree"]

UNCOUNTED: Final = "traces do not count their subtraces"

_CALLS: Final = pa.array(["call", "create"], pa.large_string())
_REWARD, _END = "reward", "suicide"


def check_tree(flat: FlatBatch, traces: Items) -> str | None:
    """Check the inner traces; return why that could not be done, or None.

    Self-destructs may be among the subtraces that the outer trace counts, and at the place of another one:
    nodes differ.

    Raises:
        DataMismatch: one is missing, comes twice, or lacks what tells where it belongs.
    """
    kinds, index = traces.column("action_type"), traces.column("transaction_index")
    for name, due, column in (
        ("transactionPosition", pc.not_equal(kinds, _REWARD), index),
        ("action.from", pc.is_in(kinds, _CALLS), traces.column("action_from")),
    ):
        at = pc.index(pc.and_(due, pc.is_null(column)), True).as_py() if column.null_count else -1
        if at >= 0:
            raise DataMismatch(
                f"{_place(flat, traces, at)}: trace {traces.position[at]} ({kinds[at]}) has no {name}"
            )
    counted = traces.column("subtraces")
    if counted.null_count:
        return UNCOUNTED
    steps = traces.column("trace_address")
    inner = pc.greater(pc.fill_null(pc.list_value_length(steps), 0), 0)
    ended = pc.equal(kinds, _END)
    given = _by_block(inner, traces)
    least = pc.subtract(given, _by_block(ended, traces))
    said = traces.summed(pc.min_element_wise(counted, pa.scalar(2**32, counted.type)).cast(pa.int64()))
    at = pc.index(pc.or_(pc.less(said, least), pc.greater(said, given)), True).as_py()
    if at >= 0:
        raise DataMismatch(
            f"block {flat.range.start_block + at}: its traces count {said[at]} inner ones, but the endpoint "
            f"gave {given[at]}; a lagging backend? try again"
        )
    _check_once(flat, traces, pc.and_(inner, pc.invert(ended)), path_texts(steps))
    return None


def _by_block(of: pa.BooleanArray, traces: Items) -> pa.Int64Array:
    return traces.summed(of.cast(pa.int64()))


def _check_once(flat: FlatBatch, traces: Items, due: pa.BooleanArray, paths: pa.Array) -> None:
    keys = pc.binary_join_element_wise(
        traces.parent.cast(pa.large_string()),
        traces.column("transaction_index").cast(pa.large_string()),
        paths,
        pa.scalar("/", pa.large_string()),
    ).filter(due)
    if pc.count_distinct(keys).as_py() == len(keys):
        return
    counts = pc.value_counts(keys)
    twice = counts.field("values")[pc.index(pc.greater(counts.field("counts"), 1), True).as_py()].as_py()
    parent, transaction, path = twice.split("/")
    raise DataMismatch(
        f"block {flat.range.start_block + int(parent)}: trace {path} of transaction {transaction} was given "
        "twice"
    )


def _place(flat: FlatBatch, rows: Items, at: int) -> str:
    return f"block {flat.range.start_block + rows.parent[at].as_py()}"
