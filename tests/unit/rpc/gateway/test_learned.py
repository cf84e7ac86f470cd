"""Limits that are learned from refusals."""

from trace_dagster.rpc.gateway.learned import LearnedLimit


def test_a_refusal_halves_and_successes_double() -> None:
    """One bad moment is not remembered for ever, and the bound is never passed."""
    limit = LearnedLimit(100, 100)
    for amount in (100, 50, 25):
        limit.refused(amount)
    assert limit.value == 12
    for value in (24, 48, 96, 100, 100):
        for _ in range(100):
            limit.succeeded(limit.value)
        assert limit.value >= value
    assert limit.value == 100


def test_less_than_the_limit_says_nothing_of_more() -> None:
    """Only what is as large as the limit counts."""
    limit = LearnedLimit(None, None)
    limit.succeeded(5)
    assert limit.value is None
    limit.refused(20)
    for _ in range(1000):
        limit.succeeded(9)
    assert limit.value == 10
    limit.reset(None)
    assert limit.value is None


def test_a_limit_is_at_least_one() -> None:
    """However often it is refused."""
    limit = LearnedLimit(1, 8)
    limit.refused(1)
    assert limit.value == 1


def test_a_failure_that_is_for_the_amount() -> None:
    """Where less works and as much fails again, the limit is what worked or a little more."""
    limit = LearnedLimit(100, 100)
    for value in (50, 25, 12, 6):
        limit.failed(limit.value or 0)
        assert limit.value == value
    limit.succeeded(6)
    assert limit.value == 100
    limit.failed(94)
    assert limit.value == 6


def test_a_failure_that_is_an_outage() -> None:
    """Where as much works afterwards, or nothing did, nothing is remembered."""
    limit = LearnedLimit(8, 8)
    for amount in (8, 4, 2, 1):
        limit.failed(amount)
    assert limit.value == 8
    limit.failed(8)
    limit.succeeded(4)
    limit.succeeded(8)
    assert limit.value == 8
    limit.failed(8)
    limit.succeeded(1)
    assert limit.value == 4
