"""Block ranges as Dagster partitions."""

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.spec.catalog import RangePlan
from trace_dagster.translator.partitions import backfill_policy, partition_mapping, partitions_of


def plan(*ranges: tuple[int, int]) -> RangePlan:
    return RangePlan(ranges=tuple(BlockRange.of(*one) for one in ranges))


def test_bounded_ranges_are_static_partitions_in_order() -> None:
    """Keys are the ranges, inclusive and unpadded, in block order."""
    partitions = partitions_of("monad", plan((0, 999), (1000, 1499)))
    assert isinstance(partitions, dg.StaticPartitionsDefinition)
    assert partitions.get_partition_keys() == ["0_999", "1000_1499"]


def test_equal_ranges_share_one_partitions_definition() -> None:
    """Dagster holds and serialises equal ranges once."""
    assert partitions_of("one", plan((0, 9))) is partitions_of("two", plan((0, 9)))


def test_run_time_ranges_are_dynamic_partitions_of_their_entry_point() -> None:
    """Everything below one entry point shares the partitions that it registers."""
    partitions = partitions_of("monad", RangePlan(ranges=None, lane="range_request", chunk_size=10))
    assert isinstance(partitions, dg.DynamicPartitionsDefinition)
    assert partitions.name == "monad__range_request"


def test_one_range_above_many_chunks_maps_all_of_them_to_it() -> None:
    """Every chunk reads the one requested range."""
    mapping = partition_mapping(plan((0, 1999)), plan((0, 999), (1000, 1999)))
    assert isinstance(mapping, dg.AllPartitionMapping)


def test_chunks_of_chunks_map_to_the_chunk_that_holds_their_blocks() -> None:
    """A second splitter's partitions read exactly the first one's that covers them."""
    upstream, downstream = plan((0, 9), (10, 19)), plan((0, 4), (5, 9), (10, 14), (15, 19))
    mapping = partition_mapping(upstream, downstream)
    assert isinstance(mapping, dg.StaticPartitionMapping)
    found = mapping.get_upstream_mapped_partitions_result_for_partitions(
        downstream_partitions_subset=partitions_of("x", downstream).subset_with_partition_keys(["10_14"]),
        downstream_partitions_def=partitions_of("x", downstream),
        upstream_partitions_def=partitions_of("x", upstream),
    )
    assert list(found.partitions_subset.get_partition_keys()) == ["10_19"]


@given(
    start=st.integers(0, 50),
    blocks=st.integers(1, 300),
    coarse=st.integers(1, 60),
    fine=st.integers(1, 60),
)
def test_every_chunk_has_exactly_one_parent(start: int, blocks: int, coarse: int, fine: int) -> None:
    """However a range is cut twice, each downstream partition reads the upstream one that covers it."""
    upstream = tuple(BlockRange(start, start + blocks - 1).split(coarse))
    downstream = tuple(piece for whole in upstream for piece in whole.split(fine))
    mapping = partition_mapping(RangePlan(ranges=upstream), RangePlan(ranges=downstream))
    if isinstance(mapping, dg.StaticPartitionMapping):
        children = mapping.downstream_partition_keys_by_upstream_partition_key
        pairs = {child: parent for parent, many in children.items() for child in many}
        assert pairs.keys() == {piece.key for piece in downstream}
        for child, parent in pairs.items():
            assert BlockRange.parse(parent).covers(BlockRange.parse(child))
    else:
        assert len(upstream) == 1 or upstream == downstream


@pytest.mark.parametrize(
    ("partitions", "max_concurrency", "expected"),
    [(1000, 20, 25), (8, 2, 2), (3, None, 2), (50_000, 1, 1000)],
)
def test_a_backfill_batches_partitions_but_keeps_every_pool_slot_busy(
    partitions: int, max_concurrency: int | None, expected: int
) -> None:
    """There are at least twice as many runs as slots, as long as there are partitions for them."""
    ranges = tuple(BlockRange(0, partitions - 1).split(1))
    policy = backfill_policy(RangePlan(ranges=ranges), max_concurrency, one_run=False)
    assert policy.max_partitions_per_run == expected


def test_jobs_that_only_record_ranges_run_once() -> None:
    """A splitter's partitions all fit one run."""
    assert backfill_policy(plan((0, 9)), 4, one_run=True) == dg.BackfillPolicy.single_run()
