"""A real Postgres and an S3 server, once for all tests of a process."""

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import boto3
import psycopg
import pytest
from moto.server import ThreadedMotoServer

from trace_dagster.ledger import Ledger, open_ledger
from trace_dagster.settings import Settings
from trace_dagster.store import ObjectStore, open_store


@pytest.fixture(scope="session")
def trace_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The TRACE_HOME whose embedded Postgres all tests of this process share."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def ledger(trace_home: Path) -> Iterator[Ledger]:
    """A ledger in an embedded Postgres; use task keys and store roots of your own."""
    with open_ledger(Settings.from_environment({"TRACE_HOME": str(trace_home)})) as opened:
        yield opened


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[Mapping[str, str]]:
    """AWS_* variables of an S3 server on a free port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_REGION": "us-east-1",
    }
    server.stop()


@pytest.fixture
def bucket_url(s3_environment: Mapping[str, str]) -> str:
    """The s3:// URL of a folder in a fresh bucket."""
    client = boto3.client(
        "s3",
        endpoint_url=s3_environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=s3_environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=s3_environment["AWS_SECRET_ACCESS_KEY"],
        region_name=s3_environment["AWS_REGION"],
    )
    bucket = f"trace-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=bucket)
    return f"s3://{bucket}/cold"


@pytest.fixture(params=["file", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The root of an empty store, once a folder and once a bucket."""
    if request.param == "file":
        return (tmp_path / "store").as_uri()
    return str(request.getfixturevalue("bucket_url"))


@pytest.fixture
def store(store_url: str, s3_environment: Mapping[str, str]) -> ObjectStore:
    """An empty store, once a folder and once a bucket."""
    return open_store(store_url, s3_environment)


def expire_leases(ledger: Ledger, task_key: str) -> None:
    """Let the lease of a task run out now, as if no heartbeat had come for its whole length."""
    with psycopg.connect(ledger.conninfo) as connection:
        connection.execute(
            "UPDATE trace.tasks SET lease_expires_at = '-infinity' WHERE task_key = %s", [task_key]
        )
