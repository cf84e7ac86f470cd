"""Rows of Arrow tables into hot tables: once each by unique key, and never two contents under one key."""

import json
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
from psycopg import sql

from trace_dagster.errors import DataMismatch
from trace_dagster.hot_tables.tables import Connection, HotTable, column_types

__all__ = ["append_rows", "delete_blocks"]

_CHUNK_ROWS: Final = 20_000
_LONGEST_SHOWN: Final = 400


def append_rows(connection: Connection, table: HotTable, rows: pa.Table) -> int:
    """Insert rows that are not there yet, inside of the caller's transaction; return how many were new.

    Args:
        connection: in a transaction.
        table: it exists.
        rows: of the table's columns.

    Raises:
        DataMismatch: a row is there with the same key and other content, or comes twice; names both.
    """
    if not rows.num_rows:
        return 0
    incoming = sql.Identifier(f"incoming_{abs(hash((table.shown, str(table.columns)))):x}")
    connection.execute(
        sql.SQL("CREATE TEMPORARY TABLE IF NOT EXISTS {} (LIKE {}) ON COMMIT DELETE ROWS").format(
            incoming, table.identifier
        )
    )
    connection.execute(sql.SQL("TRUNCATE {}").format(incoming))
    names = sql.SQL(", ").join(map(sql.Identifier, table.columns.names))
    with connection.cursor() as cursor:
        with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(incoming, names)) as copy:
            for chunk in rows.to_batches(max_chunksize=_CHUNK_ROWS):
                copy.write(_csv(pa.Table.from_batches([chunk]), column_types(table.columns)))
        cursor.execute(
            sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT DO NOTHING").format(
                table.identifier, names, names, incoming
            )
        )
        added = cursor.rowcount
    if added < rows.num_rows:
        _check_same(connection, table, incoming)
    return added


def delete_blocks(
    connection: Connection, table: HotTable, start_block: int, end_block: int | None = None
) -> int:
    """Delete the rows of some blocks, both ends inclusive, inside of the caller's transaction.

    Args:
        connection: in a transaction.
        table: it exists.
        start_block: the first block.
        end_block: the last block; None for all behind the first.

    Returns:
        how many rows were deleted.
    """
    statement = sql.SQL("DELETE FROM {} WHERE block_number >= %(start)s").format(table.identifier)
    if end_block is not None:
        statement += sql.SQL(" AND block_number <= %(end)s")
    return connection.execute(statement, {"start": start_block, "end": end_block}).rowcount


def _check_same(connection: Connection, table: HotTable, incoming: sql.Identifier) -> None:
    """Raise where a row that came differs from the one that is there."""
    together = sql.SQL(" AND ").join(
        sql.SQL("held.{0} IS NOT DISTINCT FROM came.{0}").format(sql.Identifier(name)) for name in table.key
    )
    differs = sql.SQL(" OR ").join(
        sql.SQL("held.{0} IS DISTINCT FROM came.{0}").format(sql.Identifier(name))
        for name in table.columns.names
        if name not in table.key
    )
    statement = sql.SQL(
        "SELECT to_jsonb(held) AS held, to_jsonb(came) AS came "
        "FROM {} AS came JOIN {} AS held ON {} WHERE {} LIMIT 1"
    ).format(incoming, table.identifier, together, differs)
    found = connection.execute(statement).fetchone() if len(table.key) < len(table.columns) else None
    if found is not None:
        held, came = found["held"], found["came"]
        key = ", ".join(f"{name} {came[name]}" for name in table.key)
        names = [name for name in table.columns.names if held[name] != came[name]]
        raise DataMismatch(
            f"{table.shown} has another row with the same unique_key ({key}): it holds "
            f"{_shown(held, names)}, and now came {_shown(came, names)}; nothing was written"
        )


def _shown(row: Mapping[str, Any], names: list[str]) -> str:
    text = json.dumps({name: row[name] for name in names})
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _csv(rows: pa.Table, types: Mapping[str, str]) -> bytes:
    """Return rows as COPY takes them: null is an empty field, an empty text is a quoted one."""
    import polars as pl  # noqa: PLC0415 - slow to import, and only followers write here

    columns: dict[str, Any] = {}
    for name, kind in types.items():
        column = rows.column(name)
        if kind == "jsonb":
            texts = [None if one is None else json.dumps(one, default=_hex) for one in column.to_pylist()]
            columns[name] = pl.Series(texts, dtype=pl.String)
        elif kind == "bytea":
            held = pl.from_arrow(column)
            columns[name] = pl.select(pl.lit("\\x") + pl.lit(held).bin.encode("hex")).to_series()
        else:
            columns[name] = pl.from_arrow(column)
    text: str = pl.DataFrame(columns).write_csv(include_header=False, quote_style="non_numeric")
    return text.encode()


def _hex(value: object) -> str:
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    raise TypeError(f"{type(value).__name__} in a row")
