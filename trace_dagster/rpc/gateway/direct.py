"""One endpoint asked directly, with one of its keys: for probes and ``trace gateway doctor``."""

import json
import os
from collections.abc import Sequence
from typing import Any, Final, Self
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from trace_dagster.chain.decoding.pure import is_refused_batch, no_json
from trace_dagster.chain.decoding.safe_json import loads
from trace_dagster.errors import RpcError
from trace_dagster.rpc.address import proxy_of
from trace_dagster.rpc.client import BatchRefused, Call
from trace_dagster.rpc.failures import GarbledReply, ReplyError, Unreachable
from trace_dagster.rpc.gateway.addresses import is_loopback
from trace_dagster.rpc.gateway.resolved import Access
from trace_dagster.rpc.gateway.resolver import GuardedResolver, ProxiedNames
from trace_dagster.rpc.secrets import scrub

__all__ = ["DirectEndpoint"]

_MAX_REPLY_BYTES: Final = 64 * 2**20
_BATCH_REFUSED: Final = frozenset({400, 405, 413, 415, 422, 501})
_KEY_REFUSED: Final = frozenset({401, 402, 403})
_LATER_STATUS: Final = frozenset({408, 425, 429})


class DirectEndpoint:
    """Sends requests to one endpoint, without retries; an async context manager.

    No message, ``repr`` or exception chain of it holds a key or more of the URL than scheme, host and port.

    Args:
        name: of the endpoint, for messages.
        access: its URL and key.
        timeout_seconds: limit of one exchange.
    """

    def __init__(self, name: str, access: Access, timeout_seconds: float = 15.0) -> None:
        self._where = f"endpoint {name!r} at {access.shown}"
        self._access, self._secrets = access, access.secrets
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"DirectEndpoint({self._where})"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=GuardedResolver(), limit=1),
            timeout=aiohttp.ClientTimeout(total=self._timeout_seconds),
            headers={"User-Agent": "trace-dagster", **self._access.headers},
            trust_env=not is_loopback(URL(self._access.url.get_secret_value(), encoded=True).host or ""),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, method: str, params: Sequence[Any] = ()) -> Any:
        """Return the result of one request.

        Raises:
            ReplyError: the endpoint answered with a JSON-RPC error.
            Unreachable: it cannot be reached, or answered with an HTTP error.
            GarbledReply: its answer is none.
        """
        reply = await self._exchange(_request(0, method, params))
        if not isinstance(reply, dict) or (not reply.get("error") and reply.get("id") != 0):
            raise GarbledReply(f"{self._where} answered {method} with what is no answer to it")
        return self._result(method, reply)

    async def ask_batch(self, calls: Sequence[Call]) -> list[Any]:
        """Return the results of several requests that are sent in one body.

        Raises:
            BatchRefused: the endpoint does not take so many at once.
            RpcError: as ``ask`` does.
        """
        try:
            replies = await self._exchange([_request(number, *call) for number, call in enumerate(calls)])
        except Unreachable as error:
            if error.status in _BATCH_REFUSED:
                raise BatchRefused from None
            raise
        if isinstance(replies, dict) or is_refused_batch(replies, len(calls)):
            refusal = replies if isinstance(replies, dict) else replies[0]
            said = self._reply_error(f"a batch of {len(calls)}", refusal.get("error"))
            if said.rate_limited and not said.too_large:
                raise said
            raise BatchRefused
        by_id = {reply.get("id"): reply for reply in replies} if _are_objects(replies) else {}
        if len(replies) != len(calls) or by_id.keys() != set(range(len(calls))):
            raise GarbledReply(f"{self._where} did not answer each request of a batch of {len(calls)}")
        return [self._result(call[0], by_id[number]) for number, call in enumerate(calls)]

    def _result(self, method: str, reply: dict[str, Any]) -> Any:
        if reply.get("error"):
            raise self._reply_error(method, reply["error"])
        if "result" not in reply:
            raise GarbledReply(f"{self._where} answered {method} with neither result nor error")
        return reply["result"]

    def _reply_error(self, method: str, error: Any) -> ReplyError:
        code = error.get("code") if isinstance(error, dict) else None
        text = scrub(str(error.get("message") if isinstance(error, dict) else error), self._secrets)
        return ReplyError(
            f"{self._where} answered {method} with error {code}: {text}",
            method=method,
            code=code if isinstance(code, int) else None,
            text=text,
        )

    async def _exchange(self, body: Any) -> Any:
        failure: RpcError
        try:
            status, data = await self._post(json.dumps(body).encode())
        except TimeoutError:
            failure = Unreachable(f"{self._where} did not answer within {self._timeout_seconds:.3g} s")
        except aiohttp.ClientResponseError:
            failure = GarbledReply(f"{self._where} sent a reply that cannot be read")
        except aiohttp.ClientPayloadError:
            failure = GarbledReply(f"{self._where} cut its reply off")
        except (aiohttp.ClientError, OSError) as error:
            failure = Unreachable(
                f"{self._where} cannot be reached: {_reason(error)}; check its URL and the network"
            )
        else:
            return self._read(status, data)
        # Raised outside the handlers, so that the library's exception, which quotes the URL, is not chained.
        raise failure.with_traceback(None)

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        if self._session is None:
            raise GarbledReply(f"{self._where} is asked outside its context")
        url = URL(self._access.url.get_secret_value(), encoded=True)
        if proxy_of(urlsplit(str(url))) is not None:
            await ProxiedNames().check(url.host or "")
        headers = {"Content-Type": "application/json"}
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            data = bytearray()
            async for piece in response.content.iter_any():
                data += piece
                if len(data) > _MAX_REPLY_BYTES:
                    raise GarbledReply(f"{self._where} sent more than {_MAX_REPLY_BYTES} bytes in one reply")
            return response.status, bytes(data)

    def _read(self, status: int, data: bytes) -> Any:
        try:
            reply = loads(str(data, "utf-8"))
        except ValueError:  # its text and its `doc` quote the reply, which may quote the URL
            reply = None
        if status == 200 and isinstance(reply, list | dict):
            return reply
        if status == 200:
            raise GarbledReply(f"{self._where} sent {no_json(data)}")
        error = reply.get("error") if isinstance(reply, dict) else None
        if isinstance(error, dict) and status not in _KEY_REFUSED:
            return reply
        said = (
            scrub(str(error.get("message")), self._secrets) if isinstance(error, dict) else "no reason given"
        )
        mend = "check its key and what the plan has" if status in _KEY_REFUSED else "check its URL"
        raise Unreachable(
            f"{self._where} answered HTTP {status}: {said}; {mend}",
            status=status,
            transient=status >= 500 or status in _LATER_STATUS,
        )


def _request(number: int, method: str, params: Sequence[Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}


def _are_objects(replies: Any) -> bool:
    return isinstance(replies, list) and all(isinstance(reply, dict) for reply in replies)


def _reason(error: Exception) -> str:
    """Return what happened without what the library says of it, which may quote the URL."""
    inner = getattr(error, "os_error", error)
    if isinstance(inner, aiohttp.ServerDisconnectedError | ConnectionError) and not getattr(
        inner, "strerror", None
    ):
        return "connection closed without an answer"
    if isinstance(inner, OSError) and inner.errno:
        return os.strerror(inner.errno).lower() if inner.errno > 0 else "its name is not known"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return type(error).__name__
