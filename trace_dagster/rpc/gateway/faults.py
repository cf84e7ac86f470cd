"""How asking an endpoint can fail, and whose fault an error in an answer is."""

import re
from enum import StrEnum
from typing import Any, Final

import msgspec

from trace_dagster.rpc.failures import UNSUPPORTED_CODES, ReplyError
from trace_dagster.rpc.gateway.jsonrpc import ErrorObject
from trace_dagster.rpc.gateway.methods import EXECUTES

__all__ = ["BatchTooLarge", "Fault", "FaultKind", "LogsTooMany", "kind_of_error"]

# geth, Erigon, Nethermind and providers where a node lacks what another has.
_ELSEWHERE_TEXTS: Final = (
    "header not found",
    "block not found",
    "unknown block",
    "missing trie node",
    "pruned",
    "historical",
    "not found in the database",
    "cannot find block",
    "is not available",
    "required history",
    "still syncing",
)
_REFUSED_TEXTS: Final = ("unauthorized", "forbidden", "api key", "apikey", "payment", "quota", "billing")
_TIMED_OUT_TEXTS: Final = ("timed out", "timeout")
_REVERTED: Final = 3
_INTERNAL: Final = -32603
_INVALID_PARAMS: Final = -32602
_SHORTEST_WORD: Final = 3
_MOST_WORDS: Final = 64
_MOST_CHARACTERS: Final = 4_096
_HEX: Final = re.compile(r"0x[0-9a-fA-F]*")
_OF_RATE: Final = re.compile(
    r"rate|per second|/s\b|too many requests|compute units|quota|count exceeded|daily"
)
_OF_SIZE: Final = re.compile(r"range|results?\b|response size|too large|logs")
# What executing a call comes to: geth, Erigon, Besu, Nethermind, Frontier, anvil.
_EXECUTION: Final = re.compile(
    r"(?i)revert|\bvm (?:exception|execution)|invalid (?:opcode|jump)|out of gas|stack (?:under|over)flow"
    r"|gas required exceeds|always failing|insufficient funds|intrinsic gas|max fee per gas less"
)


class FaultKind(StrEnum):
    """What was wrong; the label of a metric."""

    GARBLED = "garbled"
    RATE_LIMITED = "rate_limited"
    DROPPED = "dropped"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"
    UNSUPPORTED = "unsupported"
    NULL = "null"
    LACKS = "lacks"
    INTERNAL = "internal"
    ERROR = "error"
    TOO_LARGE = "too_large"
    LAGS = "lags"
    AHEAD = "ahead"
    DISAGREES = "disagrees"
    UNCONFIRMED = "unconfirmed"
    WRONG_CHAIN = "wrong_chain"


class Fault(Exception):
    """One exchange with an endpoint failed.

    Attributes:
        kind: how.
        detail: for a person, without secrets.
        retry_after_seconds: what the endpoint asked to wait.
        is_of_key: whether it is sure to be for the key, whatever was asked.
    """

    def __init__(
        self,
        kind: FaultKind,
        detail: str,
        retry_after_seconds: float | None = None,
        *,
        is_of_key: bool = False,
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.retry_after_seconds = kind, detail, retry_after_seconds
        self.is_of_key = is_of_key


class BatchTooLarge(Exception):
    """The endpoint does not take so many requests at once."""


class LogsTooMany(Exception):
    """The endpoint gives the logs of fewer blocks only."""


def kind_of_error(  # noqa: PLR0911 (a table in prose)
    method: str, error: ErrorObject, params: bytes = b"[]"
) -> FaultKind | type[BatchTooLarge | LogsTooMany] | None:
    """Return why ``error`` is not the answer to ``method``; None where it is, and any endpoint's would be.

    An error that is not known is ``FaultKind.ERROR``: others may have an answer. Words that came from the
    caller, which nodes like to repeat, say nothing of the endpoint.

    Args:
        method: what was asked; empty: a batch, which the error refuses as a whole.
        error: the endpoint's.
        params: of the request, as JSON.
    """
    if error.code == _REVERTED or (method in EXECUTES and _EXECUTION.search(error.message)):
        return None
    text = _without(params, error.message[:_MOST_CHARACTERS].lower())
    reply = ReplyError(text, method=method, code=error.code, text=text)
    is_of_params = error.code == _INVALID_PARAMS
    if error.code in UNSUPPORTED_CODES:
        return FaultKind.UNSUPPORTED
    if reply.rate_limited and not is_of_params:
        return _limit(text)
    if any(word in text for word in _ELSEWHERE_TEXTS):
        return FaultKind.LACKS
    if reply.limits_logs:
        return LogsTooMany
    if is_of_params:
        return None
    if any(word in text for word in _REFUSED_TEXTS):
        return FaultKind.REFUSED
    if reply.unsupported:
        return FaultKind.UNSUPPORTED
    if reply.too_large:
        return BatchTooLarge
    if any(word in text for word in _TIMED_OUT_TEXTS):
        return FaultKind.TIMEOUT
    return FaultKind.INTERNAL if error.code == _INTERNAL else FaultKind.ERROR


def _without(params: bytes, text: str) -> str:
    """Return an error's text without what its request says in words, longest first."""
    words: set[str] = set()

    def add(value: Any) -> None:
        if isinstance(value, str):
            if _HEX.fullmatch(value) is None and len(value) >= _SHORTEST_WORD:
                words.add(value.lower())
        elif isinstance(value, list):
            for item in value:
                add(item)
        elif isinstance(value, dict):
            for name, item in value.items():
                add(name)
                add(item)

    try:
        add(msgspec.json.decode(params))
    except (msgspec.DecodeError, RecursionError):
        return text
    if len(words) > _MOST_WORDS:
        return ""
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, "")
    return text


def _limit(text: str) -> FaultKind | type[BatchTooLarge]:
    """Return which limit the code of limits is told for, where the words do not speak of a rate."""
    if _OF_RATE.search(text) is None:
        if "batch" in text:
            return BatchTooLarge
        if _OF_SIZE.search(text) is not None:
            return FaultKind.ERROR
    return FaultKind.RATE_LIMITED
