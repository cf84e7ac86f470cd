"""The one form of rows."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_dagster.chain.rows import normalised
from trace_dagster.chain.schemas import schema_of


def logs(rows: list[dict[str, object]]) -> pa.Table:
    """A table of logs with nulls where ``rows`` say nothing."""
    schema = schema_of("logs")
    assert schema is not None
    return pa.Table.from_pylist(rows, schema)


@given(st.permutations([(block, log) for block in range(4) for log in range(3)]), st.integers(0, 12))
def test_order_does_not_depend_on_how_rows_came(order: list[tuple[int, int]], cut: int) -> None:
    """Any order and any batches of the same logs give the same table."""
    rows = [{"block_number": block, "log_index": log, "data": b"%d" % log} for block, log in order]
    table = pa.concat_tables([logs(rows[:cut]), logs(rows[cut:])])
    in_order = sorted((block, log) for block, log in order)
    result = normalised("logs", table)
    assert (
        list(zip(*(result.column(name).to_pylist() for name in ("block_number", "log_index")), strict=True))
        == in_order
    )


def test_traces_keep_the_order_of_the_node() -> None:
    """Rows of one transaction stay as they came, rewards, which have none, go last in their block."""
    schema = schema_of("traces")
    assert schema is not None
    rows = [
        {"block_number": 2, "transaction_index": 0, "trace_address": ""},
        {"block_number": 1, "transaction_index": None, "trace_address": ""},
        {"block_number": 1, "transaction_index": 0, "trace_address": ""},
        {"block_number": 1, "transaction_index": 0, "trace_address": "1"},
        {"block_number": 1, "transaction_index": 0, "trace_address": "0"},
    ]
    result = normalised("traces", pa.Table.from_pylist(rows, schema)).to_pylist()
    assert [(row["block_number"], row["transaction_index"], row["trace_address"]) for row in result] == [
        (1, 0, ""),
        (1, 0, "1"),
        (1, 0, "0"),
        (1, None, ""),
        (2, 0, ""),
    ]


def test_rows_without_an_order_are_sorted_by_all_columns() -> None:
    """Datasets whose rows mean the same in any order are sorted completely."""
    table = pa.table({"block_number": [1, 1, 1], "address": [b"c", b"a", b"b"], "slots": [[1], [2], [3]]})
    assert normalised("balance_diffs", table).column("address").to_pylist() == [b"a", b"b", b"c"]


def test_types_are_widened_and_extra_columns_dropped() -> None:
    """Cryo's 32-bit timestamps become 64 bits wide; a column that is not ours goes."""
    schema = schema_of("blocks")
    assert schema is not None
    narrow = schema.set(schema.get_field_index("timestamp"), pa.field("timestamp", pa.uint32()))
    table = pa.Table.from_pylist([{"block_number": 1, "timestamp": 7}], narrow)
    result = normalised("blocks", table.append_column("more", pa.array([1])))
    assert result.schema == schema


def test_missing_columns_and_misfits_are_errors() -> None:
    """A missing column is named; a value that does not fit is an error, never cut."""
    with pytest.raises(ValueError, match="no column block_hash, parent_hash in blocks"):
        normalised("blocks", _blocks_without())
    schema = schema_of("logs")
    assert schema is not None
    wide = schema.set(schema.get_field_index("log_index"), pa.field("log_index", pa.uint64()))
    with pytest.raises(ValueError, match="logs does not fit its schema"):
        normalised("logs", pa.Table.from_pylist([{"block_number": 1, "log_index": 2**32}], wide))


def _blocks_without() -> pa.Table:
    schema = schema_of("blocks")
    assert schema is not None
    return schema.empty_table().drop_columns(["block_hash", "parent_hash"])
