"""A WebSocket's connection: what the library cannot do is told as any other refusal."""

import socket
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from trace_dagster.operators.block_follower.head_signal import HeadSignal
from trace_dagster.rpc import websocket
from trace_dagster.rpc.failures import Unreachable
from trace_dagster.settings import RpcEndpoint


@pytest.fixture
def endpoint() -> Iterator[RpcEndpoint]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v2/planted-path-secret"
        yield RpcEndpoint(pool="tested", url=SecretStr(url), variable="TRACE_RPC_POOL_TESTED_URL")


@pytest.fixture(autouse=True)
def _broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object, **__: object) -> None:
        raise AssertionError  # as websockets 17.4 does where a reply in the handshake is garbage

    monkeypatch.setattr(websocket, "connect", connect)


def test_an_error_of_the_library_is_a_refusal(endpoint: RpcEndpoint) -> None:
    """With a reason, and without the URL."""
    refusal = pytest.raises(Unreachable, match="takes no WebSockets, or broke off: AssertionError")
    with refusal as caught, websocket.open_websocket(endpoint):
        raise RuntimeError("it opened")
    assert "planted" not in str(caught.value)


def test_what_listens_goes_on(endpoint: RpcEndpoint) -> None:
    """The thread lives, and says why there is no subscription."""
    with HeadSignal(endpoint) as signal:
        assert signal.wait(10)
        assert "AssertionError" in str(signal.problem)
        assert signal._thread.is_alive()
