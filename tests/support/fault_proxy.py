"""A JSON-RPC server on loopback that answers as a test says, or asks a real node and spoils answers."""

import gzip
import json
import socket
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import SecretStr

from trace_dagster.settings import RpcEndpoint


@dataclass
class Reply:
    """One HTTP reply; ``drop`` closes the connection instead."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    content_length: int | None = None


class RpcFailure(Exception):
    """Raised by a rewrite to answer with a JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Exchange:
    """One HTTP request: the parsed body (a dict, or a list for a batch), headers and path."""

    request: Any
    headers: dict[str, str]
    path: str

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The JSON-RPC requests in it."""
        return self.request if isinstance(self.request, list) else [self.request]


def pass_on(exchange: Exchange) -> Reply | None:
    """Spoil nothing."""
    return None


Rewrite = Callable[[list[Any], Any], Any]
Intercept = Callable[[Exchange], Reply | None]


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away, which tests make them do."""


class FaultProxy:
    """Listens on a free port, or the one that is given, until ``close``.

    Attributes:
        results: method to its result, or to a function of the parameters; instead of asking the node.
        rewrite: method to a function of parameters and the true result, returning what is answered.
        intercept: called with each HTTP request before anything else.
        calls: how often each method was asked.
        seen: (path, headers) of every HTTP request.
    """

    def __init__(self, upstream: str | None = None, port: int = 0) -> None:
        self.upstream = upstream
        self.results: dict[str, Any] = {}
        self.rewrite: dict[str, Rewrite] = {}
        self.intercept: Intercept = pass_on
        self.calls: Counter[str] = Counter()
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.gzip = False
        self._lock = threading.Lock()
        self._server = _QuietServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str = "/v2/planted-path-secret", userinfo: str = "") -> str:
        """Return a URL of this server that holds secrets."""
        return f"http://{userinfo and userinfo + '@'}127.0.0.1:{self.port}{path}"

    def endpoint(self, url: str | None = None, token: str | None = None) -> RpcEndpoint:
        """Return this server as the endpoint of rpc_pool ``tested``."""
        return RpcEndpoint(
            pool="tested",
            url=SecretStr(url or self.url()),
            token=SecretStr(token) if token else None,
            variable="TRACE_RPC_POOL_TESTED_URL",
        )

    def answer(self, call: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON-RPC answer to one request."""
        method, params = call["method"], call.get("params", [])
        with self._lock:
            self.calls[method] += 1
        try:
            if method in self.results:
                given = self.results[method]
                result = given(params) if callable(given) else given
            else:
                result = self._ask_node(call)
            if method in self.rewrite:
                result = self.rewrite[method](params, result)
        except RpcFailure as failure:
            error = {"code": failure.code, "message": str(failure)}
            return {"jsonrpc": "2.0", "id": call["id"], "error": error}
        return {"jsonrpc": "2.0", "id": call["id"], "result": result}

    def _ask_node(self, call: dict[str, Any]) -> Any:
        if self.upstream is None:
            raise RpcFailure(-32601, f"the method {call['method']} does not exist/is not available")
        request = urllib.request.Request(  # noqa: S310 (loopback)
            self.upstream, json.dumps(call).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            reply = json.load(response)
        if "error" in reply:
            raise RpcFailure(reply["error"]["code"], reply["error"]["message"])
        return reply["result"]

    def _reply(self, exchange: Exchange) -> Reply:
        spoiled = self.intercept(exchange)
        if spoiled is not None:
            return spoiled
        answers = [self.answer(call) for call in exchange.calls]
        body = json.dumps(answers if isinstance(exchange.request, list) else answers[0]).encode()
        return Reply(gzip.compress(body), headers={"Content-Encoding": "gzip"}) if self.gzip else Reply(body)

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with proxy._lock:
                    proxy.seen.append((self.path, dict(self.headers)))
                reply = proxy._reply(Exchange(request, dict(self.headers), self.path))
                if reply.drop:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                length = len(reply.body) if reply.content_length is None else reply.content_length
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(reply.body)
                if length != len(reply.body):
                    self.close_connection = True

            def log_message(self, *args: object) -> None:
                pass

        return Handler


class FirstTimes:
    """An intercept that spoils the first ``times`` exchanges (those with ``method``, if given)."""

    def __init__(self, times: int, reply: Reply, method: str | None = None) -> None:
        self.left, self.reply, self.method = times, reply, method
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> Reply | None:
        """Return the spoiled reply, or None once it was given often enough."""
        if self.method is not None and all(call["method"] != self.method for call in exchange.calls):
            return None
        with self._lock:
            self.left -= 1
            return self.reply if self.left >= 0 else None
