"""Who asks, and what they may ask for."""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from trace_dagster.rpc.gateway.config import DEFAULT_METHODS, Priority
from trace_dagster.rpc.gateway.records import Caller
from trace_dagster.rpc.gateway.resolved import ResolvedToken

__all__ = ["Grant", "Guard", "is_here", "is_loopback", "is_loopback_host"]

_SAID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
# What our side gives Cryo, which sends no headers: {dag}/{job}/{block range}.
_SAID_BY_USER: Final = re.compile(
    rb"(?P<job>[A-Za-z0-9][A-Za-z0-9._-]{0,62}/[A-Za-z0-9][A-Za-z0-9._-]{0,62})/(?P<partition>\d{1,20}_\d{1,20})?"
)
_LONGEST_USER: Final = 512
_PRIORITIES: Final[Mapping[bytes, Priority]] = {b"high": "high", b"normal": "normal", b"low": "low"}
_ORDER: Final[Sequence[Priority]] = ("high", "normal", "low")
_MAX_REMEMBERED: Final = 500
# With these a reverse proxy says for whom it asks.
_PASSED_ON: Final = frozenset({b"forwarded", b"x-real-ip"})
_PASSED_ON_PREFIX: Final = b"x-forwarded-"
_PORT: Final = re.compile(r":\d{1,5}$")


@dataclass(frozen=True)
class Grant:
    """What the holder of a token may do.

    Attributes:
        name: the token's name.
        pools: names of pools; None: all.
        methods: names, and prefixes that end in ``*``.
        priority: the highest that it may ask for.
    """

    name: str
    pools: frozenset[str] | None
    methods: tuple[str, ...]
    priority: Priority
    _known: dict[str, bool] = field(default_factory=dict, repr=False)

    def allows_pool(self, pool: str) -> bool:
        """Whether it may ask ``pool``."""
        return self.pools is None or pool in self.pools

    def allows(self, method: str) -> bool:
        """Whether it may ask for ``method``."""
        known = self._known.get(method)
        if known is None:
            known = any(
                method.startswith(one[:-1]) if one.endswith("*") else method == one for one in self.methods
            )
            if len(self._known) < _MAX_REMEMBERED:
                self._known[method] = known
        return known

    def caller(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Return who asks, by the token and by what the request's headers say, as far as that can be read."""
        job, partition = _worked_on(headers)
        wanted = _PRIORITIES.get(headers.get(b"x-trace-priority", b"").lower(), self.priority)
        lower = max(_ORDER.index(wanted), _ORDER.index(self.priority))
        return Caller(self.name, job, _ORDER[lower], partition)


_LOCAL: Final = Grant("local", None, DEFAULT_METHODS, "high")


class Guard:
    """Finds the grant of a request.

    Args:
        tokens: of all callers; none: whoever is on this machine may ask.
    """

    def __init__(self, tokens: Sequence[ResolvedToken]) -> None:
        self._grants = [
            (
                one.digest,
                Grant(
                    one.config.name,
                    None if one.config.pools == "*" else frozenset(one.config.pools),
                    one.config.methods,
                    one.config.priority,
                ),
            )
            for one in tokens
        ]

    @property
    def is_open(self) -> bool:
        """Whether there are no tokens: only this machine may ask."""
        return not self._grants

    def grant(self, authorization: bytes | None) -> Grant | None:
        """Return the grant of an ``Authorization`` header; None where there is none.

        All tokens are compared, each in constant time, whichever it is.
        """
        digest = hashlib.sha256(_token(authorization or b"")).digest()
        found = None
        for known, grant in self._grants:
            if hmac.compare_digest(known, digest):
                found = grant
        return found

    def local(self, peer: str | None, headers: Mapping[bytes, bytes]) -> Grant | None:
        """Return the grant of a request without a token: from this machine, and not from a page in a browser.

        A page of a stranger may reach loopback by a name of its own (DNS rebinding), or post without reading.
        """
        if not is_here(peer, headers):
            return None
        origin = headers.get(b"origin")
        if origin is not None and not is_loopback_host(origin.decode("latin-1").rpartition("//")[2]):
            return None
        return _LOCAL


def is_here(peer: str | None, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request is of this machine by a name that only it has, and no proxy on it passed it on."""
    if not is_loopback(peer) or not is_loopback_host(headers.get(b"host", b"").decode("latin-1")):
        return False
    return not any(name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIX) for name in headers)


@lru_cache(maxsize=1024)
def is_loopback(address: str | None) -> bool:
    """Whether an IP address is this machine's own."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def is_loopback_host(host: str) -> bool:
    """Whether a ``Host`` header names this machine by a name that only it can have."""
    name = _PORT.sub("", host).strip("[]").lower()
    return name == "localhost" or is_loopback(name)


def _token(authorization: bytes) -> bytes:
    """Return the token of a Bearer or Basic header, empty where there is none."""
    kind, _, value = authorization.strip().partition(b" ")
    if kind.lower() == b"bearer":
        return value.strip()
    user, password = _basic(authorization)
    return password or user  # http://TOKEN@host puts it in the user's place


def _basic(authorization: bytes) -> tuple[bytes, bytes]:
    """Return user and password of a Basic header, empty where it is none."""
    kind, _, value = authorization.strip().partition(b" ")
    if kind.lower() != b"basic":
        return b"", b""
    try:
        user, _, password = base64.b64decode(value, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return b"", b""
    return user, password


def _worked_on(headers: Mapping[bytes, bytes]) -> tuple[str, str]:
    """Return job and partition by the headers made for that, else by the user of Basic; empty if unsaid."""
    job, partition = headers.get(b"x-trace-job", b""), headers.get(b"x-trace-partition", b"")
    if not job:
        user, password = _basic(headers.get(b"authorization", b""))
        # Without a password the user is the token. Some clients do not decode what stands in the URL.
        said = unquote_to_bytes(user) if password and len(user) <= _LONGEST_USER else b""
        match = _SAID_BY_USER.fullmatch(said)
        if match is not None:
            job, partition = match["job"], match["partition"] or b""
    if not _SAID.fullmatch(job):
        return "", ""
    return job.decode(), partition.decode() if _SAID.fullmatch(partition) else ""
