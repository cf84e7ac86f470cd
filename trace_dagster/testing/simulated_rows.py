"""Rows of the datasets that follow from blocks, transactions, logs and call frames.

Every function takes a chain, its blocks and the filters as bytes, and yields tuples in the order of the
columns that ``simulated_datasets`` names.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from eth_hash.backends.pycryptodome import keccak256

from trace_dagster.testing.simulated_records import (
    SimulatedBlock,
    SimulatedLog,
    SimulatedTrace,
    SimulatedTransaction,
)
from trace_dagster.testing.simulated_transactions import TRANSFER_TOPIC, traces_of

if TYPE_CHECKING:
    from trace_dagster.testing.simulated_chain import SimulatedChain

__all__ = [
    "Blocks",
    "Filters",
    "Row",
    "address_appearances",
    "blocks",
    "contracts",
    "erc20_transfers",
    "erc721_transfers",
    "four_byte_counts",
    "frame_row",
    "geth_calls",
    "geth_opcodes",
    "javascript_traces",
    "logs",
    "native_transfers",
    "traces",
    "transactions",
    "vm_traces",
]

Row = tuple[Any, ...]
Filters = Mapping[str, Sequence[bytes]]
Blocks = Sequence[SimulatedBlock]

_STEPS: Final = (("PUSH1", 3, "0x60"), ("CALLDATALOAD", 3, None), ("SLOAD", 2_100, None), ("RETURN", 0, None))
"""Instructions shown of every call of a contract: name, gas, and what is pushed."""


def _accepts(filters: Filters, name: str, value: bytes | None) -> bool:
    """Whether a filter lets ``value`` through; one that is not set does."""
    wanted = filters.get(name)
    return not wanted or value in wanted


def _between(filters: Filters, sender: bytes, recipient: bytes | None) -> bool:
    return _accepts(filters, "from_address", sender) and _accepts(filters, "to_address", recipient)


def blocks(_chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield one row for each block."""
    for block in of:
        yield (
            block.hash,
            block.parent_hash,
            block.author,
            block.state_root,
            block.transactions_root,
            block.receipts_root,
            block.number,
            block.gas_used,
            block.gas_limit,
            block.extra_data,
            block.logs_bloom,
            block.timestamp,
            0,  # total difficulty: there was never any work
            block.size,
            block.base_fee_per_gas,
        )


def transactions(_chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield one row for each transaction."""
    for block in of:
        for made in block.transactions:
            if not _between(filters, made.from_address, made.to_address):
                continue
            zeros = made.input.count(0)
            yield (
                block.number,
                made.transaction_index,
                made.hash,
                made.nonce,
                made.from_address,
                made.to_address,
                made.value,
                made.input,
                made.gas_limit,
                made.gas_used,
                made.gas_price,
                made.transaction_type,
                made.max_priority_fee_per_gas,
                made.max_fee_per_gas,
                made.success,
                len(made.input),
                zeros,
                len(made.input) - zeros,
                made.rlp_bytes,
                block.hash,
                block.timestamp,
            )


def _logs(
    of: Blocks, filters: Filters
) -> Iterator[tuple[SimulatedBlock, SimulatedTransaction, SimulatedLog]]:
    for block in of:
        for made in block.transactions:
            for log in made.logs:
                topics = _padded_topics(log)
                if _accepts(filters, "address", log.address) and all(
                    _accepts(filters, f"topic{at}", topic) for at, topic in enumerate(topics)
                ):
                    yield block, made, log


def _padded_topics(log: SimulatedLog) -> tuple[bytes | None, ...]:
    return (*log.topics, None, None, None, None)[:4]


def logs(_chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield one row for each log."""
    for block, made, log in _logs(of, filters):
        topics = _padded_topics(log)
        yield (
            block.number,
            block.hash,
            made.transaction_index,
            log.log_index,
            made.hash,
            log.address,
            *topics,
            log.data,
        )


def erc20_transfers(_chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield one row for each Transfer event with its amount in the data."""
    for head, log in _transfers(of, filters, topics=3):
        yield *head, int.from_bytes(log.data, "big")


def erc721_transfers(_chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield one row for each Transfer event with a token id for its fourth topic."""
    for head, log in _transfers(of, filters, topics=4):
        yield *head, int.from_bytes(log.topics[3], "big")


def _transfers(of: Blocks, filters: Filters, topics: int) -> Iterator[tuple[Row, SimulatedLog]]:
    for block, made, log in _logs(of, filters):
        if len(log.topics) != topics or log.topics[0] != TRANSFER_TOPIC:
            continue
        sender, recipient = log.topics[1][12:], log.topics[2][12:]
        if _between(filters, sender, recipient):
            place = (block.number, block.hash, made.transaction_index, log.log_index, made.hash)
            yield (*place, log.address, sender, recipient), log


def _frames(of: Blocks) -> Iterator[tuple[SimulatedBlock, SimulatedTransaction, SimulatedTrace]]:
    for block in of:
        for made in block.transactions:
            for frame in traces_of(made):
                yield block, made, frame


def frame_row(frame: SimulatedTrace) -> Row:
    """Return the columns ``action_from`` to ``subtraces`` of one call frame."""
    created = frame.action_type == "create"
    return (
        frame.from_address,
        frame.to_address,
        str(frame.value),
        frame.gas,
        None if created else frame.input,
        frame.call_type,
        frame.input if created else None,
        None,
        frame.action_type,
        frame.gas_used,
        None if created else frame.output,
        frame.output if created else None,
        frame.created_address,
        _path(frame),
        frame.subtraces,
    )


def _path(frame: SimulatedTrace) -> str:
    return "_".join(str(step) for step in frame.trace_address)


def traces(_chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield one row for each call frame."""
    for block, made, frame in _frames(of):
        if _between(filters, frame.from_address, frame.to_address):
            yield *frame_row(frame), made.transaction_index, made.hash, block.number, block.hash, frame.error


def geth_calls(_chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield one row for each call frame, in Geth's terms."""
    for block, made, frame in _frames(of):
        yield (
            (frame.call_type or frame.action_type).upper(),
            frame.from_address,
            frame.to_address or frame.created_address,
            frame.value,
            frame.gas,
            frame.gas if frame.gas_used is None else frame.gas_used,
            frame.input,
            frame.output,
            frame.error and "execution reverted",
            block.number,
            made.hash,
            made.transaction_index,
            _path(frame),
        )


def native_transfers(_chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield one row for each successful call frame that moves wei."""
    for block in of:
        index = 0
        for _, made, frame in _frames((block,)):
            if not frame.value or frame.error:
                continue
            if _between(filters, frame.from_address, frame.to_address):
                yield (
                    block.number,
                    block.hash,
                    made.transaction_index,
                    index,
                    made.hash,
                    frame.from_address,
                    frame.to_address,
                    frame.value,
                )
            index += 1


def contracts(_chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield one row for each created contract."""
    for block in of:
        created = (found for found in _frames((block,)) if found[2].created_address)
        for index, (_, made, frame) in enumerate(created):
            code = frame.output or b""
            yield (
                block.number,
                block.hash,
                index,
                made.hash,
                frame.created_address,
                made.from_address,
                frame.from_address,
                frame.input,
                code,
                bytes(keccak256(frame.input)),
                len(frame.input),
                len(code),
                bytes(keccak256(code)),
            )


def address_appearances(_chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield the addresses that each transaction names, each relationship once, in Cryo's order."""
    for block in of:
        found = {
            (made.hash, address, relationship)
            for made in block.transactions
            for address, relationship in _appearances(block, made)
        }
        for hash_, address, relationship in sorted(found):
            yield block.number, block.hash, hash_, address, relationship


def _appearances(block: SimulatedBlock, made: SimulatedTransaction) -> Iterator[tuple[bytes, str]]:
    yield block.author, "miner_fee"
    yield made.from_address, "tx_from"
    if made.to_address is not None:
        yield made.to_address, "tx_to"
    for log in made.logs:
        yield log.address, "log_address"
    for frame in traces_of(made):
        yield frame.from_address, "call_from"
        if frame.to_address is not None:
            yield frame.to_address, "call_to"
        if frame.created_address is not None:
            yield frame.created_address, "factory_create"


def four_byte_counts(_chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield how often each transaction's frames called each selector with each length of arguments."""
    for block in of:
        for made in block.transactions:
            counts = Counter(
                (frame.input[:4], len(frame.input) - 4)
                for frame in traces_of(made)
                if frame.call_type and len(frame.input) >= 4
            )
            for (selector, size), count in sorted(counts.items()):
                yield block.number, made.transaction_index, made.hash, selector, size, count


def javascript_traces(_chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield one row for each transaction; the output is not that of the tracer asked for."""
    for block in of:
        for made in block.transactions:
            output = {"synthetic": True, "gasUsed": made.gas_used}
            yield block.number, made.transaction_index, made.hash, json.dumps(output, sort_keys=True)


def _steps(of: Blocks) -> Iterator[tuple[SimulatedBlock, SimulatedTransaction, int, int]]:
    """Yield the shown instructions of every call of a contract: their number and the gas left before."""
    for block in of:
        for made in block.transactions:
            gas = made.gas_limit - 21_000
            for at, (_, cost, _) in enumerate(_STEPS if made.input else ()):
                yield block, made, at, gas
                gas -= cost


def geth_opcodes(_chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield a few instructions of every call of a contract."""
    for block, made, at, gas in _steps(of):
        op, cost, pushed = _STEPS[at]
        place = (block.number, made.hash, made.transaction_index, "", 1, None)
        yield *place, gas, cost, op, at, 0, None, f"[{pushed}]" if pushed else "[]", None, None


def vm_traces(_chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield a few instructions of every call of a contract, in Parity's terms."""
    for block, made, at, gas in _steps(of):
        op, cost, pushed = _STEPS[at]
        push = bytes.fromhex(pushed[2:]) if pushed else None
        yield (
            block.number,
            made.hash,
            made.transaction_index,
            at,
            cost,
            gas - cost,
            push,
            None,
            None,
            None,
            None,
            op,
        )
