"""Replies of endpoints, read into answers."""

import pytest

from trace_dagster.rpc.gateway.jsonrpc import Answer, ErrorObject, parse_replies, read_error
from trace_dagster.rpc.gateway.judging import passed_on

ERROR = b'{"code":3,"message":"execution reverted","data":"0x08c379a0"}'


def _told(answers: list[Answer | None] | ErrorObject) -> list[tuple[bytes | None, bytes | None] | None]:
    assert isinstance(answers, list)
    return [
        None if one is None else (None if one.result is None else bytes(one.result), one.error)
        for one in answers
    ]


def test_errors_are_answers() -> None:
    """An error of the endpoint is read, alone and in a batch, and an error of null is none."""
    assert _told(parse_replies(b'{"id":0,"error":%b}' % ERROR, 1)) == [(None, ERROR)]
    assert _told(parse_replies(b'{"id":null,"error":%b}' % ERROR, 1)) == [(None, ERROR)]
    batch = b'[{"id":1,"result":null},{"id":0,"error":%b},{"id":2,"error":null,"result":[1]}]' % ERROR
    assert _told(parse_replies(batch, 3)) == [(None, ERROR), (b"null", None), (b"[1]", None)]


def test_a_batch_that_is_not_whole() -> None:
    """What is there is taken; what is missing, there twice or of another request is not."""
    body = b'[{"id":2,"result":2},{"id":7,"result":7},{"id":0,"result":0},{"id":0,"result":1}]'
    assert _told(parse_replies(body, 4)) == [None, None, (b"2", None), None]
    odd = b'[{"id":0,"result":0},{"id":1},{"id":2,"error":{}},{"id":3,"error":"no"},7,{"id":1.5,"result":1}]'
    assert _told(parse_replies(odd, 4)) == [(b"0", None), None, None, None]
    with pytest.raises(ValueError, match="none with an id of its own"):
        parse_replies(b'[{"id":"0","result":0},{"id":"1","result":1}]', 2)


@pytest.mark.parametrize("body", [b'{"error":%b}' % ERROR, b'[{"id":null,"error":%b}]' % ERROR])
def test_one_error_in_place_of_a_batch(body: bytes) -> None:
    """An endpoint that refuses a batch as such is understood."""
    found = parse_replies(body, 2)
    assert isinstance(found, ErrorObject)
    assert (found.code, found.message) == (3, "execution reverted")


@pytest.mark.parametrize("identity", [b"1", b'"0"', b"-1"])
def test_an_error_of_another_request(identity: bytes) -> None:
    """Alone it is not taken for the answer, only for what it says of the endpoint."""
    found = parse_replies(b'{"id":%b,"error":%b}' % (identity, ERROR), 1)
    assert isinstance(found, ErrorObject)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"<html>",
        b'{"id":0}',
        b'{"id":1,"result":1}',
        b'{"id":0,"error":null}',
        b"[]",
        b"7",
        b"null",
        b'{"id":0,"result":"\xff\xfe"}',
        b'{"id":0,"error":{"code":3,"message":"x","data":"\xff\xfe"}}',
        b'{"id":0,"error":{"code":3,"message":"x","data":1e999}}',
        b'{"id":0,"error":{"code":3,"message":"x","data":1%b}}' % (b"0" * 5000),
        b'{"id":0,"error":{"code":3,"message":"x","data":%b}}' % (b"[" * 2000 + b"]" * 2000),
    ],
    ids=lambda body: str(body)[:50],
)
def test_what_is_no_answer(body: bytes) -> None:
    """Whatever else comes is no answer, and said without its content."""
    with pytest.raises(ValueError, match=r"answer|bytes|HTML"):
        parse_replies(body, 1)


@pytest.mark.parametrize("pad", [250, 280, 1985])
def test_an_error_of_another_shape_is_not_cut_within_a_secret(pad: int) -> None:
    """What is passed on holds no part of a secret, wherever it stands and however it is escaped."""
    secret = "k3y-A1b2C3d4E5A1b2C3d4E5"
    escaped = "".join(f"\\u{ord(one):04x}" for one in secret)
    for text in (secret, escaped):
        for error in (f'"{"x" * pad}{text}"', f'{{"message":{{"t":"{"y" * pad}{text}"}}}}'):
            told = passed_on(read_error(error.encode()), (secret,)).error or b""
            assert secret[:6].encode() not in told
            assert escaped[:36].encode() not in told
