"""One HTTP exchange with an endpoint, bounded in time and size; never an address in what it raises."""

import asyncio
import re
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from trace_dagster.rpc.address import proxy_of
from trace_dagster.rpc.gateway.endpoint import Key
from trace_dagster.rpc.gateway.faults import BatchTooLarge, Fault, FaultKind
from trace_dagster.rpc.gateway.jsonrpc import is_reply
from trace_dagster.rpc.gateway.replies import SMALL_BYTES, Held, ReplyRoom
from trace_dagster.rpc.gateway.resolver import ForbiddenAddress, GuardedResolver, ProxiedNames
from trace_dagster.rpc.secrets import scrub
from trace_dagster.rpc.transport import retry_after_seconds

__all__ = ["Upstream"]

# Statuses with which providers refuse a batch as such.
_BATCH_REFUSED: Final = frozenset({400, 405, 413, 415, 422, 501})
_RATE_LIMITED: Final = frozenset({429, 529})
_REFUSED: Final = frozenset({401, 402, 403, 407})
# 403 may be for what was asked, e.g. by a firewall.
_OF_KEY: Final = frozenset({401, 402, 407})
# With these some providers refuse a method that is not in the plan: the key is good for others.
_NOT_IN_PLAN_STATUS: Final = frozenset({402, 403})
_NOT_IN_PLAN: Final = re.compile(
    r"(?i)-32601|(?:method|\w+_\w+) (?:is )?not (?:available|supported|allowed|enabled|whitelisted)"
)
_CONNECT_SECONDS: Final = 10.0
_IDLE_SECONDS: Final = 60.0
_LONGEST_TOLD: Final = 200
_MOST_TOLD_OF: Final = 2**14


class Upstream:
    """Connections to the endpoints of one pool, used again and again.

    Args:
        max_reply_bytes: longest reply accepted, decompressed.
        room: for all replies that are held at once.
    """

    def __init__(self, max_reply_bytes: int, room: ReplyRoom) -> None:
        self._max_reply_bytes, self._room = max_reply_bytes, room
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=_IDLE_SECONDS, ttl_dns_cache=60, resolver=GuardedResolver()
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json", "User-Agent": "trace-dagster"},
            trust_env=False,
        )
        self._proxied = ProxiedNames()
        self._urls: dict[Key, tuple[URL, URL | None]] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def exchange(
        self, key: Key, body: bytes, *, items: int, timeout_seconds: float, held: Held | None = None
    ) -> bytes:
        """Send ``body`` and return the reply's.

        Args:
            key: to send with.
            body: what is asked.
            items: requests in it.
            timeout_seconds: of the whole exchange.
            held: takes account of the reply where that is kept.

        Raises:
            NoRoom: too many bytes of replies are held already.
            Fault: there is no reply, or not one that could be an answer.
            BatchTooLarge: the endpoint refuses a batch of ``items`` as such.
        """
        try:
            return await self._exchange(key, body, items, timeout_seconds, held)
        except TimeoutError:
            fault = Fault(FaultKind.TIMEOUT, f"no whole answer within {timeout_seconds:.3g} s")
        except aiohttp.ClientPayloadError:
            fault = Fault(FaultKind.GARBLED, "the reply was cut off or cannot be decompressed")
        except aiohttp.ClientSSLError:
            fault = Fault(
                FaultKind.UNAVAILABLE, "no TLS connection: its certificate or protocol is not accepted"
            )
        except aiohttp.ClientConnectorError as error:
            reason = (error.os_error.strerror or "no connection").lower()
            fault = Fault(FaultKind.UNAVAILABLE, f"cannot be reached: {scrub(reason, key.endpoint.secrets)}")
        except ForbiddenAddress as error:
            fault = Fault(FaultKind.UNAVAILABLE, f"cannot be reached: {error.strerror}")
        except (aiohttp.ServerDisconnectedError, OSError):
            fault = Fault(FaultKind.DROPPED, "connection closed without an answer")
        except (aiohttp.ClientError, ValueError):
            fault = Fault(FaultKind.GARBLED, "the reply is no HTTP")
        # Raised here, outside the handlers: the library's exception, which may quote the URL, is not chained.
        raise fault

    async def _exchange(
        self, key: Key, body: bytes, items: int, timeout_seconds: float, held: Held | None
    ) -> bytes:
        found = self._urls.get(key)
        if found is None:
            found = self._urls[key] = _url_and_proxy(key.access.url.get_secret_value())
        url, proxy = found
        async with asyncio.timeout(timeout_seconds):
            if proxy is not None:
                await self._proxied.check(url.host or "")
            async with self._session.post(
                url,
                data=body,
                headers=key.access.headers,
                allow_redirects=False,
                timeout=_NO_TIMEOUT,
                proxy=proxy,
            ) as response:
                reply = await self._read(response, held)
                if response.status == 200:
                    return reply
                _check_status(response, reply, key, items)
                return reply

    async def _read(self, response: aiohttp.ClientResponse, held: Held | None) -> bytes:
        if (response.content_length or 0) > self._max_reply_bytes:
            response.close()
            raise Fault(FaultKind.GARBLED, f"a reply of more than {self._max_reply_bytes} bytes")
        pieces: list[bytes] = []
        total = counted = 0
        is_whole = False
        holding = held or Held(self._room)
        try:
            async for piece in response.content.iter_any():
                pieces.append(piece)
                total += len(piece)
                if total > self._max_reply_bytes:
                    raise Fault(FaultKind.GARBLED, f"a reply of more than {self._max_reply_bytes} bytes")
                if total > SMALL_BYTES:
                    holding.take(total - counted)
                    counted = total
            is_whole = True
        finally:
            if not is_whole:
                response.close()
            if held is None or not is_whole:
                holding.give_back(counted)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _url_and_proxy(text: str) -> tuple[URL, URL | None]:
    proxy = proxy_of(urlsplit(text))
    return URL(text, encoded=True), None if proxy is None else URL(proxy.geturl(), encoded=True)


_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)


def _check_status(response: aiohttp.ClientResponse, reply: bytes, key: Key, items: int) -> None:
    """Raise what a status other than 200 means; pass where the body, a JSON-RPC error, says more."""
    status = response.status
    told = f"{len(reply)} bytes"
    if len(reply) <= _MOST_TOLD_OF:  # a part of it could end within a secret, which would not be known there
        told = scrub(reply.decode(errors="replace"), key.endpoint.secrets, _LONGEST_TOLD)
    wait_seconds = retry_after_seconds(response.headers.get("Retry-After"))
    if status in _RATE_LIMITED or (status == 503 and wait_seconds is not None):
        raise Fault(FaultKind.RATE_LIMITED, f"HTTP {status}", wait_seconds)
    if status in _REFUSED and not (status in _NOT_IN_PLAN_STATUS and _NOT_IN_PLAN.search(told)):
        raise Fault(FaultKind.REFUSED, f"HTTP {status}: {told}", is_of_key=status in _OF_KEY)
    if is_reply(reply):
        return
    if status in _BATCH_REFUSED and items > 1:
        raise BatchTooLarge
    raise Fault(FaultKind.UNAVAILABLE, f"HTTP {status}: {told}")
