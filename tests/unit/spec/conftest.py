"""The folders of DAG files that tests read, and the operators that they name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from trace_dagster.operators.registry import catalog
from trace_dagster.spec.resolve import LoadResult, load_dags

SPECS = Path(__file__).parents[2] / "specs"


@pytest.fixture
def specs() -> Path:
    """The folder of example DAG files."""
    return SPECS


@pytest.fixture
def load_text(tmp_path: Path) -> Callable[[str], LoadResult]:
    """Loads a text as the file ``dag.yaml``."""

    def load(text: str) -> LoadResult:
        path = tmp_path / "dag.yaml"
        path.write_text(text)
        return load_dags(path, catalog())

    return load
