"""Sizes of values, and logs blooms, of whole columns at once."""

from collections.abc import Sequence
from itertools import pairwise

import pyarrow as pa

from trace_dagster.chain.bloom import BLOOM_BYTES, bloom_of

__all__ = ["blooms", "rlp_of_lists", "rlp_of_numbers", "rlp_of_strings", "rlp_of_words", "zero_bytes"]


def zero_bytes(values: pa.LargeBinaryArray) -> pa.Int64Array:
    """Return how many bytes of each value are zero; null for a null."""
    return pa.array([None if one is None else one.count(0) for one in values.to_pylist()], pa.int64())


def rlp_of_numbers(values: pa.UInt64Array) -> pa.Int64Array:
    """Return the size of each number in RLP; null for a null."""
    return pa.array(
        [
            None if one is None else 1 if one < 128 else (one.bit_length() + 15) // 8
            for one in values.to_pylist()
        ],
        pa.int64(),
    )


def rlp_of_words(values: pa.LargeBinaryArray) -> pa.Int64Array:
    """Return the size in RLP of each number, given as its big-endian bytes; null for a null."""
    digits = [None if one is None else one.lstrip(b"\0") for one in values.to_pylist()]
    return pa.array([None if one is None else _rlp_of_string(one) for one in digits], pa.int64())


def rlp_of_strings(values: pa.LargeBinaryArray) -> pa.Int64Array:
    """Return the size of each byte string in RLP; null for a null."""
    return pa.array([None if one is None else _rlp_of_string(one) for one in values.to_pylist()], pa.int64())


def rlp_of_lists(payload: pa.Int64Array) -> pa.Int64Array:
    """Return the size in RLP of lists whose items take so many bytes; null for a null."""
    return pa.array(
        [None if size is None else size + _rlp_head(size) for size in payload.to_pylist()], pa.int64()
    )


def _rlp_of_string(value: bytes) -> int:
    return 1 if len(value) == 1 and value[0] < 128 else len(value) + _rlp_head(len(value))


def _rlp_head(size: int) -> int:
    return 1 if size < 56 else 1 + (size.bit_length() + 7) // 8


def blooms(columns: Sequence[pa.LargeBinaryArray], offsets: Sequence[int]) -> pa.LargeBinaryArray:
    """Return the logs bloom of each run of logs, 256 bytes.

    Args:
        columns: the addresses and topics of the logs, each of the same length; nulls do not count.
        offsets: where each run begins, and the end of the last.
    """
    held = [column.to_pylist() for column in columns]
    found = []
    for first, end in pairwise(offsets):
        values = {value for column in held for value in column[first:end]}
        values.discard(None)
        found.append(bloom_of(values).to_bytes(BLOOM_BYTES, "big"))
    return pa.array(found, pa.large_binary())
