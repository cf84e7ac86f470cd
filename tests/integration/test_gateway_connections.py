"""More connections than a gateway may have files: those who may ask are served."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.gateways import GatewayProcess, one_pool, running_gateway

TOKEN = "token-of-a-worker-123456"
CHAIN_ID = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []})
MOST_FILES = 256


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway with a token, and few files."""
    upstream = FaultProxy()
    upstream.results = {"eth_chainId": "0x7a69", "eth_blockNumber": "0x10"}
    config = one_pool(only={})
    config["tokens"] = [{"name": "worker", "token": "env:T_WORKER"}]
    environment = {"GW_ONLY": upstream.url(), "T_WORKER": TOKEN}
    with (
        contextlib.closing(upstream),
        running_gateway(tmp_path, config, environment, most_files=MOST_FILES) as running,
    ):
        yield running
        assert "error" not in running.output()


def ask(connection: http.client.HTTPConnection, token: str = TOKEN) -> int:
    """Ask for the chain id; return the HTTP status."""
    connection.request("POST", "/v1/tested", CHAIN_ID, {"Authorization": f"Bearer {token}"})
    response = connection.getresponse()
    response.read()
    return response.status


def test_strangers_do_not_keep_workers_out(gateway: GatewayProcess) -> None:
    """Three times as many silent connections as there are files: workers, known and new, are answered."""
    with contextlib.ExitStack() as stack:

        def connected() -> http.client.HTTPConnection:
            made = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
            return stack.enter_context(contextlib.closing(made))

        known = connected()
        assert ask(known) == 200
        kept = known.sock
        strangers = []
        for number in range(3 * MOST_FILES):
            made = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
            strangers.append(stack.enter_context(made))
            if number % 64 == 63:
                assert ask(known) == 200
                assert ask(connected()) == 200
        assert known.sock is kept
        assert strangers[0].recv(1) == b""


def test_idle_workers_do_not_keep_others_out(gateway: GatewayProcess) -> None:
    """More connections than there are files: each is answered, and those idle for longest are closed."""
    with contextlib.ExitStack() as stack:
        for _ in range(2 * MOST_FILES):
            made = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
            assert ask(stack.enter_context(contextlib.closing(made))) == 200


def test_refused_strangers_are_closed(gateway: GatewayProcess) -> None:
    """Their connection ends with the reply, which they get whole; that of a worker stays."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)) as known:
        assert ask(known) == 200
        kept = known.sock
        assert ask(known, "another-token-123456789") == 401
        assert ask(known) == 200
        assert known.sock is kept
    for path in ("/v1/tested", "/v1/nothing", "/nothing"):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as stranger:
            stranger.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n".encode())
            stranger.sendall(b" " * 300_000)
            received = b""
            while more := stranger.recv(10_000):
                received += more
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 401", b"HTTP/1.1 404"))
        assert b"connection: close" in head.lower()
        assert json.loads(body)["error"]["code"] == -32600
