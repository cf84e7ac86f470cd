"""JSON from strangers: nesting is bounded, whatever the interpreter's recursion limit is.

The standard library's parser stops at that limit. Some packages, once imported, raise it so far that the C
stack ends first, and a reply of nothing but brackets would kill the process.
"""

import json
import math
import re
import sys
from itertools import accumulate
from typing import Any, Final, NoReturn

__all__ = ["MAX_DEPTH", "depth", "loads"]

MAX_DEPTH: Final = 500
_SAFE_RECURSION_LIMIT: Final = 5_000
_STRING: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKETS: Final = re.compile(r"[^\[\]{}]+")


def loads(text: str) -> Any:
    """Return what ``text`` holds.

    Raises:
        ValueError: it is no JSON, NaN and Infinity are in it, or it is nested deeper than ``MAX_DEPTH``.
    """
    if sys.getrecursionlimit() > _SAFE_RECURSION_LIMIT and depth(text) > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_float)
    except RecursionError:
        pass
    raise ValueError("nested too deeply")


def _float(text: str) -> float | str:
    """Return the number, or its text where it is beyond floats: an infinity could not be written as JSON."""
    number = float(text)
    return number if math.isfinite(number) else text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def depth(text: str) -> int:
    """Return how deep brackets are nested; an upper bound where that is below ``MAX_DEPTH``."""
    opening = text.count("[") + text.count("{")
    if opening <= MAX_DEPTH:
        return opening
    brackets = _NO_BRACKETS.sub("", _STRING.sub("", text))
    return max(accumulate(1 if one in "[{" else -1 for one in brackets), default=0)
