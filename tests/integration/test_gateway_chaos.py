"""Three endpoints that lag, refuse and lie, behind a gateway: every answer is the honest node's."""

import random
import re
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_proxy import Exchange, FaultProxy, Reply, RpcFailure
from tests.support.gateways import GatewayProcess, one_pool, running_gateway
from tests.support.small_chain import SmallChain, small_chain

LAG = 5
BLOCKS = 60
REQUESTS = 10_000
AT_ONCE = 20
WORKERS = 8


@pytest.fixture(scope="module")
def chain() -> Iterator[SmallChain]:
    """A node whose chain does not move."""
    with small_chain() as built:
        for _ in range(4):
            built.busy_block()
            built.anvil.call("anvil_mine", hex(12))
        built.head = int(built.anvil.call("eth_blockNumber"), 16)
        yield built


class Front(FaultProxy):
    """Asks the node once for each question: its chain does not move."""

    def __init__(self, chain: SmallChain) -> None:
        self._told: dict[str, Any] = {}
        super().__init__(chain.anvil.url)

    def _ask_node(self, call: dict[str, Any]) -> Any:
        key = repr((call["method"], call["params"]))
        if key not in self._told:
            self._told[key] = super()._ask_node(call)
        return self._told[key]


def lagging(chain: SmallChain) -> Front:
    """A front that does not know the last blocks."""
    front = Front(chain)
    known = chain.head - LAG

    def number(text: Any) -> int:
        return int(text, 16) if str(text).startswith("0x") else known

    def block(params: list[Any], result: Any) -> Any:
        return result if number(params[0]) <= known else None

    def balance(params: list[Any], result: Any) -> Any:
        if number(params[1]) > known:
            raise RpcFailure(-32000, "header not found")
        return result

    def logs(params: list[Any], result: Any) -> Any:
        return [one for one in result if int(one["blockNumber"], 16) <= known]

    def placed(params: list[Any], result: Any) -> Any:
        return result if int(result["blockNumber"], 16) <= known else None

    front.rewrite = {
        "eth_blockNumber": lambda *_: hex(known),
        "eth_getBlockByNumber": block,
        "eth_getBlockReceipts": block,
        "eth_getBalance": balance,
        "eth_getLogs": logs,
        "eth_getTransactionReceipt": placed,
        "eth_getTransactionByHash": placed,
    }
    return front


def refusing(chain: SmallChain, rng: random.Random) -> Front:
    """A front that answers 429 half of the time."""
    front = Front(chain)
    front.intercept = lambda _: Reply(status=429) if rng.random() < 0.5 else None
    return front


def lying(chain: SmallChain, rng: random.Random, wrong: int) -> Front:
    """A front that truncates, says null, hangs up, and is wrong about one block."""
    front = Front(chain)
    false_hash = "0x" + "ab" * 32

    def spoil(exchange: Exchange) -> Reply | None:
        match rng.random():
            case luck if luck < 0.1:
                return Reply(drop=True)
            case luck if luck < 0.2:
                return Reply(b'[{"jsonrpc":"2.0","id":0,"result":{"number":"0x')
            case _:
                return None

    def lie(params: list[Any], result: Any) -> Any:
        if rng.random() < 0.1:
            return None
        return falsified(result)

    def falsified(result: Any) -> Any:
        match result:
            case list():
                return [falsified(one) for one in result]
            case {"number": str(number), "hash": _} if int(number, 16) == wrong:
                return {**result, "hash": false_hash, "gasUsed": "0x1"}
            case {"blockNumber": str(number)} if int(number, 16) == wrong:
                return {**result, "blockHash": false_hash}
            case _:
                return result

    front.intercept = spoil
    front.rewrite = dict.fromkeys(
        (
            "eth_getBlockByNumber",
            "eth_getBlockReceipts",
            "eth_getLogs",
            "eth_getTransactionReceipt",
            "eth_getTransactionByHash",
        ),
        lie,
    )
    return front


def questions(chain: SmallChain, rng: random.Random, count: int) -> Iterator[tuple[str, list[Any]]]:
    """Requests of all kinds, about all blocks."""
    hashes = [
        transaction
        for number in range(chain.head + 1)
        for transaction in chain.anvil.call("eth_getBlockByNumber", hex(number), False)["transactions"]  # noqa: FBT003
    ]
    for _ in range(count):
        number = rng.randint(0, chain.head)
        match rng.randrange(8):
            case 0:
                yield "eth_getBlockByNumber", [hex(number), True]
            case 1:
                yield "eth_getBlockByNumber", [hex(number), False]
            case 2:
                yield "eth_getBlockReceipts", [hex(number)]
            case 3:
                last = min(chain.head, number + rng.randint(0, 20))
                yield "eth_getLogs", [{"fromBlock": hex(number), "toBlock": hex(last)}]
            case 4:
                yield "eth_getBalance", [rng.choice(chain.accounts), hex(number)]
            case 5:
                yield "eth_getTransactionReceipt", [rng.choice(hashes)]
            case 6:
                yield "eth_getTransactionByHash", [rng.choice(hashes)]
            case _:
                yield "eth_blockNumber", []


def faults(gateway: GatewayProcess) -> dict[tuple[str, str], float]:
    """Return what /metrics counts as faults, by endpoint and kind."""
    with urllib.request.urlopen(f"{gateway.url}/metrics") as response:  # noqa: S310 (loopback)
        text = response.read().decode()
    pattern = re.compile(r'trace_gateway_faults_total\{endpoint="(\w+)",kind="(\w+)",pool="tested"\} (\S+)')
    return {(match[1], match[2]): float(match[3]) for match in pattern.finditer(text)}


@pytest.mark.timeout(400)
def test_every_answer_is_the_honest_nodes(chain: SmallChain, tmp_path: Path) -> None:
    """10,000 requests in batches and alone, by several workers: each answer equals the node's own."""
    rng = random.Random(5)  # noqa: S311
    wrong = chain.head - LAG - 7
    fronts = {
        "lagging": lagging(chain),
        "refusing": refusing(chain, random.Random(6)),  # noqa: S311
        "lying": lying(chain, random.Random(7), wrong),  # noqa: S311
    }
    environment = {f"GW_{name.upper()}": front.url() for name, front in fronts.items()}
    asked = list(questions(chain, rng, REQUESTS))
    unique = {repr(call): call for call in asked}
    honest = dict(zip(unique, chain.anvil.batch(list(unique.values())), strict=True))
    config = one_pool(lagging={}, refusing={}, lying={})
    config["pools"]["tested"]["finality_blocks"] = 2
    with running_gateway(tmp_path, config, environment) as gateway:

        def work(part: list[tuple[str, list[Any]]]) -> int:
            with gateway.client("tested", attempts=1) as client:
                client._batch_items = dict.fromkeys({method for method, _ in part}, AT_ONCE)
                at = 0
                while at < len(part):
                    some = part[at : at + random.Random(at).choice((1, 1, AT_ONCE))]  # noqa: S311
                    for call, result in zip(some, client.batch(some), strict=True):
                        assert result == honest[repr(call)], call
                    at += len(some)
            return len(part)

        with ThreadPoolExecutor(WORKERS) as pool:
            assert sum(pool.map(work, [asked[at::WORKERS] for at in range(WORKERS)])) == REQUESTS
        counted = faults(gateway)
    for kind in ("garbled", "dropped", "null", "disagrees"):
        assert counted["lying", kind] > 0
    assert counted["refusing", "rate_limited"] > 0
    assert "ab" * 32 in gateway.output()
    assert "planted-path-secret" not in gateway.output()
    for front in fronts.values():
        front.close()
