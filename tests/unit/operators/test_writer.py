"""Deterministic Parquet files."""

import os
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import DataMismatch, DeadlineExceeded, StagingFull
from trace_dagster.operators.base import Deadline
from trace_dagster.operators.cryo_ingest.destinations import StagingFiles
from trace_dagster.operators.cryo_ingest.staging import StagingLimits
from trace_dagster.operators.cryo_ingest.writer import DatasetWriter, WriterLimits, write_dataset
from trace_dagster.testing import SimulatedChain

RANGE = BlockRange(0, 299)
ROWS = SimulatedChain(chain_id=1).table("transactions", RANGE)
SPLIT = WriterLimits(max_rows=500, max_bytes=90_000, group_rows=100, group_bytes=40_000)


def destination(directory: Path, limits: StagingLimits | None = None) -> StagingFiles:
    """Return ``directory`` as the place of files."""
    return StagingFiles(directory, "transactions_0_299", limits or StagingLimits())


def write(
    directory: Path,
    *batches: pa.Table,
    limits: WriterLimits | None = None,
    staging: StagingLimits | None = None,
    **options: object,
) -> list[Path]:
    """Write ``batches`` as transactions 0_299 and return the files' paths."""
    directory.mkdir(exist_ok=True)
    writer = DatasetWriter(
        destination(directory, staging),
        "transactions",
        RANGE,
        batches[0].schema,
        limits=limits or WriterLimits(),
        **options,
    )
    return [file.path for file in write_dataset(writer, batches)]


def cut(table: pa.Table, cuts: list[int]) -> list[pa.Table]:
    """Return ``table`` cut at the row numbers ``cuts``."""
    edges = [0, *sorted(cuts), table.num_rows]
    return [table.slice(first, last - first) for first, last in pairwise(edges)]


@given(st.lists(st.integers(0, ROWS.num_rows), max_size=8), st.sampled_from([WriterLimits(), SPLIT]))
@settings(max_examples=30, deadline=None)
def test_batches_do_not_change_bytes(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], limits: WriterLimits
) -> None:
    """The same rows in other batches give byte-identical files of the same names."""
    whole = write(tmp_path_factory.mktemp("whole"), ROWS, limits=limits)
    batches = write(tmp_path_factory.mktemp("batches"), *cut(ROWS, cuts), limits=limits)
    assert [(path.name, path.read_bytes()) for path in batches] == [
        (path.name, path.read_bytes()) for path in whole
    ]


def test_one_file_has_the_plain_name(tmp_path: Path) -> None:
    """A partition that fits one file is named by dataset and inclusive range."""
    (path,) = write(tmp_path, ROWS)
    assert path == tmp_path / "transactions_0_299.parquet"
    assert pq.read_table(path).equals(ROWS)


def test_split_files_hold_all_rows_within_limits(tmp_path: Path) -> None:
    """A split partition's files hold all rows in order, and keep both limits."""
    paths = write(tmp_path, *cut(ROWS, [77, 500, 501]), limits=SPLIT)
    assert len(paths) > 2
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    tables = [pq.read_table(path) for path in paths]
    assert pa.concat_tables(tables).equals(ROWS)
    assert all(table.num_rows <= SPLIT.max_rows for table in tables)
    assert all(path.stat().st_size <= SPLIT.max_bytes for path in paths)


def test_row_limit_is_filled_exactly(tmp_path: Path) -> None:
    """Files are cut at the row limit where bytes allow it."""
    paths = write(tmp_path, ROWS, limits=WriterLimits(max_rows=500))
    rows = [pq.read_metadata(path).num_rows for path in paths]
    assert set(rows[:-1]) == {500}
    assert sum(rows) == ROWS.num_rows


def test_incompressible_rows_keep_the_byte_limit(tmp_path: Path) -> None:
    """Random bytes, which no compression shrinks, still make files within the limit."""
    values = pa.table({"data": pa.array([os.urandom(1000) for _ in range(300)], pa.large_binary())})
    paths = write(tmp_path, values, limits=WriterLimits(max_bytes=50_000))
    assert pa.concat_tables([pq.read_table(path) for path in paths]).equals(values)
    assert 7 <= len(paths) <= 10
    assert all(path.stat().st_size <= 50_000 for path in paths)


def test_a_row_above_the_limit_has_a_file_of_its_own(tmp_path: Path) -> None:
    """A single huge row is written, alone."""
    values = pa.table({"data": pa.array([b"a", os.urandom(100_000), b"b", None], pa.large_binary())})
    paths = write(tmp_path, values, limits=WriterLimits(max_bytes=50_000))
    assert [pq.read_table(path).num_rows for path in paths] == [1, 1, 2]


def test_no_rows_make_one_file_with_the_schema(tmp_path: Path) -> None:
    """A dataset without rows is one file without rows."""
    (path,) = write(tmp_path, ROWS.slice(0, 0))
    assert pq.read_table(path).schema.equals(ROWS.schema)
    assert pq.read_metadata(path).num_rows == 0


def test_files_are_laid_out_as_documented(tmp_path: Path) -> None:
    """64k-row groups, zstd, dictionaries for few values, statistics of numbers, no pandas metadata."""
    count = 70_000
    table = pa.table(
        {
            "block_number": pa.array(range(count), pa.uint32()),
            "hash": pa.array([number.to_bytes(32, "big") for number in range(count)], pa.large_binary()),
            "kind": pa.array([("call", "create")[number % 2] for number in range(count)], pa.large_string()),
        }
    ).replace_schema_metadata({"pandas": "{}"})
    (path,) = write(tmp_path, table)
    found = pq.ParquetFile(path)
    assert [found.metadata.row_group(at).num_rows for at in range(2)] == [65_536, 4_464]
    assert set(found.metadata.metadata) == {b"ARROW:schema"}
    assert found.schema_arrow.metadata is None
    number, hash_, kind = (found.metadata.row_group(0).column(at) for at in range(3))
    assert {number.compression, hash_.compression, kind.compression} == {"ZSTD"}
    assert [chunk.has_dictionary_page for chunk in (number, hash_, kind)] == [False, False, True]
    assert [chunk.is_stats_set for chunk in (number, hash_, kind)] == [True, False, False]


def test_nested_and_decimal_columns_can_be_written(tmp_path: Path) -> None:
    """Lists, structs and decimals are cut and written like other columns."""
    table = pa.table(
        {
            "path": pa.array([[1, 2], None, []] * 50, pa.list_(pa.uint32())),
            "entry": pa.array([{"key": b"a"}, None, {"key": None}] * 50, pa.struct([("key", pa.binary())])),
            "value": pa.array([2**200, None, 0] * 50, pa.decimal256(76)),
        }
    )
    paths = write(tmp_path, *cut(table, [50, 51]), limits=WriterLimits(max_rows=60, group_bytes=2_000))
    assert pa.concat_tables([pq.read_table(path) for path in paths]).equals(table)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.drop_columns(["nonce"]), "rows have columns none instead of nonce uint64"),
        (ROWS.select(ROWS.schema.names[::-1]), "columns are in another order"),
        (
            ROWS.set_column(3, "nonce", ROWS.column("nonce").cast(pa.uint32())),
            "rows have columns nonce uint32 instead of nonce uint64",
        ),
    ],
    ids=["missing", "order", "type"],
)
def test_rows_of_another_schema_are_refused(tmp_path: Path, rows: pa.Table, message: str) -> None:
    """Rows with other columns are a mismatch that names them, and nothing is left."""
    with pytest.raises(DataMismatch, match=f"transactions 0_299: {message}"):
        write(tmp_path, ROWS, rows)
    assert list(tmp_path.iterdir()) == []


def test_a_passed_deadline_stops_writing(tmp_path: Path) -> None:
    """Nothing is written after the deadline, and what was there is deleted."""
    with pytest.raises(DeadlineExceeded, match="timeout_seconds: 5"):
        write(tmp_path, ROWS, limits=SPLIT, deadline=Deadline(5, at=0))
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_source_leaves_nothing(tmp_path: Path) -> None:
    """Files that were finished or open when the rows broke off are deleted."""
    writer = DatasetWriter(destination(tmp_path), "transactions", RANGE, ROWS.schema, limits=SPLIT)

    def broken_source() -> None:
        with writer:
            writer.write(ROWS)
            assert len(list(tmp_path.iterdir())) > 2
            raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        broken_source()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("staging", "message"),
    [
        (StagingLimits(max_files=2), "the partition has 3 files in staging, 2 are allowed"),
        (StagingLimits(max_bytes=100_000), r"the partition has \d{6} bytes in staging, 100000 are allowed"),
    ],
    ids=["files", "bytes"],
)
def test_staging_limits_stop_writing(tmp_path: Path, staging: StagingLimits, message: str) -> None:
    """Too many files or bytes in staging are an error with both numbers, and nothing is left."""
    with pytest.raises(StagingFull, match=message):
        write(tmp_path, ROWS, limits=SPLIT, staging=staging)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    """The system's "no space left" becomes an error that says which disk, how full, and what to do."""
    (tmp_path / "transactions_0_299.parquet").symlink_to("/dev/full")
    with pytest.raises(StagingFull, match=r"disk full: TRACE_STAGING_DIR has .* bytes free.*free some space"):
        write(tmp_path, ROWS)
    assert list(tmp_path.iterdir()) == []
