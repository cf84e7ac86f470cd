"""A gateway as a process of its own, as operators run it; and a pool in this process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from tests.support.fault_proxy import FaultProxy
from trace_dagster.rpc import JsonRpcClient
from trace_dagster.rpc.gateway.config import GatewayConfig
from trace_dagster.rpc.gateway.jsonrpc import Call
from trace_dagster.rpc.gateway.metrics import Metrics
from trace_dagster.rpc.gateway.pool import Pool
from trace_dagster.rpc.gateway.records import Caller, Usage
from trace_dagster.rpc.gateway.resolved import resolve_config
from trace_dagster.settings import RpcEndpoint

CALLER = Caller("tester")
_LISTENS = re.compile(r"listens on (\S+)")


@dataclass
class GatewayProcess:
    """A running gateway.

    Attributes:
        url: its address.
        path: its configuration, which may be written anew.
        log: what it wrote.
    """

    url: str
    path: Path
    log: Path
    process: "subprocess.Popen[bytes]"

    @property
    def port(self) -> int:
        """Its TCP port."""
        return int(self.url.rpartition(":")[2])

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the configuration anew, whole at any moment."""
        write_config(self.path, config)

    def reload(self) -> None:
        """Let it read its configuration again, and wait until it says what came of that."""
        before = self.output().count("reloaded")
        self.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 30
        while self.output().count("reloaded") == before:
            assert time.monotonic() < until, self.output()
            time.sleep(0.02)

    def output(self) -> str:
        """Return what it wrote so far."""
        return self.log.read_text()

    def endpoint(self, pool: str, token: str | None = None) -> RpcEndpoint:
        """Return a pool as a worker's settings name it."""
        return RpcEndpoint(
            pool=pool,
            url=SecretStr(f"{self.url}/v1/{pool}"),
            token=SecretStr(token) if token else None,
            variable="TRACE_RPC_GATEWAY_URL",
        )

    def client(self, pool: str, token: str | None = None, **options: Any) -> JsonRpcClient:
        """Return our own client of a pool."""
        return JsonRpcClient(self.endpoint(pool, token), **options)


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a configuration as YAML, in one step."""
    new = path.with_suffix(".new")
    new.write_text(yaml.safe_dump(dict(config)))
    new.replace(path)


def one_pool(**endpoints: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration of the pool ``tested`` on anvil's chain; URLs are in ``env:GW_<NAME>``."""
    listed = [{"name": name, "url": f"env:GW_{name.upper()}", **more} for name, more in endpoints.items()]
    return {"pools": {"tested": {"chain_id": 31337, "endpoints": listed}}}


@contextmanager
def running_gateway(
    folder: Path,
    config: Mapping[str, Any],
    environment: Mapping[str, str],
    *arguments: str,
    most_files: int | None = None,
) -> Iterator[GatewayProcess]:
    """Start a gateway on a free port, and stop it at the end; it must end by itself and with status 0."""
    path = folder / "rpc_pools.yaml"
    write_config(path, config)
    with _running(
        folder, environment, "--config", str(path), "--port", "0", *arguments, most_files=most_files
    ) as gateway:
        yield gateway


@contextmanager
def running_local_gateway(folder: Path, environment: Mapping[str, str]) -> Iterator[GatewayProcess]:
    """Start a gateway of the pools of ``environment``, likewise."""
    with _running(folder, environment, "--from-environment") as gateway:
        yield gateway


@contextmanager
def _running(
    folder: Path, environment: Mapping[str, str], *arguments: str, most_files: int | None = None
) -> Iterator[GatewayProcess]:
    path, log = folder / "rpc_pools.yaml", folder / "gateway.log"
    command = [str(Path(sys.executable).with_name("trace")), "gateway", *arguments]
    if most_files is not None:
        command = ["sh", "-c", f'ulimit -n {most_files}; exec "$@"', "sh", *command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    try:
        yield GatewayProcess(_wait_for_url(process, log), path, log, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def _wait_for_url(process: "subprocess.Popen[bytes]", log: Path) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        ended = process.poll() is not None
        if match := _LISTENS.search(log.read_text()):
            return match[1]
        assert not ended, log.read_text()
        time.sleep(0.02)
    raise AssertionError(log.read_text())


@asynccontextmanager
async def running_pool(
    fronts: Mapping[str, FaultProxy],
    endpoints: Mapping[str, Mapping[str, Any]] | None = None,
    limits: Mapping[str, Any] | None = None,
    keys: Sequence[str] = (),
    **pool: Any,
) -> AsyncIterator[Pool]:
    """Run the pool ``tested`` of some fronts in this process.

    Args:
        fronts: endpoints by name.
        endpoints: more of their configuration.
        limits: of requests.
        keys: every endpoint's.
        pool: more of the pool's configuration.
    """
    environment = {f"GW_{name.upper()}": front.url() for name, front in fronts.items()}
    environment |= {f"GW_KEY_{number}": key for number, key in enumerate(keys)}
    with_keys = {"keys": [f"env:GW_KEY_{number}" for number in range(len(keys))], "key_header": "X-Key"}
    config = one_pool(
        **{name: {**(with_keys if keys else {}), **(endpoints or {}).get(name, {})} for name in fronts}
    )
    config["pools"]["tested"] |= pool
    config["limits"] = dict(limits or {})
    resolved = resolve_config(GatewayConfig.model_validate_json(json.dumps(config)), environment)
    metrics = Metrics()
    tested = Pool(resolved.pools["tested"], resolved.config.limits, resolved.config.costs, metrics)
    await tested.start(5)
    try:
        yield tested
    finally:
        await tested.close()


async def asked(
    pool: Pool, *calls: tuple[str, list[Any]], caller: Caller = CALLER, usage: Usage | None = None
) -> list[Any]:
    """Return the results of calls to a pool; of a failed one the JSON-RPC error and the HTTP status."""
    made = [Call(method, json.dumps(params).encode()) for method, params in calls]
    answers = await pool.answer(made, caller, usage or Usage())
    return [
        json.loads(bytes(one.result))
        if one.result is not None
        else (json.loads(one.error or b""), one.status)
        for one in answers
    ]
