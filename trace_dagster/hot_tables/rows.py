"""Rows of Arrow tables into hot tables: once each by unique key, and never two contents under one key."""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
from psycopg import sql
from psycopg.errors import UniqueViolation

from trace_dagster.errors import ConfigurationError, DataMismatch
from trace_dagster.hot_tables.tables import Connection, HotTable, column_types

__all__ = ["append_rows", "csv_of", "delete_all", "delete_blocks"]

_CHUNK_ROWS: Final = 20_000
_LONGEST_SHOWN: Final = 400
_NUL_SHOWN: Final = "\u2400"
"""Stands for the one character that Postgres' texts cannot hold."""


def append_rows(connection: Connection, table: HotTable, rows: pa.Table) -> int:
    """Insert rows that are not there yet, inside of the caller's transaction; return how many were new.

    Rows are copied straight into the table; only where a key is there already are they compared, one by one.

    Args:
        connection: in a transaction.
        table: it exists.
        rows: of the table's columns.

    Raises:
        DataMismatch: a row is there with the same key and other content, or comes twice; names both.
    """
    if not rows.num_rows:
        return 0
    try:
        with connection.transaction():  # a savepoint
            _copy(connection, table.identifier, table, rows)
    except UniqueViolation:
        pass
    else:
        return int(rows.num_rows)
    try:
        return _append_new(connection, table, rows)
    except UniqueViolation as error:
        raise ConfigurationError(
            f"{table.shown} has the unique index {error.diag.constraint_name} beside that on "
            f"{', '.join(table.key)}, and it keeps rows out that belong there; drop it. Nothing was written"
        ) from None


def _copy(connection: Connection, into: sql.Identifier, table: HotTable, rows: pa.Table) -> None:
    types = column_types(table.columns)
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(into, _names(table))
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for chunk in rows.to_batches(max_chunksize=_CHUNK_ROWS):
            copy.write(csv_of(pa.Table.from_batches([chunk]), types))


def _append_new(connection: Connection, table: HotTable, rows: pa.Table) -> int:
    """Insert the rows whose key is not there, and compare the others."""
    incoming = sql.Identifier("pg_temp", "incoming")
    connection.execute(
        sql.SQL("CREATE TEMPORARY TABLE incoming (LIKE {}) ON COMMIT DROP").format(table.identifier)
    )
    _copy(connection, incoming, table, rows)
    _check_once(connection, table, incoming)
    added = connection.execute(
        sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT ({}) DO NOTHING").format(
            table.identifier, _names(table), _names(table), incoming, _key(table)
        )
    ).rowcount
    _check_same(connection, table, incoming)
    connection.execute(sql.SQL("DROP TABLE {}").format(incoming))
    return added


def _names(table: HotTable) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, table.columns.names))


def _key(table: HotTable) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, table.key))


def _check_once(connection: Connection, table: HotTable, incoming: sql.Identifier) -> None:
    """Raise where two of the rows that came have one key, be they equal or not."""
    found = connection.execute(
        sql.SQL(
            "SELECT to_jsonb(one) AS came FROM "
            "(SELECT {} FROM {} GROUP BY {} HAVING count(*) > 1 LIMIT 1) AS one"
        ).format(_key(table), incoming, _key(table))
    ).fetchone()
    if found is not None:
        key = ", ".join(f"{name} {found['came'][name]}" for name in table.key)
        raise DataMismatch(
            f"{table.shown}: two rows came with the same unique_key ({key}); nothing was written"
        )


def delete_all(connection: Connection, table: HotTable) -> int:
    """Delete every row, inside of the caller's transaction; return how many there were."""
    return connection.execute(sql.SQL("DELETE FROM {}").format(table.identifier)).rowcount


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


def csv_of(rows: pa.Table, types: Mapping[str, str]) -> bytes:
    """Return rows as COPY takes them: null is an empty field, an empty text is a quoted one."""
    import polars as pl  # noqa: PLC0415 - slow to import, and only followers write here

    for name, kind in types.items():
        if kind == "jsonb":
            texts = [
                None if one is None else json.dumps(_finite(one), default=_hex).replace("\\u0000", _NUL_SHOWN)
                for one in rows.column(name).to_pylist()
            ]
            at = rows.schema.get_field_index(name)
            rows = rows.set_column(at, name, pa.array(texts, pa.large_string()))
    binary = [name for name, kind in types.items() if kind == "bytea"]
    frame = pl.DataFrame(pl.from_arrow(rows))
    frame = frame.with_columns(
        pl.col(name).str.replace_all("\0", _NUL_SHOWN, literal=True)
        for name, kind in types.items()
        if kind == "text"
    )
    frame = frame.with_columns(
        (pl.lit("\\x") + pl.col(name).bin.encode("hex")).alias(name) for name in binary
    )
    text: str = frame.write_csv(include_header=False, quote_style="non_numeric")
    return text.encode()


def _finite(value: Any) -> Any:
    """Return a value in which numbers that JSON does not have are null."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case list():
            return [_finite(one) for one in value]
        case dict():
            return {key: _finite(one) for key, one in value.items()}
        case _:
            return value


def _hex(value: object) -> str:
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    raise ConfigurationError(
        f"a list or struct has a {type(value).__name__} in it, which JSON has not; cast it"
    )
