"""Checks of extracted rows against the chain's own headers and receipts; pure, on Arrow tables.

Every check raises ``DataMismatch`` with the block and the values. Tables are as ``rows.normalised`` gives
them; ``headers`` are consecutive and cover exactly the blocks that the table is about.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_dagster.chain.datasets import listed
from trace_dagster.chain.headers import Header, show
from trace_dagster.chain.receipts import BlockReceipts, check_bloom
from trace_dagster.errors import DataMismatch

__all__ = [
    "check_blocks",
    "check_logs",
    "check_logs_alone",
    "check_membership",
    "check_traces",
    "check_transactions",
    "check_transactions_alone",
    "with_unknown_status",
]

Filters = Mapping[str, tuple[str, ...]]
Columns = Mapping[str, Sequence[Any]]


def check_blocks(table: pa.Table, headers: Sequence[Header]) -> None:
    """Check ``blocks``: each once, in order, every column but the total difficulty as in the headers."""
    _same_rows(
        "blocks",
        table,
        {
            "block_number": [header.number for header in headers],
            "block_hash": [header.hash for header in headers],
            "parent_hash": [header.parent_hash for header in headers],
            "timestamp": [header.timestamp for header in headers],
            "author": [header.author for header in headers],
            "state_root": [header.state_root for header in headers],
            "transactions_root": [header.transactions_root for header in headers],
            "receipts_root": [header.receipts_root for header in headers],
            "gas_used": [header.gas_used for header in headers],
            "extra_data": [header.extra_data for header in headers],
            "logs_bloom": [header.logs_bloom for header in headers],
            "size": [header.size for header in headers],
            "base_fee_per_gas": [header.base_fee_per_gas for header in headers],
        },
    )


def with_unknown_status(table: pa.Table, receipts: Sequence[BlockReceipts]) -> tuple[pa.Table, int]:
    """Return ``transactions`` with ``success`` null where the receipt has no status, and how many those are.

    Cryo gives False there: receipts before Byzantium do not tell.
    """
    unknown = {
        transaction_hash
        for block in receipts
        for transaction_hash, success in zip(block.header.transaction_hashes, block.success, strict=True)
        if success is None
    }
    if not unknown:
        return table, 0
    hashes = table.column("transaction_hash")
    is_unknown = pc.is_in(hashes, value_set=pa.array(sorted(unknown), hashes.type))
    success = pc.if_else(is_unknown, pa.scalar(None, pa.bool_()), table.column("success"))
    at = table.schema.get_field_index("success")
    return table.set_column(at, table.schema.field(at), success), pc.sum(is_unknown).as_py() or 0


def check_transactions(table: pa.Table, receipts: Sequence[BlockReceipts], filters: Filters) -> None:
    """Check ``transactions``: exactly those that pass ``filters``, in order, as in the receipts."""
    keep = _sender_filter(filters)
    rows = [
        (block, index)
        for block in receipts
        for index in range(len(block.gas_used))
        if keep(block.from_address[index], block.to_address[index])
    ]
    expected = _transaction_columns([(block.header, index) for block, index in rows])
    _same_rows(
        "transactions",
        table,
        {
            **expected,
            "gas_used": [block.gas_used[index] for block, index in rows],
            "success": [block.success[index] for block, index in rows],
            "from_address": [block.from_address[index] for block, index in rows],
            "to_address": [block.to_address[index] for block, index in rows],
        },
    )


def check_transactions_alone(table: pa.Table, headers: Sequence[Header]) -> None:
    """Check unfiltered ``transactions`` against headers only: which they are, and their order."""
    rows = [(header, index) for header in headers for index in range(len(header.transaction_hashes))]
    _same_rows("transactions", table, _transaction_columns(rows))


def check_logs(table: pa.Table, receipts: Sequence[BlockReceipts], filters: Filters) -> None:
    """Check ``logs``: exactly those of the receipts that pass ``filters``; receipts fit the blooms."""
    for block in receipts:
        logs = block.logs
        check_bloom(block.header, {*logs.address, *_flat(logs.topics)}, complete=True)
    keep = _log_filter(filters)
    rows = [
        (block, index)
        for block in receipts
        for index in range(len(block.logs.address))
        if keep(block.logs.address[index], block.logs.topics[index])
    ]
    topics = [block.logs.topics[index] for block, index in rows]
    _same_rows(
        "logs",
        table,
        {
            "block_number": [block.header.number for block, _ in rows],
            "block_hash": [block.header.hash for block, _ in rows],
            "log_index": [index for _, index in rows],
            "transaction_index": [block.logs.transaction_index[index] for block, index in rows],
            "transaction_hash": [block.logs.transaction_hash[index] for block, index in rows],
            "address": [block.logs.address[index] for block, index in rows],
            **{f"topic{at}": [held[at] if at < len(held) else None for held in topics] for at in range(4)},
            "data": [block.logs.data[index] for block, index in rows],
        },
    )


def check_logs_alone(table: pa.Table, headers: Sequence[Header], *, filtered: bool) -> None:
    """Check ``logs`` against headers only: transactions, numbering and blooms."""
    check_membership("logs", table, headers)
    columns = [table.column(f"topic{at}").to_pylist() for at in range(4)]
    columns.append(table.column("address").to_pylist())
    numbers = table.column("block_number").to_pylist()
    values: dict[int, set[bytes]] = {header.number: set() for header in headers}
    for row, number in enumerate(numbers):
        values[number].update(column[row] for column in columns if column[row] is not None)
    for header in headers:
        check_bloom(header, values[header.number], complete=not filtered)
    if filtered:
        return
    seen: Counter[int] = Counter()
    for number, log_index in zip(numbers, table.column("log_index").to_pylist(), strict=True):
        if log_index != seen[number]:
            raise DataMismatch(f"logs: block {number} has log_index {log_index} where {seen[number]} is due")
        seen[number] += 1


def check_traces(table: pa.Table, headers: Sequence[Header]) -> None:
    """Check unfiltered ``traces``: every transaction has one outermost call, and none is unknown."""
    check_membership("traces", table, headers)
    outermost = table.filter(pc.equal(table.column("trace_address"), ""))
    found = Counter(outermost.column("transaction_hash").to_pylist())
    for header in headers:
        for index, transaction_hash in enumerate(header.transaction_hashes):
            if found[transaction_hash] != 1:
                raise DataMismatch(
                    f"traces: block {header.number}, transaction {index} ({show(transaction_hash)}) has "
                    f"{found[transaction_hash]} outermost calls; expected 1"
                )


def check_membership(dataset: str, table: pa.Table, headers: Sequence[Header]) -> None:
    """Check that every row is of one of the blocks, and its hashes, where it has some, are of that block."""
    by_number = {header.number: header for header in headers}
    names = [
        name
        for name in ("block_number", "block_hash", "transaction_hash", "transaction_index")
        if name in table.schema.names
    ]
    distinct = table.select(names).group_by(names).aggregate([])
    for row in distinct.to_pylist():
        header = by_number.get(row["block_number"])
        if header is None:
            raise DataMismatch(
                f"{dataset}: a row of block {row['block_number']}; expected blocks {headers[0].number} to "
                f"{headers[-1].number}"
            )
        _check_place(dataset, row, header)


def _check_place(dataset: str, row: Mapping[str, Any], header: Header) -> None:
    block_hash, transaction_hash = row.get("block_hash"), row.get("transaction_hash")
    if block_hash is not None and block_hash != header.hash:
        raise DataMismatch(
            f"{dataset}: block {header.number} is {show(block_hash)} in the rows and {show(header.hash)} at "
            "the endpoint: a reorganisation while reading? try again"
        )
    if transaction_hash is None:
        return
    hashes, index = header.transaction_hashes, row.get("transaction_index")
    known = (
        transaction_hash in hashes
        if index is None
        else index < len(hashes) and hashes[index] == transaction_hash
    )
    if not known:
        raise DataMismatch(
            f"{dataset}: block {header.number} ({show(header.hash)}) has no transaction "
            f"{show(transaction_hash)}{'' if index is None else f' at index {index}'}"
        )


def _transaction_columns(rows: Sequence[tuple[Header, int]]) -> dict[str, Sequence[Any]]:
    return {
        "block_number": [header.number for header, _ in rows],
        "transaction_index": [index for _, index in rows],
        "transaction_hash": [header.transaction_hashes[index] for header, index in rows],
        "block_hash": [header.hash for header, _ in rows],
        "timestamp": [header.timestamp for header, _ in rows],
    }


def _same_rows(dataset: str, table: pa.Table, expected: Columns) -> None:
    numbers = expected["block_number"]
    if table.num_rows != len(numbers):
        _raise_counts(dataset, table, numbers)
    for name, values in expected.items():
        column = table.column(name).combine_chunks()
        try:
            due = pa.array(values, column.type)
        except (OverflowError, pa.ArrowInvalid):
            raise DataMismatch(f"{dataset}: the node's {name} does not fit the type {column.type}") from None
        if not column.equals(due):
            _raise_difference(dataset, name, column, due, expected)


def _raise_counts(dataset: str, table: pa.Table, numbers: Sequence[int]) -> None:
    found, due = Counter(table.column("block_number").to_pylist()), Counter(numbers)
    wrong = sorted(number for number in found.keys() | due.keys() if found[number] != due[number])
    raise DataMismatch(
        f"{dataset}: {table.num_rows} rows where the chain has {len(numbers)}; "
        + listed((f"block {number} has {found[number]} of {due[number]}" for number in wrong), limit=5)
    )


def _raise_difference(dataset: str, name: str, column: pa.Array, due: pa.Array, expected: Columns) -> None:
    for row, (found, wanted) in enumerate(zip(column.to_pylist(), due.to_pylist(), strict=True)):
        if found != wanted:
            place = f"block {expected['block_number'][row]}"
            for key in ("transaction_index", "log_index"):
                place += f", {key} {expected[key][row]}" if key in expected else ""
            raise DataMismatch(
                f"{dataset}: {place}: {name} is {show(found)}, but the endpoint now says {show(wanted)}"
            )


def _sender_filter(filters: Filters) -> Callable[[bytes | None, bytes | None], bool]:
    senders, recipients = _values(filters, "from_address"), _values(filters, "to_address")
    return lambda sender, recipient: (
        (senders is None or sender in senders) and (recipients is None or recipient in recipients)
    )


def _log_filter(filters: Filters) -> Callable[[bytes, tuple[bytes, ...]], bool]:
    addresses = _values(filters, "address")
    topics = [(at, allowed) for at in range(4) if (allowed := _values(filters, f"topic{at}")) is not None]
    return lambda address, held: (
        (addresses is None or address in addresses)
        and all(at < len(held) and held[at] in allowed for at, allowed in topics)
    )


def _values(filters: Filters, name: str) -> frozenset[bytes] | None:
    texts = filters.get(name)
    return None if texts is None else frozenset(bytes.fromhex(text.removeprefix("0x")) for text in texts)


def _flat(topics: Sequence[tuple[bytes, ...]]) -> Iterator[bytes]:
    for held in topics:
        yield from held
