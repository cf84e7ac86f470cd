"""The logs bloom filter of the Yellow Paper (section 4.4.3), and the address of a created contract."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

from eth_hash.auto import keccak

__all__ = ["created_address", "logs_bloom"]


class _Log(Protocol):
    @property
    def address(self) -> bytes: ...
    @property
    def topics(self) -> tuple[bytes, ...]: ...


def logs_bloom(logs: Iterable[_Log]) -> bytes:
    """Return the bloom filter, 256 bytes, of the addresses and topics of ``logs``."""
    bloom = 0
    for log in logs:
        bloom |= _bits(log.address)
        for topic in log.topics:
            bloom |= _bits(topic)
    return bloom.to_bytes(256, "big")


@lru_cache(maxsize=8192)
def _bits(value: bytes) -> int:
    digest = keccak(value)
    bits = 0
    for at in (0, 2, 4):
        bits |= 1 << (int.from_bytes(digest[at : at + 2], "big") & 2047)
    return bits


def created_address(sender: bytes, nonce: int) -> bytes:
    """Return the address of the contract that transaction ``nonce`` of ``sender`` creates, 20 bytes."""
    # RLP of [sender, nonce]: a list of a 20-byte string and an integer without leading zeros.
    number = nonce.to_bytes((nonce.bit_length() + 7) // 8, "big")
    item = number if len(number) == 1 and number[0] < 0x80 else bytes([0x80 + len(number)]) + number
    body = b"\x94" + sender + item
    return bytes(keccak(bytes([0xC0 + len(body)]) + body)[12:])
