"""Where some texts stand in another, in whatever encoding; pure."""

import base64
import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

__all__ = ["spans"]

# Of JSON and JavaScript, of URLs, and of HTML.
_ESCAPE: Final = re.compile(
    r"""\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[/"'\\])"""
    r"|%(?:u[0-9a-fA-F]{4}|[0-9a-fA-F]{2})"
    r"|&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});"
)
# Escapes of escapes of escapes.
_MOST_ROUNDS: Final = 6
_CAPITALS: Final = {one: one + 32 for one in range(ord("A"), ord("Z") + 1)}
_SHORTEST_NEEDLE: Final = 3
# Of what is shorter too little is left, e.g. in base64, to be told from other text.
_SHORTEST_PART: Final = 6
_OF_BASE64: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-"
_WIDEST: Final = 1_024
_HEX_FIRST: Final = re.compile("[0-9a-fA-F]{2}")
_BITS_OF_BYTE: Final = 8
_BITS_OF_CHARACTER: Final = 6


@dataclass(frozen=True, slots=True)
class _Undone:
    """A text with some rounds of escapes undone.

    Attributes:
        text: as it then is.
        begins: where in the first text what stands for each character begins.
        ends: where that ends, exclusive.
    """

    text: str
    begins: list[int]
    ends: list[int]


def spans(text: str, secrets: Iterable[str]) -> list[tuple[int, int]]:
    """Return where any of ``secrets`` stands in ``text``: begin and exclusive end, in order, apart.

    Found is what was escaped as in JSON, URLs or HTML, several times, too, is part of something in base64,
    is written in hex, has other capitals, or a space for a plus.
    """
    plain, coded = _needles(tuple(secrets))
    found: list[tuple[int, int]] = []
    for undone in _rounds(text):
        folded = _folded(undone.text)
        places = [place for needle in plain for place in _places(folded, needle)]
        places += [_widened(undone.text, place) for needle in coded for place in _places(folded, needle)]
        found += [(undone.begins[begin], undone.ends[end - 1]) for begin, end in places]
    return _merged(found)


def _rounds(text: str) -> Iterator[_Undone]:
    undone = _Undone(text, [*range(len(text))], [*range(1, len(text) + 1)])
    yield undone
    for _ in range(_MOST_ROUNDS):
        if _ESCAPE.search(undone.text) is None:
            return
        undone = _undo(undone)
        yield undone


def _undo(before: _Undone) -> _Undone:
    """Undo one round of escapes."""
    pieces: list[str] = []
    begins: list[int] = []
    ends: list[int] = []
    at = 0
    for escape in _ESCAPE.finditer(before.text):
        begin, end = escape.span()
        meant = _meant(escape[0])
        pieces += before.text[at:begin], meant
        begins += before.begins[at:begin] + [before.begins[begin]] * len(meant)
        ends += before.ends[at:begin] + [before.ends[end - 1]] * len(meant)
        at = end
    pieces.append(before.text[at:])
    return _Undone("".join(pieces), begins + before.begins[at:], ends + before.ends[at:])


def _meant(escape: str) -> str:
    if escape.startswith("&"):
        return html.unescape(escape)
    digits = escape[1:].lstrip("ux")
    return chr(int(digits, 16)) if digits.isalnum() else escape[1:]


@lru_cache(maxsize=256)
def _needles(secrets: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what to look for, without escapes and capitals: the secrets, and parts of their base64."""
    plain: set[str] = set()
    coded: set[str] = set()
    for secret in secrets:
        for one in {undone.text for undone in _rounds(secret)}:
            plain.add(_folded(one))
            if len(one) >= _SHORTEST_PART + 2 and _HEX_FIRST.match(one):
                plain.add(_folded(one[2:]))  # after a % that belongs to what is before it
            if len(one) >= _SHORTEST_PART:
                coded.update(_folded(part) for part in _parts_of_base64(one.encode(errors="replace")))
                plain.add(one.encode(errors="replace").hex())
    return tuple(one for one in plain if len(one) >= _SHORTEST_NEEDLE), tuple(coded)


def _parts_of_base64(data: bytes) -> Iterator[str]:
    """Return what of ``data`` is the same in the base64 of all that holds it, by where it begins there."""
    for before in range(3):
        text = base64.b64encode(bytes(before) + data).decode()
        begin = -(-before * _BITS_OF_BYTE // _BITS_OF_CHARACTER)
        end = (before + len(data)) * _BITS_OF_BYTE // _BITS_OF_CHARACTER
        yield text[begin:end]
        yield text[begin:end].replace("+", "-").replace("/", "_")


def _folded(text: str) -> str:
    """Return ``text``, character by character, without capitals of ASCII and with a plus for each space."""
    small = text.lower() if text.isascii() else text.translate(_CAPITALS)
    return small.replace(" ", "+")


def _places(text: str, needle: str) -> Iterator[tuple[int, int]]:
    begin = text.find(needle)
    while begin >= 0:
        yield begin, begin + len(needle)
        begin = text.find(needle, begin + 1)


def _widened(text: str, place: tuple[int, int]) -> tuple[int, int]:
    """Return the whole base64 around a place: what is next to it holds bits of the secret, too."""
    begin, end = place
    before, after = text[max(0, begin - _WIDEST) : begin], text[end : end + _WIDEST]
    return (
        begin - len(before) + len(before.rstrip(_OF_BASE64)),
        end + len(after) - len(after.lstrip(_OF_BASE64)),
    )


def _merged(found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(found):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged
