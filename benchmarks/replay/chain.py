"""Makes a chain like mainnet's on anvil, and records what the node answers, for ``replay.c``.

The chain is the same every time: 41 blocks of contracts, then empty blocks, sparse ones of 10 transactions,
and dense ones of about 178 transactions, 363 logs and 324 traces (620 KB of block and receipts).
"""

import http.client
import json
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trace_dagster.testing.anvil import running_anvil

__all__ = ["Recording", "record"]

FIRST_EMPTY = 41
HERE = Path(__file__).parent
CHAIN_ID = 1
CONTRACTS = 40
RECEIVERS = 5000
SELECTORS = {"transfer": "a9059cbb", "approve": "095ea7b3", "route": "73c1b64f", "boom": "b443a085"}
GWEI = 10**9
ANVIL = (
    *("--chain-id", str(CHAIN_ID), "--accounts", "250", "--balance", "100000000", "--no-mining"),
    *("--order", "fifo", "--gas-limit", "120000000", "--hardfork", "cancun"),
)

Transaction = dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """A recorded chain.

    Attributes:
        folder: holds ``chain.bin`` and ``chain.idx``.
        empty, sparse, dense: how many blocks of each kind follow the contracts, in this order.
    """

    folder: Path
    empty: int
    sparse: int
    dense: int

    def first(self, kind: str) -> int:
        """Return the first block of a kind."""
        before = {"empty": 0, "sparse": self.empty, "dense": self.empty + self.sparse}
        return FIRST_EMPTY + before[kind]

    @property
    def head(self) -> int:
        """The last block."""
        return FIRST_EMPTY + self.empty + self.sparse + self.dense - 1


def record(recording: Recording) -> None:
    """Make the chain and record it, unless the folder holds it already."""
    index = recording.folder / "chain.idx"
    if index.exists():
        return
    recording.folder.mkdir(parents=True, exist_ok=True)
    with running_anvil(*ANVIL) as anvil:
        node = _Node(anvil.url)
        _Builder(node).build(recording)
        with (recording.folder / "chain.bin").open("wb") as data:
            slices = _write(node, recording.head, data)
    half = index.with_suffix(".new")
    half.write_bytes(struct.pack(f"<{2 + len(slices)}Q", recording.head + 1, CHAIN_ID, *slices))
    half.rename(index)


def _write(node: "_Node", head: int, data: Any) -> list[int]:
    slices: list[int] = []
    for block in range(head + 1):
        at = hex(block)
        logs = node.raw("eth_getLogs", {"fromBlock": at, "toBlock": at})
        for value in (
            node.raw("eth_getBlockByNumber", at, True),  # noqa: FBT003 (JSON-RPC has no names)
            node.raw("eth_getBlockByNumber", at, False),  # noqa: FBT003
            node.raw("eth_getBlockReceipts", at),
            logs[1:-1],
            node.raw("trace_block", at),
        ):
            slices += (data.tell(), len(value))
            data.write(value)
    return slices


class _Node:
    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)

    def raw(self, method: str, *params: Any) -> bytes:
        """Return the bytes of a result, as the node wrote them."""
        answer = self._post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        start = b'{"jsonrpc":"2.0","id":1,"result":'
        assert answer.startswith(start), answer[:300]
        return answer.removeprefix(start).rstrip()[:-1]

    def call(self, method: str, *params: Any) -> Any:
        return json.loads(self.raw(method, *params))

    def send(self, transactions: Sequence[Transaction]) -> list[str]:
        """Send transactions, and return their hashes."""
        requests = [
            {"jsonrpc": "2.0", "id": at, "method": "eth_sendTransaction", "params": [one]}
            for at, one in enumerate(transactions)
        ]
        return [answer["result"] for answer in json.loads(self._post(requests))]

    def _post(self, body: Any) -> bytes:
        self._connection.request("POST", "/", json.dumps(body), {"content-type": "application/json"})
        return self._connection.getresponse().read()


class _Builder:
    def __init__(self, node: _Node) -> None:
        self._node = node
        self._random = random.Random(7)  # noqa: S311 (the same chain every time)
        self._accounts: list[str] = node.call("eth_accounts")
        self._nonces = dict.fromkeys(self._accounts, 0)
        self._code = (HERE / "token.hex").read_text().strip().removeprefix("0x")
        self._receivers = [f"0x{self._random.randbytes(20).hex()}" for _ in range(RECEIVERS)]
        self._contracts: list[str] = []

    def build(self, recording: Recording) -> None:
        below = "0x" + "00" * 20
        for at in range(CONTRACTS):  # each calls the one before it
            sender = self._accounts[at]
            (sent,) = self._mine([self._create(sender, below, {"gasPrice": hex(5 * GWEI)})])
            below = self._node.call("eth_getTransactionReceipt", sent)["contractAddress"]
            self._contracts.append(below)
        self._node.call("anvil_mine", hex(recording.empty))
        for _ in range(recording.sparse):
            self._mine([self._transaction() for _ in range(10)])
        for _ in range(recording.dense):
            count = int(min(400, max(60, self._random.gauss(180, 50))))
            self._mine([self._transaction() for _ in range(count)])

    def _mine(self, transactions: Sequence[Transaction]) -> list[str]:
        sent = self._node.send(transactions)
        self._node.call("evm_mine")
        return sent

    def _from(self, sender: str, **fields: Any) -> Transaction:
        nonce = self._nonces[sender]
        self._nonces[sender] += 1
        return {"from": sender, "nonce": hex(nonce), **fields}

    def _create(self, sender: str, below: str, fees: Transaction) -> Transaction:
        return self._from(sender, gas=hex(3_000_000), data=f"0x{self._code}{_word(below)}", **fees)

    def _fees(self) -> Transaction:
        """A fifth of the transactions are of type 0, some of type 1, and most of type 2."""
        draw = self._random.random()
        if draw < 0.25:
            price = {"gasPrice": hex(3 * GWEI + self._random.randrange(GWEI))}
            if draw < 0.22:
                return {"type": "0x0", **price}
            keys = [f"0x{self._random.randrange(5):064x}" for _ in range(self._random.randrange(3))]
            access = [{"address": self._random.choice(self._accounts), "storageKeys": keys}]
            return {"type": "0x1", "accessList": access, **price}
        return {
            "type": "0x2",
            "maxFeePerGas": hex(3 * GWEI + self._random.randrange(10 * GWEI)),
            "maxPriorityFeePerGas": hex(self._random.randrange(GWEI)),
        }

    def _transaction(self) -> Transaction:
        """Transfers of ether and tokens, approvals, failures, deployments, swaps of mixed lengths."""
        sender, draw, fees = self._random.choice(self._accounts), self._random.random(), self._fees()
        receiver = self._random.choice(self._receivers)
        if draw < 0.28:
            value = self._random.randrange(10 ** self._random.randrange(9, 18))
            return self._from(sender, to=receiver, value=hex(value), gas=hex(60_000), **fees)
        contract = self._random.choice(self._contracts)
        if draw < 0.62:
            return self._call(sender, contract, "transfer", receiver, self._random.randrange(10**24), **fees)
        if draw < 0.68:
            return self._call(sender, contract, "approve", receiver, 2**256 - 1, **fees)
        if draw < 0.70:
            return self._call(sender, contract, "boom", 1, **fees)
        if draw < 0.703:
            return self._create(sender, contract, fees)
        hops = self._random.choice([0, 1, 1, 1, 1, 2, 2, 3])
        length = min(int(self._random.lognormvariate(5.6, 0.9)), 4000)
        draws = self._random
        text = bytes(draws.randrange(256) if draws.random() < 0.45 else 0 for _ in range(length))
        amount = self._random.randrange(10**20)
        tail = text.hex() + "00" * (-length % 32)
        router = self._random.choice(self._contracts[1:])
        gas = 200_000 + 250_000 * hops
        value = hex(self._random.randrange(10**15))
        words = (hops, receiver, amount, 128, length)
        return self._call(sender, router, "route", *words, tail=tail, gas=gas, value=value, **fees)

    def _call(
        self,
        sender: str,
        to: str,
        name: str,
        *words: int | str,
        tail: str = "",
        gas: int = 90_000,
        **fees: Any,
    ) -> Transaction:
        data = "0x" + SELECTORS[name] + "".join(map(_word, words)) + tail
        return self._from(sender, to=to, data=data, gas=hex(gas), **fees)


def _word(value: int | str) -> str:
    return f"{value:064x}" if isinstance(value, int) else value[2:].lower().rjust(64, "0")
