"""One keep-alive HTTP connection to a JSON-RPC endpoint."""

import base64
import http.client
import math
import re
import select
import time
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
_TRANSIENT_STATUS = frozenset({408, 425, 429})
_TRANSPORT_ERRORS = (OSError, http.client.HTTPException, UnicodeError)


class Transport:
    """Sends request bodies and returns reply bodies; one exchange at a time, no retries.

    No message, ``repr`` or exception chain of it holds more of the URL than scheme, host and port.

    Args:
        endpoint: where to send.
        max_reply_bytes: longest reply accepted, decompressed.
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
            "Accept-Encoding": "gzip",
            "User-Agent": "trace-dagster",
        }
        authorization = _authorization(endpoint, parts)
        if authorization:
            self._headers["Authorization"] = authorization
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port)

    def __repr__(self) -> str:
        return f"Transport({self.shown})"

    def close(self) -> None:
        """Close the connection; the next exchange opens it again."""
        self._connection.close()

    def exchange(
        self, body: bytes, timeout_seconds: float, check: Callable[[], None] = lambda: None
    ) -> bytes:
        """Send ``body`` and return the reply's body.

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

    def _exchange(self, body: bytes, timeout_seconds: float, check: Callable[[], None]) -> bytes:
        until = time.monotonic() + timeout_seconds
        connection = self._connection
        connection.timeout = timeout_seconds
        if connection.sock is not None:
            connection.sock.settimeout(timeout_seconds)
        connection.request("POST", self._target, body, self._headers)
        self._await_reply(until, check)
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

    def _read(self, response: http.client.HTTPResponse, until: float, timeout_seconds: float) -> bytes:
        unpack = zlib.decompressobj(wbits=31) if response.headers.get("Content-Encoding") == "gzip" else None
        expected, received = response.length, 0
        pieces: list[bytes] = []
        total = 0
        while piece := response.read1(_READ_BYTES):
            received += len(piece)
            data = unpack.decompress(piece, self._max_reply_bytes + 1) if unpack else piece
            total += len(data)
            pieces.append(data)
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
        return b"".join(pieces)

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


def _authorization(endpoint: RpcEndpoint, parts: SplitResult) -> str | None:
    if endpoint.token is not None:
        return f"Bearer {endpoint.token.get_secret_value()}"
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, http.client.RemoteDisconnected | ConnectionError):
        return "connection closed without an answer"
    return type(error).__name__


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.strip().isdigit() else None
