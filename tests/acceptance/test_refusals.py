"""What cannot work ends with one line that says why and what to do, and commits nothing."""

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
    """Materialize a partition, which must fail cleanly, and return what was printed."""
    done = project.materialize('key:"dag/ingest/*"', partition=partition, status=1)
    assert [path for path in project.objects() if path.endswith("_manifest.json")] == []
    assert project.staged() == []
    return done.output


def test_another_chain_at_the_endpoint(project: Project, node: Node) -> None:
    """The DAG's chain id is compared with the node's before anything is read."""
    project.write("dag.yaml", ingest_dag("dag", end_block=199, chunk_size=100, engine="cryo", chain_id=5))
    project.settings["TRACE_RPC_POOL_TEST_URL"] = node.anvil.url
    said = refused(project)
    assert "31337" in said
    assert "chain" in said


def test_a_range_beyond_the_head(project: Project, node: Node) -> None:
    """Blocks that the node does not have yet are named, with its head."""
    project.settings["TRACE_RPC_POOL_TEST_URL"] = node.anvil.url
    said = refused(project, "100_199")
    assert "block 199 does not exist yet at rpc_pool 'test', whose head is block 59" in said


def test_an_endpoint_that_does_not_answer(project: Project) -> None:
    """The pool and its variable are named, and the URL's path, where providers put their keys, is not."""
    project.settings["TRACE_RPC_POOL_TEST_URL"] = "http://127.0.0.1:9/v2/s3cr3t-k3y"
    said = refused(project)
    assert "TRACE_RPC_POOL_TEST_URL" in said
    assert "s3cr3t-k3y" not in said


def test_a_bucket_that_is_missing(project: Project, node: Node, s3_environment: Mapping[str, str]) -> None:
    """The bucket is named."""
    project.settings |= {
        **s3_environment,
        "TRACE_RPC_POOL_TEST_URL": node.anvil.url,
        "TRACE_OBJECT_STORE_URL": "s3://no-such-bucket/cold",
    }
    assert "no-such-bucket" in refused(project)


def test_postgres_that_is_down(project: Project, node: Node) -> None:
    """Its host is named, its password is not."""
    project.settings |= {
        "TRACE_RPC_POOL_TEST_URL": node.anvil.url,
        "TRACE_POSTGRES_URL": "postgresql://trace:s3cr3t-w0rd@127.0.0.1:9/trace",
    }
    said = refused(project)
    assert "127.0.0.1:9" in said
    assert "s3cr3t-w0rd" not in said


def test_a_retry_goes_on_where_the_last_try_failed(project: Project, node: Node) -> None:
    """In a run of many partitions, those that are committed and told are not told again by a retry."""
    dag = ingest_dag("dag", end_block=79, chunk_size=20, engine="native", max_attempts=3)
    project.write("dag.yaml", dag)
    project.settings["TRACE_RPC_POOL_TEST_URL"] = node.anvil.url
    done = project.materialize('key:"dag/ingest/*"', partition_range="20_39...60_79", status=1)
    assert "1 of 3 partitions failed" in done.output
    assert done.output.count("ASSET_MATERIALIZATION - ") == 2 * 3
    assert done.output.count("STEP_RESTARTED - ") == 2
