"""Cryo, the native engine, web3.py and cast do real jobs through a gateway."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from web3 import Web3

from tests.support.extraction import cryo_rows_of, extract
from tests.support.fault_proxy import FaultProxy, Reply
from tests.support.gateways import GatewayProcess, one_pool, running_gateway
from tests.support.small_chain import SmallChain, node_rows, small_chain
from trace_dagster.errors import RpcUnavailable
from trace_dagster.operators.cryo_ingest.cryo import CryoEngine
from trace_dagster.operators.cryo_ingest.engines import Engine
from trace_dagster.operators.cryo_ingest.native import NativeEngine
from trace_dagster.settings import RpcEndpoint

TOKEN = "token-of-a-worker-123456"
FOUR = "blocks,transactions,logs,traces"


@pytest.fixture(scope="module")
def chain() -> Iterator[SmallChain]:
    """A chain of seven blocks."""
    with small_chain() as built:
        yield built


@pytest.fixture(scope="module")
def gateway(chain: SmallChain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with a token before two endpoints, which are the same node."""
    config = one_pool(one={}, two={})
    config["tokens"] = [{"name": "worker", "token": "env:T_WORKER"}]
    environment = {"GW_ONE": chain.anvil.url, "GW_TWO": chain.anvil.url + "/", "T_WORKER": TOKEN}
    with running_gateway(tmp_path_factory.mktemp("gateway"), config, environment) as running:
        yield running


def url_with_token(gateway: GatewayProcess) -> str:
    """The pool's URL with the token in it, for clients that send no headers of one's own."""
    return f"http://worker:{TOKEN}@127.0.0.1:{gateway.port}/v1/tested"


@pytest.mark.parametrize("engine", [CryoEngine(), NativeEngine()], ids=["cryo", "native"])
def test_engines(chain: SmallChain, gateway: GatewayProcess, tmp_path: Path, engine: Engine) -> None:
    """Every cell of four datasets is what the node itself says."""
    endpoint = gateway.endpoint("tested", TOKEN)
    if isinstance(engine, CryoEngine):  # it can only send what is in the URL
        endpoint = RpcEndpoint(
            pool="tested", url=SecretStr(url_with_token(gateway)), variable="TRACE_RPC_GATEWAY_URL"
        )
    result = extract(tmp_path, endpoint, FOUR, (0, chain.head), engine=engine)
    for dataset in FOUR.split(","):
        assert cryo_rows_of(result, dataset) == node_rows(chain.anvil, dataset, 0, chain.head), dataset


def test_web3(chain: SmallChain, gateway: GatewayProcess) -> None:
    """web3.py reads blocks, logs and state, alone and in a batch, and its own errors come through."""
    web3 = Web3(Web3.HTTPProvider(url_with_token(gateway)))
    direct = Web3(Web3.HTTPProvider(chain.anvil.url))
    assert web3.is_connected()
    assert web3.eth.chain_id == 31337
    for number in range(chain.head + 1):
        assert web3.eth.get_block(number, full_transactions=True) == direct.eth.get_block(
            number, full_transactions=True
        )
    everything: Any = {"fromBlock": 0, "toBlock": chain.head}
    assert web3.eth.get_logs(everything) == direct.eth.get_logs(everything)
    account = web3.to_checksum_address(chain.accounts[0])
    with web3.batch_requests() as batch:
        for number in range(chain.head + 1):
            batch.add(web3.eth.get_balance(account, number))
        assert batch.execute() == [
            direct.eth.get_balance(account, number) for number in range(chain.head + 1)
        ]


def transactions_of(chain: SmallChain, number: int) -> list[str]:
    """The hashes of a block's transactions."""
    block = chain.anvil.call("eth_getBlockByNumber", hex(number), False)  # noqa: FBT003
    return list(block["transactions"])


def test_cast(chain: SmallChain, gateway: GatewayProcess) -> None:
    """Cast reads a block and its receipts."""

    def cast(*arguments: str) -> str:
        command = ["node_modules/.bin/cast", *arguments, "--rpc-url", url_with_token(gateway)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()

    assert cast("block-number") == str(chain.head)
    assert cast("chain-id") == "31337"
    shown = cast("block", "1", "--json")
    assert chain.anvil.call("eth_getBlockByNumber", "0x1", False)["hash"] in shown  # noqa: FBT003
    (transaction, *_) = next(filter(None, (transactions_of(chain, number) for number in range(chain.head))))
    assert transaction in cast("receipt", transaction, "--json")


def test_a_worker_is_told_how_each_endpoint_failed(tmp_path: Path) -> None:
    """Our client's error names the pool's endpoints and what was wrong with each."""
    fronts = [FaultProxy(), FaultProxy()]
    fronts[0].intercept = lambda _: Reply(b"", 500)
    fronts[1].results["eth_chainId"] = "0x1"
    environment = {"GW_ONE": fronts[0].url(), "GW_TWO": fronts[1].url()}
    with running_gateway(tmp_path, one_pool(one={}, two={}), environment) as running:
        with running.client("tested", attempts=1) as client, pytest.raises(RpcUnavailable) as caught:
            client.block_number()
        assert "one: out of rotation, unavailable: HTTP 500" in str(caught.value)
        assert "two: out of rotation, wrong_chain: serves chain 1, not 31337" in str(caught.value)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{running.url}/healthz")  # noqa: S310 (loopback)
        with refused.value as response:
            health = json.load(response)
        assert (refused.value.code, health["status"]) == (503, "down")
        one, two = health["pools"]["tested"]["endpoints"]
        assert (one["state"], two["state"]) == ("down", "down")
        assert "HTTP 500" in one["reason"]
        assert "serves chain 1" in two["reason"]
    for front in fronts:
        front.close()
