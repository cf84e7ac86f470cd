"""Rows of hot tables as Arrow tables."""

import io
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import pyarrow as pa
from psycopg import sql

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import ConfigurationError
from trace_dagster.hot_tables.tables import Connection, stored_types

__all__ = ["read_rows"]

_HEX: Final = re.compile(r"0[xX]([0-9a-fA-F]{2})*")
_WHOLE: Final = re.compile(r"-?[0-9]+", re.ASCII)
_ORDER: Final = ("block_number", "transaction_index", "log_index", "trace_address")
_TYPES: Final[Mapping[str, pa.DataType]] = {
    "bigint": pa.int64(),
    "boolean": pa.bool_(),
    "bytea": pa.large_binary(),
    "double precision": pa.float64(),
    "integer": pa.int64(),
    "numeric(20,0)": pa.uint64(),
}
"""All others come as text: numbers of 256 bits, which no Arrow integer holds, and lists, which are JSON."""


def read_rows(
    connection: Connection,
    schema: str,
    name: str,
    blocks: BlockRange,
    where: Mapping[str, Any] | None = None,
) -> pa.Table:
    """Return the rows of a block range, by block and place in it.

    Args:
        connection: to the database of the table.
        schema: the table's schema: a DAG's name.
        name: its name, ``{job}_{output}``.
        blocks: which; the table has a column ``block_number``.
        where: column to value; only rows where all are equal. Binary is written as ``0x...``.

    Raises:
        ConfigurationError: there is no such table or column.
    """
    import polars as pl  # noqa: PLC0415 - slow to import

    table = sql.Identifier(schema, name)
    types = stored_types(connection, table)
    if "block_number" not in types:
        what = "has no column block_number" if types else "does not exist yet"
        raise ConfigurationError(
            f"the table {schema}.{name} {what}, so its rows cannot be read by block; let the job that writes "
            "it begin first, or read from another one"
        )
    statement = sql.SQL("COPY (SELECT {} FROM {} WHERE {} ORDER BY {}) TO STDOUT (FORMAT csv)").format(
        sql.SQL(", ").join(_read(column, kind) for column, kind in types.items()),
        table,
        sql.SQL(" AND ").join(
            [
                sql.SQL("block_number BETWEEN {} AND {}").format(*map(sql.Literal, blocks)),
                *(
                    _equal(f"{schema}.{name}", types, column, value)
                    for column, value in (where or {}).items()
                ),
            ]
        ),
        sql.SQL(", ").join(_place(column) for column in _ORDER if column in types),
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        text = b"".join(bytes(part) for part in copy)
    arrow = pa.schema([(column, _TYPES.get(kind, pa.large_string())) for column, kind in types.items()])
    if not text:
        return arrow.empty_table()
    frame = pl.read_csv(
        io.BytesIO(text),
        has_header=False,
        schema=dict.fromkeys(types, pl.String),
    )
    return frame.with_columns(_typed(column, kind) for column, kind in types.items()).to_arrow().cast(arrow)


def _read(column: str, kind: str) -> sql.Composed:
    given = sql.Identifier(column)
    return sql.SQL("encode({}, 'hex')").format(given) if kind == "bytea" else sql.Composed([given])


def _place(column: str) -> sql.Composed:
    if column == "trace_address":  # numbers joined by _
        place = "string_to_array(nullif({}, ''), '_')::bigint[] NULLS FIRST"
        return sql.SQL(place).format(sql.Identifier(column))
    return sql.Composed([sql.Identifier(column)])


def _typed(column: str, kind: str) -> Any:
    import polars as pl  # noqa: PLC0415

    given = pl.col(column)
    match kind:
        case "bytea":
            return given.str.decode("hex")
        case "boolean":
            return given == "t"
        case "double precision":
            return given.cast(pl.Float64)
        case "numeric(20,0)":
            return given.cast(pl.UInt64)
        case "bigint" | "integer":
            return given.cast(pl.Int64)
        case _:
            return given


def _equal(shown: str, types: Mapping[str, str], column: str, value: Any) -> sql.Composed:
    if column not in types:
        raise ConfigurationError(f"where names {column}, which the table {shown} does not have; correct it")
    name = sql.Identifier(column)
    if value is None:
        return sql.SQL("{} IS NULL").format(name)
    kind = types[column].partition("(")[0]
    fits, mend = _FITTING.get(kind, (_nothing, "compare another column"))
    if not fits(value):
        raise ConfigurationError(
            f"where says {column}: {value!r}, and {column} of {shown} is {types[column]}; {mend}"
        )
    return sql.SQL("{} = {}").format(
        name, sql.Literal(bytes.fromhex(value[2:]) if kind == "bytea" else value)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    """Whether it is a whole number; those past 64 bits may be written as text."""
    if isinstance(value, str):
        return _WHOLE.fullmatch(value) is not None
    return _is_number(value) and float(value).is_integer()


def _nothing(_value: Any) -> bool:
    return False


_FITTING: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "bigint": (_is_whole, "write a whole number"),
    "boolean": (lambda value: isinstance(value, bool), "write true or false"),
    "bytea": (
        lambda value: isinstance(value, str) and _HEX.fullmatch(value) is not None,
        "write 0x and pairs of hex digits, in quotes",
    ),
    "double precision": (_is_number, "write a number"),
    "integer": (_is_whole, "write a whole number"),
    "numeric": (_is_whole, "write a whole number"),
    "text": (lambda value: isinstance(value, str), "write it in quotes"),
}
"""What a column of a type may be compared with, and what to write otherwise."""
