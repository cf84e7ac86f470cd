"""Mends for misspelt names."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["closest", "nearest"]

_MOST_SHOWN = 12


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that ``name`` most likely stands for, or None."""
    plain = {_plain(word): word for word in known}
    matches = get_close_matches(_plain(name)[:100], plain, n=1, cutoff=0.6)
    return plain[matches[0]] if matches else None


def nearest(name: str, known: Iterable[str]) -> str:
    """Return what to write instead of ``name``: ``did you mean 'x'?``, or else the known names."""
    words = list(known)
    match = closest(name, words)
    if match is not None:
        return f"did you mean {match!r}?"
    if not words:
        return "there is none to choose from"
    more = f" ... ({len(words)} in all)" if len(words) > _MOST_SHOWN else ""
    only = "write" if len(words) == 1 else "write one of"
    return f"{only} {', '.join(words[:_MOST_SHOWN])}{more}"


def _plain(word: str) -> str:
    return word.lower().replace("-", "_").replace(" ", "_")
