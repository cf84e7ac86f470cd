"""How asking an endpoint can fail, and whose fault an error in an answer is."""

import re
from enum import StrEnum
from typing import Any, Final

import msgspec

from trace_dagster.rpc.failures import ReplyError
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
    """

    def __init__(self, kind: FaultKind, detail: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.retry_after_seconds = kind, detail, retry_after_seconds


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
    text = _without(params, error.message.lower())
    reply = ReplyError(text, method=method, code=error.code, text=text)
    is_of_params = error.code == _INVALID_PARAMS
    if reply.rate_limited and not is_of_params:
        return FaultKind.RATE_LIMITED
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
    for word in sorted((one for one in words if len(one) >= _SHORTEST_WORD), key=len, reverse=True):
        text = text.replace(word, "")
    return text
