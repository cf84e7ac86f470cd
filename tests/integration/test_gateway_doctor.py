"""``trace gateway doctor`` against a real node, alone and behind fronts that lack something."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.fault_proxy import FaultProxy, Reply, RpcFailure
from trace_dagster.cli import main
from trace_dagster.testing.anvil import Anvil, running_anvil

CHAIN_ID = 10143
ROOT = Path(__file__).parents[2]
DAG = """\
name: {name}
jobs:
  - {{ name: request, activation: source, runtime: dispatcher, operator: range_request, outputs: 1,
      source: {{ kind: manual }}, config: {{ start_block: 0, end_block: 99 }} }}
  - {{ name: ingest, activation: reactive, runtime: dispatcher, operator: cryo_ingest, outputs: {outputs},
      execution_strategy: PerPartition, update_strategy: replace,
      inputs: [ {{ from: {{ job: request, output: 0 }} }} ],
      config: {{ chain_id: {chain_id}, datasets: [{datasets}], rpc_pool: {pool}, engine: {engine} }} }}
"""


@pytest.fixture(scope="module")
def anvil() -> Iterator[Anvil]:
    """A node with 300 blocks."""
    with running_anvil("--chain-id", str(CHAIN_ID)) as node:
        node.call("anvil_mine", hex(300))
        yield node


@pytest.fixture
def front(anvil: Anvil) -> Iterator[FaultProxy]:
    """A front of the node that can be told to lack something."""
    proxy = FaultProxy(anvil.url)
    yield proxy
    proxy.close()


@pytest.fixture
def doctor(tmp_path: Path) -> Callable[..., Result]:
    """Runs the command with a pool ``monad`` of the URLs that are given, and a key each."""

    def run(urls: Mapping[str, str], *arguments: str, endpoints: str | None = None) -> Result:
        lines = endpoints or "".join(
            f"    - {{ name: {name}, url: env:{name.upper()}_URL, keys: [env:KEY], key_header: x-api-key }}\n"
            for name in urls
        )
        config = tmp_path / "rpc_pools.yaml"
        config.write_text(f"pools:\n  monad:\n    chain_id: {CHAIN_ID}\n    endpoints:\n{lines}")
        environment = {f"{name.upper()}_URL": url for name, url in urls.items()}
        result = CliRunner().invoke(
            main,
            ["gateway", "doctor", "--config", str(config), *arguments],
            env={"KEY": "planted-key", "COLUMNS": "300", **environment},
        )
        assert "planted" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return run


def _deny(front: FaultProxy, method: str, code: int, text: str) -> None:
    def refuse(_params: list[Any]) -> Any:
        raise RpcFailure(code, text)

    front.results[method] = refuse


def _write_dag(folder: Path, **fields: object) -> str:
    given = {
        "name": "dag",
        "chain_id": CHAIN_ID,
        "datasets": "blocks",
        "pool": "monad",
        "engine": "native",
    } | fields
    path = folder / f"{given['name']}.yaml"
    path.write_text(DAG.format(**given, outputs=str(given["datasets"]).count(",") + 1))
    return str(path)


def test_healthy_node_serves_the_example(anvil: Anvil, doctor: Callable[..., Result]) -> None:
    """A real node is found to have everything, and serves the DAG of this repository."""
    result = doctor({"anvil": anvil.url}, str(ROOT / "dag_specs" / "monad.yaml"))
    assert result.exit_code == 0
    assert "pool monad: chain 10143, head 300" in result.output
    assert "monad/cryo_bootstrap: pool monad can serve it" in result.output
    assert "monad/block_follower: pool monad can serve it" in result.output


def test_json_of_a_healthy_node(anvil: Anvil, doctor: Callable[..., Result]) -> None:
    """Machines get every finding; the URL is shown without its path."""
    result = doctor({"anvil": anvil.url + "/?planted=1"}, "--json")
    found = json.loads(result.stdout)
    (endpoint,) = found["pools"][0]["endpoints"]
    assert endpoint["shown"] == f"{anvil.url}/..."
    assert (endpoint["problem"], endpoint["chain_id"], endpoint["head"]) == (None, CHAIN_ID, 300)
    assert endpoint["capabilities"] == {
        "archive": True,
        "traces": True,
        "debug": True,
        "receipts": True,
        "log_range": None,
        "batch": 100,
    }
    assert found["jobs"] == []


def test_job_that_cannot_be_served(front: FaultProxy, doctor: Callable[..., Result], tmp_path: Path) -> None:
    """A front without traces, old state and long log ranges gives each job its own reason."""
    _deny(front, "trace_block", -32600, "trace_block is not available on the Free tier")
    _deny(front, "debug_traceBlockByNumber", -32601, "the method does not exist/is not available")
    _deny(front, "eth_getBalance", -32000, f"missing trie node at {front.url('/planted-path')}")
    (tmp_path / "dags").mkdir()
    traces = _write_dag(tmp_path / "dags", name="traced", datasets="traces")
    plain = _write_dag(tmp_path / "dags", name="plain", datasets="transactions, logs", engine="cryo")
    other = _write_dag(tmp_path / "dags", name="other", pool="monads")
    wrong = _write_dag(tmp_path / "dags", name="wrong", chain_id=1)
    result = doctor({"front": front.url("/planted-path")}, "--json", traces, plain, other, wrong)
    assert result.exit_code == 1
    jobs = {job["dag"]: job for job in json.loads(result.stdout)["jobs"]}
    assert jobs["plain"]["can_be_served"]
    assert "trace_block is not available on the Free tier" in jobs["traced"]["reasons"][0]
    assert "missing trie node" in jobs["traced"]["reasons"][0]
    assert jobs["other"]["reasons"] == ["there is no pool 'monads'; did you mean 'monad'?"]
    assert "pool monad is of chain 10143, the job of chain 1" in jobs["wrong"]["reasons"][0]
    text = doctor({"front": front.url("/planted-path")}, traces)
    assert "traced/ingest: CANNOT BE SERVED: traces needs" in text.output
    assert "front: archive: endpoint 'front'" in text.output


def test_endpoint_of_another_chain(anvil: Anvil, front: FaultProxy, doctor: Callable[..., Result]) -> None:
    """An endpoint of another chain is out, and the pool works without it."""
    front.results["eth_chainId"] = "0x1"
    result = doctor({"anvil": anvil.url, "front": front.url()}, "--json")
    assert result.exit_code == 0
    good, bad = json.loads(result.stdout)["pools"][0]["endpoints"]
    assert good["problem"] is None
    assert bad["problem"] == "it serves chain 1, but the pool is of chain 10143"


def test_pool_that_is_down(front: FaultProxy, doctor: Callable[..., Result], tmp_path: Path) -> None:
    """A pool without an endpoint that works is a failure of its own; a refused key says what to check."""
    front.intercept = lambda _exchange: Reply(b'{"error": {"message": "planted-key is revoked"}}', 401)
    result = doctor({"front": front.url(), "gone": "http://127.0.0.1:9/planted"}, _write_dag(tmp_path))
    assert result.exit_code == 1
    assert "HTTP 401: *** is revoked; check its key" in result.output
    assert "gone: cannot be used: endpoint 'gone' at http://127.0.0.1:9/... cannot be" in result.output
    assert "cannot be reached: connection refused" in result.output
    assert "dag/ingest: CANNOT BE SERVED: no endpoint of pool monad can be used" in result.output


def test_each_key_is_tried(front: FaultProxy, doctor: Callable[..., Result]) -> None:
    """A key that does not work is told by its reference, and another one is used."""
    front.intercept = lambda exchange: (
        Reply(b"planted", 403) if exchange.headers.get("x-key") == "planted-key" else None
    )
    endpoints = (
        "    - { name: front, url: env:FRONT_URL, keys: [env:KEY, env:OTHER_URL], key_header: x-key }\n"
    )
    result = doctor({"front": front.url(), "other": "x"}, endpoints=endpoints)
    assert result.exit_code == 0
    assert "front: key env:KEY does not work: endpoint 'front'" in result.output


def test_configuration_that_claims_too_much(front: FaultProxy, doctor: Callable[..., Result]) -> None:
    """What the configuration says of an endpoint is taken, and told where the endpoint says otherwise."""
    _deny(front, "trace_block", -32601, "the method does not exist/is not available")
    said = "{ traces: true, debug: false, batch: 1 }"
    endpoints = f"    - {{ name: front, url: env:FRONT_URL, capabilities: {said} }}\n"
    result = doctor({"front": front.url()}, "--json", endpoints=endpoints)
    (endpoint,) = json.loads(result.stdout)["pools"][0]["endpoints"]
    assert endpoint["capabilities"]["traces"] is True
    assert endpoint["capabilities"]["batch"] == 1
    assert [note[:40] for note in endpoint["notes"]] == [
        "the configuration says traces: true, but",
        "the configuration says debug: false, but",
    ]


def test_clock_and_lag(anvil: Anvil, front: FaultProxy, doctor: Callable[..., Result]) -> None:
    """A head far behind the pool's and a chain that stands still are told."""
    front.results["eth_blockNumber"] = "0x64"
    front.rewrite["eth_getBlockByNumber"] = lambda _params, block: {**block, "timestamp": "0x5f5e100"}
    result = doctor({"anvil": anvil.url, "front": front.url()})
    assert "front: it is 200 blocks behind the highest head of the pool" in result.output
    assert "s old: the chain or the endpoint stands still" in result.output


def test_invalid_files(doctor: Callable[..., Result], tmp_path: Path, anvil: Anvil) -> None:
    """Problems of the configuration, missing secrets and broken DAGs are told as everywhere; status 2."""
    result = doctor({}, endpoints="    - { name: one, url: https://planted.example/key }\n")
    assert result.exit_code == 2
    assert "rpc_pools.yaml:5:25: pools.monad.endpoints[0].url: is a URL" in result.stderr
    result = doctor({}, "--json", endpoints="    - { name: one, url: env:NO_SUCH_URL }\n")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["problems"][0]["problem"] == "env:NO_SUCH_URL is not set"
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: broken\n")
    result = doctor({"anvil": anvil.url}, str(broken))
    assert result.exit_code == 2
    assert "broken.yaml:1:1: jobs: is missing" in result.stderr


def test_config_before_the_sub_command(tmp_path: Path) -> None:
    """The configuration may be named before the sub-command, too."""
    config = tmp_path / "pools.yaml"
    result = CliRunner().invoke(main, ["gateway", "--config", str(config), "doctor"])
    assert result.exit_code == 2
    assert "pools.yaml:1:1: document: is no file" in result.stderr


def test_gateway_does_not_start_with_an_invalid_file(tmp_path: Path) -> None:
    """``trace gateway`` prints every problem on a line of its own, as ``trace validate`` does; status 2."""
    config = tmp_path / "pools.yaml"
    config.write_text("pools: { a: { chain_id: 1, endpoints: [{ name: one, url: env:NO_SUCH_URL }] } }\n")
    result = CliRunner().invoke(main, ["gateway", "--config", str(config)])
    assert result.exit_code == 2
    assert result.stderr == (
        f"{config}:1:58: pools.a.endpoints[0].url: env:NO_SUCH_URL is not set; set the environment variable "
        "NO_SUCH_URL\n"
    )
