"""What a worker is told of its credits, and that nothing comes of a gateway that tells none."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from tests.support.fault_proxy import FaultProxy
from trace_dagster.rpc.spending import SpendingWatch
from trace_dagster.settings import RpcEndpoint


class Gateway(FaultProxy):
    """Answers what is read with the next of ``told``: a JSON value, or a status.

    Attributes:
        told: what is answered.
        read: (path, job, partition) of what was read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []
        self.read: list[tuple[str, str | None, str | None]] = []
        gateway = self

        def do_get(handler: Any) -> None:
            headers = handler.headers
            gateway.read.append((handler.path, headers["X-Trace-Job"], headers["X-Trace-Partition"]))
            told = gateway.told.pop(0)
            status, body = (told, b"<html>") if isinstance(told, int) else (200, json.dumps(told).encode())
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        self._server.RequestHandlerClass.do_GET = do_get  # type: ignore[attr-defined]


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway."""
    server = Gateway()
    yield server
    server.close()


def endpoint(gateway: Gateway, variable: str = "TRACE_RPC_GATEWAY_URL") -> RpcEndpoint:
    """The gateway as it is asked for a partition."""
    return RpcEndpoint(
        pool="p", url=SecretStr(f"http://127.0.0.1:{gateway.port}/v1/p"), variable=variable
    ).asked_by("dag/job", "0_9")


def test_only_what_is_spent_from_now_on_counts(gateway: Gateway) -> None:
    """What earlier attempts at the partition cost is in the gateway's sum, and not in this attempt's."""
    gateway.told = [{"credits": 10.5}, {"credits": 12}]
    assert SpendingWatch(endpoint(gateway)).spent() == 1.5
    assert gateway.read == [("/v1/p/usage", "dag/job", "0_9")] * 2


def test_a_gateway_that_began_anew(gateway: Gateway) -> None:
    """What it counted since then is told: the rest is not known any more."""
    gateway.told = [{"credits": 10.5}, {"credits": 4}]
    assert SpendingWatch(endpoint(gateway)).spent() == 4


@pytest.mark.parametrize(
    "told",
    [
        404,
        405,
        500,
        302,
        {},
        [],
        "credits",
        {"credits": None},
        {"credits": True},
        {"credits": "1"},
        {"credits": -1},
    ],
)
def test_another_gateway_costs_one_request(gateway: Gateway, told: Any) -> None:
    """It is not asked again, and nothing fails."""
    gateway.told = [told]
    assert SpendingWatch(endpoint(gateway)).spent() is None
    assert len(gateway.read) == 1


def test_a_gateway_that_goes_away(gateway: Gateway) -> None:
    """What was spent is not known, and nothing fails."""
    gateway.told = [{"credits": 1}, 503]
    assert SpendingWatch(endpoint(gateway)).spent() is None


def test_providers_are_not_asked(gateway: Gateway) -> None:
    """Without a gateway, or without a job, there is nothing to ask for."""
    assert SpendingWatch(endpoint(gateway, "TRACE_RPC_POOL_P_URL")).spent() is None
    assert SpendingWatch(endpoint(gateway).model_copy(update={"caller": None})).spent() is None
    assert SpendingWatch.of(None) is None
    assert gateway.read == []
