"""Rate limits on a clock of the test's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_dagster.rpc.gateway.limits import AdaptiveLimit, RateLimit


def sent(limit: RateLimit, seconds: float, *, amount: float = 1, late: float = 0.0) -> list[float]:
    """Send as much as is allowed, each time a bit late, and return when."""
    now, moments = 100.0, []
    while now < 100.0 + seconds:
        ready = limit.ready_at(amount, now)
        if ready > now:
            now = ready + late
            continue
        limit.take(amount, now)
        moments.append(now)
    return moments


def most_in_a_second(moments: list[float]) -> int:
    """Return how many moments the fullest window of one second holds."""
    return max(sum(begin <= one < begin + 1.0 for one in moments) for begin in moments)


@pytest.mark.parametrize("per_second", [1, 7, 25, 300])
@pytest.mark.parametrize("late", [0.0, 0.001, 0.003])
def test_no_window_holds_more_than_the_limit(per_second: int, late: float) -> None:
    """A minute of overload: no second exceeds the limit, and at least 95% of it is used."""
    seconds = 60 if per_second < 100 else 4
    moments = sent(RateLimit(per_second), seconds, late=late)
    assert most_in_a_second(moments) <= per_second
    assert len(moments) >= 0.95 * per_second * seconds


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_pauses_save_nothing_up(pauses: list[float]) -> None:
    """However requests come, no second holds more than the limit."""
    limit, now, moments = RateLimit(5), 0.0, []
    for pause in pauses:
        now = max(now + pause, limit.ready_at(1, now + pause))
        limit.take(1, now)
        moments.append(now)
    assert most_in_a_second(moments) <= 5


def test_they_are_spread() -> None:
    """What a second allows is not sent at its beginning."""
    moments = sent(RateLimit(25), 10)
    assert max(sum(begin <= one < begin + 0.1 for one in moments) for begin in moments) <= 4


def test_more_than_a_second_allows_passes_once_nothing_else_does() -> None:
    """50 credits under 20 a second are sent, and paid for afterwards."""
    limit = RateLimit(20)
    assert limit.ready_at(50, 0.0) == 0.0
    limit.take(50, 0.0)
    assert limit.ready_at(50, 0.0) == pytest.approx(2.5, abs=0.1)


def test_refusals_slow_down_and_time_speeds_up() -> None:
    """A provider's 429 cuts the limit, once for what was sent together; then it grows back."""
    limit = AdaptiveLimit(100)
    limit.cut(0.0)
    limit.cut(0.1)
    assert limit.per_second == pytest.approx(70)
    for step in range(1, 5):
        limit.cut(float(step))
    assert limit.per_second is not None
    assert limit.per_second < 35
    for tenths in range(50, 150):
        limit.allowance(tenths / 10)
    assert limit.per_second == 100


def test_an_unknown_limit_is_learned_and_forgotten() -> None:
    """Without a limit, a 429 sets one below what was sent; when none comes for a minute it goes."""
    limit = AdaptiveLimit(None)
    for at in range(100):
        limit.take(1, at / 100)
    assert limit.per_second is None
    limit.cut(1.0)
    assert limit.per_second == pytest.approx(70, abs=1)
    assert limit.ready_at(1, 1.0) == 1.0
    for seconds in range(2, 70):
        limit.allowance(float(seconds))
    assert limit.per_second is None


def test_a_reload_forgets_nothing() -> None:
    """A key's limit goes on after a reload, the same or another, from what was sent before."""
    limit = AdaptiveLimit(5)
    now = 0.0
    for _ in range(5):
        now = limit.ready_at(1, now)
        limit.take(1, now)
    assert limit.successor(5) is limit
    assert limit.successor(4).ready_at(1, now) > now + 0.1
    assert limit.successor(None).ready_at(1, now) == now
