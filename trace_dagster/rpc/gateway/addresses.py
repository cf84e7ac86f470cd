"""Which URLs and headers an endpoint may have: nothing that leads to a machine's own metadata."""

import ipaddress
import re
import socket
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

__all__ = ["KEY", "header_problem", "is_forbidden_address", "is_loopback", "key_problem", "url_problem"]

KEY: Final = "{key}"
"""What stands for the key in a URL."""

_FORBIDDEN_NETWORKS: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "169.254.0.0/16",  # link-local: metadata of AWS, Google, Azure
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "100.100.100.200/32",  # metadata of Alibaba
        "168.63.129.16/32",  # Azure's own
        "192.0.0.192/32",  # metadata of Oracle
        "::/128",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
        "fd00:ec2::254/128",  # metadata of AWS
        "fd20:ce::254/128",  # metadata of Google
    )
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_METADATA_NAMES: Final = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
_LOOPBACK_NAMES: Final = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})
_HOST: Final = re.compile(
    r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
# RFC 9110 section 7.6.1, and what says where a message ends or goes: a key there would break the exchange.
_OUR_HEADERS: Final = frozenset({
    "accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "cookie",
    "expect", "host", "keep-alive", "origin", "proxy-authenticate", "proxy-authorization", "proxy-connection",
    "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
})  # fmt: skip


def url_problem(url: str, *, has_keys: bool, key_header: str | None) -> str | None:
    """Return what is wrong with an endpoint's URL, without quoting it, and what to do; else None.

    Args:
        url: as the secret says it, with ``{key}`` in it or not.
        has_keys: whether the endpoint has keys.
        key_header: header that carries the key, if any.
    """
    if not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
        return "holds a space, a control character or one that is not ASCII; write it percent-encoded"
    try:
        parts = urlsplit(url.replace(KEY, "key"))
        _ = parts.port
    except ValueError:
        return "is no URL; write https://host/path"
    if parts.scheme not in ("http", "https"):
        return "is no http or https URL; write https://host/path"
    if "@" in parts.netloc and (key_header or "").lower() == "authorization":
        return "has a user in it although key_header is Authorization; take one of them out"
    return _host_problem(parts) or _key_place_problem(url, has_keys=has_keys, key_header=key_header)


def _host_problem(parts: SplitResult) -> str | None:
    host = parts.hostname or ""
    userinfo, at, _ = parts.netloc.rpartition("@")
    if at and not userinfo.strip(":"):
        return "has an @ without a user before it; take the @ out"
    if parts.fragment:
        return "has a # in it, and what follows is never sent; take it out"
    if "\\" in parts.netloc or "%" in host or not host:
        return "names no host; write https://host/path"
    if is_forbidden_address(host):
        return "leads to a link-local, metadata or multicast address; name a provider's host"
    if ":" not in host and not _HOST.fullmatch(host):
        return "names no host; write https://host/path"
    return None


def _key_place_problem(url: str, *, has_keys: bool, key_header: str | None) -> str | None:
    if KEY in urlsplit(url).netloc:
        return f"has {KEY} in its host; put it into the path or the query"
    placeholder = KEY in url or KEY in unquote(url)
    if placeholder and KEY not in url:
        return f"has a percent-encoded {KEY}; write it as it is"
    if placeholder and not has_keys:
        return f"has {KEY} in it, and the endpoint has no keys; add keys, or the key to the URL"
    if placeholder and key_header is not None:
        return f"has {KEY} in it although key_header carries the key; remove one of them"
    if has_keys and not placeholder and key_header is None:
        return f"has no {KEY} in it, and there is no key_header; add one of them, to carry the keys"
    return None


def is_forbidden_address(host: str) -> bool:
    """Whether a host name, or an address it was resolved to, is one that no provider has.

    Link-local, multicast and metadata addresses in every form that a resolver takes (``2852039166``,
    ``0xA9FEA9FE``, ``::ffff:169.254.169.254``), and the names of metadata services. Loopback and private
    addresses are allowed: nodes of one's own have them.
    """
    name = host.lower().strip("[]").rstrip(".").partition("%")[0]
    if name in _METADATA_NAMES:
        return True
    address = _address(name)
    return address is not None and any(
        candidate in network
        for candidate in (address, *_inside(address))
        for network in _FORBIDDEN_NETWORKS
        if candidate.version == network.version
    )


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(name))
    except (OSError, ValueError):
        return None


def _inside(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> tuple[ipaddress.IPv4Address, ...]:
    """Return the IPv4 addresses that an IPv6 address stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    number = int(address)
    if address in _NAT64 or number < 2**32:
        found.append(ipaddress.IPv4Address(number & 0xFFFFFFFF))
    return tuple(one for one in found if one is not None and int(address) > 1)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens at ``host``."""
    if host.lower() in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def header_problem(name: str) -> str | None:
    """Return what is wrong with ``key_header`` and what to write; None where it is right."""
    if not _HEADER.fullmatch(name):
        return "is no name of an HTTP header; write letters, digits and -, e.g. x-api-key"
    if name.lower() in _OUR_HEADERS:
        return "is a header that belongs to the exchange itself; write Authorization, or e.g. x-api-key"
    return None


def key_problem(key: str) -> str | None:
    """Return what is wrong with a key or token, without quoting it, and what to do; else None."""
    if not key.isascii() or any(character <= " " or character == "\x7f" for character in key):
        return "holds a space, a line break or a character that is not ASCII; store the key alone"
    return None
