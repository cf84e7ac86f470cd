"""Datasets that follow from logs and traces, by Cryo's own rules."""

from collections.abc import Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from eth_hash.backends.pycryptodome import keccak256

from trace_dagster.chain.assembly.columns import Columns, amounts, passing, struct_columns, table_of
from trace_dagster.chain.verification import FlatBatch
from trace_dagster.chain.verification.flat import Items, counting

__all__ = ["contracts", "erc20_transfers", "erc721_transfers", "native_transfers"]

Filters = Mapping[str, tuple[str, ...]]

_TRANSFER: Final = bytes.fromhex("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef")
_ADDRESS_BYTES: Final = 20
_UNKNOWN_CREATED_BYTES: Final = 32
"""What Cryo writes for the address of a creation that gave none: so many zero bytes."""

_TRANSFER_FILTERS: Final = {
    "address": "erc20",
    "from_address": "from_address",
    "to_address": "to_address",
    "topic0": "topic0",
    "topic1": "topic1",
    "topic2": "topic2",
}


def erc20_transfers(batch: FlatBatch, chain_id: int, filters: Filters) -> pa.Table:
    """Return ``Transfer`` events with two indexed parties and an amount of 32 bytes."""
    held = batch.items("logs")
    wanted = pc.and_(_is_transfer(held), pc.is_null(held.column("topic3")))
    wanted = pc.and_(wanted, pc.equal(pc.binary_length(held.column("data")), 32))
    return _transfers(
        "erc20_transfers", held, wanted, amount="data", stem="value", chain_id=chain_id, filters=filters
    )


def erc721_transfers(batch: FlatBatch, chain_id: int, filters: Filters) -> pa.Table:
    """Return ``Transfer`` events whose token id is indexed, and without data."""
    held = batch.items("logs")
    wanted = pc.and_(_is_transfer(held), pc.is_valid(held.column("topic3")))
    wanted = pc.and_(wanted, pc.equal(pc.binary_length(held.column("data")), 0))
    return _transfers(
        "erc721_transfers", held, wanted, amount="topic3", stem="token_id", chain_id=chain_id, filters=filters
    )


def native_transfers(batch: FlatBatch, chain_id: int, filters: Filters) -> pa.Table:
    """Return every frame, failed ones and those without value too, numbered in its block after filters."""
    held = batch.items("traces")
    rows, parents = struct_columns(held.rows), held.parent
    is_reward = pc.equal(rows["action_type"], "reward")
    nobody = pa.scalar(bytes(_ADDRESS_BYTES), pa.large_binary())
    columns: Columns = {
        **rows,
        "succeeded": _succeeded(held),
        "from_address": pc.if_else(
            is_reward, nobody, pc.coalesce(rows["action_from"], rows["action_address"])
        ),
        "to_address": pc.coalesce(
            rows["action_to"],
            rows["action_refund_address"],
            rows["action_author"],
            rows["result_address"],
            pa.scalar(bytes(_UNKNOWN_CREATED_BYTES), pa.large_binary()),
        ),
        **{
            f"value_{part}": pc.coalesce(rows[f"action_value_{part}"], rows[f"action_balance_{part}"])
            for part in ("binary", "string", "f64")
        },
    }
    mask = passing(columns, filters, {name: name for name in filters})
    if mask is not None:
        columns = {name: column.filter(mask) for name, column in columns.items()}
        parents = parents.filter(mask)
    columns["transfer_index"] = _numbered(parents)
    return table_of("native_transfers", columns, len(parents), chain_id)


def contracts(batch: FlatBatch, chain_id: int, _filters: Filters) -> pa.Table:
    """Return the creations that gave an address, numbered in their block.

    ``deployer`` is the sender of the outermost frame, ``factory`` the creator itself. As in Cryo, the two
    hashes are of each other's code, and creations that a frame around them took back are listed, too.
    """
    held = batch.items("traces")
    created = pc.equal(held.column("action_type"), "create")
    wanted = pc.and_(created, pc.is_valid(held.column("result_address")))
    rows = struct_columns(held.rows.filter(wanted))
    parents = held.parent.filter(wanted)
    columns: Columns = {
        **rows,
        "create_index": _numbered(parents),
        "contract_address": rows["result_address"],
        "deployer": _deployers(held).filter(wanted),
        "factory": rows["action_from"],
        "init_code": rows["action_init"],
        "code": rows["result_code"],
        "init_code_hash": _hashes(rows["result_code"]),
        "n_init_code_bytes": pc.binary_length(rows["action_init"]),
        "n_code_bytes": pc.binary_length(rows["result_code"]),
        "code_hash": _hashes(rows["action_init"]),
        "succeeded": _succeeded(held).filter(wanted),
    }
    return table_of("contracts", columns, len(parents), chain_id)


def _succeeded(held: Items) -> pa.BooleanArray:
    """Return which frames have no error, nor stand inside of one that has."""
    errors = held.column("error")
    if errors.null_count == len(errors):
        return pc.is_null(errors)
    failed: list[int] | None = None
    found = []
    for path, error in zip(held.column("trace_address").to_pylist(), errors.to_pylist(), strict=True):
        steps = path or []
        if not steps or failed is None or steps[: len(failed)] != failed:
            failed = steps if error is not None else None
        found.append(failed is None)
    return pa.array(found, pa.bool_())


def _numbered(parents: pa.Int64Array) -> pa.Int64Array:
    """Return 0, 1, 2... anew for each block; ``parents`` are ascending."""
    if not len(parents):
        return parents
    counts = pc.value_counts(parents).field("counts")
    starts = pc.subtract(pc.cumulative_sum(counts), counts)
    order = pc.subtract(parents.dictionary_encode().indices.cast(pa.int64()), 0)
    return pc.subtract(counting(len(parents)), starts.take(order))


def _deployers(held: Items) -> pa.Array:
    """Return for each frame who began the outermost one around it."""
    own = struct_columns(held.rows)
    sender = pc.coalesce(own["action_from"], own["action_refund_address"], own["action_author"])
    depth = pc.fill_null(pc.list_value_length(own["trace_address"]), 0)
    places = pc.if_else(pc.equal(depth, 0), counting(len(sender)), pa.scalar(None, pa.int64()))
    return sender.take(pc.fill_null_forward(places))


def _hashes(values: pa.Array) -> pa.Array:
    found = [None if value is None else bytes(keccak256(value)) for value in values.to_pylist()]
    return pa.array(found, pa.large_binary())


def _is_transfer(held: Items) -> pa.BooleanArray:
    topic0 = held.column("topic0")
    return pc.and_(
        pc.fill_null(pc.equal(topic0, pa.scalar(_TRANSFER, topic0.type)), False),  # noqa: FBT003
        pc.is_valid(held.column("topic2")),
    )


def _transfers(
    dataset: str,
    held: Items,
    wanted: pa.BooleanArray,
    *,
    amount: str,
    stem: str,
    chain_id: int,
    filters: Filters,
) -> pa.Table:
    rows = held.rows.filter(wanted)
    own = struct_columns(rows)
    numbers = [int.from_bytes(one, "big") for one in own[amount].to_pylist()]
    columns: Columns = {
        **own,
        "erc20": own["address"],
        "from_address": _address(own["topic1"]),
        "to_address": _address(own["topic2"]),
        **amounts(stem, numbers),
    }
    mask = passing(columns, filters, _TRANSFER_FILTERS)
    if mask is not None:
        columns = {name: column.filter(mask) for name, column in columns.items()}
    return table_of(dataset, columns, len(columns["erc20"]), chain_id)


def _address(topics: pa.Array) -> pa.Array:
    return pa.array([topic[12:] for topic in topics.to_pylist()], pa.large_binary())
