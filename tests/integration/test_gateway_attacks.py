"""What strangers and careless callers send to a gateway: refused with the right status, nothing told."""

import base64
import contextlib
import gzip
import http.client
import json
import re
import socket
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import psutil
import pytest

from tests.support.fault_proxy import FaultProxy, Reply
from tests.support.gateways import GatewayProcess, one_pool, running_gateway

ALL, OTHER, LOGS = "token-of-everything-1234", "token-of-another-pool-12", "token-of-only-logs-12345"
PLANTED = ("planted-path-secret", "planted-header-key", ALL, OTHER, LOGS)


@pytest.fixture(scope="module")
def upstream() -> Iterator[FaultProxy]:
    """An endpoint that fails in words that hold its secrets."""
    proxy = FaultProxy()
    proxy.results = {"eth_chainId": "0x7a69", "eth_blockNumber": "0x10", "eth_gasPrice": "0x1"}
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def gateway(upstream: FaultProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with tokens, and limits that are easily met."""
    config = one_pool(only={"keys": ["env:GW_KEY"], "key_header": "X-Key"})
    config["pools"]["another"] = config["pools"]["tested"]
    config["limits"] = {"max_body_bytes": 100_000, "max_batch_items": 50}
    config["tokens"] = [
        {"name": "all", "token": "env:T_ALL"},
        {"name": "other", "token": "env:T_OTHER", "pools": ["another"]},
        {"name": "logs", "token": "env:T_LOGS", "pools": ["tested"], "methods": ["eth_getLogs"]},
    ]
    environment = {
        "GW_ONLY": upstream.url(),
        "GW_KEY": "planted-header-key",
        "T_ALL": ALL,
        "T_OTHER": OTHER,
        "T_LOGS": LOGS,
    }
    with running_gateway(tmp_path_factory.mktemp("gateway"), config, environment) as running:
        yield running
        for secret in PLANTED:
            assert secret not in running.output()


def ask(
    gateway: GatewayProcess,
    body: Any,
    *,
    token: str | None = ALL,
    path: str = "/v1/tested",
    headers: Mapping[str, str] = {},
    method: str = "POST",
) -> tuple[int, bytes, Mapping[str, str]]:
    """Send one request and return status, body and headers, none of which may hold a secret."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    with contextlib.closing(connection):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Authorization": f"Bearer {token}"} if token else {}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, data, {**given, **headers})
        response = connection.getresponse()
        reply = response.read()
        told = reply + repr(response.getheaders()).encode()
        for secret in PLANTED:
            assert secret.encode() not in told
        return response.status, reply, dict(response.getheaders())


def call(method: str, *params: Any) -> dict[str, Any]:
    """A request."""
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}


CHAIN_ID = call("eth_chainId")


@pytest.mark.parametrize(
    ("token", "path", "status"),
    [
        (ALL, "/v1/tested", 200),
        (None, "/v1/tested", 401),
        (ALL[:-1], "/v1/tested", 401),
        (ALL + "x", "/v1/tested", 401),
        (OTHER, "/v1/tested", 403),
        (OTHER, "/v1/another", 200),
        (OTHER, "/v1/nothing", 403),
        (ALL, "/v1/nothing", 404),
        (ALL, "/v1/tested/", 404),
        (ALL, "/v1/../v1/tested", 404),
        (ALL, "/v1/tested%0d%0aX-Evil:1", 404),
        (ALL, "/v1/" + "a" * 5000, 404),
        (ALL, "/", 404),
    ],
)
def test_tokens_and_paths(gateway: GatewayProcess, token: str | None, path: str, status: int) -> None:
    """Each token opens its own pools only, and no path is anything but a pool's."""
    found, _, headers = ask(gateway, CHAIN_ID, token=token, path=path)
    assert found == status
    assert "X-Evil" not in headers


def test_basic_credentials(gateway: GatewayProcess) -> None:
    """The token may be the password of any user, or the user of no password."""
    for pair, status in ((f"anybody:{ALL}", 200), (f"{ALL}:", 200), ("anybody:wrong", 401), ("", 401)):
        headers = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
        assert ask(gateway, CHAIN_ID, token=None, headers=headers)[0] == status
    assert ask(gateway, CHAIN_ID, token=None, headers={"Authorization": "Basic %%%"})[0] == 401


@pytest.mark.parametrize(
    "method",
    [
        "eth_sendRawTransaction",
        "eth_sendTransaction",
        "personal_unlockAccount",
        "admin_addPeer",
        "debug_setHead",
        "anvil_setBalance",
        "evm_mine",
        "miner_start",
    ],
)
def test_methods_that_change_something(gateway: GatewayProcess, upstream: FaultProxy, method: str) -> None:
    """They are refused alone and in a batch, and never reach the endpoint."""
    status, reply, _ = ask(gateway, call(method))
    assert status == 403
    assert json.loads(reply)["error"]["code"] == -32601
    status, reply, _ = ask(gateway, [CHAIN_ID, call(method), {**CHAIN_ID, "method": method, "id": 2}])
    assert status == 200
    first, *others = json.loads(reply)
    assert first["result"] == "0x7a69"
    assert [one["error"]["code"] for one in others] == [-32601, -32601]
    hidden = b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","method":"%s","params":[]}' % method.encode()
    assert ask(gateway, hidden)[0] == 403
    assert upstream.calls[method] == 0


def test_a_token_for_logs_only(gateway: GatewayProcess) -> None:
    """A token's own list of methods is all that it opens."""
    assert ask(gateway, CHAIN_ID, token=LOGS)[0] == 403


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"5", 400),
        (b"\xff\xfe", 400),
        (b'{"jsonrpc":"2.0","method":"eth_chainId"}', 400),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":{"a":1}}', 400),
        (b'{"jsonrpc":"2.0","id":{},"method":"eth_chainId"}', 400),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth chain\\r\\nid"}', 400),
        (b"[" * 90_000, 400),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_call","params":' + b"[" * 40 + b"]" * 40 + b"}", 400),
        (b'{"a":' * 15_000 + b"1" + b"}" * 15_000, 400),
        (json.dumps([CHAIN_ID] * 51).encode(), 400),
        (b" " * 100_001, 413),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bodies_that_are_no_request(gateway: GatewayProcess, body: bytes, status: int) -> None:
    """They are refused with a JSON-RPC error, and the gateway goes on."""
    found, reply, _ = ask(gateway, body)
    assert found == status
    assert json.loads(reply)["error"]["code"] < 0
    assert ask(gateway, CHAIN_ID)[0] == 200


def test_a_body_of_100_megabytes(gateway: GatewayProcess) -> None:
    """It is refused by its length before it is read, and as soon as it is too long where none is said."""
    assert ask(gateway, b"x" * 100_000_000)[0] == 413
    with socket.create_connection(("127.0.0.1", gateway.port)) as endless:
        endless.sendall(
            b"POST /v1/tested HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Authorization: Bearer %b\r\n\r\n" % ALL.encode()
        )
        for _ in range(20):
            endless.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        assert endless.recv(100).startswith(b"HTTP/1.1 413")


def test_compressed_bodies(gateway: GatewayProcess) -> None:
    """They are read, unless they unpack to more than is allowed or not at all."""
    packed = gzip.compress(json.dumps(CHAIN_ID).encode())
    gzipped = {"Content-Encoding": "gzip"}
    assert ask(gateway, packed, headers=gzipped)[0] == 200
    assert ask(gateway, gzip.compress(b" " * 50_000_000), headers=gzipped)[0] == 413
    assert ask(gateway, packed[:-4], headers=gzipped)[0] == 400
    assert ask(gateway, b"nonsense", headers=gzipped)[0] == 400
    assert ask(gateway, packed, headers={"Content-Encoding": "br"})[0] == 415


def test_replies_are_compressed_for_those_who_ask(gateway: GatewayProcess, upstream: FaultProxy) -> None:
    """A long reply comes as gzip where that is accepted, and as it is where not."""
    upstream.results["eth_getCode"] = "0x" + "ab" * 100_000
    asked = call("eth_getCode", "0x00", "0x1")
    status, plain, headers = ask(gateway, asked)
    assert (status, headers.get("content-encoding")) == (200, None)
    for accepted in ("gzip, deflate", "br;q=1, GZIP;q=0.5", "*"):
        status, packed, headers = ask(gateway, asked, headers={"Accept-Encoding": accepted})
        assert (status, headers["content-encoding"]) == (200, "gzip")
        assert gzip.decompress(packed) == plain
        assert len(packed) < len(plain) / 10
    for refused in ("identity", "gzip;q=0", "br"):
        assert ask(gateway, asked, headers={"Accept-Encoding": refused})[1] == plain


def test_connections_are_kept(gateway: GatewayProcess) -> None:
    """Several requests go over one connection, refused ones and pipelined ones among them."""
    body = json.dumps(CHAIN_ID).encode()
    head = b"POST /v1/tested HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n"
    good, bad = head % (ALL.encode(), len(body)) + body, head % (b"wrong", len(body)) + body
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(good + bad + good)
        received = b""
        while received.count(b'"result":"0x7a69"') < 2:
            received += connection.recv(10_000)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"401", b"200"]


def test_strangers_do_not_fill_the_log(gateway: GatewayProcess) -> None:
    """What is no HTTP is refused, and not told of each time."""
    before = gateway.output()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
            connection.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert gateway.output() == before


def test_slow_and_endless_headers(gateway: GatewayProcess) -> None:
    """A connection that does not send its headers within ten seconds, or sends too many, is closed."""
    address = ("127.0.0.1", gateway.port)
    with socket.create_connection(address) as silent, socket.create_connection(address) as slow:
        slow.sendall(b"POST /v1/tested HTTP/1.1\r\nHost: x\r\n")
        with socket.create_connection(address) as endless, contextlib.suppress(OSError):
            endless.sendall(b"POST /v1/tested HTTP/1.1\r\n")
            for number in range(1000):
                endless.sendall(b"X-%d: %b\r\n" % (number, b"x" * 1000))
            assert endless.recv(1) == b""
        slow.settimeout(30)
        silent.settimeout(30)
        with contextlib.suppress(OSError):
            for _ in range(300):
                slow.sendall(b"a")
                time.sleep(0.05)
        with contextlib.suppress(ConnectionResetError):
            assert slow.recv(1) == b""
        assert silent.recv(1) == b""
    assert ask(gateway, CHAIN_ID)[0] == 200


def test_headers_that_would_become_labels(gateway: GatewayProcess) -> None:
    """A job's name is taken only where it is one; a made-up method is counted as another."""
    ask(gateway, CHAIN_ID, headers={"X-Trace-Job": 'evil"} 1\\n', "X-Trace-Priority": "highest"})
    ask(gateway, CHAIN_ID, headers={"X-Trace-Job": "monad/cryo_bootstrap", "X-Trace-Partition": "0_999"})
    ask(gateway, call("made_up_by_a_stranger"))
    status, text, _ = ask(gateway, b"", path="/metrics", method="GET")
    assert status == 200
    assert b"evil" not in text
    assert b"made_up" not in text
    assert b"0_999" not in text
    assert b'job="monad/cryo_bootstrap",method="eth_chainId",pool="tested",token="all"' in text


def test_status_pages_need_a_token_from_elsewhere(gateway: GatewayProcess) -> None:
    """They are open to this machine by its own names only: a page in a browser may come by another."""
    assert ask(gateway, b"", path="/healthz", method="GET", token=None)[0] == 200
    strange = {"Host": "rebound.example"}
    assert ask(gateway, b"", path="/healthz", method="GET", token=None, headers=strange)[0] == 401
    assert ask(gateway, b"", path="/metrics", method="GET", token=None, headers=strange)[0] == 401
    assert ask(gateway, b"", path="/metrics", method="GET", headers=strange)[0] == 200
    proxied = {"X-Forwarded-For": "8.8.8.8"}
    assert ask(gateway, b"", path="/healthz", method="GET", token=None, headers=proxied)[0] == 401
    assert ask(gateway, b"", path="/healthz", method="GET", headers=proxied)[0] == 200
    assert ask(gateway, CHAIN_ID, method="GET")[0] == 405


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"denied for planted-header-key at http://127.0.0.1/v2/planted-path-secret", 403),
        Reply(b"no planted-path-secret", 500),
        Reply(b"<html>planted-path-secret</html>"),
        Reply(status=302, headers={"Location": "http://169.254.169.254/planted-path-secret"}),
        Reply(drop=True),
        Reply(
            b'{"jsonrpc":"2.0","id":0,"error":{"code":-32000,"message":"at /v2/planted-path-secret",'
            b'"data":{"url":"/v2/planted-path-secret"}}}'
        ),
        Reply(
            b'{"jsonrpc":"2.0","id":0,"error":{"code":-32000,'
            b'"message":"\\u0070lanted-path-secret and \\u0070lanted-header-key"}}'
        ),
    ],
    ids=["403", "500", "html", "redirect", "drop", "error", "escaped"],
)
def test_secrets_in_an_endpoints_words(
    upstream: FaultProxy, tmp_path_factory: pytest.TempPathFactory, reply: Reply
) -> None:
    """However an endpoint fails, neither callers nor /healthz nor the log get its URL or key."""
    config = one_pool(only={"keys": ["env:GW_KEY"], "key_header": "X-Key"})
    environment = {"GW_ONLY": upstream.url(), "GW_KEY": "planted-header-key"}
    with running_gateway(tmp_path_factory.mktemp("failing"), config, environment) as running:
        upstream.intercept = lambda _: reply
        try:
            _, told, _ = ask(running, call("eth_gasPrice"), token=None)
            assert b"error" in told
            _, health, _ = ask(running, b"", path="/healthz", method="GET", token=None)
            assert b'"only"' in health
        finally:
            upstream.intercept = lambda _: None
        for secret in PLANTED:
            assert secret not in running.output()


def test_a_key_in_an_endpoints_words_in_any_encoding(
    upstream: FaultProxy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A key with characters that JSON libraries, HTML and URLs escape is not told in any of their ways."""
    key = "ab/cd+ef==ghijkl"
    quoted = urllib.parse.quote(key, safe="")
    ways = (
        key.replace("/", "\\/"),
        key.replace("=", "\\u003d"),
        key.replace("+", "\\u002B"),
        key.replace("/", "&#x2F;").replace("+", "&#43;"),
        quoted.lower(),
        urllib.parse.quote(key),
        urllib.parse.quote(quoted),
        base64.b64encode(key.encode()).decode(),
        base64.b64encode(f":{key}".encode()).decode(),
        key.upper(),
    )
    config = one_pool(only={"keys": ["env:GW_KEY"], "key_header": "X-Key"})
    config["limits"] = {"max_wait_seconds": 1, "deadline_seconds": 1}
    config["pools"] = {f"p{at}": config["pools"]["tested"] for at in range(len(ways))}
    environment = {"GW_ONLY": upstream.url(), "GW_KEY": key}
    with running_gateway(tmp_path_factory.mktemp("encoded"), config, environment) as running:
        told = []
        try:
            for at, way in enumerate(ways):
                error = f'{{"code":-32000,"message":"{way}","data":{{"key":"{way}"}}}}'
                for reply in (
                    Reply(f'{{"jsonrpc":"2.0","id":0,"error":{error}}}'.encode()),
                    Reply(f"no key {way}".encode(), 500),
                ):
                    upstream.intercept = lambda _, reply=reply: reply
                    told.append(ask(running, call("eth_gasPrice"), path=f"/v1/p{at}", token=None)[1].decode())
        finally:
            upstream.intercept = lambda _: None
        told += ask(running, b"", path="/healthz", method="GET", token=None)[1].decode(), running.output()
        for text in told:
            assert not [way for way in (key, "cd+ef", *ways) if way in text.replace("\\\\", "\\")]
        assert sum("***" in text for text in told) > 2 * len(ways)


def test_without_tokens_only_this_machine_by_its_name(
    upstream: FaultProxy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A name that was rebound to loopback, or a page of another site, gets nothing."""
    environment = {"GW_ONLY": upstream.url()}
    with running_gateway(tmp_path_factory.mktemp("local"), one_pool(only={}), environment) as running:
        assert ask(running, CHAIN_ID, token=None)[0] == 200
        assert ask(running, CHAIN_ID, token=None, headers={"Host": f"localhost:{running.port}"})[0] == 200
        assert ask(running, CHAIN_ID, token=None, headers={"Host": "rebound.example"})[0] == 403
        assert ask(running, CHAIN_ID, token=None, headers={"Origin": "https://evil.example"})[0] == 403


def sent(gateway: GatewayProcess, *pieces: bytes) -> bytes:
    """Send bytes, and return all that comes back until the connection is closed."""
    received = b""
    with (
        socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection,
        contextlib.suppress(ConnectionResetError, BrokenPipeError),
    ):
        for piece in pieces:
            connection.sendall(piece)
        while more := connection.recv(10_000):
            received += more
    return received


BODY = json.dumps(CHAIN_ID).encode()
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
TOKEN_HEADER = b"Authorization: Bearer %b\r\n" % ALL.encode()
CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)
HEAD = b"POST /v1/tested HTTP/1.1\r\nConnection: close\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (HEAD + b"Host: x\r\n" + TOKEN_HEADER + LENGTH + b"\r\n" + BODY, 200),
        (HEAD + b"Host: x\r\nHost: x\r\n" + TOKEN_HEADER + LENGTH + b"\r\n" + BODY, 400),
        (HEAD + b"Host: x\r\n" + TOKEN_HEADER * 2 + LENGTH + b"\r\n" + BODY, 400),
        (HEAD + b"Host: x\r\n" + TOKEN_HEADER + LENGTH * 2 + b"\r\n" + BODY, 400),
        (HEAD + b"Host: x\r\n" + TOKEN_HEADER + LENGTH + CHUNKED + b"\r\n" + CHUNK + b"0\r\n\r\n", 400),
        (HEAD + b"Host: x\r\n" + TOKEN_HEADER + CHUNKED * 2 + b"\r\n" + CHUNK + b"0\r\n\r\n", 400),
        (HEAD + b"Host: x\r\n" + TOKEN_HEADER + b"Transfer-Encoding: x\r\n\r\n" + BODY, 400),
        (HEAD + b"Host: x\r\n" + CHUNKED + b"\r\n" + CHUNK + b"0\r\n" + TOKEN_HEADER + b"\r\n", 401),
        (HEAD + b"Host: x\r\n" + TOKEN_HEADER + CHUNKED + b"\r\n" + CHUNK + b"0\r\nHost: y\r\n\r\n", 200),
        (HEAD + b"Host: x\r\nX: y\r\n" + TOKEN_HEADER + LENGTH + b"X: y\r\n" * 120 + b"\r\n" + BODY, 400),
        (b"POST /v1/tested HTTP/1.0\r\n" + TOKEN_HEADER + LENGTH + b"\r\n" + BODY, 200),
        (b"POST http://x/v1/tested HTTP/1.0\r\nHost: x\r\n" + TOKEN_HEADER + LENGTH + b"\r\n" + BODY, 200),
        (b"POST http://x/v1/tested HTTP/1.0\r\nHost: y\r\n" + TOKEN_HEADER + LENGTH + b"\r\n" + BODY, 400),
        (b"OPTIONS * HTTP/1.0\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT x:80 HTTP/1.0\r\nHost: x:80\r\n\r\n", 400),
        (b"OPTIONS /v1/tested HTTP/1.0\r\nHost: x\r\nOrigin: http://evil.example\r\n\r\n", 405),
        (b"HEAD /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n", 200),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
def test_requests_that_two_may_read_differently(
    gateway: GatewayProcess, request_bytes: bytes, status: int
) -> None:
    """Whoever comes before the gateway reads them as it does, or they are refused; there is no CORS."""
    received = sent(gateway, request_bytes)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [str(status).encode()]
    assert b"access-control" not in received.lower()


def test_headers_in_one_piece_are_bounded_as_in_many(gateway: GatewayProcess) -> None:
    """A request whose headers are longer than 64 KiB is not answered, although it came whole."""
    long = b"X-%d: %b\r\n"
    fits = HEAD + TOKEN_HEADER + LENGTH + b"".join(long % (at, b"x" * 1000) for at in range(50)) + b"\r\n"
    assert sent(gateway, fits + BODY).startswith(b"HTTP/1.1 200")
    headers = b"".join(long % (at, b"x" * 1000) for at in range(80))
    for _ in range(5):
        assert sent(gateway, HEAD + TOKEN_HEADER + LENGTH + headers + b"\r\n" + BODY) == b""


def test_endless_trailers_are_not_kept(gateway: GatewayProcess) -> None:
    """What follows a chunked body is forgotten as it comes."""
    process = psutil.Process(gateway.process.pid)
    before = process.memory_info().rss
    trailers = b"x: %b\r\n" % (b"y" * 10) * 10_000
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        head = b"POST /v1/tested HTTP/1.1\r\nHost: x\r\n" + TOKEN_HEADER + CHUNKED + b"\r\n" + CHUNK
        connection.sendall(head + b"0\r\n" + trailers * 100 + b"\r\nGET /nothing HTTP/1.1\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert process.memory_info().rss < before + 50_000_000


def test_a_body_that_is_asked_for(gateway: GatewayProcess) -> None:
    """Whoever waits for 100 Continue is told so with a token, and refused at once without."""
    head = HEAD + b"Host: x\r\nExpect: 100-continue\r\n" + LENGTH
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(head + TOKEN_HEADER + b"\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert sent(gateway, head + b"\r\n").startswith(b"HTTP/1.1 401")
