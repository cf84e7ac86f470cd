"""The production instance in ``deploy/``, loaded against a real Postgres and an S3 server."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import boto3
import dagster as dg
import psycopg
import pytest
import yaml
from dagster_aws.s3 import S3ComputeLogManager
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage

from tests.support.s3 import new_bucket
from trace_dagster.ledger import Ledger

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def instance_folder(
    tmp_path: Path, ledger: Ledger, s3_environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Return a DAGSTER_HOME with ``deploy/dagster.yaml``, and set the variables that it reads."""
    shutil.copy(REPOSITORY / "deploy" / "dagster.yaml", tmp_path)
    database = f"dagster_{tmp_path.name}".lower()
    with psycopg.connect(ledger.conninfo, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{database}"')
        info = connection.info
        url = f"postgresql+psycopg2://{info.user}@/{database}?host={info.host}&port={info.port}"
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", s3_environment["AWS_REGION"])
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)
    monkeypatch.setenv("DAGSTER_COMPUTE_LOG_BUCKET", new_bucket(s3_environment))
    return tmp_path


def test_a_run_is_stored_in_postgres_and_its_log_in_s3(
    instance_folder: Path, s3_environment: Mapping[str, str]
) -> None:
    """The instance loads, records a run and its materialization in Postgres, and uploads its compute log."""

    @dg.asset
    def something() -> None:
        print("said by the asset")

    with dg.DagsterInstance.from_config(str(instance_folder)) as instance:
        assert isinstance(instance.run_storage, PostgresRunStorage)
        assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
        assert isinstance(instance.schedule_storage, PostgresScheduleStorage)
        assert isinstance(instance.compute_log_manager, S3ComputeLogManager)
        run = dg.materialize([something], instance=instance)
        assert run.success
    with dg.DagsterInstance.from_config(str(instance_folder)) as instance:
        assert instance.get_run_by_id(run.run_id).is_success
        assert instance.get_latest_materialization_event(something.key) is not None
    bucket = os.environ["DAGSTER_COMPUTE_LOG_BUCKET"]
    client = boto3.client("s3", endpoint_url=s3_environment["AWS_ENDPOINT_URL"])
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
    out = next(key for key in keys if run.run_id in key and key.endswith(".out"))
    assert b"said by the asset" in client.get_object(Bucket=bucket, Key=out)["Body"].read()


@pytest.mark.parametrize("folder", [".", "deploy"])
def test_pools_hold_and_crashed_workers_lose_their_place(folder: str, tmp_path: Path) -> None:
    """Both instance files limit steps, not runs, to one until told otherwise, and free slots."""
    settings = yaml.safe_load((REPOSITORY / folder / "dagster.yaml").read_text())
    kept = {name: value for name, value in settings.items() if name not in ("storage", "compute_logs")}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(kept))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        pools = instance.get_concurrency_config().pool_config
        assert pools.pool_granularity is not None
        assert pools.pool_granularity.value == "op"
        assert pools.default_pool_limit == 1
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] > 0
        assert instance.run_retries_enabled
        assert not instance.telemetry_enabled
        assert instance.run_coordinator.dequeue_interval_seconds == 1


def test_the_workspace_names_one_code_server() -> None:
    """``deploy/workspace.yaml`` loads the location from a code server of its own."""
    (entry,) = yaml.safe_load((REPOSITORY / "deploy" / "workspace.yaml").read_text())["load_from"]
    assert entry["grpc_server"].keys() == {"host", "port", "location_name"}
