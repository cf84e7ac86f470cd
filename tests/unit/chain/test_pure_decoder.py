"""The decoder in Python: what it makes of odd, wrong and broken replies."""

import json
from typing import Any

import pytest

from trace_dagster.chain.decoding.decoded import DecodeError, GarbledAnswer
from trace_dagster.chain.decoding.layout import Field, Group, Kind, Layout, Leaves, Rows, Shape, arrow_type
from trace_dagster.chain.decoding.layouts import BLOCK, FRAMES, RECEIPTS
from trace_dagster.chain.decoding.pure import PureDecoder

HASH = "0x" + "ab" * 32

ENTRY = Layout("entry", (Field("size", "size", Kind.QUANTITY, required=True),), keeps_extra=False)
EXAMPLE = Layout(
    "example",
    (
        Field("count", "count", Kind.QUANTITY),
        Field("word", "word", Kind.WORD),
        Field("value", "value", Kind.AMOUNT),
        Field("data", "data", Kind.DATA),
        Field("hash", "hash", Kind.DATA, 32),
        Field("flag", "flag", Kind.FLAG),
        Field("text", "text", Kind.TEXT),
        Field("topics", "topic", Kind.TOPICS),
        Group("inner", (Field("gas", "inner_gas", Kind.QUANTITY),)),
        Leaves("path", "path", Kind.QUANTITY),
        Rows("list", "list", ENTRY, bare=Field("size", "size", Kind.QUANTITY)),
    ),
    ignored=frozenset({"again"}),
)
ONE = Shape("example", EXAMPLE, is_list=False)
MANY = Shape("examples", EXAMPLE, is_list=True)


def row(**members: Any) -> dict[str, Any]:
    """Decode one object."""
    reply = json.dumps({"jsonrpc": "2.0", "id": 0, "result": members}).encode()
    array = PureDecoder().decode(reply, [ONE]).results[ONE]
    array.validate(full=True)
    assert array.type == arrow_type(EXAMPLE)
    (found,) = array.to_pylist()
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("0x0", 0),
        ("0x", 0),
        ("0xfF", 255),
        ("0x00ff", 255),
        ("0xfff", 4095),
        ("12", 12),
        (7, 7),
        (2**64 - 1, 2**64 - 1),
        (None, None),
    ],
)
def test_quantities(given: Any, expected: int | None) -> None:
    """Hex of any case and length, decimal text, and JSON numbers are numbers; null is null."""
    assert row(count=given).get("count") == expected


def test_a_quantity_of_more_than_64_bits_is_kept() -> None:
    """The column is null, and the value as it came is in ``extra``; also inside of a group."""
    found = row(count="0x1" + "0" * 16, inner={"gas": 2**70})
    assert found == {"extra": f'{{"count":"0x1{"0" * 16}","inner.gas":{2**70}}}'}


def test_amounts_and_words() -> None:
    """256 bits are exact in binary and text, rounded in the float."""
    largest = 2**256 - 1
    found = row(value=hex(largest), word="0x1")
    assert found["value_binary"] == largest.to_bytes(32, "big")
    assert found["value_string"] == str(largest)
    assert found["value_f64"] == float(largest)
    assert found["word"] == bytes(31) + b"\x01"


def test_other_kinds() -> None:
    """Data, flags, text, topics, lists, groups and bare items."""
    found = row(
        data="0xAb00",
        flag="0x1",
        text='say "ä"\n\u2028',
        topics=[HASH, HASH],
        inner={"gas": "0x5"},
        path=["0x0", 3],
        list=[{"size": "0x2"}, "0x3"],
        again=1,
    )
    assert found == {
        "data": b"\xab\x00",
        "flag": True,
        "text": 'say "ä"\n\u2028',
        "topic0": b"\xab" * 32,
        "topic1": b"\xab" * 32,
        "inner_gas": 5,
        "path": [0, 3],
        "list": [{"size": 2}, {"size": 3}],
    }
    assert row(flag=False, path=[], list=[], data="0x") == {
        "flag": False,
        "path": [],
        "list": [],
        "data": b"",
    }


def test_what_is_not_modelled_is_kept() -> None:
    """Unknown keys are in ``extra`` with sorted keys, those of groups under both names, without nulls."""
    found = row(zeta={"b": 1, "a": [None, "x"]}, alpha=None, again=5, inner={"gas": "0x1", "new": "0x2"})
    assert found == {"inner_gas": 1, "extra": '{"inner.new":"0x2","zeta":{"a":[null,"x"],"b":1}}'}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"count": "0x1g"}, 'example of call 0: count is "0x1g"; expected an unsigned number'),
        ({"count": " 0x1"}, "count is"),
        ({"count": "0x1_0"}, "count is"),
        ({"count": "0x-1"}, "count is"),
        ({"count": "\u0663"}, "count is"),
        ({"count": -1}, "count is -1"),
        ({"count": 1.5}, "count is 1.5"),
        ({"count": True}, "count is true"),
        ({"count": []}, r"count is \[\]"),
        ({"count": {}}, "count is {}"),
        ({"data": "0x123"}, "data is .*even number of hex digits"),
        ({"data": "0x 12"}, "data is"),
        ({"data": "12"}, "data is"),
        ({"data": "0X12"}, "data is"),
        ({"data": 5}, "data is 5"),
        ({"hash": "0x12"}, "hash is .*0x and 64 hex digits"),
        ({"word": "0x" + "f" * 65}, "word is .*at most 256 bits"),
        ({"flag": "0x2"}, "flag is .*0 or 1"),
        ({"flag": "yes"}, "flag is"),
        ({"text": 5}, "text is 5; expected text"),
        ({"text": "\ud800"}, "text is .*whole characters"),
        ({"topics": [HASH] * 5}, "topics is .*at most 4 topics"),
        ({"topics": [HASH, None]}, "topics is"),
        ({"topics": [HASH, "0x12"]}, r"topics\[1\] is"),
        ({"inner": 5}, "inner is 5; expected an object"),
        ({"inner": {"gas": "x"}}, "inner.gas is"),
        ({"path": "0x1"}, "path is .*a list"),
        ({"path": ["0x1", None]}, r"path\[1\] is null"),
        ({"path": [2**64]}, r"path\[0\] is .*64 bits"),
        ({"list": [{"size": "0x1"}, {}]}, r"list\[1\].size is null; expected a value"),
        ({"list": [None]}, r"list\[0\] is null; expected an object"),
        ({"list": [5]}, r"list\[0\] is 5"),
    ],
)
def test_what_does_not_fit_is_named(members: dict[str, Any], message: str) -> None:
    """The error names the place, the value, and what was expected."""
    with pytest.raises(DecodeError, match=message):
        row(**members)


def test_the_place_of_an_error_counts_calls_and_items() -> None:
    """Of several calls and items, the right ones are named."""
    answers = [
        {"id": 2, "result": [{"count": "0x1"}, {"list": [{"size": 1}, {"size": "x"}]}]},
        {"id": 1, "result": {"count": "0x1"}},
        {"id": 0, "result": None},
    ]
    with pytest.raises(DecodeError, match=r'examples of call 2: \[1\]\.list\[1\]\.size is "x"'):
        PureDecoder().decode(json.dumps(answers).encode(), [MANY, ONE, MANY])


def test_answers_come_in_any_order() -> None:
    """Results stand by shape in the order of the calls; null and refused ones are null."""
    answers = [
        {"id": 3, "error": {"code": -5, "message": "no"}},
        {"id": 1, "result": {"count": 1}},
        {"id": 2, "result": []},
        {"id": 0, "result": [{"count": 5}]},
        {"id": 4, "result": None, "error": None},
    ]
    decoded = PureDecoder().decode(json.dumps(answers).encode(), [MANY, ONE, MANY, ONE, ONE])
    assert [one and [item["count"] for item in one] for one in decoded.results[MANY].to_pylist()] == [[5], []]
    assert [one and one["count"] for one in decoded.results[ONE].to_pylist()] == [1, None, None]
    assert {at: (one.code, one.message) for at, one in decoded.refusals.items()} == {3: (-5, "no")}
    for array in decoded.results.values():
        array.validate(full=True)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"<html>",
        b'{"id":0,"result":{}',
        b'{"id":0,"result":NaN}',
        b'\xff{"id":0,"result":{}}',
        b"[" * 100_000,
        b'{"id":1,"result":{}}',
        b'{"id":0}',
        b"[]",
        b"5",
        b'{"id":0,"result":{"count":' + b"9" * 5000 + b"}}",
    ],
)
def test_garbled_single_answers(reply: bytes) -> None:
    """What is no answer to the one request is refused, and quoted nowhere."""
    with pytest.raises(GarbledAnswer):
        PureDecoder().decode(reply, [ONE])


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [{"id": 0, "result": None}],
        [{"id": 0, "result": None}, {"id": 0, "result": None}],
        [{"id": 0, "result": None}, {"id": 2, "result": None}],
        [{"id": 0, "result": None}, {"id": 1, "result": None}, {"id": 1, "result": None}],
        [{"id": 0, "result": None}, {"id": True, "result": None}],
        [{"id": 0, "result": None}, {"id": 1}],
        [{"id": 0, "result": None}, None],
    ],
)
def test_garbled_batches(answers: Any) -> None:
    """Every request of a batch must be answered, once."""
    with pytest.raises(GarbledAnswer):
        PureDecoder().decode(json.dumps(answers).encode(), [ONE, ONE])


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({"id": 0, "error": {"code": -32600, "message": "no batches"}}, -32600),
        ({"id": 0, "result": None}, None),
        ([{"id": None, "error": {"code": -32600, "message": "batch limit 1 exceeded"}}], -32600),
        ([{"id": 0, "error": {"code": -32600, "message": "batch limit 1 exceeded"}}], -32600),
    ],
)
def test_a_batch_is_refused_as_a_whole(answers: Any, code: int | None) -> None:
    """Nodes say so by an object, by the answer to the first request alone, or by too few errors in a list."""
    refused = PureDecoder().decode(json.dumps(answers).encode(), [ONE, ONE]).refused
    assert refused is not None
    assert refused.code == code


def test_numbers_beyond_floats_stay_json() -> None:
    """An infinity in ``extra`` would be no JSON; digits without end are no number."""
    answer = json.dumps({"id": 0, "result": {"new": 1}}).replace("1}", "1e999}")
    (extra,) = PureDecoder().decode(answer.encode(), [ONE]).results[ONE].field("extra").to_pylist()
    assert json.loads(extra) == {"new": "1e999"}


def test_a_refused_batch_and_a_refused_call() -> None:
    """An error in place of a list refuses everything; an error without a code is one, too."""
    refused = PureDecoder().decode(b'{"error":{"code":-32600,"message":"too many"}}', [ONE, ONE]).refused
    assert refused is not None
    assert (refused.code, refused.message) == (-32600, "too many")
    decoded = PureDecoder().decode(b'{"id":null,"error":"nope"}', [ONE])
    assert decoded.refusals[0].message == "nope"


def test_empty_lists_have_their_types() -> None:
    """No rows, and the types are there."""
    decoded = PureDecoder().decode(b'[{"id":0,"result":null},{"id":1,"result":[]}]', [BLOCK, RECEIPTS])
    assert decoded.results[BLOCK].type == arrow_type(BLOCK.layout)
    assert decoded.results[RECEIPTS].type.value_type == arrow_type(RECEIPTS.layout)


def test_call_frames_are_laid_out() -> None:
    """Frames come in the order in which they began, with their path; deep ones do no harm."""
    frame: dict[str, Any] = {"type": "CALL"}
    for _ in range(50):
        frame = {"type": "CALL", "calls": [frame, {"type": "STATICCALL"}]}
    answer = [{"txHash": HASH, "result": frame}, {"txHash": HASH, "result": {"type": "CREATE", "new": 1}}]
    decoded = PureDecoder().decode(json.dumps({"id": 0, "result": answer}).encode(), [FRAMES])
    (frames,) = decoded.results[FRAMES].to_pylist()
    assert len(frames) == 102
    assert [one["trace_address"] for one in frames[:3]] == ["", "0", "0_0"]
    assert frames[-2]["trace_address"] == "1"
    assert (frames[-1]["transaction_index"], frames[-1]["extra"]) == (1, '{"new":1}')
