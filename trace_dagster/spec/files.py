"""Which files a DAG spec setting names, and their bytes."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from trace_dagster.spec.document import MAX_BYTES
from trace_dagster.spec.problems import Problem

__all__ = ["find_files", "read_file", "show_path"]

_SUFFIXES: Final = frozenset({".yaml", ".yml"})
_MAGIC: Final = frozenset("*?[")


def find_files(specs: str | Path | Iterable[str | Path]) -> tuple[tuple[Path, ...], tuple[Problem, ...]]:
    """Return the files that folders, files and globs name, each once, and what names none.

    A folder stands for its ``*.yaml`` and ``*.yml``, sorted, without hidden files and without sub-folders.
    """
    found: dict[str, Path] = {}
    problems: list[Problem] = []
    for spec in [specs] if isinstance(specs, str | Path) else specs:
        paths = _expand(str(spec))
        if isinstance(paths, Problem):
            problems.append(paths)
            continue
        for path in paths:
            found.setdefault(os.path.realpath(path), path)
    return tuple(found.values()), tuple(problems)


def read_file(path: Path) -> bytes | Problem:
    """Return what the file holds, or why it cannot be read."""
    try:
        if not path.is_file():
            return _about(str(path), "is no file", "name a YAML file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        return _about(str(path), f"cannot be read: {error.strerror}", "mend its permissions or its path")
    if len(content) > MAX_BYTES:
        return _about(str(path), f"has more than {MAX_BYTES} bytes", "split it")
    return content


def _expand(spec: str) -> list[Path] | Problem:
    path = Path(spec)
    try:
        if path.is_dir():
            inside = sorted(path.iterdir())
            return [item for item in inside if item.suffix in _SUFFIXES and not item.name.startswith(".")]
        if path.exists():
            return [path]
        matches = sorted(glob.glob(spec, recursive=True)) if _MAGIC & set(spec) else []  # noqa: PTH207
    except (OSError, ValueError):
        return _about(spec, "cannot be read", "mend its permissions or its path")
    if matches:
        return [Path(match) for match in matches]
    what = "no file matches" if _MAGIC & set(spec) else "no such file or folder"
    return _about(spec, what, "name a folder, a file or a glob of DAG YAML, or set TRACE_DAG_SPECS")


def show_path(path: str | Path) -> str:
    """Return a path as it can be printed on one line, whatever bytes its name has."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(path).encode("utf-8", "backslashreplace").decode("utf-8")
    )


def _about(file: str, problem: str, mend: str) -> Problem:
    return Problem(show_path(file), 1, 1, "document", problem, mend)
