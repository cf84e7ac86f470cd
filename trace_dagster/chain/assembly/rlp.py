"""The size of transactions in RLP, as blocks hold them, without building it."""

from collections.abc import Callable, Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from trace_dagster.chain.measures import rlp_of_lists, rlp_of_numbers, rlp_of_strings, rlp_of_words

__all__ = ["rlp_bytes"]

_ItemSizes = Callable[[pa.Array], pa.Array]

_ADDRESS_BYTES: Final = 21
_HASH_BYTES: Final = 33

# The fields of each type, in the order of its EIP; the size does not depend on it.
_SIGNATURE: Final = ("y_parity", "r", "s")
_FIELDS: Final = {
    0: ("nonce", "gas_price", "gas_limit", "to_address", "value", "input", "v", "r", "s"),
    1: ("chain", "nonce", "gas_price", "gas_limit", "to_address", "value", "input", "accesses", *_SIGNATURE),
    2: (
        *(
            "chain",
            "nonce",
            "max_priority_fee_per_gas",
            "max_fee_per_gas",
            "gas_limit",
            "to_address",
            "value",
        ),
        *("input", "accesses", *_SIGNATURE),
    ),
}
_FIELDS[3] = (*_FIELDS[2], "max_fee_per_blob_gas", "blob_hashes")
_FIELDS[4] = (*_FIELDS[2], "authorizations")


def rlp_bytes(columns: Mapping[str, pa.Array]) -> pa.Int64Array:
    """Return the size of each signed transaction of the types 0 to 4; null for other types.

    A transaction that lacks a field of its type has none either.

    Args:
        columns: of the layout of transactions.
    """
    kinds = pc.coalesce(columns["transaction_type"], pa.scalar(0, pa.uint64()))
    sizes = _Sizes(columns)
    found = pa.nulls(len(kinds), pa.int64())
    for kind in pc.unique(kinds).to_pylist():
        if kind not in _FIELDS:
            continue
        payload = pa.repeat(pa.scalar(0, pa.int64()), len(kinds))
        for name in _FIELDS[kind]:
            payload = pc.add(payload, sizes.of(name))
        whole = rlp_of_lists(payload)
        found = pc.if_else(pc.equal(kinds, kind), pc.add(whole, int(kind > 0)), found)
    return found


class _Sizes:
    """The size of every field in RLP, each worked out once."""

    def __init__(self, columns: Mapping[str, pa.Array]) -> None:
        self._columns = columns
        self._known: dict[str, pa.Array] = {}

    def of(self, name: str) -> pa.Array:
        if name not in self._known:
            self._known[name] = self._size(name)
        return self._known[name]

    def _size(self, name: str) -> pa.Array:  # noqa: PLR0911 (one case a kind of field)
        columns = self._columns
        match name:
            case "to_address":
                return pc.if_else(pc.is_valid(columns[name]), _ADDRESS_BYTES, 1)
            case "input":
                return rlp_of_strings(columns[name])
            case "value":
                return rlp_of_words(columns["value_binary"])
            case "r" | "s":
                return rlp_of_words(columns[name])
            case "y_parity":
                return rlp_of_numbers(pc.coalesce(columns["y_parity"], columns["v"]))
            case "chain":
                return rlp_of_numbers(columns["transaction_chain_id"])
            case "accesses":
                return _list(columns["access_list"], _access_sizes)
            case "blob_hashes":
                return _list(columns["blob_versioned_hashes"], _hash_sizes)
            case "authorizations":
                return _list(columns["authorization_list"], _authorization_sizes)
            case _:
                return rlp_of_numbers(columns[name])


def _list(lists: pa.LargeListArray, sizes_of: _ItemSizes) -> pa.Array:
    counts = pc.list_value_length(lists)
    if not pc.any(pc.greater(counts, 0)).as_py():
        return pc.if_else(pc.is_valid(counts), 1, pa.scalar(None, pa.int64()))
    sizes = sizes_of(pc.list_flatten(lists))
    known = pc.equal(_sums(counts, pc.is_null(sizes).cast(pa.int64())), 0)
    payload = _sums(counts, pc.fill_null(sizes, 0))
    return rlp_of_lists(pc.if_else(pc.and_(known, pc.is_valid(counts)), payload, pa.scalar(None, pa.int64())))


def _sums(counts: pa.Array, values: pa.Int64Array) -> pa.Int64Array:
    """Return the sum of each run of values, the runs being so long."""
    totals = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(values)])
    ends = pc.cumulative_sum(pc.fill_null(counts, 0).cast(pa.int64()))
    starts = pa.concat_arrays([pa.array([0], pa.int64()), ends[:-1]])
    return pc.subtract(totals.take(ends), totals.take(starts))


def _hash_sizes(values: pa.Array) -> pa.Array:
    return pa.repeat(pa.scalar(_HASH_BYTES, pa.int64()), len(values))


def _access_sizes(entries: pa.StructArray) -> pa.Array:
    counts = pc.fill_null(pc.list_value_length(entries.field("storage_keys")), 0).cast(pa.int64())
    keys = rlp_of_lists(pc.multiply(counts, _HASH_BYTES))
    return rlp_of_lists(pc.add(_ADDRESS_BYTES, keys))


def _authorization_sizes(entries: pa.StructArray) -> pa.Array:
    payload = pc.add(rlp_of_words(entries.field("chain_id")), _ADDRESS_BYTES)
    payload = pc.add(payload, rlp_of_numbers(entries.field("nonce")))
    payload = pc.add(payload, rlp_of_numbers(entries.field("y_parity")))
    payload = pc.add(payload, rlp_of_words(entries.field("r")))
    return rlp_of_lists(pc.add(payload, rlp_of_words(entries.field("s"))))
