"""Bodies of HTTP requests and replies: bounded in size and time, compressed or not."""

import asyncio
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Final

__all__ = [
    "Headers",
    "HttpRefusal",
    "Receive",
    "Scope",
    "Send",
    "check_repeated",
    "compressed",
    "discard_body",
    "read_body",
]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Mapping[bytes, bytes]

_BODY_SECONDS: Final = 30.0
_DISCARD_SECONDS: Final = 2.0
_MOST_DISCARDED_BYTES: Final = 2**20
_WINDOWS: Final = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
_ONCE: Final = frozenset({
    b"authorization", b"content-encoding", b"content-length", b"host", b"origin", b"transfer-encoding",
    b"x-trace-job", b"x-trace-partition", b"x-trace-priority",
})  # fmt: skip
_SMALLEST_COMPRESSED: Final = 1_400
"""Fits into one packet as it is."""
_COMPRESSED_ASIDE: Final = 64 * 2**10


class HttpRefusal(Exception):
    """A request that is not answered.

    Attributes:
        status: HTTP status.
        code: of the JSON-RPC error.
        headers: more of the reply.
    """

    def __init__(self, status: int, message: str, *, code: int = -32600, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


async def read_body(receive: Receive, headers: Headers, max_bytes: int) -> bytes:
    """Return a request's body, decompressed.

    Raises:
        HttpRefusal: it is longer than ``max_bytes``, does not come in time, or cannot be decompressed.
    """
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > max_bytes:
        raise _too_long(max_bytes)
    window = None
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding != b"identity":
        window = _WINDOWS.get(encoding)
        if window is None:
            raise HttpRefusal(415, "this Content-Encoding is not read; send gzip, deflate or none")
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            body = await _whole(receive, max_bytes)
    except TimeoutError:
        raise HttpRefusal(
            408, f"the body did not come within {_BODY_SECONDS:g} s", connection="close"
        ) from None
    return body if window is None else _decompressed(body, window, max_bytes)


def check_repeated(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse headers that stand twice and say who asks or what the body is: a proxy may have read the other.

    Raises:
        HttpRefusal: there is one.
    """
    for name, count in Counter(name for name, _ in headers).items():
        if count > 1 and name in _ONCE:
            raise HttpRefusal(400, f"the header {name.decode()} stands {count} times; send it once")


async def discard_body(receive: Receive, headers: Headers) -> None:
    """Take what is not read, if it is short: whoever still sends might not see the reply before the end."""
    if b"expect" in headers:  # asking for the body is what would make it come
        return
    total = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            while total <= _MOST_DISCARDED_BYTES:
                message = await receive()
                total += len(message.get("body", b""))
                if not message.get("more_body"):
                    return


async def _whole(receive: Receive, max_bytes: int) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        _check_message(message)
        if len(body) > max_bytes:
            raise _too_long(max_bytes)
        return body
    pieces, total = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        _check_message(message)
        pieces.append(message.get("body", b""))
        total += len(pieces[-1])
        if total > max_bytes:
            raise _too_long(max_bytes)
    return b"".join(pieces)


def _check_message(message: MutableMapping[str, Any]) -> None:
    if message["type"] == "http.disconnect":
        raise HttpRefusal(400, "the connection was closed within the body")


def _too_long(max_bytes: int) -> HttpRefusal:
    return HttpRefusal(413, f"the body is longer than {max_bytes} bytes (limits.max_body_bytes)")


def _decompressed(body: bytes, window: int, max_bytes: int) -> bytes:
    unpack = zlib.decompressobj(wbits=window)
    try:
        found = unpack.decompress(body, max_bytes + 1)
    except zlib.error:
        raise HttpRefusal(400, "the body cannot be decompressed", code=-32700) from None
    if len(found) > max_bytes:
        raise _too_long(max_bytes)
    if not unpack.eof or unpack.unused_data:
        raise HttpRefusal(400, "the compressed body is not whole", code=-32700)
    return found


async def compressed(body: bytes, accepted: bytes) -> bytes | None:
    """Return ``body`` as gzip; None where the client does not read that, or where it is not worth it."""
    if len(body) < _SMALLEST_COMPRESSED or not _reads_gzip(accepted):
        return None
    if len(body) < _COMPRESSED_ASIDE:
        return _gzip(body)
    return await asyncio.to_thread(_gzip, body)


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    return packer.compress(body) + packer.flush()


def _reads_gzip(accepted: bytes) -> bool:
    for one in accepted.lower().split(b","):
        name, _, quality = one.strip().partition(b";")
        if name.strip() in (b"gzip", b"*"):
            return quality.replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
    return False
