"""A JSON-RPC client: bounded in time, one layer of retries, never a credential in a message."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, Self, TypeVar

import stamina

from trace_dagster.chain.decoding.decoded import Decoded, DecodeError, Decoder, GarbledAnswer, Refusal
from trace_dagster.chain.decoding.layout import Shape
from trace_dagster.chain.decoding.pure import is_refused_batch, no_json
from trace_dagster.chain.decoding.safe_json import loads
from trace_dagster.chain.headers import as_int
from trace_dagster.errors import DeadlineExceeded
from trace_dagster.rpc.failures import GarbledReply, ReplyError, Unreachable
from trace_dagster.rpc.secrets import scrub, secrets_of
from trace_dagster.rpc.transport import Transport
from trace_dagster.settings import RpcEndpoint

__all__ = ["BatchRefused", "Call", "JsonRpcClient", "TimeLimit", "log_no_retries"]

Call = tuple[str, Sequence[Any]]
T = TypeVar("T")

_MAX_BATCH_ITEMS: Final = 100
_FIRST_BATCH_ITEMS: Final = 20
# Larger replies do not get faster, and some providers refuse them.
_TARGET_REPLY_BYTES: Final = 4_000_000
_MAX_WAIT_SECONDS: Final = 30.0
_MAX_REPLY_BYTES: Final = 256 * 2**20
# Statuses with which providers refuse a batch as such.
_BATCH_REFUSED: Final = frozenset({400, 405, 413, 415, 422, 501})


def log_no_retries() -> None:
    """Let stamina log nothing in this process, for commands that tell of repeated requests themselves."""
    stamina.instrumentation.set_on_retry_hooks([])


class TimeLimit(Protocol):
    """A deadline: ``trace_dagster.operators.base.Deadline`` is one."""

    @property
    def remaining_seconds(self) -> float:
        """Seconds left, at least 0; infinite without a limit."""
        ...

    def check(self) -> None:
        """Raise once the deadline has passed."""
        ...


class JsonRpcClient:
    """Asks one endpoint; for one thread at a time.

    Args:
        endpoint: where requests go.
        timeout_seconds: limit of one HTTP exchange, cut to what ``deadline`` leaves.
        deadline: when to stop asking; None for no limit.
        attempts: how often a request is sent in all before its failure is let through.
        first_wait_seconds: pause before the second attempt; it doubles up to 5 s, with jitter.
        max_reply_bytes: longest reply accepted, decompressed.

    Attributes:
        requests: JSON-RPC requests sent so far, batch items counted one by one, repeats included.
        exchanges: HTTP exchanges so far.
        received_bytes: of the replies to ``decoded``, decompressed.
    """

    def __init__(
        self,
        endpoint: RpcEndpoint,
        timeout_seconds: float = 60.0,
        *,
        deadline: TimeLimit | None = None,
        attempts: int = 5,
        first_wait_seconds: float = 0.2,
        max_reply_bytes: int = _MAX_REPLY_BYTES,
    ) -> None:
        self.requests = 0
        self.exchanges = 0
        self.received_bytes = 0
        self._transport = Transport(endpoint, max_reply_bytes=max_reply_bytes)
        self._pool, self._variable = endpoint.pool, endpoint.variable
        self._secrets = secrets_of(endpoint)
        self._timeout_seconds = timeout_seconds
        self._deadline = deadline
        self._attempts = attempts
        self._first_wait_seconds = first_wait_seconds
        self._largest_batch = _MAX_BATCH_ITEMS
        self._batch_items: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"JsonRpcClient(pool={self._pool!r}, {self._transport.shown})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def chain_id(self) -> int:
        """Return what the endpoint answers to ``eth_chainId``."""
        return self._number("eth_chainId")

    def block_number(self) -> int:
        """Return the newest block that the endpoint reports."""
        return self._number("eth_blockNumber")

    def call(self, method: str, params: Sequence[Any] = ()) -> Any:
        """Return the result of one request; None where the endpoint answers null.

        Raises:
            DeadlineExceeded: the deadline passed before an answer came.
            RpcUnavailable: the endpoint cannot be reached, after all attempts.
            RpcError: it answered with an error (then a ``ReplyError``), or with what is no answer.
        """
        return self._retried(lambda: self._ask_one(method, params))

    def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Return the results of ``calls``, in their order, sent in as few exchanges as the endpoint takes.

        Raises:
            DeadlineExceeded: the deadline passed before all answers came.
            RpcUnavailable: the endpoint cannot be reached, after all attempts.
            RpcError: it answered one of them with an error, or with what is no answer.
        """
        results: list[Any] = []
        while len(results) < len(calls):
            rest = calls[len(results) :]
            method = rest[0][0]
            size = min(self._batch_items.get(method, _FIRST_BATCH_ITEMS), self._largest_batch)
            some = rest[:size]
            try:
                results += self._batch_once(some)
            except BatchRefused:
                self._largest_batch = max(1, len(some) // 4)
        return results

    def decoded(self, calls: Sequence[Call], shapes: Sequence[Shape], decoder: Decoder) -> Decoded:
        """Return the results of ``calls`` as Arrow arrays, sent in one exchange.

        Args:
            calls: what to ask.
            shapes: the shape of each call's result.
            decoder: reads the reply.

        Raises:
            BatchRefused: the endpoint does not take so many calls at once.
            DecodeError: a result does not fit its shape.
            DeadlineExceeded: the deadline passed before the answer came.
            RpcUnavailable: the endpoint cannot be reached, after all attempts.
            RpcError: it answered with what is no answer, or still asks for fewer requests.
        """
        return self._retried(lambda: self._ask_decoded(calls, shapes, decoder))

    def reply_error(self, method: str, refusal: Refusal) -> ReplyError:
        """Return the error that the endpoint gave in place of a result of ``method``."""
        return self._reply_error(method, {"code": refusal.code, "message": refusal.message})

    def _ask_decoded(self, calls: Sequence[Call], shapes: Sequence[Shape], decoder: Decoder) -> Decoded:
        single = len(calls) == 1
        body = _request(0, *calls[0]) if single else [_request(at, *call) for at, call in enumerate(calls)]
        try:
            data = self._exchanged(body, items=len(calls))
        except Unreachable as error:
            if error.status in _BATCH_REFUSED and not single:
                raise BatchRefused from None
            raise
        self.received_bytes += len(data)
        try:
            decoded = decoder.decode(data, shapes)
        except GarbledAnswer as error:
            raise self._garbled(str(error)) from None
        except DecodeError as error:  # it quotes the reply, which may quote the URL
            raise DecodeError(scrub(str(error), self._secrets)) from None
        if decoded.refused is not None:
            refusal = self.reply_error(f"a batch of {len(calls)}", decoded.refused)
            if refusal.rate_limited:
                raise refusal
            raise BatchRefused
        for number, one in decoded.refusals.items():
            refusal = self.reply_error(calls[number][0], one)
            if refusal.rate_limited:
                raise refusal
            if refusal.too_large and not refusal.limits_logs and not single:
                raise BatchRefused
        return decoded

    def _garbled(self, what: str) -> GarbledReply:
        self._transport.close()
        return GarbledReply(f"{self._where} sent {what}")

    def _batch_once(self, calls: Sequence[Call]) -> list[Any]:
        if len(calls) == 1:
            return [self.call(*calls[0])]
        results, reply_bytes = self._retried(lambda: self._ask_many(calls))
        fitting = _TARGET_REPLY_BYTES * len(calls) // max(1, reply_bytes)
        self._batch_items[calls[0][0]] = max(1, min(fitting, _MAX_BATCH_ITEMS))
        return results

    def _ask_one(self, method: str, params: Sequence[Any]) -> Any:
        reply, _ = self._exchange(_request(0, method, params), items=1)
        if not isinstance(reply, dict) or ("result" not in reply and not reply.get("error")):
            raise GarbledReply(f"{self._where} answered {method} with neither result nor error")
        if not reply.get("error") and reply.get("id") != 0:
            raise GarbledReply(f"{self._where} answered {method} with another request's id")
        return self._result(method, reply)

    def _ask_many(self, calls: Sequence[Call]) -> tuple[list[Any], int]:
        body = [_request(number, *call) for number, call in enumerate(calls)]
        try:
            replies, size = self._exchange(body, items=len(calls))
        except Unreachable as error:
            if error.status in _BATCH_REFUSED:
                raise BatchRefused from None
            raise
        if isinstance(replies, dict) and replies.get("error"):
            refusal = self._reply_error(f"a batch of {len(calls)}", replies["error"])
            if refusal.rate_limited:
                raise refusal
            raise BatchRefused
        if isinstance(replies, dict) or is_refused_batch(replies, len(calls)):
            raise BatchRefused
        if not isinstance(replies, list):
            raise GarbledReply(f"{self._where} answered a batch of {len(calls)} with no list")
        by_id = {_id_of(reply): reply for reply in replies}
        answered = by_id.keys() & range(len(calls))
        if len(answered) != len(calls) or len(replies) != len(calls):
            raise GarbledReply(
                f"{self._where} answered {len(answered)} of the {len(calls)} requests of a batch, "
                f"in {len(replies)} replies"
            )
        return [self._batch_result(call[0], by_id[number]) for number, call in enumerate(calls)], size

    def _batch_result(self, method: str, reply: dict[str, Any]) -> Any:
        try:
            return self._result(method, reply)
        except ReplyError as error:
            if error.too_large and not error.limits_logs:
                raise BatchRefused from None
            raise

    def _result(self, method: str, reply: dict[str, Any]) -> Any:
        if reply.get("error"):
            raise self._reply_error(method, reply["error"])
        if "result" not in reply:
            raise GarbledReply(f"{self._where} answered {method} with neither result nor error")
        return reply["result"]

    def _reply_error(self, method: str, error: Any) -> ReplyError:
        code = error.get("code") if isinstance(error, dict) else None
        said = error.get("message") if isinstance(error, dict) else error
        text = scrub(str(said), self._secrets)
        return ReplyError(
            f"{self._where} answered {method} with error {code}: {text}",
            method=method,
            code=code if isinstance(code, int) else None,
            text=text,
        )

    def _exchange(self, body: Any, *, items: int) -> tuple[Any, int]:
        data = self._exchanged(body, items=items)
        try:
            return loads(str(data, "utf-8")), len(data)
        except ValueError:  # its text and its `doc` quote the reply, which may quote the URL
            pass
        raise self._garbled(no_json(data))

    def _exchanged(self, body: Any, *, items: int) -> memoryview:
        timeout_seconds = self._timeout_seconds
        if self._deadline is not None:
            self._deadline.check()
            timeout_seconds = max(0.05, min(timeout_seconds, self._deadline.remaining_seconds))
        self.requests += items
        self.exchanges += 1
        return self._send(json.dumps(body, separators=(",", ":")).encode(), timeout_seconds)

    def _send(self, body: bytes, timeout_seconds: float) -> memoryview:
        check = self._deadline.check if self._deadline is not None else lambda: None
        try:
            return self._transport.exchange(body, timeout_seconds, check)
        except Unreachable as error:
            if error.answer is not None:
                return memoryview(error.answer)
            if self._deadline is None:
                raise
            try:
                self._deadline.check()
            except DeadlineExceeded as late:  # the endpoint may only have been asked too late
                raise DeadlineExceeded(f"{late}; at last {error}") from None
            raise

    def _retried(self, ask: Callable[[], T]) -> T:
        for attempt in stamina.retry_context(
            on=self._backoff,
            attempts=self._attempts,
            timeout=None,
            wait_initial=self._first_wait_seconds,
            wait_jitter=self._first_wait_seconds,
            wait_max=5.0,
        ):
            with attempt:
                return ask()
        raise GarbledReply(f"{self._where} was not asked")  # attempts is at least 1

    def _backoff(self, error: Exception) -> bool | float:
        if self._deadline is not None and self._deadline.remaining_seconds == 0:
            return False
        match error:
            case Unreachable(retry_after_seconds=float() as seconds, transient=True):
                return min(seconds, _MAX_WAIT_SECONDS)
            case Unreachable():
                return error.transient
            case ReplyError():
                return error.rate_limited
            case _:
                return isinstance(error, GarbledReply)

    def _number(self, method: str) -> int:
        answer = self.call(method)
        try:
            return as_int(answer)
        except ValueError:
            text = scrub(repr(answer), self._secrets, limit=60)
        raise GarbledReply(f"{self._where} answered {method} with {text}; expected a hex number")

    @property
    def waited_seconds(self) -> float:
        """How long replies did not begin, of all exchanges together."""
        return self._transport.waited_seconds

    @property
    def _where(self) -> str:
        return f"rpc_pool {self._pool!r} at {self._transport.shown}"


class BatchRefused(Exception):
    """The endpoint does not take this batch; a smaller one, or single requests, may work."""


def _id_of(reply: Any) -> int | None:
    number = reply.get("id") if isinstance(reply, dict) else None
    return number if isinstance(number, int) else None


def _request(number: int, method: str, params: Sequence[Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
