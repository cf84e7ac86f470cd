"""The engine native against web3.py, on real blocks of many forks and chains: what Cryo has no column for."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from web3 import Web3
from web3.middleware import ExtraDataToPOAMiddleware

from tests.support.extraction import extract, rows_of
from tests.support.fault_proxy import FaultProxy
from tests.support.real_blocks import RealBlocks, real_sets
from tests.support.small_chain import CHAIN_ID, small_chain
from trace_dagster.operators.cryo_ingest.engines import ExtractionResult
from trace_dagster.operators.cryo_ingest.native import NativeEngine

Row = Mapping[str, Any]

BLOCKS = {
    "block_hash": "hash",
    "parent_hash": "parentHash",
    "author": "miner",
    "state_root": "stateRoot",
    "transactions_root": "transactionsRoot",
    "receipts_root": "receiptsRoot",
    "block_number": "number",
    "gas_used": "gasUsed",
    "gas_limit": "gasLimit",
    "logs_bloom": "logsBloom",
    "timestamp": "timestamp",
    "size": "size",
    "base_fee_per_gas": "baseFeePerGas",
    "difficulty_string": "difficulty",
    "mix_hash": "mixHash",
    "nonce": "nonce",
    "uncles_hash": "sha3Uncles",
    "uncles": "uncles",
    "withdrawals_root": "withdrawalsRoot",
    "blob_gas_used": "blobGasUsed",
    "excess_blob_gas": "excessBlobGas",
    "parent_beacon_block_root": "parentBeaconBlockRoot",
    "requests_hash": "requestsHash",
}
TRANSACTIONS = {
    "transaction_hash": "hash",
    "block_number": "blockNumber",
    "transaction_index": "transactionIndex",
    "from_address": "from",
    "to_address": "to",
    "value_string": "value",
    "input": "input",
    "gas_limit": "gas",
    "gas_price": "gasPrice",
    "nonce": "nonce",
    "transaction_type": "type",
    "max_fee_per_gas": "maxFeePerGas",
    "max_priority_fee_per_gas": "maxPriorityFeePerGas",
    "max_fee_per_blob_gas": "maxFeePerBlobGas",
    "blob_versioned_hashes": "blobVersionedHashes",
    "v": "v",
    "r": "r",
    "s": "s",
    "y_parity": "yParity",
}
RECEIPTS = {
    "transaction_hash": "transactionHash",
    "transaction_index": "transactionIndex",
    "from_address": "from",
    "to_address": "to",
    "contract_address": "contractAddress",
    "gas_used": "gasUsed",
    "cumulative_gas_used": "cumulativeGasUsed",
    "effective_gas_price": "effectiveGasPrice",
    "success": "status",
    "root": "root",
    "transaction_type": "type",
    "logs_bloom": "logsBloom",
    "blob_gas_used": "blobGasUsed",
    "blob_gas_price": "blobGasPrice",
}
LOGS = {
    "block_number": "blockNumber",
    "log_index": "logIndex",
    "transaction_hash": "transactionHash",
    "transaction_index": "transactionIndex",
    "address": "address",
    "data": "data",
}
WITHDRAWALS = {
    "withdrawal_index": "index",
    "validator_index": "validatorIndex",
    "address": "address",
    "amount": "amount",
}
COLUMNS = {
    "blocks": BLOCKS,
    "transactions": TRANSACTIONS,
    "receipts": RECEIPTS,
    "logs": LOGS,
    "withdrawals": WITHDRAWALS,
}
DATASETS = tuple(COLUMNS)
NUMBERS_AS_BYTES = ("r", "s")
"""Columns of 32 bytes, of which web3 leaves out leading zeros."""

WITHOUT_RECEIPTS = ("eth-frontier-47218", "cronos-131465")
"""Sets of real blocks whose receipts are missing, or some of them: the engine refuses those."""


def known(value: Any, own: Any) -> Any:
    """Return web3's value in the form that the column has it in."""
    if isinstance(value, list | tuple):
        return [known(one, b"") for one in value]
    if isinstance(own, str | bool):
        return type(own)(value)
    if isinstance(value, str) and value.startswith("0x"):
        return bytes.fromhex(value[2:])
    if isinstance(own, bytes) and isinstance(value, int):
        return value.to_bytes(len(own), "big")
    return value


def agree(rows: Sequence[Row], theirs: Sequence[Row], columns: Mapping[str, str]) -> None:
    """Check every column of every row."""
    assert len(rows) == len(theirs)
    for row, other in zip(rows, theirs, strict=True):
        for column, name in columns.items():
            value = other.get(name)
            if value is None:
                assert row[column] in (None, []), (column, row[column])
                continue
            if column in NUMBERS_AS_BYTES:
                value = bytes(value).rjust(32, b"\0")
            assert row[column] == known(value, row[column]), (column, name)


@dataclass(frozen=True)
class Read:
    """What the engine made of some blocks, and web3 at the same endpoint.

    Attributes:
        datasets: those that the endpoint can give.
        numbers: of the blocks.
    """

    result: ExtractionResult
    datasets: Sequence[str]
    numbers: Sequence[int]
    web3: Web3


@pytest.fixture(scope="module", params=["anvil", *real_sets()])
def read(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    """Extract a chain of a real node, or a set of real blocks."""
    with ExitStack() as stack:
        if request.param == "anvil":
            chain = stack.enter_context(small_chain())
            proxy, chain_id = FaultProxy(chain.anvil.url), CHAIN_ID
            numbers: Sequence[int] = range(chain.head + 1)
        else:
            real = RealBlocks(request.param)
            proxy, chain_id, numbers = FaultProxy(), real.chain_id, sorted(real.blocks)
            real.serve(proxy)
        stack.callback(proxy.close)
        datasets = ("blocks", "withdrawals") if request.param in WITHOUT_RECEIPTS else DATASETS
        ends = (numbers[0], numbers[-1])
        folder = tmp_path_factory.mktemp("web3")
        result = extract(
            folder, proxy.endpoint(), ",".join(datasets), ends, engine=NativeEngine(), chain_id=chain_id
        )
        web3 = Web3(Web3.HTTPProvider(proxy.url()))
        web3.middleware_onion.inject(ExtraDataToPOAMiddleware, layer=0)
        yield Read(result, datasets, numbers, web3)


def test_every_value_is_what_web3_reads(read: Read) -> None:
    """Blocks, transactions, receipts, logs and withdrawals: each column, where the node has the field."""
    eth = read.web3.eth
    blocks = [eth.get_block(number, full_transactions=True) for number in read.numbers]
    theirs: dict[str, list[Row]] = {
        "blocks": list(blocks),
        "withdrawals": [one for block in blocks for one in block.get("withdrawals", [])],
    }
    if "receipts" in read.datasets:
        theirs["transactions"] = [one for block in blocks for one in block["transactions"]]
        theirs["receipts"] = [eth.get_transaction_receipt(one["hash"]) for one in theirs["transactions"]]
        theirs["logs"] = [log for receipt in theirs["receipts"] for log in receipt["logs"]]
    for dataset in read.datasets:
        agree(rows_of(read.result, dataset), theirs[dataset], COLUMNS[dataset])


def test_lists_are_what_web3_reads(read: Read) -> None:
    """Access lists, authorizations and topics, which are lists of structs, or columns of their own."""
    if "transactions" not in read.datasets:
        assert read.datasets == ("blocks", "withdrawals")
        return
    eth = read.web3.eth
    transactions = {
        bytes(one["hash"]): one
        for number in read.numbers
        for one in eth.get_block(number, full_transactions=True)["transactions"]
    }
    for row in rows_of(read.result, "transactions"):
        other = transactions[row["transaction_hash"]]
        assert [(one["address"], one["storage_keys"]) for one in row["access_list"] or []] == [
            (known(one["address"], b""), known(one["storageKeys"], []))
            for one in other.get("accessList") or []
        ]
        assert [(one["address"], one["nonce"]) for one in row["authorization_list"] or []] == [
            (known(one["address"], b""), one["nonce"]) for one in other.get("authorizationList") or []
        ]
    logs = [log for one in transactions for log in eth.get_transaction_receipt(one)["logs"]]
    for row, log in zip(rows_of(read.result, "logs"), logs, strict=True):
        topics = [row[f"topic{at}"] for at in range(4)]
        assert [one for one in topics if one is not None] == known(log["topics"], [])
