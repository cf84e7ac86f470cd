"""Hot tables in Postgres: made from Arrow schemas, appended to by unique key. Everything public is here."""

from trace_dagster.hot_tables.arrow import normalised
from trace_dagster.hot_tables.reading import read_rows
from trace_dagster.hot_tables.rows import append_rows, delete_all, delete_blocks
from trace_dagster.hot_tables.tables import HotTable, ensure_table, has_block, has_rows, table_exists

__all__ = [
    "HotTable",
    "append_rows",
    "delete_all",
    "delete_blocks",
    "ensure_table",
    "has_block",
    "has_rows",
    "normalised",
    "read_rows",
    "table_exists",
]
