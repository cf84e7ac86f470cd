"""The JSON Schema that editors read."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from trace_dagster.operators.registry import catalog
from trace_dagster.spec.document import read_document
from trace_dagster.spec.json_schema import dag_schema

ROOT = Path(__file__).parents[3]
SPECS = ROOT / "tests" / "specs"


def _errors(path: Path) -> list[str]:
    data = read_document(path.name, path.read_bytes()).data
    return [error.message for error in Draft202012Validator(dag_schema(catalog())).iter_errors(data)]


def test_committed_schema_is_current() -> None:
    """docs/dag.schema.json is what ``trace schema`` prints; run ``trace schema > docs/dag.schema.json``."""
    committed = json.loads((ROOT / "docs" / "dag.schema.json").read_text())
    assert committed == json.loads(json.dumps(dag_schema(catalog())))


def test_schema_is_valid() -> None:
    """The schema is one itself."""
    Draft202012Validator.check_schema(dag_schema(catalog()))


@pytest.mark.parametrize("path", sorted((SPECS / "valid").glob("*.yaml")), ids=lambda path: path.stem)
def test_valid_dags_pass(path: Path) -> None:
    """An editor marks nothing in a file that loads."""
    assert _errors(path) == []


@pytest.mark.parametrize(
    "name",
    [
        "append_without_unique_key",
        "cron_without_schedule",
        "misplaced_fields",
        "misspelt_keys",
        "misspelt_values",
        "out_of_bounds",
        "reactive_without_inputs",
        "reserved_fields",
        "source_without_source",
        "wrong_types",
    ],
)
def test_editors_mark_what_is_wrong(name: str) -> None:
    """What can be said in a schema is marked while it is typed."""
    assert _errors(SPECS / "invalid" / f"{name}.yaml") != []
