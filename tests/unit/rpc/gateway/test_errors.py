"""Errors of endpoints: which are the answer, which are one endpoint's own, and whom they concern."""

import asyncio
import json
import threading
from typing import Any

import pytest

from tests.support.fault_proxy import Exchange, FaultProxy, Reply, RpcFailure
from tests.support.gateways import asked, running_pool
from trace_dagster.rpc.gateway.faults import BatchTooLarge, FaultKind, LogsTooMany, kind_of_error
from trace_dagster.rpc.gateway.jsonrpc import ErrorObject

CALL = ("eth_call", [{"to": "0x00"}, "0x1"])


def raising(code: int, message: str) -> Any:
    """What a front answers a method with: an error."""

    def fail(_: list[Any]) -> Any:
        raise RpcFailure(code, message)

    return fail


@pytest.mark.parametrize(
    "message",
    [
        "execution reverted: rate limit exceeded",
        "Execution reverted: method not supported",
        "Execution reverted: mint quota reached",
        "VM Exception while processing transaction: revert Pausable: paused",
        "VM execution error.",
        "out of gas",
        "insufficient funds for gas * price + value",
    ],
)
@pytest.mark.parametrize("code", [3, -32000, -32015, -32603])
def test_what_executing_comes_to_is_the_answer(code: int, message: str) -> None:
    """Whatever words a contract chooses, and whichever node tells them."""
    assert kind_of_error("eth_call", ErrorObject(code, message)) is None


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_getBlockByNumber", ["0x0", "method unknown"]),
        ("eth_getLogs", ["method unknown"]),
        ("eth_getLogs", ["rate limit"]),
        ("eth_call", [{}, {"method": "x"}]),
        ("eth_getBalance", ["batch size too large", "0x1"]),
    ],
)
def test_a_callers_words_do_not_speak_for_an_endpoint(method: str, params: list[Any]) -> None:
    """Nodes repeat what they do not understand; that is the answer to that caller, and nothing else."""
    said = f"invalid type: {json.dumps(params)}, expected a boolean; unknown field `method`"
    given = json.dumps(params).encode()
    assert kind_of_error(method, ErrorObject(-32602, said), given) is None


@pytest.mark.parametrize("code", [-32000, -32602])
def test_a_range_in_a_callers_words_limits_nothing(code: int) -> None:
    """Nor does it learn a limit of logs from them."""
    params = [{"fromBlock": "0x1", "toBlock": "0x64", "address": "block range is too wide"}]
    given = json.dumps(params).encode()
    said = 'invalid string "block range is too wide"'
    assert kind_of_error("eth_getLogs", ErrorObject(code, said), given) is not LogsTooMany
    assert kind_of_error("eth_getLogs", ErrorObject(code, "block range is too wide"), b"[{}]") is LogsTooMany


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (-32601, "the method x does not exist", FaultKind.UNSUPPORTED),
        (-32000, "method x is not supported", FaultKind.UNSUPPORTED),
        (-32005, "daily request count exceeded", FaultKind.RATE_LIMITED),
        (-32000, "no available backend", FaultKind.ERROR),
        (-32099, "service temporarily unavailable", FaultKind.ERROR),
        (503, "Service Unavailable", FaultKind.ERROR),
        (-32700, "parse error", FaultKind.ERROR),
        (-32603, "internal error", FaultKind.INTERNAL),
        (-32000, "header not found", FaultKind.LACKS),
        (-32003, "response too large", BatchTooLarge),
        (-32005, "Requested range exceeds maximum RPC range limit", FaultKind.ERROR),
        (-32005, "Number of requests in batch exceeds limit", BatchTooLarge),
        (-32601, "the method x does not exist/is not available", FaultKind.UNSUPPORTED),
    ],
)
def test_kinds(code: int, message: str, kind: object) -> None:
    """What is known, and what is not."""
    assert kind_of_error("eth_getBalance", ErrorObject(code, message)) is kind


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b'{"status":500,"error":"Internal Server Error"}'),
        (404, b'{"error":"Not Found"}'),
        (400, b'{"error":"project suspended"}'),
        (500, b'{"jsonrpc":"2.0","id":0,"error":{"code":-32000,"message":"upstream connect error"}}'),
        (200, b'{"jsonrpc":"2.0","id":0,"error":{"code":-32000,"message":"no available backend"}}'),
        (200, b'{"jsonrpc":"2.0","id":0,"error":{"code":-32002,"message":"resource unavailable"}}'),
        (200, b'{"jsonrpc":"2.0","id":0,"error":{"code":-32700,"message":"parse error"}}'),
        (200, b'{"jsonrpc":"2.0","id":0,"error":{"code":1.5,"message":"odd"}}'),
        (200, b'{"jsonrpc":"2.0","id":0,"error":{}}'),
        (200, b'{"jsonrpc":"2.0","id":0,"error":"internal failure"}'),
        (200, b'{"jsonrpc":"2.0","id":0,"error":false,"result":"0x7"}'),
    ],
    ids=lambda one: str(one)[:60],
)
def test_an_error_that_others_do_not_give_is_not_the_answer(
    fronts: dict[str, FaultProxy], status: int, body: bytes
) -> None:
    """The other endpoint's answer is, however fast the error comes."""

    def fail(exchange: Exchange) -> Reply | None:
        return Reply(body, status) if exchange.calls[0]["method"] == "eth_getBalance" else None

    async def run() -> None:
        chosen = {name: fronts[name] for name in ("one", "two")}
        async with running_pool(chosen, {"two": {"tier": 1}}) as pool:
            fronts["one"].intercept = fail
            for number in range(30):
                assert await asked(pool, ("eth_getBalance", [f"0x{number:040x}", "0x1"])) == ["0x1"]

    asyncio.run(run())


def test_an_error_that_all_give_is_the_answer(fronts: dict[str, FaultProxy]) -> None:
    """Though nobody knows it."""

    async def run() -> None:
        for one in fronts.values():
            one.results["eth_call"] = raising(-32077, "the moon is in the wrong place")
        async with running_pool(fronts) as pool:
            ((error, status),) = await asked(pool, CALL)
            assert (error["code"], error["message"], status) == (
                -32077,
                "the moon is in the wrong place",
                200,
            )

    asyncio.run(run())


@pytest.mark.parametrize("names", [("one",), ("one", "two")])
def test_one_caller_does_not_take_a_method_from_all(
    fronts: dict[str, FaultProxy], names: tuple[str, ...]
) -> None:
    """Neither by parameters that a node repeats, nor by an error without the code that says so."""
    codes = {"0x1": (-32602, "unknown field `method`"), "0x2": (-32000, "method eth_call is disabled")}

    def fail(params: list[Any]) -> Any:
        if params[1] in codes:
            raise RpcFailure(*codes[params[1]])
        return "0x5"

    async def run() -> None:
        for one in fronts.values():
            one.results["eth_call"] = fail
        async with running_pool({name: fronts[name] for name in names}) as pool:
            for number in codes:
                ((error, _),) = await asked(pool, ("eth_call", [{}, number]))
                assert error["code"] == codes[number][0]
                assert await asked(pool, ("eth_call", [{}, "0x3"])) == ["0x5"]

    asyncio.run(run())


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"", 429, {"Retry-After": "30"}),
        Reply(b'{"jsonrpc":"2.0","id":0,"error":{"code":-32005,"message":"daily request count exceeded"}}'),
    ],
    ids=["http", "json"],
)
def test_who_is_asked_too_often_does_not_hold_up_the_next_tier(
    fronts: dict[str, FaultProxy], reply: Reply
) -> None:
    """An endpoint whose provider wants a long pause is passed over, by those who wait for it, too."""

    def refuse(exchange: Exchange) -> Reply | None:
        return reply if exchange.calls[0]["method"] == "eth_getBalance" else None

    async def run() -> None:
        one = {"limits": {"requests_per_second": 20, "concurrency": 2}}
        limits = {"max_wait_seconds": 10, "deadline_seconds": 20}
        async with running_pool(
            {name: fronts[name] for name in ("one", "two")}, {"one": one, "two": {"tier": 1}}, limits
        ) as pool:
            fronts["one"].intercept = refuse
            calls = (("eth_getBalance", [f"0x{number:040x}", "0x1"]) for number in range(40))
            answers = await asyncio.gather(*(asked(pool, one) for one in calls))
            assert answers == [["0x1"]] * 40
            assert fronts["two"].calls["eth_getBalance"] >= 30

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_getLogs", [{"fromBlock": "0x5", "toBlock": "0x5"}]),
        ("eth_getLogs", [{"fromBlock": "0x5", "toBlock": "latest"}]),
        ("eth_getLogs", [{"blockHash": "0x" + "5" * 64}]),
        ("eth_getBlockReceipts", ["0x5"]),
    ],
)
def test_what_is_too_much_for_one_is_asked_of_another(
    fronts: dict[str, FaultProxy], method: str, params: list[Any]
) -> None:
    """Where there is nothing to split."""

    async def run() -> None:
        chosen = {name: fronts[name] for name in ("one", "two")}
        chosen["one"].results[method] = raising(-32005, "query returned more than 10000 results")
        if method != "eth_getLogs":
            chosen["one"].results[method] = raising(-32003, "response too large")
        chosen["two"].results[method] = []
        async with running_pool(chosen, {"two": {"tier": 1}}) as pool:
            assert await asked(pool, (method, params)) == [[]]

    asyncio.run(run())


def test_so_many_words_of_a_caller_are_not_told_from_an_endpoints() -> None:
    """Then only the code counts, and it does not take long."""
    topics = [f"topic {number}" for number in range(28_000)]
    params = json.dumps([{"topics": topics}]).encode()
    said = f"rate limit: {topics}"
    assert kind_of_error("eth_getLogs", ErrorObject(-32000, said), params) is FaultKind.ERROR
    assert kind_of_error("eth_getLogs", ErrorObject(-32005, said), params) is FaultKind.RATE_LIMITED


def test_a_request_that_is_always_too_much_is_told_so(fronts: dict[str, FaultProxy]) -> None:
    """Its error is handed out, after some tries, and others go on."""

    def fail(params: list[Any]) -> Any:
        if params[1] == "0x1":
            raise RpcFailure(-32005, "limit exceeded")
        return "0x5"

    async def run() -> None:
        fronts["one"].results["eth_call"] = fail
        async with running_pool({"one": fronts["one"]}) as pool:
            ((error, status),) = await asked(pool, CALL)
            assert (error["message"], status) == ("limit exceeded", 200)
            assert fronts["one"].calls["eth_call"] <= 10
            assert await asked(pool, ("eth_call", [{}, "0x2"])) == ["0x5"]

    asyncio.run(run())


def test_a_firewall_that_refuses_one_request_closes_nothing(fronts: dict[str, FaultProxy]) -> None:
    """403 may be for what was asked; a key that is refused whatever is asked is left alone."""

    def refuse(exchange: Exchange) -> Reply | None:
        return Reply(b"<html>", 403) if exchange.calls[0]["method"] == "eth_call" else None

    async def run() -> None:
        chosen = {name: fronts[name] for name in ("one", "two")}
        async with running_pool(chosen) as pool:
            for one in chosen.values():
                one.intercept = refuse
            ((_, status),) = await asked(pool, CALL)
            assert status == 503
            async with asyncio.timeout(20):
                while any(one.is_doubted for one in pool.endpoints):
                    await asyncio.sleep(0.02)
            for number in range(5):
                assert await asked(pool, ("eth_getBalance", [f"0x{number:040x}", "0x1"])) == ["0x1"]
            fronts["one"].intercept = lambda _: Reply(b"", 403)
            async with asyncio.timeout(20):
                while pool.endpoints[0].is_up(asyncio.get_running_loop().time() + 20):
                    pool.heads.asked()
                    await asyncio.sleep(0.02)

    asyncio.run(run())


@pytest.mark.parametrize("status", [401, 502])
def test_who_waits_for_an_endpoint_that_breaks_off_goes_on_to_the_next_tier(
    fronts: dict[str, FaultProxy], status: int
) -> None:
    """Not only where it asks for a pause."""
    may_answer = threading.Event()

    def refuse(exchange: Exchange) -> Reply | None:
        if exchange.calls[0]["method"] != "eth_getBalance":
            return None
        may_answer.wait(20)
        return Reply(b"", status)

    async def run() -> None:
        tiers = {"one": {"limits": {"concurrency": 2}}, "two": {"tier": 1}}
        limits = {"max_wait_seconds": 10, "deadline_seconds": 20}
        chosen = {name: fronts[name] for name in ("one", "two")}
        async with running_pool(chosen, tiers, limits, hedge_after_seconds=0) as pool:
            fronts["one"].intercept = refuse
            calls = (("eth_getBalance", [f"0x{number:040x}", "0x1"]) for number in range(30))
            tasks = [asyncio.create_task(asked(pool, one)) for one in calls]
            async with asyncio.timeout(20):
                while pool.turns.waiting < 28:
                    await asyncio.sleep(0.01)
            may_answer.set()
            assert await asyncio.gather(*tasks) == [["0x1"]] * 30

    asyncio.run(run())


def test_what_is_refused_for_one_block_is_not_split(fronts: dict[str, FaultProxy]) -> None:
    """The words are those of a range that is too wide, but it is the addresses that are too many."""

    async def run() -> None:
        fronts["one"].results["eth_getLogs"] = raising(-32000, "query exceeds max addresses: 1000")
        async with running_pool({"one": fronts["one"]}) as pool:
            before = fronts["one"].calls["eth_getLogs"]
            wide = ("eth_getLogs", [{"fromBlock": "0x1", "toBlock": "0x5a", "address": []}])
            ((error, status),) = await asked(pool, wide)
            assert (error["message"], status) == ("query exceeds max addresses: 1000", 200)
            assert fronts["one"].calls["eth_getLogs"] - before <= 20

    asyncio.run(run())
