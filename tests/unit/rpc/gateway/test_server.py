"""Reloads that fail in a way nobody expected."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from trace_dagster.errors import ConfigurationError
from trace_dagster.rpc.gateway import server
from trace_dagster.rpc.gateway.config import GatewayConfig
from trace_dagster.rpc.gateway.running import Running
from trace_dagster.rpc.gateway.server import GatewayServer, Listen

CONFIG = {"pools": {"tested": {"chain_id": 1, "endpoints": [{"name": "one", "url": "env:GW_ONE"}]}}}


def load(path: Path) -> GatewayConfig:
    """Return a configuration of one endpoint that nothing listens at."""
    return GatewayConfig.model_validate_json(json.dumps(CONFIG))


def fail(path: Path) -> GatewayConfig:
    """Fail with a text that holds a secret."""
    raise RuntimeError("planted-secret")


def test_a_reload_that_nobody_expected_to_fail(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The log names the exception's type and not its text, nothing stays open, and the next reload works."""
    monkeypatch.setenv("GW_ONE", "http://127.0.0.1:1/")
    monkeypatch.setattr(server, "load_config", load)
    made: list[Running] = []

    class Noted(Running):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(server, "Running", Noted)

    async def reload(said: str) -> None:
        caplog.clear()
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(30):
            while said not in caplog.text:
                await asyncio.sleep(0.01)

    async def run() -> None:
        listens = asyncio.Event()
        gateway = GatewayServer(tmp_path, Listen(port=0), lambda _: listens.set())
        running = asyncio.create_task(gateway.run())
        await asyncio.wait_for(listens.wait(), 30)
        monkeypatch.setattr(server, "load_config", fail)
        await reload("not reloaded")
        assert "RuntimeError" in caplog.text
        assert "planted" not in caplog.text
        monkeypatch.setattr(server, "load_config", load)
        await reload("reloaded")
        assert "not reloaded" not in caplog.text
        monkeypatch.setattr(Noted, "inherit", fail)
        await reload("not reloaded")
        assert made[-1].pools["tested"]._upstream._session.closed
        monkeypatch.undo()
        monkeypatch.setenv("GW_ONE", "http://127.0.0.1:1/")
        monkeypatch.setattr(server, "load_config", load)
        await reload("reloaded")
        os.kill(os.getpid(), signal.SIGTERM)
        await running

    asyncio.run(run())


def test_a_start_that_nobody_expected_to_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It ends with one line that holds no secret."""
    monkeypatch.setattr(server, "load_config", fail)
    with pytest.raises(ConfigurationError, match="RuntimeError") as caught:
        asyncio.run(GatewayServer(tmp_path, Listen(port=0), print).run())
    assert "planted" not in str(caught.value)
    assert caught.value.__context__ is None
