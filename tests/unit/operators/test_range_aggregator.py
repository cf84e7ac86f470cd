"""Which ranges are full, and final."""

import pytest

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.operators.range_aggregator import (
    RangeAggregatorConfig,
    full_ranges,
    last_final_block,
    ranges_with,
)
from trace_dagster.translator.aggregators import _Place


@pytest.mark.parametrize(
    ("first", "cursor", "after", "expected"),
    [
        (0, 9, None, []),  # the last block is not final yet
        (0, 12, None, ["0_9"]),
        (0, 33, None, ["0_9", "10_19", "20_29"]),
        (1, 33, None, ["10_19", "20_29"]),  # 0_9 lacks its first block
        (10, 22, None, ["10_19"]),
        (0, 33, 19, ["20_29"]),
        (0, 33, 29, []),
        (0, 5, 29, []),  # a cursor that went back
        (28, 63, 19, ["30_39", "40_49", "50_59"]),  # the follower has begun anew, further on
        (0, 10**6, None, ["0_9", "10_19", "20_29", "30_39"]),
    ],
)
def test_full_ranges(first: int, cursor: int, after: int | None, expected: list[str]) -> None:
    """Ranges of ten blocks, three behind the cursor, at most four at once."""
    config = RangeAggregatorConfig(range_size=10, finality_blocks=3)
    last = last_final_block(config, cursor, None)
    assert [one.key for one in full_ranges(config, first, last, after, 4)] == expected


@pytest.mark.parametrize(
    ("behind", "cursor", "final", "expected"),
    [(3, 30, None, 27), (3, 30, 10, 27), (None, 30, None, -1), (None, 30, 10, 10), (None, 30, 40, 30)],
)
def test_what_is_final(behind: int | None, cursor: int, final: int | None, expected: int) -> None:
    """So far behind the cursor, or what the follower says, and never more than it has."""
    config = RangeAggregatorConfig(range_size=10, finality_blocks=behind)
    assert last_final_block(config, cursor, final) == expected


@pytest.mark.parametrize(
    ("first", "blocks", "last", "expected"),
    [
        (0, (15, 22), 39, ["10_19", "20_29"]),
        (0, (20, 29), 39, ["20_29"]),
        (0, (35, 80), 39, ["30_39"]),  # the others were not given yet
        (0, (40, 80), 39, []),
        (12, (13, 25), 39, ["20_29"]),  # 10_19 lacks its first blocks, and was never given
    ],
)
def test_ranges_with_changed_blocks(
    first: int, blocks: tuple[int, int], last: int, expected: list[str]
) -> None:
    """Those that were given and hold any of the blocks."""
    config = RangeAggregatorConfig(range_size=10, finality_blocks=3)
    assert [one.key for one in ranges_with(config, first, BlockRange(*blocks), last)] == expected


def test_a_follower_that_begins_elsewhere_is_read_from_there() -> None:
    """Ranges before the old beginning are given, too; the sensor's cursor of older versions is read."""
    place = _Place.parse("29").begun_at(20)
    assert place == _Place(block=29, invalidation=0, first=20)
    assert _Place.parse(place.text).begun_at(20) == place
    assert place.begun_at(0) == _Place(block=None, invalidation=0, first=0)
    assert _Place.parse(None).begun_at(5) == _Place(first=5)
