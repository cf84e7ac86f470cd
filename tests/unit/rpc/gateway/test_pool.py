"""A pool with endpoints on loopback that misbehave on purpose."""

import asyncio
import json
import threading
import time
from typing import Any

import pytest

from tests.support.fault_proxy import Exchange, FaultProxy, FirstTimes, Reply, RpcFailure
from tests.support.gateway_fronts import HEAD, block, block_hash
from tests.support.gateways import CALLER, asked, running_pool
from trace_dagster.rpc.gateway.pool import Pool
from trace_dagster.rpc.gateway.records import Caller, Usage

WHO = ("web3_clientVersion", [])


def balance(number: int) -> tuple[str, list[Any]]:
    """A request about a block, no two alike."""
    return "eth_getBalance", [f"0x{number:040x}", hex(number % HEAD)]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(drop=True),
        Reply(b'{"jsonrpc":"2.0","id":0,"res'),
        Reply(b'{"jsonrpc":"2.0","id":7,"result":"0x1"}'),
        Reply(b'{"jsonrpc":"2.0","id":7,"error":{"code":3,"message":"execution reverted"}}'),
        Reply(b'{"jsonrpc":"2.0","id":7,"error":{"code":-32005,"message":"rate limit"}}'),
        Reply(b'{"jsonrpc":"2.0","id":0}'),
        Reply(b"<html>"),
        Reply(b"", 502),
        Reply(b"", 429),
        Reply(b"", 403),
        Reply(b'{"jsonrpc":"2.0","id":0,"result":"0x1"}', content_length=100),
        Reply(b"no gzip", headers={"Content-Encoding": "gzip"}),
        Reply(b'{"jsonrpc":"2.0","id":0,"error":{"code":-32005,"message":"rate limit"}}'),
        Reply(b'{"jsonrpc":"2.0","id":0,"error":{"code":-32000,"message":"header not found"}}'),
        Reply(b'{"jsonrpc":"2.0","id":0,"error":{"code":-32603,"message":"internal error"}}'),
        Reply(b'{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"method not found"}}'),
    ],
)
def test_a_failing_endpoints_requests_go_elsewhere(fronts: dict[str, FaultProxy], reply: Reply) -> None:
    """Whatever is wrong with one endpoint's replies, callers get the other's."""

    async def run() -> None:
        chosen = {name: fronts[name] for name in ("one", "two")}
        async with running_pool(chosen) as pool:
            fronts["one"].intercept = lambda _: reply
            for number in range(8):
                assert await asked(pool, balance(number)) == ["0x1"]

    asyncio.run(run())


def test_all_endpoints_fail(fronts: dict[str, FaultProxy]) -> None:
    """The caller is told of each how it failed, with 503, and soon; the next request is answered again."""

    async def run() -> None:
        chosen = {name: fronts[name] for name in ("one", "two")}
        async with running_pool(chosen) as pool:
            fronts["one"].intercept = lambda _: Reply(drop=True)
            fronts["two"].intercept = lambda _: Reply(b"", 500)
            ((error, status),) = await asked(pool, balance(1))
            assert status == 503
            assert "one: out of rotation, dropped: connection closed" in error["message"]
            assert "two: out of rotation, unavailable: HTTP 500" in error["message"]
            for one in fronts.values():
                one.intercept = lambda _: None
            await asyncio.sleep(1)
            assert await asked(pool, balance(1)) == ["0x1"]

    asyncio.run(run())


def test_no_part_of_a_secret_is_told(fronts: dict[str, FaultProxy]) -> None:
    """Wherever it stands in a long page of an endpoint."""

    async def run() -> None:
        async with running_pool({"one": fronts["one"]}) as pool:
            fronts["one"].intercept = lambda _: Reply(b" " * 1985 + b"/v2/planted-path-secret", 500)
            ((error, status),) = await asked(pool, balance(1))
            assert status == 503
            assert "planted" not in error["message"]

    asyncio.run(run())


def test_an_error_that_is_the_answer_is_passed_on(fronts: dict[str, FaultProxy]) -> None:
    """A reverted call is asked once, and its data is kept."""

    def reverts(_: Any) -> Any:
        raise RpcFailure(3, "execution reverted: no")

    async def run() -> None:
        for one in fronts.values():
            one.results["eth_call"] = reverts
        async with running_pool(fronts) as pool:
            usage = Usage()
            ((error, status),) = await asked(pool, ("eth_call", [{}, "0x1"]), usage=usage)
            assert (error["code"], error["message"], status) == (3, "execution reverted: no", 200)
            assert usage.requests == 1

    asyncio.run(run())


def test_another_chain_is_not_used(fronts: dict[str, FaultProxy]) -> None:
    """An endpoint of another chain is out of rotation, and the error says so where it is the only one."""

    async def run() -> None:
        fronts["one"].results["eth_chainId"] = "0x1"
        async with running_pool(fronts) as pool:
            assert {(await asked(pool, WHO))[0] for _ in range(20)} <= {"two", "three"}
        async with running_pool({"one": fronts["one"]}) as pool:
            ((error, status),) = await asked(pool, WHO)
            assert status == 503
            assert "serves chain 1, not 31337" in error["message"]

    asyncio.run(run())


def test_an_endpoint_that_comes_up_later_is_used(fronts: dict[str, FaultProxy]) -> None:
    """The chain is checked again until the endpoint answers."""

    async def run() -> None:
        fronts["one"].intercept = lambda _: Reply(b"", 500)
        async with running_pool({"one": fronts["one"]}) as pool:
            fronts["one"].intercept = lambda _: None
            assert await asked(pool, WHO) == ["one"]

    asyncio.run(run())


def test_a_lagging_endpoint_is_not_asked_for_what_it_lacks(fronts: dict[str, FaultProxy]) -> None:
    """New blocks are asked of those that have them, and the head does not go back."""

    async def run() -> None:
        fronts["one"].results["eth_blockNumber"] = hex(HEAD - 5)
        async with running_pool(fronts) as pool:
            before = fronts["one"].calls["eth_getCode"]
            for number in range(HEAD - 4, HEAD + 1):
                await asked(pool, ("eth_getCode", ["0x00", hex(number)]))
                await asked(pool, ("eth_getCode", ["0x00", "latest"]))
                assert await asked(pool, ("eth_blockNumber", [])) == [hex(HEAD)]
            assert fronts["one"].calls["eth_getCode"] == before

    asyncio.run(run())


def test_a_new_block_is_found(fronts: dict[str, FaultProxy]) -> None:
    """A block above every known head is asked for after looking again; one that is nowhere yet is null."""

    async def run() -> None:
        async with running_pool(fronts) as pool:
            assert await asked(pool, ("eth_getBlockByNumber", [hex(HEAD + 1), False])) == [None]
            new = {"number": hex(HEAD + 1), "hash": block_hash(HEAD + 1)}
            fronts["two"].results |= {"eth_blockNumber": hex(HEAD + 1), "eth_getBlockByNumber": new}
            await asyncio.sleep(0.3)
            assert await asked(pool, ("eth_getBlockByNumber", [hex(HEAD + 1), False])) == [new]

    asyncio.run(run())


def test_ordinary_answers_do_not_lower_the_head(fronts: dict[str, FaultProxy]) -> None:
    """A final block and the newest logs are old: blocks above them are found all the same."""

    def with_final(params: list[Any]) -> Any:
        return block(["0x20" if params[0] == "finalized" else params[0]])

    async def run() -> None:
        for one in fronts.values():
            one.results |= {"eth_getBlockByNumber": with_final, "eth_getLogs": [log_at(50)]}
        fronts["three"].results |= {
            "eth_blockNumber": "0x3c",
            "eth_getBlockByNumber": lambda params: with_final(params) if params[0] != hex(90) else None,
        }
        async with running_pool(fronts) as pool:
            for _ in range(10):
                (final,) = await asked(pool, ("eth_getBlockByNumber", ["finalized", False]))
                assert final["number"] == "0x20"
                assert await asked(pool, ("eth_getLogs", [{"fromBlock": "0x0"}])) == [[log_at(50)]]
                assert [one.head for one in pool.endpoints] == [HEAD, HEAD, 60]
                (found,) = await asked(pool, ("eth_getBlockByNumber", [hex(90), False]))
                assert found["hash"] == block_hash(90)

    asyncio.run(run())


def test_null_above_a_head_that_is_not_fresh_is_asked_elsewhere(fronts: dict[str, FaultProxy]) -> None:
    """A block that came a moment ago is not said to be missing because the head was looked at before."""

    async def run() -> None:
        async with running_pool(fronts, {"two": {"tier": 1}}) as pool:
            new = {"number": hex(HEAD + 1), "hash": block_hash(HEAD + 1)}
            fronts["two"].results["eth_getBlockByNumber"] = new
            for _ in range(4):
                await pool.heads.refresh()
                assert await asked(pool, ("eth_getBlockByNumber", [hex(HEAD + 1), False])) == [new]

    asyncio.run(run())


def test_a_shorter_chain_of_a_single_endpoint_is_passed_on(fronts: dict[str, FaultProxy]) -> None:
    """With one endpoint, its head is the head, also after a reorganisation."""

    async def run() -> None:
        async with running_pool({"one": fronts["one"]}) as pool:
            assert await asked(pool, ("eth_blockNumber", [])) == [hex(HEAD)]
            fronts["one"].results["eth_blockNumber"] = hex(HEAD - 2)
            assert await asked(pool, ("eth_blockNumber", [])) == [hex(HEAD - 2)]

    asyncio.run(run())


def test_null_is_asked_again_elsewhere(fronts: dict[str, FaultProxy]) -> None:
    """Null for a block below the head is not believed, unless all say so."""

    async def run() -> None:
        hash_of = {"blockNumber": "0x5", "blockHash": block_hash(5)}
        for one in fronts.values():
            one.results["eth_getTransactionReceipt"] = hash_of
        fronts["one"].results |= {"eth_getBlockByNumber": None, "eth_getTransactionReceipt": None}
        async with running_pool(fronts) as pool:
            for number in range(20):
                (found,) = await asked(pool, ("eth_getBlockByNumber", [hex(number), False]))
                assert found["hash"] == block_hash(number)
            for number in range(8):
                assert await asked(pool, ("eth_getTransactionReceipt", [block_hash(number)])) == [hash_of]
            for one in fronts.values():
                one.results["eth_getTransactionReceipt"] = None
            assert await asked(pool, ("eth_getTransactionReceipt", ["0x77"])) == [None]

    asyncio.run(run())


@pytest.mark.parametrize("at", ["0x5", "latest"])
def test_null_for_what_is_never_null_is_asked_elsewhere(fronts: dict[str, FaultProxy], at: str) -> None:
    """A balance that is null is another endpoint's to tell, at the head as well."""

    async def run() -> None:
        fronts["one"].results["eth_getBalance"] = None
        async with running_pool(fronts, {"two": {"tier": 1}, "three": {"tier": 1}}) as pool:
            for number in range(4):
                assert await asked(pool, ("eth_getBalance", [f"0x{number:040x}", at])) == ["0x1"]

    asyncio.run(run())


@pytest.mark.parametrize(("number", "is_given"), [(HEAD, True), (5, False)])
def test_a_second_endpoint_that_hangs_delays_no_block(
    fronts: dict[str, FaultProxy], number: int, is_given: bool
) -> None:
    """At the deadline a new block goes out unconfirmed; one below finality does not."""
    released = threading.Event()

    async def run() -> None:
        chosen = {name: fronts[name] for name in ("one", "two")}
        more = {"limits": {"deadline_seconds": 1}, "finality_blocks": 10, "hedge_after_seconds": 0}
        async with running_pool(chosen, {"two": {"tier": 1}}, **more) as pool:
            fronts["two"].results["eth_getBlockByNumber"] = lambda _: released.wait(20)
            async with asyncio.timeout(4):
                (found,) = await asked(pool, ("eth_getBlockByNumber", [hex(number), False]))
            assert found == block([hex(number)]) if is_given else found[1] == 503
            released.set()

    asyncio.run(run())


def test_a_third_endpoint_confirms_where_the_second_hangs(fronts: dict[str, FaultProxy]) -> None:
    """A block below finality comes before the deadline, whoever is asked to confirm it first."""
    released = threading.Event()

    async def run() -> None:
        more = {"limits": {"deadline_seconds": 9}, "finality_blocks": 10, "hedge_after_seconds": 0}
        tiers = {"two": {"tier": 1}, "three": {"tier": 1}}
        async with running_pool(fronts, tiers, **more) as pool:
            fronts["two"].results["eth_getBlockByNumber"] = lambda _: released.wait(20)
            numbers = range(5, 11)
            found = await asyncio.gather(
                *(asked(pool, ("eth_getBlockByNumber", [hex(number), False])) for number in numbers)
            )
            released.set()
            assert found == [[block([hex(number)])] for number in numbers]

    asyncio.run(run())


def test_too_late_does_not_say_that_an_endpoint_answered(fronts: dict[str, FaultProxy]) -> None:
    """An endpoint that was silent until the deadline did not answer null."""
    released = threading.Event()

    async def run() -> None:
        async with running_pool({"one": fronts["one"]}, limits={"deadline_seconds": 1}) as pool:
            fronts["one"].results["eth_getBalance"] = lambda _: released.wait(20)
            ((error, _),) = await asked(pool, balance(1))
            assert "within limits.deadline_seconds" in error["message"]
            assert "answered null" not in error["message"]
            released.set()

    asyncio.run(run())


def test_the_majority_is_believed_about_a_block(
    fronts: dict[str, FaultProxy], caplog: pytest.LogCaptureFixture
) -> None:
    """One endpoint with another block below finality: never handed out, alarm raised."""

    def false_block(params: list[Any]) -> Any:
        true = block(params)
        return {**true, "hash": block_hash(7, "b")} if params[0] == "0x7" else true

    async def run() -> None:
        fronts["three"].results["eth_getBlockByNumber"] = false_block
        tiers = {"one": {"tier": 1}, "two": {"tier": 1}}  # so that the third is asked first
        async with running_pool(fronts, tiers, finality_blocks=10) as pool:
            pool.heads.asked()
            async with asyncio.timeout(30):
                while pool.heads.agreed is None:  # what is below finality is not known before
                    await asyncio.sleep(0.02)
            for _ in range(10):
                found = await asked(
                    pool, *(("eth_getBlockByNumber", [hex(number), False]) for number in range(12))
                )
                assert [one["hash"] for one in found] == [block_hash(number) for number in range(12)]
            assert list(pool.agreement.alarms) == [7]

    asyncio.run(run())
    assert "disagree about block 7, below finality" in caplog.text


def test_without_a_majority_nothing_is_handed_out_below_finality(fronts: dict[str, FaultProxy]) -> None:
    """Two endpoints that contradict each other about a final block: an error that names both."""

    def false_block(params: list[Any]) -> Any:
        return {**block(params), "hash": block_hash(7, "b")}

    async def run() -> None:
        chosen = {name: fronts[name] for name in ("one", "two")}
        fronts["two"].results["eth_getBlockByNumber"] = false_block
        async with running_pool(chosen, finality_blocks=10) as pool:
            ((error, status),) = await asked(pool, ("eth_getBlockByNumber", ["0x7", False]))
            assert status == 503
            assert block_hash(7, "a") in error["message"]
            assert block_hash(7, "b") in error["message"]

    asyncio.run(run())


def test_batches_are_halved_where_they_are_refused(fronts: dict[str, FaultProxy]) -> None:
    """An endpoint that takes ten requests at once is asked for ten, and this is remembered."""

    def refuse(exchange: Exchange) -> Reply | None:
        return Reply(b"", 413) if len(exchange.calls) > 10 else None

    async def run() -> None:
        async with running_pool({"one": fronts["one"]}) as pool:
            fronts["one"].intercept = refuse
            assert await asked(pool, *(balance(number) for number in range(95))) == ["0x1"] * 95
            assert pool.endpoints[0].batch_items <= 10

    asyncio.run(run())


def test_an_outage_does_not_shrink_batches(fronts: dict[str, FaultProxy]) -> None:
    """One internal error in place of a batch's answers says nothing of its size, where it passes."""
    trouble = Reply(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"Internal error"}}')

    async def run() -> None:
        async with running_pool({"one": fronts["one"]}) as pool:
            before = pool.endpoints[0].batch_items
            fronts["one"].intercept = FirstTimes(2, trouble, "eth_getBalance")
            for _ in range(2):
                assert await asked(pool, *(balance(number) for number in range(20))) == ["0x1"] * 20
            assert pool.endpoints[0].batch_items == before

    asyncio.run(run())


def test_batches_that_are_too_large_for_an_endpoint_that_does_not_say_so(
    fronts: dict[str, FaultProxy],
) -> None:
    """Where it says only that it failed, smaller ones are sent."""

    def fail(exchange: Exchange) -> Reply | None:
        error = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"Internal error"}}'
        return Reply(error) if len(exchange.calls) > 10 else None

    async def run() -> None:
        async with running_pool({"one": fronts["one"]}) as pool:
            fronts["one"].intercept = fail
            for _ in range(3):
                assert await asked(pool, *(balance(number) for number in range(90))) == ["0x1"] * 90
            assert pool.endpoints[0].batch_items <= 10

    asyncio.run(run())


@pytest.mark.parametrize("spoil", ["lacking", "another"])
def test_a_batch_that_is_never_whole(fronts: dict[str, FaultProxy], spoil: str) -> None:
    """What an endpoint leaves out is asked for again, all else is not."""

    def one_wrong(exchange: Exchange) -> Reply | None:
        if not isinstance(exchange.request, list):
            return None
        replies = [fronts["one"].answer(call) for call in exchange.request]
        other = [] if spoil == "lacking" else [{"jsonrpc": "2.0", "id": 1000, "result": "0x2"}]
        return Reply(json.dumps([*replies[1:], *other]).encode())

    async def run() -> None:
        async with running_pool({"one": fronts["one"]}) as pool:
            fronts["one"].intercept = one_wrong
            assert await asked(pool, *(balance(number) for number in range(5))) == ["0x1"] * 5

    asyncio.run(run())


def test_batches_grow_again(fronts: dict[str, FaultProxy]) -> None:
    """What was refused once is tried again after many batches that were not."""

    async def run() -> None:
        async with running_pool({"one": fronts["one"]}) as pool:
            fronts["one"].intercept = FirstTimes(1, Reply(b"", 413), "eth_getBalance")
            assert await asked(pool, *(balance(number) for number in range(4))) == ["0x1"] * 4
            assert pool.endpoints[0].batch_items == 2
            for number in range(100):
                await asked(pool, balance(number), balance(number + 1))
            assert pool.endpoints[0].batch_items > 2

    asyncio.run(run())


def log_at(number: int) -> dict[str, Any]:
    """One log of a block."""
    return {"blockNumber": hex(number), "blockHash": block_hash(number), "data": "0x"}


def test_ranges_of_logs_are_split_where_they_are_refused(fronts: dict[str, FaultProxy]) -> None:
    """Logs of more blocks than an endpoint gives come in order, and its limit is remembered."""
    widths = []

    def logs(params: list[Any]) -> Any:
        first, last = (int(params[0][name], 16) for name in ("fromBlock", "toBlock"))
        if params[0].get("topics") == [None]:  # not the gateway's own, which looks for the limit
            widths.append(last - first + 1)
        if last - first + 1 > 10:
            raise RpcFailure(-32602, "eth_getLogs is limited to a 10 blocks range")
        return [log_at(number) for number in range(first, last + 1)]

    async def run() -> None:
        fronts["one"].results["eth_getLogs"] = logs
        async with running_pool({"one": fronts["one"]}) as pool:
            whole = ("eth_getLogs", [{"fromBlock": "0x0", "toBlock": hex(79), "topics": [None]}])
            for _ in range(2):
                (found,) = await asked(pool, whole)
                assert [int(one["blockNumber"], 16) for one in found] == list(range(80))
            assert widths.count(80) <= 1
            known = len(widths)
            await asked(pool, whole)
            assert max(widths[known:]) <= 10

    asyncio.run(run())


TEN_BLOCKS = {"one": {"capabilities": {"log_range": 10}}}


def ranged(params: list[Any]) -> list[Any]:
    """Logs of two blocks."""
    first, last = (int(params[0][name], 16) for name in ("fromBlock", "toBlock"))
    return [log_at(number) for number in (5, 95) if first <= number <= last]


@pytest.mark.parametrize("last", ["0xffffffffffffffff", "0x1312d00"])
def test_a_range_of_logs_ends_at_the_head(fronts: dict[str, FaultProxy], last: str) -> None:
    """A range far beyond the head is answered with few requests."""

    async def run() -> None:
        fronts["one"].results["eth_getLogs"] = ranged
        async with running_pool({"one": fronts["one"]}, TEN_BLOCKS) as pool:
            found = await asked(pool, ("eth_getLogs", [{"fromBlock": "0x0", "toBlock": last}]))
            assert found == [[log_at(5), log_at(95)]]
            assert fronts["one"].calls["eth_getLogs"] < 50

    asyncio.run(run())


def test_a_range_of_logs_that_takes_too_many_requests_is_refused(fronts: dict[str, FaultProxy]) -> None:
    """The range is said to be too wide, in words by which callers ask for less; nothing is asked."""

    async def run() -> None:
        fronts["one"].results |= {"eth_getLogs": ranged, "eth_blockNumber": hex(20_000_000)}
        async with running_pool({"one": fronts["one"]}, TEN_BLOCKS) as pool:
            usage = Usage()
            whole = ("eth_getLogs", [{"fromBlock": "0x0", "toBlock": "0x1312d00"}])
            ((error, status),) = await asked(pool, whole, usage=usage)
            assert (error["code"], status) == (-32005, 200)
            assert "range is too wide" in error["message"]
            assert usage.requests == 0

    asyncio.run(run())


@pytest.mark.parametrize("odd", [{}, "0x", 5, [5]])
def test_a_part_of_logs_that_is_no_list_is_asked_again(fronts: dict[str, FaultProxy], odd: Any) -> None:
    """Whatever an endpoint gives in place of logs does not spoil the whole."""
    spoilt = []

    def once_odd(params: list[Any]) -> Any:
        if params[0]["fromBlock"] == "0x5a" and not spoilt:
            spoilt.append(params)
            return odd
        return ranged(params)

    async def run() -> None:
        fronts["one"].results["eth_getLogs"] = once_odd
        async with running_pool({"one": fronts["one"]}, TEN_BLOCKS) as pool:
            whole = ("eth_getLogs", [{"fromBlock": "0x0", "toBlock": "0x63"}])
            assert await asked(pool, whole) == [[log_at(5), log_at(95)]]
            assert spoilt

    asyncio.run(run())


def test_null_for_a_part_of_logs_is_null_for_the_whole(fronts: dict[str, FaultProxy]) -> None:
    """Logs that the only endpoint does not give are not made up."""

    async def run() -> None:
        fronts["one"].results["eth_getLogs"] = lambda params: (
            None if params[0]["fromBlock"] == "0xa" else ranged(params)
        )
        async with running_pool({"one": fronts["one"]}, TEN_BLOCKS) as pool:
            whole = ("eth_getLogs", [{"fromBlock": "0x0", "toBlock": "0x63"}])
            assert await asked(pool, whole) == [None]

    asyncio.run(run())


def test_the_only_endpoint_is_not_believed_about_another_block(fronts: dict[str, FaultProxy]) -> None:
    """Asked for one block, another one is no answer although there is nobody to compare with."""

    async def run() -> None:
        fronts["one"].results["eth_getBlockByNumber"] = block(["0x6"])
        async with running_pool({"one": fronts["one"]}) as pool:
            ((_, status),) = await asked(pool, ("eth_getBlockByNumber", ["0x5", False]))
            assert status == 503

    asyncio.run(run())


def test_keys_take_turns(fronts: dict[str, FaultProxy]) -> None:
    """All keys of an endpoint are used, and a refused one is left out."""
    used: list[str] = []

    def note(exchange: Exchange) -> Reply | None:
        key = exchange.headers["X-Key"]
        used.append(key)
        return Reply(b"", 401) if key == "key-that-was-taken-away" else None

    async def run() -> None:
        keys = ["key-of-the-first-plan", "key-of-the-second-plan", "key-that-was-taken-away"]
        limited = {"one": {"limits": {"requests_per_second": 20}}}
        fronts["one"].intercept = note
        async with running_pool({"one": fronts["one"]}, limited, keys=keys) as pool:
            answers = await asyncio.gather(*(asked(pool, balance(number)) for number in range(30)))
            assert answers == [["0x1"]] * 30
            refused = used.count(keys[2])  # those that were on their way before it was known
            answers = await asyncio.gather(*(asked(pool, balance(number)) for number in range(30, 60)))
            assert answers == [["0x1"]] * 30
            assert used.count(keys[2]) == refused
        assert refused >= 1
        assert used.count(keys[0]) >= 16
        assert used.count(keys[1]) >= 16

    asyncio.run(run())


def test_identical_requests_under_way_are_sent_once(fronts: dict[str, FaultProxy]) -> None:
    """Twenty callers with one question: one request to the endpoint, an answer to each."""

    async def run() -> None:
        fronts["one"].results["web3_clientVersion"] = lambda _: time.sleep(0.2) or "one"
        async with running_pool({"one": fronts["one"]}) as pool:
            assert await asyncio.gather(*(asked(pool, WHO, WHO) for _ in range(20))) == [["one", "one"]] * 20
            assert fronts["one"].calls["web3_clientVersion"] == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    "reply",
    [
        Reply(drop=True),
        Reply(b"", 429),
        Reply(b"", 413),
        Reply(b"<html>"),
        Reply(b'{"jsonrpc":"2.0","id":0,"error":{"code":-32603,"message":"internal error"}}'),
    ],
)
@pytest.mark.parametrize("method", ["eth_sendRawTransaction", "evm_increaseTime"])
def test_what_may_change_something_is_sent_once(
    fronts: dict[str, FaultProxy], method: str, reply: Reply
) -> None:
    """Each caller's own request goes to one endpoint, once, and the caller is told where it failed."""
    sent: list[int] = []

    def note(exchange: Exchange) -> Reply | None:
        mine = [one for one in exchange.calls if one["method"] == method]
        sent.append(len(mine))
        return reply if mine else None

    async def run() -> None:
        async with running_pool(fronts) as pool:
            for one in fronts.values():
                one.intercept = note
            found = await asked(pool, (method, ["0x01"]), balance(1), (method, ["0x01"]), balance(2))
            assert found[1::2] == ["0x1"] * 2
            for _, status in found[::2]:
                assert status in (200, 503)
            assert [one for one in sent if one] == [1, 1]

    asyncio.run(run())


def test_a_slow_read_is_hedged(fronts: dict[str, FaultProxy]) -> None:
    """Where the first endpoint hangs, the second one's answer is taken."""
    released = threading.Event()

    def hang(_: list[Any]) -> str:
        released.wait(20)
        return "0x1"

    async def run() -> None:
        chosen = {name: fronts[name] for name in ("one", "two")}
        async with running_pool(chosen, {"two": {"tier": 0}}, hedge_after_seconds=0.05) as pool:
            fronts["one"].results["eth_getBalance"] = hang
            answers = [await asked(pool, balance(number)) for number in range(4)]
            assert answers == [["0x1"]] * 4
        released.set()

    asyncio.run(run())


def test_tiers(fronts: dict[str, FaultProxy]) -> None:
    """An endpoint of a higher tier is asked only where those of the lower one fail."""

    async def run() -> None:
        chosen = {name: fronts[name] for name in ("one", "two")}
        async with running_pool(chosen, {"two": {"tier": 1}}) as pool:
            assert {(await asked(pool, WHO))[0] for _ in range(10)} == {"one"}
            fronts["one"].intercept = lambda _: Reply(drop=True)
            assert await asked(pool, WHO) == ["two"]

    asyncio.run(run())


def test_a_full_queue_and_a_long_wait_are_told(fronts: dict[str, FaultProxy]) -> None:
    """What cannot be sent in time gets 429 and a hint, and what had room is answered."""

    async def run() -> None:
        limited = {"one": {"limits": {"requests_per_second": 5}}}
        async with running_pool(
            {"one": fronts["one"]}, limited, {"max_waiting": 10, "max_wait_seconds": 0.5}
        ) as pool:
            answers = await asyncio.gather(*(asked(pool, balance(number)) for number in range(40)))
            refused = [one for (one,) in answers if one != "0x1"]
            assert 30 <= len(refused) < 40
            assert {status for _, status in refused} == {429}
            assert any("max_waiting" in error["message"] for error, _ in refused)
            assert any("in time" in error["message"] for error, _ in refused)

    asyncio.run(run())


async def _flood(pool: Pool, caller: Caller, count: int, done: list[str]) -> None:
    async def one(number: int) -> None:
        await asked(pool, ("eth_getBalance", [caller.name + str(number), "0x1"]), caller=caller)
        done.append(caller.name)

    await asyncio.gather(*(one(number) for number in range(count)))


def test_callers_share_and_priorities_come_first(fronts: dict[str, FaultProxy]) -> None:
    """A backfill of 60 requests delays neither another worker's ten nor, still less, the follower's."""

    async def run() -> None:
        limited = {"one": {"limits": {"requests_per_second": 40}}}
        done: list[str] = []
        async with running_pool({"one": fronts["one"]}, limited) as pool:
            backfill = asyncio.create_task(_flood(pool, Caller("backfill", "", "low"), 60, done))
            await asyncio.sleep(0.2)
            other = asyncio.create_task(_flood(pool, Caller("other", "", "low"), 10, done))
            follower = asyncio.create_task(_flood(pool, Caller("follower", "", "high"), 10, done))
            await asyncio.gather(backfill, other, follower)
        last = {name: len(done) - done[::-1].index(f"{name}/") for name in ("backfill", "other", "follower")}
        assert last["follower"] < last["other"] < last["backfill"]
        begun = done.index("follower/")
        assert last["follower"] - begun < 16
        assert 12 < last["other"] - begun < 45

    asyncio.run(run())


def test_what_it_took_is_counted(fronts: dict[str, FaultProxy]) -> None:
    """Requests, retries and endpoints of one answer."""

    async def run() -> None:
        async with running_pool({"one": fronts["one"]}) as pool:
            fronts["one"].intercept = FirstTimes(1, Reply(drop=True), WHO[0])
            usage = Usage()
            assert await asked(pool, WHO, caller=CALLER, usage=usage) == ["one"]
            assert (usage.requests, usage.retries, usage.credits) == (2, 1, 2)
            assert usage.endpoints == {"one"}

    asyncio.run(run())


def test_endpoints_are_asked_through_the_environments_proxy(
    fronts: dict[str, FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As workers do, the gateway uses the proxy that http_proxy names for hosts that are not this machine."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{fronts['one'].port}")
    monkeypatch.setattr(fronts["two"], "url", lambda: "http://rpc.example/v2/planted-path-secret")

    async def run() -> None:
        async with running_pool({"two": fronts["two"]}) as pool:
            assert await asked(pool, WHO) == ["one"]

    asyncio.run(run())
    assert fronts["one"].seen[-1][0] == "http://rpc.example/v2/planted-path-secret"
