"""Small staged datasets for tests of the store."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.store import DatasetId, StagedDataset, StagedFile, config_hash

SCHEMA = pa.schema([("block_number", pa.uint32()), ("note", pa.string())])


def dataset_id(start: int = 0, end: int = 9, *, config: str = "a", dataset: str = "blocks") -> DatasetId:
    """Return an identity that differs by its range, its dataset and a word of config."""
    return DatasetId(1, dataset, BlockRange.of(start, end), config_hash({"word": config}))


def stage(
    folder: Path, one: DatasetId, *, note: str = "x", files: int = 1, synthetic: bool = False
) -> StagedDataset:
    """Write one row a block, in ``files`` Parquet files, and return them staged."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks = list(range(one.range.start_block, one.range.end_block + 1))
    staged = []
    for number in range(files):
        rows = blocks[number * len(blocks) // files : (number + 1) * len(blocks) // files]
        path = folder / f"{number}.parquet"
        pq.write_table(pa.table([rows, [note] * len(rows)], schema=SCHEMA), path)
        staged.append(StagedFile(path, len(rows)))
    return StagedDataset(
        id=one,
        files=tuple(staged),
        schema=SCHEMA,
        engine="test",
        synthetic=synthetic,
        first_block_hash="0x" + "11" * 32,
        last_block_hash="0x" + "22" * 32,
        first_parent_hash="0x" + "00" * 32,
        checks={"continuity": "passed"},
    )


def changed(staged: StagedDataset, **fields: object) -> StagedDataset:
    """Return ``staged`` with some fields replaced."""
    return dataclasses.replace(staged, **fields)
