"""What requests need, by their parameters."""

# ruff: noqa: FBT003 (parameters of JSON-RPC)

import json
from typing import Any

import pytest

from trace_dagster.rpc.gateway.faults import FaultKind
from trace_dagster.rpc.gateway.jsonrpc import Answer, Call, ErrorObject
from trace_dagster.rpc.gateway.judging import judge, passed_on
from trace_dagster.rpc.gateway.routing import Route, route_of

HASH = "0x" + "ab" * 32


def call(method: str, *params: Any) -> Call:
    """A request."""
    return Call(method, json.dumps(params).encode())


@pytest.mark.parametrize(
    ("asked", "highest", "tip"),
    [
        (call("eth_getBlockByNumber", "0x10", False), 16, False),
        (call("eth_getBlockByNumber", "latest", False), None, True),
        (call("eth_getBlockByNumber", "finalized", False), None, False),
        (call("eth_getBlockByNumber", "earliest", False), None, False),
        (call("eth_getBalance", HASH[:42], "0x5"), 5, False),
        (call("eth_getBalance", HASH[:42]), None, True),
        (call("eth_getBalance", HASH[:42], {"blockNumber": "0x6"}), 6, False),
        (call("eth_getBalance", HASH[:42], {"blockHash": HASH}), None, False),
        (call("eth_call", {}, "0x7"), 7, False),
        (call("eth_getStorageAt", HASH[:42], "0x0", "0x8"), 8, False),
        (call("eth_getLogs", {"fromBlock": "0x1", "toBlock": "0x9"}), 9, False),
        (call("eth_getLogs", {"fromBlock": "0x1"}), 1, True),
        (call("eth_getLogs", {"fromBlock": "0x1", "toBlock": "latest"}), 1, True),
        (call("eth_getLogs", {"blockHash": HASH}), None, False),
        (call("trace_block", "0xa"), 10, False),
        (call("debug_traceBlockByNumber", "0xb", {}), 11, False),
        (call("eth_blockNumber"), None, True),
        (call("eth_getBlockByNumber", "0xzz", False), None, True),
        (call("eth_getBlockByNumber", 5, False), 5, False),
        (call("eth_getBlockByNumber", True, False), None, True),
        (call("eth_getBlockByNumber", "0x" + "5".rjust(40, "0"), False), 5, False),
        (call("eth_getBlockByNumber", "0x" + "f" * 20, False), None, True),
        (call("trace_filter", {"fromBlock": "0x1", "toBlock": "0xc"}), 12, False),
        (call("trace_filter", {"fromBlock": "0x1"}), None, True),
        (call("trace_filter"), None, False),
        (call("eth_getLogs", {"fromBlock": 1, "toBlock": 13}), 13, False),
        (call("eth_getHeaderByNumber", "0xe"), 14, False),
        (call("eth_getLogs", 5), None, False),
        (call("eth_getLogs"), None, False),
    ],
)
def test_the_block_that_is_needed(asked: Call, highest: int | None, tip: bool) -> None:
    """By number, tag, hash or range; nonsense may go anywhere, and is refused there."""
    route = route_of(asked)
    assert (route.highest, route.tip) == (highest, tip)


@pytest.mark.parametrize(
    ("asked", "tells"),
    [
        (call("eth_getBlockByNumber", "latest", False), True),
        (call("eth_getBlockByNumber", "pending", False), False),
        (call("eth_getBlockByNumber", "finalized", False), False),
        (call("eth_getBlockByNumber", "safe", False), False),
        (call("eth_getBlockByNumber", "0x5", False), False),
        (call("eth_getBlockReceipts", "latest"), False),
        (call("eth_getLogs", {"fromBlock": "0x1"}), False),
    ],
)
def test_which_answers_tell_the_head(asked: Call, tells: bool) -> None:
    """The newest block alone does; the newest with logs, or that is final, may be far below it."""
    block = {"number": "0x5", "hash": HASH}
    placed = [{"blockNumber": "0x5", "blockHash": HASH}]
    verdict = judged(asked, block if asked.method == "eth_getBlockByNumber" else placed)
    assert (verdict.fault, verdict.head) == (None, 5 if tells else None)


def test_a_part_of_a_range_keeps_the_filter() -> None:
    """Only the ends change."""
    asked = call(
        "eth_getLogs", {"fromBlock": "0x1", "toBlock": "0x9", "address": HASH[:42], "topics": [None, [HASH]]}
    )
    logs = route_of(asked).logs
    assert logs is not None
    assert logs.width == 9
    (part,) = json.loads(logs.part(3, 4).params)
    assert part == {"fromBlock": "0x3", "toBlock": "0x4", "address": HASH[:42], "topics": [None, [HASH]]}


def judged(asked: Call, result: Any) -> Any:
    """Judge an answer."""
    return judge(asked, route_of(asked), Answer(result=json.dumps(result).encode()), ())


@pytest.mark.parametrize(
    ("asked", "result"),
    [
        (call("eth_getBlockByNumber", "0x5", False), {"number": "0x6", "hash": HASH}),
        (call("eth_getBlockByNumber", "0x5", False), {"hash": HASH}),
        (call("eth_getBlockByNumber", "0x5", False), "0x5"),
        (call("eth_getBlockByHash", HASH, False), {"number": "0x6", "hash": HASH.replace("a", "c")}),
        (call("eth_getBlockReceipts", "0x5"), [{"blockNumber": "0x6", "blockHash": HASH}]),
        (
            call("eth_getLogs", {"fromBlock": "0x1", "toBlock": "0x2"}),
            [{"blockNumber": "0x3", "blockHash": HASH}],
        ),
        (call("trace_block", "0x5"), [{"blockNumber": 6, "blockHash": HASH}]),
        (call("eth_blockNumber"), {}),
    ],
)
def test_answers_about_something_else(asked: Call, result: Any) -> None:
    """Another block than was asked for is no answer."""
    assert judged(asked, result).fault is FaultKind.GARBLED


def test_an_answer_says_of_which_blocks_it_is() -> None:
    """Each block with its hash, once."""
    logs = [{"blockNumber": hex(number), "blockHash": HASH} for number in (1, 1, 2)]
    verdict = judged(call("eth_getLogs", {"fromBlock": "0x1", "toBlock": "0x2"}), logs)
    assert [(claim.number, claim.block_hash) for claim in verdict.claims] == [(1, HASH), (2, HASH)]


@pytest.mark.parametrize(
    ("message", "by_width"),
    [
        ("eth_getLogs is limited to a 10,000 range", True),
        ("block range is too wide", True),
        ("exceed maximum block range: 5000", True),
        ("query exceeds max block range 100000", True),
        ("query returned more than 10000 results", False),
        ("query returned more than 10000 results. Try with this block range [0x1, 0x2].", False),
        ("query exceeds max results 20000, retry with the range 1-2", False),
        ("Log response size exceeded. You can request any block range with a cap of 10K logs", False),
        ("block range has more than 10000 logs", False),
        ("too many logs in the block range", False),
    ],
)
def test_why_logs_are_refused(message: str, by_width: bool) -> None:
    """That there are too many logs says nothing of other ranges of as many blocks."""
    refused = call("eth_getLogs", {"fromBlock": "0x1", "toBlock": "0x9"})
    error = json.dumps({"code": -32000, "message": message}).encode()
    verdict = judge(refused, route_of(refused), Answer(error=error), ())
    assert (verdict.split, verdict.by_width) == (True, by_width)


def test_errors_are_passed_on_without_secrets() -> None:
    """An honest message and its data stay as they are."""
    honest = ErrorObject(3, "execution reverted:  two  spaces")
    assert json.loads(passed_on(honest, ("secret",)).error or b"") == {"code": 3, "message": honest.message}
    telling = ErrorObject(-32000, "key secret-key at https://host/secret-key")
    told = json.loads(passed_on(telling, ("secret-key",)).error or b"")
    assert "secret-key" not in told["message"]


def test_what_sends_is_not_repeated() -> None:
    """A transaction goes out once, and filters belong to one endpoint's state."""
    assert not route_of(call("eth_sendRawTransaction", "0x")).repeatable
    assert not route_of(call("eth_getFilterChanges", "0x1")).repeatable
    assert not route_of(call("anvil_mine")).repeatable
    assert not route_of(call("personal_unlockAccount")).repeatable
    assert not route_of(call("provider_ownMethod")).repeatable
    assert route_of(call("eth_chainId")) == Route()
