"""range_request and range_splitter: configs and the ranges that follow from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.operators.range_request import RangeRequest, RangeRequestConfig
from trace_dagster.operators.range_splitter import RangeSplitter, RangeSplitterConfig
from trace_dagster.spec.catalog import RangePlan, RangeProblem


def test_a_bounded_request_has_one_partition() -> None:
    """The requested range is the only one."""
    config = RangeRequestConfig(start_block=5, end_block=9)
    assert RangeRequest().plan_ranges("ask", config, None).ranges == (BlockRange(5, 9),)


def test_a_request_without_a_range_is_its_own_lane() -> None:
    """Ranges come at run time, under the entry point's name."""
    assert RangeRequest().plan_ranges("ask", RangeRequestConfig(), None) == RangePlan(ranges=None, lane="ask")


@pytest.mark.parametrize(
    ("given_config", "message"),
    [
        ({"start_block": 0}, "start_block is set but end_block is not"),
        ({"end_block": 0}, "end_block is set but start_block is not"),
        ({"start_block": 9, "end_block": 5}, "end_block 5 is before start_block 9"),
        ({"start_block": -1, "end_block": 5}, "greater than or equal to 0"),
    ],
)
def test_half_or_reversed_ranges_are_refused(given_config: dict[str, int], message: str) -> None:
    """A range needs both ends, in order."""
    with pytest.raises(ValidationError, match=message):
        RangeRequestConfig(**given_config)


@given(start=st.integers(0, 10**9), blocks=st.integers(1, 5000), chunk=st.integers(1, 700))
def test_chunks_cover_the_range_once_and_in_order(start: int, blocks: int, chunk: int) -> None:
    """No block is left out or in two partitions, and only the last partition is shorter."""
    whole = BlockRange(start, start + blocks - 1)
    plan = RangeSplitter().plan_ranges("split", RangeSplitterConfig(chunk_size=chunk), RangePlan((whole,)))
    assert plan.ranges is not None
    assert plan.ranges[0].start_block == start
    assert plan.ranges[-1].end_block == whole.end_block
    pairs = zip(plan.ranges, plan.ranges[1:], strict=False)
    assert all(after.start_block == before.end_block + 1 for before, after in pairs)
    assert all(piece.blocks == chunk for piece in plan.ranges[:-1])


def test_a_splitter_needs_ranges() -> None:
    """An input without block ranges is a problem of the job's inputs."""
    with pytest.raises(RangeProblem, match="its input has none"):
        RangeSplitter().plan_ranges("split", RangeSplitterConfig(chunk_size=1), None)


def test_run_time_ranges_are_cut_once() -> None:
    """A second chunk size below one entry point is refused and says what fits."""
    cut = RangePlan(ranges=None, lane="ask", chunk_size=10)
    with pytest.raises(RangeProblem, match="write 10, or use a range_request of its own"):
        RangeSplitter().plan_ranges("split", RangeSplitterConfig(chunk_size=5), cut)
