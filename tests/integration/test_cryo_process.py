"""The subprocess of Cryo: nothing secret in sight, never left behind, whatever happens."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.support.extraction import Reports, cryo_rows_of, extract
from tests.support.fault_proxy import Exchange, FaultProxy, Reply, RpcFailure
from tests.support.small_chain import SmallChain, node_rows, small_chain
from trace_dagster.errors import DeadlineExceeded, EngineFailed, StagingFull, TraceError
from trace_dagster.operators.base import Deadline
from trace_dagster.operators.cryo_ingest.cryo import CryoEngine
from trace_dagster.operators.cryo_ingest.staging import StagingLimits

SECRETS = ("planted-path-secret", "planted-user", "planted-password", "planted-token", "planted-query")


@pytest.fixture(scope="module")
def chain() -> Iterator[SmallChain]:
    """A chain of seven blocks."""
    with small_chain() as built:
        yield built


@pytest.fixture
def proxy(chain: SmallChain, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The node behind a proxy; Cryo is run again at once."""
    monkeypatch.setattr("trace_dagster.operators.cryo_ingest.cryo_collect._FIRST_PAUSE_SECONDS", 0.01)
    passed_on = FaultProxy(chain.anvil.url)
    yield passed_on
    passed_on.close()


class Gate:
    """An intercept that stops Cryo's first reading of a block, until it is opened.

    Attributes:
        reached: set once Cryo waits there.
        opened: set to let it and all others pass.
    """

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, exchange: Exchange) -> Reply | None:
        """Hold single requests for a block, which are Cryo's: the checks ask in batches."""
        if not isinstance(exchange.request, list) and exchange.request["method"] == "eth_getBlockByNumber":
            self.reached.set()
            self.opened.wait(60)
        return None


@pytest.fixture
def gate(proxy: FaultProxy) -> Iterator[Gate]:
    """A gate in front of Cryo's first reading."""
    closed = Gate()
    proxy.intercept = closed
    yield closed
    closed.opened.set()


def children_of(pid: int) -> list[psutil.Process]:
    """The running processes of Cryo below ``pid``."""
    return [
        child
        for child in psutil.Process(pid).children(recursive=True)
        if "cryo_child" in str(child.cmdline())
    ]


def wait_until_gone(process: psutil.Process) -> None:
    """Wait until the process has ended; a zombie has."""
    until = time.monotonic() + 30
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, f"{process} is still there"
        time.sleep(0.01)


def in_background(gate: Gate, action: Callable[[], None]) -> threading.Thread:
    """Do ``action`` once Cryo waits at the gate."""

    def run() -> None:
        gate.reached.wait(60)
        action()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("token", [None, "planted-token/with=signs"])
def test_no_secret_is_in_sight(  # noqa: PLR0917
    proxy: FaultProxy,
    gate: Gate,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
    token: str | None,
) -> None:
    """No command line, environment, file, log, output, progress or error shows what the endpoint gets."""
    caplog.set_level("DEBUG")
    url = proxy.url("/v2/planted-path-secret?key=planted-query", "planted-user:planted-password")
    monkeypatch.setenv("TRACE_RPC_POOL_TESTED_URL", url)
    monkeypatch.setenv("TRACE_RPC_GATEWAY_TOKEN", "planted-token")
    if fails:
        proxy.rewrite["trace_block"] = lambda params, result: _fail(f"{params} {result} at {url}"[-120:])
    seen: list[str] = []

    def look() -> None:
        for child in children_of(os.getpid()):
            seen.extend((str(child.cmdline()), str(child.environ()), str(child.cwd())))
        gate.opened.set()

    thread = in_background(gate, look)
    progress = Reports()
    try:
        extract(tmp_path, proxy.endpoint(url, token), "blocks,traces", (1, 7), progress=progress)
        assert not fails
    except TraceError as error:
        assert fails
        seen.extend((str(error), repr(error), repr(error.__context__), repr(error.__cause__)))
    thread.join()
    assert len(seen) >= 3
    assert any("cryo_child" in text for text in seen)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    seen += [str(progress.said), caplog.text, *capfd.readouterr(), *map(str, files)]
    for secret in SECRETS:
        assert not [text for text in seen if secret in text]
        assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert all({"Authorization", "authorization"} & headers.keys() for _, headers in proxy.seen)
    assert {path for path, _ in proxy.seen} == {"/v2/planted-path-secret?key=planted-query"}


def _fail(text: str) -> None:
    raise RpcFailure(-32000, text)


def test_a_killed_cryo_is_run_again(chain: SmallChain, proxy: FaultProxy, gate: Gate, tmp_path: Path) -> None:
    """Cryo is killed while it works: it is run again, and the rows are right."""

    def kill() -> None:
        for child in children_of(os.getpid()):
            child.kill()
        gate.opened.set()

    thread = in_background(gate, kill)
    progress = Reports()
    result = extract(tmp_path, proxy.endpoint(), "blocks", (1, 7), progress=progress)
    thread.join()
    assert cryo_rows_of(result, "blocks") == node_rows(chain.anvil, "blocks", 1, 7)
    assert "Cryo gave up on chunks" in [message for message, _ in progress.said]


def test_a_cryo_that_always_dies_fails_the_attempt(proxy: FaultProxy, tmp_path: Path) -> None:
    """Cryo is killed every time: an ordinary error that names the signal."""

    def kill(exchange: Exchange) -> Reply | None:
        if not isinstance(exchange.request, list) and exchange.request["method"] == "eth_getBlockByNumber":
            for child in children_of(os.getpid()):
                child.kill()
        return None

    proxy.intercept = kill
    with pytest.raises(EngineFailed, match=r"blocks 2 to 7 \(signal SIGKILL\): it does not say why"):
        extract(tmp_path, proxy.endpoint(), "blocks", (2, 7))


@dataclass(frozen=True)
class DeadlineAt(Deadline):
    """A deadline that passes when it is told to, so that no test depends on the machine's speed."""

    passed: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise as the real one does."""
        if self.passed.is_set():
            Deadline(self.timeout_seconds, 0).check()


def test_a_hanging_cryo_ends_at_the_deadline(proxy: FaultProxy, gate: Gate, tmp_path: Path) -> None:
    """An endpoint that never answers Cryo costs the time-out, and no process stays."""
    children: list[psutil.Process] = []
    deadline = DeadlineAt(1.5, float("inf"))

    def time_passes() -> None:
        children.extend(children_of(os.getpid()))
        deadline.passed.set()

    thread = in_background(gate, time_passes)
    with pytest.raises(DeadlineExceeded, match=r"longer than timeout_seconds: 1\.5"):
        extract(tmp_path, proxy.endpoint(), "blocks", (1, 7), deadline=deadline)
    thread.join()
    assert len(children) == 1
    wait_until_gone(children[0])


def test_an_interrupt_ends_cryo(proxy: FaultProxy, gate: Gate, tmp_path: Path) -> None:
    """An interrupt in the middle leaves no process behind."""
    children: list[psutil.Process] = []

    def interrupt() -> None:
        children.extend(children_of(os.getpid()))
        # A real signal: it also ends a wait for the endpoint, which the gate may hold as well as Cryo.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    # A shell starts background jobs with interrupts ignored, and the test may be part of one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = in_background(gate, interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract(tmp_path, proxy.endpoint(), "blocks", (1, 7))
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(children) == 1
    wait_until_gone(children[0])


WORKER = """
import pathlib, sys
from tests.support.extraction import extract
from pydantic import SecretStr
from trace_dagster.settings import RpcEndpoint
url, directory, binary = sys.stdin.readline().split()
from trace_dagster.operators.base import Deadline
from trace_dagster.operators.cryo_ingest.cryo import CryoEngine
extract(pathlib.Path(directory), RpcEndpoint(pool="p", url=SecretStr(url), variable="V"), "blocks", (1, 7),
        engine=CryoEngine(None if binary == "-" else binary))
"""


@pytest.mark.parametrize("with_binary", [False, True])
def test_cryo_dies_with_a_killed_parent(
    proxy: FaultProxy, gate: Gate, tmp_path: Path, cryo_program: Path, with_binary: bool
) -> None:
    """SIGKILL of the worker ends Cryo too, wheel or program."""
    with subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, text=True) as worker:
        worker.stdin.write(f"{proxy.url()} {tmp_path} {cryo_program if with_binary else '-'}\n")
        worker.stdin.flush()
        assert gate.reached.wait(60)
        children = psutil.Process(worker.pid).children(recursive=True)
        worker.send_signal(signal.SIGKILL)
    assert len(children) == 1
    wait_until_gone(children[0])


def test_staging_limits_hold_while_cryo_runs(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More bytes in staging than allowed end the extraction with the numbers."""
    monkeypatch.setattr("trace_dagster.operators.cryo_ingest.cryo_collect.BLOCKS_PER_CHUNK", 1)
    with pytest.raises(StagingFull, match=r"bytes in staging, 10 are allowed: raise TRACE_STAGING_MAX_BYTES"):
        extract(tmp_path, proxy.endpoint(), "blocks", (1, 7), limits=StagingLimits(max_bytes=10))


PROGRAM = """#!{python}
import asyncio, json, os, shlex, sys
from cryo import _cryo_rust
with open({record!r}, "w") as file:
    json.dump({{"argv": sys.argv, "url": os.environ["ETH_RPC_URL"]}}, file)
async def run():
    await _cryo_rust._freeze(command="cryo " + shlex.join(sys.argv[1:]))
asyncio.run(run())
os._exit({status})
"""


@pytest.fixture
def cryo_program(tmp_path: Path) -> Path:
    """A program with Cryo's command line: the wheel's own parser of it."""
    return _program(tmp_path, status=0)


def _program(tmp_path: Path, status: int) -> Path:
    path = tmp_path / "cryo-program"
    record = str(tmp_path / "record.json")
    path.write_text(PROGRAM.format(python=sys.executable, record=record, status=status))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize("status", [0, 134])
def test_a_cryo_program_does_the_same(
    chain: SmallChain, proxy: FaultProxy, tmp_path: Path, status: int
) -> None:
    """A configured program gives the same rows, whatever its status; its command line shows no URL."""
    program = _program(tmp_path, status)
    result = extract(
        tmp_path,
        proxy.endpoint(token="planted-token"),
        "blocks,logs",
        (1, 7),
        engine=CryoEngine(str(program)),
        address=(chain.logger,),
    )
    assert cryo_rows_of(result, "blocks") == node_rows(chain.anvil, "blocks", 1, 7)
    assert {row["address"].hex() for row in cryo_rows_of(result, "logs")} == {chain.logger[2:]}
    record = json.loads((tmp_path / "record.json").read_text())
    assert "planted" not in str(record["argv"])
    assert record["url"] == f"http://trace:planted-token@127.0.0.1:{proxy.port}/v2/planted-path-secret"


def test_a_program_that_is_not_cryo_is_named(proxy: FaultProxy, tmp_path: Path) -> None:
    """Where every chunk is missing, the message says which program was run and by which setting."""
    program = tmp_path / "frobnicate"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o700)
    with pytest.raises(EngineFailed) as caught:
        extract(tmp_path, proxy.endpoint(), "blocks", (1, 7), engine=CryoEngine(str(program)))
    assert str(caught.value).startswith(f"TRACE_CRYO_BINARY ({program}) gave up on 1 of 1 chunks of blocks, ")
    assert str(caught.value).endswith("(exit status 3): it does not say why; is that program Cryo 0.3.2?")


def test_reports_are_deleted_and_refused(proxy: FaultProxy, tmp_path: Path) -> None:
    """A program that writes reports all the same is refused, and they are gone."""
    program = tmp_path / "cryo-program"
    program.write_text('#!/bin/sh\nmkdir .cryo && echo "$ETH_RPC_URL" > .cryo/report.json\n')
    program.chmod(0o700)
    with pytest.raises(EngineFailed, match="report files, which hold the endpoint's URL"):
        extract(tmp_path, proxy.endpoint(), "blocks", (1, 7), engine=CryoEngine(str(program)))
    assert not list(tmp_path.rglob("report.json"))
