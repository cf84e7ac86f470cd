"""The sizes of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg
import pytest

from trace_dagster.run_coordinator import SizedRunCoordinator, tags_of_all


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([], {}),
        ([{"ecs/cpu": "256"}], {"ecs/cpu": "256"}),
        (
            [{"ecs/cpu": "2048"}, {"ecs/cpu": "512", "ecs/memory": "1024"}],
            {"ecs/cpu": "2048", "ecs/memory": "1024"},
        ),
        ([{"ecs/cpu": "512"}, {"ecs/cpu": "2048"}], {"ecs/cpu": "2048"}),
        ([{"team": "b"}, {"team": "a"}], {"team": "b"}),
    ],
)
def test_a_run_of_several_jobs_fits_the_largest(
    jobs: Sequence[Mapping[str, str]], expected: Mapping[str, str]
) -> None:
    """Whole numbers are compared as numbers; of other values the first job's is taken."""
    assert tags_of_all(jobs) == expected


def test_the_instance_file_is_checked(tmp_path: Path) -> None:
    """A tag's value that is no text is refused by Dagster with the place of it."""
    (tmp_path / "dagster.yaml").write_text(
        "run_coordinator:\n  module: trace_dagster.run_coordinator\n  class: SizedRunCoordinator\n"
        "  config: {runtime_tags: {ecs_platform: {ecs/cpu: 2048}}}\n"
    )
    with (
        dg.DagsterInstance.from_config(str(tmp_path)) as instance,
        pytest.raises(dg.DagsterInvalidConfigError, match="runtime_tags:'ecs_platform':value:'ecs/cpu'"),
    ):
        assert isinstance(instance.run_coordinator, SizedRunCoordinator)
