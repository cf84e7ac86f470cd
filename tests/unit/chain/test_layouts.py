"""The declared layouts of JSON-RPC results."""

from collections.abc import Iterator

import pyarrow as pa
import pytest

from trace_dagster.chain.decoding.layout import Field, Group, Kind, Layout, Leaves, Rows, arrow_type
from trace_dagster.chain.decoding.layouts import BLOCK, LOGS, RECEIPT, RECEIPTS, TRACES


def layouts(layout: Layout) -> Iterator[Layout]:
    """Yield a layout and those nested in it."""
    yield layout
    for member in layout.members:
        if isinstance(member, Rows):
            yield from layouts(member.layout)


EVERY = {one.name: one for shape in (BLOCK, LOGS, RECEIPT, RECEIPTS, TRACES) for one in layouts(shape.layout)}


@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_key_and_every_column_stands_once(name: str) -> None:
    """No two members read the same key or write the same column, and nothing is both read and ignored."""
    layout = EVERY[name]
    keys = [member.key for member in layout.members]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & layout.ignored
    columns = [field.name for field in arrow_type(layout)]
    assert len(set(columns)) == len(columns)


def test_kinds_become_the_documented_columns() -> None:
    """Amounts and topics are several columns; groups stand in the row; lists nest; ``extra`` comes last."""
    inner = Layout("entry", (Field("address", "address", Kind.DATA, 20),), keeps_extra=False)
    layout = Layout(
        "example",
        (
            Field("value", "value", Kind.AMOUNT),
            Field("topics", "topic", Kind.TOPICS),
            Group("action", (Field("gas", "action_gas", Kind.QUANTITY),)),
            Leaves("path", "path", Kind.QUANTITY),
            Rows("list", "list", inner),
        ),
    )
    binary = pa.large_binary()
    assert arrow_type(layout) == pa.struct(
        [
            ("value_binary", binary),
            ("value_string", pa.large_string()),
            ("value_f64", pa.float64()),
            *((f"topic{number}", binary) for number in range(4)),
            ("action_gas", pa.uint64()),
            ("path", pa.large_list(pa.field("item", pa.uint64(), nullable=False))),
            ("list", pa.large_list(pa.field("item", pa.struct([("address", binary)]), nullable=False))),
            ("extra", pa.large_string()),
        ]
    )
