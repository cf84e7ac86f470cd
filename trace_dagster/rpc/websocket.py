"""A WebSocket connection to an endpoint: bounded in time and size, no credential in a log or an error."""

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from urllib.parse import SplitResult

from pydantic import SecretStr
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from trace_dagster.rpc.address import authorization, host_of, proxy_of, split
from trace_dagster.rpc.failures import Unreachable
from trace_dagster.rpc.secrets import scrub, secrets_of
from trace_dagster.settings import RpcEndpoint
from trace_dagster.urls import redact

__all__ = ["open_websocket", "websocket_endpoint"]

_OPEN_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 0.5
_MAX_MESSAGE_BYTES: Final = 2**18
"""A head is one or two thousand bytes."""

_SCHEMES: Final = {"http": "ws", "https": "wss"}


def websocket_endpoint(endpoint: RpcEndpoint) -> RpcEndpoint:
    """Return where an endpoint may take WebSockets: where it was told, else at the same address."""
    if endpoint.websocket_url is None:
        return endpoint
    url = endpoint.websocket_url.get_secret_value()
    variable = f"{endpoint.variable.removesuffix('_URL')}_WS_URL"
    # What parses and guards http:// URLs does so for ws:// ones.
    return endpoint.model_copy(update={"url": SecretStr(f"http{url[2:]}"), "variable": variable})


@contextmanager
def open_websocket(endpoint: RpcEndpoint) -> Iterator[ClientConnection]:
    """Open a connection, through the proxy that the environment names if any, and close it at the end.

    Args:
        endpoint: as ``websocket_endpoint`` returns it.

    Raises:
        ConfigurationError: the URL, or the proxy's, cannot be used.
        Unreachable: there is no connection, or it broke meanwhile.
    """
    parts = split(endpoint.url.get_secret_value(), endpoint)
    shown = redact(_url(parts))
    try:
        with ExitStack() as stack:
            options = _options(endpoint, parts)
            if options["proxy"] is None:
                options["sock"] = stack.enter_context(_connected(parts))
            yield stack.enter_context(connect(_url(parts), **options))
    except TimeoutError:
        why = f"did not answer within {_OPEN_SECONDS:g} s"
    except InvalidStatus as error:
        why = f"takes no WebSockets: HTTP {error.response.status_code}"
    except (AssertionError, OSError, EOFError, ValueError, WebSocketException) as error:
        # AssertionError: of websockets 17 itself, where a reply in the handshake is garbage.
        why = f"takes no WebSockets, or broke off: {_reason(error)}"
    else:
        return
    # Raised outside the handlers: the library's own exceptions quote what they were given.
    raise Unreachable(scrub(f"rpc_pool {endpoint.pool!r} at {shown} {why}", secrets_of(endpoint)))


def _url(parts: SplitResult) -> str:
    """Return the URL without user and password, which go into a header."""
    return parts._replace(scheme=_SCHEMES[parts.scheme], netloc=host_of(parts), fragment="").geturl()


def _options(endpoint: RpcEndpoint, parts: SplitResult) -> dict[str, Any]:
    credentials = authorization(endpoint, parts)
    proxy = proxy_of(parts)
    return {
        "additional_headers": {"Authorization": credentials} if credentials else None,
        "user_agent_header": "trace-dagster",
        "proxy": None if proxy is None else proxy._replace(scheme="http").geturl(),
        "compression": None,  # a small message must not become a large one
        "open_timeout": _OPEN_SECONDS,
        "close_timeout": _CLOSE_SECONDS,
        "max_size": _MAX_MESSAGE_BYTES,
        "logger": _silent_logger(),
    }


def _connected(parts: SplitResult) -> socket.socket:
    """Return a socket of our own: with one the library follows no redirect to somewhere else."""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connected = socket.create_connection((parts.hostname or "", port), timeout=_OPEN_SECONDS)
    connected.settimeout(None)
    return connected


def _silent_logger() -> logging.Logger:
    """Return a logger that no configuration reaches: at DEBUG the library writes URL and headers."""
    logger = logging.Logger("trace_dagster.rpc.websocket")  # noqa: LOG001
    logger.disabled = True
    return logger


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
