"""Checks of rows against headers; those that need receipts and traces are tested behind a real node."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from trace_dagster.chain.checks import (
    check_blocks,
    check_membership,
    check_traces,
    check_transactions,
    check_transactions_alone,
    with_unknown_status,
)
from trace_dagster.chain.headers import Header
from trace_dagster.chain.receipts import BlockReceipts
from trace_dagster.chain.schemas import schema_of
from trace_dagster.errors import DataMismatch

Rows = list[dict[str, Any]]


def word(number: int) -> bytes:
    """A 32-byte value."""
    return number.to_bytes(32, "big")


def header(number: int, transactions: int = 2) -> Header:
    """Block ``number``; its hash is its number, its transactions' hashes are 100 times that and up."""
    return Header(
        number=number,
        hash=word(number),
        parent_hash=word(number - 1),
        timestamp=1_700_000_000_000 + number,
        author=bytes(20),
        state_root=word(1),
        transactions_root=word(2),
        receipts_root=word(3),
        gas_used=21000 * transactions,
        extra_data=b"",
        logs_bloom=bytes(256),
        size=500,
        base_fee_per_gas=7,
        transaction_hashes=tuple(word(100 * number + index) for index in range(transactions)),
    )


HEADERS = [header(number) for number in (4, 5, 6)]


def table(dataset: str, rows: Rows) -> pa.Table:
    """A table with our schema; what ``rows`` do not say is null."""
    schema = schema_of(dataset)
    assert schema is not None
    return pa.Table.from_pylist(rows, schema)


def block_rows() -> Rows:
    """The right rows of blocks."""
    names = (
        "parent_hash",
        "timestamp",
        "author",
        "state_root",
        "transactions_root",
        "receipts_root",
        "gas_used",
    )
    more = ("extra_data", "logs_bloom", "size", "base_fee_per_gas")
    return [
        {
            "block_number": one.number,
            "block_hash": one.hash,
            **{name: getattr(one, name) for name in names + more},
        }
        for one in HEADERS
    ]


def transaction_rows() -> Rows:
    """The right rows of transactions."""
    return [
        {
            "block_number": one.number,
            "block_hash": one.hash,
            "timestamp": one.timestamp,
            "transaction_index": index,
            "transaction_hash": transaction_hash,
            "gas_used": 21000,
            "success": True,
            "from_address": bytes([1]) * 20,
        }
        for one in HEADERS
        for index, transaction_hash in enumerate(one.transaction_hashes)
    ]


def receipts(success: bool | None = True) -> list[BlockReceipts]:
    """The receipts of all blocks."""
    return [
        BlockReceipts(one, [21000] * 2, [success] * 2, [bytes([1]) * 20] * 2, [None] * 2) for one in HEADERS
    ]


def test_right_rows_pass() -> None:
    """Rows as the headers and receipts say are accepted."""
    check_blocks(table("blocks", block_rows()), HEADERS)
    check_transactions_alone(table("transactions", transaction_rows()), HEADERS)
    check_transactions(table("transactions", transaction_rows()), receipts(), {})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[:2], "blocks: 2 rows where the chain has 3; block 6 has 0 of 1"),
        (lambda rows: [*rows, rows[1]], "blocks: 4 rows where the chain has 3; block 5 has 2 of 1"),
        (lambda rows: [rows[0], rows[2], rows[1]], "blocks: block 5: block_number is 6, but"),
        (lambda rows: [rows[0], rows[0], rows[2]], "blocks: block 5: block_number is 4, but"),
        (
            lambda rows: [{**rows[0], "size": None}, *rows[1:]],
            "block 4: size is null, but the endpoint now says 500",
        ),
        (
            lambda rows: rows[:0],
            "blocks: 0 rows where the chain has 3; block 4 has 0 of 1, block 5 has 0 of 1",
        ),
    ],
)
def test_wrong_blocks_are_named(spoil: Callable[[Rows], Rows], message: str) -> None:
    """A block that is missing, repeated, out of order or different is named with what was expected."""
    with pytest.raises(DataMismatch, match=message):
        check_blocks(table("blocks", spoil(block_rows())), HEADERS)


def test_a_value_that_the_schema_cannot_hold_is_a_mismatch() -> None:
    """A base fee of 2^64 is named, not cut."""
    large = [*HEADERS[:2], HEADERS[2].__class__(**{**_fields(HEADERS[2]), "base_fee_per_gas": 2**64})]
    with pytest.raises(
        DataMismatch, match="blocks: the node's base_fee_per_gas does not fit the type uint64"
    ):
        check_blocks(table("blocks", block_rows()), large)


def _fields(one: Header) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Header.__slots__}


def test_wrong_transactions_are_named_without_receipts_too() -> None:
    """Headers alone tell which transactions there are, and where."""
    rows = transaction_rows()
    rows[3]["transaction_hash"] = word(9)
    with pytest.raises(
        DataMismatch, match="transactions: block 5, transaction_index 1: transaction_hash is 0x"
    ):
        check_transactions_alone(table("transactions", rows), HEADERS)


def test_filters_leave_out_what_they_should() -> None:
    """Transactions are compared with those receipts that pass the filters."""
    sender = ("0x" + "01" * 20,)
    check_transactions(table("transactions", transaction_rows()), receipts(), {"from_address": sender})
    check_transactions(table("transactions", []), receipts(), {"from_address": sender, "to_address": sender})
    with pytest.raises(DataMismatch, match="transactions: 0 rows where the chain has 6"):
        check_transactions(table("transactions", []), receipts(), {"from_address": sender})


def test_unknown_status_becomes_null() -> None:
    """Where receipts have no status, success is null; where they have one, nothing changes."""
    rows = table("transactions", [{**row, "success": False} for row in transaction_rows()])
    repaired, count = with_unknown_status(rows, receipts(None))
    assert (repaired.column("success").to_pylist(), count) == ([None] * 6, 6)
    assert repaired.schema == rows.schema
    assert with_unknown_status(rows, receipts(success=True)) == (rows, 0)
    check_transactions(repaired, receipts(None), {})


def test_rows_of_other_blocks_are_found() -> None:
    """A row outside the range is named with the range."""
    rows = pa.table({"block_number": [4, 9]})
    with pytest.raises(DataMismatch, match="balances: a row of block 9; expected blocks 4 to 6"):
        check_membership("balances", rows, HEADERS)


def test_a_transaction_has_one_outermost_call() -> None:
    """Rewards, which belong to no transaction, are allowed; a second outermost call is not."""
    calls = [
        {
            "block_number": one.number,
            "transaction_index": index,
            "transaction_hash": held,
            "trace_address": "",
        }
        for one in HEADERS
        for index, held in enumerate(one.transaction_hashes)
    ]
    inner = {**calls[0], "trace_address": "0"}
    reward = {"block_number": 4, "trace_address": ""}
    check_traces(table("traces", [*calls, inner, reward]), HEADERS)
    with pytest.raises(
        DataMismatch, match=r"block 4, transaction 0 \(0x.*190\) has 2 outermost calls; expected 1"
    ):
        check_traces(table("traces", [*calls, calls[0]]), HEADERS)
