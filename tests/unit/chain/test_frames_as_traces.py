"""Traces made of call frames, where a node has no ``trace_block``."""

import json
from typing import Any

import pyarrow as pa

from trace_dagster.chain.decoding.frames_as_traces import traces_of_frames
from trace_dagster.chain.decoding.layouts import BLOCK, FRAMES
from trace_dagster.chain.decoding.pure import PureDecoder

SENDER, CALLED, MADE, HEIR = (f"0x{digit * 40}" for digit in "1234")
BLOCK_HASH, TRANSACTION_HASH = "0x" + "ab" * 32, "0x" + "cd" * 32
CALL = {"type": "CALL", "from": SENDER, "to": CALLED, "gas": "0x64", "gasUsed": "0xa", "input": "0x01"}


def decoded(shape: Any, result: Any) -> pa.Array:
    """Decode one result."""
    reply = json.dumps({"jsonrpc": "2.0", "id": 0, "result": result}).encode()
    return PureDecoder().decode(reply, [shape]).results[shape]


def traces(*outermost: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the traces of a block of transactions with these frames, without what is null."""
    header = {
        "number": "0x5",
        "hash": BLOCK_HASH,
        "parentHash": BLOCK_HASH,
        "timestamp": "0x1",
        "gasUsed": "0x1",
    }
    block = {**header, "transactions": [TRANSACTION_HASH] * len(outermost)}
    frames = decoded(FRAMES, [{"result": frame} for frame in outermost])
    (rows,) = traces_of_frames(frames, decoded(BLOCK, block)).to_pylist()
    for row in rows:
        assert (row.pop("block_number"), row.pop("block_hash").hex()) == (5, "ab" * 32)
        assert row.pop("transaction_hash").hex() == "cd" * 32
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def test_inner_calls_have_their_place_and_their_kind() -> None:
    """Paths, numbers of inner calls, kinds of calls; a call that carries no value has 0."""
    inner = {**CALL, "type": "STATICCALL", "calls": [{**CALL, "type": "DELEGATECALL", "output": "0x02"}]}
    rows = traces(CALL, {**CALL, "value": "0x7", "calls": [CALL, inner]})
    assert [(row["transaction_index"], row["trace_address"], row["subtraces"]) for row in rows] == [
        (0, [], 0),
        (1, [], 2),
        (1, [0], 0),
        (1, [1], 1),
        (1, [1, 0], 0),
    ]
    assert [row["action_call_type"] for row in rows] == ["call", "call", "call", "staticcall", "delegatecall"]
    assert [row["action_value_string"] for row in rows] == ["0", "7", "0", "0", "0"]
    assert [row["result_output"] for row in rows] == [b"", b"", b"", b"", b"\x02"]


def test_creations_and_self_destructs() -> None:
    """A creation gives code and address, a self-destruct who and to whom; neither has a call's columns."""
    made = {**CALL, "type": "CREATE2", "to": MADE, "output": "0xfe"}
    gone = {"type": "SELFDESTRUCT", "from": MADE, "to": HEIR, "value": "0x9"}
    _, creation, end = traces({**CALL, "calls": [made, gone]})
    assert creation == {
        "action_type": "create",
        "action_from": bytes.fromhex(SENDER[2:]),
        "action_gas": 100,
        "action_init": b"\x01",
        "action_value_binary": bytes(32),
        "action_value_f64": 0.0,
        "action_value_string": "0",
        "result_address": bytes.fromhex(MADE[2:]),
        "result_code": b"\xfe",
        "result_gas_used": 10,
        "subtraces": 0,
        "trace_address": [0],
        "transaction_index": 0,
        "extra": '{"action.creationMethod":"create2"}',
    }
    assert end == {
        "action_type": "suicide",
        "action_address": bytes.fromhex(MADE[2:]),
        "action_refund_address": bytes.fromhex(HEIR[2:]),
        "action_balance_binary": (9).to_bytes(32, "big"),
        "action_balance_f64": 9.0,
        "action_balance_string": "9",
        "subtraces": 0,
        "trace_address": [1],
        "transaction_index": 0,
    }


def test_failed_calls() -> None:
    """Faults have the names that traces give them; only what reverted has a result."""
    out, reverted, other = traces(
        {**CALL, "error": "out of gas"},
        {**CALL, "error": "execution reverted", "output": "0x08"},
        {**CALL, "error": "never heard of", "type": "CREATE"},
    )
    assert (out["error"], "result_gas_used" in out, "result_output" in out) == ("Out of gas", False, False)
    assert (reverted["error"], reverted["result_gas_used"], reverted["result_output"]) == (
        "Reverted",
        10,
        b"\x08",
    )
    assert (other["error"], "result_code" in other, "result_address" in other) == (
        "never heard of",
        False,
        False,
    )
