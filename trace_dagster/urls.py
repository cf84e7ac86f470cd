"""URLs as they may be shown: without credentials, paths or queries, where providers put their keys."""

from urllib.parse import urlsplit

__all__ = ["redact"]


def redact(url: str) -> str:
    """Return scheme, host and port of ``url`` only, e.g. ``https://rpc.example:8545/...``.

    A URL that cannot be read becomes ``<unreadable URL>``, never its own text.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "<unreadable URL>"
    if not parts.scheme or not host:
        return "<unreadable URL>"
    shown = f"{parts.scheme}://{host}" + (f":{port}" if port else "")
    hidden = parts.path.strip("/") or parts.query or parts.fragment
    return f"{shown}/..." if hidden else shown
