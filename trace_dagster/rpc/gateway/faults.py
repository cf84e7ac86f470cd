"""How asking an endpoint can fail, and whose fault an error in an answer is."""

from enum import StrEnum
from typing import Final

from trace_dagster.rpc.failures import ReplyError
from trace_dagster.rpc.gateway.jsonrpc import ErrorObject

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
    method: str, error: ErrorObject
) -> FaultKind | type[BatchTooLarge | LogsTooMany] | None:
    """Return why ``error`` is not the answer to ``method``; None where it is, and any endpoint's would be."""
    if error.code == _REVERTED or error.message.startswith("execution reverted"):
        return None
    reply = ReplyError(error.message, method=method, code=error.code, text=error.message)
    text = error.message.lower()
    if reply.rate_limited:
        return FaultKind.RATE_LIMITED
    if any(word in text for word in _ELSEWHERE_TEXTS):
        return FaultKind.LACKS
    if reply.limits_logs:
        return LogsTooMany
    if any(word in text for word in _REFUSED_TEXTS):
        return FaultKind.REFUSED
    if reply.unsupported:
        return FaultKind.UNSUPPORTED
    if reply.too_large:
        return BatchTooLarge
    if any(word in text for word in _TIMED_OUT_TEXTS):
        return FaultKind.TIMEOUT
    return FaultKind.INTERNAL if error.code == _INTERNAL else None
