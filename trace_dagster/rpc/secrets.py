"""What must never be shown of an endpoint, and text with it taken out."""

import base64
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from trace_dagster.rpc.encodings import spans
from trace_dagster.settings import RpcEndpoint
from trace_dagster.urls import redact

__all__ = ["holds_secret", "scrub", "secrets_of"]

# Shorter parts of a path are words like "v1" or "rpc"; taking them out would only garble messages.
_SHORTEST_SECRET = 6
_SHORTEST_PASSWORD = 3
# The bound is for the time that a long word takes.
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,30}://[^\s\"'<>]+")


def secrets_of(endpoint: RpcEndpoint) -> tuple[str, ...]:
    """Return every part of the endpoint's URL and token that may be a credential, longest first.

    The pool's name, which ends the gateway's URL, is none: it is in the YAML.
    """
    url = endpoint.url.get_secret_value()
    found = {url}
    try:
        parts = urlsplit(url)
    except ValueError:
        return (url,)
    found.update((parts.path, parts.query, parts.fragment, *parts.path.split("/")))
    found.update(value for _, value in parse_qsl(parts.query))
    if "@" in parts.netloc:
        userinfo = parts.netloc.rpartition("@")[0]
        found.update((userinfo, *userinfo.split(":", 1)))
        found.add(base64.b64encode(unquote(userinfo).encode()).decode())
    if endpoint.token is not None:
        found.add(endpoint.token.get_secret_value())
    found.update([unquote(part) for part in found] + [quote(part, safe="") for part in found])
    kept = {part for part in found if len(part) >= _SHORTEST_SECRET} - {endpoint.pool}
    if parts.password and len(parts.password) >= _SHORTEST_PASSWORD:
        kept |= {parts.password, unquote(parts.password)}
    return tuple(sorted(kept, key=len, reverse=True))


def scrub(text: str, secrets: Iterable[str], limit: int = 300) -> str:
    """Return ``text`` on one line of at most ``limit`` characters, without ``secrets`` and URLs' paths.

    Secrets are found in the usual encodings, in which somebody's error text may repeat them.
    """
    text = _URL.sub(lambda match: redact(match[0]), text)
    pieces: list[str] = []
    at = 0
    for begin, end in spans(text, secrets):
        pieces += text[at:begin], "***"
        at = end
    text = "".join([*pieces, text[at:]])
    text = "".join(one if one.isprintable() else " " for one in text)  # no escape codes for a terminal
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def holds_secret(text: str, secrets: Iterable[str]) -> bool:
    """Whether any of ``secrets`` is in ``text``, in whatever encoding."""
    return bool(spans(text, secrets))
