"""What ``trace_block`` would answer, from the call frames of a node that does not have it.

Frames say less than traces. Of outermost calls they give the gas of the whole transaction, where traces leave
out what it costs before it begins; rewards of blocks are not among them; calls of precompiled contracts are
there where the node lists them.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from trace_dagster.chain.decoding.layout import arrow_type
from trace_dagster.chain.decoding.layouts import TRACES
from trace_dagster.chain.decoding.pure import extra_text

__all__ = ["traces_of_frames"]

_CALL_TYPES: Final = {
    "CALL": "call",
    "CALLCODE": "callcode",
    "DELEGATECALL": "delegatecall",
    "STATICCALL": "staticcall",
}
_CREATIONS: Final = ("CREATE", "CREATE2")
_SELF_DESTRUCT: Final = "SELFDESTRUCT"

# The two tracers of go-ethereum name the same faults so (eth/tracers/native/call_flat.go).
_ERRORS: Final = {
    "contract creation code storage out of gas": "Out of gas",
    "out of gas": "Out of gas",
    "gas uint64 overflow": "Out of gas",
    "max code size exceeded": "Out of gas",
    "invalid jump destination": "Bad jump destination",
    "execution reverted": "Reverted",
    "return data out of bounds": "Out of bounds",
    "stack limit reached 1024 (1023)": "Out of stack",
    "precompiled failed": "Built-in failed",
    "invalid input length": "Built-in failed",
}


def traces_of_frames(frames: pa.LargeListArray, blocks: pa.StructArray) -> pa.LargeListArray:
    """Return the traces of each block.

    Args:
        frames: of each block, of the layout ``FRAMES``; null where the node answered null.
        blocks: the same blocks, with at least the hashes of their transactions.
    """
    lists = [
        None if held is None else _of_block(held, block)
        for held, block in zip(frames.to_pylist(), _facts(blocks), strict=True)
    ]
    return pa.array(lists, pa.large_list(arrow_type(TRACES.layout)))


def _facts(blocks: pa.StructArray) -> list[dict[str, Any]]:
    transactions = blocks.field("transactions").to_pylist()
    hashes = [[one["transaction_hash"] for one in listed or ()] for listed in transactions]
    return [
        {"block_number": number, "block_hash": block_hash, "hashes": listed}
        for number, block_hash, listed in zip(
            blocks.field("block_number").to_pylist(),
            blocks.field("block_hash").to_pylist(),
            hashes,
            strict=True,
        )
    ]


def _of_block(frames: list[dict[str, Any]], block: Mapping[str, Any]) -> list[dict[str, Any]]:
    inner = Counter(
        (frame["transaction_index"], frame["trace_address"].rpartition("_")[0])
        for frame in frames
        if frame["trace_address"]
    )
    rows = []
    for frame in frames:
        index, path = frame["transaction_index"], frame["trace_address"]
        own_hash = block["hashes"][index] if index < len(block["hashes"]) else None
        rows.append(
            {
                **_action(frame),
                "trace_address": [int(step) for step in path.split("_")] if path else [],
                "subtraces": inner[index, path],
                "transaction_index": index,
                "transaction_hash": frame["transaction_hash"] or own_hash,
                "block_number": block["block_number"],
                "block_hash": block["block_hash"],
                "extra": _extra(frame),
            }
        )
    return rows


def _action(frame: Mapping[str, Any]) -> dict[str, Any]:
    kind = frame["type"]
    if kind == _SELF_DESTRUCT:
        return {
            "action_type": "suicide",
            "action_address": frame["from_address"],
            "action_refund_address": frame["to_address"],
            **{f"action_balance_{form}": frame[f"value_{form}"] for form in ("binary", "string", "f64")},
        }
    error = frame["error"]
    row = {
        "action_from": frame["from_address"],
        "action_gas": frame["gas"],
        **_value(frame),
        "error": error and _ERRORS.get(error, error),
    }
    has_result = error is None or row["error"] == "Reverted"
    if has_result:
        row["result_gas_used"] = frame["gas_used"]
    output = (frame["output"] or b"") if has_result else None
    if kind in _CREATIONS:
        row |= {"action_type": "create", "action_init": frame["input"], "result_code": output}
        return row | ({"result_address": frame["to_address"]} if has_result else {})
    return row | {
        "action_type": "call",
        "action_call_type": _CALL_TYPES.get(kind, kind.lower()),
        "action_to": frame["to_address"],
        "action_input": frame["input"],
        "result_output": output,
    }


def _value(frame: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of the value; calls that cannot carry one, have none in frames and 0 in traces."""
    if frame["value_binary"] is None:
        return {"action_value_binary": bytes(32), "action_value_string": "0", "action_value_f64": 0.0}
    return {f"action_value_{form}": frame[f"value_{form}"] for form in ("binary", "string", "f64")}


def _extra(frame: Mapping[str, Any]) -> str | None:
    """Return the frame's own, and of a creation its kind, where some nodes' traces have it."""
    if frame["type"] not in _CREATIONS:
        own: str | None = frame["extra"]
        return own
    extra = {"action.creationMethod": frame["type"].lower(), **json.loads(frame["extra"] or "{}")}
    return extra_text(extra)
