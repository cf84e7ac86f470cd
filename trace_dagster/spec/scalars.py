"""What an unquoted YAML scalar means here: YAML 1.2, and an error where YAML 1.1 readers disagree."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from trace_dagster.spec.fields import MAX_INTEGER

__all__ = ["AmbiguousScalar", "PlainValue", "read_plain"]

PlainValue = str | int | float | bool | None

_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_OLD_BOOLEANS: Mapping[str, str] = {
    **dict.fromkeys(("yes", "Yes", "YES", "on", "On", "ON"), "true"),
    **dict.fromkeys(("no", "No", "NO", "off", "Off", "OFF"), "false"),
}
_INTEGER = re.compile(r"[-+]?[0-9][0-9_]*")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_OTHER_BASE = re.compile(r"[-+]?0(o[0-7]+|b[01]+)")
_MOST_DIGITS = 400


class AmbiguousScalar(NamedTuple):
    """A scalar that readers of YAML understand differently, or cannot hold."""

    problem: str
    mend: str


def read_plain(text: str) -> PlainValue | AmbiguousScalar:
    """Return the value of an unquoted scalar.

    ``1_000_000`` is a number; ``0x...`` is text, because addresses, hashes and topics are written so; dates
    and times are text.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return _read_integer(text)
    if _FLOAT.fullmatch(text):
        return _read_float(text)
    return _ambiguity(text) or text


def _ambiguity(text: str) -> AmbiguousScalar | None:
    if text in _OLD_BOOLEANS:
        meant = _OLD_BOOLEANS[text]
        return AmbiguousScalar(
            f"unquoted {text} is {meant} to some YAML readers and text to others",
            f'write "{text}" in quotes for the text, or {meant}',
        )
    if _OTHER_BASE.fullmatch(text):
        return AmbiguousScalar(
            f"{text[:40]} is a number in another base", "write it in base ten, or in quotes"
        )
    if _SPECIAL_FLOAT.fullmatch(text):
        return AmbiguousScalar(
            f"{text} is no number that can be worked with", "write a number, or quote the text"
        )
    return None


def _read_integer(text: str) -> int | AmbiguousScalar:
    digits = text.lstrip("+-").replace("_", "")
    if len(digits) > 1 and digits.startswith("0"):
        shown = digits.lstrip("0")[:40] or "0"
        return AmbiguousScalar(
            "a number with a leading zero is octal to some YAML readers and decimal to others",
            f'write {shown}, or quotes for the text "{text[:40]}"',
        )
    if len(digits) > _MOST_DIGITS or abs(int(digits)) > MAX_INTEGER:
        return AmbiguousScalar(
            f"a number of {len(digits)} digits is past 64 bits",
            f"write at most {MAX_INTEGER}, or quote the text",
        )
    return -int(digits) if text.startswith("-") else int(digits)


def _read_float(text: str) -> float | AmbiguousScalar:
    value = float(text) if len(text) <= _MOST_DIGITS else math.inf
    if math.isinf(value):
        return AmbiguousScalar(f"{text[:40]} is past 64 bits", "write a smaller number, or quote the text")
    return value
