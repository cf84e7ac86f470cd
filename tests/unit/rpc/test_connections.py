"""Several connections to one endpoint."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fault_proxy import FaultProxy, RpcFailure
from trace_dagster.rpc import ReplyError, RpcConnections


@pytest.fixture
def server() -> Iterator[FaultProxy]:
    """A server that knows ``double``."""
    proxy = FaultProxy()
    proxy.results = {"double": lambda params: params[0] * 2}
    yield proxy
    proxy.close()


@pytest.mark.parametrize("calls", [0, 1, 7, 9, 40, 333])
def test_results_come_in_the_order_of_the_calls(server: FaultProxy, calls: int) -> None:
    """However many calls are shared out, their results are in order, and all are counted."""
    with RpcConnections(server.endpoint()) as rpc:
        assert rpc.batch([("double", [n]) for n in range(calls)]) == [2 * n for n in range(calls)]
        assert rpc.requests == calls


def test_connections_are_used_at_once(server: FaultProxy) -> None:
    """Two slices are under way at the same time: each waits until the other is there."""
    both = threading.Barrier(2, timeout=60)
    first_of_slice = {0, 20}

    def meet(params: list[Any]) -> Any:
        if params[0] in first_of_slice:
            both.wait()
        return params[0]

    server.results["meet"] = meet
    with RpcConnections(server.endpoint(), count=2) as rpc:
        assert rpc.batch([("meet", [n]) for n in range(40)]) == list(range(40))


def test_the_first_failure_is_raised(server: FaultProxy) -> None:
    """A failure of any connection is the caller's, the first in order if there are several."""

    def fail(params: list[Any]) -> Any:
        if params[0] in (12, 30):
            raise RpcFailure(-32000, f"number {params[0]}")

    server.results["fail"] = fail
    with RpcConnections(server.endpoint()) as rpc, pytest.raises(ReplyError, match="number 12"):
        rpc.batch([("fail", [n]) for n in range(40)])


def test_nothing_is_sent_after_a_failure(server: FaultProxy) -> None:
    """A connection that would try again for long stops when another fails, and all can be used again."""
    tried = threading.Event()

    def fail(params: list[Any]) -> Any:
        if params[0] == 0:
            tried.wait(60)
            raise RpcFailure(-32000, "number 0")
        if params[0] == 20:
            tried.set()
            raise RpcFailure(-32005, "rate limit")
        return params[0]

    server.results["fail"] = fail
    with RpcConnections(server.endpoint(), count=2) as rpc:
        with pytest.raises(ReplyError, match="number 0"):
            rpc.batch([("fail", [n]) for n in range(40)])
        sent = rpc.requests
        assert not [thread for thread in threading.enumerate() if thread.name.endswith("(_run)")]
        assert rpc.batch([("double", [n]) for n in range(40)]) == [2 * n for n in range(40)]
        assert rpc.requests == sent + 40
