"""Which files are loaded, and what happens to those that cannot be read."""

import os
from pathlib import Path

import pytest

from trace_dagster.operators.registry import catalog
from trace_dagster.spec.document import MAX_BYTES
from trace_dagster.spec.files import find_files
from trace_dagster.spec.resolve import load_dags


def _names(*specs: str | Path) -> list[str]:
    paths, problems = find_files(specs)
    assert problems == ()
    return [path.name for path in paths]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with DAG files and others."""
    for name in ("b.yaml", "a.yml", ".hidden.yaml", "notes.md", "c[1].yaml"):
        (tmp_path / name).write_text("name: x\n")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.yaml").write_text("name: x\n")
    return tmp_path


def test_folder_stands_for_its_yaml_files(folder: Path) -> None:
    """Files of other kinds, hidden ones and sub-folders are left alone."""
    assert _names(folder) == ["a.yml", "b.yaml", "c[1].yaml"]


def test_globs_and_files_are_found_once(folder: Path) -> None:
    """A file named in two ways is loaded once; a name with brackets that exists is no glob."""
    assert _names(str(folder / "*.yaml"), folder / "b.yaml", folder / "c[1].yaml") == ["b.yaml", "c[1].yaml"]
    assert _names(str(folder / "**" / "d.yaml")) == ["d.yaml"]


@pytest.mark.parametrize(
    ("name", "cause"),
    [("absent", "no such file or folder"), ("*.toml", "no file matches"), ("a\0b", "no such file or folder")],
)
def test_nothing_found_is_a_problem(tmp_path: Path, name: str, cause: str) -> None:
    """A misspelt path is an error, not an empty set of DAGs."""
    result = load_dags(f"{tmp_path}/{name}", catalog())
    assert cause in str(result.problems[0])
    assert result.dags == ()


def test_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """A huge file is refused before it is parsed."""
    (tmp_path / "dag.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    (problem,) = load_dags(tmp_path, catalog()).problems
    assert str(MAX_BYTES) in problem.problem


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A pipe would block, and a folder or a broken link cannot be read."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    problems = load_dags(tmp_path, catalog()).problems
    assert [Path(problem.file).name for problem in problems] == ["folder.yaml", "loop.yaml", "pipe.yaml"]
    assert all("is no file" in problem.problem or "cannot be read" in problem.problem for problem in problems)


def test_name_that_is_not_utf8_can_be_shown(tmp_path: Path) -> None:
    """A file's odd name does not break the message about it."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.yaml")).write_text("name: x\n")
    for problem in load_dags(tmp_path, catalog()).problems:
        str(problem).encode("utf-8")
