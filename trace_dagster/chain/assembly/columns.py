"""Columns into tables of a dataset's schema, and the filters on their rows."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from trace_dagster.chain.schemas import schema_of
from trace_dagster.errors import DataMismatch

__all__ = ["Columns", "amounts", "kept", "passing", "struct_columns", "table_of"]

Columns = dict[str, pa.Array]


def struct_columns(rows: pa.StructArray) -> Columns:
    """Return the columns of structs by name."""
    return {field.name: rows.field(at) for at, field in enumerate(rows.type)}


def table_of(dataset: str, columns: Mapping[str, pa.Array], count: int, chain_id: int) -> pa.Table:
    """Return a table with the dataset's schema; a column that is not given is null.

    Raises:
        DataMismatch: a value does not fit its column's type.
    """
    arrays = []
    schema = schema_of(dataset) or pa.schema([])
    for field in schema:
        if field.name == "chain_id":
            arrays.append(pa.repeat(pa.scalar(chain_id, field.type), count))
        elif field.name not in columns:
            arrays.append(pa.nulls(count, field.type))
        else:
            arrays.append(_cast(dataset, field, columns[field.name]))
    return pa.Table.from_arrays(arrays, schema=schema)


def _cast(dataset: str, field: pa.Field, column: pa.Array) -> pa.Array:
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except pa.ArrowInvalid:
        largest = pc.max(column).as_py()
        raise DataMismatch(
            f"{dataset}: {field.name} {largest} does not fit the column's type, {field.type}"
        ) from None


def amounts(stem: str, numbers: Sequence[int | None]) -> Columns:
    """Return the three columns of numbers of up to 256 bits."""
    return {
        f"{stem}_binary": pa.array(
            [None if one is None else one.to_bytes(32, "big") for one in numbers], pa.large_binary()
        ),
        f"{stem}_string": pa.array([None if one is None else str(one) for one in numbers], pa.large_string()),
        f"{stem}_f64": pa.array([None if one is None else float(one) for one in numbers], pa.float64()),
    }


def passing(
    columns: Mapping[str, pa.Array], filters: Mapping[str, tuple[str, ...]], names: Mapping[str, str]
) -> pa.Array | None:
    """Return which rows pass all the filters; None where there is no filter.

    Args:
        columns: of the rows.
        filters: for each filter, the values that pass, as 0x hex.
        names: the column that each filter looks at.
    """
    found = None
    for name, texts in filters.items():
        values = [bytes.fromhex(text.removeprefix("0x")) for text in texts]
        passes = pc.is_in(columns[names[name]], value_set=pa.array(values, pa.large_binary()))
        found = passes if found is None else pc.and_(found, passes)
    return found


def kept(table: pa.Table, filters: Mapping[str, tuple[str, ...]], names: Mapping[str, str]) -> pa.Table:
    """Return the rows of ``table`` that pass the filters; as for ``passing``."""
    mask = passing({name: table.column(name) for name in set(names.values())}, filters, names)
    return table if mask is None else table.filter(mask)
