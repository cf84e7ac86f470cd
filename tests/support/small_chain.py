"""A small real chain on anvil with many kinds of rows, and those rows as the node tells them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from trace_dagster.testing.anvil import Anvil, running_anvil

CHAIN_ID = 31337
TRANSFER = "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"

# Contracts by hand: one that logs with 0, 1, 3 and 4 topics; one that reverts; one that calls the address in
# its input, and then again statically, which fails when that one logs; one that logs an ERC-20 transfer of 7.
LOGGER = "600760005260206000a0602a60206000a160016002600360056000a3600160026003600460006000a400"
REVERTER = "60006000fd"
CALLER = "6000600060006000600060003 55af150600060006000600060003 55afa5000".replace(" ", "")
TOKEN = f"600760005260013 37f{TRANSFER}60206000a300".replace(" ", "")


class SmallChain:
    """Blocks 0 to ``head`` of a node, with the contracts ``logger``, ``reverter``, ``caller``, ``token``."""

    def __init__(self, anvil: Anvil) -> None:
        self.anvil = anvil
        self.accounts: list[str] = anvil.call("eth_accounts")
        anvil.call("evm_setAutomine", False)  # noqa: FBT003
        first = {name: self._send(data=_creation(code)) for name, code in _CONTRACTS.items()}
        self.mine()
        self.logger, self.reverter, self.caller, self.token = (
            anvil.call("eth_getTransactionReceipt", transaction)["contractAddress"]
            for transaction in first.values()
        )
        self.mine()
        for _ in range(3):
            self.busy_block()
        self.mine()
        self.mine()
        self.head = int(anvil.call("eth_blockNumber"), 16)

    def busy_block(self) -> None:
        """Mine a block with transfers, logs, a failed transaction, nested calls and three types."""
        self._send(to=self.accounts[1], value=hex(10**18), gasPrice=hex(3 * 10**9))
        self._send(to=self.logger, data="0x00ff00")
        self._send(to=self.reverter)
        self._send(
            to=self.caller,
            data="0x" + self.logger[2:].rjust(64, "0"),
            accessList=[{"address": self.logger, "storageKeys": []}],
            gasPrice=hex(3 * 10**9),
        )
        self._send(to=self.token, sender=2)
        self._send(data=_creation(LOGGER), value="0x0")
        self.mine()

    def mine(self) -> None:
        """Mine one block of what was sent."""
        self.anvil.call("evm_mine")

    def _send(self, sender: int = 0, **fields: Any) -> str:
        return str(
            self.anvil.call(
                "eth_sendTransaction", {"from": self.accounts[sender], "gas": hex(300_000), **fields}
            )
        )


_CONTRACTS = {"logger": LOGGER, "reverter": REVERTER, "caller": CALLER, "token": TOKEN}


def _creation(code: str) -> str:
    size = f"{len(code) // 2:02x}"
    return f"0x60{size}600c60003960{size}6000f3{code}"


@contextmanager
def small_chain(*arguments: str) -> Iterator[SmallChain]:
    """Start a node, build the chain, stop the node at the end."""
    with running_anvil("--order", "fifo", "--timestamp", "1700000000", *arguments) as anvil:
        yield SmallChain(anvil)


def node_rows(anvil: Anvil, dataset: str, first: int, last: int) -> list[dict[str, Any]]:
    """Return the rows of ``dataset`` as the node's own answers give them, every column."""
    rows = _ROWS[dataset]
    return [row for number in range(first, last + 1) for row in rows(anvil, hex(number))]


def _blocks(anvil: Anvil, number: str) -> Iterator[dict[str, Any]]:
    block = anvil.call("eth_getBlockByNumber", number, False)  # noqa: FBT003
    difficulty = _uint256("total_difficulty", block.get("totalDifficulty"))
    yield {
        "block_hash": _raw(block["hash"]),
        "parent_hash": _raw(block["parentHash"]),
        "author": _raw(block["miner"]),
        "state_root": _raw(block["stateRoot"]),
        "transactions_root": _raw(block["transactionsRoot"]),
        "receipts_root": _raw(block["receiptsRoot"]),
        "block_number": _number(block["number"]),
        "gas_used": _number(block["gasUsed"]),
        "extra_data": _raw(block["extraData"]),
        "logs_bloom": _raw(block["logsBloom"]),
        "timestamp": _number(block["timestamp"]),
        **difficulty,
        "size": _number(block["size"]),
        "base_fee_per_gas": _number(block["baseFeePerGas"]),
        "chain_id": CHAIN_ID,
    }


def _transactions(anvil: Anvil, number: str) -> Iterator[dict[str, Any]]:
    block = anvil.call("eth_getBlockByNumber", number, True)  # noqa: FBT003
    for transaction in block["transactions"]:
        receipt = anvil.call("eth_getTransactionReceipt", transaction["hash"])
        data = _raw(transaction["input"])
        yield {
            "block_number": _number(number),
            "transaction_index": _number(transaction["transactionIndex"]),
            "transaction_hash": _raw(transaction["hash"]),
            "nonce": _number(transaction["nonce"]),
            "from_address": _raw(transaction["from"]),
            "to_address": _raw(transaction["to"]),
            **_uint256("value", transaction["value"]),
            "input": data,
            "gas_limit": _number(transaction["gas"]),
            "gas_used": _number(receipt["gasUsed"]),
            "gas_price": _number(transaction["gasPrice"]),
            "transaction_type": _number(transaction["type"]),
            "max_priority_fee_per_gas": _number(transaction.get("maxPriorityFeePerGas")),
            "max_fee_per_gas": _number(transaction.get("maxFeePerGas")),
            "success": receipt["status"] == "0x1",
            "n_input_bytes": len(data),
            "n_input_zero_bytes": data.count(0),
            "n_input_nonzero_bytes": len(data) - data.count(0),
            "n_rlp_bytes": len(_raw(anvil.call("eth_getRawTransactionByHash", transaction["hash"]))),
            "block_hash": _raw(block["hash"]),
            "timestamp": _number(block["timestamp"]),
            "chain_id": CHAIN_ID,
        }


def _logs(anvil: Anvil, number: str) -> Iterator[dict[str, Any]]:
    for log in anvil.call("eth_getLogs", {"fromBlock": number, "toBlock": number}):
        topics = [_raw(topic) for topic in log["topics"]] + [None] * 4
        yield {
            "block_number": _number(log["blockNumber"]),
            "block_hash": _raw(log["blockHash"]),
            "transaction_index": _number(log["transactionIndex"]),
            "log_index": _number(log["logIndex"]),
            "transaction_hash": _raw(log["transactionHash"]),
            "address": _raw(log["address"]),
            **{f"topic{at}": topics[at] for at in range(4)},
            "data": _raw(log["data"]),
            "chain_id": CHAIN_ID,
        }


def _traces(anvil: Anvil, number: str) -> Iterator[dict[str, Any]]:
    for trace in anvil.call("trace_block", number):
        action, result = trace["action"], trace.get("result") or {}
        value = action.get("value")
        yield {
            "action_from": _raw(action.get("from")),
            "action_to": _raw(action.get("to")),
            "action_value": None if value is None else str(_number(value)),
            "action_gas": _number(action.get("gas")),
            "action_input": _raw(action.get("input")),
            "action_call_type": _CALL_TYPES.get(action.get("callType"), action.get("callType")),
            "action_init": _raw(action.get("init")),
            "action_reward_type": action.get("rewardType"),
            "action_type": trace["type"],
            "result_gas_used": _number(result.get("gasUsed")),
            "result_output": _raw(result.get("output")),
            "result_code": _raw(result.get("code")),
            "result_address": _raw(result.get("address")),
            "trace_address": "_".join(map(str, trace["traceAddress"])),
            "subtraces": trace["subtraces"],
            "transaction_index": trace["transactionPosition"],
            "transaction_hash": _raw(trace["transactionHash"]),
            "block_number": trace["blockNumber"],
            "block_hash": _raw(trace["blockHash"]),
            "error": trace.get("error"),
            "chain_id": CHAIN_ID,
        }


# Cryo writes the names of the library that it parses with.
_CALL_TYPES = {"staticcall": "static_call", "delegatecall": "delegate_call", "callcode": "call_code"}

_ROWS: dict[str, Callable[[Anvil, str], Iterator[dict[str, Any]]]] = {
    "blocks": _blocks,
    "transactions": _transactions,
    "logs": _logs,
    "traces": _traces,
}


def _raw(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text.removeprefix("0x"))


def _number(text: str | None) -> int | None:
    return None if text is None else int(text, 16)


def _uint256(name: str, text: str | None) -> dict[str, Any]:
    value = _number(text)
    known = value is not None
    return {
        f"{name}_binary": value.to_bytes(32, "big") if known else None,
        f"{name}_string": str(value) if known else None,
        f"{name}_f64": float(value) if known else None,
    }
