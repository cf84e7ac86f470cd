"""Sizes of values, and logs blooms, of whole columns: compiled where that part was built, else in Python."""

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_int64, c_void_p
from itertools import pairwise

import pyarrow as pa

from trace_dagster.chain.bloom import BLOOM_BYTES, bloom_of
from trace_dagster.chain.decoding.kernel import measures_library

__all__ = ["blooms", "rlp_of_lists", "rlp_of_numbers", "rlp_of_strings", "rlp_of_words", "zero_bytes"]


def zero_bytes(values: pa.LargeBinaryArray) -> pa.Int64Array:
    """Return how many bytes of each value are zero; null for a null."""
    library = measures_library()
    if library is None:
        return _each(values, lambda one: one.count(0))
    values = _plain(values)
    return _filled(values, lambda out: library.trace_zero_bytes(*_bytes_of(values), len(values), out))


def rlp_of_numbers(values: pa.UInt64Array) -> pa.Int64Array:
    """Return the size of each number in RLP; null for a null."""
    library = measures_library()
    if library is None:
        return _each(values, lambda one: 1 if one < 128 else (one.bit_length() + 15) // 8)
    values = _plain(values)
    return _filled(values, lambda out: library.trace_rlp_of_numbers(_numbers_of(values), len(values), out))


def rlp_of_words(values: pa.LargeBinaryArray) -> pa.Int64Array:
    """Return the size in RLP of each number, given as its big-endian bytes; null for a null."""
    return _rlp_of_strings(values, lambda one: one.lstrip(b"\0"), is_number=1)


def rlp_of_strings(values: pa.LargeBinaryArray) -> pa.Int64Array:
    """Return the size of each byte string in RLP; null for a null."""
    return _rlp_of_strings(values, lambda one: one, is_number=0)


def rlp_of_lists(payload: pa.Int64Array) -> pa.Int64Array:
    """Return the size in RLP of lists whose items take so many bytes; null for a null."""
    library = measures_library()
    if library is None:
        return _each(payload, lambda size: size + _rlp_head(size))
    payload = _plain(payload)
    return _filled(payload, lambda out: library.trace_rlp_of_lists(_numbers_of(payload), len(payload), out))


def blooms(columns: Sequence[pa.LargeBinaryArray], offsets: Sequence[int]) -> pa.LargeBinaryArray:
    """Return the logs bloom of each run of logs, 256 bytes.

    Args:
        columns: the addresses and topics of the logs, each of the same length; nulls do not count.
        offsets: where each run begins, and the end of the last.
    """
    library = measures_library()
    if library is not None:
        out = ctypes.create_string_buffer(max(1, BLOOM_BYTES * (len(offsets) - 1)))
        plain = [_plain(column) for column in columns]
        count = len(plain)
        starts = (c_void_p * count)(*(_address(one, 1) for one in plain))
        data = (c_void_p * count)(*(_address(one, 2) for one in plain))
        valid = (c_void_p * count)(*(_address(one, 0) for one in plain))
        runs = (c_int64 * len(offsets))(*offsets)
        if not library.trace_blooms(starts, data, valid, count, runs, len(offsets) - 1, out):
            ends = pa.array(range(0, BLOOM_BYTES * len(offsets), BLOOM_BYTES), pa.int64()).buffers()[1]
            return pa.Array.from_buffers(
                pa.large_binary(), len(offsets) - 1, [None, ends, pa.py_buffer(out.raw)]
            )
    held = [column.to_pylist() for column in columns]
    found = []
    for first, end in pairwise(offsets):
        values = {value for column in held for value in column[first:end]}
        values.discard(None)
        found.append(bloom_of(values).to_bytes(BLOOM_BYTES, "big"))
    return pa.array(found, pa.large_binary())


def _rlp_of_strings(
    values: pa.LargeBinaryArray, digits: Callable[[bytes], bytes], *, is_number: int
) -> pa.Int64Array:
    library = measures_library()
    if library is None:
        return _each(values, lambda one: _rlp_of_string(digits(one)))
    values = _plain(values)
    return _filled(
        values,
        lambda out: library.trace_rlp_of_strings(*_bytes_of(values), len(values), is_number, out),
    )


def _rlp_of_string(value: bytes) -> int:
    return 1 if len(value) == 1 and value[0] < 128 else len(value) + _rlp_head(len(value))


def _rlp_head(size: int) -> int:
    return 1 if size < 56 else 1 + (size.bit_length() + 7) // 8


def _each(values: pa.Array, measure: Callable[..., int]) -> pa.Int64Array:
    return pa.array([None if one is None else measure(one) for one in values.to_pylist()], pa.int64())


def _filled(values: pa.Array, fill: Callable[[int], object]) -> pa.Int64Array:
    """Return what ``fill`` writes, null where ``values``, which are plain, are."""
    buffer = pa.allocate_buffer(8 * len(values))
    fill(buffer.address)
    validity = values.buffers()[0] if values.null_count else None
    return pa.Array.from_buffers(pa.int64(), len(values), [validity, buffer], values.null_count)


def _plain(values: pa.Array) -> pa.Array:
    """Return the same values, beginning where their buffers do."""
    return pa.concat_arrays([values]) if values.offset else values


def _address(values: pa.Array, buffer: int) -> int | None:
    held = values.buffers()[buffer]
    return None if held is None else held.address


def _bytes_of(plain: pa.LargeBinaryArray) -> tuple[int | None, int | None]:
    return _address(plain, 1), _address(plain, 2)


def _numbers_of(plain: pa.Array) -> int | None:
    return _address(plain, 1)
