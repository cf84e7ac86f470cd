"""An endpoint asked directly, over real HTTP, never shows its key."""

import asyncio
import gzip
import json
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from tests.support.fault_proxy import FaultProxy, Reply, RpcFailure
from trace_dagster.errors import RpcError
from trace_dagster.rpc.client import BatchRefused
from trace_dagster.rpc.failures import GarbledReply, ReplyError, Unreachable
from trace_dagster.rpc.gateway.direct import DirectEndpoint
from trace_dagster.rpc.gateway.resolved import Access
from trace_dagster.rpc.gateway.resolver import GuardedResolver

Use = Callable[[DirectEndpoint], Awaitable[Any]]


@pytest.fixture
def server() -> Iterator[FaultProxy]:
    """A server that answers as the test says."""
    proxy = FaultProxy()
    proxy.results = {"eth_chainId": "0x1", "echo": lambda params: params}
    yield proxy
    proxy.close()


def _used(access: Access, use: Use, timeout_seconds: float = 15.0) -> Any:
    async def run() -> Any:
        async with DirectEndpoint("tested", access, timeout_seconds) as endpoint:
            return await use(endpoint)

    return asyncio.run(run())


def _access(server: FaultProxy, **header: Any) -> Access:
    return Access(0, SecretStr(server.url("/v2/planted-key")), **header)


def _failure(access: Access, timeout_seconds: float = 15.0) -> RpcError:
    with pytest.raises(RpcError) as caught:
        _used(access, lambda endpoint: endpoint.ask("eth_chainId"), timeout_seconds)
    assert "planted" not in "".join(traceback.format_exception(caught.value))
    return caught.value


def test_single_and_batch(server: FaultProxy) -> None:
    """Results come back in the order of the requests, over the URL and the header that are said."""
    access = _access(server, header="x-api-key", value=SecretStr("planted-header"))

    async def use(endpoint: DirectEndpoint) -> Any:
        single = await endpoint.ask("echo", [1, {"a": None}])
        return single, await endpoint.ask_batch([("echo", [number]) for number in range(5)])

    assert _used(access, use) == ([1, {"a": None}], [[0], [1], [2], [3], [4]])
    path, headers = server.seen[0]
    assert path == "/v2/planted-key"
    assert headers["x-api-key"] == "planted-header"


def test_percent_encoded_key_is_sent_as_it_is(server: FaultProxy) -> None:
    """The URL is not encoded a second time, nor decoded."""
    access = Access(0, SecretStr(server.url("/v2/a%2Fb%2Bc?k=d%20e")))
    _used(access, lambda endpoint: endpoint.ask("eth_chainId"))
    assert server.seen[0][0] == "/v2/a%2Fb%2Bc?k=d%20e"


def test_user_and_password_of_a_url(server: FaultProxy) -> None:
    """Credentials in the URL are sent as HTTP Basic."""
    access = Access(0, SecretStr(server.url("/", userinfo="user:planted%2Fpassword")))
    _used(access, lambda endpoint: endpoint.ask("eth_chainId"))
    assert server.seen[0][1]["Authorization"] == "Basic dXNlcjpwbGFudGVkL3Bhc3N3b3Jk"


def test_error_of_json_rpc(server: FaultProxy) -> None:
    """Code and words of the endpoint are kept, without what is secret in them."""

    def fail(_params: list[Any], _result: Any) -> Any:
        raise RpcFailure(-32601, f"no method at {server.url('/v2/planted-key')}")

    server.rewrite["eth_chainId"] = fail
    failure = _failure(_access(server))
    assert isinstance(failure, ReplyError)
    assert failure.code == -32601
    assert failure.unsupported


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (Reply(b"planted", 500), Unreachable, "HTTP 500"),
        (Reply(b"planted", 404), Unreachable, "HTTP 404"),
        (Reply(b"", 302, {"Location": "http://127.0.0.1:1/planted"}), Unreachable, "HTTP 302"),
        (
            Reply(b'{"error": {"message": "key planted-key is out"}}', 403),
            Unreachable,
            "HTTP 403: key \\*\\*\\* is out",
        ),
        (Reply(b"<html>planted</html>"), GarbledReply, "a page of HTML"),
        (Reply(b'{"jsonrpc": "2.0", "id": 0, "resu'), GarbledReply, "no JSON"),
        (Reply(b'{"id": 7, "result": "planted"}'), GarbledReply, "what is no answer"),
        (Reply(b'{"id": 0}'), GarbledReply, "neither result nor error"),
        (Reply(b"[]"), GarbledReply, "what is no answer"),
        (Reply(b'{"id": 0', content_length=900), GarbledReply, "cut its reply off"),
        (Reply(b"planted", 200, {"Content-Encoding": "gzip"}), GarbledReply, "cut its reply off"),
        (Reply(drop=True), Unreachable, "connection closed without an answer"),
    ],
)
def test_what_is_no_answer(server: FaultProxy, reply: Reply, kind: type[RpcError], said: str) -> None:
    """Each fault has its kind, and none shows the URL, the key or the body."""
    server.intercept = lambda _exchange: reply
    failure = _failure(_access(server))
    assert type(failure) is kind
    with pytest.raises(kind, match=said):
        raise failure


def test_error_with_another_status(server: FaultProxy) -> None:
    """A JSON-RPC error is read whatever the status, but for those about the key."""
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": -32005, "message": "rate limit"}})
    server.intercept = lambda _exchange: Reply(body.encode(), 429)
    failure = _failure(_access(server))
    assert isinstance(failure, ReplyError)
    assert failure.rate_limited


def test_nobody_listens(server: FaultProxy) -> None:
    """A refused connection and a name that does not exist are unreachable."""
    server.close()
    assert "cannot be reached" in str(_failure(_access(server)))
    nowhere = Access(0, SecretStr("http://planted-host.invalid/planted-key"))
    with pytest.raises(Unreachable, match="cannot be reached"):
        _used(nowhere, lambda endpoint: endpoint.ask("eth_chainId"))


def test_compressed_reply(server: FaultProxy) -> None:
    """A compressed reply is read."""
    body = gzip.compress(b'{"jsonrpc": "2.0", "id": 0, "result": "0x1"}')
    server.intercept = lambda _exchange: Reply(body, 200, {"Content-Encoding": "gzip"})
    assert _used(_access(server), lambda endpoint: endpoint.ask("eth_chainId")) == "0x1"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"", 413),
        Reply(b'{"error": {"code": -32600, "message": "batch limit exceeded"}}'),
        Reply(b'[{"error": {"code": -32600, "message": "batches are not supported"}}]'),
    ],
)
def test_refused_batch(server: FaultProxy, reply: Reply) -> None:
    """Every way in which providers refuse a batch is known."""
    server.intercept = lambda _exchange: reply
    with pytest.raises(BatchRefused):
        _used(_access(server), lambda endpoint: endpoint.ask_batch([("eth_chainId", [])] * 5))


def test_batch_with_gaps(server: FaultProxy) -> None:
    """A batch that is answered in part is no answer, and a rate limit is told as such."""
    server.intercept = lambda _exchange: Reply(b'[{"id": 0, "result": 1}, {"id": 0, "result": 1}]')
    with pytest.raises(GarbledReply, match="did not answer each request"):
        _used(_access(server), lambda endpoint: endpoint.ask_batch([("eth_chainId", [])] * 2))
    server.intercept = lambda _exchange: Reply(b'{"error": {"code": 429, "message": "too many requests"}}')
    with pytest.raises(ReplyError, match="too many requests"):
        _used(_access(server), lambda endpoint: endpoint.ask_batch([("eth_chainId", [])] * 2))


def test_name_that_leads_to_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that a resolver sends to a link-local address is not asked."""

    async def to_metadata(*_arguments: object) -> list[dict[str, Any]]:
        return [{"hostname": "x", "host": "169.254.169.254", "port": 80, "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr("aiohttp.ThreadedResolver.resolve", to_metadata)

    async def resolved() -> object:
        return await GuardedResolver().resolve("rpc.example")

    with pytest.raises(OSError, match="link-local"):
        asyncio.run(resolved())
    access = Access(0, SecretStr("http://rpc.example/planted"))
    assert "link-local" in str(_failure(access))
