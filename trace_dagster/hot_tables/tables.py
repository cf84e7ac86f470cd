"""Tables made from Arrow schemas: made where they are missing, widened where they lack a column."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import pyarrow as pa
from psycopg import sql

from trace_dagster.errors import ConfigurationError

__all__ = [
    "HotTable",
    "column_types",
    "ensure_table",
    "has_block",
    "has_rows",
    "stored_types",
    "table_exists",
]

Connection = psycopg.Connection[dict[str, Any]]

_LONGEST_NAME: Final = 63
_ADVISORY_LOCK: Final = 6_120_943_775_201_338_014  # any number that only this project uses
_BLOCK: Final = "block_number"
_NULLS_NOT_DISTINCT_SINCE: Final = 150_000
_SYSTEM_COLUMNS: Final = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")
_TAKEN_SCHEMAS: Final = ("trace", "information_schema")

_COLUMNS: Final = """
SELECT attribute.attname AS name, format_type(attribute.atttypid, attribute.atttypmod) AS type
FROM pg_attribute AS attribute
WHERE attribute.attrelid = to_regclass(%(table)s) AND attribute.attnum > 0 AND NOT attribute.attisdropped
ORDER BY attribute.attnum
"""
_UNIQUE: Final = """
SELECT array_agg(attribute.attname::text ORDER BY place.at) AS columns
FROM pg_index AS one
CROSS JOIN LATERAL unnest(one.indkey) WITH ORDINALITY AS place (number, at)
JOIN pg_attribute AS attribute ON attribute.attrelid = one.indrelid AND attribute.attnum = place.number
WHERE one.indrelid = %(table)s::regclass AND one.indisunique AND one.indpred IS NULL AND one.indisvalid
GROUP BY one.indexrelid
"""


@dataclass(frozen=True)
class HotTable:
    """One table.

    Attributes:
        schema: the Postgres schema: the DAG's name.
        name: ``{job}_{output}``.
        columns: Arrow schema of its rows.
        key: the columns of its unique index; none where rows are only replaced, and not appended.
        view: name of a view of its rows, made with it; None for none.
    """

    schema: str
    name: str
    columns: pa.Schema
    key: tuple[str, ...]
    view: str | None = None

    def __post_init__(self) -> None:
        if self.schema in _TAKEN_SCHEMAS or self.schema.startswith("pg_"):
            raise ConfigurationError(
                f"the Postgres schema {self.schema} is not for hot tables; give the DAG another name"
            )
        longest = max(self.name, self.view or "", key=len)
        if len(longest.encode()) > _LONGEST_NAME:
            raise ConfigurationError(
                f"the table or view {self.schema}.{longest} has a name of {len(longest.encode())} bytes, and "
                f"Postgres has at most {_LONGEST_NAME}; give the job a shorter name"
            )
        names = self.columns.names
        odd = [one for one in names if not 0 < len(one.encode()) <= _LONGEST_NAME or one in _SYSTEM_COLUMNS]
        odd += [one for one in names if names.count(one) > 1]
        if odd:
            raise ConfigurationError(
                f"{self.schema}.{self.name} cannot have the column {odd[0]!r}: names are of 1 to "
                f"{_LONGEST_NAME} bytes, once each, and none of {', '.join(_SYSTEM_COLUMNS)}; rename it"
            )
        missing = [name for name in self.key if name not in self.columns.names]
        if missing:
            raise ConfigurationError(
                f"unique_key of {self.schema}.{self.name} names {', '.join(missing)}, which the table does "
                "not have; correct unique_key"
            )

    @property
    def identifier(self) -> sql.Identifier:
        """The name in statements."""
        return sql.Identifier(self.schema, self.name)

    @property
    def shown(self) -> str:
        """The name in messages."""
        return f"{self.schema}.{self.name}"


def column_types(columns: pa.Schema) -> Mapping[str, str]:
    """Return the Postgres type of each column, as Postgres itself spells it.

    Binary is ``bytea``; numbers of up to 256 bits are ``numeric`` where Parquet has their text; numbers of 64
    bits are ``numeric`` too, since ``bigint`` ends at 2^63; lists and structs are ``jsonb``.
    """
    return {field.name: _column_type(field, columns) for field in columns}


def _column_type(field: pa.Field, columns: pa.Schema) -> str:
    kind = field.type
    if field.name.endswith("_string") and f"{field.name.removesuffix('_string')}_binary" in columns.names:
        return "numeric(78,0)"
    if pa.types.is_decimal(kind):
        return f"numeric({kind.precision},{kind.scale})"
    if pa.types.is_timestamp(kind):
        return f"timestamp {'without' if kind.tz is None else 'with'} time zone"
    for matches, name in _TYPES:
        if matches(kind):
            return name
    if pa.types.is_nested(kind):
        return "jsonb"
    raise ConfigurationError(f"column {field.name} is of type {kind}, which hot tables do not hold; cast it")


_TYPES: Final = (
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_uint64, "numeric(20,0)"),
    (pa.types.is_integer, "bigint"),
    (pa.types.is_floating, "double precision"),
    (pa.types.is_date, "date"),
    (pa.types.is_large_binary, "bytea"),
    (pa.types.is_binary, "bytea"),
    (pa.types.is_large_string, "text"),
    (pa.types.is_string, "text"),
)


def ensure_table(connection: Connection, table: HotTable) -> None:
    """Make the table, or check that it is what is asked for; missing columns are added.

    In a transaction of its own; processes that do so at once wait for each other.

    Raises:
        ConfigurationError: there is such a table with another type, or without the unique index.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
        if not _exists(connection, table.identifier):
            _make(connection, table)
            is_changed = True
        else:
            is_changed = _check(connection, table)
        if table.view is not None:
            view = sql.Identifier(table.schema, table.view)
            if is_changed or not _exists(connection, view):
                statement = sql.SQL("CREATE OR REPLACE VIEW {} AS SELECT * FROM {}")
                connection.execute(statement.format(view, table.identifier))


def stored_types(connection: Connection, name: sql.Identifier) -> Mapping[str, str]:
    """Return the Postgres type of each column of a table, in its order; none where there is no table."""
    where = {"table": name.as_string(connection)}
    return {row["name"]: row["type"] for row in connection.execute(_COLUMNS, where)}


def table_exists(connection: Connection, table: HotTable) -> bool:
    """Whether there is such a table, of whatever shape."""
    return _exists(connection, table.identifier)


def has_rows(connection: Connection, table: HotTable) -> bool:
    """Whether the table, which exists, has any row."""
    found = connection.execute(
        sql.SQL("SELECT EXISTS (SELECT FROM {}) AS found").format(table.identifier)
    ).fetchone()
    return found is not None and bool(found["found"])


def has_block(connection: Connection, table: HotTable, number: int) -> bool:
    """Whether the table, which exists, has a row of a block."""
    found = connection.execute(
        sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE block_number = %s) AS found").format(table.identifier),
        [number],
    ).fetchone()
    return found is not None and bool(found["found"])


def _exists(connection: Connection, name: sql.Identifier) -> bool:
    found = connection.execute(
        "SELECT to_regclass(%s) IS NOT NULL AS exists", [name.as_string(connection)]
    ).fetchone()
    return found is not None and bool(found["exists"])


def _make(connection: Connection, table: HotTable) -> None:
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind))
        for name, kind in column_types(table.columns).items()
    )
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(table.schema)))
    connection.execute(sql.SQL("CREATE TABLE {} ({})").format(table.identifier, columns))
    # Postgres names the indexes, so that no name is too long or taken.
    key = sql.SQL(", ").join(map(sql.Identifier, table.key))
    nulls = "NULLS NOT DISTINCT" if connection.info.server_version >= _NULLS_NOT_DISTINCT_SINCE else ""
    if table.key:
        connection.execute(
            sql.SQL("CREATE UNIQUE INDEX ON {} ({}) {}").format(table.identifier, key, sql.SQL(nulls))
        )
    if _BLOCK in table.columns.names and table.key != (_BLOCK,):
        connection.execute(
            sql.SQL("CREATE INDEX ON {} ({})").format(table.identifier, sql.Identifier(_BLOCK))
        )


def _check(connection: Connection, table: HotTable) -> bool:
    """Add missing columns; return whether there were any."""
    is_changed = False
    where = {"table": table.identifier.as_string(connection)}
    present = stored_types(connection, table.identifier)
    for name, kind in column_types(table.columns).items():
        if name not in present:
            is_changed = True
            connection.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(
                    table.identifier,
                    sql.Identifier(name),
                    sql.SQL(kind),
                )
            )
        elif present[name] != kind:
            raise ConfigurationError(
                f"the table {table.shown} has {name} as {present[name]} instead of {kind}; rename or drop "
                "the table, or give the job another name"
            )
    keys = [sorted(row["columns"]) for row in connection.execute(_UNIQUE, where)]
    if table.key and sorted(table.key) not in keys:
        shown = " or ".join(", ".join(one) for one in keys) or "none"
        raise ConfigurationError(
            f"the table {table.shown} has no unique index on {', '.join(table.key)} (it has {shown}); write "
            "that as unique_key, or drop the table and follow anew"
        )
    return is_changed
