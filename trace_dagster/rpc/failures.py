"""How a JSON-RPC exchange can fail, and whether it is worth asking again."""

from trace_dagster.errors import RpcError, RpcUnavailable

__all__ = ["UNSUPPORTED_CODES", "GarbledReply", "ReplyError", "Unreachable"]

UNSUPPORTED_CODES = frozenset({-32601, -32004})
"""-32601: JSON-RPC 2.0 "method not found"; -32004: EIP-1474 "method not supported"."""
_UNSUPPORTED_TEXTS = (
    "does not exist",
    "not allowed",
    "not available",
    "not enabled",
    "disabled",
    "not found",
    "not supported",
    "not whitelisted",
    "unknown",
    "unsupported",
)
# -32005: EIP-1474 "limit exceeded"; 429: some providers put the HTTP status there.
_RATE_LIMIT_CODES = frozenset({-32005, 429})
_RATE_LIMIT_TEXTS = ("rate limit", "too many requests", "compute units per second")
# -32003: geth's "response too large", for what is left of a batch.
_TOO_LARGE_CODES = frozenset({-32003})
_TOO_LARGE_TEXTS = ("too large", "too big", "batch size", "batch limit")
# Providers word the limits of eth_getLogs as they like: "query returned more than 10000 results", "block
# range is too wide", "Log response size exceeded", "query timeout exceeded".
_LIMIT_WORDS = ("more than", "exceed", "too ", "limit", "max", "up to", "at most", "timed out", "timeout")
_LIMITED_THINGS = ("range", "block", "result", "log", "response", "event", "query", "size")
_FINAL_TEXTS = (
    "unauthorized",
    "forbidden",
    "api key",
    "apikey",
    "permission",
    "payment",
    "quota",
    "pruned",
    "missing trie node",
    "historical",
    "not available",
)


class Unreachable(RpcUnavailable):
    """One HTTP exchange failed.

    Attributes:
        status: HTTP status, None where there was no reply.
        transient: whether asking again may work.
        retry_after_seconds: what the server asked to wait, or None.
        answer: the body, where it looks like a JSON-RPC error.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        transient: bool = True,
        retry_after_seconds: float | None = None,
        answer: bytes | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.transient, self.retry_after_seconds = status, transient, retry_after_seconds
        self.answer = answer


class GarbledReply(RpcError):
    """The reply is no answer to what was asked: truncated, not JSON, ids missing."""


class ReplyError(RpcError):
    """The endpoint answered with a JSON-RPC error.

    Attributes:
        method: the method asked for.
        code: the error's code.
        text: the endpoint's own words, without credentials.
    """

    def __init__(self, message: str, *, method: str, code: int | None, text: str) -> None:
        super().__init__(message)
        self.method, self.code, self.text = method, code, text

    @property
    def unsupported(self) -> bool:
        """Whether the endpoint does not have the method."""
        text = self.text.lower()
        named = "method" in text or self.method.lower() in text
        return self.code in UNSUPPORTED_CODES or (named and any(word in text for word in _UNSUPPORTED_TEXTS))

    @property
    def rate_limited(self) -> bool:
        """Whether the endpoint asks for fewer requests."""
        text = self.text.lower()
        if any(word in text for word in _RATE_LIMIT_TEXTS):
            return True
        return self.code in _RATE_LIMIT_CODES and not self.limits_logs

    @property
    def limits_logs(self) -> bool:
        """Whether logs of fewer blocks may be had: so many blocks or results are too many at once."""
        text = self.text.lower()
        if self.method != "eth_getLogs" or any(word in text for word in _RATE_LIMIT_TEXTS):
            return False
        said = any(word in text for word in _LIMIT_WORDS) and any(word in text for word in _LIMITED_THINGS)
        return said or self.code in _TOO_LARGE_CODES

    @property
    def final(self) -> bool:
        """Whether the endpoint would refuse any part of it as well."""
        return not self.limits_logs and any(word in self.text.lower() for word in _FINAL_TEXTS)

    @property
    def too_large(self) -> bool:
        """Whether a smaller batch may work."""
        return self.code in _TOO_LARGE_CODES or any(word in self.text.lower() for word in _TOO_LARGE_TEXTS)
