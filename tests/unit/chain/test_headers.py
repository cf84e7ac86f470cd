"""Headers, receipts and blooms as nodes give them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_dagster.chain.bloom import bloom_of
from trace_dagster.chain.headers import check_links, parse_header, show
from trace_dagster.chain.receipts import check_bloom, parse_receipts
from trace_dagster.errors import DataMismatch


def word(number: int) -> str:
    """A 32-byte value in hex."""
    return f"0x{number:064x}"


def block(number: int, parent: int, **fields: Any) -> dict[str, Any]:
    """A block's answer; its hash is ``number``."""
    return {
        "number": hex(number),
        "hash": word(number),
        "parentHash": word(parent),
        "timestamp": "0x1",
        "gasUsed": "0x0",
        "logsBloom": "0x" + "00" * 256,
        "transactions": [word(100), word(101)],
        **fields,
    }


def receipt(index: int, first_log: int, logs: int, **fields: Any) -> dict[str, Any]:
    """The receipt of transaction ``index`` of block 5."""
    return {
        "transactionHash": word(100 + index),
        "transactionIndex": hex(index),
        "blockHash": word(5),
        "gasUsed": hex(21000 + index),
        "status": "0x1",
        "from": "0x" + "11" * 20,
        "to": None,
        "logs": [
            {"logIndex": hex(first_log + at), "address": "0x" + "22" * 20, "topics": [word(7)], "data": "0x"}
            for at in range(logs)
        ],
        **fields,
    }


def test_a_header_is_read() -> None:
    """Fields that a chain does not have are None; transactions may be hashes or whole."""
    header = parse_header(5, block(5, 4, transactions=[word(1), {"hash": word(2), "value": "0x0"}]))
    assert (header.number, header.hash[-1], header.parent_hash[-1]) == (5, 5, 4)
    assert [value[-1] for value in header.transaction_hashes] == [1, 2]
    assert (header.base_fee_per_gas, header.size, header.author) == (None, None, None)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "answers null for block 5, which is below the head"),
        (block(6, 5), "block 5: the endpoint answered with block 6"),
        ({"number": "0x5"}, "block 5: the endpoint's answer cannot be read: KeyError"),
        (block(5, 4, hash="5"), "block 5: the endpoint's answer cannot be read: ValueError"),
        (block(5, 4, transactions=None), "block 5: the endpoint's answer cannot be read: TypeError"),
        ("0x5", "block 5: the endpoint's answer cannot be read"),
    ],
)
def test_what_is_no_header_is_a_mismatch(answer: Any, message: str) -> None:
    """Null, another block, missing and unreadable fields are told apart."""
    with pytest.raises(DataMismatch, match=message):
        parse_header(5, answer)


@pytest.mark.parametrize("odd", ["-0x5", "0x5_0", " 0x5", "0x", "5", 5, None, ["0x5"]])
@pytest.mark.parametrize("field", ["number", "timestamp"])
def test_odd_values_are_a_mismatch(field: str, odd: Any) -> None:
    """What int() would take, and what has no methods of text, is told as every other odd answer."""
    with pytest.raises(DataMismatch, match="the head: the endpoint's answer cannot be read: ValueError"):
        parse_header(None, {**block(5, 4), field: odd})


@pytest.mark.parametrize("odd", ["-0x5", " 0x5", "0x5", "5", 5, None, ["0x55"]])
def test_an_odd_hash_is_a_mismatch(odd: Any) -> None:
    """The same of hashes."""
    with pytest.raises(DataMismatch, match="block 5: the endpoint's answer cannot be read: ValueError"):
        parse_header(5, block(5, 4, hash=odd))


def test_links_are_checked_also_to_the_block_before() -> None:
    """Every parent is the block before, the first one's too; genesis has none."""
    headers = [parse_header(number, block(number, number - 1)) for number in range(1, 5)]
    check_links(headers, None)
    check_links(headers[1:], headers[0])
    with pytest.raises(DataMismatch, match="block 3 follows block 1"):
        check_links(headers[2:], headers[0])
    foreign = parse_header(2, block(2, 99))
    with pytest.raises(
        DataMismatch, match=r"block 2 has the parent 0x0*63, but block 1 is 0x0*1: a reorganisation"
    ):
        check_links([foreign], headers[0])


def test_receipts_are_put_in_order() -> None:
    """Receipts in any order become columns in the order of the transactions; no status is None."""
    header = parse_header(5, block(5, 4))
    without_status = receipt(1, 2, 1)
    del without_status["status"]
    receipts = parse_receipts(header, [without_status, receipt(0, 0, 2, status="0x0")])
    assert (receipts.gas_used, receipts.success) == ([21000, 21001], [False, None])
    assert receipts.logs.transaction_index == [0, 0, 1]
    assert receipts.logs.topics == [((7).to_bytes(32, "big"),)] * 3


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (None, "block 5: the endpoint gave null instead of the receipts of its 2 transactions"),
        (
            [receipt(0, 0, 0)],
            "block 5: it lists 2 transactions, but the endpoint gave 1 receipts; none for 0x0+65",
        ),
        ([receipt(0, 0, 0), None], "but the endpoint gave 1 receipts; none for"),
        ([receipt(0, 0, 0), receipt(1, 0, 0), receipt(1, 0, 0)], "the endpoint gave 3 receipts, repeated or"),
        (
            [receipt(0, 0, 0), receipt(1, 0, 0, blockHash=word(9))],
            "receipt of transaction 1 belongs to 0x0+9",
        ),
        ([receipt(0, 0, 0), receipt(1, 0, 0, transactionIndex="0x3")], "number 1 in the block and number 3"),
        ([receipt(0, 0, 2), receipt(1, 3, 1)], r"transaction 1 has the log_index 3; expected 2 to 2"),
        (
            [receipt(0, 0, 0), receipt(1, 0, 0, gasUsed=None)],
            "block 5: the endpoint's receipts cannot be read",
        ),
        ([receipt(0, 0, 0), "0x"], "block 5: the endpoint's receipts cannot be read"),
    ],
)
def test_wrong_receipts_are_a_mismatch(answers: Any, message: str) -> None:
    """Receipts that are missing, repeated, foreign, misplaced or unreadable are told apart."""
    with pytest.raises(DataMismatch, match=message):
        parse_receipts(parse_header(5, block(5, 4)), answers)


def test_the_bloom_is_that_of_the_yellow_paper() -> None:
    """Three bits a value, from the first three pairs of bytes of its hash; several values are joined."""
    # keccak256 of 20 zero bytes starts with 5380 c7b7 ae81, of which the low 11 bits count.
    zero = 1 << 0x380 | 1 << 0x7B7 | 1 << 0x681
    assert bloom_of([bytes(20)]) == zero
    assert bloom_of([bytes(20), b"other"]) == zero | bloom_of([b"other"])
    assert bloom_of([]) == 0


@given(st.sets(st.binary(min_size=1, max_size=32), min_size=1, max_size=8))
def test_blooms_tell_missing_and_foreign_logs(values: set[bytes]) -> None:
    """The bloom of some values accepts exactly them, and parts of them when told that they are parts."""
    bloom = bloom_of(values).to_bytes(256, "big")
    header = parse_header(5, block(5, 4, logsBloom=f"0x{bloom.hex()}"))
    check_bloom(header, values, complete=True)
    some = set(list(values)[1:])
    check_bloom(header, some, complete=False)
    if bloom_of(some) != bloom_of(values):
        with pytest.raises(DataMismatch, match="announces logs that are missing"):
            check_bloom(header, some, complete=True)
    other = {b"not one of them, being longer than any"}
    if bloom_of(other) & ~bloom_of(values):
        with pytest.raises(DataMismatch, match="excludes some"):
            check_bloom(header, values | other, complete=False)


def test_an_empty_bloom_says_nothing() -> None:
    """Chains whose blooms are always empty are not refused for it."""
    check_bloom(parse_header(5, block(5, 4)), {b"x"}, complete=True)


def test_values_are_shown_short() -> None:
    """Bytes are hex, long ones cut; None is null."""
    assert (show(b"\x01"), show(None), show(7)) == ("0x01", "null", "7")
    assert show(bytes(40)) == "0x" + "00" * 32 + "..."
