"""The gateway as an ASGI application: who may ask what, and how answers look on HTTP."""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import MutableMapping, Sequence
from typing import Any, Final

import msgspec

from trace_dagster.rpc.gateway.auth import Grant, is_here
from trace_dagster.rpc.gateway.bodies import (
    Headers,
    HttpRefusal,
    Receive,
    Scope,
    Send,
    check_repeated,
    compressed,
    discard_body,
    read_body,
)
from trace_dagster.rpc.gateway.connections import Connection
from trace_dagster.rpc.gateway.jsonrpc import (
    Answer,
    BadRequest,
    Call,
    ErrorObject,
    Parsed,
    Refusal,
    error_answer,
    parse_calls,
    reply_body,
    single_reply,
)
from trace_dagster.rpc.gateway.methods import READS
from trace_dagster.rpc.gateway.metrics import Metrics
from trace_dagster.rpc.gateway.pool import Pool
from trace_dagster.rpc.gateway.records import Caller, Usage
from trace_dagster.rpc.gateway.replies import Held
from trace_dagster.rpc.gateway.running import Running
from trace_dagster.rpc.gateway.spending import Spending

__all__ = ["GatewayApp"]

_POOL_PATH: Final = re.compile(rb"/v1/([a-z0-9][a-z0-9_-]{0,62})(/usage)?")
_JSON: Final = b"application/json"
_METHOD_NOT_ALLOWED: Final = -32601
"""JSON-RPC 2.0's "method not found": clients take it as a method that is not to be had here."""
_INTERNAL_ERROR: Final = -32603
_BUSY: Final = 429
_GONE: Final = 499
_LONG_BYTES: Final = 64 * 2**10

_logger = logging.getLogger(__name__)


class GatewayApp:
    """Answers HTTP requests.

    Args:
        running: what it begins with; ``running`` may be replaced while requests are answered.
        metrics: where it is counted.
        compresses: whether replies are compressed for those who read that.
    """

    def __init__(self, running: Running, metrics: Metrics, *, compresses: bool = True) -> None:
        self.running, self.metrics, self._compresses = running, metrics, compresses
        self._spending = Spending()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        running = self.running
        headers: Headers = dict(scope["headers"])
        repeated = len(headers) < len(scope["headers"])
        connection = Connection.of(scope)
        has_begun = False

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        running.users += 1
        try:
            if repeated:
                check_repeated(scope["headers"])
            await self._route(running, scope, headers, receive, noted, connection=connection)
        except HttpRefusal as refusal:
            self.metrics.refused(refusal.status)
            error = error_answer(ErrorObject(refusal.code, str(refusal)))
            more = [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
            if not connection.is_known:  # a stranger keeps no place
                await discard_body(receive, headers)
                more.append((b"connection", b"close"))
            await _reply(send, refusal.status, single_reply(b"null", error), more)
        except Exception as error:  # noqa: BLE001 (callers get JSON-RPC; its text may hold a secret)
            _logger.error("a request failed unexpectedly: %s", type(error).__name__)  # noqa: TRY400
            self.metrics.refused(500)
            if has_begun:  # uvicorn closes a connection whose reply is not whole
                return
            told = error_answer(ErrorObject(_INTERNAL_ERROR, "the gateway failed; its log says how"))
            await _reply(send, 500, single_reply(b"null", told), [])
        finally:
            running.users -= 1

    async def _route(
        self,
        running: Running,
        scope: Scope,
        headers: Headers,
        receive: Receive,
        send: Send,
        *,
        connection: Connection,
    ) -> None:
        path: bytes = scope["raw_path"]
        client = scope["client"]
        peer = client[0] if client else None
        match = _POOL_PATH.fullmatch(path)
        if match is not None:
            is_usage = match[2] is not None
            if is_usage:
                _check_read(scope)
            elif scope["method"] != "POST":
                raise HttpRefusal(405, "JSON-RPC is posted here", allow="POST")
            grant = _grant(running, peer, headers)
            connection.is_known = True
            pool = _pool(running, grant, match[1].decode())
            if is_usage:
                spent = self._spending.of(pool.name, grant.caller(headers))
                await _reply(send, 200, msgspec.json.encode(spent), [])
            else:
                held = Held(running.reply_room)
                usage = Usage(held=held)
                try:
                    await _reply(
                        send,
                        *await self._answer(
                            running, pool, grant, headers, receive, connection=connection, usage=usage
                        ),
                    )
                finally:
                    held.give_back()
        elif path in (b"/healthz", b"/metrics"):
            _check_read(scope)
            if not is_here(peer, headers):
                _grant(running, peer, headers)
            connection.is_known = True
            await self._tell(running, path, send)
        else:
            raise HttpRefusal(404, "nothing is here; a pool is asked at /v1/NAME")

    async def _answer(
        self,
        running: Running,
        pool: Pool,
        grant: Grant,
        headers: Headers,
        receive: Receive,
        *,
        connection: Connection,
        usage: Usage,
    ) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
        begun = asyncio.get_running_loop().time()
        limits = running.config.limits
        body = await read_body(receive, headers, limits.max_body_bytes)
        try:
            parsed = parse_calls(body, max_items=limits.max_batch_items)
        except BadRequest as error:
            raise HttpRefusal(400, str(error), code=error.code) from None
        caller = grant.caller(headers)
        methods = [item.method for item in parsed.items if not isinstance(item, Refusal)]
        if READS.issuperset(methods):  # what may change something goes to its end
            connection.answering = asyncio.current_task()
        try:
            answers = await _answers(pool, parsed, grant, caller, usage)
        except asyncio.CancelledError:
            self._spending.add(pool.name, caller, usage)
            self.metrics.answered(pool.name, caller, methods, usage, received=len(body), sent=0)
            if connection.is_gone:
                raise HttpRefusal(_GONE, "the caller has gone") from None
            raise
        finally:
            connection.answering = None
        reply = reply_body(parsed, answers)
        self._count(pool, caller, answers)
        self._spending.add(pool.name, caller, usage)
        self.metrics.answered(
            pool.name,
            caller,
            methods,
            usage,
            seconds=asyncio.get_running_loop().time() - begun,
            received=len(body),
            sent=len(reply),
        )
        more = _usage_headers(usage)
        status = _status(answers)
        if status != 200:
            self.metrics.refused(status)
            seconds = max((one.retry_after_seconds or 0) for one in answers)
            if seconds:
                more.append((b"retry-after", b"%d" % seconds))
        if self._compresses:
            packed = await compressed(reply, headers.get(b"accept-encoding", b""))
            if packed is not None:
                reply = packed
                more.append((b"content-encoding", b"gzip"))
            more.append((b"vary", b"accept-encoding"))
        return status, reply, more

    def _count(self, pool: Pool, caller: Caller, answers: Sequence[Answer]) -> None:
        kinds = Counter(
            "busy" if one.status == _BUSY else "unavailable" if one.status >= 500 else "error"
            for one in answers
            if one.error is not None
        )
        for kind, count in kinds.items():
            self.metrics.failed(pool.name, caller, kind, count)

    async def _tell(self, running: Running, path: bytes, send: Send) -> None:
        if path == b"/metrics":
            running.set_gauges(self.metrics)
            await _reply(send, 200, self.metrics.text(), [], b"text/plain; version=0.0.4; charset=utf-8")
            return
        is_usable, health = running.health()
        await _reply(send, 200 if is_usable else 503, msgspec.json.encode(health), [])


async def _answers(pool: Pool, parsed: Parsed, grant: Grant, caller: Caller, usage: Usage) -> list[Answer]:
    """Return the answers to all items."""
    answers: list[Answer | None] = [None] * len(parsed.items)
    calls: list[Call] = []
    places: list[int] = []
    for at, item in enumerate(parsed.items):
        if isinstance(item, Refusal):
            answers[at] = error_answer(item.error, 400)
            continue
        if grant.allows(item.method):
            calls.append(item)
            places.append(at)
        else:
            answers[at] = _forbidden(item.method, grant)
    if calls:
        for at, answer in zip(places, await pool.answer(calls, caller, usage), strict=True):
            answers[at] = answer
    return [one for one in answers if one is not None]


def _forbidden(method: str, grant: Grant) -> Answer:
    message = f"the method {method} is not allowed to token {grant.name}; see tokens.methods of the gateway"
    return error_answer(ErrorObject(_METHOD_NOT_ALLOWED, message), 403)


def _status(answers: Sequence[Answer]) -> int:
    """Return the HTTP status: another than 200 only where nothing was answered, and for one reason."""
    statuses = {one.status for one in answers}
    return statuses.pop() if len(statuses) == 1 else 200


def _check_read(scope: Scope) -> None:
    if scope["method"] not in ("GET", "HEAD"):
        raise HttpRefusal(405, "this is read with GET", allow="GET, HEAD")


def _grant(running: Running, peer: str | None, headers: Headers) -> Grant:
    if running.guard.is_open:
        grant = running.guard.local(peer, headers)
        if grant is None:
            raise HttpRefusal(403, "without tokens only this machine may ask, by the name localhost")
        return grant
    grant = running.guard.grant(headers.get(b"authorization"))
    if grant is None:
        raise HttpRefusal(
            401,
            "a token is needed: Authorization: Bearer TOKEN, or HTTP Basic with it as the password",
            www_authenticate='Bearer realm="trace gateway", Basic realm="trace gateway"',
        )
    return grant


def _pool(running: Running, grant: Grant, name: str) -> Pool:
    if not grant.allows_pool(name):
        raise HttpRefusal(403, f"token {grant.name} is not for pool {name}; see tokens.pools of the gateway")
    pool = running.pool(name)
    if pool is None:
        raise HttpRefusal(404, running.no_pool(name))
    return pool


def _usage_headers(usage: Usage) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-trace-requests", b"%d" % usage.requests),
        (b"x-trace-credits", f"{usage.credits:.12g}".encode()),
        (b"x-trace-retries", b"%d" % usage.retries),
        (b"x-trace-cache-hits", b"%d" % usage.cache_hits),
        (b"x-trace-endpoint", ",".join(sorted(usage.endpoints)).encode()),
    ]


async def _reply(
    send: Send,
    status: int,
    body: bytes,
    more: Sequence[tuple[bytes, bytes]],
    content_type: bytes = _JSON,
) -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    is_long = len(body) > _LONG_BYTES
    await send({"type": "http.response.body", "body": body, "more_body": is_long})
    if is_long:  # comes back once the client has taken most of it
        await send({"type": "http.response.body", "body": b""})
