"""The JSON-RPC client against a server on loopback that misbehaves on purpose."""

import base64
import contextlib
import gzip
import json
import socket
import threading
import traceback
import tracemalloc
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from tests.support.fault_proxy import Exchange, FaultProxy, FirstTimes, Reply, RpcFailure, pass_on
from trace_dagster.errors import ConfigurationError, DeadlineExceeded, Interrupted, RpcError, RpcUnavailable
from trace_dagster.operators.base import Deadline
from trace_dagster.rpc import JsonRpcClient, ReplyError
from trace_dagster.rpc.failures import GarbledReply
from trace_dagster.rpc.transport import retry_after_seconds
from trace_dagster.settings import Settings

SECRETS = ("planted-path-secret", "planted-user", "planted-password", "planted-token")


@pytest.fixture
def server() -> Iterator[FaultProxy]:
    """A server that knows eth_chainId (0x7a69) and ``double``."""
    proxy = FaultProxy()
    proxy.results = {"eth_chainId": "0x7a69", "double": lambda params: params[0] * 2}
    yield proxy
    proxy.close()


def client(server: FaultProxy, **options: Any) -> JsonRpcClient:
    """A client with quick retries."""
    endpoint = server.endpoint(options.pop("url", None), options.pop("token", None))
    options.setdefault("first_wait_seconds", 0.001)
    return JsonRpcClient(endpoint, options.pop("timeout_seconds", 20), **options)


def test_call_returns_the_result_and_counts_requests(server: FaultProxy) -> None:
    """A call gives the result; requests and exchanges are counted; null is None."""
    server.results["nothing"] = None
    with client(server) as rpc:
        assert rpc.chain_id() == 31337
        assert rpc.call("nothing") is None
        assert rpc.batch([("double", [n]) for n in range(25)]) == [2 * n for n in range(25)]
        assert (rpc.requests, rpc.exchanges) == (27, 4)


def test_batches_keep_one_connection_and_grow(server: FaultProxy) -> None:
    """Two hundred small requests take few exchanges, since a batch's size follows the replies' bytes."""
    with client(server) as rpc:
        assert rpc.batch([("double", [n]) for n in range(210)]) == [2 * n for n in range(210)]
        assert rpc.exchanges == 3


def test_compressed_replies_are_read(server: FaultProxy) -> None:
    """The client asks for gzip and reads it."""
    server.gzip = True
    with client(server) as rpc:
        assert rpc.call("double", ["ab" * 100_000]) == "abab" * 100_000
    assert server.seen[0][1]["Accept-Encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    ("url_userinfo", "token", "expected"),
    [
        ("planted-user:planted-pass%2Fword", None, "Basic cGxhbnRlZC11c2VyOnBsYW50ZWQtcGFzcy93b3Jk"),
        ("", "planted-token", "Bearer planted-token"),
        ("planted-user:x", "planted-token", "Bearer planted-token"),
        ("", None, None),
    ],
)
def test_credentials_go_into_the_header(
    server: FaultProxy, url_userinfo: str, token: str | None, expected: str | None
) -> None:
    """Userinfo becomes Basic, a token Bearer, and neither is part of the path."""
    with client(server, url=server.url("/v1/x?k=1", url_userinfo), token=token) as rpc:
        rpc.chain_id()
    path, headers = server.seen[0]
    assert (path, headers.get("Authorization")) == ("/v1/x?k=1", expected)


@pytest.mark.parametrize(
    "fault",
    [
        Reply(status=500),
        Reply(status=429),
        Reply(drop=True),
        Reply(b'{"jsonrpc":"2.0","id":0,"resu', content_length=29),
        Reply(b'{"jsonrpc":"2.0","id":0,"resu', content_length=400),
        Reply(b"garbage", headers={"Content-Encoding": "gzip"}),
        Reply(b'{"jsonrpc":"2.0","id":7,"result":"0x1"}'),
        Reply(b"[]"),
        Reply(json.dumps({"id": 0, "error": {"code": -32005, "message": "slow down"}}).encode()),
    ],
    ids=["500", "429", "dropped", "truncated", "cut", "bad-gzip", "wrong-id", "no-object", "rate-limit"],
)
def test_passing_faults_are_asked_again(server: FaultProxy, fault: Reply) -> None:
    """A fault that passes after two attempts is not seen by the caller."""
    server.intercept = FirstTimes(2, fault)
    with client(server) as rpc:
        assert rpc.chain_id() == 31337
        assert rpc.exchanges == 3


def test_lasting_faults_end_after_the_last_attempt(server: FaultProxy) -> None:
    """A lasting 503 is asked the given number of times, then raised with pool, host and variable."""
    server.intercept = FirstTimes(99, Reply(status=503))
    with client(server, attempts=3) as rpc:
        with pytest.raises(RpcUnavailable) as caught:
            rpc.chain_id()
        assert rpc.exchanges == 3
    assert str(caught.value) == (
        f"rpc_pool 'tested' at http://127.0.0.1:{server.port}/... answered HTTP 503; "
        "check TRACE_RPC_POOL_TESTED_URL"
    )


@pytest.mark.parametrize(
    ("status", "mend"), [(401, "check the credentials in TRACE_RPC_POOL_TESTED_URL"), (404, "check TRACE_")]
)
def test_refusals_are_not_asked_again(server: FaultProxy, status: int, mend: str) -> None:
    """A refusal that will not pass is raised at once, with the mend."""
    server.intercept = FirstTimes(99, Reply(status=status))
    with client(server) as rpc:
        with pytest.raises(RpcUnavailable, match=mend):
            rpc.chain_id()
        assert rpc.exchanges == 1


def test_retry_after_is_honoured(server: FaultProxy) -> None:
    """Retry-After: 0 asks again at once, however long the usual pause is."""
    server.intercept = FirstTimes(3, Reply(status=429, headers={"Retry-After": "0"}))
    with client(server, first_wait_seconds=1000) as rpc:
        assert rpc.chain_id() == 31337


def test_errors_carry_code_and_method_and_are_not_repeated(server: FaultProxy) -> None:
    """A JSON-RPC error is raised with its data, and says whether the method is missing."""

    def fail(params: list[Any]) -> Any:
        raise RpcFailure(-32000, "execution reverted")

    server.results["fails"] = fail
    with client(server) as rpc:
        with pytest.raises(
            ReplyError, match="answered fails with error -32000: execution reverted"
        ) as caught:
            rpc.call("fails")
        assert (caught.value.code, caught.value.method, caught.value.unsupported) == (-32000, "fails", False)
        with pytest.raises(ReplyError) as caught:
            rpc.batch([("eth_getBlockReceipts", ["0x1"]), ("eth_getBlockReceipts", ["0x2"])])
        assert caught.value.unsupported
        assert rpc.exchanges == 2


def test_batch_falls_back_where_batches_are_refused(server: FaultProxy) -> None:
    """An endpoint that refuses every batch is asked one by one, and remembered as such."""

    def refuse(exchange: Exchange) -> Reply | None:
        return Reply(status=400) if isinstance(exchange.request, list) else None

    server.intercept = refuse
    with client(server) as rpc:
        assert rpc.batch([("double", [n]) for n in range(10)]) == [2 * n for n in range(10)]
        before = rpc.exchanges
        rpc.batch([("double", [n]) for n in range(5)])
        assert rpc.exchanges == before + 5


@pytest.mark.parametrize("code", [-32003, -32600])
def test_batch_shrinks_where_the_endpoint_limits_it(server: FaultProxy, code: int) -> None:
    """Batches of more than two requests are answered with one error: smaller ones are tried and work."""

    def limit(exchange: Exchange) -> Reply | None:
        if not isinstance(exchange.request, list) or len(exchange.calls) <= 2:
            return None
        return Reply(json.dumps({"id": None, "error": {"code": code, "message": "batch too large"}}).encode())

    server.intercept = limit
    with client(server) as rpc:
        assert rpc.batch([("double", [n]) for n in range(9)]) == [2 * n for n in range(9)]


@pytest.mark.parametrize("spoil", ["short", "double", "foreign"])
def test_a_batch_reply_with_wrong_ids_is_garbled(server: FaultProxy, spoil: str) -> None:
    """A reply that lacks an id, repeats one or holds a foreign one is an error with the counts."""

    def replies(exchange: Exchange) -> Reply | None:
        answers = [server.answer(call) for call in exchange.calls]
        answers = {
            "short": answers[:-1],
            "double": [*answers[:-1], answers[0]],
            "foreign": [*answers[:-1], {**answers[-1], "id": "x"}],
        }[spoil]
        return Reply(json.dumps(answers).encode())

    server.intercept = replies
    with client(server, attempts=2) as rpc, pytest.raises(GarbledReply, match="answered 3 of the 4 requests"):
        rpc.batch([("double", [n]) for n in range(4)])


def test_a_deadline_ends_the_asking(server: FaultProxy) -> None:
    """After the deadline nothing is sent and DeadlineExceeded is raised; before it, retries stop."""
    with client(server, deadline=Deadline.after(1e-9)) as rpc:
        with pytest.raises(DeadlineExceeded):
            rpc.chain_id()
        assert rpc.exchanges == 0


def test_an_endpoint_that_is_silent_until_the_deadline(server: FaultProxy) -> None:
    """It is the deadline that ended the wait, and the message says so, and for whom it waited."""
    answering = threading.Event()

    def hold(_: Exchange) -> Reply | None:
        answering.wait()
        return None

    server.intercept = hold
    both = r"longer than timeout_seconds: 0\.3; .*; at last rpc_pool 'tested' at .* did not answer within"
    with client(server, deadline=Deadline.after(0.3)) as rpc, pytest.raises(DeadlineExceeded, match=both):
        rpc.chain_id()
    answering.set()


def test_a_silent_endpoint_does_not_keep_an_interrupt_waiting(server: FaultProxy) -> None:
    """The wait ends once the run does, and the late reply is not taken for that to the next request."""
    stopped, answering = threading.Event(), threading.Event()

    def hold(_: Exchange) -> Reply | None:
        stopped.set()
        answering.wait()
        return None

    server.intercept = hold
    with client(server, timeout_seconds=3600, deadline=Deadline.after(3600, stopped.is_set)) as rpc:
        with pytest.raises(Interrupted):
            rpc.call("double", [1])
        answering.set()
        stopped.clear()
        server.intercept = pass_on
        assert rpc.call("double", [2]) == 4


def test_a_silent_endpoint_is_given_up(server: FaultProxy) -> None:
    """A server that accepts and says nothing costs no more than the time-out."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/planted-path-secret"
        rpc = client(server, url=url, timeout_seconds=0.2, attempts=1)
        with rpc, pytest.raises(RpcUnavailable, match=r"did not answer within 0\.2 s"):
            rpc.chain_id()


def test_a_trickling_endpoint_is_given_up(server: FaultProxy) -> None:
    """A reply that keeps coming, a byte at a time, cannot hold the client beyond the time-out."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        trickler = threading.Thread(target=_trickle, args=(listener,), daemon=True)
        trickler.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/planted-path-secret"
        rpc = client(server, url=url, timeout_seconds=0.4, attempts=1)
        with rpc, pytest.raises(RpcUnavailable, match=r"within 0\.4 s and did not finish"):
            rpc.chain_id()
        trickler.join()


def _trickle(
    listener: socket.socket,
    head: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
    again: bytes = b" ",
) -> None:
    connection, _ = listener.accept()
    pause = threading.Event()
    with connection, contextlib.suppress(OSError):
        connection.sendall(head)
        while True:
            connection.sendall(again)
            pause.wait(0.01)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/planted-path-secret",
        "planted-path-secret",
        "http://host:planted-path-secret/",
        "http://host/planted-path-secret\n",
        "http://[planted-path-secret/",
        "ws://host/planted-path-secret",
    ],
)
def test_unusable_urls_are_refused_without_being_quoted(server: FaultProxy, url: str) -> None:
    """A URL that is none is a ConfigurationError which names the variable, not the URL."""
    with pytest.raises(ConfigurationError, match="TRACE_RPC_POOL_TESTED_URL must be") as caught:
        client(server, url=url)
    assert "planted" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


def _leaky(exchange: Exchange) -> Reply:
    text = f"no project planted-path-secret: https://other.example{exchange.path} {exchange.headers}"
    return Reply(json.dumps({"id": 0, "error": {"code": -32001, "message": text}}).encode())


@pytest.mark.parametrize(
    "intercept",
    [
        _leaky,
        FirstTimes(99, Reply(status=502, body=b"planted-path-secret")),
        FirstTimes(99, Reply(drop=True)),
        FirstTimes(99, Reply(b'{"url": "planted-path-secret')),
        FirstTimes(99, Reply(b"planted-path-secret", content_length=1000)),
        FirstTimes(99, Reply(b'{"id":0,"result":"planted-path-secret"}')),
    ],
    ids=["json-error", "502", "dropped", "truncated", "cut", "no-number"],
)
def test_no_error_shows_a_credential(
    server: FaultProxy, intercept: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither message, traceback, exception chain, repr nor log holds any part of URL or token."""
    server.intercept = intercept
    url = server.url(userinfo="planted-user:planted-password")
    caplog.set_level("DEBUG")
    with client(server, url=url, token="planted-token", attempts=2) as rpc:
        with pytest.raises(RpcError) as caught:
            rpc.chain_id()
        chain: BaseException | None = caught.value
        shown = [
            "".join(traceback.format_exception(caught.value)),
            caplog.text,
            repr(rpc),
            str(vars(caught.value)),
        ]
        while chain is not None:
            shown.append(repr(chain))
            chain = chain.__context__ or chain.__cause__
    assert not [secret for secret in SECRETS if secret in "".join(shown)]


def test_an_unreachable_endpoint_says_why(server: FaultProxy) -> None:
    """A refused connection names host, reason and variable."""
    server.close()
    with client(server, attempts=2) as rpc, pytest.raises(RpcUnavailable) as caught:
        rpc.chain_id()
    assert str(caught.value) == (
        f"rpc_pool 'tested' at http://127.0.0.1:{server.port}/... cannot be reached: connection refused; "
        "check TRACE_RPC_POOL_TESTED_URL and the network"
    )


@pytest.mark.parametrize(
    "sent",
    [b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 100 Continue\r\n\r\n"],
    ids=["header", "continue"],
)
def test_headers_without_end_are_given_up(server: FaultProxy, sent: bytes) -> None:
    """A header that keeps coming, or a promise repeated for ever, ends with the time-out too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        trickler = threading.Thread(
            target=_trickle, args=(listener, sent, sent[-1:] if b"X-A" in sent else sent), daemon=True
        )
        trickler.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/planted-path-secret"
        rpc = client(server, url=url, timeout_seconds=0.4, attempts=1)
        with rpc, pytest.raises(RpcUnavailable, match=r"did not answer within 0\.4 s"):
            rpc.chain_id()
        trickler.join()


def test_a_reply_that_nobody_asked_for_is_not_the_next_answer() -> None:
    """A second reply to the first request must not be taken for the reply to the second one."""
    body = [b'{"jsonrpc":"2.0","id":0,"result":"%s"}' % text for text in (b"0x7", b"0x65", b"0x8")]
    replies = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(one), one) for one in body]
    read, sent = threading.Event(), threading.Event()

    def serve(listener: socket.socket) -> None:
        first, _ = listener.accept()
        with first:
            first.recv(65536)
            first.sendall(replies[0])
            read.wait(5)
            first.sendall(replies[1])
            sent.set()
            second, _ = listener.accept()
            with second:
                second.recv(65536)
                second.sendall(replies[2])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        endpoint = FaultProxy.endpoint(None, f"http://127.0.0.1:{listener.getsockname()[1]}/")  # type: ignore[arg-type]
        with JsonRpcClient(endpoint, 5, attempts=1) as rpc:
            assert rpc.chain_id() == 7
            read.set()
            assert sent.wait(5)
            assert rpc.chain_id() == 8
        thread.join()


@pytest.mark.parametrize("form", ["members", "bare deflate"])
def test_less_usual_compressed_replies_are_read(server: FaultProxy, form: str) -> None:
    """Gzip of several members, and deflate without zlib's frame."""
    body = b'{"jsonrpc":"2.0","id":0,"result":"0x5"}'
    if form == "members":
        packed, encoding = gzip.compress(body[:9]) + gzip.compress(body[9:]), "gzip"
    else:
        packer = zlib.compressobj(wbits=-15)
        packed, encoding = packer.compress(body) + packer.flush(), "deflate"
    server.intercept = lambda _: Reply(packed, headers={"Content-Encoding": encoding})
    with client(server) as rpc:
        assert rpc.chain_id() == 5


@pytest.mark.parametrize("rest", [b"garbage", gzip.compress(b"x", mtime=0)[:12]], ids=["garbage", "half"])
def test_what_follows_a_compressed_reply_is_an_error(server: FaultProxy, rest: bytes) -> None:
    """Neither garbage behind the end nor half of another member passes."""
    packed = gzip.compress(b'{"jsonrpc":"2.0","id":0,"result":"0x5"}') + rest
    server.intercept = lambda _: Reply(packed, headers={"Content-Encoding": "gzip"})
    with client(server, attempts=1) as rpc, pytest.raises(GarbledReply, match="compressed"):
        rpc.chain_id()


def test_a_reply_is_bounded_whatever_it_unpacks_to(server: FaultProxy) -> None:
    """A bomb is given up at the limit, and not unpacked before."""
    bomb = gzip.compress(bytes(100_000_000), 9)
    server.intercept = lambda _: Reply(bomb, headers={"Content-Encoding": "gzip"})
    tracemalloc.start()
    rpc = client(server, attempts=1, max_reply_bytes=1_000_000)
    with rpc, pytest.raises(GarbledReply, match=r"more than 1000000 bytes in one reply.*max_memory_bytes"):
        rpc.chain_id()
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2.0),
        ("3.5", 3.5),
        ("\u00b2", None),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    """What is neither is passed over."""
    assert retry_after_seconds(text) == seconds


def test_a_date_to_come_is_waited_for() -> None:
    """It is counted from now."""
    found = retry_after_seconds(format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True))
    assert found is not None
    assert 90 < found <= 100


def test_an_answer_too_long_to_be_a_number_is_cut(server: FaultProxy) -> None:
    """Thousands of digits are no chain id, and not all repeated."""
    server.results["eth_chainId"] = "0x" + "f" * 5000
    with client(server, attempts=1) as rpc, pytest.raises(GarbledReply, match="expected a hex") as caught:
        rpc.chain_id()
    assert len(str(caught.value)) < 300


def test_a_proxy_that_is_no_address_is_refused_without_being_quoted(
    server: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password with a slash makes it unreadable."""
    monkeypatch.setenv("HTTP_PROXY", "http://user:planted/pw@127.0.0.1:8080")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(ConfigurationError, match="the proxy in http_proxy or HTTP_PROXY cannot be") as caught:
        JsonRpcClient(server.endpoint("http://node.example/"))
    assert "planted" not in "".join(traceback.format_exception(caught.value))


def test_a_page_is_told_from_json(server: FaultProxy) -> None:
    """Whoever forgot the path of the endpoint's URL gets its website."""
    server.intercept = lambda _: Reply(b"\n<!doctype html><title>planted-path-secret</title>")
    with client(server, attempts=1) as rpc, pytest.raises(GarbledReply, match="a page of HTML or XML; is"):
        rpc.chain_id()


def test_replies_may_be_deflated(server: FaultProxy) -> None:
    """Both compressions that are asked for are read."""
    body = b'{"jsonrpc":"2.0","id":0,"result":"0x5"}'
    server.intercept = lambda _: Reply(zlib.compress(body), headers={"Content-Encoding": "deflate"})
    with client(server) as rpc:
        assert rpc.call("eth_chainId") == "0x5"
    _, headers = server.seen[0]
    assert headers["Accept-Encoding"] == "gzip, deflate"


def test_requests_go_through_the_proxy_of_the_environment(
    server: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An http endpoint is asked for by its whole URL, with the proxy's credentials; NO_PROXY is heeded."""
    server.results["eth_chainId"] = "0x5"
    monkeypatch.setenv("HTTP_PROXY", f"http://user:planted-proxy-secret@127.0.0.1:{server.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    endpoint = server.endpoint("http://name:planted-secret@node.example:8545/v2/key")
    with JsonRpcClient(endpoint) as rpc:
        assert rpc.chain_id() == 5
    path, headers = server.seen[0]
    assert path == "http://node.example:8545/v2/key"
    assert base64.b64decode(headers["Proxy-Authorization"].split()[1]) == b"user:planted-proxy-secret"
    assert base64.b64decode(headers["Authorization"].split()[1]) == b"name:planted-secret"
    monkeypatch.setenv("NO_PROXY", "node.example")
    with JsonRpcClient(endpoint, attempts=1) as rpc, pytest.raises(RpcUnavailable) as failed:
        rpc.chain_id()
    assert "planted" not in str(failed.value)
    assert len(server.seen) == 1


def test_the_gateway_alone_is_told_who_asks(server: FaultProxy) -> None:
    """Job, block range and priority are headers."""
    root = f"http://127.0.0.1:{server.port}"
    environments = (
        {"TRACE_RPC_GATEWAY_URL": root, "TRACE_RPC_GATEWAY_TOKEN": "planted-token"},
        {"TRACE_RPC_POOL_MONAD_URL": root},
    )
    for environment in environments:
        endpoint = Settings.from_environment(environment).rpc_endpoint("monad")
        with JsonRpcClient(endpoint.asked_by("dag/job", "0_9", "low")) as asking:
            assert asking.chain_id() == 31337
    (_, gateway), (_, provider) = server.seen
    told = {name: value for name, value in gateway.items() if name.startswith("X-Trace")}
    assert told == {"X-Trace-Job": "dag/job", "X-Trace-Priority": "low", "X-Trace-Partition": "0_9"}
    assert not any(name.startswith("X-Trace") for name in provider)
