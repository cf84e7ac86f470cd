"""Where an endpoint is: its URL taken apart, the credentials in it, and the proxy on the way."""

import base64
import re
import urllib.request
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from trace_dagster.errors import ConfigurationError
from trace_dagster.settings import RpcEndpoint

__all__ = ["authorization", "basic", "host_of", "proxy_of", "split"]

_PRINTABLE: Final = re.compile(r"[\x21-\x7e]*")


def split(url: str, endpoint: RpcEndpoint) -> SplitResult:
    """Return the parts of the URL of an endpoint.

    Raises:
        ConfigurationError: it is no http:// or https:// URL.
    """
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


def proxy_of(parts: SplitResult) -> SplitResult | None:
    """Return the proxy that the environment names for an endpoint; this machine itself needs none."""
    host = parts.hostname or ""
    if host in ("localhost", "::1") or host.startswith("127."):
        return None
    found = urllib.request.getproxies_environment().get(parts.scheme)
    if not found or urllib.request.proxy_bypass(host):
        return None
    try:
        proxy = urlsplit(found if "//" in found else f"//{found}")
        is_usable = bool(proxy.hostname) and proxy.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ConfigurationError(
            f"the proxy in {parts.scheme}_proxy or {parts.scheme.upper()}_PROXY cannot be used: it must be "
            "http://host:port, with %2F for a / in the password"
        )
    return proxy


def host_of(parts: SplitResult) -> str:
    """Return host and port without user and password."""
    return parts.netloc.rpartition("@")[2]


def authorization(endpoint: RpcEndpoint, parts: SplitResult) -> str | None:
    """Return the header ``Authorization``: the token, or user and password of the URL; None without."""
    if endpoint.token is not None:
        return f"Bearer {endpoint.token.get_secret_value()}"
    if parts.username is None:
        return None
    return basic(parts)


def basic(parts: SplitResult) -> str:
    """Return the credentials of a URL as HTTP Basic."""
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
