"""What cannot work ends with one line that says why and what to do, and commits nothing."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.acceptance.conftest import Node
from tests.support.dags import ingest_dag
from tests.support.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project whose DAG asks for more blocks than the node has."""
    made = Project(tmp_path / "project")
    made.write("dag.yaml", ingest_dag("dag", end_block=199, chunk_size=100, engine="cryo"))
    return made


def refused(project: Project, partition: str = "0_99") -> str:
    """Materialize a partition, which must fail cleanly, and return the step's own reason, one line."""
    done = project.materialize('key:"dag/ingest/*"', partition=partition, status=1)
    assert [path for path in project.objects() if path.endswith("_manifest.json")] == []
    assert project.staged() == []
    reason = re.search(r"STEP_FAILURE - .*\n\n.*Failure: (.+(?:\n.+)*)\n\nStack Trace:", done.output)
    assert reason is not None, done.output
    assert "\n" not in reason[1]
    assert "s3cr3t" not in done.output
    return reason[1]


def test_another_chain_at_the_endpoint(project: Project, node: Node) -> None:
    """The DAG's chain id is compared with the node's before anything is read."""
    project.write("dag.yaml", ingest_dag("dag", end_block=199, chunk_size=100, engine="cryo", chain_id=5))
    project.settings["TRACE_RPC_POOL_TEST_URL"] = node.anvil.url
    assert refused(project) == (
        "partition 0_99: rpc_pool 'test' serves chain 31337, but the job's chain_id is 5; "
        "correct chain_id or rpc_pool"
    )


def test_a_range_beyond_the_head(project: Project, node: Node) -> None:
    """Blocks that the node does not have yet are named, with its head."""
    project.settings["TRACE_RPC_POOL_TEST_URL"] = node.anvil.url
    assert refused(project, "100_199") == (
        "partition 100_199: block 199 does not exist yet at rpc_pool 'test', whose head is block 59; "
        "lower end_block to 59 or less, or wait for 140 more blocks"
    )


def test_an_endpoint_that_does_not_answer(project: Project) -> None:
    """The pool and its variable are named, and the URL's path, where providers put their keys, is not."""
    project.settings["TRACE_RPC_POOL_TEST_URL"] = "http://127.0.0.1:9/v2/s3cr3t-k3y"
    assert refused(project) == (
        "partition 0_99: rpc_pool 'test' at http://127.0.0.1:9/... cannot be reached: connection refused; "
        "check TRACE_RPC_POOL_TEST_URL and the network"
    )


def test_a_bucket_that_is_missing(project: Project, node: Node, s3_environment: Mapping[str, str]) -> None:
    """The bucket is named."""
    project.settings |= {
        **s3_environment,
        "TRACE_RPC_POOL_TEST_URL": node.anvil.url,
        "TRACE_OBJECT_STORE_URL": "s3://no-such-bucket/cold",
    }
    assert refused(project) == (
        "partition 0_99: object store s3://no-such-bucket/cold at "
        f"{s3_environment['AWS_ENDPOINT_URL']}: the bucket does not exist; "
        "create it, or correct TRACE_OBJECT_STORE_URL (404 NoSuchBucket)"
    )


def test_postgres_that_is_down(project: Project, node: Node) -> None:
    """Its host is named, its password is not. The DAG publishes a name, the first thing asked of it."""
    project.settings |= {
        "TRACE_RPC_POOL_TEST_URL": node.anvil.url,
        "TRACE_POSTGRES_URL": "postgresql://trace:s3cr3t-w0rd@127.0.0.1:9/trace",
    }
    assert refused(project) == (
        "partition 0_99: Postgres at postgresql://127.0.0.1:9/...: connection failed: connection to "
        'server at "127.0.0.1", port 9 failed: Connection refused; '
        "check TRACE_POSTGRES_URL and that the server runs"
    )


def test_a_retry_goes_on_where_the_last_try_failed(project: Project, node: Node) -> None:
    """In a run of many partitions, those that are committed and told are not told again by a retry."""
    dag = ingest_dag("dag", end_block=79, chunk_size=20, engine="native", max_attempts=3)
    project.write("dag.yaml", dag)
    project.settings["TRACE_RPC_POOL_TEST_URL"] = node.anvil.url
    done = project.materialize('key:"dag/ingest/*"', partition_range="20_39...60_79", status=1)
    assert "1 of 3 partitions failed" in done.output
    assert done.output.count("ASSET_MATERIALIZATION - ") == 2 * 3
    assert done.output.count("STEP_RESTARTED - ") == 2


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("TRACE_CRYO_ENGINE", "cyro", "TRACE_CRYO_ENGINE is 'cyro'; did you mean 'cryo'?"),
        ("TRACE_RPC_POOL_test_URL", "http://127.0.0.1:9", "name it TRACE_RPC_POOL_TEST_URL"),
        ("TRACE_HOME", "~nobody-here/x", "TRACE_HOME is '~nobody-here/x', and there is no such user's home"),
    ],
)
def test_a_setting_that_cannot_be_used(project: Project, variable: str, value: str, reason: str) -> None:
    """Loading fails, and the last thing said is which variable, and what to write."""
    project.settings[variable] = value
    done = project.materialize('key:"dag/ingest/*"', partition="0_99", status=1)
    assert reason in done.output.strip().splitlines()[-1]
    assert project.run("trace", "plan", str(project.specs), status=None).output.count("Traceback") == 0
