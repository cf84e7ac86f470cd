"""The commands that read DAG files."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trace_dagster.build import build_definitions
from trace_dagster.cli import main
from trace_dagster.cli.plan import POOL_SENSOR, describe
from trace_dagster.operators.registry import catalog
from trace_dagster.spec.resolve import load_dags
from trace_dagster.translator.pools import pool_limits

ROOT = Path(__file__).parents[3]
SPECS = ROOT / "tests" / "specs"


def _trace(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)


def test_validate_says_ok() -> None:
    """Valid files give one line, and status 0."""
    result = _trace("validate", SPECS / "valid" / "run_time.yaml", SPECS / "valid" / "seed_example.yaml")
    assert (result.exit_code, result.output) == (0, "ok: 2 DAGs, 5 jobs\n")


def test_validate_prints_every_problem_and_exits_with_2() -> None:
    """Problems go to stderr, one a line, those of several files together."""
    files = [SPECS / "invalid" / name for name in ("unclosed_quote.yaml", "cycle.yaml")]
    result = _trace("validate", *files, SPECS / "valid" / "run_time.yaml")
    assert (result.exit_code, result.stdout) == (2, "")
    expected = [file.with_suffix(".txt").read_text().splitlines() for file in files]
    assert result.stderr.replace(f"{SPECS / 'invalid'}/", "").splitlines() == [*expected[0], *expected[1]]


def test_validate_reads_trace_dag_specs(tmp_path: Path) -> None:
    """Without paths, the environment says what to check; warnings are shown, and are no failure."""
    text = (ROOT / "dag_specs" / "monad.yaml").read_text()
    (tmp_path / "monad.yaml").write_text(text.replace("timeout_seconds: 3600", "secrets: [key]"))
    result = _trace("validate", TRACE_DAG_SPECS=str(tmp_path))
    assert (result.exit_code, result.stdout) == (0, "ok: 1 DAG, 4 jobs\n")
    assert result.stderr.startswith("warning: ")


def test_validate_of_nothing_fails() -> None:
    """A misspelt folder is no success."""
    result = _trace("validate", TRACE_DAG_SPECS=str(ROOT / "dag_spec"))
    assert result.exit_code == 2
    assert "no such file or folder" in result.stderr


def test_validate_of_a_folder_without_dags_fails(tmp_path: Path) -> None:
    """Folders are not searched below, so a wrong level is no success either."""
    (tmp_path / "below").mkdir()
    result = _trace("validate", tmp_path)
    assert result.exit_code == 2
    assert f"no DAG files in {tmp_path}" in result.stderr


@pytest.mark.parametrize("hours", ["nan", "inf", "1e12", "-1", "x"])
def test_gc_takes_only_hours(hours: str) -> None:
    """What is no time span is refused by name."""
    result = _trace("gc", "--older-than-hours", hours)
    assert result.exit_code == 2
    assert "--older-than-hours" in result.stderr


def test_validate_as_json() -> None:
    """Machines get the same problems, field by field."""
    result = _trace("validate", "--json", SPECS / "invalid" / "unknown_job.yaml")
    assert result.exit_code == 2
    (problem,) = json.loads(result.stdout)["problems"]
    assert (problem["line"], problem["column"]) == (15, 30)
    assert problem["mend"] == "did you mean 'range_request'?"


def test_unusable_setting_is_a_message() -> None:
    """A wrong environment variable is named, without a traceback."""
    result = _trace("validate", TRACE_CRYO_ENGINE="kryo")
    assert result.exit_code == 2
    assert "TRACE_CRYO_ENGINE" in result.stderr


def test_plan_shows_what_a_dag_compiles_to() -> None:
    """Jobs, partitions, blocks, requests, assets, pools, launchable jobs and sensors are all there."""
    result = _trace("plan", ROOT / "dag_specs")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "cryo_bootstrap cryo_ingest PerPartition 1,000 1,000 1,000,000 about 5,000,000 3 3600 s" in lines
    assert "block_follower block_follower always_on - - - - 3 -" in lines
    assert "monad/cryo_bootstrap/blocks parquet monad/range_split/ranges cold_blocks" in lines
    assert "pool monad/cryo_bootstrap: 20 at once" in lines
    assert "launchable job monad__range_request: asks for a block range" in lines
    sensors = "trace_pools (keeps 1 pool limits as written), monad__block_follower__follow (keeps it going)"
    assert f"sensors: {sensors}" in lines


def test_plan_is_a_drawn_table_on_a_wide_terminal() -> None:
    """On a terminal the tables are rich's, as long as nothing has to be cut."""
    leader, follower = os.openpty()
    code = "from trace_dagster.cli import main; main()"
    arguments = [sys.executable, "-c", code, "plan", str(SPECS / "valid" / "seed_example.yaml")]
    environment = {**os.environ, "COLUMNS": "160", "LINES": "50", "TERM": "xterm"}
    with subprocess.Popen(arguments, stdout=follower, env=environment) as process:
        os.close(follower)
        shown = b""
        with contextlib.suppress(OSError):  # how Linux tells that the other end is closed
            while chunk := os.read(leader, 65536):
                shown += chunk
        os.close(leader)
    assert process.returncode == 0
    assert "┃" in shown.decode()
    assert "cryo_bootstrap" in shown.decode()


def test_plan_shows_schedules_and_run_time_ranges() -> None:
    """A cron source is shown as Dagster's schedule; ranges asked for later have an estimate all the same."""
    result = _trace("plan", SPECS / "valid" / "yaml_forms.yaml", SPECS / "valid" / "run_time.yaml")
    assert "schedule yaml_forms__range_request__schedule: 0 0 * * * UTC" in result.stdout
    assert "at run time" in result.stdout
    assert "for 1,000 blocks" in result.stdout


def test_plan_as_json() -> None:
    """Machines get the same plan."""
    plan = json.loads(_trace("plan", "--json", ROOT / "dag_specs").stdout)
    (dag,) = plan["dags"]
    jobs = {job["job"]: job for job in dag["jobs"]}
    assert (jobs["cryo_bootstrap"]["partitions"], jobs["cryo_bootstrap"]["blocks"]) == (1000, 1_000_000)
    assert dag["pools"] == {"monad/cryo_bootstrap": 20}
    assert plan["sensors"] == ["trace_pools", "monad__block_follower__follow"]


def test_plan_shows_the_rest_beside_broken_files() -> None:
    """A broken file is reported, and the status tells of it."""
    result = _trace("plan", SPECS / "invalid" / "cycle.yaml", SPECS / "valid" / "run_time.yaml")
    assert result.exit_code == 2
    assert "a cycle" in result.stderr
    assert "DAG run_time" in result.stdout


def test_schema_prints_the_committed_schema() -> None:
    """Redirecting the command is how the committed file is renewed."""
    assert json.loads(_trace("schema").stdout) == json.loads((ROOT / "docs" / "dag.schema.json").read_text())


def test_unknown_command_is_told() -> None:
    """A misspelt command is an ordinary usage error."""
    result = _trace("valdate")
    assert result.exit_code == 2
    assert "No such command" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [("['--help']", "pydantic"), (f"['validate', {str(SPECS / 'valid' / 'run_time.yaml')!r}]", "dagster")],
)
def test_commands_import_only_what_they_need(arguments: str, absent: str) -> None:
    """Help is instant, and checking a file does not wait for Dagster."""
    code = (
        "import sys; from trace_dagster.cli import main\n"
        f"main({arguments}, standalone_mode=False)\nsys.exit({absent!r} in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_plan_names_things_as_the_translator_does() -> None:
    """What the plan calls a pool, job, schedule or sensor is what Dagster's UI calls it."""
    loaded = load_dags(SPECS / "valid", catalog())
    plans = [describe(dag) for dag in loaded.dags]
    definitions = build_definitions(str(SPECS / "valid"), environment={})
    repository = definitions.get_repository_def()
    assert pool_limits(loaded.dags) == {name: limit for plan in plans for name, limit in plan.pools.items()}
    assert {name for plan in plans for name in plan.launchable_jobs} <= set(repository.job_names)
    schedules = {schedule.name: schedule.cron_schedule for schedule in repository.schedule_defs}
    assert schedules == {name: cron for plan in plans for name, cron in plan.schedules.items()}
    sensors = {POOL_SENSOR, *(name for plan in plans for name in plan.sensors)}
    automatic = "default_automation_condition_sensor"  # Dagster's own, for the lag check
    assert {sensor.name for sensor in repository.sensor_defs} == {*sensors, automatic}
    assert sensors >= {"aggregated__tip__follow", "aggregated__full__aggregate"}
    keys = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    assert keys == {asset.key for plan in plans for asset in plan.assets}
