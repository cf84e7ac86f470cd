"""What is wrong with a DAG file, and where."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Mark", "Path", "Problem", "dotted", "shown", "split_message"]

Path = tuple[str | int, ...]
"""Keys and indexes from the root of a document to a value."""

_DEFAULT_MEND = "mend this value"


class Mark(NamedTuple):
    """A place in a file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong, or a warning.

    Attributes:
        file: the file, as it was asked for.
        line: from 1.
        column: from 1.
        path: keys and indexes, e.g. ``jobs[2].config.datasets[0]``; ``document`` for the whole file.
        problem: what is wrong.
        mend: what to write instead.
    """

    file: str
    line: int
    column: int
    path: str
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.path}: {self.problem}; {self.mend}"

    def to_json(self) -> Mapping[str, str | int]:
        """Return the fields by name."""
        return {name: getattr(self, name) for name in ("file", "line", "column", "path", "problem", "mend")}


def dotted(path: Path) -> str:
    """Return ``path`` as it is written for people, e.g. ``jobs[2].config.datasets[0]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in path)
    return text.removeprefix(".") or "document"


def _key(part: str) -> str:
    plain = part.isidentifier() and part.isascii() and len(part) <= 64
    return part if plain else shown(part)


def shown(value: object, most: int = 60) -> str:
    """Return ``value`` quoted on one line, shortened in the middle."""
    text = value if isinstance(value, str) else str(value)
    if len(text) > most:
        text = f"{text[: most - 10]}...{text[-7:]}"
    if not isinstance(value, str):
        return text
    return repr(text) if text.isprintable() else ascii(text)


def split_message(message: str) -> tuple[str, str]:
    """Split what a config's validator raised, ``what is wrong; what to write``, at its first ``; ``."""
    problem, _, mend = " ".join(message.split()).partition("; ")
    return problem, mend or _DEFAULT_MEND
