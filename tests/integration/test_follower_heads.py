"""New heads over a WebSocket: a signal to look. Whatever it does, the tables equal the chain."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.server import ServerConnection

from tests.support.fault_proxy import FaultProxy
from tests.support.followers import POOL, chain_rows, following, held_rows
from tests.support.small_chain import SmallChain, small_chain
from tests.support.websocket_server import HEAD, SECRET, bytes_served, heads_served, subscribe
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.operators.block_follower import head_signal
from trace_dagster.operators.block_follower.following import Following
from trace_dagster.operators.services import Services
from trace_dagster.rpc import websocket
from trace_dagster.settings import Settings

WAIT_SECONDS = 60


@pytest.fixture(scope="module")
def chain() -> Iterator[SmallChain]:
    """A node whose chain the tests change."""
    with small_chain() as built:
        yield built


@dataclass
class Running:
    """A follower at work in a thread.

    Attributes:
        follower: what follows.
        services: its ledger and endpoints.
        proxy: its HTTP endpoint, which takes no WebSockets.
        said: what it told.
        looks: how often it asked for the head.
    """

    follower: Following
    services: Services
    proxy: FaultProxy
    said: list[str] = field(default_factory=list)
    looks: int = 0

    def told(self, text: str) -> None:
        """Wait until it has told this."""
        wait_for(text, lambda: any(text in line for line in self.said))

    def caught_up(self, chain: SmallChain) -> None:
        """Wait until it is at the node's head."""
        head = int(chain.anvil.call("eth_blockNumber"), 16)

        def is_there() -> bool:
            state = self.services.ledger.follower(self.follower.key)
            return state is not None and state.cursor_block == head

        wait_for(f"block {head}", is_there)

    def equals(self, chain: SmallChain) -> None:
        """Compare every row with the node's chain."""
        head = int(chain.anvil.call("eth_blockNumber"), 16)
        endpoint = self.services.settings.rpc_endpoint(POOL)
        due = chain_rows(endpoint, self.follower.config.datasets, BlockRange(1, head))
        for dataset, table in self.follower.tables.items():
            assert held_rows(self.services.ledger, table) == due[dataset], dataset


def wait_for(what: str, is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < until, f"{what} did not come"
        time.sleep(0.01)


@contextmanager
def running(
    chain: SmallChain, home: Path, dag: str, websocket_url: str | None = None, **config: Any
) -> Iterator[Running]:
    """Follow in a thread, from a proxy of its own."""
    proxy = FaultProxy(chain.anvil.url)
    environment = {"TRACE_HOME": str(home), f"TRACE_RPC_POOL_{POOL.upper()}_URL": proxy.url()}
    if websocket_url is not None:
        environment[f"TRACE_RPC_POOL_{POOL.upper()}_WS_URL"] = websocket_url
    stopped = threading.Event()
    with Services(Settings.from_environment(environment), environment) as services:
        run = Running(following(dag, start_block=1, **config), services, proxy)

        def looked(params: list[Any], result: Any) -> Any:
            run.looks += params[0] == "latest"
            return result

        def follow() -> None:
            steps = run.follower.run(
                services,
                run_id=dag,
                progress=lambda line, **fields: run.said.append(f"{line} {fields}"),
                is_stopped=stopped.is_set,
            )
            for _ in steps:
                pass

        proxy.rewrite["eth_getBlockByNumber"] = looked
        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield run
        finally:
            stopped.set()
            thread.join()
            proxy.close()


def node_url(chain: SmallChain) -> str:
    """Where the node takes WebSockets."""
    return chain.anvil.url.replace("http://", "ws://")


def test_a_socket_saves_most_requests(chain: SmallChain, trace_home: Path) -> None:
    """Two followers of one chain: the one that is woken asks for the head far less often."""
    with (
        running(chain, trace_home, "woken", node_url(chain), heads="auto") as woken,
        running(chain, trace_home, "polling", heads="poll") as polling,
    ):
        woken.told("heads by websocket")
        polling.told("heads by polling, every 0.01 s: config.heads is poll")
        woken.caught_up(chain)
        before = woken.looks, polling.looks
        for _ in range(10):
            chain.busy_block()
            time.sleep(0.2)
            for one in (woken, polling):
                one.caught_up(chain)
        looks = woken.looks - before[0], polling.looks - before[1]
        assert looks[0] * 2 < looks[1], looks
        for one in (woken, polling):
            one.equals(chain)
    assert len(woken.said) == len(polling.said) == 1


def test_the_pools_own_address_is_tried(chain: SmallChain, trace_home: Path) -> None:
    """A node serves both at one port: no setting is needed."""
    with running(chain, trace_home, "own", heads="auto") as run:
        run.told("takes no WebSockets: HTTP 501")
        assert "heads by polling, every 0.01 s: " in run.said[0]
        assert "'is_warning': False" in run.said[0]
    environment = {"TRACE_HOME": str(trace_home), f"TRACE_RPC_POOL_{POOL.upper()}_URL": chain.anvil.url}
    said: list[str] = []
    with Services(Settings.from_environment(environment), environment) as services:
        steps = following("own", start_block=1, heads="auto").run(
            services, run_id="own", progress=lambda line, **_fields: said.append(line)
        )
        for _ in steps:
            if said:
                break
        steps.close()
    assert said == ["heads by websocket"]


def dies(connection: ServerConnection) -> None:
    """End without a word, after a head."""
    subscribe(connection)
    connection.send(HEAD)
    connection.socket.close()


def silent(connection: ServerConnection) -> None:
    """Tell of nothing."""
    subscribe(connection)
    connection.recv()


def garbage(connection: ServerConnection) -> None:
    """Send what is no JSON."""
    subscribe(connection)
    connection.send("[" * 100_000)
    connection.recv()


def binary(connection: ServerConnection) -> None:
    """Send bytes."""
    subscribe(connection)
    connection.send(b"\xff\x00" * 100)
    connection.recv()


def other(connection: ServerConnection) -> None:
    """Tell of another subscription."""
    subscribe(connection)
    connection.send(json.dumps({"method": "eth_subscription", "params": {"subscription": SECRET}}))
    connection.recv()


def refuses(connection: ServerConnection) -> None:
    """Know no subscriptions."""
    request = json.loads(connection.recv())
    error = {"code": -32601, "message": f"notifications not supported, see https://x/{SECRET}"}
    connection.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}))
    connection.recv()


def floods(connection: ServerConnection) -> None:
    """Tell of heads without an end."""
    subscribe(connection)
    while True:
        connection.send(HEAD)


def lies(connection: ServerConnection) -> None:
    """Tell of heads that are not there, again and again."""
    subscribe(connection)
    while True:
        connection.send(HEAD)
        time.sleep(0.1)


def huge(connection: ServerConnection) -> None:
    """Send more than is taken."""
    subscribe(connection)
    connection.send(HEAD + " " * 2**20)
    connection.recv()


FAULTS: dict[str, tuple[AbstractContextManager[str], str]] = {
    "dies": (heads_served(dies), "takes no WebSockets, or broke off"),
    "silent": (heads_served(silent), "the WebSocket does not tell of blocks that are there"),
    "garbage": (heads_served(garbage), "the WebSocket sent what is no JSON-RPC"),
    "binary": (heads_served(binary), "the WebSocket sent what is no JSON-RPC"),
    "other": (heads_served(other), "the WebSocket sent what is no head"),
    "refuses": (heads_served(refuses), "the WebSocket refuses eth_subscribe newHeads"),
    "floods": (heads_served(floods), "the WebSocket sent more than 50 messages within a second"),
    "lies": (heads_served(lies), "heads by websocket"),
    "huge": (heads_served(huge), "takes no WebSockets, or broke off"),
    "endless": (bytes_served(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: "), "did not answer within"),
    "nonsense": (bytes_served(b"SSH-2.0-OpenSSH_9.2\r\n"), "rpc_pool 'tip' at ws://127.0.0.1"),
    "moved": (
        bytes_served(b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
        "takes no WebSockets",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_socket_costs_nothing(
    chain: SmallChain,
    trace_home: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    """It is told without its secret, blocks come by polling, and no thread is left behind."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(websocket, "_OPEN_SECONDS", 0.3)
    monkeypatch.setattr(head_signal, "_MOST_MESSAGES_PER_SECOND", 50)
    served, message = FAULTS[fault]
    with served as url, running(chain, trace_home, f"bad_{fault}", url, heads="websocket") as run:
        run.caught_up(chain)
        for _ in range(3):
            chain.busy_block()
            run.caught_up(chain)
        run.told(message)
        chain.busy_block()
        run.caught_up(chain)
        run.equals(chain)
        state = run.services.ledger.follower(run.follower.key)
    assert state is not None
    assert state.errors == 0
    own = [
        record.getMessage() for record in caplog.records if not record.name.startswith("websockets.server")
    ]
    assert SECRET not in f"{run.said} {own}"
    assert all("'is_warning': True" in line for line in run.said if "by polling" in line)
    assert not [thread for thread in threading.enumerate() if thread.name == "trace-heads"]


def test_it_is_asked_for_again(chain: SmallChain, trace_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After refusals, and after it broke off."""
    monkeypatch.setattr(head_signal, "_SECONDS_AFTER_A_REFUSAL", 0.05)
    goes_on = threading.Event()

    def once(connection: ServerConnection) -> None:
        subscribe(connection)
        if not goes_on.wait(WAIT_SECONDS):
            return
        connection.send(HEAD)

    served = heads_served(once, refusals=2)
    with served as url, running(chain, trace_home, "again", url, heads="websocket") as run:
        run.told("HTTP 503")
        run.told("heads by websocket")
        run.said.clear()
        goes_on.set()
        run.told("heads by polling")
        run.told("heads by websocket")
        run.caught_up(chain)
        run.equals(chain)


def test_the_credentials_go_with_it(chain: SmallChain, trace_home: Path) -> None:
    """User and password of the URL as Basic; at a gateway its token, at the address of the pool."""
    seen: list[tuple[str, str | None]] = []

    def look(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append((connection.request.path, connection.request.headers.get("Authorization")))
        silent(connection)

    with heads_served(look) as url:
        own = url.replace("ws://", "ws://user:p%40ss@")
        with running(chain, trace_home, "basic", own, heads="websocket") as run:
            run.told("heads by websocket")
        environment = {
            "TRACE_HOME": str(trace_home),
            "TRACE_RPC_GATEWAY_URL": url.replace("ws://", "http://"),
            "TRACE_RPC_GATEWAY_TOKEN": "planted-token",
            f"TRACE_RPC_POOL_{POOL.upper()}_WS_URL": url,
        }
        endpoint = Settings.from_environment(environment).rpc_endpoint(POOL)
        with head_signal.HeadSignal(endpoint) as signal:
            assert signal.wait(WAIT_SECONDS)
            assert signal.is_live
    assert seen == [
        (f"/{SECRET}", "Basic dXNlcjpwQHNz"),
        (f"/{SECRET}/v1/{POOL}", "Bearer planted-token"),
    ]
