"""Several connections to one endpoint, so that its latency is paid once and not for every batch."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self

from trace_dagster.errors import RpcError, TraceError
from trace_dagster.rpc.client import Call, JsonRpcClient, TimeLimit
from trace_dagster.settings import RpcEndpoint

__all__ = ["RpcConnections"]

_CONNECTIONS: Final = 4
_FEWEST_CALLS: Final = 8
"""Fewer calls than this are not worth another connection."""


class RpcConnections:
    """Sends batches over several connections at once; itself for one thread at a time.

    Args:
        endpoint: where requests go.
        deadline: when to stop asking; None for no limit.
        count: most connections.
    """

    def __init__(
        self, endpoint: RpcEndpoint, *, deadline: TimeLimit | None = None, count: int = _CONNECTIONS
    ) -> None:
        self._limit = _Limit(deadline)
        self._clients = [JsonRpcClient(endpoint, deadline=self._limit) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    @property
    def first(self) -> JsonRpcClient:
        """One of them, for single requests."""
        return self._clients[0]

    @property
    def requests(self) -> int:
        """JSON-RPC requests sent so far over all connections."""
        return sum(client.requests for client in self._clients)

    def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Return the results of ``calls``, in their order, as ``JsonRpcClient.batch`` does.

        After a failure nothing more is sent, and no connection is in use any longer.

        Raises:
            TraceError: the first failure, in the order of the calls.
        """
        size = max(_FEWEST_CALLS, -(-len(calls) // len(self._clients)))
        slices = [calls[start : start + size] for start in range(0, len(calls), size)]
        if len(slices) < 2:
            return self.first.batch(calls)
        workers = [_Worker(client, some) for client, some in zip(self._clients, slices, strict=False)]
        try:
            return [result for worker in workers for result in worker.wait()]
        except TraceError:
            with self._limit.reached():
                for worker in workers:
                    worker.join()
            raise


class _Limit:
    """The caller's deadline, which can be brought forward for as long as a failed batch winds up."""

    def __init__(self, deadline: TimeLimit | None) -> None:
        self._deadline = deadline
        self._is_reached = False

    @property
    def remaining_seconds(self) -> float:
        if self._is_reached:
            return 0.0
        return float("inf") if self._deadline is None else self._deadline.remaining_seconds

    def check(self) -> None:
        if self._is_reached:
            raise RpcError("not asked: another connection has failed")
        if self._deadline is not None:
            self._deadline.check()

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Let nothing be sent meanwhile."""
        self._is_reached = True
        try:
            yield
        finally:
            self._is_reached = False


class _Worker:
    """One batch in a daemon thread, which an interrupt need not wait for."""

    def __init__(self, client: JsonRpcClient, calls: Sequence[Call]) -> None:
        self._client, self._calls = client, calls
        self._results: list[Any] | None = None
        self._failure: TraceError = RpcError(f"{client!r} was not asked to its end")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results = self._client.batch(self._calls)
        except TraceError as error:
            self._failure = error

    def join(self) -> None:
        self._thread.join()

    def wait(self) -> list[Any]:
        self.join()
        if self._results is None:
            raise self._failure
        return self._results
