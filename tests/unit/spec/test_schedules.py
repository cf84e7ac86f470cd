"""Schedules: cron text and rates."""

import pytest
from dagster._utils.schedules import is_valid_cron_schedule
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_dagster.spec.schedules import ScheduleProblem, to_cron


@pytest.mark.parametrize(
    ("text", "cron"),
    [
        ("rate(1 minute)", "* * * * *"),
        ("rate(15 minutes)", "*/15 * * * *"),
        ("rate(60 minutes)", "0 * * * *"),
        ("rate(120 minutes)", "0 */2 * * *"),
        ("rate(1 hour)", "0 * * * *"),
        ("rate( 12  hours )", "0 */12 * * *"),
        ("rate(24 hours)", "0 0 * * *"),
        ("rate(1 day)", "0 0 * * *"),
        ("rate(7 days)", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("  0  6 * * MON-fri ", "0 6 * * MON-fri"),
        ("0,30 0-6/2 1,15 jan,jul *", "0,30 0-6/2 1,15 jan,jul *"),
        ("0 0 29 2 *", "0 0 29 2 *"),
    ],
)
def test_schedule_as_cron(text: str, cron: str) -> None:
    """A schedule becomes the cron text that fires exactly then, which Dagster takes."""
    assert to_cron(text) == cron
    assert is_valid_cron_schedule(cron)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rate(7 minutes)", "6, 10"),
        ("rate(90 minutes)", "or 30 minutes"),
        ("rate(5 hours)", "4, 6"),
        ("rate(2 days)", "1 or 7 days"),
        ("rate(0 minutes)", "every 0 minutes"),
        ("rate(five minutes)", "rate(10 minutes)"),
        ("rate(1 week)", "rate(1 day)"),
        ("", "has 0"),
        ("* * * *", "has 4"),
        ("cron(0 6 * * ? *)", "another system"),
        ("@reboot", "@daily"),
        ("60 * * * *", "minute '60'"),
        ("*/0 * * * *", "step from 1"),
        ("5-1 * * * *", "1-5"),
        ("* * * foo *", "month 'foo'"),
        ("* * * * 8", "day of week '8'"),
        ("* * ? * *", "day of month '?'"),
        ("1,,2 * * * *", "not readable"),
        ("5/10 * * * *", "*/10"),
        ("0 0 31 4,6 *", "never comes"),
        ("0 0 31 2 1", "never comes"),
    ],
)
def test_schedule_that_cannot_be_kept(text: str, words: str) -> None:
    """The message says what would do instead."""
    with pytest.raises(ScheduleProblem) as caught:
        to_cron(text)
    assert words in str(caught.value)
    assert "; " in str(caught.value)


_PART = st.from_regex(r"\A(\*|[0-9]{1,2}(-[0-9]{1,2})?)(/[0-9]{1,2})?(,[0-9]{1,2})?\Z")


@settings(max_examples=150, deadline=None)
@given(st.lists(_PART, min_size=5, max_size=5))
def test_dagster_takes_what_is_taken_here(parts: list[str]) -> None:
    """No schedule passes validation and fails when Dagster's definitions load."""
    try:
        cron = to_cron(" ".join(parts))
    except ScheduleProblem:
        return
    assert is_valid_cron_schedule(cron)
