"""Rate limits, on a clock of the test's own and as a pool keeps them."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fault_proxy import Exchange, FaultProxy, Reply
from tests.support.gateways import asked, running_pool
from trace_dagster.rpc.gateway.endpoint import Key
from trace_dagster.rpc.gateway.limits import AdaptiveLimit, RateLimit
from trace_dagster.rpc.gateway.pool import Pool


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


def test_a_pool_keeps_its_limit_to_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """For four callers without a pause no second sends more than 25, and nothing arrives that was not sent.

    Judged is by the moments of sending: those of arrival are late by whatever else the machine does.
    """
    sent_at: list[float] = []
    arrived_at: list[float] = []
    begin = Key.begin

    def noted(key: Key, methods: Sequence[str], now: float) -> int:
        count = begin(key, methods, now)
        sent_at.extend([now] * count)
        return count

    def note(exchange: Exchange) -> Reply | None:
        arrived_at.extend([time.monotonic()] * len(exchange.calls))
        return None

    async def ask_on(pool: Pool, number: int) -> None:
        asked_for = 0
        while len(sent_at) < 70:
            asked_for += 1
            await asked(pool, ("eth_getBalance", [f"0x{number:020x}{asked_for:020x}", "0x1"]))

    async def run() -> None:
        async with running_pool({"one": proxy}, {"one": {"limits": {"requests_per_second": 25}}}) as pool:
            await asyncio.gather(*(ask_on(pool, number) for number in range(4)))

    monkeypatch.setattr(Key, "begin", noted)
    with closing(FaultProxy()) as proxy:
        proxy.results = {"eth_chainId": "0x7a69", "eth_blockNumber": "0x10", "eth_getBalance": "0x1"}
        proxy.intercept = note
        asyncio.run(run())
    assert most_in_a_second(sent_at) <= 25
    assert all(sent <= arrived for sent, arrived in zip(sent_at, sorted(arrived_at), strict=False))
    assert len(arrived_at) <= len(sent_at)
