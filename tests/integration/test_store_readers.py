"""Committed rows through polars, pyarrow, DuckDB and Dagster inputs."""

import uuid
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.datasets import changed, dataset_id, stage
from trace_dagster import metadata
from trace_dagster.errors import ConfigurationError, DataMismatch
from trace_dagster.io_managers.replace import ReplaceIOManager
from trace_dagster.ledger import Ledger
from trace_dagster.store import (
    Manifest,
    ObjectStore,
    StagedFile,
    duckdb_urls,
    open_store,
    publish,
    pyarrow_dataset,
    scan_polars,
)


def commit(store: ObjectStore, folder: Path, start: int, end: int, word: str, *, files: int = 1) -> Manifest:
    """Commit a range whose notes and config are ``word``."""
    one = dataset_id(start, end, config=word)
    return publish(store, stage(folder / one.version, one, note=word, files=files), lambda: None).manifest


@pytest.fixture
def order(store: ObjectStore, tmp_path: Path) -> Mapping[str, int]:
    """Commit 0 to 9 in two objects, 10 to 19, and later 5 to 12; return their order."""
    manifests = [
        commit(store, tmp_path, 0, 9, "old", files=2),
        commit(store, tmp_path, 10, 19, "old"),
        commit(store, tmp_path, 5, 12, "new"),
    ]
    return {manifest.dataset_version: number for number, manifest in enumerate(manifests)}


def test_polars_gives_each_block_once_from_its_newest_version(
    store: ObjectStore, order: Mapping[str, int]
) -> None:
    """Blocks in order; of shared ones the newer rows."""
    rows = scan_polars(store, 1, "blocks", 3, 14, order=order).collect()
    assert rows["block_number"].to_list() == list(range(3, 15))
    assert rows["note"].to_list() == ["old"] * 2 + ["new"] * 8 + ["old"] * 2


def test_pyarrow_reads_whole_versions(store: ObjectStore, tmp_path: Path) -> None:
    """A dataset of all objects, in block order, with filters pushed down."""
    for start in (20, 0, 100):
        commit(store, tmp_path, start, start + 9, "x", files=2)
    dataset = pyarrow_dataset(store, 1, "blocks")
    assert dataset.to_table()["block_number"].to_pylist() == [*range(10), *range(20, 30), *range(100, 110)]
    assert dataset.count_rows(filter=pa.compute.field("block_number") > 100) == 9


def test_duckdb_gets_a_list_of_objects(tmp_path: Path) -> None:
    """It reads them as they are, with SQL."""
    store = open_store((tmp_path / "a folder").as_uri(), {})
    for start in (0, 10):
        commit(store, tmp_path, start, start + 9, "x", files=2)
    urls = duckdb_urls(store, 1, "blocks", 0, 19)
    rows = duckdb.read_parquet(urls).aggregate("count(*), max(block_number)").fetchall()
    assert rows == [(20, 19)]


def test_a_list_of_objects_cannot_cut_one(store: ObjectStore, order: Mapping[str, int]) -> None:
    """Where only a part of an object counts, the list is refused, and the message says what reads it."""
    with pytest.raises(DataMismatch, match=r"only blocks 0_4 of .* read with scan_polars"):
        duckdb_urls(store, 1, "blocks", order=order)
    with pytest.raises(DataMismatch, match="only blocks 0_4"):
        pyarrow_dataset(store, 1, "blocks", order=order)


def test_nothing_committed_is_an_error(store: ObjectStore) -> None:
    """An empty answer would pass for a chain without rows."""
    with pytest.raises(DataMismatch, match="nothing committed of blocks of chain 7"):
        scan_polars(store, 7, "blocks")


def test_versions_with_more_columns_read_together(store: ObjectStore, tmp_path: Path) -> None:
    """A column that only the newer engine writes is null before."""
    commit(store, tmp_path, 0, 1, "x")
    one = dataset_id(2, 3)
    table = pa.table({"block_number": pa.array([2, 3], pa.uint32()), "note": ["y", "y"], "size": [7, 8]})
    pq.write_table(table, tmp_path / "more.parquet")
    staged = changed(
        stage(tmp_path, one), files=(StagedFile(tmp_path / "more.parquet", 2),), schema=table.schema
    )
    publish(store, staged, lambda: None)
    rows = scan_polars(store, 1, "blocks").collect()
    assert rows.rows() == [(0, "x", None), (1, "x", None), (2, "y", 7), (3, "y", 8)]


PARTITIONS = dg.StaticPartitionsDefinition(["0_9", "10_19", "20_29"])
UPSTREAM = dg.AssetSpec(
    "blocks",
    partitions_def=PARTITIONS,
    metadata={metadata.CHAIN_ID: 1, metadata.DATASET: "blocks"},
).with_io_manager_key("trace_parquet")


@dg.asset(partitions_def=PARTITIONS, io_manager_key="mem")
def doubled(blocks: pl.LazyFrame) -> list[int]:
    """Use the rows of the partitions asked for."""
    return blocks.select(pl.col("block_number") * 2).collect()["block_number"].to_list()


@dg.asset(partitions_def=PARTITIONS, io_manager_key="trace_parquet")
def returned() -> int:
    """Return a value to the wrong IO manager."""
    return 1


@pytest.fixture
def replace(ledger: Ledger, tmp_path: Path) -> ReplaceIOManager:
    """Three committed partitions in a folder; the ledger knows of them."""
    store = open_store((tmp_path / uuid.uuid4().hex).as_uri(), {})
    manager = ReplaceIOManager(store, ledger)
    for start in (0, 10, 20):
        manifest = commit(store, tmp_path, start, start + 9, "x")
        assert manager.committed(manifest.id) == manifest
    return manager


def run(
    replace: ReplaceIOManager, asset: dg.AssetsDefinition, **options: object
) -> dg.ExecuteInProcessResult:
    """Materialize one asset with the IO manager."""
    resources = {"trace_parquet": replace, "mem": dg.mem_io_manager}
    return dg.materialize(  # type: ignore[no-any-return]
        [asset, UPSTREAM], resources=resources, selection=[asset], **options
    )


def test_a_downstream_asset_gets_the_rows_of_its_partition(replace: ReplaceIOManager) -> None:
    """A plain Python asset reads the upstream dataset as a polars LazyFrame."""
    result = run(replace, doubled, partition_key="10_19")
    assert result.output_for_node("doubled") == list(range(20, 40, 2))


def test_a_run_of_many_partitions_gets_all_their_rows(replace: ReplaceIOManager) -> None:
    """Ranges that touch are read as one."""
    tags = {"dagster/asset_partition_range_start": "0_9", "dagster/asset_partition_range_end": "20_29"}
    result = run(replace, doubled, tags=tags)
    assert result.output_for_node("doubled") == list(range(0, 60, 2))


@pytest.mark.parametrize("declared", [False, True])
def test_made_up_rows_are_given_only_below_an_asset_that_says_so(
    ledger: Ledger, tmp_path: Path, *, declared: bool
) -> None:
    """What the stub left in the store is refused below a job that reads a chain."""
    store = open_store((tmp_path / uuid.uuid4().hex).as_uri(), {})
    replace = ReplaceIOManager(store, ledger)
    publish(store, stage(tmp_path, dataset_id(0, 9), synthetic=True), lambda: None)
    replace.committed(dataset_id(0, 9))
    facts = {**UPSTREAM.metadata, metadata.SYNTHETIC: True} if declared else UPSTREAM.metadata
    upstream = UPSTREAM.replace_attributes(metadata=facts)

    def materialize() -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [doubled, upstream],
            resources={"trace_parquet": replace, "mem": dg.mem_io_manager},
            selection=[doubled],
            partition_key="0_9",
        )

    if declared:
        assert materialize().output_for_node("doubled") == list(range(0, 20, 2))
    else:
        with pytest.raises(DataMismatch, match="1 versions are synthetic"):
            materialize()


def test_only_operators_write(replace: ReplaceIOManager) -> None:
    """A value that an asset returns is refused, with the mend."""
    with pytest.raises(ConfigurationError, match=r"returned returned int, .* another io_manager_key"):
        run(replace, returned, partition_key="0_9")


def test_a_version_committed_again_is_current_again(ledger: Ledger, tmp_path: Path) -> None:
    """A config that was changed and changed back: what was asked for last is what readers get."""
    store = open_store((tmp_path / uuid.uuid4().hex).as_uri(), {})
    replace = ReplaceIOManager(store, ledger)
    first, second = (commit(store, tmp_path, 0, 9, word) for word in ("first", "second"))
    for manifest in (first, second, first):
        replace.committed(manifest.id)
        order = ledger.current(store.url, 1, "blocks")
        rows = scan_polars(store, 1, "blocks", order=order).collect()
        assert set(rows["note"]) == {"first" if manifest is first else "second"}
    assert replace.committed(dataset_id(config="never")) is None


def test_the_ledger_learns_of_a_commit_that_it_missed(ledger: Ledger, tmp_path: Path) -> None:
    """A crash between the manifest and the ledger's row is mended by the next run."""
    store = open_store((tmp_path / uuid.uuid4().hex).as_uri(), {})
    manifest = commit(store, tmp_path, 0, 9, "x")
    assert ledger.current(store.url, 1, "blocks") == {}
    ReplaceIOManager(store, ledger).committed(manifest.id)
    assert list(ledger.current(store.url, 1, "blocks")) == [manifest.dataset_version]
