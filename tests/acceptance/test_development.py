"""``make dev`` with the URL of a pool: a gateway beside Dagster, and nothing left of either."""

import os
import signal
import time

import psutil

from tests.acceptance.conftest import Node
from tests.support.dags import ingest_dag
from tests.support.project import Project
from tests.support.stack import running_development
from trace_dagster.rpc import JsonRpcClient
from trace_dagster.settings import Settings


def settings_of(process: psutil.Process) -> dict[str, str]:
    """Return the settings of this project that a process has."""
    return {name: value for name, value in process.environ().items() if name.startswith("TRACE_")}


def test_dagster_knows_the_gateway_alone(project: Project, node: Node) -> None:
    """No process of Dagster has the pool's URL; all ask the gateway; Ctrl-C ends everything."""
    project.settings["TRACE_RPC_POOL_MY_NODE_URL"] = node.anvil.url
    project.write(
        "dag.yaml", ingest_dag("dev", end_block=59, chunk_size=30, engine="native", rpc_pool="my-node")
    )
    with running_development(project) as stack:
        runner = psutil.Process(stack.process.pid)
        everyone = runner.children(recursive=True)
        (gateway,) = (one for one in everyone if "--from-environment" in one.cmdline())
        workers = [settings_of(one) for one in everyone if one.pid != gateway.pid]
        assert len(workers) >= 4  # dagster dev, its code server, webserver and daemon
        assert {name for one in workers for name in one if "_POOL_" in name} == set()
        (url,) = {one["TRACE_RPC_GATEWAY_URL"] for one in workers}
        assert f"listens on {url}" in stack.tail()
        with JsonRpcClient(Settings.from_environment(workers[0]).rpc_endpoint("my-node")) as client:
            assert client.block_number() >= 59
        os.killpg(stack.process.pid, signal.SIGINT)
        assert stack.process.wait(60) == 0, stack.tail()
        until = time.monotonic() + 30
        while left := [one for one in everyone if one.is_running()]:
            assert time.monotonic() < until, left
            time.sleep(0.1)
