"""A WebSocket server on loopback that tells of new heads as a test says: well, badly, or not at all."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

SECRET = "planted-websocket-secret"
SUBSCRIPTION = "0x9ce59a13059e417087c02d3236a0b1cc"
HEAD = json.dumps(
    {
        "jsonrpc": "2.0",
        "method": "eth_subscription",
        "params": {"subscription": SUBSCRIPTION, "result": {"number": "0xffffffff"}},
    }
)

Behaviour = Callable[[ServerConnection], None]


def subscribe(connection: ServerConnection) -> None:
    """Answer the request for new heads."""
    request = json.loads(connection.recv())
    assert request["method"] == "eth_subscribe"
    connection.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": SUBSCRIPTION}))


@contextmanager
def heads_served(behaviour: Behaviour, refusals: int = 0) -> Iterator[str]:
    """Serve, and yield the URL, which holds a secret.

    Args:
        behaviour: what is done with each connection.
        refusals: so many handshakes are refused first.
    """
    left = refusals

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        nonlocal left
        left -= 1
        return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, SECRET) if left >= 0 else None

    def handle(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            behaviour(connection)

    with serve(handle, "127.0.0.1", 0, process_request=refuse, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/{SECRET}"
        server.shutdown()
        thread.join()


@contextmanager
def bytes_served(reply: bytes) -> Iterator[str]:
    """Answer each connection with some bytes and no end, and yield the URL, which holds a secret."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepted: list[socket.socket] = []

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    accepted.append(connection)
                    connection.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}/{SECRET}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in accepted:
            connection.close()
