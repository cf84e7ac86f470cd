"""Names that lead to a machine's own metadata are not asked, with a proxy on the way or without."""

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import ResolveResult
from pydantic import SecretStr

from tests.support.fault_proxy import FaultProxy
from trace_dagster.errors import RpcError
from trace_dagster.rpc.gateway.config import EndpointConfig
from trace_dagster.rpc.gateway.direct import DirectEndpoint
from trace_dagster.rpc.gateway.endpoint import Endpoint
from trace_dagster.rpc.gateway.exchange import Upstream
from trace_dagster.rpc.gateway.faults import Fault
from trace_dagster.rpc.gateway.replies import ReplyRoom
from trace_dagster.rpc.gateway.resolved import Access, ResolvedEndpoint

CHAIN_ID = b'{"jsonrpc":"2.0","id":0,"method":"eth_chainId","params":[]}'
FORBIDDEN = "its name leads to a link-local, metadata or multicast address"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """What answers in the place of every host, as a proxy; names have the addresses that they say."""
    addresses = {
        "good.example": ["203.0.113.1"],
        "evil.example": ["169.254.169.254"],
        "mixed.example": ["203.0.113.1", "fd00:ec2::254"],
    }

    async def resolve(_: object, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        if host not in addresses:
            raise OSError(None, "no such name")
        return [
            {"hostname": host, "host": one, "port": port, "family": family, "proto": 0, "flags": 0}
            for one in addresses[host]
        ]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    proxy = FaultProxy()
    proxy.results = {"eth_chainId": "0x1"}
    yield proxy
    proxy.close()


async def exchange(host: str) -> bytes:
    """Ask ``host`` as the gateway does."""
    access = Access(0, SecretStr(f"http://{host}/"))
    config = EndpointConfig(name="one", url="env:GW")
    upstream = Upstream(1000, ReplyRoom(1000))
    try:
        key = Endpoint(ResolvedEndpoint(config, (access,)), None).keys[0]
        return await upstream.exchange(key, CHAIN_ID, items=1, timeout_seconds=20)
    finally:
        await upstream.close()


async def ask_directly(host: str) -> Any:
    """Ask ``host`` as the doctor does."""
    async with DirectEndpoint("one", Access(0, SecretStr(f"http://{host}/"))) as endpoint:
        return await endpoint.ask("eth_chainId")


def through(server: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the server as the proxy for all hosts."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("host", ["evil.example", "mixed.example"])
def test_a_proxy_is_not_led_there(server: FaultProxy, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """The proxy would look the name up, and is not asked to."""
    through(server, monkeypatch)
    with pytest.raises(Fault, match=FORBIDDEN):
        asyncio.run(exchange(host))
    with pytest.raises(RpcError, match=FORBIDDEN):
        asyncio.run(ask_directly(host))
    assert server.seen == []


@pytest.mark.parametrize("host", ["good.example", "known-to-the-proxy.example"])
def test_a_proxy_is_asked_for_others(server: FaultProxy, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """A name that cannot be looked up here is left to the proxy."""
    through(server, monkeypatch)
    assert b'"0x1"' in asyncio.run(exchange(host))
    assert asyncio.run(ask_directly(host)) == "0x1"


def test_without_a_proxy(server: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is not connected to."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Fault, match=FORBIDDEN):
        asyncio.run(exchange("evil.example"))
