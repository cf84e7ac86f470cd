"""The datasets that a node's answers hold as they are, from blocks to traces."""

import json
from collections.abc import Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from trace_dagster.chain.assembly.columns import Columns, kept, struct_columns, table_of
from trace_dagster.chain.assembly.rlp import rlp_bytes
from trace_dagster.chain.decoding.pure import extra_text
from trace_dagster.chain.measures import zero_bytes
from trace_dagster.chain.verification import FlatBatch
from trace_dagster.chain.verification.flat import Items, path_texts

__all__ = ["blocks", "calls", "logs", "receipts", "traces", "transactions", "withdrawals"]

Filters = Mapping[str, tuple[str, ...]]

_PARTIES: Final = {"from_address": "from_address", "to_address": "to_address"}
_TRACE_PARTIES: Final = {"from_address": "action_from", "to_address": "action_to"}
_LOG_FILTERS: Final = {"address": "address", **{f"topic{at}": f"topic{at}" for at in range(4)}}

# Cryo writes the names of the library that it parses with.
_CALL_TYPES: Final = {"staticcall": "static_call", "delegatecall": "delegate_call", "callcode": "call_code"}
_REWARD_TYPES: Final = {"block": "reward", "emptyStep": "emtpy_step"}


def blocks(batch: FlatBatch, chain_id: int, _filters: Filters) -> pa.Table:
    """Return ``blocks``."""
    return table_of("blocks", struct_columns(batch.blocks), len(batch.blocks), chain_id)


def transactions(batch: FlatBatch, chain_id: int, filters: Filters) -> pa.Table:
    """Return ``transactions``; what the receipts say of them stands in the same row."""
    held = batch.transactions
    own, said = struct_columns(held.rows), struct_columns(batch.items("receipts").rows)
    zeros = zero_bytes(own["input"])
    sizes = pc.binary_length(own["input"])
    columns: Columns = {
        **said,
        **own,
        **_place(batch, held),
        "transaction_index": held.position,
        "gas_used": said["gas_used"],
        "success": said["success"],
        "transaction_type": _type(own["transaction_type"], own["max_fee_per_gas"]),
        "n_input_bytes": sizes,
        "n_input_zero_bytes": zeros,
        "n_input_nonzero_bytes": pc.subtract(sizes, zeros),
        "n_rlp_bytes": rlp_bytes(own),
        "extra": _extras(own["extra"], said["extra"]),
    }
    table = table_of("transactions", columns, len(held.rows), chain_id)
    return kept(table, filters, _PARTIES)


def receipts(batch: FlatBatch, chain_id: int, _filters: Filters) -> pa.Table:
    """Return ``receipts``."""
    held = batch.items("receipts")
    columns = {**struct_columns(held.rows), **_place(batch, held)}
    return table_of("receipts", columns, len(held.rows), chain_id)


def withdrawals(batch: FlatBatch, chain_id: int, _filters: Filters) -> pa.Table:
    """Return ``withdrawals``."""
    held = Items.of(batch.column("withdrawals"))
    columns = {**struct_columns(held.rows), **_place(batch, held)}
    return table_of("withdrawals", columns, len(held.rows), chain_id)


def logs(batch: FlatBatch, chain_id: int, filters: Filters) -> pa.Table:
    """Return ``logs``."""
    held = batch.items("logs")
    return kept(table_of("logs", struct_columns(held.rows), len(held.rows), chain_id), filters, _LOG_FILTERS)


def traces(batch: FlatBatch, chain_id: int, filters: Filters) -> pa.Table:
    """Return ``traces``, with a self-destruct's and a reward's parties in Cryo's columns."""
    held = batch.items("traces")
    own = struct_columns(held.rows)
    steps = own["trace_address"]
    columns: Columns = {
        **own,
        "action_from": pc.coalesce(own["action_from"], own["action_address"], own["action_author"]),
        "action_to": pc.coalesce(own["action_to"], own["action_refund_address"]),
        "action_value": pc.coalesce(own["action_value_string"], own["action_balance_string"]),
        "action_call_type": _renamed(own["action_call_type"], _CALL_TYPES),
        "action_reward_type": _renamed(own["action_reward_type"], _REWARD_TYPES),
        "trace_address": path_texts(steps),
    }
    return kept(table_of("traces", columns, len(held.rows), chain_id), filters, _TRACE_PARTIES)


def calls(batch: FlatBatch, chain_id: int, _filters: Filters) -> pa.Table:
    """Return ``calls``."""
    held = batch.items("frames")
    place = _place(batch, held)
    columns = {**struct_columns(held.rows), **place}
    hashes = batch.transactions.column("transaction_hash")
    index = held.column("transaction_index").cast(pa.int64())
    columns["transaction_hash"] = hashes.take(pc.add(held.of_parent(batch.transactions.starts), index))
    return table_of("calls", columns, len(held.rows), chain_id)


def _place(batch: FlatBatch, rows: Items) -> Columns:
    names = ("block_number", "block_hash", "timestamp")
    return {name: rows.of_parent(batch.column(name)) for name in names}


def _type(stated: pa.Array, max_fee: pa.Array) -> pa.Array:
    """Return the types; where the node leaves them out, as before typed transactions, they follow."""
    if not stated.null_count:
        return stated
    return pc.coalesce(stated, pc.if_else(pc.is_valid(max_fee), 2, 0).cast(stated.type))


def _renamed(kinds: pa.Array, new_names: Mapping[str, str]) -> pa.Array:
    names = kinds.dictionary_encode()
    renamed = [new_names.get(name, name) for name in names.dictionary.to_pylist()]
    return pa.array(renamed, pa.large_string()).take(names.indices)


def _extras(own: pa.Array, said: pa.Array) -> pa.Array:
    """Return what no column holds of transactions, and of their receipts under ``receipt``."""
    if said.null_count == len(said):
        return own
    texts = [
        one
        if of_receipt is None
        else extra_text({**json.loads(one or "{}"), "receipt": json.loads(of_receipt)})
        for one, of_receipt in zip(own.to_pylist(), said.to_pylist(), strict=True)
    ]
    return pa.array(texts, pa.large_string())
