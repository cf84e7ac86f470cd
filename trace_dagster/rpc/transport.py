"""One keep-alive HTTP connection to a JSON-RPC endpoint."""

import http.client
import io
import math
import re
import select
import socket
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import SplitResult

from trace_dagster.chain.decoding.safe_json import loads
from trace_dagster.errors import TraceError
from trace_dagster.rpc.address import authorization, basic, host_of, proxy_of, split
from trace_dagster.rpc.failures import GarbledReply, Unreachable
from trace_dagster.rpc.secrets import scrub, secrets_of
from trace_dagster.settings import RpcEndpoint
from trace_dagster.urls import redact

__all__ = ["Transport", "retry_after_seconds"]

_READ_BYTES = 1 << 18
_SECONDS_BETWEEN_CHECKS = 0.2
# What zlib's window bits say of the format: gzip, and zlib's own, which HTTP calls deflate.
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_GZIP_MAGIC: Final = b"\x1f\x8b"
_TRANSIENT_STATUS = frozenset({408, 425, 429})
# With these a JSON-RPC error may come as the body; with others the status says more.
_ANSWERED_STATUS: Final = frozenset({400, 404, 405, 413, 415, 422, 500, 501})
# With these a gateway says which endpoints failed, and how, or what a token may not do.
_EXPLAINED_STATUS: Final = frozenset({403, 429, 503})
_LONGEST_ANSWER: Final = 64 * 2**10
_DECIMAL: Final = re.compile(r"\d+(\.\d+)?", re.ASCII)
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

    def __init__(self, endpoint: RpcEndpoint, *, max_reply_bytes: int) -> None:
        url = endpoint.url.get_secret_value()
        parts = split(url, endpoint)
        self.shown = redact(url)
        self._where = f"rpc_pool {endpoint.pool!r} at {self.shown}"
        self._variable = endpoint.variable
        self._secrets = secrets_of(endpoint)
        self._max_reply_bytes = max_reply_bytes
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "gzip, deflate",
            "User-Agent": "trace-dagster",
        }
        credentials = authorization(endpoint, parts)
        if credentials:
            self._headers["Authorization"] = credentials
        if endpoint.is_gateway and endpoint.caller is not None:
            self._headers["X-Trace-Job"] = endpoint.caller.job
            self._headers["X-Trace-Priority"] = endpoint.caller.priority
            if endpoint.caller.partition:
                self._headers["X-Trace-Partition"] = endpoint.caller.partition
        self._connection = self._connect(parts)
        self._connection.response_class = self._response  # type: ignore[assignment] # it is only called
        self._until = 0.0
        self._buffer = bytearray()
        self.waited_seconds = 0.0

    def __repr__(self) -> str:
        return f"Transport({self.shown})"

    def _connect(self, parts: SplitResult) -> http.client.HTTPConnection:
        """Return a connection to the endpoint, through the proxy that the environment names if any."""
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        proxy = proxy_of(parts)
        if proxy is None:
            return kind(parts.hostname or "", parts.port)
        headers = {}
        if proxy.username is not None:
            headers["Proxy-Authorization"] = basic(proxy)
        connection = kind(proxy.hostname or "", proxy.port or 80)
        if parts.scheme == "https":
            connection.set_tunnel(parts.hostname or "", parts.port, headers)
        else:
            self._target = f"http://{host_of(parts)}{self._target}"
            self._headers |= headers
        return connection

    def close(self) -> None:
        """Close the connection; the next exchange opens it again."""
        self._connection.close()

    def exchange(
        self, body: bytes | None, timeout_seconds: float, check: Callable[[], None] = lambda: None
    ) -> memoryview:
        """Send ``body`` and return the reply's body, which the next exchange writes over.

        Args:
            body: JSON; None: nothing is sent, what is there is read.
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

    def _exchange(self, body: bytes | None, timeout_seconds: float, check: Callable[[], None]) -> memoryview:
        until = self._until = time.monotonic() + timeout_seconds
        connection = self._connection
        connection.timeout = timeout_seconds
        if connection.sock is not None and _is_readable(connection.sock):
            connection.close()  # it was closed at the other end, or has a reply that nobody asked for
        if connection.sock is not None:
            connection.sock.settimeout(timeout_seconds)
        connection.request("GET" if body is None else "POST", self._target, body, self._headers)
        sent = time.monotonic()
        self._await_reply(until, check)
        self.waited_seconds += time.monotonic() - sent
        with connection.getresponse() as response:
            if response.status != http.client.OK:
                raise self._refusal(response)
            return self._read(response, timeout_seconds)

    def _response(self, sock: socket.socket, *arguments: Any, **options: Any) -> http.client.HTTPResponse:
        """Return a response whose every read, that of its headers too, ends with the exchange."""
        response = http.client.HTTPResponse(sock, *arguments, **options)
        response.fp.close()
        response.fp = io.BufferedReader(_TimedReader(sock, lambda: self._until), _READ_BYTES)
        return response

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

    def _read(self, response: http.client.HTTPResponse, timeout_seconds: float) -> memoryview:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        unpack = _Unpacker(encoding) if encoding in _WINDOWS else None
        expected, received = response.length, 0
        total = 0
        if unpack is None and expected is not None:
            self._make_room(min(expected, self._max_reply_bytes))
        while True:
            try:
                piece = response.read1(_READ_BYTES)
            except TimeoutError:
                raise Unreachable(
                    f"{self._where} sent {received} bytes within {timeout_seconds:.3g} s and did not finish"
                ) from None
            if not piece:
                break
            received += len(piece)
            data = unpack.unpacked(piece, self._max_reply_bytes + 1 - total) if unpack else piece
            self._keep(data, total)
            total += len(data)
            if total > self._max_reply_bytes:
                raise GarbledReply(
                    f"{self._where} sent more than {self._max_reply_bytes} bytes in one reply; where that is "
                    "right, raise max_memory_bytes"
                )
        # read1() takes an early end of the stream for the end of the reply.
        if expected is not None and received < expected:
            raise GarbledReply(f"{self._where} cut its reply off at {received} of {expected} bytes")
        if unpack and not unpack.is_whole:
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
        said = self._explanation(response) if status in _EXPLAINED_STATUS else ""
        return Unreachable(
            f"{self._where} answered HTTP {status}{said}; {mend}",
            status=status,
            transient=status >= 500 or status in _TRANSIENT_STATUS,
            retry_after_seconds=retry_after_seconds(response.headers.get("Retry-After")),
            answer=_answer_in(response) if status in _ANSWERED_STATUS else None,
        )

    def _explanation(self, response: http.client.HTTPResponse) -> str:
        """Return what a gateway says of its refusal, ready to be appended."""
        try:
            answer = loads(str(_answer_in(response) or b"", "utf-8"))
        except ValueError:
            return ""
        error = answer.get("error") if isinstance(answer, dict) else None
        message = error.get("message") if isinstance(error, dict) else None
        return f": {scrub(message, self._secrets)}" if isinstance(message, str) else ""


class _TimedReader(io.RawIOBase):
    """What a socket receives, until a moment: a peer that sends byte by byte gains no time."""

    def __init__(self, sock: socket.socket, until: Callable[[], float]) -> None:
        super().__init__()
        self._sock, self._until = sock, until
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until() - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Unpacker:
    """Decompresses a body: gzip of one or more members, zlib's format, or bare deflate for that."""

    def __init__(self, encoding: str) -> None:
        self._wbits = _WINDOWS[encoding]
        self._inner = zlib.decompressobj(wbits=self._wbits)
        self._is_new = True

    @property
    def is_whole(self) -> bool:
        """Whether the last member has ended."""
        return self._inner.eof

    def unpacked(self, piece: bytes, most: int) -> bytes:
        """Return what ``piece`` holds, and no more than ``most`` bytes.

        Raises:
            zlib.error: it cannot be decompressed, or something else comes behind the end.
        """
        found = b""
        while piece:
            if self._inner.eof:
                if self._wbits != _WINDOWS["gzip"] or not piece.startswith(_GZIP_MAGIC[: len(piece)]):
                    raise zlib.error
                self._inner = zlib.decompressobj(wbits=self._wbits)
            found += self._member(piece, max(1, most - len(found)))
            piece = self._inner.unused_data
            if len(found) >= most:
                break
        return found

    def _member(self, piece: bytes, most: int) -> bytes:
        is_new, self._is_new = self._is_new, False
        try:
            return self._inner.decompress(piece, most)
        except zlib.error:
            if not is_new or self._wbits != _WINDOWS["deflate"]:
                raise
        self._inner = zlib.decompressobj(wbits=-_WINDOWS["deflate"])
        return self._inner.decompress(piece, most)


def _is_readable(sock: socket.socket) -> bool:
    readable = select.poll()
    readable.register(sock, select.POLLIN)
    return bool(readable.poll(0))


def _answer_in(response: http.client.HTTPResponse) -> bytes | None:
    """Return the body of a refusal, where it looks like a JSON-RPC error."""
    try:
        body = response.read(_LONGEST_ANSWER)
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding in _WINDOWS:
            body = _Unpacker(encoding).unpacked(body, _LONGEST_ANSWER)
    except (zlib.error, *_TRANSPORT_ERRORS):
        return None
    return body if body.lstrip()[:1] in (b"{", b"[") and b'"error"' in body else None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, http.client.RemoteDisconnected | ConnectionError):
        return "connection closed without an answer"
    return type(error).__name__


def retry_after_seconds(text: str | None) -> float | None:
    """Return what ``Retry-After`` says: seconds, or a date."""
    text = (text or "").strip()
    if _DECIMAL.fullmatch(text):
        return float(text)
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())
