"""When a follower looks at the head again."""

import pytest

from trace_dagster.operators.block_follower import pace as pace_module
from trace_dagster.operators.block_follower.pace import Pace


def test_it_waits_for_most_of_the_shortest_time_between_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until eight times are known it polls; then it rests, and polls once a block is due."""
    now = 100.0
    monkeypatch.setattr(pace_module.time, "monotonic", lambda: now)
    pace = Pace(0.1)
    waits = []
    for gap in (0, 12, 13, 12, 14, 12, 12, 12, 12, 16):
        now += gap
        waits.append(pace.seconds_until_next_look(arrived=True))
    assert waits == [0.1] * 8 + [0.75 * 12] * 2
    assert pace.seconds_until_next_look(arrived=False) == 0.1
    for _ in range(8):  # a chain that became fast: never a longer rest than its blocks are apart
        now += 0.05
        assert pace.seconds_until_next_look(arrived=True) == 0.1
