"""JSON-RPC bodies in and out."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_dagster.rpc.gateway.jsonrpc import (
    Answer,
    BadRequest,
    Call,
    ErrorObject,
    Refusal,
    call_body,
    is_null,
    parse_calls,
    parse_replies,
    reply_body,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
IDS = st.integers(-(2**60), 2**60) | st.text(max_size=20) | st.none()


@given(st.lists(st.tuples(IDS, st.lists(JSON, max_size=4)), min_size=1, max_size=5), st.booleans())
def test_nothing_is_changed_on_the_way(given_calls: list[tuple[Any, list[Any]]], ascii_only: bool) -> None:
    """Ids, parameters and results come out as they went in, whatever they hold."""
    body = json.dumps(
        [{"jsonrpc": "2.0", "id": one, "method": "m", "params": params} for one, params in given_calls],
        ensure_ascii=ascii_only,
    )
    parsed = parse_calls(body.encode(), max_items=10)
    calls = [item for item in parsed.items if isinstance(item, Call)]
    sent = json.loads(call_body(calls))
    sent = sent if isinstance(sent, list) else [sent]
    assert [one["params"] for one in sent] == [params for _, params in given_calls]
    replies = [{"jsonrpc": "2.0", "id": one["id"], "result": one["params"]} for one in reversed(sent)]
    answers = parse_replies(json.dumps(replies).encode(), len(sent))
    assert isinstance(answers, list)
    returned = json.loads(reply_body(parsed, answers))
    assert [(one["id"], one["result"]) for one in returned] == [
        (one, list(params)) for one, params in given_calls
    ]


def test_parts_of_a_batch_that_are_no_requests_are_refused_alone() -> None:
    """The others keep their places."""
    body = (
        b'[{"id":1,"method":"a"},7,{"id":[],"method":"a"},{"id":4,"method":5},'
        b'{"id":"5","method":"b","params":null}]'
    )
    parsed = parse_calls(body, max_items=10)
    assert [isinstance(item, Refusal) for item in parsed.items] == [False, True, True, True, False]
    assert parsed.ids[0] == b"1"
    assert parsed.ids[4] == b'"5"'
    assert parsed.items[4] == Call("b", b"[]")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"nul", b"3", b'"x"', b"[" * 100_000, b"\xff", b"{}x"])
def test_bodies_that_hold_no_request(body: bytes) -> None:
    """They are refused as a whole."""
    with pytest.raises(BadRequest) as caught:
        parse_calls(body, max_items=10)
    assert caught.value.code in (-32700, -32600)


@pytest.mark.parametrize(
    ("reply", "count", "message"),
    [
        (b'{"id":0,"result":', 1, "truncated"),
        (b"<html>", 1, "HTML"),
        (b'{"id":1,"result":1}', 1, "another request's id"),
        (b'{"id":0}', 1, "neither"),
        (b"[]", 1, "0 answers"),
        (b'[{"id":3,"result":1}]', 2, "1 answers to a batch of 2, none"),
        (b'[{"id":0,"result":1},{"id":0,"result":2}]', 2, "2 answers to a batch of 2, none"),
        (b'{"id":0,"result":1}', 2, "one answer to a batch"),
        (b"[" * 100_000, 2, "no JSON-RPC answer|nested deeper"),
    ],
)
def test_replies_that_answer_something_else(reply: bytes, count: int, message: str) -> None:
    """They are told apart from answers, and said how."""
    with pytest.raises(ValueError, match=message):
        parse_replies(reply, count)


def test_one_error_for_a_whole_batch() -> None:
    """As an object, or as a list that is shorter than the batch."""
    error = ErrorObject(-32600, "batch too large")
    assert parse_replies(b'{"id":null,"error":{"code":-32600,"message":"batch too large"}}', 3) == error
    assert parse_replies(b'[{"id":null,"error":{"code":-32600,"message":"batch too large"}}]', 3) == error


def test_null_is_told_from_text() -> None:
    """Only the literal is null."""
    assert is_null(Answer(result=b"null"))
    assert not is_null(Answer(result=b'"nu"'))
    assert not is_null(Answer(error=b"null"))
