"""Ranges must be pieces of one chain."""

import pyarrow as pa
import pytest

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import DataMismatch
from trace_dagster.operators.cryo_ingest.engines import Extracted, RangeFacts
from trace_dagster.operators.cryo_ingest.joins import check_neighbour, check_same_blocks
from trace_dagster.store import DatasetId, Manifest

RANGE = BlockRange(10, 19)


def block_hash(number: int) -> str:
    return f"0x{number:064x}"


def extracted(first: int = 10, last: int = 19, parent: int = 9) -> Extracted:
    facts = RangeFacts(block_hash(first), block_hash(last), block_hash(parent))
    return Extracted("blocks", (), pa.schema([]), facts)


def committed(block_range: BlockRange, first: int, last: int, parent: int) -> Manifest:
    one = DatasetId(1, "logs", block_range, "0" * 64)
    return Manifest(
        chain_id=1,
        dataset="logs",
        start_block=block_range.start_block,
        end_block=block_range.end_block,
        dataset_version=one.version,
        config_hash=one.config_hash,
        engine="cryo",
        synthetic=False,
        rows=0,
        bytes=0,
        objects=(),
        schema_fingerprint="",
        first_block_hash=block_hash(first),
        last_block_hash=block_hash(last),
        first_parent_hash=block_hash(parent),
        checks={},
    )


BEFORE, BEHIND = BlockRange(0, 9), BlockRange(20, 29)


def test_linked_neighbours_pass() -> None:
    """The parent of the first block is the last block before, and likewise behind."""
    check_neighbour(RANGE, extracted(), committed(BEFORE, 0, 9, 0))
    check_neighbour(RANGE, extracted(), committed(BEHIND, 20, 29, 19))


@pytest.mark.parametrize(
    ("neighbour", "what"),
    [
        (committed(BEFORE, 0, 666, 0), "parent of block 10"),
        (committed(BEHIND, 20, 29, 666), "block 19, parent of block 20"),
    ],
)
def test_a_neighbour_of_another_branch_is_named_with_both_hashes(neighbour: Manifest, what: str) -> None:
    """The error says which blocks do not join, and what to do."""
    with pytest.raises(DataMismatch, match=what) as caught:
        check_neighbour(RANGE, extracted(), neighbour)
    assert block_hash(666) in str(caught.value)
    assert "config.revision" in str(caught.value)


def test_datasets_of_one_range_must_come_from_the_same_blocks() -> None:
    """After a crash between two datasets, a reorg must not slip in between them."""
    check_same_blocks(RANGE, extracted(), [committed(RANGE, 10, 19, 9)])
    with pytest.raises(DataMismatch, match="last block 19"):
        check_same_blocks(RANGE, extracted(), [committed(RANGE, 10, 666, 9)])


def test_what_an_engine_does_not_know_is_not_compared() -> None:
    """Datasets without block hashes join anything."""
    unknown = Extracted("slots", (), pa.schema([]))
    check_neighbour(RANGE, unknown, committed(BEFORE, 0, 666, 0))
    check_same_blocks(RANGE, unknown, [committed(RANGE, 10, 666, 9)])
