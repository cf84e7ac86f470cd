"""Rows into Postgres: of plain assets by the IO manager, and of any operator's outputs."""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest
from psycopg import sql

from tests.support.followers import services
from trace_dagster import metadata
from trace_dagster.errors import ConfigurationError, DataMismatch
from trace_dagster.io_managers.append import AppendIOManager
from trace_dagster.ledger import Ledger
from trace_dagster.operators.base import OutputResult, Task
from trace_dagster.operators.range_request import RangeRequest
from trace_dagster.operators.range_splitter import RangeSplitter
from trace_dagster.spec.catalog import Catalog, OperatorConfig, OutputDeclaration, RangePlan
from trace_dagster.spec.resolve import load_dags
from trace_dagster.translator.compile import compile_dags

PARTITIONS = dg.StaticPartitionsDefinition(["0_9", "10_19"])


@pytest.fixture
def schema() -> str:
    """A schema of this test's own."""
    return f"s{uuid.uuid4().hex[:12]}"


def asset_of(
    schema: str, rows: Any, *, partitions: dg.PartitionsDefinition[str] | None = None, **facts: Any
) -> dg.AssetsDefinition:
    """An asset that returns some rows."""

    @dg.asset(
        key=[schema, "prices"],
        io_manager_key="trace_postgres",
        partitions_def=partitions,
        metadata={f"trace/{name}": value for name, value in facts.items()},
    )
    def prices() -> Any:
        return rows

    return prices


def run(ledger: Ledger, *assets: dg.AssetsDefinition, **options: Any) -> dg.ExecuteInProcessResult:
    """Materialize them."""
    resources = {"trace_postgres": AppendIOManager(ledger), "mem": dg.mem_io_manager}
    return dg.materialize(list(assets), resources=resources, **options)


def held(ledger: Ledger, schema: str, table: str = "prices") -> list[dict[str, Any]]:
    """The rows of the table."""
    statement = sql.SQL("SELECT * FROM {} ORDER BY 1, 2").format(sql.Identifier(schema, table))
    with ledger.connection() as connection:
        return connection.execute(statement).fetchall()


def frame(*rows: tuple[int, int]) -> pl.DataFrame:
    """Rows of block and price."""
    return pl.DataFrame(rows, schema={"block_number": pl.Int64, "price": pl.Int64}, orient="row")


@pytest.mark.parametrize("form", ["polars", "lazy", "table", "batch"])
def test_rows_are_appended_once(ledger: Ledger, schema: str, form: str) -> None:
    """Twice is the same as once; new rows are added, whatever holds them."""
    forms = {
        "polars": lambda rows: rows,
        "lazy": lambda rows: rows.lazy(),
        "table": lambda rows: rows.to_arrow(),
        "batch": lambda rows: rows.to_arrow().combine_chunks().to_batches()[0],
    }
    for rows, new in (((1, 5),), 1), (((1, 5),), 0), (((1, 5), (2, 6)), 1):
        done = run(ledger, asset_of(schema, forms[form](frame(*rows)), unique_key=["block_number"]))
        (event,) = done.asset_materializations_for_node(f"{schema}__prices")
        assert event.metadata[metadata.ROWS_ADDED].value == new
        assert event.metadata[metadata.TABLE].value == f"{schema}.prices"
    assert held(ledger, schema) == [{"block_number": 1, "price": 5}, {"block_number": 2, "price": 6}]


def test_the_same_key_with_another_content_is_an_error(ledger: Ledger, schema: str) -> None:
    """Both rows are in it, and nothing of the batch is written."""
    run(ledger, asset_of(schema, frame((1, 5)), unique_key="block_number"))
    with pytest.raises(DataMismatch, match=r'it holds {"price": 5}, and now came {"price": 7}'):
        run(ledger, asset_of(schema, frame((0, 1), (1, 7)), unique_key="block_number"))
    assert held(ledger, schema) == [{"block_number": 1, "price": 5}]


def test_a_block_range_is_replaced_as_a_whole(ledger: Ledger, schema: str) -> None:
    """Other ranges stay; rows of other blocks are refused before anything is deleted."""
    facts = {"partitions": PARTITIONS, "update_strategy": "replace"}
    run(ledger, asset_of(schema, frame((1, 1), (2, 2)), **facts), partition_key="0_9")
    run(ledger, asset_of(schema, frame((10, 3)), **facts), partition_key="10_19")
    run(ledger, asset_of(schema, frame((2, 9)), **facts), partition_key="0_9")
    assert [row["price"] for row in held(ledger, schema)] == [9, 3]
    with pytest.raises(ConfigurationError, match="rows of block 12 came for blocks 0_9 of"):
        run(ledger, asset_of(schema, frame((1, 1), (12, 2)), **facts), partition_key="0_9")
    assert [row["price"] for row in held(ledger, schema)] == [9, 3]
    run(ledger, asset_of(schema, frame((7, 7)), update_strategy="replace"))
    assert [row["price"] for row in held(ledger, schema)] == [7]


def test_a_run_of_many_partitions_replaces_them_together(ledger: Ledger, schema: str) -> None:
    """Ranges that touch are one; an empty answer keeps its columns."""
    facts = {"partitions": PARTITIONS, "update_strategy": "replace"}
    tags = {"dagster/asset_partition_range_start": "0_9", "dagster/asset_partition_range_end": "10_19"}
    run(ledger, asset_of(schema, frame((1, 1), (12, 2)), **facts), tags=tags)
    run(ledger, asset_of(schema, frame((3, 3)), **facts), tags=tags)
    assert [row["price"] for row in held(ledger, schema)] == [3]

    @dg.asset(
        ins={"prices": dg.AssetIn(key=[schema, "prices"])}, partitions_def=PARTITIONS, io_manager_key="mem"
    )
    def columns(prices: pl.LazyFrame) -> list[str]:
        return prices.collect_schema().names()

    upstream = asset_of(schema, frame(), **facts)
    done = run(ledger, upstream, columns, selection=[columns], partition_key="10_19")
    assert done.output_for_node("columns") == ["block_number", "price"]


def test_rows_are_loaded_by_range(ledger: Ledger, schema: str) -> None:
    """Downstream assets get a LazyFrame of the partitions that they ask for."""
    facts = {"partitions": PARTITIONS, "update_strategy": "replace"}
    prices = asset_of(schema, frame((1, 1), (2, 2)), **facts)
    run(ledger, prices, partition_key="0_9")
    run(ledger, asset_of(schema, frame((10, 3)), **facts), partition_key="10_19")

    @dg.asset(
        ins={"prices": dg.AssetIn(key=[schema, "prices"])}, partitions_def=PARTITIONS, io_manager_key="mem"
    )
    def summed(prices: pl.LazyFrame) -> int:
        return int(prices.select(pl.col("price").sum()).collect().item())

    done = run(ledger, prices, summed, selection=[summed], partition_key="0_9")
    assert done.output_for_node("summed") == 3


@pytest.mark.parametrize(
    ("rows", "facts", "said"),
    [
        (frame((1, 1)), {}, "is appended to, but its metadata has no trace/unique_key"),
        (frame((1, 1)), {"unique_key": ["block"]}, r"names block, which the table does not have"),
        (frame((1, 1)), {"update_strategy": "merge"}, "'merge' in its metadata; write append or replace"),
        (
            [1],
            {"unique_key": ["block_number"]},
            "returned list; return a pyarrow Table or a polars DataFrame",
        ),
    ],
)
def test_what_cannot_be_written_is_told(
    ledger: Ledger, schema: str, rows: Any, facts: dict[str, Any], said: str
) -> None:
    """With what is wrong and what to write, and no table is made."""
    with pytest.raises(ConfigurationError, match=said):
        run(ledger, asset_of(schema, rows, **facts))
    with ledger.connection() as connection:
        found = connection.execute("SELECT to_regclass(%s) AS made", [f"{schema}.prices"]).fetchone()
        assert found == {"made": None}


def test_another_shape_is_refused(ledger: Ledger, schema: str) -> None:
    """A column of another type, or another key, is named; a new column is added."""
    run(ledger, asset_of(schema, frame((1, 5)), unique_key="block_number"))
    rows = frame((2, 5)).with_columns(pl.col("price").cast(pl.String))
    with pytest.raises(ConfigurationError, match="has price as bigint instead of text"):
        run(ledger, asset_of(schema, rows, unique_key="block_number"))
    with pytest.raises(ConfigurationError, match=r"has no unique index on price \(it has block_number\)"):
        run(ledger, asset_of(schema, frame((2, 5)), unique_key="price"))
    rows = frame((2, 5)).with_columns(source=pl.lit("a"))
    run(ledger, asset_of(schema, rows, unique_key="block_number"))
    assert [row["source"] for row in held(ledger, schema)] == [None, "a"]


class PricesConfig(OperatorConfig):
    """Nothing to say."""


class Prices:
    """An operator of somebody's, that returns rows."""

    name = "prices"
    description = "Prices by block."
    config_model = PricesConfig
    activations = frozenset({"reactive"})
    source_kinds: frozenset[str] = frozenset()
    update_strategies = frozenset({"append", "replace"})
    default_unique_key = ("block_number",)
    subsettable = False
    runnable = True
    price = 1

    def outputs(self, config: PricesConfig) -> Sequence[OutputDeclaration]:
        """One."""
        return (OutputDeclaration("prices", "Prices.", columns=("block_number", "price")),)

    def plan_ranges(self, job: str, config: PricesConfig, upstream: RangePlan | None) -> RangePlan | None:
        """Its input's."""
        return upstream

    def estimate_rpc_requests(self, config: PricesConfig, blocks: int) -> None:
        """None."""

    def run(self, task: Task, services: Any, progress: Any) -> Sequence[OutputResult]:
        """Return a price for each block."""
        blocks = range(task.partition.start_block, task.partition.end_block + 1)
        rows = pa.table({"block_number": list(blocks), "price": [self.price] * len(blocks)})
        return [OutputResult("prices", "1", rows=rows)]


DAG = """\
name: {name}
jobs:
  - name: ask
    activation: source
    runtime: dispatcher
    operator: range_request
    source: {{ kind: manual }}
    config: {{ start_block: 0, end_block: 19 }}
    outputs: 1
  - name: split
    activation: reactive
    runtime: dispatcher
    operator: range_splitter
    execution_strategy: PerPartition
    inputs: [ {{ from: {{ job: ask, output: 0 }} }} ]
    config: {{ chunk_size: 10 }}
    outputs: 1
  - name: feed
    activation: reactive
    runtime: dispatcher
    operator: prices
    execution_strategy: PerPartition
    inputs: [ {{ from: {{ job: split, output: 0 }} }} ]
    outputs: 1
    update_strategy: {strategy}
"""


@pytest.mark.parametrize("strategy", ["append", "replace"])
def test_rows_of_any_operator(
    ledger: Ledger, schema: str, tmp_path: Path, trace_home: Path, strategy: str
) -> None:
    """What an operator returns is written as the job's update_strategy says; again is the same as once."""
    key = "\n    unique_key: [block_number]\n" if strategy == "append" else "\n"
    (tmp_path / "dag.yaml").write_text(DAG.format(name=schema, strategy=strategy).rstrip() + key)
    operators = {one.name: one for one in (RangeRequest(), RangeSplitter(), Prices())}
    with services(trace_home, "http://127.0.0.1:9") as opened:
        definitions = compile_dags(
            loaded=load_dags(tmp_path, Catalog(operators=operators)),
            operators=operators,
            settings=opened.settings,
            environment=opened.environment,
            translator=None,
        )
        job = definitions.resolve_implicit_global_asset_job_def()
        with dg.DagsterInstance.ephemeral() as instance:

            def materialize(partition: str) -> dg.ExecuteInProcessResult:
                return job.execute_in_process(
                    partition_key=partition,
                    asset_selection=[dg.AssetKey([schema, "feed", "prices"])],
                    instance=instance,
                    raise_on_error=False,
                )

            for partition in ("0_9", "10_19", "0_9"):
                assert materialize(partition).success
            assert [row["price"] for row in held(ledger, schema, "feed_prices")] == [1] * 20
            operators["prices"].price = 2  # type: ignore[union-attr]
            done = materialize("0_9")
            assert done.success == (strategy == "replace")
    expected = [2] * 10 + [1] * 10 if strategy == "replace" else [1] * 20
    assert [row["price"] for row in held(ledger, schema, "feed_prices")] == expected
