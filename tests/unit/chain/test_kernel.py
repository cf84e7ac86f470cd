"""The compiled decoder and measures: the same as in Python, or declined; whatever the bytes."""

import json
import random
import shutil
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.real_blocks import RealBlocks, real_sets
from trace_dagster.chain import measures
from trace_dagster.chain.decoding.choose import choose_decoder
from trace_dagster.chain.decoding.decoded import Decoded
from trace_dagster.chain.decoding.kernel import KernelDecoder, kernel_library
from trace_dagster.chain.decoding.layout import Field, Group, Kind, Layout, Leaves, Rows, Shape
from trace_dagster.chain.decoding.layouts import BLOCK, LOGS, RECEIPTS, TRACES
from trace_dagster.chain.decoding.pure import PureDecoder
from trace_dagster.errors import DataMismatch

ENTRY = Layout("entry", (Field("size", "size", Kind.QUANTITY, required=True),), keeps_extra=False)
EXAMPLE = Layout(
    "example",
    (
        Field("count", "count", Kind.QUANTITY),
        Field("word", "word", Kind.WORD),
        Field("value", "value", Kind.AMOUNT),
        Field("data", "data", Kind.DATA),
        Field("hash", "hash", Kind.DATA, 4),
        Field("flag", "flag", Kind.FLAG),
        Field("text", "text", Kind.TEXT),
        Field("topics", "topic", Kind.TOPICS),
        Group("inner", (Field("gas", "inner_gas", Kind.QUANTITY), Field("to", "inner_to", Kind.DATA))),
        Leaves("path", "path", Kind.QUANTITY),
        Leaves("hashes", "hashes", Kind.DATA, 2),
        Rows("list", "list", ENTRY, bare=Field("size", "size", Kind.QUANTITY)),
        Rows("rows", "rows", Layout("row", (Field("a", "a", Kind.TEXT), Field("b", "b", Kind.FLAG)))),
    ),
    ignored=frozenset({"again"}),
)
ONE = Shape("example", EXAMPLE, is_list=False)
MANY = Shape("examples", EXAMPLE, is_list=True)


@pytest.fixture(scope="module")
def kernel() -> KernelDecoder:
    """The compiled decoder; set-up builds it wherever there is a compiler."""
    library = kernel_library()
    assert library is not None or shutil.which("cc") is None, "make setup did not build _kernel.c"
    if library is None:
        pytest.skip("no C compiler here: everything is decoded in Python")
    assert choose_decoder().name == "kernel"
    return KernelDecoder(library)


def compare(kernel: KernelDecoder, reply: bytes, calls: list[Shape]) -> bool:
    """Check that the kernel gives what Python gives, or declines; return whether it took the reply."""
    found = kernel.attempt(reply, calls)
    if found is None:
        return False
    due: Decoded = PureDecoder().decode(reply, calls)
    assert not due.refusals
    assert due.refused is None
    for shape, array in due.results.items():
        found.results[shape].validate(full=True)
        assert found.results[shape].equals(array), (shape.name, reply[:2000])
    return True


def batch(answers: Mapping[int, Any], **layout: Any) -> bytes:
    """Return a batch reply."""
    return json.dumps(
        [{"jsonrpc": "2.0", "id": number, "result": result} for number, result in answers.items()], **layout
    ).encode()


def replies() -> dict[str, dict[str, Any]]:
    """Return the real blocks by name, those whose receipts are there."""
    found = {}
    for name in real_sets():
        for number, answers in RealBlocks(name).blocks.items():
            if answers.get("receipts") is not None:
                found[f"{name}/{number}"] = answers
    return found


REAL = replies()


@pytest.mark.parametrize("name", sorted(REAL))
def test_real_blocks_of_many_chains_are_taken(kernel: KernelDecoder, name: str) -> None:
    """In any order of answers and keys, with and without spaces, all is taken and the same."""
    block, receipts = REAL[name]["block"], REAL[name]["receipts"]
    logs = [log for receipt in receipts for log in receipt["logs"]]
    backwards = {key: block[key] for key in reversed(block)}
    bare = {**block, "transactions": [one["hash"] for one in block["transactions"]]}
    for answers in ({0: block, 1: receipts, 2: logs, 3: bare}, {3: bare, 2: logs, 0: backwards, 1: receipts}):
        for separators in ((",", ":"), (" ,\n", "\t: ")):
            assert compare(kernel, batch(answers, separators=separators), [BLOCK, RECEIPTS, LOGS, BLOCK])
    assert compare(kernel, json.dumps({"result": receipts, "id": 0}).encode(), [RECEIPTS])


HEX = st.text("0123456789abcdefABCDEF", max_size=70)
QUANTITIES = st.one_of(
    st.integers(0, 2**70).map(hex),
    st.integers(-1, 2**70),
    HEX.map(lambda digits: f"0x{digits}"),
    st.sampled_from([None, "0x", "5", "0x0", "", "x", True, False, 1.5, 10**19, 10**20, 2**64 - 1]),
)
DATA = st.one_of(
    st.binary(max_size=40).map(lambda raw: f"0x{raw.hex()}"), HEX.map(lambda d: f"0x{d}"), st.none()
)
WORDS = st.one_of(st.integers(0, 2**256 + 1).map(hex), st.integers(0, 2**256 - 1).map(hex), QUANTITIES)
TEXTS = st.one_of(st.text(max_size=12), st.text('abc "\\é', max_size=8), st.none(), st.integers())
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("abz", max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "count": QUANTITIES,
        "word": WORDS,
        "value": WORDS,
        "data": DATA,
        "hash": st.binary(min_size=3, max_size=4).map(lambda raw: f"0x{raw.hex()}"),
        "flag": st.sampled_from([None, True, False, "0x0", "0x1", "0x01", "0x2", 0, 1, 2, "1"]),
        "text": TEXTS,
        "topics": st.lists(st.binary(min_size=32, max_size=32).map(lambda raw: f"0x{raw.hex()}"), max_size=5),
        "inner": st.one_of(
            st.none(), st.fixed_dictionaries({}, optional={"gas": QUANTITIES, "to": DATA, "new": JSON})
        ),
        "path": st.one_of(st.none(), st.lists(st.integers(0, 2**66), max_size=3)),
        "hashes": st.lists(st.binary(min_size=2, max_size=2).map(lambda raw: f"0x{raw.hex()}"), max_size=3),
        "list": st.lists(
            st.one_of(st.builds(lambda n: {"size": n}, st.integers(0, 2**65)), st.just("0x7"), st.just({})),
            max_size=3,
        ),
        "rows": st.lists(
            st.fixed_dictionaries({}, optional={"a": TEXTS, "b": st.booleans(), "c": JSON}), max_size=3
        ),
        "again": JSON,
        "new": JSON,
        "other": JSON,
    },
)


@settings(max_examples=600, deadline=None)
@given(one=OBJECTS, many=st.lists(OBJECTS, max_size=4), spaced=st.booleans(), swapped=st.booleans())
def test_generated_objects_are_the_same(
    one: dict[str, Any], many: list[dict[str, Any]], *, spaced: bool, swapped: bool
) -> None:
    """Whatever fits the layout or not: the same columns, or declined."""
    library = kernel_library()
    if library is None:
        return
    answers = {1: many, 0: one} if swapped else {0: one, 1: many}
    separators = (" , ", " : ") if spaced else (",", ":")
    reply = batch(answers, separators=separators, ensure_ascii=False)
    try:
        PureDecoder().decode(reply, [ONE, MANY])
    except DataMismatch:
        assert KernelDecoder(library).attempt(reply, [ONE, MANY]) is None
    else:
        compare(KernelDecoder(library), reply, [ONE, MANY])


def mutated(reply: bytes, random_: random.Random) -> bytes:
    """Return ``reply`` with a few bytes changed, cut out, doubled or put in."""
    spoiled = bytearray(reply)
    for _ in range(random_.choice((1, 1, 2, 4))):
        at = random_.randrange(len(spoiled) + 1)
        match random_.randrange(6):
            case 0 if at < len(spoiled):
                spoiled[at] = random_.choice((random_.randrange(256), *b"0123456789abcdef"))
            case 1 if at < len(spoiled):
                spoiled[at] = random_.choice(b'"\\{}[],:0x1naft \x00\xff')
            case 2:
                del spoiled[at : at + random_.randint(1, 40)]
            case 3:
                piece = spoiled[at : at + random_.randint(1, 60)]
                spoiled[at:at] = piece
            case 4:
                spoiled[at:at] = random_.choice(
                    [b"null", b'""', b"{}", b"[]", b"1e5", b"-1", b"\\u0041", b",", b":"]
                )
            case _:
                del spoiled[at:]
    return bytes(spoiled)


@pytest.mark.parametrize("name", sorted(REAL)[:6])
def test_mutated_replies_are_the_same_or_declined(kernel: KernelDecoder, name: str) -> None:
    """No spoiled byte makes the kernel see what Python does not."""
    random_ = random.Random(name)  # noqa: S311
    block = {**REAL[name]["block"]}
    block["transactions"] = block["transactions"][:2]
    receipts = [
        {**one, "logs": one["logs"][:2], "logsBloom": "0x" + "00" * 256} for one in REAL[name]["receipts"][:2]
    ]
    reply = batch({0: block, 1: receipts}, separators=(",", ":"))
    taken = 0
    for _ in range(1_500):
        spoiled = mutated(reply, random_)
        try:
            PureDecoder().decode(spoiled, [BLOCK, RECEIPTS])
        except DataMismatch:
            assert kernel.attempt(spoiled, [BLOCK, RECEIPTS]) is None, spoiled
        else:
            taken += compare(kernel, spoiled, [BLOCK, RECEIPTS])
    assert taken > 50


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"[",
        b"[]",
        b'[{"id":0,"result":',
        b'[{"id":0,"result":{"count":"0x',
        b'[{"id":0,"result":{}},{"id":0,"result":[]}]',
        b'[{"id":0,"result":{}},{"id":2,"result":[]}]',
        b'[{"id":0,"result":{}},{"id":1,"result":null}]',
        b'[{"id":0,"result":{}},{"id":1,"error":{"code":1,"message":"x"}}]',
        b'[{"id":0,"result":{"count":1,"count":2}},{"id":1,"result":[]}]',
        b'[{"id":0,"result":{"new":1,"new":2}},{"id":1,"result":[]}]',
        b'[{"id":0,"result":{"inner":{"gas":1},"inner":null}},{"id":1,"result":[]}]',
        b'[{"id":0,"result":{"again":' + b"[" * 100_000 + b'}},{"id":1,"result":[]}]',
        b'[{"id":0,"result":{"text":"\\u0041"}},{"id":1,"result":[]}]',
        b'[{"id":0,"result":{"text":"\xc3\xa4"}},{"id":1,"result":[]}]',
        b'[{"id":0,"result":{"again":NaN}},{"id":1,"result":[]}]',
        b'[{"id":0,"result":{"again":01}},{"id":1,"result":[]}]',
        b'[{"id":0,"result":{}},{"id":1,"result":[]}] x',
        b'[{"id":0,"result":{}},{"id":1,"result":[]}]\x00',
        b'[{"id":0,"result":{' + b",".join(b'"k%d":1' % n for n in range(100)) + b'}},{"id":1,"result":[]}]',
    ],
)
def test_the_unusual_is_declined(kernel: KernelDecoder, reply: bytes) -> None:
    """What Python refuses, and what is left to it."""
    assert kernel.attempt(reply, [ONE, MANY]) is None


def test_what_is_declined_is_decoded_in_python(kernel: KernelDecoder) -> None:
    """The decoder as a whole reads it, and counts it."""
    before = kernel.declined
    decoded = kernel.decode(b'{"id":0,"result":{"text":"\\u0041"}}', [ONE])
    assert decoded.results[ONE].field("text").to_pylist() == ["A"]
    assert kernel.declined == before + 1


def test_traces_are_taken(kernel: KernelDecoder) -> None:
    """Groups, paths and unmodelled keys inside of groups."""
    trace = {
        "action": {"from": "0x" + "11" * 20, "value": "0x0", "gas": "0x5", "creationMethod": "create"},
        "result": None,
        "type": "create",
        "traceAddress": [0, 1],
        "subtraces": 0,
        "transactionPosition": None,
        "blockNumber": 5,
        "blockHash": "0x" + "ab" * 32,
    }
    assert compare(kernel, json.dumps({"id": 0, "result": [trace, trace]}).encode(), [TRACES])


def test_arrays_outlive_the_reply(kernel: KernelDecoder) -> None:
    """The kernel's memory lives as long as the arrays that use it."""
    array = kernel.decode(b'{"id":0,"result":{"data":"0x' + b"ab" * 5_000 + b'"}}', [ONE]).results[ONE]
    column = array.field("data")
    del array
    for _ in range(50):
        kernel.decode(b'{"id":0,"result":{"data":"0x' + b"cd" * 5_000 + b'"}}', [ONE])
    assert column.to_pylist() == [b"\xab" * 5_000]


BINARY = st.lists(st.one_of(st.none(), st.binary(max_size=70), st.binary(max_size=4)), max_size=12)
NUMBERS = st.lists(st.one_of(st.none(), st.integers(0, 2**64 - 1), st.integers(0, 300)), max_size=12)


@settings(max_examples=200, deadline=None)
@given(binary=BINARY, numbers=NUMBERS, skipped=st.integers(0, 3))
def test_measures_are_the_same(binary: list[bytes | None], numbers: list[int | None], skipped: int) -> None:
    """Compiled and in Python, also of slices and with nulls."""
    values = pa.array(binary, pa.large_binary())[skipped:]
    counts = pa.array(numbers, pa.uint64())[skipped:]
    payload = pa.array([None if one is None else one % 2**40 for one in numbers], pa.int64())[skipped:]
    logs = [pa.array([(one and one[:32]) or None for one in binary], pa.large_binary())[skipped:]] * 2
    runs = [0, len(values) // 2, len(values)]

    def measured() -> list[Any]:
        return [
            measures.zero_bytes(values).to_pylist(),
            measures.rlp_of_strings(values).to_pylist(),
            measures.rlp_of_words(values).to_pylist(),
            measures.rlp_of_numbers(counts).to_pylist(),
            measures.rlp_of_lists(payload).to_pylist(),
            measures.blooms(logs, runs).to_pylist(),
        ]

    compiled = measured()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(measures, "measures_library", lambda: None)
        assert measured() == compiled
