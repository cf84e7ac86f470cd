"""What a partition cost at the providers: Dagster shows what the gateway counted, by either engine."""

import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping

import dagster as dg
import pytest

from tests.acceptance.conftest import Node
from tests.support.dags import ingest_dag
from tests.support.gateways import GatewayProcess, one_pool, running_gateway
from tests.support.project import Project
from trace_dagster import metadata

TOKEN = "token-of-a-worker-123456"
ENGINES = ("cryo", "native")
_LINE = re.compile(r"^trace_gateway_(\w+)_total\{(.*)\} (\S+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def gateway(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway before the node, with a token and prices of which no two are alike."""
    config = one_pool(only={"costs": "provider"})
    config["costs"] = {"provider": {"default": 3, "eth_getLogs": 7.5, "eth_getBlockReceipts": 20}}
    config["tokens"] = [{"name": "worker", "token": "env:T_WORKER"}]
    environment = {"GW_ONLY": node.anvil.url, "T_WORKER": TOKEN}
    with running_gateway(tmp_path_factory.mktemp("gateway"), config, environment) as running:
        yield running


def project_of(engine: str, gateway: GatewayProcess, new_project: Callable[[str], Project]) -> Project:
    """A project that knows the gateway and a token, with a DAG of its own."""
    made = new_project(f"costs-{engine}")
    made.settings |= {"TRACE_RPC_GATEWAY_URL": gateway.url, "TRACE_RPC_GATEWAY_TOKEN": TOKEN}
    dag = ingest_dag(f"by_{engine}", end_block=59, chunk_size=30, engine=engine, rpc_pool="tested")
    made.write("dag.yaml", dag)
    return made


def told(project: Project, engine: str, partition: str) -> Mapping[str, dg.MetadataValue[object]]:
    """What Dagster shows of the last materialization of a partition's blocks."""
    with dg.DagsterInstance.from_config(str(project.dagster_home)) as instance:
        key = dg.AssetKey([f"by_{engine}", "ingest", "blocks"])
        (record,) = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition]), limit=1
        ).records
        assert record.asset_materialization is not None
        return record.asset_materialization.metadata


def counted(gateway: GatewayProcess, job: str) -> dict[str, float]:
    """What ``/metrics`` says of a job, all methods together."""
    with urllib.request.urlopen(f"{gateway.url}/metrics", timeout=30) as response:  # noqa: S310 - loopback
        text = response.read().decode()
    found: dict[str, float] = {}
    for name, labels, value in _LINE.findall(text):
        if f'job="{job}"' in labels and 'token="worker"' in labels:
            found[name] = found.get(name, 0.0) + float(value)
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_the_metadata_say_what_the_gateway_counted(
    gateway: GatewayProcess, new_project: Callable[[str], Project], engine: str
) -> None:
    """Of the first partition, of the second alone, and of the first once more, made again."""
    project = project_of(engine, gateway, new_project)
    job, key = f"by_{engine}/ingest", f'key:"by_{engine}/ingest/*"'
    before = 0.0
    config = {"ops": {f"by_{engine}__ingest": {"config": {"force": True}}}}
    for partition, more in (("0_29", None), ("30_59", None), ("0_29", config)):
        project.materialize(key, partition=partition, config=more)
        after = counted(gateway, job)
        facts = told(project, engine, partition)
        spent = facts[metadata.RPC_CREDITS].value
        assert isinstance(spent, float)
        assert spent > 0
        assert spent == pytest.approx(after["credits"] - before)
        assert facts[metadata.ENGINE].value == engine
        before = after["credits"]
    requests = counted(gateway, job)["requests"]
    assert before > 3 * requests  # receipts, at least, cost more than the least
    assert requests == counted(gateway, job)["upstream_requests"]


def test_a_stranger_is_not_told(gateway: GatewayProcess) -> None:
    """What was spent is told to the holder of the token, of its own job and partition."""
    url = f"{gateway.url}/v1/tested/usage"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(url, timeout=30)  # noqa: S310 - loopback
    wrong = urllib.request.Request(url, headers={"Authorization": "Bearer another-token-1234567"})  # noqa: S310
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(wrong, timeout=30)  # noqa: S310 - loopback
