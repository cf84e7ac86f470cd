"""Callers that hang up: what they wait for is given up, and what they spent is told."""

import json
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.gates import Gate
from tests.support.gateways import GatewayProcess, one_pool, running_gateway
from trace_dagster.errors import RpcError

NOTHING_TO_LEARN = {
    "archive": True,
    "traces": True,
    "debug": True,
    "receipts": True,
    "log_range": 1000,
    "batch": 100,
}


@pytest.fixture
def upstream() -> Iterator[FaultProxy]:
    """An endpoint that answers balances, and takes transactions."""
    proxy = FaultProxy()
    proxy.results = {
        "eth_chainId": "0x7a69",
        "eth_blockNumber": "0x10",
        "eth_getBalance": "0x1",
        "eth_sendRawTransaction": "0x2",
    }
    yield proxy
    proxy.close()


def connected(gateway: GatewayProcess, method: str, *params: Any, filler: int = 0) -> socket.socket:
    """Ask, and return the connection that the answer will come by."""
    asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    body = json.dumps(asked).encode() + b" " * filler
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
    head = b"POST /v1/tested HTTP/1.1\r\nHost: localhost\r\nX-Trace-Job: a\r\nContent-Length: %d\r\n\r\n"
    connection.sendall(head % len(body) + body)
    return connection


def got(gateway: GatewayProcess, path: str) -> str:
    """Return what the gateway tells at ``path``."""
    request = urllib.request.Request(gateway.url + path, headers={"X-Trace-Job": "a"})  # noqa: S310 (ours)
    with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
        return str(response.read().decode())


def wait_for(holds: Callable[[], bool], gateway: GatewayProcess) -> None:
    """Wait for a condition."""
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until, got(gateway, "/metrics")
        time.sleep(0.02)


@pytest.mark.parametrize("filler", [0, 200_000])
def test_a_caller_that_hangs_up_is_asked_for_no_more(
    upstream: FaultProxy, tmp_path: Path, filler: int
) -> None:
    """Of two, the one under way is given up and counted, the one that waits is never sent."""
    config = one_pool(only={"limits": {"concurrency": 1}, "capabilities": NOTHING_TO_LEARN})
    with running_gateway(tmp_path, config, {"GW_ONLY": upstream.url()}) as gateway:
        upstream.intercept = gate = Gate(1)
        under_way = connected(gateway, "eth_getBalance", "0x01", "0x1", filler=filler)
        assert gate.reached.wait(20)
        waiting = connected(gateway, "eth_getBalance", "0x02", "0x2", filler=filler)
        wait_for(lambda: 'waiting{pool="tested"} 1.0' in got(gateway, "/metrics"), gateway)
        waiting.close()
        wait_for(lambda: 'waiting{pool="tested"} 0.0' in got(gateway, "/metrics"), gateway)
        under_way.close()
        wait_for(lambda: 'refusals_total{status="499"} 2.0' in got(gateway, "/metrics"), gateway)
        assert json.loads(got(gateway, "/v1/tested/usage"))["requests"] == 1
        gate.open()
        with gateway.client("tested", attempts=1) as client:
            assert client.call("eth_getBalance", ["0x03", "0x3"]) == "0x1"
        assert upstream.calls["eth_getBalance"] == 2
        assert 'upstream_requests_total{job="a",pool="tested",token="local"} 1.0' in got(gateway, "/metrics")
        assert "error" not in gateway.output()


def test_what_changes_something_goes_to_its_end(upstream: FaultProxy, tmp_path: Path) -> None:
    """A transaction whose caller hangs up before its turn is sent all the same, once."""
    config = one_pool(only={"limits": {"concurrency": 1}, "capabilities": NOTHING_TO_LEARN})
    config["tokens"] = [
        {"name": "sender", "token": "env:T_SENDER", "methods": ["eth_sendRawTransaction", "eth_getBalance"]}
    ]
    environment = {"GW_ONLY": upstream.url(), "T_SENDER": "token-of-a-sender-1234"}
    with running_gateway(tmp_path, config, environment) as gateway:
        upstream.intercept = gate = Gate(1)
        body = b'{"jsonrpc":"2.0","id":1,"method":"%s","params":["0x01","0x1"]}'
        connections = []
        for method in (b"eth_getBalance", b"eth_sendRawTransaction"):
            asked = body % method
            connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
            connection.sendall(
                b"POST /v1/tested HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (environment["T_SENDER"].encode(), len(asked), asked)
            )
            connections.append(connection)
            assert gate.reached.wait(20)
        wait_for(lambda: 'waiting{pool="tested"} 1.0' in got(gateway, "/metrics"), gateway)
        connections[1].close()
        gate.open()
        assert connections[0].recv(100).startswith(b"HTTP/1.1 200")
        connections[0].close()
        wait_for(lambda: upstream.calls["eth_sendRawTransaction"] == 1, gateway)
        wait_for(lambda: 'waiting{pool="tested"} 0.0' in got(gateway, "/metrics"), gateway)
        assert upstream.calls["eth_sendRawTransaction"] == 1


def test_callers_that_do_not_read_hold_room_until_they_go(upstream: FaultProxy, tmp_path: Path) -> None:
    """Beside a reply that nobody takes there is no room for another of its size, until it is given up."""
    code = "0x" + "ab" * 20_000_000
    upstream.results["eth_getCode"] = code
    config = one_pool(only={"capabilities": NOTHING_TO_LEARN})
    config["limits"] = {"max_reply_bytes_at_once": 60_000_000}
    with (
        running_gateway(tmp_path, config, {"GW_ONLY": upstream.url()}) as gateway,
        gateway.client("tested", attempts=1) as client,
    ):
        with connected(gateway, "eth_getCode", "0x01", "0x1") as idle:
            assert idle.recv(10).startswith(b"HTTP/1.1 2")
            with pytest.raises(RpcError, match=r"limits\.max_reply_bytes_at_once"):
                client.call("eth_getCode", ["0x02", "0x1"])
            assert client.call("eth_getBalance", ["0x02", "0x1"]) == "0x1"
        assert client.call("eth_getCode", ["0x02", "0x1"]) == code
