"""The logs bloom filter of the Yellow Paper, section 4.4.3: 2048 bits, three for each address and topic."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

__all__ = ["BLOOM_BYTES", "bloom_of"]

BLOOM_BYTES: Final = 256


def bloom_of(values: Iterable[bytes]) -> int:
    """Return the filter of ``values`` (addresses and topics of logs), as a big-endian number."""
    bloom = 0
    for value in values:
        bloom |= _bits(value)
    return bloom


@lru_cache(maxsize=65536)
def _bits(value: bytes) -> int:
    from eth_hash.backends.pycryptodome import keccak256  # noqa: PLC0415 - slow, and rarely needed

    digest = keccak256(value)
    bits = 0
    for at in (0, 2, 4):
        bits |= 1 << (int.from_bytes(digest[at : at + 2], "big") & 2047)
    return bits
