"""What the application makes of what nobody expected, and of who asks from where."""

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any, cast

import pytest

from trace_dagster.rpc.gateway.app import GatewayApp
from trace_dagster.rpc.gateway.metrics import Metrics
from trace_dagster.rpc.gateway.running import Running


class Broken:
    """A running gateway in which whatever is asked fails."""

    users = 0

    @property
    def guard(self) -> None:
        """Fail with a text that holds a secret."""
        raise RuntimeError("planted-secret")


def replied(running: object, metrics: Metrics) -> tuple[int, bytes]:
    """Post one request and return status and body."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "raw_path": b"/v1/tested",
        "method": "POST",
        "headers": [],
        "client": ("127.0.0.1", 1),
    }
    asyncio.run(GatewayApp(cast("Running", running), metrics)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


def test_what_nobody_expected_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    """JSON-RPC's internal error, counted, and only the exception's type in the log."""
    running, metrics = Broken(), Metrics()
    status, body = replied(running, metrics)
    assert status == 500
    assert json.loads(body)["error"]["code"] == -32603
    assert b'trace_gateway_refusals_total{status="500"} 1.0' in metrics.text()
    assert "RuntimeError" in caplog.text
    assert "planted" not in caplog.text + body.decode()
    assert running.users == 0
