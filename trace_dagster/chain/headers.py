"""Block headers as ``eth_getBlockByNumber`` gives them, and the links between them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trace_dagster.errors import DataMismatch

__all__ = ["Header", "as_bytes", "as_int", "check_links", "parse_header", "show"]

_QUANTITY = re.compile("0x[0-9a-fA-F]{1,64}")


@dataclass(frozen=True, slots=True)
class Header:
    """One block, without its transactions' contents.

    Attributes:
        number: block number.
        hash: the block's hash, 32 bytes.
        parent_hash: hash of the block before it.
        timestamp: as the chain counts it, mostly seconds.
        author: the miner or fee recipient, 20 bytes.
        state_root: 32 bytes.
        transactions_root: 32 bytes.
        receipts_root: 32 bytes.
        gas_used: of all transactions.
        extra_data: any bytes.
        logs_bloom: 256 bytes; all zero on some chains, whatever the logs.
        size: bytes of the block, where the node says.
        base_fee_per_gas: wei; None before London.
        transaction_hashes: in the order of ``transaction_index``.
    """

    number: int
    hash: bytes
    parent_hash: bytes
    timestamp: int
    author: bytes | None
    state_root: bytes | None
    transactions_root: bytes | None
    receipts_root: bytes | None
    gas_used: int
    extra_data: bytes | None
    logs_bloom: bytes | None
    size: int | None
    base_fee_per_gas: int | None
    transaction_hashes: tuple[bytes, ...]


def parse_header(number: int | None, answer: Any) -> Header:
    """Read the answer for block ``number``, or for the head (None), with or without transactions' contents.

    Raises:
        DataMismatch: the answer is null, is for another block, or lacks a field.
    """
    if answer is None:
        raise DataMismatch(
            f"the endpoint answers null for {_named(number)}, which is below the head that it reports; "
            "a lagging backend? try again"
        )
    try:
        header = _header(answer)
    except (KeyError, TypeError, ValueError) as error:
        raise DataMismatch(f"{_named(number)}: the endpoint's answer cannot be read: {error!r}") from None
    if number is not None and header.number != number:
        raise DataMismatch(f"block {number}: the endpoint answered with block {header.number}")
    return header


def _named(number: int | None) -> str:
    return "the head" if number is None else f"block {number}"


def check_links(headers: Sequence[Header], before: Header | None) -> None:
    """Check that each header's parent is the one before it.

    Args:
        headers: consecutive blocks, ascending.
        before: the block before the first of them; None where that is the genesis block.

    Raises:
        DataMismatch: a number is out of order, or a parent hash differs.
    """
    for header in headers:
        if before is not None:
            if header.number != before.number + 1:
                raise DataMismatch(f"block {header.number} follows block {before.number}")
            if header.parent_hash != before.hash:
                raise DataMismatch(
                    f"block {header.number} has the parent {show(header.parent_hash)}, but block "
                    f"{before.number} is {show(before.hash)}: a reorganisation while reading? try again"
                )
        before = header


def _header(answer: Mapping[str, Any]) -> Header:
    return Header(
        number=as_int(answer["number"]),
        hash=as_bytes(answer["hash"]),
        parent_hash=as_bytes(answer["parentHash"]),
        timestamp=as_int(answer["timestamp"]),
        author=_maybe_bytes(answer.get("miner")),
        state_root=_maybe_bytes(answer.get("stateRoot")),
        transactions_root=_maybe_bytes(answer.get("transactionsRoot")),
        receipts_root=_maybe_bytes(answer.get("receiptsRoot")),
        gas_used=as_int(answer["gasUsed"]),
        extra_data=_maybe_bytes(answer.get("extraData")),
        logs_bloom=_maybe_bytes(answer.get("logsBloom")),
        size=_maybe_int(answer.get("size")),
        base_fee_per_gas=_maybe_int(answer.get("baseFeePerGas")),
        transaction_hashes=tuple(_transaction_hashes(answer["transactions"])),
    )


def _transaction_hashes(transactions: Iterable[Any]) -> Iterable[bytes]:
    for item in transactions:
        yield as_bytes(item["hash"] if isinstance(item, Mapping) else item)


def as_bytes(text: str) -> bytes:
    """Read 0x-prefixed hex; raises ValueError for anything else."""
    if not isinstance(text, str) or not text.startswith("0x"):
        raise ValueError(f"{str(text)[:20]!r} is no 0x hex")
    return bytes.fromhex(text[2:])


def as_int(text: str) -> int:
    """Read a 0x-prefixed hex quantity; raises ValueError for anything else, signs and underscores too."""
    if not isinstance(text, str) or not _QUANTITY.fullmatch(text):
        raise ValueError(f"{str(text)[:20]!r} is no hex number")
    return int(text, 16)


def _maybe_bytes(text: str | None) -> bytes | None:
    return None if text is None else as_bytes(text)


def _maybe_int(text: str | None) -> int | None:
    return None if text is None else as_int(text)


def show(value: object) -> str:
    """Return ``value`` for a message: bytes as 0x hex, cut after 32 of them; None as null."""
    if isinstance(value, bytes):
        return f"0x{value[:32].hex()}" + ("..." if len(value) > 32 else "")
    return "null" if value is None else str(value)
