"""The receipts of one block, checked against its header and laid out in columns."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trace_dagster.chain.bloom import bloom_of
from trace_dagster.chain.datasets import listed
from trace_dagster.chain.headers import Header, as_bytes, as_int, show
from trace_dagster.errors import DataMismatch

__all__ = ["BlockReceipts", "LogColumns", "check_bloom", "parse_receipts"]


@dataclass(slots=True)
class LogColumns:
    """Logs as columns of equal length, in order of ``log_index``."""

    transaction_index: list[int] = field(default_factory=list)
    transaction_hash: list[bytes] = field(default_factory=list)
    address: list[bytes] = field(default_factory=list)
    topics: list[tuple[bytes, ...]] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class BlockReceipts:
    """The receipts of one block in the order of its transactions, each column one entry a receipt.

    Attributes:
        header: the block.
        gas_used: of each transaction alone.
        success: the status; None where a receipt has none (before Byzantium).
        from_address: the sender.
        to_address: the recipient; None for a contract creation.
        logs: all logs of the block; their ``log_index`` counts from 0 without gaps.
    """

    header: Header
    gas_used: list[int] = field(default_factory=list)
    success: list[bool | None] = field(default_factory=list)
    from_address: list[bytes | None] = field(default_factory=list)
    to_address: list[bytes | None] = field(default_factory=list)
    logs: LogColumns = field(default_factory=LogColumns)


def parse_receipts(header: Header, answers: Any) -> BlockReceipts:
    """Read the receipts of a block, in whatever order they came.

    Raises:
        DataMismatch: they are not exactly those of the transactions that ``header`` lists, belong to another
            block, or their logs are not numbered 0, 1, 2...
    """
    number = header.number
    if not isinstance(answers, list):
        raise DataMismatch(
            f"block {number}: the endpoint gave {show(answers)} instead of the receipts of its "
            f"{len(header.transaction_hashes)} transactions"
        )
    try:
        return _read(header, _by_hash(header, answers))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataMismatch(f"block {number}: the endpoint's receipts cannot be read: {error!r}") from None


def check_bloom(header: Header, values: Collection[bytes], *, complete: bool) -> None:
    """Check logs against the block's own logs bloom, unless that is all zero, as on some chains.

    Args:
        header: the block.
        values: addresses and topics of logs of the block.
        complete: whether these are all its logs; then the bloom must announce nothing else.

    Raises:
        DataMismatch: the bloom excludes one of the logs, or announces logs that are missing.
    """
    announced = int.from_bytes(header.logs_bloom or b"", "big")
    if announced == 0:
        return
    held = bloom_of(values)
    if held & ~announced:
        raise DataMismatch(
            f"block {header.number} ({show(header.hash)}): its logsBloom excludes some of the addresses and "
            "topics of its logs"
        )
    if complete and announced != held:
        raise DataMismatch(
            f"block {header.number} ({show(header.hash)}): its logsBloom announces logs that are missing; "
            f"those given have {len(values)} different addresses and topics"
        )


def _by_hash(header: Header, answers: Sequence[Mapping[str, Any] | None]) -> dict[bytes, Mapping[str, Any]]:
    found = {as_bytes(answer["transactionHash"]): answer for answer in answers if answer is not None}
    listed = header.transaction_hashes
    missing = [value for value in listed if value not in found]
    if missing:
        raise DataMismatch(
            f"block {header.number}: it lists {len(listed)} transactions, but the endpoint gave "
            f"{len(found)} receipts; none for {show(missing[0])}"
        )
    if len(answers) != len(listed):
        raise DataMismatch(
            f"block {header.number}: it lists {len(listed)} transactions, but the endpoint gave "
            f"{len(answers)} receipts, repeated or of other blocks"
        )
    return found


def _read(header: Header, receipts: Mapping[bytes, Mapping[str, Any]]) -> BlockReceipts:
    block = BlockReceipts(header)
    next_log = 0
    for index, transaction_hash in enumerate(header.transaction_hashes):
        receipt = receipts[transaction_hash]
        _check_place(header, index, receipt)
        status, to_address, sender = receipt.get("status"), receipt.get("to"), receipt.get("from")
        block.gas_used.append(as_int(receipt["gasUsed"]))
        block.success.append(None if status is None else as_int(status) == 1)
        block.from_address.append(None if sender is None else as_bytes(sender))
        block.to_address.append(None if to_address is None else as_bytes(to_address))
        logs = receipt["logs"]
        _read_logs(block, index, transaction_hash, logs, next_log)
        next_log += len(logs)
    return block


def _check_place(header: Header, index: int, receipt: Mapping[str, Any]) -> None:
    block_hash, found_index = as_bytes(receipt["blockHash"]), as_int(receipt["transactionIndex"])
    if block_hash != header.hash:
        raise DataMismatch(
            f"block {header.number} is {show(header.hash)}, but the receipt of transaction {index} belongs "
            f"to {show(block_hash)}: a reorganisation while reading? try again"
        )
    if found_index != index:
        raise DataMismatch(
            f"block {header.number}: transaction {show(header.transaction_hashes[index])} is number {index} "
            f"in the block and number {found_index} in its receipt"
        )


def _read_logs(
    block: BlockReceipts, index: int, transaction_hash: bytes, logs: Sequence[Mapping[str, Any]], first: int
) -> None:
    columns, header = block.logs, block.header
    if not logs:
        return
    numbers = [int(log["logIndex"], 16) for log in logs]
    if numbers != list(range(first, first + len(logs))):
        raise DataMismatch(
            f"block {header.number}: the receipt of transaction {index} has the log_index "
            f"{listed(numbers)}; expected {first} to {first + len(logs) - 1}"
        )
    columns.transaction_index += [index] * len(logs)
    columns.transaction_hash += [transaction_hash] * len(logs)
    # The hottest lines of all checks: no call of ours for each value.
    read = bytes.fromhex
    columns.address += [read(log["address"][2:]) for log in logs]
    columns.topics += [tuple([read(topic[2:]) for topic in log["topics"]]) for log in logs]
    columns.data += [read(log["data"][2:]) for log in logs]
