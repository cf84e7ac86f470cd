"""Which version of which blocks a reader gets."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.datasets import dataset_id, stage
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import DataMismatch
from trace_dagster.store import ObjectStore, open_store, publish, resolve
from trace_dagster.store.resolve import _Intervals


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """An empty folder."""
    return open_store((tmp_path / "store").as_uri(), {})


def commit(store: ObjectStore, start: int, end: int, config: str = "a", *, synthetic: bool = False) -> str:
    """Commit a range and return its version."""
    one = dataset_id(start, end, config=config)
    staged = stage(store.folder.parent / one.version, one, synthetic=synthetic)
    publish(store, staged, lambda: None)
    return one.version


def keeps(store: ObjectStore, *bounds: int, **options: object) -> list[tuple[str, str]]:
    """Return what is kept: blocks and version."""
    pieces = resolve(store, 1, "blocks", *bounds, **options)
    return [(piece.keep.key, piece.manifest.dataset_version) for piece in pieces]


def test_ranges_come_in_block_order(store: ObjectStore) -> None:
    """Numbers are ordered as numbers, not as text; each piece has its objects' addresses."""
    versions = [commit(store, start, start + 9) for start in (100, 20, 0)]
    assert keeps(store) == [("0_9", versions[2]), ("20_29", versions[1]), ("100_109", versions[0])]
    piece = resolve(store, 1, "blocks", 0, 9)[0]
    assert piece.urls == (f"{store.folder}/{piece.prefix}/blocks_0_9.parquet",)
    assert not piece.trimmed


def test_the_version_committed_last_wins(store: ObjectStore) -> None:
    """Of two versions of a range, the higher sequence is read; the other does not exist to the reader."""
    old, new = commit(store, 0, 9, "old"), commit(store, 0, 9, "new")
    assert keeps(store, order={old: 1, new: 2}) == [("0_9", new)]
    assert keeps(store, order={old: 3, new: 2}) == [("0_9", old)]
    assert keeps(store, order={old: 1}) == [("0_9", old)]


def test_a_newer_range_inside_an_older_one_cuts_it_in_two(store: ObjectStore) -> None:
    """Each block comes from one version; a version whose blocks are all newer elsewhere is dropped."""
    big, small, gone = commit(store, 0, 99), commit(store, 40, 49), commit(store, 42, 45)
    order = {gone: 1, big: 2, small: 3}
    assert keeps(store, order=order) == [("0_39", big), ("40_49", small), ("50_99", big)]
    assert keeps(store, 45, 60, order=order) == [("45_49", small), ("50_60", big)]


def test_without_an_order_shared_blocks_are_an_error(store: ObjectStore) -> None:
    """The message names both versions and says how to read."""
    first, second = commit(store, 0, 9), commit(store, 5, 14)
    with pytest.raises(
        DataMismatch, match=rf"{second} of blocks 5_14.*{first} of blocks 0_9.*ledger.current"
    ):
        resolve(store, 1, "blocks")


def test_missing_blocks_between_two_bounds_are_an_error(store: ObjectStore) -> None:
    """The message counts them and names the gaps; a reader may ask to have what there is."""
    commit(store, 0, 9)
    commit(store, 15, 19)
    with pytest.raises(
        DataMismatch, match="10 of the 25 blocks asked for are not committed: 10 to 14, 20 to 24"
    ):
        resolve(store, 1, "blocks", 0, 24)
    assert [keep for keep, _ in keeps(store, 0, 24, gaps="allow")] == ["0_9", "15_19"]
    assert [keep for keep, _ in keeps(store, 5)] == ["5_9", "15_19"]


def test_synthetic_rows_are_refused_unless_allowed(store: ObjectStore) -> None:
    """Made-up rows never pass for real: reading them takes a word."""
    commit(store, 0, 9, synthetic=True)
    with pytest.raises(DataMismatch, match=r"1 versions are synthetic \(first: blocks 0_9\)"):
        resolve(store, 1, "blocks")
    assert len(resolve(store, 1, "blocks", synthetic="allow")) == 1


def test_made_up_rows_never_hide_real_ones(store: ObjectStore) -> None:
    """A stub run over blocks that were ingested changes nothing for readers, with and without an order."""
    real, made_up = commit(store, 0, 9, "cryo"), commit(store, 0, 9, "stub", synthetic=True)
    inside = commit(store, 4, 6, "stub", synthetic=True)
    order = {real: 1, made_up: 2, inside: 3}
    assert keeps(store) == keeps(store, order=order) == keeps(store, order={real: 1}) == [("0_9", real)]
    assert keeps(store, 3, 5, order=order) == [("3_5", real)]
    assert keeps(store, synthetic="allow", order=order) == [
        ("0_3", made_up),
        ("4_6", inside),
        ("7_9", made_up),
    ]


def test_blocks_that_are_only_made_up_are_still_an_error(store: ObjectStore) -> None:
    """A real version of some blocks does not excuse the others; blocks not asked for do not count."""
    real, made_up = commit(store, 0, 9), commit(store, 5, 14, "stub", synthetic=True)
    for order in (None, {real: 1, made_up: 2}):
        with pytest.raises(DataMismatch, match=r"1 versions are synthetic \(first: blocks 5_14\)"):
            resolve(store, 1, "blocks", order=order)
        assert keeps(store, 2, 7, order=order) == [("2_7", real)]


def test_objects_without_a_manifest_do_not_exist(store: ObjectStore) -> None:
    """Neither a failed attempt's objects nor foreign files are seen."""
    version = commit(store, 0, 9)
    store.put_new(f"{dataset_id(10, 19).prefix}/blocks_10_19.parquet", b"half")
    store.put_new("cryo/1/blocks/README/_manifest.json", b"{}")
    assert keeps(store) == [("0_9", version)]
    assert keeps(store, 0, 30, gaps="allow") == [("0_9", version)]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=12))
@settings(deadline=None)
def test_intervals_give_each_block_once(ranges: list[tuple[int, int]]) -> None:
    """Adding ranges returns exactly the blocks that were not there, as a plain set would."""
    intervals, blocks = _Intervals(), set[int]()
    for start, length in ranges:
        new = BlockRange(start, start + length)
        added = intervals.add(new)
        given_blocks = [block for gap in added for block in range(gap.start_block, gap.end_block + 1)]
        assert given_blocks == sorted(set(range(start, start + length + 1)) - blocks)
        blocks.update(given_blocks)
