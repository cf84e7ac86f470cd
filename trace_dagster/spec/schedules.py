"""When a cron source fires: cron text of five fields, or ``rate(...)``."""

import re
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["ScheduleProblem", "to_cron"]

_RATE = re.compile(r"rate\(\s*([0-9]{1,9})\s+(minute|hour|day)s?\s*\)")
_MACROS: Mapping[str, str] = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MINUTES_THAT_FIT = (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)
_HOURS_THAT_FIT = (1, 2, 3, 4, 6, 8, 12)
_RATES_THAT_FIT: Mapping[int, str] = {
    **{n: "* * * * *" if n == 1 else f"*/{n} * * * *" for n in _MINUTES_THAT_FIT},
    **{n * 60: "0 * * * *" if n == 1 else f"0 */{n} * * *" for n in _HOURS_THAT_FIT},
    24 * 60: "0 0 * * *",
    7 * 24 * 60: "0 0 * * 0",
}
_MINUTES = {"minute": 1, "hour": 60, "day": 24 * 60}
_THAT_FIT = {
    "minute": "1, 2, 3, 4, 5, 6, 10, 12, 15, 20 or 30 minutes",
    "hour": "1, 2, 3, 4, 6, 8 or 12 hours",
    "day": "1 or 7 days",
}
_EXAMPLE = 'write cron text such as "0 6 * * *" or a rate such as rate(10 minutes)'


class ScheduleProblem(ValueError):
    """A schedule that cannot be kept; the text says what is wrong; what to write."""


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()
    first_word: int = 0


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field(
        "month",
        1,
        12,
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
        1,
    ),
    _Field("day of week", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
_LONGEST_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def to_cron(text: str) -> str:
    """Return the five-field cron text that fires exactly as ``text`` says, in UTC.

    Args:
        text: cron text, a macro such as ``@daily``, or ``rate(N minutes|hours|days)``.

    Raises:
        ScheduleProblem: it is no schedule, never fires, or is a rate that cron cannot say exactly.
    """
    stripped = text.strip()
    if stripped.lower().startswith("rate"):
        return _rate_to_cron(stripped)
    if stripped.startswith("@"):
        return _macro_to_cron(stripped)
    fields = stripped.split()
    if stripped.startswith("cron("):
        raise ScheduleProblem(f"cron(...) is another system's form; {_EXAMPLE}")
    if len(fields) != len(_FIELDS):
        raise ScheduleProblem(
            f"a schedule has 5 fields (minute hour day month weekday), this has {len(fields)}; {_EXAMPLE}"
        )
    values = [_read_field(field, part) for field, part in zip(_FIELDS, fields, strict=True)]
    _check_that_it_fires(values)
    return " ".join(fields)


def _macro_to_cron(text: str) -> str:
    if text.lower() not in _MACROS:
        raise ScheduleProblem(f"no such schedule; write one of {', '.join(_MACROS)}, or cron text")
    return _MACROS[text.lower()]


def _rate_to_cron(text: str) -> str:
    match = _RATE.fullmatch(text)
    if match is None:
        raise ScheduleProblem(
            "a rate is a whole number and a unit; write rate(10 minutes), rate(2 hours) or rate(1 day)"
        )
    count, unit = int(match[1]), match[2]
    cron = _RATES_THAT_FIT.get(count * _MINUTES[unit])
    if cron is None:
        raise ScheduleProblem(f"cron cannot say every {count} {unit}s exactly; write {_THAT_FIT[unit]}")
    return cron


def _read_field(field: _Field, text: str) -> frozenset[int]:
    """Return every value that ``text`` names, e.g. ``1-5/2,10``."""
    return frozenset(value for part in text.split(",") for value in _read_part(field, part))


def _read_part(field: _Field, text: str) -> range:
    span, slash, step_text = text.partition("/")
    low_text, dash, high_text = span.partition("-")
    if span == "*":
        low, high = field.low, field.high
    elif slash and not dash:
        raise _unreadable(field, text, f"write */{step_text or 'N'} or a-b/{step_text or 'N'}")
    else:
        low = _read_value(field, low_text, text)
        high = _read_value(field, high_text, text) if dash else low
    if high < low:
        raise _unreadable(field, text, f"write the smaller first, e.g. {high}-{low}")
    step = int(step_text) if re.fullmatch(r"[0-9]{1,3}", step_text) else 0
    if slash and not 1 <= step <= field.high:
        raise _unreadable(field, text, f"write a step from 1 to {field.high}")
    return range(low, high + 1, step or 1)


def _read_value(field: _Field, text: str, whole: str) -> int:
    if text.lower() in field.words:
        return field.words.index(text.lower()) + field.first_word
    value = int(text) if re.fullmatch(r"[0-9]{1,3}", text) else -1
    if not field.low <= value <= field.high:
        raise _unreadable(
            field, whole, f"write {field.low} to {field.high}, *, a-b, */n or a list with commas"
        )
    return value


def _unreadable(field: _Field, text: str, mend: str) -> ScheduleProblem:
    return ScheduleProblem(f"{field.name} {text[:40]!r} is not readable; {mend}")


def _check_that_it_fires(values: list[frozenset[int]]) -> None:
    # Dagster refuses such a date even beside a weekday, on which cron would fire.
    days, months = values[2], values[3]
    if min(days) > max(_LONGEST_MONTH[month - 1] for month in months):
        raise ScheduleProblem("this date never comes; write a day that the month has")
