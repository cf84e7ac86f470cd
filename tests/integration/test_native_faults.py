"""The native engine behind an endpoint that misbehaves: equal rows in the end, or a loud failure."""

import json
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.extraction import extract, rows_of, table_of
from tests.support.fault_proxy import Exchange, FaultProxy, FirstTimes, Reply, RpcFailure
from tests.support.followers import two_branches
from tests.support.small_chain import CHAIN_ID, SmallChain, small_chain
from trace_dagster.chain.decoding.pure import PureDecoder
from trace_dagster.chain.profiles import profile_of
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import DataMismatch, EngineFailed, RpcError, RpcUnavailable, TraceError
from trace_dagster.operators.base import Deadline
from trace_dagster.operators.cryo_ingest.engines import ExtractionResult
from trace_dagster.operators.cryo_ingest.native import NativeEngine
from trace_dagster.operators.cryo_ingest.native.fetch import Fetcher, FetchLimits
from trace_dagster.operators.cryo_ingest.native.making import Wanted
from trace_dagster.operators.cryo_ingest.native.plan import plan_of
from trace_dagster.operators.cryo_ingest.native.reader import Abilities, BlockReader
from trace_dagster.rpc import JsonRpcClient

NATIVE = NativeEngine()
QUICK = {"deadline": None, "attempts": 4, "first_wait_seconds": 0.001}
OTHER_HASH = "0x" + "ab" * 32
BUSY = "0x4"
"""A block with six transactions and many logs."""

Json = Any
Spoil = Callable[[Json], Json]
DATASETS = "blocks,transactions,logs"


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
    monkeypatch.setattr("trace_dagster.operators.cryo_ingest.native.fetch._FIRST_WAIT_SECONDS", 0.001)
    spoiled = FaultProxy(chain.anvil.url)
    yield spoiled
    spoiled.close()


@pytest.fixture(scope="module")
def honest(chain: SmallChain, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ExtractionResult]:
    """Return what the node itself gives."""
    made: dict[str, ExtractionResult] = {}
    plain = FaultProxy(chain.anvil.url)

    def result(datasets: str) -> ExtractionResult:
        if datasets not in made:
            folder = tmp_path_factory.mktemp("honest")
            made[datasets] = extract(folder, plain.endpoint(), datasets, (0, chain.head), engine=NATIVE)
        return made[datasets]

    return result


def only(number: str, spoil: Spoil, *, times: float = float("inf")) -> Callable[[list[Any], Json], Json]:
    """A rewrite of the first answers about block ``number``."""
    seen = count()

    def rewrite(params: list[Any], result: Json) -> Json:
        about = params[0]["fromBlock"] if isinstance(params[0], dict) else params[0]
        return spoil(result) if about == number and next(seen) < times else result

    return rewrite


def changed(place: Callable[[Json], Json], **values: Json) -> Spoil:
    """A spoil that overwrites fields of one part of the result."""

    def spoil(result: Json) -> Json:
        place(result).update(values)
        return result

    return spoil


def refuse(code: int, message: str) -> Spoil:
    """A spoil that answers with an error instead."""

    def spoil(_result: Json) -> Json:
        raise RpcFailure(code, message)

    return spoil


def one_log(result: Json) -> Json:
    """The first log of the fifth receipt."""
    return result[4]["logs"][0]


FAULTS: list[tuple[str, str, Spoil, str]] = [
    (
        "null block",
        "eth_getBlockByNumber",
        lambda _: None,
        "answers null for block 4, which is below the head",
    ),
    (
        "another block",
        "eth_getBlockByNumber",
        changed(lambda r: r, number="0x5"),
        "block 4: the endpoint answered with block 5",
    ),
    (
        "other parent",
        "eth_getBlockByNumber",
        changed(lambda r: r, parentHash=OTHER_HASH),
        "block 4 has the parent 0xabab.*, but block 3 is",
    ),
    (
        "other branch",
        "eth_getBlockByNumber",
        changed(lambda r: r, hash=OTHER_HASH),
        r"block 5 has the parent 0x\w+, but block 4 is 0xabab\w+: a reorganisation",
    ),
    (
        "transaction lost",
        "eth_getBlockByNumber",
        lambda r: {**r, "transactions": r["transactions"][:-1]},
        "block 4: it lists 5 transactions, but the endpoint gave 6 receipts",
    ),
    (
        "transaction twice",
        "eth_getBlockByNumber",
        lambda r: {**r, "transactions": [*r["transactions"][:-1], r["transactions"][0]]},
        r"transaction 0x\w+ is listed twice",
    ),
    (
        "no hash",
        "eth_getBlockByNumber",
        changed(lambda r: r, hash=None),
        "block of call .*: hash is null; expected a value",
    ),
    (
        "null receipts",
        "eth_getBlockReceipts",
        lambda _: None,
        "lists 6 transactions, but the endpoint gave null",
    ),
    (
        "no receipts",
        "eth_getBlockReceipts",
        lambda _: [],
        "lists 6 transactions, but the endpoint gave 0 receipts",
    ),
    ("short receipts", "eth_getBlockReceipts", lambda r: r[:-1], "lists 6 transactions, but .* 5 receipts"),
    (
        "receipt twice",
        "eth_getBlockReceipts",
        lambda r: [*r, r[0]],
        "lists 6 transactions, but .* 7 receipts",
    ),
    (
        "receipt of another",
        "eth_getBlockReceipts",
        changed(lambda r: r[1], transactionHash=OTHER_HASH),
        r"block 4 \(0x\w+\): the endpoint gave no receipt for 0x",
    ),
    (
        "receipt of another block",
        "eth_getBlockReceipts",
        changed(lambda r: r[1], blockHash=OTHER_HASH),
        "the receipt of transaction 1 has block_hash 0xabab",
    ),
    (
        "other sender",
        "eth_getBlockReceipts",
        changed(lambda r: r[1], **{"from": "0x" + "cd" * 20}),
        "the receipt of transaction 1 has from_address 0xcdcd",
    ),
    (
        "wrong gas",
        "eth_getBlockReceipts",
        changed(lambda r: r[1], gasUsed="0x1"),
        r"its receipt has cumulative gas \d+, but \d+ is due: its own gas is 1",
    ),
    (
        "logs lost between",
        "eth_getBlockReceipts",
        changed(lambda r: r[1], logs=[]),
        r"log_index 4 where 0 is due",
    ),
    (
        "last logs lost",
        "eth_getBlockReceipts",
        changed(lambda r: r[4], logs=[]),
        "block 4: its logsBloom announces logs that are missing",
    ),
    (
        "other log",
        "eth_getBlockReceipts",
        changed(one_log, address="0x" + "cd" * 20),
        "block 4: its logsBloom excludes some",
    ),
    ("removed log", "eth_getBlockReceipts", changed(one_log, removed=True), r"log \d+ is marked as removed"),
    (
        "log of another transaction",
        "eth_getBlockReceipts",
        changed(one_log, transactionHash=OTHER_HASH),
        "has transaction_hash 0xabab",
    ),
    (
        "not hex",
        "eth_getBlockReceipts",
        changed(one_log, data="0x0"),
        r'\[4\].logs\[0\].data is "0x0"; expected',
    ),
    (
        "an error",
        "eth_getBlockReceipts",
        refuse(-32000, "header not found"),
        "error -32000: header not found",
    ),
]


FAULTS += [
    (
        "hashes only",
        "eth_getBlockByNumber",
        lambda r: {**r, "transactions": [one["hash"] for one in r["transactions"]]},
        "the endpoint gave transaction 0 without its from_address",
    ),
    (
        "no value",
        "eth_getBlockByNumber",
        changed(lambda r: r["transactions"][3], value=None),
        "the endpoint gave transaction 3 without its value",
    ),
    (
        "impossible gas",
        "eth_getBlockReceipts",
        changed(lambda r: r[1], gasUsed=hex(2**63)),
        f"gas_used {2**63} cannot be",
    ),
]


@pytest.mark.parametrize(
    ("method", "spoil", "expected"), [one[1:] for one in FAULTS], ids=[one[0] for one in FAULTS]
)
def test_a_lasting_fault_fails_and_a_passing_one_is_mended(
    proxy: FaultProxy,
    tmp_path: Path,
    honest: Callable[[str], ExtractionResult],
    *,
    method: str,
    spoil: Spoil,
    expected: str,
) -> None:
    """Every fault is found, tried again, and told with its numbers; nothing is left of the attempt."""
    proxy.rewrite[method] = only(BUSY, spoil)
    with pytest.raises((DataMismatch, RpcError), match=expected):
        extract(tmp_path, proxy.endpoint(), DATASETS, (0, 7), engine=NATIVE)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    proxy.rewrite[method] = only(BUSY, spoil, times=2)
    mended = extract(tmp_path, proxy.endpoint(), DATASETS, (0, 7), engine=NATIVE)
    same(mended, honest(DATASETS))
    assert sum(mended.metadata["trace/repeated"].values()) == 2  # type: ignore[union-attr]


def same(result: ExtractionResult, expected: ExtractionResult) -> None:
    """Check that two results have the same rows and checks."""
    for one, due in zip(result.outputs, expected.outputs, strict=True):
        assert table_of(result, one.dataset).equals(table_of(expected, one.dataset)), one.dataset
        assert (one.facts, one.checks) == (due.facts, due.checks)


LOG_FAULTS: list[tuple[str, Spoil, str]] = [
    ("empty", lambda _: [], "its logsBloom announces logs that are missing"),
    ("short", lambda r: r[:-1], "its logsBloom announces logs that are missing"),
    ("gap", lambda r: r[1:], "log_index 1 where 0 is due"),
    ("twice", lambda r: [*r, r[-1]], r"log_index \d+ where \d+ is due"),
    (
        "of another block",
        lambda r: [{**r[0], "blockNumber": "0x99"}, *r[1:]],
        "the endpoint gave a log of block 153",
    ),
    ("of another branch", lambda r: [{**r[0], "blockHash": OTHER_HASH}, *r[1:]], "has block_hash 0xabab"),
    (
        "of no transaction",
        lambda r: [{**r[0], "transactionIndex": "0x63"}, *r[1:]],
        "is of transaction 99, but",
    ),
    (
        "of an impossible transaction",
        lambda r: [{**r[0], "transactionIndex": hex(2**63)}, *r[1:]],
        f"transaction_index {2**63} cannot be",
    ),
    (
        "of an impossible block",
        lambda r: [{**r[0], "blockNumber": hex(2**63)}, *r[1:]],
        f"the endpoint gave a log of block {2**63}",
    ),
    ("null", lambda _: None, "the endpoint answers null for the logs of blocks 4 to 7"),
]


@pytest.mark.parametrize(
    ("spoil", "expected"), [one[1:] for one in LOG_FAULTS], ids=[one[0] for one in LOG_FAULTS]
)
def test_faults_of_logs_alone(
    proxy: FaultProxy,
    tmp_path: Path,
    honest: Callable[[str], ExtractionResult],
    spoil: Spoil,
    expected: str,
) -> None:
    """Logs that were asked for by range are checked against the headers' blooms, and asked for again."""
    proxy.rewrite["eth_getLogs"] = only(BUSY, spoil)
    for dataset in ("logs", "erc20_transfers"):  # transfers are picked out of all logs
        with pytest.raises(DataMismatch, match=expected):
            extract(tmp_path, proxy.endpoint(), dataset, (4, 7), engine=NATIVE)
    proxy.rewrite["eth_getLogs"] = only("0x0", spoil if expected[0] != "l" else lambda _: [], times=1)
    same(extract(tmp_path, proxy.endpoint(), "logs", (0, 7), engine=NATIVE), honest("logs"))


def test_blocks_whose_lists_are_taken_away_are_found(proxy: FaultProxy, tmp_path: Path) -> None:
    """No transactions and no receipts fit together, but not the roots and the gas in the header."""
    gone: Spoil = lambda r: {**r, "transactions": []}  # noqa: E731
    proxy.rewrite["eth_getBlockByNumber"] = only("0x1", gone)
    proxy.rewrite["eth_getBlockReceipts"] = only("0x1", lambda _: [])
    for dataset in ("transactions", "logs", "traces"):
        with pytest.raises(DataMismatch, match="block 1: the endpoint gave no transactions, but the block's"):
            extract(tmp_path, proxy.endpoint(), dataset, (1, 1), engine=NATIVE)
    root = "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"
    proxy.rewrite["eth_getBlockByNumber"] = only("0x1", lambda r: {**gone(r), "transactionsRoot": root})
    with pytest.raises(DataMismatch, match=r"block 1: it used \d+ gas, but its receipts add up to 0"):
        extract(tmp_path, proxy.endpoint(), "transactions", (1, 1), engine=NATIVE)
    lost = only(BUSY, changed(lambda r: r, withdrawals=None, withdrawalsRoot=OTHER_HASH))
    proxy.rewrite["eth_getBlockByNumber"] = lost
    with pytest.raises(DataMismatch, match="block 4: the endpoint gave no withdrawals, but the block's"):
        extract(tmp_path, proxy.endpoint(), "withdrawals", (0, 7), engine=NATIVE)


def test_a_missing_bloom_is_told(proxy: FaultProxy, tmp_path: Path) -> None:
    """Without it nothing says whether an empty answer is right: the check does not count as passed."""
    proxy.rewrite["eth_getBlockByNumber"] = only(BUSY, changed(lambda r: r, logsBloom=None))
    proxy.rewrite["eth_getLogs"] = lambda *_: []
    (logs,) = extract(tmp_path, proxy.endpoint(), "logs", (4, 4), engine=NATIVE).outputs
    assert logs.checks["logs_bloom"] == "not checked: blocks have no logsBloom"


def test_logs_that_the_endpoint_filters(
    proxy: FaultProxy, chain: SmallChain, tmp_path: Path, honest: Callable[[str], ExtractionResult]
) -> None:
    """Of a block whose bloom announces such logs, and that has none in the answer, all logs are asked for."""
    filters = {"address": (chain.logger,)}
    due = extract(tmp_path, proxy.endpoint(), "logs", (0, 7), engine=NATIVE, **filters)
    assert 0 < table_of(due, "logs").num_rows < table_of(honest("logs"), "logs").num_rows
    assert "not checked: the endpoint applied" in due.outputs[0].checks["completeness"]

    def empty(params: list[Any], result: Json) -> Json:
        return [] if "address" in params[0] else result

    proxy.rewrite["eth_getLogs"] = empty
    same(extract(tmp_path, proxy.endpoint(), "logs", (0, 7), engine=NATIVE, **filters), due)
    proxy.rewrite["eth_getLogs"] = lambda *_: []
    with pytest.raises(DataMismatch, match="its logs, asked for without a filter, do not fit its logsBloom"):
        extract(tmp_path, proxy.endpoint(), "logs", (0, 7), engine=NATIVE, **filters)
    proxy.rewrite["eth_getLogs"] = lambda params, r: r + r if "address" in params[0] else r
    with pytest.raises(DataMismatch, match=r"log \d+ was given twice"):
        extract(tmp_path, proxy.endpoint(), "logs", (0, 7), engine=NATIVE, **filters)


def inner(result: Json) -> Json:
    """The first inner trace."""
    return next(one for one in result if one["traceAddress"])


@pytest.mark.parametrize(
    ("method", "spoil", "expected"),
    [
        (
            "trace_block",
            lambda r: [one for one in r if one is not inner(r)],
            r"its traces count \d+ inner ones, but the endpoint gave \d+",
        ),
        ("trace_block", lambda r: [*r, inner(r)], r"its traces count \d+ inner ones, but the endpoint"),
        (
            "trace_block",
            lambda r: [*[one for one in r if one is not inner(r)], [o for o in r if o["traceAddress"]][1]],
            "was given twice",
        ),
        ("trace_block", changed(inner, transactionPosition=None), r"trace \d+ \(call\) has no transactionPo"),
        ("trace_block", changed(inner, action=None), r"trace \d+ \(call\) has no action.from"),
        (
            "trace_block",
            changed(inner, transactionPosition=hex(2**63)),
            f"transaction_index {2**63} cannot be",
        ),
        ("trace_block", lambda _: None, "block 4: the endpoint answers null for its traces"),
        (
            "trace_block",
            lambda _: [],
            "block 4: it lists 6 transactions, but the endpoint gave 0 outermost traces",
        ),
        (
            "trace_block",
            lambda r: [one for one in r if one["transactionPosition"] != 2],
            "gave 5 outermost traces",
        ),
        ("trace_block", changed(lambda r: r[0], blockHash=OTHER_HASH), "has block_hash 0xabab"),
        ("trace_block", changed(lambda r: r[0], transactionHash=OTHER_HASH), "has transaction_hash 0xabab"),
        ("debug_traceBlockByNumber", lambda r: r[:-1], "gave 5 outermost frames"),
        (
            "debug_traceBlockByNumber",
            changed(lambda r: r[0], result=None, error="timeout"),
            "gave 5 outermost frames",
        ),
        (
            "debug_traceBlockByNumber",
            changed(lambda r: r[0], txHash=OTHER_HASH),
            "has transaction_hash 0xabab",
        ),
    ],
)
def test_faults_of_traces(
    proxy: FaultProxy, tmp_path: Path, method: str, spoil: Spoil, expected: str
) -> None:
    """Traces and call frames must begin with every transaction of the block."""
    proxy.rewrite[method] = only(BUSY, spoil)
    dataset = "traces" if method == "trace_block" else "calls"
    with pytest.raises(DataMismatch, match=expected):
        extract(tmp_path, proxy.endpoint(), dataset, (0, 7), engine=NATIVE)


def test_call_frames_of_another_block_are_found_where_senders_are_known(
    proxy: FaultProxy, tmp_path: Path
) -> None:
    """Frames that do not name their transactions are compared with them; alone, that is said."""

    def nameless(_params: list[Any], result: Json) -> Json:
        return [{"result": one["result"]} for one in result]

    proxy.rewrite["debug_traceBlockByNumber"] = nameless
    (calls,) = extract(tmp_path, proxy.endpoint(), "calls", (0, 7), engine=NATIVE).outputs
    assert calls.checks["frames_match_transactions"].startswith("not checked: the node does not name")
    both = "transactions,calls"
    extract(tmp_path, proxy.endpoint(), both, (0, 7), engine=NATIVE)
    proxy.rewrite["debug_traceBlockByNumber"] = lambda params, r: nameless(params, r)[::-1]
    with pytest.raises(DataMismatch, match=r"the outermost frame of transaction \d is from 0x"):
        extract(tmp_path, proxy.endpoint(), both, (0, 7), engine=NATIVE)


def test_receipts_may_come_in_any_order(
    proxy: FaultProxy, tmp_path: Path, honest: Callable[[str], ExtractionResult]
) -> None:
    """Receipts are matched by hash, and batches are answered in any order."""
    proxy.rewrite["eth_getBlockReceipts"] = lambda _params, result: result[::-1]
    answer = proxy._reply

    def shuffled(exchange: Exchange) -> Reply | None:
        if isinstance(exchange.request, list):
            return answer(Exchange(exchange.request[::-1], exchange.headers, exchange.path))
        return None

    proxy.intercept = once_inside(shuffled)
    result = extract(tmp_path, proxy.endpoint(), DATASETS, (0, 7), engine=NATIVE)
    same(result, honest(DATASETS))
    assert "trace/repeated" not in result.metadata


def once_inside(intercept: Callable[[Exchange], Reply | None]) -> Callable[[Exchange], Reply | None]:
    """Let ``intercept`` call what calls it."""
    inside = threading.local()

    def guarded(exchange: Exchange) -> Reply | None:
        if getattr(inside, "now", False):
            return None
        inside.now = True
        try:
            return intercept(exchange)
        finally:
            inside.now = False

    return guarded


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=429, headers={"Retry-After": "0"}),
        Reply(status=429),
        Reply(status=500),
        Reply(status=503, body=b"<html>busy</html>"),
        Reply(drop=True),
        Reply(b'[{"jsonrpc":"2.0","id":0,"result":{"number"'),
        Reply(b"<html><body>Bad gateway</body></html>"),
        Reply(b"[]", content_length=5000),
        Reply(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32005,"message":"rate limit exceeded"}}'),
    ],
    ids=["429-after", "429", "500", "503", "reset", "cut", "html", "short-body", "limited"],
)
def test_exchanges_that_fail_are_repeated(
    proxy: FaultProxy, tmp_path: Path, honest: Callable[[str], ExtractionResult], reply: Reply
) -> None:
    """What passes is tried again by the client; what lasts fails, and nothing is written."""
    proxy.intercept = FirstTimes(2, reply, "eth_getBlockByNumber")
    same(extract(tmp_path, proxy.endpoint(), DATASETS, (0, 7), engine=NATIVE), honest(DATASETS))
    proxy.intercept = FirstTimes(1000, reply, "eth_getBlockByNumber")
    with pytest.raises((RpcError, RpcUnavailable)) as failed:
        extract(tmp_path / "", proxy.endpoint(), DATASETS, (0, 7), engine=NATIVE)
    assert "planted" not in str(failed.value)


@pytest.mark.parametrize("refusal", ["status", "error", "size", "list", "first"])
def test_batches_that_are_refused_get_smaller(
    proxy: FaultProxy, tmp_path: Path, honest: Callable[[str], ExtractionResult], refusal: str
) -> None:
    """No batch support, or a limit on its length, costs requests and nothing else."""
    longest = 3 if refusal == "size" else 1

    def intercept(exchange: Exchange) -> Reply | None:
        if not isinstance(exchange.request, list) or len(exchange.request) <= longest:
            return None
        if refusal == "status":
            return Reply(status=400)
        if refusal == "list":  # geth's
            return Reply(b'[{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"batch too large"}}]')
        if refusal == "first":
            return Reply(b'{"jsonrpc":"2.0","id":0,"result":null}')
        return Reply(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"batch too large"}}')

    proxy.intercept = intercept
    result = extract(tmp_path, proxy.endpoint(), DATASETS, (0, 7), engine=NATIVE)
    same(result, honest(DATASETS))
    assert "batch" in result.metadata["trace/fallbacks"]  # type: ignore[operator]


def test_a_rate_limit_is_repeated_in_one_layer_only(proxy: FaultProxy, tmp_path: Path) -> None:
    """The client's attempts are all: they are not multiplied by those for answers that do not fit."""
    proxy.rewrite["eth_getBlockByNumber"] = lambda *_: refuse(-32005, "limit exceeded")(None)
    with pytest.raises(RpcError, match="error -32005: limit exceeded"):
        extract(tmp_path, proxy.endpoint(), "blocks", (4, 4), engine=NATIVE)
    assert proxy.calls["eth_getBlockByNumber"] == QUICK["attempts"]


def test_receipts_one_by_one(
    proxy: FaultProxy, tmp_path: Path, honest: Callable[[str], ExtractionResult]
) -> None:
    """Without ``eth_getBlockReceipts`` every transaction's receipt is asked for, in batches."""
    proxy.rewrite["eth_getBlockReceipts"] = lambda *_: refuse(-32601, "method not found")(None)
    result = extract(tmp_path, proxy.endpoint(), DATASETS, (0, 7), engine=NATIVE)
    same(result, honest(DATASETS))
    assert result.metadata["trace/fallbacks"] == {
        "eth_getBlockReceipts": "eth_getTransactionReceipt for every transaction"
    }
    proxy.rewrite["eth_getTransactionReceipt"] = lambda *_: None
    with pytest.raises(DataMismatch, match=r"block \d: the endpoint gave no receipt for 0x"):
        extract(tmp_path, proxy.endpoint(), DATASETS, (0, 7), engine=NATIVE)


LIMITS = {
    "infura": (-32005, "query returned more than 10000 results"),
    "geth": (-32602, "query returned more than 10000 results"),
    "wide": (-32000, "block range is too wide"),
    "large": (-32003, "response too large"),
    "unknown": (-32603, "Internal error"),
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("most", [3, 1, 0])
def test_logs_of_limited_ranges(
    proxy: FaultProxy, tmp_path: Path, honest: Callable[[str], ExtractionResult], most: int, limit: str
) -> None:
    """Ranges of logs are halved until they are taken; one block alone above the limit gives its receipts."""

    def limited(params: list[Any], result: Json) -> Json:
        blocks = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) + 1
        if blocks > most:
            raise RpcFailure(*LIMITS[limit])
        return result

    proxy.rewrite["eth_getLogs"] = limited
    result = extract(tmp_path, proxy.endpoint(), "logs", (0, 7), engine=NATIVE)
    same(result, honest("logs"))
    fallbacks = result.metadata.get("trace/fallbacks", {})
    assert "batch" not in fallbacks  # type: ignore[operator]
    assert ("eth_getLogs" in fallbacks) == (limit != "unknown")  # type: ignore[operator]
    assert ("eth_getLogs of one block" in fallbacks) == (most == 0)  # type: ignore[operator]
    assert (proxy.calls["eth_getBlockReceipts"] > 0) == (most == 0)


@pytest.mark.parametrize("status", [400, 413, 500])
def test_a_limit_may_come_with_another_status(
    proxy: FaultProxy, tmp_path: Path, honest: Callable[[str], ExtractionResult], status: int
) -> None:
    """A JSON-RPC error in the body says more than the status that it came with."""

    def intercept(exchange: Exchange) -> Reply | None:
        for call in exchange.calls:
            if call["method"] == "eth_getLogs":
                asked = call["params"][0]
                if int(asked["toBlock"], 16) - int(asked["fromBlock"], 16) >= 2:
                    error = {"code": -32602, "message": "Log response size exceeded"}
                    body = {"jsonrpc": "2.0", "id": 0, "error": error}
                    return Reply(json.dumps(body).encode(), status=status)
        return None

    proxy.intercept = intercept
    result = extract(tmp_path, proxy.endpoint(), "logs", (0, 7), engine=NATIVE)
    same(result, honest("logs"))
    assert "eth_getLogs" in result.metadata["trace/fallbacks"]  # type: ignore[operator]


def test_logs_that_are_refused_for_good_are_not_asked_for_in_halves(
    proxy: FaultProxy, tmp_path: Path
) -> None:
    """Whoever may not read a range may not read half of it."""
    proxy.rewrite["eth_getLogs"] = lambda *_: refuse(-32001, "Unauthorized: your API key is no good")(None)
    with pytest.raises(RpcError, match="Unauthorized"):
        extract(tmp_path, proxy.endpoint(), "logs", (0, 7), engine=NATIVE)
    assert proxy.calls["eth_getBlockReceipts"] == 0


def test_a_result_that_quotes_the_key_does_not_show_it(proxy: FaultProxy, tmp_path: Path) -> None:
    """An answer that does not fit is shown, but what it repeats of the URL is not."""
    proxy.rewrite["eth_getBlockByNumber"] = lambda *_: "key planted-path-secret is over its quota"
    with pytest.raises(DataMismatch, match=r"is .key \*\*\* is over its quota") as failed:
        extract(tmp_path, proxy.endpoint(), "blocks", (4, 4), engine=NATIVE)
    assert "planted" not in str(failed.value)


def test_pruned_history_and_missing_methods_are_told(proxy: FaultProxy, tmp_path: Path) -> None:
    """What the endpoint cannot give is one clear line, not data with holes."""
    proxy.rewrite["eth_getBlockByNumber"] = lambda *_: None
    with pytest.raises(DataMismatch, match="or history that the node has pruned"):
        extract(tmp_path, proxy.endpoint(), "blocks", (0, 7), engine=NATIVE)
    proxy.rewrite.clear()
    proxy.rewrite["trace_block"] = lambda *_: refuse(-32000, "missing trie node: state is pruned")(None)
    with pytest.raises(
        RpcError, match=r"answered trace_block with error -32000: missing trie node: state is"
    ):
        extract(tmp_path, proxy.endpoint(), "traces", (0, 7), engine=NATIVE)
    lacks(proxy, "trace_block")
    lacks(proxy, "debug_traceBlockByNumber")
    with pytest.raises(EngineFailed, match="calls, and traces, contracts and native_tr"):
        extract(tmp_path, proxy.endpoint(), "traces", (0, 7), engine=NATIVE)


def lacks(proxy: FaultProxy, method: str) -> None:
    """Let the endpoint answer as a node without the method does."""
    proxy.rewrite[method] = lambda *_: refuse(-32601, f"the method {method} does not exist")(None)


def test_call_frames_stand_in_for_traces(
    proxy: FaultProxy, honest: Callable[[str], ExtractionResult], tmp_path: Path
) -> None:
    """Without ``trace_block`` the rows are the same, but for the gas of outermost calls; and it is said."""
    lacks(proxy, "trace_block")
    datasets = ("traces", "contracts", "native_transfers", "calls")
    result = extract(tmp_path, proxy.endpoint(), ",".join(datasets), (0, 7), engine=NATIVE)
    assert "trace_block" in str(result.metadata["trace/fallbacks"])
    assert proxy.calls["debug_traceBlockByNumber"] == 8
    for dataset in datasets:
        ours, theirs = rows_of(result, dataset), rows_of(honest(dataset), dataset)
        assert len(ours) == len(theirs) > 0
        for own, other in zip(ours, theirs, strict=True):
            if dataset == "traces" and own["trace_address"] == "":
                for name in ("action_gas", "result_gas_used"):
                    assert (own[name] is None) == (other[name] is None)
                    own.pop(name), other.pop(name)
            assert own == other


def test_of_joined_batches_only_the_wrong_one_is_asked_for_again(proxy: FaultProxy) -> None:
    """Batches that wait are made into tables together; where that fails, each by itself."""
    datasets = ("blocks", "transactions", "logs")
    plan = plan_of(datasets, {})
    ranges = [BlockRange(0, 1), BlockRange(2, 3), BlockRange(4, 5)]
    wanted = Wanted(CHAIN_ID, profile_of(CHAIN_ID), datasets, {}, plan, BlockRange(0, 5))
    with JsonRpcClient(proxy.endpoint()) as client:
        reader = BlockReader(client, plan, PureDecoder(), Abilities())
        batches = [reader.read(one) for one in ranges]
    wrong = replace(batches[1], receipts=batches[2].receipts)
    proxy.calls.clear()
    with Fetcher(proxy.endpoint(), wanted, PureDecoder(), FetchLimits(), Deadline.after(None)) as fetcher:
        (together,) = fetcher._make_all(batches, None)
        assert proxy.calls == {}
        alone = list(fetcher._make_all([batches[0], wrong, batches[2]], None))
    assert proxy.calls == {"eth_getBlockByNumber": 2, "eth_getBlockReceipts": 2}
    assert [one.range for one in alone] == ranges
    for dataset in datasets:
        tables = [one.tables[dataset] for one in alone]
        assert pa.concat_tables(tables).combine_chunks().equals(together.tables[dataset].combine_chunks())


def test_two_backends_on_different_branches(
    proxy: FaultProxy, chain: SmallChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that are whole in themselves, but do not follow each other, are an error."""
    monkeypatch.setattr("trace_dagster.operators.cryo_ingest.native.fetch._FIRST_BLOCKS", 1)
    proxy.rewrite["eth_getBlockByNumber"] = only("0x7", changed(lambda r: r, parentHash=OTHER_HASH))
    with pytest.raises(DataMismatch, match=r"block 7 has the parent 0xabab.*, but block 6 is"):
        extract(tmp_path, proxy.endpoint(), "blocks", (0, 7), engine=NATIVE)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("connections", [1, 4])
def test_backends_that_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connections: int) -> None:
    """Each request may reach another of two branches: what comes out is one of them, or an error."""
    monkeypatch.setattr("trace_dagster.operators.cryo_ingest.native.fetch._FIRST_BLOCKS", 2)
    monkeypatch.setattr("trace_dagster.operators.cryo_ingest.native.fetch._TARGET_REPLY_BYTES", 1)
    monkeypatch.setattr("trace_dagster.operators.cryo_ingest.native.fetch._FIRST_WAIT_SECONDS", 0.001)
    engine = NativeEngine(FetchLimits(connections=connections))
    with two_branches((6, 6)) as nodes:
        branches = [
            [node.call("eth_getBlockByNumber", hex(number), False)["hash"] for number in range(19)]  # noqa: FBT003
            for node in nodes
        ]
        draw, noticed = random.Random(connections), 0  # noqa: S311
        proxy = FaultProxy(nodes[0].url)

        def take_turns(_exchange: Exchange) -> None:
            proxy.upstream = draw.choice(nodes).url

        proxy.intercept = take_turns
        for _ in range(12):
            try:
                made = extract(tmp_path, proxy.endpoint(), DATASETS, (0, 18), engine=engine)
            except TraceError as error:
                assert "reorganisation" in str(error) or "receipt" in str(error)  # noqa: PT017
                noticed += 1
            else:
                hashes = [f"0x{row['block_hash'].hex()}" for row in rows_of(made, "blocks")]
                assert hashes in branches
                noticed += "trace/repeated" in made.metadata
        assert noticed
        proxy.close()


def test_a_batch_with_gaps(
    proxy: FaultProxy, tmp_path: Path, honest: Callable[[str], ExtractionResult]
) -> None:
    """An answer too few is asked for again, whichever it is; it is never taken for null."""
    gaps = iter(range(3))

    def gap(exchange: Exchange) -> Reply | None:
        at = next(gaps, None)
        if at is None or not isinstance(exchange.request, list):
            return None
        answers = [proxy.answer(call) for call in exchange.calls]
        del answers[at]
        return Reply(json.dumps(answers).encode())

    proxy.intercept = gap
    same(extract(tmp_path, proxy.endpoint(), DATASETS, (0, 7), engine=NATIVE), honest(DATASETS))


def test_a_head_that_jitters(
    proxy: FaultProxy, tmp_path: Path, honest: Callable[[str], ExtractionResult]
) -> None:
    """A backend that lags at the first question is an error with both numbers; the next run is whole."""
    heads = iter(("0x5",))
    proxy.rewrite["eth_blockNumber"] = lambda _params, result: next(heads, result)
    with pytest.raises(
        EngineFailed, match="block 7 does not exist yet at rpc_pool 'tested', whose head is block 5"
    ):
        extract(tmp_path, proxy.endpoint(), DATASETS, (0, 7), engine=NATIVE)
    same(extract(tmp_path, proxy.endpoint(), DATASETS, (0, 7), engine=NATIVE), honest(DATASETS))


def test_a_reorganisation_in_mid_run(
    chain: SmallChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that saw both branches fails; another one gives the new branch whole."""
    monkeypatch.setattr("trace_dagster.operators.cryo_ingest.native.fetch._FIRST_BLOCKS", 1)
    monkeypatch.setattr("trace_dagster.operators.cryo_ingest.native.fetch._TARGET_REPLY_BYTES", 1)
    monkeypatch.setattr("trace_dagster.operators.cryo_ingest.native.fetch._FIRST_WAIT_SECONDS", 0.001)
    with small_chain() as own:
        proxy = FaultProxy(own.anvil.url)
        lock, done = threading.Lock(), threading.Event()

        def reorganise(params: list[Any], result: Json) -> Json:
            with lock:
                if params[0] == "0x6" and not done.is_set():
                    done.set()
                    own.anvil.call("anvil_reorg", 3, [])
            return result

        proxy.rewrite["eth_getBlockByNumber"] = reorganise
        alone = NativeEngine(FetchLimits(connections=1))
        with pytest.raises(TraceError, match="a reorganisation while reading"):
            extract(tmp_path, proxy.endpoint(), DATASETS, (0, 7), engine=alone)
        again = extract(tmp_path, proxy.endpoint(), DATASETS, (0, 7), engine=alone)
        hashes = [one.as_py() for one in table_of(again, "blocks").column("block_hash")]
        assert [f"0x{one.hex()}" for one in hashes] == [
            own.anvil.call("eth_getBlockByNumber", hex(number), False)["hash"]  # noqa: FBT003
            for number in range(8)
        ]
        proxy.close()
