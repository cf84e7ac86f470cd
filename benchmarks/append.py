"""What an append costs beside a bare COPY of the same rows into a table with the same indexes.

    .venv/bin/python benchmarks/append.py

Rows are transactions of the stub engine's simulated chain, in batches as a follower commits them. The bare
COPY gets text that was made beforehand; the append makes its own, behind a savepoint.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pyarrow as pa
from psycopg import sql

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.hot_tables import HotTable, append_rows, ensure_table
from trace_dagster.hot_tables.rows import csv_of
from trace_dagster.hot_tables.tables import column_types
from trace_dagster.ledger import Ledger, open_ledger
from trace_dagster.settings import Settings
from trace_dagster.testing.simulated_chain import SimulatedChain

BATCHES, BLOCKS = 20, 100
KEY = ("chain_id", "block_hash", "transaction_index")


def main() -> None:
    """Measure both in turn, and print."""
    with (
        tempfile.TemporaryDirectory() as home,
        open_ledger(Settings.from_environment({"TRACE_HOME": home})) as ledger,
    ):
        batches = [_rows(at) for at in range(BATCHES)]
        texts = [csv_of(one, column_types(one.schema)) for one in batches]
        schema = batches[0].schema
        tables = [HotTable("bench", name, schema, KEY) for name in ("copied", "appended")]
        with ledger.connection() as connection:
            for table in tables:
                ensure_table(connection, table)
        copied, appended = tables
        copy = sql.SQL("COPY {} FROM STDIN (FORMAT csv)").format(copied.identifier)
        times: dict[str, list[float]] = {"copy": [], "append": []}
        for rows, text in zip(batches, texts, strict=True):

            def bare(connection: object, text: bytes = text) -> None:
                with connection.cursor().copy(copy) as stream:  # type: ignore[attr-defined]
                    stream.write(text)

            times["copy"].append(_seconds(ledger, bare))
            times["append"].append(_seconds(ledger, lambda c, rows=rows: append_rows(c, appended, rows)))
    counts = statistics.mean(one.num_rows for one in batches)
    medians = {name: statistics.median(one) for name, one in times.items()}
    print(f"{BATCHES} batches of about {counts:.0f} transactions, {len(schema)} columns; a batch, median:")
    for name, seconds in medians.items():
        print(f"  {name:8}{seconds * 1000:8.1f} ms {counts / seconds:9.0f} rows/s")
    print(f"  ratio   {medians['append'] / medians['copy']:8.2f}")


def _rows(at: int) -> pa.Table:
    blocks = BlockRange.of(at * BLOCKS, (at + 1) * BLOCKS - 1)
    chain = SimulatedChain(seed=1, chain_id=1)
    return chain.table("transactions", blocks)


def _seconds(ledger: Ledger, do: Callable[[object], object]) -> float:
    with ledger.connection() as connection:
        begun = time.monotonic()
        with connection.transaction():
            do(connection)
        return time.monotonic() - begun


if __name__ == "__main__":
    main()
