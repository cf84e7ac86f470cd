"""Hears of new heads over a WebSocket, in a thread of its own: a signal to look, and nothing more.

What the subscription says is not trusted: the follower then looks at the head itself. All that a socket can
do is to come too early, too late, or not at all, and ``Heads`` allows for each.
"""

import json
import threading
import time
from types import TracebackType
from typing import Any, Final, Self

from websockets.sync.client import ClientConnection

from trace_dagster.chain.decoding.safe_json import loads
from trace_dagster.errors import TraceError
from trace_dagster.rpc.failures import Unreachable
from trace_dagster.rpc.secrets import scrub, secrets_of
from trace_dagster.rpc.websocket import open_websocket, websocket_endpoint
from trace_dagster.settings import RpcEndpoint

__all__ = ["HeadSignal"]

_SUBSCRIBE_SECONDS: Final = 5.0
_SECONDS_AFTER_A_REFUSAL: Final = 180.0
_FIRST_SECONDS_AFTER_A_BREAK: Final = 1.0
_STEADY_SECONDS: Final = 60.0
"""A socket that lasted so long is asked for again at once."""

_SECONDS_BETWEEN_CHECKS: Final = 0.2
_MOST_MESSAGES_PER_SECOND: Final = 500
_LONGEST_JOIN_SECONDS: Final = 1.0


class HeadSignal:
    """A subscription to new heads that is asked for again and again; a context manager.

    Args:
        endpoint: the pool's.

    Attributes:
        heads: how many heads it has told of, so far; a subscription that begins counts as one.
        newest: the hash that the last of them had, as it was written: to tell a head that was seen already.
    """

    def __init__(self, endpoint: RpcEndpoint) -> None:
        self._endpoint = websocket_endpoint(endpoint)
        self._secrets = secrets_of(self._endpoint)
        self._problem: str | None = None
        self._is_live = False
        self._woken, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="trace-heads", daemon=True)
        self.heads = 0
        self.newest: str | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        # In the middle of a handshake it ends by itself, once that has: nobody waits for it.
        self._thread.join(_LONGEST_JOIN_SECONDS)

    @property
    def is_live(self) -> bool:
        """Whether there is a subscription now."""
        return self._is_live

    @property
    def problem(self) -> str | None:
        """Why there is none, without credentials; None where there is one, or the first try is under way."""
        if self._problem is None and not self._is_live and not self._thread.is_alive():
            return "what listens to the WebSocket has ended"
        return self._problem

    def wait(self, seconds: float) -> bool:
        """Wait for a head that was told of since the last call; return whether there was one."""
        is_woken = self._woken.wait(seconds)
        self._woken.clear()
        return is_woken

    def _run(self) -> None:
        pause = _FIRST_SECONDS_AFTER_A_BREAK
        while not self._stopped.is_set():
            subscribed_at = None
            try:
                with open_websocket(self._endpoint) as connection:
                    subscription = self._subscribed(connection)
                    subscribed_at = time.monotonic()
                    self._problem, self._is_live = None, True
                    self._tell(None)  # of a block of the time before
                    self._listen(connection, subscription)
            except _Misbehaves as error:
                self._problem, subscribed_at = str(error), None
            except TraceError as error:
                self._problem = str(error)
            self._is_live, self.newest = False, None
            self._woken.set()  # nobody else would end a long wait
            if subscribed_at is None:
                pause = _SECONDS_AFTER_A_REFUSAL
            elif time.monotonic() - subscribed_at >= _STEADY_SECONDS:
                pause = _FIRST_SECONDS_AFTER_A_BREAK
            self._stopped.wait(pause)
            pause = min(2 * pause, _SECONDS_AFTER_A_REFUSAL)

    def _subscribed(self, connection: ClientConnection) -> str:
        """Ask for new heads, and return the subscription's id.

        Raises:
            Unreachable: the endpoint does not offer that, or the connection broke.
        """
        connection.send(
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]})
        )
        until = time.monotonic() + _SUBSCRIBE_SECONDS
        while not self._stopped.is_set() and time.monotonic() < until:
            reply = self._received(connection)
            if reply is None or reply.get("method") == "eth_subscription":
                continue  # some tell of the first head before they answer
            subscription = reply.get("result")
            if reply.get("id") == 1 and isinstance(subscription, str):
                return subscription
            raise self._refusal(f"refuses eth_subscribe newHeads: {reply.get('error') or 'no subscription'}")
        raise self._refusal(f"did not answer eth_subscribe within {_SUBSCRIBE_SECONDS:g} s")

    def _listen(self, connection: ClientConnection, subscription: str) -> None:
        """Pass on what comes, until it is stopped.

        Raises:
            Unreachable: the other end sends what it should not, or the connection broke.
        """
        second, messages = 0, 0
        while not self._stopped.is_set():
            message = self._received(connection)
            if message is None:
                continue
            now = int(time.monotonic())
            second, messages = now, messages + 1 if now == second else 1
            if messages > _MOST_MESSAGES_PER_SECOND:
                raise self._refusal(f"sent more than {_MOST_MESSAGES_PER_SECOND} messages within a second")
            params = message.get("params")
            if not isinstance(params, dict) or params.get("subscription") != subscription:
                raise self._refusal("sent what is no head")
            head = params.get("result")
            self._tell(head.get("hash") if isinstance(head, dict) else None)

    def _tell(self, newest: Any) -> None:
        self.newest = newest if isinstance(newest, str) else None
        self.heads += 1
        self._woken.set()

    def _received(self, connection: ClientConnection) -> dict[str, Any] | None:
        """Return the next message; None where there is none yet."""
        try:
            text = connection.recv(_SECONDS_BETWEEN_CHECKS)
        except TimeoutError:
            return None
        try:
            message = loads(text) if isinstance(text, str) else None
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise self._refusal("sent what is no JSON-RPC")
        return message

    def _refusal(self, what: str) -> "_Misbehaves":
        return _Misbehaves(scrub(f"rpc_pool {self._endpoint.pool!r}: the WebSocket {what}", self._secrets))


class _Misbehaves(Unreachable):
    """There is a WebSocket, but no subscription that is of use; asked again at once it would be the same."""
