"""JSON-RPC bodies: read once, with parameters and results kept as the bytes that they came in."""

import re
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from trace_dagster.chain.decoding.safe_json import MAX_DEPTH, depth

__all__ = [
    "Answer",
    "BadRequest",
    "Call",
    "ErrorObject",
    "Parsed",
    "Refusal",
    "call_body",
    "error_answer",
    "is_null",
    "is_reply",
    "parse_calls",
    "parse_replies",
    "read_error",
    "reply_body",
    "result_answer",
    "single_reply",
]

_METHOD: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,63}")
_MAX_ID_BYTES: Final = 256
_MAX_PARAMS_DEPTH: Final = 32
# A body within this many brackets cannot end the C stack, whatever the interpreter's recursion limit is.
_SAFE_RECURSION_LIMIT: Final = 5_000

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600


class BadRequest(Exception):
    """A body that holds no JSON-RPC request.

    Attributes:
        code: of the JSON-RPC error.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class ErrorObject(msgspec.Struct, frozen=True, omit_defaults=True):
    """A JSON-RPC error.

    Attributes:
        code: JSON-RPC's, EIP-1474's or the provider's own.
        message: for a person.
        data: JSON, e.g. what a reverted call returned.
    """

    code: int
    message: str
    data: Raw | UnsetType = UNSET


class Call(msgspec.Struct, frozen=True):
    """What is asked: a method and its parameters as JSON."""

    method: str
    params: bytes


class Refusal(msgspec.Struct, frozen=True):
    """A part of a batch that is no request."""

    error: ErrorObject


class Answer(msgspec.Struct, frozen=True):
    """One of ``result`` and ``error``, as JSON.

    Attributes:
        result: what the endpoint answered.
        error: a JSON-RPC error object.
        status: HTTP status of a reply that holds nothing else.
        retry_after_seconds: when asking again may help.
    """

    result: Raw | bytes | None = None
    error: bytes | None = None
    status: int = 200
    retry_after_seconds: int | None = None


class Parsed(msgspec.Struct, frozen=True):
    """A request's body.

    Attributes:
        ids: of each item, JSON.
        items: in the body's order.
        is_batch: whether a list is to be answered.
    """

    ids: Sequence[bytes]
    items: Sequence[Call | Refusal]
    is_batch: bool


class _Request(msgspec.Struct):
    id: Raw | UnsetType = UNSET
    method: str = ""
    params: Raw | UnsetType = UNSET


class _Reply(msgspec.Struct):
    id: int | str | None = None
    result: Raw | UnsetType = UNSET
    given_error: Raw | UnsetType = msgspec.field(name="error", default=UNSET)

    @property
    def error(self) -> Raw | None:
        """The error, None where there is none; msgspec takes ``Raw | None`` for null alone."""
        if self.given_error is UNSET or bytes(self.given_error) == b"null":
            return None
        return self.given_error


_encode: Final = msgspec.json.Encoder().encode
_requests: Final = msgspec.json.Decoder(list[_Request])
_request: Final = msgspec.json.Decoder(_Request)
_parts: Final = msgspec.json.Decoder(list[Raw])
_replies: Final = msgspec.json.Decoder(list[_Reply])
_reply: Final = msgspec.json.Decoder(_Reply)


def parse_calls(body: bytes, *, max_items: int) -> Parsed:
    """Return the requests in ``body``; parts of a batch that are none become refusals.

    Raises:
        BadRequest: it is no JSON, nested too deeply, an empty batch, or one of more than ``max_items``.
    """
    _check_text(body)
    try:
        if body.lstrip(b" \t\r\n")[:1] != b"[":
            ids, item = _checked(_request.decode(body))
            return Parsed((ids,), (item,), is_batch=False)
        try:
            requests: list[_Request | None] = list(_requests.decode(body))
        except msgspec.ValidationError:
            requests = [_lenient(part) for part in _parts.decode(body)]
    except msgspec.ValidationError:
        raise BadRequest(INVALID_REQUEST, "this is no JSON-RPC request") from None
    except (msgspec.DecodeError, RecursionError):
        raise BadRequest(PARSE_ERROR, "the body is no JSON, or is nested too deeply") from None
    if not requests:
        raise BadRequest(INVALID_REQUEST, "the batch is empty")
    if len(requests) > max_items:
        raise BadRequest(
            INVALID_REQUEST,
            f"the batch has {len(requests)} requests, more than {max_items}; send fewer at once",
        )
    pairs = [_checked(one) for one in requests]
    return Parsed([one for one, _ in pairs], [item for _, item in pairs], is_batch=True)


def _check_text(body: bytes) -> None:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise BadRequest(PARSE_ERROR, "the body is not UTF-8") from None
    if sys.getrecursionlimit() > _SAFE_RECURSION_LIMIT and depth(text) > MAX_DEPTH:
        raise BadRequest(PARSE_ERROR, f"the body is nested deeper than {MAX_DEPTH}")


def _lenient(part: Raw) -> _Request | None:
    try:
        return _request.decode(part)
    except msgspec.ValidationError:
        return None


def _checked(request: _Request | None) -> tuple[bytes, Call | Refusal]:
    if request is None:
        return b"null", _refused("this is no JSON-RPC request")
    identity = b"null" if request.id is UNSET else bytes(request.id)
    if request.id is UNSET or identity[:1] not in b'"-0123456789n' or len(identity) > _MAX_ID_BYTES:
        return b"null", _refused(
            f"a request needs an id: a number, or a string of at most {_MAX_ID_BYTES} bytes"
        )
    if not _METHOD.fullmatch(request.method):
        return identity, _refused("the method's name is missing, or not one that could be")
    params = b"[]" if request.params is UNSET else bytes(request.params)
    if params == b"null":
        params = b"[]"
    if params[:1] != b"[":
        return identity, _refused("params must be a list")
    if params.count(b"[") + params.count(b"{") > _MAX_PARAMS_DEPTH and (
        depth(params.decode()) > _MAX_PARAMS_DEPTH
    ):
        return identity, _refused(f"params are nested deeper than {_MAX_PARAMS_DEPTH}")
    return identity, Call(request.method, params)


def _refused(message: str) -> Refusal:
    return Refusal(ErrorObject(INVALID_REQUEST, message))


def call_body(calls: Sequence[Call]) -> bytes:
    """Return the body that asks ``calls``: one request for one, else a batch; ids are their positions."""
    parts = [
        b'{"jsonrpc":"2.0","id":%d,"method":"%b","params":%b}' % (at, call.method.encode(), call.params)
        for at, call in enumerate(calls)
    ]
    return parts[0] if len(parts) == 1 else b"[" + b",".join(parts) + b"]"


def parse_replies(body: bytes, count: int) -> list[Answer | None] | ErrorObject:
    """Return the answers in ``body`` by position, or the one error in their place, which names none of them.

    Of a batch those that are missing, or there twice, or cannot be read, are None.

    Raises:
        ValueError: it is not what answers ``call_body`` of ``count`` calls; the message says how.
    """
    if not body.isascii() and not _is_utf8(body):
        raise ValueError(f"{len(body)} bytes that are not UTF-8")
    if sys.getrecursionlimit() > _SAFE_RECURSION_LIMIT and depth(body.decode()) > MAX_DEPTH:
        raise ValueError(f"an answer nested deeper than {MAX_DEPTH}")
    try:
        if count == 1:
            reply = _single(body)
            if reply.error is not None and reply.id not in (0, None):
                return _whole_error(reply)
            return [_answer(0, reply)]
        if body.lstrip(b" \t\r\n")[:1] == b"{":
            return _whole_error(_reply.decode(body))
        replies = _items(body)
    except (msgspec.DecodeError, RecursionError):
        raise ValueError(_no_reply(body)) from None
    if 0 < len(replies) < count and all(one.error is not None for one in replies):
        return _whole_error(replies[0])
    by_id = {one.id: one for one in replies}
    times = Counter(one.id for one in replies) if len(by_id) < len(replies) else {}
    found = [by_id[at] if at in by_id and times.get(at, 1) == 1 else None for at in range(count)]
    if not any(found):
        raise ValueError(f"{len(replies)} answers to a batch of {count}, none with an id of its own")
    return [None if one is None else _answer_or_none(at, one) for at, one in enumerate(found)]


def _items(body: bytes) -> list[_Reply]:
    """Return the replies to a batch; those that are none are left out."""
    try:
        return _replies.decode(body)
    except msgspec.ValidationError:
        items = _parts.decode(body)
    found = []
    for item in items:
        try:
            found.append(_reply.decode(item))
        except msgspec.ValidationError:
            continue
    return found


def _answer_or_none(at: int, reply: _Reply) -> Answer | None:
    try:
        return _answer(at, reply)
    except ValueError:
        return None


def _single(body: bytes) -> _Reply:
    if body.lstrip(b" \t\r\n")[:1] == b"[":
        replies = _replies.decode(body)
        if len(replies) != 1:
            raise ValueError(f"{len(replies)} answers to one request")
        return replies[0]
    return _reply.decode(body)


def _answer(at: int, reply: _Reply) -> Answer:
    error = reply.error
    if error is not None:
        _check_error(error)
        return Answer(error=bytes(error))
    if reply.result is UNSET:
        raise ValueError("an answer with neither result nor error")
    if reply.id != at or isinstance(reply.id, bool):
        raise ValueError("an answer with another request's id")
    return Answer(result=reply.result)


def _whole_error(reply: _Reply) -> ErrorObject:
    if reply.error is None:
        raise ValueError("one answer to a batch")
    _check_error(reply.error)
    return read_error(bytes(reply.error))


def _check_error(error: Raw) -> None:
    """Refuse what is no error object, or has numbers or depths that nobody could read."""
    try:
        found = msgspec.json.decode(error)
    except (msgspec.DecodeError, RecursionError):
        raise ValueError("an answer whose error cannot be read") from None
    if not isinstance(found, dict) or not (found.get("message") or found.get("code")):
        raise ValueError("an answer whose error says nothing")


def is_reply(body: bytes) -> bool:
    """Whether a body that came with another status than 200 is a JSON-RPC reply all the same."""
    try:
        found = msgspec.json.decode(body, type=_StatedReply | list[_StatedReply])
    except (msgspec.DecodeError, RecursionError):
        return False
    return bool(found)


class _StatedError(msgspec.Struct):
    code: int
    message: str = ""


class _StatedReply(msgspec.Struct):
    error: _StatedError


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _no_reply(body: bytes) -> str:
    if body[:100].lstrip().startswith(b"<"):
        return "a page of HTML or XML"
    return f"{len(body)} bytes that are no JSON-RPC answer; they may be truncated"


class _LooseError(msgspec.Struct):
    code: int | str | float | None = None
    message: str | None = None
    data: Raw | UnsetType = UNSET


_errors: Final = msgspec.json.Decoder(_LooseError)


def read_error(error: bytes) -> ErrorObject:
    """Return an endpoint's error object, whatever shape it has; nothing is cut, nor free of secrets yet."""
    try:
        loose = _errors.decode(error)
    except (msgspec.DecodeError, RecursionError):
        return ErrorObject(0, _plain(error))
    code = loose.code if isinstance(loose.code, int) else 0
    return ErrorObject(code, loose.message or "", loose.data)


def _plain(error: bytes) -> str:
    """Return JSON as text without escapes, in which a secret could hide."""
    try:
        found = msgspec.json.decode(error)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return error.decode(errors="replace")
    return found if isinstance(found, str) else _encode(found).decode()


def error_answer(error: ErrorObject, status: int = 200, retry_after_seconds: int | None = None) -> Answer:
    """Return the answer that holds ``error``."""
    return Answer(None, _encode(error), status, retry_after_seconds)


def result_answer(result: object) -> Answer:
    """Return the answer that holds ``result``."""
    return Answer(result=_encode(result))


def is_null(answer: Answer) -> bool:
    """Whether the result is null."""
    result = answer.result
    return result is not None and len(result) == len(b"null") and bytes(result) == b"null"


def single_reply(identity: bytes, answer: Answer) -> bytes:
    """Return the JSON-RPC reply to one request."""
    if answer.error is not None:
        return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (identity, answer.error)
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (identity, answer.result or b"null")


def reply_body(parsed: Parsed, answers: Sequence[Answer]) -> bytes:
    """Return the body that answers a request's."""
    if not parsed.is_batch:
        return single_reply(parsed.ids[0], answers[0])
    return b"[" + b",".join(map(single_reply, parsed.ids, answers)) + b"]"
