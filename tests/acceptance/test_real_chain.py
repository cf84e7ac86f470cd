"""From YAML through ``dagster asset materialize`` and a real engine to Parquet, compared with the node."""

from collections.abc import Callable, Collection

import polars as pl
import pytest

from tests.acceptance.conftest import Node
from tests.support.dags import CHAIN_ID, ingest_dag
from tests.support.project import Project
from tests.support.small_chain import node_rows
from trace_dagster.store import open_store, scan_polars

LAST_BLOCK = 59
DATASETS = ("blocks", "transactions", "logs")


@pytest.fixture(scope="module", params=["cryo", "native"])
def ingested(node: Node, new_project: Callable[[str], Project], request: pytest.FixtureRequest) -> Project:
    """Return a project whose three datasets are materialized over the whole chain, in four partitions."""
    project = new_project(f"real-{request.param}")
    project.settings["TRACE_RPC_POOL_TEST_URL"] = node.anvil.url
    project.write("real.yaml", ingest_dag("real", end_block=LAST_BLOCK, chunk_size=15, engine=request.param))
    project.materialize('key:"real/ingest/*"', partition_range="0_14...45_59")
    return project


def rows(project: Project, dataset: str) -> list[dict[str, object]]:
    """Return the committed rows, as the shipped reader gives them."""
    store = open_store(project.store.as_uri(), {})
    return scan_polars(store, CHAIN_ID, dataset, 0, LAST_BLOCK).collect().to_dicts()


def comparable(row: dict[str, object], columns: Collection[str], *, by_cryo: bool) -> dict[str, object]:
    """Return the cells to compare: of blob and delegating transactions Cryo cannot tell the encoded size.

    The node gives blob transactions with their blobs, which no block holds.
    """
    unequal = (3, 4) if by_cryo else (3,)
    newer = row.get("transaction_type") in unequal
    return {name: row[name] for name in columns if not (newer and name == "n_rlp_bytes")}


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_row_is_what_the_node_answers(ingested: Project, node: Node, dataset: str) -> None:
    """Every cell of every row equals the node's own answer, and no row is missing or there twice."""
    expected = node_rows(node.anvil, dataset, 0, LAST_BLOCK)
    stored = rows(ingested, dataset)
    assert set(expected[0]) <= set(stored[0])
    by_cryo = "engine: cryo" in (ingested.specs / "real.yaml").read_text()
    assert [comparable(row, expected[0], by_cryo=by_cryo) for row in stored] == [
        comparable(row, row, by_cryo=by_cryo) for row in expected
    ]


def test_the_chain_holds_what_is_hard_to_ingest(ingested: Project) -> None:
    """The rows compared hold all five types of transactions, failed ones and created contracts."""
    transactions = pl.DataFrame(rows(ingested, "transactions"))
    assert set(transactions["transaction_type"]) == {0, 1, 2, 3, 4}
    assert not transactions["success"].all()
    assert transactions["to_address"].null_count() > 0


def test_the_same_again_changes_nothing(ingested: Project) -> None:
    """A partition that is materialized twice keeps its objects, byte for byte."""
    before = ingested.objects()
    ingested.materialize('key:"real/ingest/*"', partition="15_29")
    assert ingested.objects() == before
    assert len(before) == 2 * len(DATASETS) * 4


def test_forced_work_gives_the_same_bytes(ingested: Project) -> None:
    """With ``force`` one of three outputs is extracted again, and comes out identical."""
    before = ingested.objects()
    config = {"ops": {"real__ingest": {"config": {"force": True}}}}
    ingested.materialize('key:"real/ingest/logs"', partition="30_44", config=config)
    assert ingested.objects() == before
    assert ingested.staged() == []
