"""A gateway of the variables of pools, and what is run beside it: for development, without a file."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.gateways import running_local_gateway
from tests.support.project import clean_environment
from trace_dagster.errors import RpcUnavailable
from trace_dagster.rpc import JsonRpcClient, ReplyError
from trace_dagster.rpc.websocket import open_websocket, websocket_endpoint
from trace_dagster.settings import Settings

TRACE = str(Path(sys.executable).with_name("trace"))
WAIT_SECONDS = 60
# Tells what it was given, and waits to be ended.
PROGRAM = """
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
try:
    settings = {name: value for name, value in os.environ.items() if name.startswith("TRACE_")}
    print(json.dumps(settings), flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    sys.exit(8)
"""


@pytest.fixture
def upstream() -> Iterator[FaultProxy]:
    """An endpoint."""
    proxy = FaultProxy()
    proxy.results = {"eth_chainId": "0x7a69", "eth_blockNumber": "0x10"}
    yield proxy
    proxy.close()


def wait_until(what: str, is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < until, f"{what} did not come"
        time.sleep(0.02)


def client_of(url: str, pool: str) -> JsonRpcClient:
    """Return a worker's client of a gateway without tokens."""
    endpoint = Settings.from_environment({"TRACE_RPC_GATEWAY_URL": url}).rpc_endpoint(pool)
    return JsonRpcClient(endpoint, attempts=1)


def test_pools_are_named_as_settings_name_them(upstream: FaultProxy, tmp_path: Path) -> None:
    """``my_pool`` and ``my-pool`` are MY_POOL, whose URL's user and password are sent; others are missed."""
    url = upstream.url(userinfo="somebody:planted-password")
    with running_local_gateway(tmp_path, {"TRACE_RPC_POOL_MY_POOL_URL": url}) as gateway:
        for name in ("my-pool", "my_pool"):
            with client_of(gateway.url, name) as client:
                assert client.chain_id() == 31337
        said = "there is no pool my-other; set TRACE_RPC_POOL_MY_OTHER_URL"
        with client_of(gateway.url, "my-other") as client, pytest.raises(ReplyError, match=said):
            client.chain_id()
        assert gateway.url.startswith("http://127.0.0.1:")
    assert {headers.get("Authorization", "")[:6] for _, headers in upstream.seen} == {"Basic "}
    assert "planted" not in gateway.output()


def test_it_starts_before_its_endpoint(upstream: FaultProxy, tmp_path: Path) -> None:
    """It says which pool waits and why, to the worker too, and finds the chain once there is one."""
    port = upstream.port
    upstream.close()
    with running_local_gateway(tmp_path, {"TRACE_RPC_POOL_A_URL": upstream.url()}) as gateway:
        assert "endpoint url of pool a is not used yet, and asked again: unavailable" in gateway.output()
        with client_of(gateway.url, "a") as client, pytest.raises(RpcUnavailable) as caught:
            client.chain_id()
        assert "url: out of rotation, unavailable: cannot be reached" in str(caught.value)
        later = FaultProxy(port=port)
        later.results = {"eth_chainId": "0x5", "eth_blockNumber": "0x10"}
        wait_until("the endpoint", lambda: "endpoint url of pool a answers now" in gateway.output())
        with client_of(gateway.url, "a") as client:
            assert client.chain_id() == 5
        later.close()
    assert "planted" not in gateway.output()


def test_a_token_that_is_set_is_asked_for(upstream: FaultProxy, tmp_path: Path) -> None:
    """Others on this machine cannot spend what the pools' keys cost."""
    token = "a-token-of-this-machine"
    environment = {"TRACE_RPC_POOL_A_URL": upstream.url(), "TRACE_RPC_GATEWAY_TOKEN": token}
    with running_local_gateway(tmp_path, environment) as gateway:
        with client_of(gateway.url, "a") as client, pytest.raises(RpcUnavailable, match="HTTP 401"):
            client.chain_id()
        with gateway.client("a", token) as client:
            assert client.chain_id() == 31337


def test_what_was_spent_is_told_by_job_and_partition(upstream: FaultProxy, tmp_path: Path) -> None:
    """One credit a request where no prices are known; it is only read, and only of pools that are there."""
    with running_local_gateway(tmp_path, {"TRACE_RPC_POOL_A_URL": upstream.url()}) as gateway:
        asked = gateway.endpoint("a").asked_by("dag/job", "0_9")
        with JsonRpcClient(asked) as client:
            assert client.batch([("eth_chainId", []), ("eth_blockNumber", [])]) == ["0x7a69", "0x10"]

        def usage(pool: str, partition: str, method: str = "GET") -> object:
            headers = {"X-Trace-Job": "dag/job", "X-Trace-Partition": partition}
            url = f"{gateway.url}/v1/{pool}/usage"
            request = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310 - loopback
            with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - loopback
                return json.load(response)

        assert usage("a", "0_9") == {"requests": 2, "credits": 2, "retries": 0, "cache_hits": 0}
        assert usage("a", "10_19") == {"requests": 0, "credits": 0, "retries": 0, "cache_hits": 0}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            usage("b", "0_9")
        with pytest.raises(urllib.error.HTTPError, match="405"):
            usage("a", "0_9", "POST")


def test_followers_are_told_that_there_is_no_websocket(upstream: FaultProxy, tmp_path: Path) -> None:
    """At once, and with the reason; the gateway's log is not filled with it."""
    environment = {
        "TRACE_RPC_POOL_A_URL": upstream.url(),
        "TRACE_RPC_POOL_A_WS_URL": "wss://planted.example/",
    }
    with running_local_gateway(tmp_path, environment) as gateway:
        endpoint = websocket_endpoint(gateway.endpoint("a"))
        with pytest.raises(RpcUnavailable, match="takes no WebSockets: HTTP 405"), open_websocket(endpoint):
            pass
        with client_of(gateway.url, "a") as client:
            assert client.chain_id() == 31337
    assert "upgrade" not in gateway.output().lower()
    assert "planted" not in gateway.output()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "rpc_pools.yaml"], "--from-environment does not go with --config"),
        (["--host", "0.0.0.0", "--insecure-bind"], "does not go with --host, --insecure-bind"),  # noqa: S104
        ([], "no pool is set"),
    ],
)
def test_flags_that_do_not_go_together(arguments: list[str], said: str) -> None:
    """The environment's pools are for this machine, and there must be some."""
    command = [TRACE, "gateway", "--from-environment", *arguments]
    done = subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert said in done.stderr


@dataclass
class Beside:
    """A program that ``trace gateway run`` runs.

    Attributes:
        process: ``trace gateway run``.
        told: the program's settings.
        program: it.
        gateway: the gateway.
    """

    process: "subprocess.Popen[str]"
    told: dict[str, str]
    program: psutil.Process
    gateway: psutil.Process

    def is_gone(self) -> bool:
        """Whether neither program nor gateway runs."""
        return not any(
            one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in (self.program, self.gateway)
        )


@contextmanager
def run_beside(environment: dict[str, str]) -> Iterator[Beside]:
    """Run ``PROGRAM`` with a gateway beside it, in a process group as a terminal's shell makes it."""
    process = subprocess.Popen(
        [TRACE, "gateway", "run", "--", sys.executable, "-c", PROGRAM],
        env={**clean_environment(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("{"):
            break
    else:
        raise AssertionError("".join(said))
    by_kind = {"--from-environment" in one.cmdline(): one for one in psutil.Process(process.pid).children()}
    try:
        yield Beside(process, json.loads(said[-1]), by_kind[False], by_kind[True])
    finally:
        for one in (process, by_kind[False], by_kind[True]):
            if one.poll() is None if isinstance(one, subprocess.Popen) else one.is_running():
                one.kill()
        process.communicate(timeout=60)


@pytest.fixture
def environment(upstream: FaultProxy) -> dict[str, str]:
    """The settings of a developer."""
    return {
        "TRACE_RPC_POOL_A_URL": upstream.url(),
        "TRACE_RPC_POOL_A_WS_URL": "ws://127.0.0.1:9/planted",
        "TRACE_RPC_GATEWAY_TOKEN": "of-another-gateway",
        "TRACE_DAG_SPECS": "mine/",
    }


def test_the_program_knows_the_gateway_and_no_provider(environment: dict[str, str]) -> None:
    """The pools' variables are taken out; the engine by default is the same as with them."""
    with run_beside(environment) as beside:
        assert set(beside.told) == {"TRACE_RPC_GATEWAY_URL", "TRACE_RPC_GATEWAY_TOKEN", "TRACE_DAG_SPECS"}
        assert beside.told["TRACE_RPC_GATEWAY_TOKEN"] != "of-another-gateway"
        settings = Settings.from_environment(beside.told)
        assert settings.default_engine() == Settings.from_environment(environment).default_engine() == "cryo"
        with JsonRpcClient(settings.rpc_endpoint("a")) as client:
            assert client.chain_id() == 31337
        stranger = client_of(beside.told["TRACE_RPC_GATEWAY_URL"], "a")
        with stranger, pytest.raises(RpcUnavailable, match="HTTP 401"):
            stranger.chain_id()


@pytest.mark.parametrize(
    ("number", "is_of_terminal", "status"), [(signal.SIGINT, True, 8), (signal.SIGTERM, False, 7)]
)
def test_it_ends_with_the_program(
    environment: dict[str, str], number: signal.Signals, *, is_of_terminal: bool, status: int
) -> None:
    """Ctrl-C, which all processes of a terminal get, and SIGTERM end the program, then the gateway."""
    with run_beside(environment) as beside:
        if is_of_terminal:
            os.killpg(beside.process.pid, number)
        else:
            beside.process.send_signal(number)
        assert beside.process.wait(WAIT_SECONDS) == status
        wait_until("the end of all", beside.is_gone)


def test_a_program_that_is_killed(environment: dict[str, str]) -> None:
    """The gateway ends with it, and the status says by which signal."""
    with run_beside(environment) as beside:
        beside.program.kill()
        assert beside.process.wait(WAIT_SECONDS) == 128 + signal.SIGKILL
        wait_until("the end of all", beside.is_gone)


def test_a_gateway_that_is_killed(environment: dict[str, str]) -> None:
    """The program is ended, as it could do nothing more, and why is said."""
    with run_beside(environment) as beside:
        beside.gateway.kill()
        assert beside.process.wait(WAIT_SECONDS) == 1
        assert beside.process.stdout is not None
        assert "The RPC gateway ended with status -9; so" in beside.process.stdout.read()
        wait_until("the end of all", beside.is_gone)


def test_the_one_that_started_both_is_killed(environment: dict[str, str]) -> None:
    """The program goes on with the gateway; the gateway is gone once the program is."""
    with run_beside(environment) as beside:
        beside.process.kill()
        beside.process.wait(WAIT_SECONDS)
        with JsonRpcClient(Settings.from_environment(beside.told).rpc_endpoint("a")) as client:
            assert client.chain_id() == 31337
        beside.program.terminate()
        wait_until("the end of all", beside.is_gone)


@pytest.mark.parametrize(
    "more", [{}, {"TRACE_RPC_POOL_A_URL": "http://127.0.0.1:9", "TRACE_RPC_GATEWAY_URL": "http://gw"}]
)
def test_without_need_there_is_no_gateway(more: dict[str, str]) -> None:
    """With a gateway, or without pools, the program is run as it is, in the place of ``trace``."""
    done = subprocess.run(
        [TRACE, "gateway", "run", "--", sys.executable, "-c", "import os; print(os.environ, os.getppid())"],
        env={**clean_environment(), **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert str(os.getpid()) in done.stdout
    assert all(f"'{name}': '{value}'" in done.stdout for name, value in more.items())


def test_a_program_that_is_not_there(environment: dict[str, str]) -> None:
    """It is said, and no gateway is left."""
    done = subprocess.run(
        [TRACE, "gateway", "run", "--", "no-such-program"],
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "no-such-program cannot be run: No such file or directory" in done.stderr
    assert "planted" not in done.stdout + done.stderr
