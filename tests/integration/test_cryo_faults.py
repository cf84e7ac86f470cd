"""The real Cryo behind an endpoint that misbehaves: nothing wrong passes, and what passes is right."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.extraction import Reports, cryo_rows_of, extract
from tests.support.fault_proxy import Exchange, FaultProxy, FirstTimes, Reply, RpcFailure
from tests.support.small_chain import SmallChain, node_rows, small_chain
from trace_dagster.errors import DataMismatch, EngineFailed, RpcError, RpcUnavailable, WrongChain
from trace_dagster.rpc import JsonRpcClient

BUSY = "0x4"
"""A block with six transactions and many logs."""

QUICK = {"deadline": None, "attempts": 4, "first_wait_seconds": 0.001}

Json = Any
Spoil = Callable[[Json], Json]


@pytest.fixture(scope="module")
def chain() -> Iterator[SmallChain]:
    """A chain of seven blocks."""
    with small_chain() as built:
        yield built


@pytest.fixture
def proxy(chain: SmallChain, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The node, spoiled as the test says; everything is tried again at once."""
    defaults = JsonRpcClient.__init__.__kwdefaults__ | QUICK
    monkeypatch.setattr("trace_dagster.rpc.client.JsonRpcClient.__init__.__kwdefaults__", defaults)
    monkeypatch.setattr("trace_dagster.operators.cryo_ingest.cryo_collect._FIRST_PAUSE_SECONDS", 0.01)
    spoiled = FaultProxy(chain.anvil.url)
    yield spoiled
    spoiled.close()


def only(number: str, spoil: Spoil) -> Callable[[list[Any], Json], Json]:
    """A rewrite of the answers about block ``number``."""

    def rewrite(params: list[Any], result: Json) -> Json:
        about = params[0]["fromBlock"] if isinstance(params[0], dict) else params[0]
        return spoil(result) if about == number else result

    return rewrite


def changed(place: Callable[[Json], Json], **values: Json) -> Spoil:
    """A spoil that overwrites fields of one part of the result."""

    def spoil(result: Json) -> Json:
        place(result).update(values)
        return result

    return spoil


def nothing(result: Json) -> Json:
    """An empty list."""
    return []


def null(result: Json) -> Json:
    """What nodes answer for what they do not have."""
    return None


OTHER_HASH = "0x" + "ab" * 32


@pytest.mark.parametrize(
    ("datasets", "method", "spoil", "expected"),
    [
        (
            "transactions",
            "eth_getBlockReceipts",
            lambda r: r[:-1],
            "block 4: it lists 6 transactions, but .* 5 receipts",
        ),
        (
            "transactions",
            "eth_getBlockReceipts",
            lambda r: [*r, r[0]],
            "block 4: it lists 6 transactions, but .* 7 rec",
        ),
        (
            "transactions",
            "eth_getBlockReceipts",
            lambda r: r[::-1],
            "block 4, transaction_index 0: gas_used is",
        ),
        (
            "transactions",
            "eth_getBlockReceipts",
            nothing,
            "block 4: it lists 6 transactions, but .* 0 receipts",
        ),
        (
            "transactions",
            "eth_getBlockReceipts",
            null,
            "block 4: the endpoint gave null instead of",
        ),
        (
            "transactions",
            "eth_getBlockReceipts",
            changed(lambda r: r[1], blockHash=OTHER_HASH),
            "block 4 is 0x.*, but the receipt of transaction 1 belongs to 0xabab",
        ),
        (
            "logs",
            "eth_getBlockReceipts",
            changed(lambda r: r[1], logs=[]),
            "block 4: the receipt of transaction 3 has the log_index",
        ),
        (
            "logs",
            "eth_getBlockReceipts",
            changed(lambda r: r[4], logs=[]),
            r"block 4 \(0x.*\): its logsBloom announces logs that are missing",
        ),
        (
            "logs",
            "eth_getBlockReceipts",
            changed(lambda r: r[4]["logs"][0], address="0x" + "cd" * 20),
            r"block 4 \(0x.*\): its logsBloom excludes",
        ),
        ("logs", "eth_getLogs", nothing, "logs: 18 rows where the chain has 27; block 4 has 0 of 9"),
        ("logs", "eth_getLogs", lambda r: r[1:], "logs: 26 rows where the chain has 27; block 4 has 8 of 9"),
        (
            "logs",
            "eth_getLogs",
            lambda r: [*r[:-1], r[0]],
            "logs: block 4, transaction_index 1, log_index 1: log_index is 0",
        ),
        (
            "logs",
            "eth_getLogs",
            changed(lambda r: r[2], data="0x11"),
            "log_index 2: data is 0x11, but the endpoint now says 0x",
        ),
        (
            "logs",
            "eth_getLogs",
            changed(lambda r: r[2], blockHash=OTHER_HASH),
            "log_index 2: block_hash is 0xabab",
        ),
        ("blocks", "eth_getBlockByNumber", null, "null for block 4, which is below the head"),
        ("transactions", "eth_getBlockByNumber", null, "null for block 4, which is below the head"),
        (
            "blocks",
            "eth_getBlockByNumber",
            changed(lambda r: r, parentHash=OTHER_HASH),
            "block 4 has the parent 0xabab.*, but block 3 is 0x",
        ),
        (
            "blocks",
            "eth_getBlockByNumber",
            changed(lambda r: r, hash=OTHER_HASH),
            "block 5 has the parent 0x.*abab",
        ),
        (
            "blocks",
            "eth_getBlockByNumber",
            changed(lambda r: r, number="0x3"),
            "block 4: the endpoint answered with",
        ),
        (
            "blocks",
            "eth_getBlockByNumber",
            changed(lambda r: r, timestamp="now"),
            "block 4: .* cannot be read",
        ),
        ("traces", "trace_block", lambda r: r[1:], "traces: block 4, transaction 0 .* has 0 outermost calls"),
        (
            "traces",
            "trace_block",
            changed(lambda r: r[0], blockHash=OTHER_HASH),
            "traces: block 4 is 0xabab.* in the rows and 0x",
        ),
        (
            "traces",
            "trace_block",
            changed(lambda r: r[0], transactionHash=OTHER_HASH),
            "traces: block 4 .* has no transaction 0xabab.* at index 0",
        ),
        (
            "native_transfers",
            "trace_block",
            changed(lambda r: r[0], transactionHash=OTHER_HASH),
            "native_transfers: block 4 .* has no transaction 0xabab",
        ),
    ],
)
def test_a_wrong_answer_is_a_mismatch(  # noqa: PLR0917
    proxy: FaultProxy, tmp_path: Path, datasets: str, method: str, spoil: Spoil, expected: str
) -> None:
    """Whatever the endpoint leaves out, repeats, reorders or changes is named with its block and values."""
    proxy.rewrite[method] = only(BUSY, spoil)
    with pytest.raises(DataMismatch, match=expected):
        extract(tmp_path, proxy.endpoint(), datasets, (1, 7))
    assert not list(tmp_path.glob("*/*.parquet"))


@pytest.mark.parametrize(
    "field",
    ["extraData", "stateRoot", "receiptsRoot", "miner", "gasUsed", "size", "baseFeePerGas", "timestamp"],
)
def test_two_answers_for_one_block_are_a_mismatch(proxy: FaultProxy, tmp_path: Path, field: str) -> None:
    """A header that reads otherwise the second time is found in every column."""
    asked = []

    def second(result: Json) -> Json:
        asked.append(1)
        other = result[field][:-1] + ("1" if result[field][-1] != "1" else "2")
        return {**result, field: other if field != "extraData" else "0x01"} if len(asked) > 1 else result

    proxy.rewrite["eth_getBlockByNumber"] = only(BUSY, second)
    with pytest.raises(DataMismatch, match=r"blocks: block 4: \w+ is .*, but the endpoint now says"):
        extract(tmp_path, proxy.endpoint(), "blocks", (4, 5))


@pytest.mark.parametrize("datasets", ["blocks", "transactions", "logs", "traces", "balance_diffs"])
def test_a_reorganisation_between_the_readings_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, datasets: str
) -> None:
    """The node changes branch after Cryo and before the checks have read: a mismatch; a new try works."""
    with small_chain() as chain:
        proxy = FaultProxy(chain.anvil.url)
        reorganised = []

        def reorganise_before_the_checks(exchange: Exchange) -> Reply | None:
            if isinstance(exchange.request, list) and not reorganised:
                reorganised.append(1)
                chain.anvil.call("anvil_reorg", 4, [])
            return None

        proxy.intercept = reorganise_before_the_checks
        try:
            with pytest.raises(DataMismatch, match=r"block [4-6]"):
                extract(tmp_path, proxy.endpoint(), datasets, (1, 7))
            extract(tmp_path, proxy.endpoint(), datasets, (1, 7))
        finally:
            proxy.close()


def _without_status(params: list[Any], result: Json) -> Json:
    return [
        {key: value for key, value in receipt.items() if key != "status"} | {"root": OTHER_HASH}
        for receipt in result
    ]


def test_receipts_without_status_give_null(tmp_path: Path) -> None:
    """Before Byzantium receipts have a root and no status: success is null, where Cryo guesses false."""
    with small_chain("--chain-id", "1") as mainnet:
        proxy = FaultProxy(mainnet.anvil.url)
        proxy.rewrite["eth_getBlockReceipts"] = _without_status
        result = extract(tmp_path, proxy.endpoint(), "transactions", (1, 7), chain_id=1)
        proxy.close()
        rows = cryo_rows_of(result, "transactions")
        true_rows = node_rows(mainnet.anvil, "transactions", 1, 7)
    assert rows == [row | {"success": None, "chain_id": 1} for row in true_rows]
    assert result.outputs[0].checks["success_is_null_without_status"] == "passed"


def test_receipts_without_status_fail_where_cryo_cannot_read_them(proxy: FaultProxy, tmp_path: Path) -> None:
    """On other chains than Ethereum mainnet Cryo loses the chunk of such receipts: an error says why."""
    proxy.rewrite["eth_getBlockReceipts"] = _without_status
    with pytest.raises(
        EngineFailed, match=r"could not determine status of transaction.*before the Byzantium fork"
    ):
        extract(tmp_path, proxy.endpoint(), "transactions", (1, 7))


def test_the_wrong_chain_is_refused_before_anything_is_asked(proxy: FaultProxy, tmp_path: Path) -> None:
    """Another chain id than the job's is an error with both numbers; no block is read."""
    with pytest.raises(WrongChain) as caught:
        extract(tmp_path, proxy.endpoint(), "blocks", (1, 3), chain_id=10143)
    assert str(caught.value) == (
        "rpc_pool 'tested' serves chain 31337, but the job's chain_id is 10143; correct chain_id or rpc_pool"
    )
    assert set(proxy.calls) == {"eth_chainId"}
    assert not list(tmp_path.glob("*/*"))


def test_a_range_beyond_the_head_is_refused(proxy: FaultProxy, tmp_path: Path) -> None:
    """A head below end_block is an error with the numbers and the mend."""
    with pytest.raises(EngineFailed) as caught:
        extract(tmp_path, proxy.endpoint(), "blocks", (5, 9))
    assert str(caught.value) == (
        "block 9 does not exist yet at rpc_pool 'tested', whose head is block 7; "
        "lower end_block to 7 or less, or wait for 2 more blocks"
    )


def test_an_unreachable_endpoint_is_named(proxy: FaultProxy, tmp_path: Path) -> None:
    """Nobody listens: an error with the variable, without the path."""
    proxy.close()
    with pytest.raises(
        RpcUnavailable, match=r"at http://127.0.0.1:\d+/\.\.\. cannot be reached.*TRACE_RPC_POOL"
    ):
        extract(tmp_path, proxy.endpoint(), "blocks", (1, 3))


ANSWERS = {
    "500": Reply(status=500),
    "429": Reply(status=429),
    "dropped": Reply(drop=True),
    "truncated": Reply(b'{"jsonrpc":"2.0","id":1,"result":{"hash":"0x'),
    "not-json": Reply(b"<html>Bad gateway</html>"),
    "rate-limit": Reply(
        json.dumps({"id": 1, "error": {"code": -32005, "message": "limit exceeded"}}).encode()
    ),
}


@pytest.mark.parametrize("fault", ANSWERS)
def test_passing_faults_cost_nothing(
    chain: SmallChain, proxy: FaultProxy, tmp_path: Path, fault: str
) -> None:
    """Faults of every method that pass after two requests are overcome, and the rows are right."""
    methods = ("eth_chainId", "eth_getBlockByNumber", "eth_getBlockReceipts")
    faults = [FirstTimes(2, ANSWERS[fault], method) for method in methods]
    proxy.intercept = lambda exchange: next(filter(None, (one(exchange) for one in faults)), None)
    result = extract(tmp_path, proxy.endpoint(), "blocks,transactions", (1, 7))
    for dataset in ("blocks", "transactions"):
        assert cryo_rows_of(result, dataset) == node_rows(chain.anvil, dataset, 1, 7)
    assert all(one.left < 0 for one in faults)


@pytest.mark.parametrize("fault", ["500", "truncated", "dropped"])
def test_a_lasting_fault_of_one_method_fails_the_attempt(
    proxy: FaultProxy, tmp_path: Path, fault: str
) -> None:
    """What Cryo cannot read the checks cannot read either, and say why."""
    proxy.intercept = FirstTimes(10**6, ANSWERS[fault], "eth_getBlockByNumber")
    with pytest.raises(RpcError, match="rpc_pool 'tested' at http"):
        extract(tmp_path, proxy.endpoint(), "blocks", (1, 3))


def test_a_fault_that_only_cryo_sees_is_told_in_its_words(proxy: FaultProxy, tmp_path: Path) -> None:
    """A method that only Cryo uses fails: its own words, its chunk and how often it was asked."""

    def fail(params: list[Any]) -> Json:
        raise RpcFailure(-32000, "trie node missing, see http://provider.example/planted-path-secret")

    proxy.results["trace_block"] = fail
    progress = Reports()
    with pytest.raises(EngineFailed) as caught:
        extract(tmp_path, proxy.endpoint(), "traces", (1, 3), progress=progress)
    assert str(caught.value).startswith(
        "Cryo gave up on 1 of 1 chunks of traces, the first being blocks 1 to 3 (exit status 0): "
    )
    assert "trie node missing, see http://provider.example/..." in str(caught.value)
    assert "planted" not in f"{caught.value} {progress.said}"
    assert [fields["run"] for message, fields in progress.said if message == "Cryo gave up on chunks"] == [
        1,
        2,
        3,
    ]


def test_a_value_that_cryo_cannot_hold_fails_the_attempt_at_once(proxy: FaultProxy, tmp_path: Path) -> None:
    """A gas price of 2^64 makes Cryo panic and exit 0: an error that quotes it, and no second run."""
    proxy.rewrite["eth_getBlockByNumber"] = only(
        BUSY, lambda r: {**r, "transactions": _with_gas_price(r["transactions"], hex(2**64))}
    )
    with pytest.raises(EngineFailed, match=r"panicked at.*does not fit Cryo's own types"):
        extract(tmp_path, proxy.endpoint(), "transactions", (4, 5))
    assert proxy.calls["eth_chainId"] == 2  # ours, and that of Cryo's only run


def _with_gas_price(transactions: list[Any], price: str) -> list[Any]:
    return [item if isinstance(item, str) else {**item, "gasPrice": price} for item in transactions]


def test_an_endpoint_without_block_receipts_is_asked_by_transaction(
    chain: SmallChain, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Where eth_getBlockReceipts is missing, receipts come one by one, and are checked all the same."""
    proxy.rewrite["eth_getBlockReceipts"] = _unsupported
    result = extract(tmp_path, proxy.endpoint(), "transactions,logs", (1, 7))
    for dataset in ("transactions", "logs"):
        assert cryo_rows_of(result, dataset) == node_rows(chain.anvil, dataset, 1, 7)
        assert result.outputs[0].checks["receipts"] == "passed"


def test_an_endpoint_without_receipts_leaves_a_check_open(
    chain: SmallChain, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Where there are no receipts at all, logs are checked against headers, and the manifest says so."""
    proxy.rewrite["eth_getBlockReceipts"] = proxy.rewrite["eth_getTransactionReceipt"] = _unsupported
    result = extract(tmp_path, proxy.endpoint(), "logs", (1, 7))
    assert cryo_rows_of(result, "logs") == node_rows(chain.anvil, "logs", 1, 7)
    assert result.outputs[0].checks == {
        "headers": "passed",
        "receipts": "not checked: the endpoint has neither eth_getBlockReceipts nor "
        "eth_getTransactionReceipt",
        "logs_bloom": "passed",
    }


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (nothing, r"block 4 \(0x.*\): its logsBloom announces logs that are missing"),
        (lambda r: [*r[:-2], r[-1]], "logs: block 4 has log_index 8 where 7 is due"),
        (changed(lambda r: r[0], address="0x" + "cd" * 20), r"block 4 \(0x.*\): its logsBloom excludes"),
        (changed(lambda r: r[0], transactionHash=OTHER_HASH), "logs: block 4 .* has no transaction 0xabab"),
    ],
)
def test_logs_without_receipts_are_checked_against_headers(
    proxy: FaultProxy, tmp_path: Path, spoil: Spoil, expected: str
) -> None:
    """Also without receipts, missing and foreign logs are found, by bloom, numbering and transactions."""
    proxy.rewrite["eth_getBlockReceipts"] = proxy.rewrite["eth_getTransactionReceipt"] = _unsupported
    proxy.rewrite["eth_getLogs"] = only(BUSY, spoil)
    with pytest.raises(DataMismatch, match=expected):
        extract(tmp_path, proxy.endpoint(), "logs", (1, 7))


def test_an_endpoint_without_batches_works(chain: SmallChain, proxy: FaultProxy, tmp_path: Path) -> None:
    """An endpoint that refuses batches is asked one request at a time."""

    def refuse(exchange: Exchange) -> Reply | None:
        return Reply(status=400) if isinstance(exchange.request, list) else None

    proxy.intercept = refuse
    result = extract(tmp_path, proxy.endpoint(), "blocks,logs", (1, 7))
    assert cryo_rows_of(result, "logs") == node_rows(chain.anvil, "logs", 1, 7)


def _unsupported(params: list[Any], result: Json) -> Json:
    raise RpcFailure(-32601, "the method does not exist/is not available")
