"""What the endpoints of a pool can do, found out while the pool answers."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from trace_dagster.errors import RpcError, RpcUnavailable
from trace_dagster.rpc.failures import GarbledReply, ReplyError
from trace_dagster.rpc.gateway.endpoint import Endpoint
from trace_dagster.rpc.gateway.jsonrpc import Call, read_error
from trace_dagster.rpc.gateway.probe import probe
from trace_dagster.rpc.gateway.sending import Sender
from trace_dagster.rpc.secrets import scrub

__all__ = ["Learning"]

_SECONDS_BETWEEN_LOOKS: Final = 1.0
_AGAIN_SECONDS: Final = 3_600.0


class Learning:
    """Probes every endpoint once its chain is known, and again every hour, when its chain is asked for, too.

    What is found not to be there is not asked for; the largest batch is learned from refusals alone.

    Args:
        endpoints: of one pool.
        sender: how they are asked, within their limits.
    """

    def __init__(self, endpoints: Sequence[Endpoint], sender: Sender) -> None:
        self._endpoints, self._sender = endpoints, sender
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the background."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        probed: set[Endpoint] = set()
        due = dict.fromkeys(self._endpoints, loop.time())
        while True:
            for endpoint, moment in due.items():
                if endpoint.chain_checked and moment <= loop.time():
                    if endpoint in probed:
                        endpoint.doubt()
                    probed.add(endpoint)
                    await self._learn(endpoint)
                    due[endpoint] = loop.time() + _AGAIN_SECONDS
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)

    async def _learn(self, endpoint: Endpoint) -> None:
        async def ask(method: str, params: Sequence[Any]) -> Any:
            return await self._ask(endpoint, Call(method, msgspec.json.encode(params)))

        try:
            endpoint.learn(await probe(ask, known=endpoint.config.capabilities))
        except RpcError:
            return  # it is down; what it can do is learned from its answers

    async def _ask(self, endpoint: Endpoint, call: Call) -> Any:
        (answer,), _ = await self._sender.ask((endpoint,), [call])
        if answer is None:
            raise RpcUnavailable(f"endpoint {endpoint.name} did not answer {call.method}")
        if answer.error is not None:
            error = read_error(answer.error)
            text = scrub(error.message, endpoint.secrets)
            raise ReplyError(
                f"endpoint {endpoint.name} answered {call.method} with error {error.code}: {text}",
                method=call.method,
                code=error.code,
                text=text,
            )
        try:
            return msgspec.json.decode(answer.result or b"null")
        except (msgspec.DecodeError, RecursionError):
            pass
        raise GarbledReply(f"endpoint {endpoint.name} answered {call.method} with what cannot be read")
