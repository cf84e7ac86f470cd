"""Collects what is wrong with one file, without ever showing a secret that the file holds."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from trace_dagster.spec.document import Document
from trace_dagster.spec.problems import Mark, Path, Problem, dotted, shown
from trace_dagster.spec.secrets import Finding, find_in_comment, find_secret

__all__ = ["Finder", "Findings"]

Finder = Callable[[Path, str, str], Finding | None]
"""From a value's path, the key that it stands under and its text, to what is secret about it."""

_HIDDEN = "<hidden>"
_COMMENT = re.compile(r"(?:^|\s)#(.*)")
_LONGEST_UNNOTICED = 3


def _find_in_dag(_path: Path, name: str, text: str) -> Finding | None:
    return find_secret(name, text)


class Findings:
    """Problems and warnings of one document, in any order, given out sorted by place.

    Args:
        document: what was read.
        find: says of a value whether it is secret.
        find_comment: says so of a comment.
    """

    def __init__(
        self,
        document: Document,
        *,
        find: Finder = _find_in_dag,
        find_comment: Callable[[str], Finding | None] = find_in_comment,
    ) -> None:
        self.document = document
        self._problems = list(document.problems)
        self._warnings: list[Problem] = []
        self._secret_paths: set[Path] = set()
        self._secrets: set[str] = set()
        self._find_secrets(find, find_comment)

    def add(self, path: Path, problem: str, mend: str, *, at_key: bool = False) -> None:
        """Add a problem, unless the value is no longer the one that was written."""
        if at_key or not self._is_told(path):
            self._problems.append(self._at(path, problem, mend, at_key=at_key))

    def warn(self, path: Path, problem: str, mend: str) -> None:
        """Add something that the file's author should know, but may leave as it is."""
        self._warnings.append(self._at(path, problem, mend, at_key=False))

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong so far."""
        return not self._problems

    def problems(self) -> tuple[Problem, ...]:
        """Return every problem once, sorted by line and column."""
        return tuple(sorted({self._conceal(problem) for problem in self._problems}))

    def warnings(self) -> tuple[Problem, ...]:
        """Return every warning once, sorted by line and column."""
        return tuple(sorted({self._conceal(warning) for warning in self._warnings}))

    def _at(self, path: Path, problem: str, mend: str, *, at_key: bool) -> Problem:
        mark = self.document.mark(path, at_key=at_key)
        return Problem(self.document.file, *mark, dotted(path), problem, mend)

    def _is_told(self, path: Path) -> bool:
        told = self.document.unreadable | self._secret_paths
        return any(path[:length] in told for length in range(len(path) + 1)) if told else False

    def _find_secrets(self, find: Finder, find_comment: Callable[[str], Finding | None]) -> None:
        for leaf in _leaves((), self.document.data):
            finding = find(leaf.path, leaf.name, leaf.text)
            if finding is not None:
                self._add_secret(leaf, finding)
        lines_told = {problem.line for problem in self._problems}
        for line, text in enumerate(self.document.text.splitlines(), start=1):
            comment = _COMMENT.search(text)
            finding = find_comment(comment[1]) if comment and line not in lines_told else None
            if comment and finding:
                mark = Mark(line, comment.start(1) + 1)
                self._problems.append(
                    Problem(self.document.file, *mark, "comment", finding.problem, finding.mend)
                )

    def _add_secret(self, leaf: "_Leaf", finding: Finding) -> None:
        path = leaf.path
        self._problems = [problem for problem in self._problems if problem.path != dotted(path)]
        self._problems.append(self._at(path, finding.problem, finding.mend, at_key=leaf.is_key))
        self._secret_paths.add(path)
        self._secrets |= _forms(leaf.text)

    def _conceal(self, problem: Problem) -> Problem:
        texts = (problem.path, problem.problem, problem.mend)
        if not any(secret in text for secret in self._secrets for text in texts):
            return problem
        place = (problem.file, problem.line, problem.column)
        return Problem(*place, *(self._conceal_text(text) for text in texts))

    def _conceal_text(self, text: str) -> str:
        for secret in sorted(self._secrets, key=len, reverse=True):
            if len(secret) > _LONGEST_UNNOTICED:
                text = text.replace(secret, _HIDDEN)
        return text


class _Leaf(NamedTuple):
    """A text or whole number, or a key: where it is, and the key that it stands under."""

    path: Path
    text: str
    name: str
    is_key: bool = False


def _leaves(path: Path, value: Any) -> Iterator[_Leaf]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield _Leaf((*path, key), key, "", is_key=True)
            yield from _leaves((*path, key), item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves((*path, index), item)
    elif isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        name = next((part for part in reversed(path) if isinstance(part, str)), "")
        yield _Leaf(path, str(value), name)


def _forms(secret: str) -> set[str]:
    """Return how a message may show ``secret``: as it is, on one line, escaped, shortened."""
    return {secret, " ".join(secret.split()), repr(secret)[1:-1], ascii(secret)[1:-1], shown(secret)[1:-1]}
