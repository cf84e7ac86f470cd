"""Which answers may be kept."""

import json
from typing import Any

import pytest

from trace_dagster.rpc.gateway.cache_keys import cache_key, is_immutable

HASH = "0x" + "ab" * 32
FINAL = 1000
TAGS = ("latest", "pending", "safe", "finalized", "earliest", "", None, 5, "0x", "1000", "0x" + "f" * 40)


def _key(
    method: str, *params: Any, final: int | None = FINAL, pool: str = "ethereum", chain: int = 1
) -> bytes | None:
    return cache_key(pool, chain, method, json.dumps(params).encode(), final)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_getBlockByHash", (HASH, True)),
        ("eth_getBlockReceipts", (HASH,)),
        ("eth_getBlockReceipts", ({"blockHash": HASH},)),
        ("eth_getLogs", ({"blockHash": HASH, "address": "0x00"},)),
        ("eth_call", ({"to": "0x00"}, {"blockHash": HASH})),
        ("eth_getBalance", ("0x00", {"blockHash": HASH, "requireCanonical": False})),
        ("debug_traceBlockByHash", (HASH, {"tracer": "callTracer"})),
        ("eth_getTransactionByBlockHashAndIndex", (HASH, "0x0")),
        ("eth_getTransactionReceipt", (HASH,)),
        ("eth_getTransactionByHash", (HASH,)),
        ("trace_transaction", (HASH,)),
    ],
)
def test_by_hash(method: str, params: tuple[Any, ...]) -> None:
    """What a hash names may be looked up, whether or not any block is final."""
    assert _key(method, *params, final=None) is not None


@pytest.mark.parametrize(
    ("method", "before", "after"),
    [
        ("eth_getBlockByNumber", (), (False,)),
        ("eth_getBlockReceipts", (), ()),
        ("trace_block", (), ()),
        ("debug_traceBlockByNumber", (), ({"tracer": "callTracer"},)),
        ("eth_getBalance", ("0x00",), ()),
        ("eth_call", ({"to": "0x00"},), ()),
        ("eth_getStorageAt", ("0x00", "0x0"), ()),
        ("eth_getProof", ("0x00", []), ()),
        ("trace_replayBlockTransactions", (), (["trace"],)),
    ],
)
def test_by_number(method: str, before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
    """What a number names may be looked up once that block is final, and never by a tag."""
    assert _key(method, *before, hex(FINAL), *after) is not None
    assert _key(method, *before, hex(FINAL + 1), *after) is None
    assert _key(method, *before, hex(FINAL), *after, final=None) is None
    for tag in TAGS:
        assert _key(method, *before, tag, *after) is None
    if before or method == "eth_getBlockReceipts":
        assert _key(method, *before, {"blockNumber": hex(FINAL)}) is not None
        assert _key(method, *before, {"blockNumber": hex(FINAL + 1)}) is None
    assert _key(method, *before) is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"fromBlock": "0x1", "toBlock": hex(FINAL)}, True),
        ({"fromBlock": "0x1", "toBlock": hex(FINAL + 1)}, False),
        ({"fromBlock": "0x5", "toBlock": "0x1"}, False),
        ({"fromBlock": "0x1", "toBlock": "latest"}, False),
        ({"fromBlock": "earliest", "toBlock": "0x1"}, False),
        ({"fromBlock": "0x1"}, False),
        ({"toBlock": "0x1"}, False),
        ({}, False),
        ({"blockHash": HASH, "fromBlock": "0x1"}, False),
        ({"blockHash": "0xab"}, False),
        ("0x1", False),
    ],
)
def test_ranges_of_logs(given: Any, kept: bool) -> None:
    """Logs of a range may be looked up where all of it is final."""
    assert (_key("eth_getLogs", given) is not None) is kept
    assert _key("eth_getLogs", given, {}) is None


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_blockNumber", ()),
        ("eth_sendRawTransaction", ("0x00",)),
        ("eth_estimateGas", ({}, "0x1")),
        ("eth_getFilterChanges", ("0x1",)),
        ("trace_filter", ({"fromBlock": "0x1", "toBlock": "0x2"},)),
        ("eth_getBlockByHash", ("0xab", True)),
        ("eth_getBlockByHash", ()),
        ("eth_call", ({}, {"blockHash": HASH, "requireCanonical": True})),
        ("eth_feeHistory", ("0x1", "0x1", [])),
    ],
)
def test_what_may_change(method: str, params: tuple[Any, ...]) -> None:
    """What is about the tip, changes something, or names no block has no key."""
    assert _key(method, *params) is None


def test_parameters_that_are_none() -> None:
    """What cannot be read, is no list or is very long has no key."""
    for params in (b"", b"{", b"{}", b"null", b"\xff", b"[" * 10_000, b'["' + b"x" * 70_000 + b'"]'):
        assert cache_key("ethereum", 1, "eth_getBlockByNumber", params, FINAL) is None


def test_keys_tell_everything_apart() -> None:
    """Pool, chain, method and each parameter are in the key; the case of hex and the spacing are not."""
    keys = [
        _key("eth_getBlockByNumber", *("0x1", False)),
        _key("eth_getBlockByNumber", *("0x1", True)),
        _key("eth_getBlockByNumber", "0x1"),
        _key("eth_getBlockByNumber", *("0x2", False)),
        _key("eth_getBlockReceipts", *("0x1", False)),
        _key("eth_getBlockByNumber", *("0x1", False), pool="base"),
        _key("eth_getBlockByNumber", *("0x1", False), chain=8453),
    ]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    capitals = HASH.upper().replace("X", "x")
    assert _key("eth_getBlockByHash", capitals) == _key("eth_getBlockByHash", HASH)
    spaced = cache_key("ethereum", 1, "eth_getBlockByNumber", b'[ "0x1" ,\n false ]', FINAL)
    assert spaced == keys[0]


def test_what_may_be_stored() -> None:
    """Null and empty lists are never kept; of a transaction only what is final."""
    for empty in (b"null", b" null ", b"[]", b"{}", b""):
        assert not is_immutable("eth_getBlockByHash", empty, FINAL)
        assert not is_immutable("eth_getLogs", empty, FINAL)
    assert is_immutable("eth_getBlockByHash", b'{"number": "0xfff"}', None)
    for method in ("eth_getTransactionReceipt", "eth_getTransactionByHash", "trace_transaction"):
        assert is_immutable(method, b'{"blockNumber":"0x3e8"}', FINAL)
        assert not is_immutable(method, b'{"blockNumber" : "0x3e9"}', FINAL)
        assert not is_immutable(method, b'{"blockNumber":"0x3e8"}', None)
        assert not is_immutable(method, b'{"blockNumber":null}', FINAL)
    assert is_immutable("trace_transaction", b'[{"blockNumber":1000}]', FINAL)
    assert not is_immutable("trace_transaction", b'[{"blockNumber":1001}]', FINAL)
