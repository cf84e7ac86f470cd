"""One keep-alive HTTP connection to a JSON-RPC endpoint."""

import base64
import http.client
import math
import re
import select
import time
import urllib.request
import zlib
from collections.abc import Callable
from urllib.parse import SplitResult, unquote, urlsplit

from trace_dagster.errors import ConfigurationError, TraceError
from trace_dagster.rpc.failures import GarbledReply, Unreachable
from trace_dagster.settings import RpcEndpoint
from trace_dagster.urls import redact

__all__ = ["Transport"]

_PRINTABLE = re.compile(r"[\x21-\x7e]*")
_READ_BYTES = 1 << 18
_SECONDS_BETWEEN_CHECKS = 0.2
# What zlib's window bits say of the format: gzip, and zlib's own, which HTTP calls deflate.
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_TRANSIENT_STATUS = frozenset({408, 425, 429})
_TRANSPORT_ERRORS = (OSError, http.client.HTTPException, UnicodeError)


class Transport:
    """Sends request bodies and returns reply bodies; one exchange at a time, no retries.

    No message, ``repr`` or exception chain of it holds more of the URL than scheme, host and port.

    Args:
        endpoint: where to send.
        max_reply_bytes: longest reply accepted, decompressed.

    Attributes:
        waited_seconds: how long replies did not begin, of all exchanges together.
    """

    def __init__(self, endpoint: RpcEndpoint, *, max_reply_bytes: int = 512 * 2**20) -> None:
        url = endpoint.url.get_secret_value()
        parts = _split(url, endpoint)
        self.shown = redact(url)
        self._where = f"rpc_pool {endpoint.pool!r} at {self.shown}"
        self._variable = endpoint.variable
        self._max_reply_bytes = max_reply_bytes
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "gzip, deflate",
            "User-Agent": "trace-dagster",
        }
        authorization = _authorization(endpoint, parts)
        if authorization:
            self._headers["Authorization"] = authorization
        self._connection = self._connect(parts)
        self._buffer = bytearray()
        self.waited_seconds = 0.0

    def __repr__(self) -> str:
        return f"Transport({self.shown})"

    def _connect(self, parts: SplitResult) -> http.client.HTTPConnection:
        """Return a connection to the endpoint, through the proxy that the environment names if any."""
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        proxy = _proxy_of(parts)
        if proxy is None:
            return kind(parts.hostname or "", parts.port)
        headers = {}
        if proxy.username is not None:
            headers["Proxy-Authorization"] = _basic(proxy)
        connection = kind(proxy.hostname or "", proxy.port or 80)
        if parts.scheme == "https":
            connection.set_tunnel(parts.hostname or "", parts.port, headers)
        else:
            self._target = f"http://{_host_of(parts)}{self._target}"
            self._headers |= headers
        return connection

    def close(self) -> None:
        """Close the connection; the next exchange opens it again."""
        self._connection.close()

    def exchange(
        self, body: bytes, timeout_seconds: float, check: Callable[[], None] = lambda: None
    ) -> memoryview:
        """Send ``body`` and return the reply's body, which the next exchange writes over.

        Args:
            body: JSON.
            timeout_seconds: limit of the whole exchange.
            check: called several times a second until the reply begins; the TraceError that it raises ends
                the exchange.

        Raises:
            Unreachable: no connection, no reply in time, or a status other than 200.
            GarbledReply: the reply cannot be decompressed, or is too long.
        """
        failure: Unreachable | GarbledReply
        try:
            return self._exchange(body, timeout_seconds, check)
        except (Unreachable, GarbledReply) as error:
            failure = error
        except TraceError:
            self.close()  # the reply may yet come, and must not be taken for the next one
            raise
        except TimeoutError:
            failure = Unreachable(f"{self._where} did not answer within {timeout_seconds:.3g} s")
        except zlib.error:
            failure = GarbledReply(f"{self._where} sent a reply that cannot be decompressed")
        except http.client.IncompleteRead as error:
            failure = GarbledReply(f"{self._where} cut its reply off after {len(error.partial)} more bytes")
        except _TRANSPORT_ERRORS as error:
            failure = Unreachable(
                f"{self._where} cannot be reached: {_reason(error)}; check {self._variable} and the network"
            )
        # Raised here, outside the handlers, so that the library's own exception, which may quote the URL, is
        # not chained to it.
        self.close()
        raise failure.with_traceback(None)

    def _exchange(self, body: bytes, timeout_seconds: float, check: Callable[[], None]) -> memoryview:
        until = time.monotonic() + timeout_seconds
        connection = self._connection
        connection.timeout = timeout_seconds
        if connection.sock is not None:
            connection.sock.settimeout(timeout_seconds)
        connection.request("POST", self._target, body, self._headers)
        sent = time.monotonic()
        self._await_reply(until, check)
        self.waited_seconds += time.monotonic() - sent
        with connection.getresponse() as response:
            if response.status != http.client.OK:
                raise self._refusal(response)
            return self._read(response, until, timeout_seconds)

    def _await_reply(self, until: float, check: Callable[[], None]) -> None:
        readable = select.poll()
        readable.register(self._connection.sock, select.POLLIN)
        while True:
            seconds = min(_SECONDS_BETWEEN_CHECKS, until - time.monotonic())
            if readable.poll(math.ceil(max(0.0, seconds) * 1000)):
                return
            if time.monotonic() >= until:
                raise TimeoutError
            check()

    def _read(self, response: http.client.HTTPResponse, until: float, timeout_seconds: float) -> memoryview:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        unpack = zlib.decompressobj(wbits=_WINDOWS[encoding]) if encoding in _WINDOWS else None
        expected, received = response.length, 0
        total = 0
        if unpack is None and expected is not None:
            self._make_room(min(expected, self._max_reply_bytes))
        while piece := response.read1(_READ_BYTES):
            received += len(piece)
            data = unpack.decompress(piece, self._max_reply_bytes + 1) if unpack else piece
            self._keep(data, total)
            total += len(data)
            if total > self._max_reply_bytes:
                raise GarbledReply(f"{self._where} sent more than {self._max_reply_bytes} bytes in one reply")
            if time.monotonic() > until:
                raise Unreachable(
                    f"{self._where} sent {received} bytes within {timeout_seconds:.3g} s and did not finish"
                )
        # read1() takes an early end of the stream for the end of the reply.
        if expected is not None and received < expected:
            raise GarbledReply(f"{self._where} cut its reply off at {received} of {expected} bytes")
        if unpack and not unpack.eof:
            raise GarbledReply(f"{self._where} cut its compressed reply off at {received} bytes")
        return memoryview(self._buffer)[:total]

    def _keep(self, data: bytes, at: int) -> None:
        """Put ``data`` into the buffer, used again and again: fresh memory costs more than the copy."""
        end = at + len(data)
        if end > len(self._buffer):
            self._make_room(max(end, len(self._buffer) * 5 // 4, _READ_BYTES))
        self._buffer[at:end] = data

    def _make_room(self, size: int) -> None:
        if size > len(self._buffer):
            larger = bytearray(size)
            larger[: len(self._buffer)] = self._buffer
            self._buffer = larger

    def _refusal(self, response: http.client.HTTPResponse) -> Unreachable:
        status = response.status
        mend = f"check {self._variable}"
        if status in (401, 403):
            mend = f"check the credentials in {self._variable}"
        elif status == 429:
            mend = "the endpoint asks for fewer requests: lower scaling.max_concurrency"
        return Unreachable(
            f"{self._where} answered HTTP {status}; {mend}",
            status=status,
            transient=status >= 500 or status in _TRANSIENT_STATUS,
            retry_after_seconds=_seconds(response.headers.get("Retry-After")),
        )


def _split(url: str, endpoint: RpcEndpoint) -> SplitResult:
    pool, variable = endpoint.pool, endpoint.variable
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not _PRINTABLE.fullmatch(url):
        raise ConfigurationError(
            f"the URL of rpc_pool {pool!r} cannot be used: {variable} must be an http:// or https:// URL"
        )
    return parts


def _proxy_of(parts: SplitResult) -> SplitResult | None:
    """Return the proxy that the environment names for an endpoint; this machine itself needs none."""
    host = parts.hostname or ""
    if host in ("localhost", "::1") or host.startswith("127."):
        return None
    found = urllib.request.getproxies_environment().get(parts.scheme)
    if not found or urllib.request.proxy_bypass(host):
        return None
    return urlsplit(found if "//" in found else f"//{found}")


def _host_of(parts: SplitResult) -> str:
    """Return host and port without user and password."""
    return parts.netloc.rpartition("@")[2]


def _authorization(endpoint: RpcEndpoint, parts: SplitResult) -> str | None:
    if endpoint.token is not None:
        return f"Bearer {endpoint.token.get_secret_value()}"
    if parts.username is None:
        return None
    return _basic(parts)


def _basic(parts: SplitResult) -> str:
    """Return the credentials of a URL as HTTP Basic."""
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, http.client.RemoteDisconnected | ConnectionError):
        return "connection closed without an answer"
    return type(error).__name__


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.strip().isdigit() else None
