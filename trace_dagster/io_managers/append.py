"""Rows into hot tables of Postgres: appended by unique key, or in the place of those of a block range."""

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
import pyarrow as pa
from psycopg import sql

from trace_dagster import metadata
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import ConfigurationError
from trace_dagster.hot_tables import (
    HotTable,
    append_rows,
    delete_all,
    delete_blocks,
    ensure_table,
    normalised,
    read_rows,
)
from trace_dagster.ledger import Ledger

if TYPE_CHECKING:
    import polars as pl

__all__ = ["AppendIOManager", "arrow_of", "check_inside"]

_LEASE_SECONDS: Final = 60.0
_STRATEGIES: Final = ("append", "replace")


class AppendIOManager(dg.IOManager):
    """Tables in Postgres, made from the rows' Arrow schema and widened by themselves.

    As a Dagster IO manager (``trace_postgres``) it takes a pyarrow Table or RecordBatch, or a polars
    DataFrame or LazyFrame, and gives the rows back as a polars LazyFrame. Asset ``[schema, *names]`` is the
    table ``schema.names_joined``. The asset's metadata may say ``trace/update_strategy``, ``append`` unless
    it does, and ``trace/unique_key``, which ``append`` needs. Partitions of what is replaced are ranges.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def write(
        self,
        task_key: str,
        *,
        run_id: str,
        table: HotTable,
        rows: pa.Table,
        strategy: str,
        scope: BlockRange | None = None,
    ) -> int:
        """Write rows in one transaction, fenced by a lease on ``task_key``; return how many were new.

        Args:
            task_key: what to hold: two that write the same rows wait for each other.
            run_id: for the ledger.
            table: where to; made where it is missing.
            rows: of the table's columns.
            strategy: ``append`` or ``replace``.
            scope: the blocks that ``replace`` swaps; None for all rows of the table.

        Raises:
            ConfigurationError: the table has another shape, or ``replace`` with rows outside of ``scope``.
            DataMismatch: ``append``, and a row is there with the same key and other content; names both.
            LedgerUnavailable: Postgres cannot be reached, or refuses.
        """
        if strategy == "replace" and scope is not None:
            check_inside(table, rows, scope)
        lease = self._ledger.attempt(
            task_key,
            run_id=run_id,
            lease_seconds=_LEASE_SECONDS,
            wait_until=time.monotonic() + 2 * _LEASE_SECONDS,
        )
        with lease as attempt:
            with self._ledger.connection() as connection:
                ensure_table(connection, table)
            with attempt.fenced() as fence:
                if strategy == "replace" and scope is not None:
                    delete_blocks(fence.connection, table, *scope)
                elif strategy == "replace":
                    delete_all(fence.connection, table)
                return append_rows(fence.connection, table, rows)

    def read(self, schema: str, name: str, blocks: BlockRange, where: Mapping[str, Any]) -> pa.Table:
        """Return rows of a table; see ``hot_tables.read_rows``.

        Raises:
            ConfigurationError: there is no such table, or ``where`` does not fit it.
            LedgerUnavailable: Postgres cannot be reached, or refuses.
        """
        with self._ledger.connection() as connection:
            return read_rows(connection, schema, name, blocks, where)

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Write what an asset returned; None for nothing.

        Raises:
            ConfigurationError: it returned no table, or its metadata does not say how to write it.
            TraceError: see ``write``.
        """
        if obj is None:
            return
        name = context.asset_key.to_user_string()
        rows = arrow_of(name, obj)
        facts = context.definition_metadata or {}
        strategy = str(facts.get(metadata.UPDATE_STRATEGY, "append"))
        key = _unique_key(facts)
        if strategy not in _STRATEGIES:
            raise ConfigurationError(
                f"{name} has {metadata.UPDATE_STRATEGY} {strategy!r} in its metadata; write append or replace"
            )
        if strategy == "append" and not key:
            raise ConfigurationError(
                f"{name} is appended to, but its metadata has no {metadata.UNIQUE_KEY}; name the columns "
                "that tell its rows apart"
            )
        scope, partition = None, ""
        if context.has_asset_partitions:
            keys = context.asset_partition_keys
            partition = keys[0] if len(keys) == 1 else f"{keys[0]}...{keys[-1]}"
            scope = _joined(name, keys) if strategy == "replace" else None
        table = _table_of(context.asset_key, rows.schema, key)
        added = self.write(
            "/".join((*context.asset_key.path, partition)),
            run_id=context.run_id,
            table=table,
            rows=rows,
            strategy=strategy,
            scope=scope,
        )
        context.add_output_metadata({metadata.TABLE: table.shown, metadata.ROWS_ADDED: added})

    def load_input(self, context: dg.InputContext) -> "pl.LazyFrame":
        """Return the rows of the partitions asked for, by block; of the whole table without partitions.

        Raises:
            ConfigurationError: a partition is no block range.
            LedgerRefused: the table does not exist.
            LedgerUnavailable: Postgres cannot be reached.
        """
        import polars as pl  # noqa: PLC0415 - slow to import

        schema, name = _place_of(context.asset_key)
        statement = sql.SQL("SELECT * FROM {}").format(sql.Identifier(schema, name))
        ranges: list[BlockRange] = []
        if context.has_asset_partitions:
            ranges = [_range(context.asset_key.to_user_string(), one) for one in context.asset_partition_keys]
        if ranges:
            inside = [
                sql.SQL("block_number BETWEEN {} AND {}").format(*map(sql.Literal, one)) for one in ranges
            ]
            statement += sql.SQL(" WHERE ") + sql.SQL(" OR ").join(inside) + sql.SQL(" ORDER BY block_number")
        with self._ledger.connection() as connection:
            found = connection.execute(statement)
            names = [column.name for column in found.description or ()]
            return pl.DataFrame(found.fetchall(), schema=names, infer_schema_length=None).lazy()


def _place_of(key: dg.AssetKey) -> tuple[str, str]:
    """Return schema and table of an asset."""
    schema, *names = key.path
    if not names:
        raise ConfigurationError(
            f"asset {key.to_user_string()} has one name, and a table needs a schema too; write key_prefix"
        )
    return schema, "_".join(names)


def _table_of(key: dg.AssetKey, columns: pa.Schema, unique_key: Sequence[str]) -> HotTable:
    schema, name = _place_of(key)
    return HotTable(schema=schema, name=name, columns=columns, key=tuple(unique_key))


def _unique_key(facts: Mapping[str, Any]) -> tuple[str, ...]:
    held = facts.get(metadata.UNIQUE_KEY, ())
    held = getattr(held, "value", held)
    return (held,) if isinstance(held, str) else tuple(held)


def _range(asset: str, partition: str) -> BlockRange:
    try:
        return BlockRange.parse(partition)
    except ValueError:
        raise ConfigurationError(
            f"partition {partition!r} of {asset} is no block range such as 0_999, so its rows in Postgres "
            "are not known; use update_strategy append, or another io_manager_key"
        ) from None


def _joined(asset: str, partitions: Sequence[str]) -> BlockRange:
    """Return the blocks of a run's partitions, which touch each other."""
    ranges = sorted(_range(asset, one) for one in partitions)
    for one, following in pairwise(ranges):
        if following.start_block != one.end_block + 1:
            raise ConfigurationError(
                f"one run is to replace blocks {one.key} and {following.key} of {asset}, which do not touch; "
                "write a backfill policy of one partition a run"
            )
    return BlockRange(ranges[0].start_block, ranges[-1].end_block)


def arrow_of(asset: str, obj: object) -> pa.Table:
    """Return a table of whatever kind as hot tables take it.

    Raises:
        ConfigurationError: it is none; names the asset.
    """
    import polars as pl  # noqa: PLC0415 - slow to import

    if isinstance(obj, pa.Table):
        return normalised(obj)
    if isinstance(obj, pa.RecordBatch):
        return normalised(pa.Table.from_batches([obj]))
    if isinstance(obj, pl.LazyFrame):
        obj = obj.collect()
    if isinstance(obj, pl.DataFrame):
        return normalised(obj.to_arrow())
    raise ConfigurationError(
        f"{asset} returned {type(obj).__name__}; return a pyarrow Table or a polars DataFrame, or give the "
        "asset another io_manager_key"
    )


def check_inside(table: HotTable, rows: pa.Table, scope: BlockRange) -> None:
    """Do nothing where every row is of a block of ``scope``.

    Raises:
        ConfigurationError: one is not, or the rows have no ``block_number``.
    """
    if "block_number" not in rows.schema.names:
        raise ConfigurationError(
            f"{table.shown} is written by block range, but its rows have no block_number; add that column, "
            "or write append"
        )
    kind = rows.schema.field("block_number").type
    if not pa.types.is_integer(kind):
        raise ConfigurationError(
            f"block_number of {table.shown} came as {kind}; it is a number, so make it an integer"
        )
    outside = [
        one
        for one in set(rows.column("block_number").to_pylist())
        if one is None or not scope.start_block <= one <= scope.end_block
    ]
    if outside:
        raise ConfigurationError(
            f"rows of block {outside[0]} came for blocks {scope.key} of {table.shown}; nothing was written"
        )
