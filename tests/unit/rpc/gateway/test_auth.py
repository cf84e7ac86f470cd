"""Tokens, hosts and what headers may say."""

import base64
import hashlib

import pytest

from trace_dagster.rpc.gateway.auth import Guard, is_loopback, is_loopback_host
from trace_dagster.rpc.gateway.config import TokenConfig
from trace_dagster.rpc.gateway.methods import BLOCK_AT, BY_BLOCK_HASH
from trace_dagster.rpc.gateway.resolved import ResolvedToken

TOKENS = {"one": "token-of-the-first", "two": "token-of-the-second"}


@pytest.fixture
def guard() -> Guard:
    """Two tokens; the second one is for eth_get* of one pool, at low priority."""
    narrow = TokenConfig(
        name="two", token="env:T", pools=("monad",), methods=("eth_get*", "eth_chainId"), priority="low"
    )
    configs = [TokenConfig(name="one", token="env:T"), narrow]
    return Guard([ResolvedToken(one, hashlib.sha256(TOKENS[one.name].encode()).digest()) for one in configs])


@pytest.mark.parametrize("name", ["one", "two"])
def test_each_token_has_its_grant(guard: Guard, name: str) -> None:
    """As Bearer in any case of the word, or as either part of Basic."""
    token = TOKENS[name].encode()
    basic = [base64.b64encode(pair) for pair in (b"user:" + token, token + b":", token)]
    for header in (b"Bearer " + token, b"bearer  " + token, *(b"Basic " + one for one in basic)):
        grant = guard.grant(header)
        assert grant is not None
        assert grant.name == name


@pytest.mark.parametrize(
    "header",
    [None, b"", b"Bearer", b"Bearer ", b"token-of-the-first", b"Digest x", b"Basic !", b"Bearer \xff"],
)
def test_anything_else_has_none(guard: Guard, header: bytes | None) -> None:
    """No header, another kind, no token."""
    assert guard.grant(header) is None


def test_a_grants_pools_and_methods(guard: Guard) -> None:
    """Names and beginnings."""
    grant = guard.grant(b"Bearer token-of-the-second")
    assert grant is not None
    assert (grant.allows_pool("monad"), grant.allows_pool("other")) == (True, False)
    assert [grant.allows(one) for one in ("eth_getLogs", "eth_chainId", "eth_call", "eth_chainIdx")] == [
        True,
        True,
        False,
        False,
    ]


def test_headers_lower_a_priority_and_never_raise_it(guard: Guard) -> None:
    """A job's name that is none is left out."""
    low, normal = guard.grant(b"Bearer token-of-the-second"), guard.grant(b"Bearer token-of-the-first")
    assert low is not None
    assert normal is not None
    assert low.caller({b"x-trace-priority": b"high", b"x-trace-job": b"monad/blocks"}).priority == "low"
    assert normal.caller({b"x-trace-priority": b"low"}).priority == "low"
    assert normal.caller({b"x-trace-priority": b"high"}).priority == "normal"
    assert normal.caller({b"x-trace-job": b"monad/blocks"}).job == "monad/blocks"
    for job in (b'a"b', b"a\nb", b"a" * 129, b"-a", "é".encode()):
        assert normal.caller({b"x-trace-job": job}).job == ""


def test_this_machine() -> None:
    """Loopback addresses and the names that only they have."""
    assert [is_loopback(one) for one in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")] == [True] * 4
    assert not any(is_loopback(one) for one in ("10.0.0.1", "192.0.2.1", "", None, "localhost", "::"))
    assert all(map(is_loopback_host, ("localhost", "LOCALHOST:80", "127.0.0.1:8645", "[::1]:8645", "[::1]")))
    assert not any(
        map(is_loopback_host, ("", "localhost.evil.example", "127.0.0.1.nip.io", "evil:127", "192.0.2.1"))
    )


@pytest.mark.parametrize("header", [b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-real-ip"])
def test_what_a_proxy_passes_on_is_not_of_this_machine(header: bytes) -> None:
    """A reverse proxy on this machine asks for somebody elsewhere."""
    headers = {b"host": b"localhost:8645"}
    assert Guard([]).local("127.0.0.1", headers) is not None
    assert Guard([]).local("127.0.0.1", {**headers, header: b"8.8.8.8"}) is None


def test_the_default_methods_only_read(guard: Guard) -> None:
    """Neither a file of the node, nor its mining, nor filters that another endpoint does not have."""
    grant = guard.grant(b"Bearer token-of-the-first")
    assert grant is not None
    beginnings = ("eth_getBlock", "eth_getTransaction", "eth_getUncle", "trace_", "debug_traceBlockBy")
    read = [one for one in {*BLOCK_AT, *BY_BLOCK_HASH} if one.startswith(beginnings)]
    read += ["eth_call", "eth_estimateGas", "eth_feeHistory", "eth_getBalance", "eth_getCode", "eth_getProof"]
    read += [
        "eth_getStorageAt",
        "eth_getLogs",
        "eth_getTransactionByHash",
        "eth_getTransactionReceipt",
        "debug_traceTransaction",
    ]
    assert [one for one in read if not grant.allows(one)] == []
    others = ["eth_getWork", "eth_getFilterChanges", "eth_getFilterLogs", "debug_traceBlockFromFile"]
    assert [one for one in others if grant.allows(one)] == []
