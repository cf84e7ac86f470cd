"""Every DAG file in ``tests/specs/invalid`` gives exactly the messages in the file beside it."""

import re
from pathlib import Path

import pytest

from trace_dagster.operators.registry import catalog
from trace_dagster.spec.resolve import load_dags

SPECS = Path(__file__).parents[2] / "specs"
FILES = sorted((SPECS / "invalid").glob("*.yaml"))
SETS = sorted(path for path in (SPECS / "invalid_sets").iterdir() if path.is_dir())
SECRETS = (
    "Zm9vYmFyYmF6cXV4",
    "api_key=abc",
    "hunter22",
    "AKIAIOSFODNN7EXAMPLE",
    "correct horse",
    "4c0883a69102",
    "abcdefghijklmnop",
    "eyJhbGci",
    "9f86d081884c",
    "MHQCAQEEIBn5",
    "ghp_",
    "alchemy",
    "infura",
)
MESSAGE = re.compile(r"[\w.]+\.yaml:[1-9][0-9]*:[1-9][0-9]*: [^ ]+: [^;]+; .+")


def _messages(path: Path, folder: Path) -> list[str]:
    return [str(problem).replace(f"{folder}/", "") for problem in load_dags(path, catalog()).problems]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_gives_its_messages(path: Path) -> None:
    """A file that is not valid gives every problem in it, and loads nothing."""
    messages = _messages(path, path.parent)
    assert messages == path.with_suffix(".txt").read_text().splitlines()
    assert all(MESSAGE.fullmatch(message) for message in messages), messages
    assert load_dags(path, catalog()).dags == ()


@pytest.mark.parametrize("folder", SETS, ids=lambda path: path.name)
def test_set_gives_its_messages(folder: Path) -> None:
    """Files that do not fit together give their problems, each in the file that has to change."""
    messages = _messages(folder, folder)
    assert messages == (folder / "expected.txt").read_text().splitlines()


@pytest.mark.parametrize(
    ("name", "loaded"),
    [
        ("name_of_a_broken_file", ["monad"]),
        ("dag_name_twice", ["monad"]),
        ("one_place_in_two_dags", ["first"]),
        ("published_name_twice", ["first"]),
        ("reads_broken_file", []),
    ],
)
def test_what_still_loads_of_a_set(name: str, loaded: list[str]) -> None:
    """A name or place that two files claim goes to one that is valid; only readers of broken files fall."""
    assert [dag.name for dag in load_dags(SPECS / "invalid_sets" / name, catalog()).dags] == loaded


def test_there_are_enough_examples() -> None:
    """No example got lost: a glob that matches nothing would pass silently."""
    assert len(FILES) > 80
    assert len(SETS) >= 7


@pytest.mark.parametrize(
    "name", ["provider_url", "secrets", "secret_in_comment", "secret_as_key", "secret_as_name"]
)
def test_messages_never_show_a_secret(name: str) -> None:
    """What was found to be a secret does not get into logs by being reported."""
    path = SPECS / "invalid" / f"{name}.yaml"
    shown = "\n".join(_messages(path, path.parent))
    for secret in SECRETS:
        assert secret not in shown
