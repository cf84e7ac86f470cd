"""What the operator of a ``PerUpdate`` job returned: checked, and written in the place of what was there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pyarrow as pa

from trace_dagster import metadata
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import ConfigurationError
from trace_dagster.hot_tables import HotTable, append_rows, delete_blocks, ensure_table, table_exists
from trace_dagster.io_managers.append import arrow_of, check_inside
from trace_dagster.operators.base import OutputResult
from trace_dagster.spec.naming import table_name
from trace_dagster.spec.resolve import ResolvedJob

__all__ = ["UpdatedRows", "tables_of"]

Connection = psycopg.Connection[dict[str, Any]]


@dataclass(frozen=True)
class UpdatedRows:
    """The outputs of one step.

    Attributes:
        results: one for each output of the job, in its order; ``rows`` are an Arrow table or None.
        tables: of those that have rows, by output, shaped as the rows are.
        named: the table of every output, without its columns.
        is_replacing: whether ``update_strategy`` is ``replace``.
    """

    results: tuple[OutputResult, ...]
    tables: Mapping[str, HotTable]
    named: Mapping[str, HotTable]
    is_replacing: bool

    @classmethod
    def of(cls, dag: str, job: ResolvedJob, returned: object, blocks: BlockRange) -> "UpdatedRows":
        """Check what an operator returned.

        Raises:
            ConfigurationError: not each of the job's outputs once, or rows that are no table, or of other
                blocks, or without ``block_number``.
        """
        results = tuple(_each_once(f"{dag}/{job.name}", job, returned))
        results = tuple(one if _has_columns(job, one) else replace(one, rows=None) for one in results)
        tables = {one.output: _table(dag, job, one) for one in results if one.rows is not None}
        for one in results:
            if one.rows is not None:
                check_inside(tables[one.output], one.rows, blocks)
        return cls(results, tables, tables_of(dag, job), job.spec.update_strategy == "replace")

    def ensure_tables(self, connection: Connection) -> None:
        """Make or widen the tables; see ``hot_tables.ensure_table``."""
        for table in self.tables.values():
            ensure_table(connection, table)

    def write(
        self, connection: Connection, blocks: BlockRange, stale: BlockRange | None
    ) -> list[OutputResult]:
        """Write the rows in the caller's transaction, after those of ``stale`` and all behind them are gone.

        Returns:
            the results without rows, and with what was done in their metadata.
        """
        told = []
        for result in self.results:
            table = self.tables.get(result.output)
            gone = 0
            if stale is not None and table_exists(connection, self.named[result.output]):
                gone = delete_blocks(connection, self.named[result.output], stale.start_block)
            facts: dict[str, int | str] = {metadata.ROWS_REMOVED: gone} if gone else {}
            if table is not None and result.rows is not None:
                if stale is None and self.is_replacing:
                    delete_blocks(connection, table, blocks.start_block)
                facts[metadata.TABLE] = table.shown
                facts[metadata.ROWS] = result.rows.num_rows
                facts[metadata.ROWS_ADDED] = append_rows(connection, table, result.rows)
            told.append(replace(result, rows=None, metadata={**result.metadata, **facts}))
        return told


def tables_of(dag: str, job: ResolvedJob) -> Mapping[str, HotTable]:
    """Return the table of each output of a job, without its columns."""
    return {
        output.name: HotTable(dag, table_name(job.name, output.name), pa.schema([]), ())
        for output in job.outputs
    }


def _each_once(shown: str, job: ResolvedJob, returned: object) -> Iterator[OutputResult]:
    if not isinstance(returned, Sequence) or not all(isinstance(one, OutputResult) for one in returned):
        raise ConfigurationError(
            f"operator {job.operator.name} of {shown} returned no list of OutputResult; correct its run()"
        )
    due = [output.name for output in job.outputs]
    came = [one.output for one in returned]
    if sorted(came) != sorted(due):
        raise ConfigurationError(
            f"operator {job.operator.name} of {shown} returned the outputs {', '.join(came) or 'none'} "
            f"instead of {', '.join(due)}, once each; return an OutputResult for every one, with an empty "
            "table where there is no row"
        )
    for output in due:
        one = returned[came.index(output)]
        yield one if one.rows is None else replace(one, rows=arrow_of(f"{shown}/{output}", one.rows))


def _key(job: ResolvedJob, output: str) -> Sequence[str]:
    key = job.spec.unique_key or job.operator.default_unique_key
    return key.get(output, ()) if isinstance(key, Mapping) else key


def _has_columns(job: ResolvedJob, result: OutputResult) -> bool:
    """Whether there are rows, or at least what a table can be made of: no row has no type either."""
    if result.rows is None or result.rows.num_rows:
        return result.rows is not None
    return {"block_number", *_key(job, result.output)} <= set(result.rows.schema.names)


def _table(dag: str, job: ResolvedJob, result: OutputResult) -> HotTable:
    key = _key(job, result.output)
    columns = result.rows.schema if result.rows is not None else pa.schema([])
    return HotTable(dag, table_name(job.name, result.output), columns, tuple(key))
