"""Rows of a dataset in their one form: our schema, in an order that no fetching can change."""

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from trace_dagster.chain.schemas import cryo_columns_of, schema_of

__all__ = ["normalised"]

# Within one transaction (or block) these come in the node's own order, which means something and is kept.
_ORDERED: Final = frozenset(
    {
        "contracts",
        "geth_calls",
        "geth_opcodes",
        "javascript_traces",
        "native_transfers",
        "trace_calls",
        "traces",
        "vm_traces",
    }
)
_KEYS: Final = ("block_number", "transaction_index", "log_index")


def normalised(dataset: str, table: pa.Table) -> pa.Table:
    """Return ``table`` with the dataset's schema, sorted by block, transaction and log.

    Columns that Cryo does not have, and ``table`` neither, are null.

    Rows that these do not tell apart keep their order where it means something, else they are sorted by
    all their columns. Nulls go last.

    Raises:
        ValueError: a column is missing, or holds values that its type cannot hold.
    """
    schema = schema_of(dataset) or table.schema.remove_metadata()
    missing = [name for name in cryo_columns_of(dataset) or schema.names if name not in table.schema.names]
    if missing:
        raise ValueError(f"no column {', '.join(missing)} in {dataset}")
    try:
        columns = [
            table.column(one.name).cast(one.type)
            if one.name in table.schema.names
            else pa.nulls(table.num_rows, one.type)
            for one in schema
        ]
        table = pa.Table.from_arrays(columns, schema=schema)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{dataset} does not fit its schema: {error}") from None
    keys = [name for name in _KEYS if name in schema.names]
    if dataset not in _ORDERED:
        keys += [name for name in schema.names if name not in keys and _sortable(schema.field(name).type)]
    if not keys or _sorted_already(table, keys):
        return table
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in keys])
    return table.take(order)


def _sortable(kind: pa.DataType) -> bool:
    return not pa.types.is_nested(kind)


def _sorted_already(table: pa.Table, keys: list[str]) -> bool:
    # One row a block, in order: the usual case of blocks, and what needs no copy.
    numbers = table.column(keys[0])
    return len(numbers) < 2 or bool(pc.all(pc.less(numbers[:-1], numbers[1:])).as_py())
