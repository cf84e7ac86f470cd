"""Whose turn it is, and what happens to those who stop waiting."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest
from pydantic import SecretStr

from trace_dagster.rpc.gateway.config import EndpointConfig, EndpointLimits, Priority
from trace_dagster.rpc.gateway.endpoint import Endpoint
from trace_dagster.rpc.gateway.faults import Fault, FaultKind
from trace_dagster.rpc.gateway.resolved import Access, ResolvedEndpoint
from trace_dagster.rpc.gateway.turns import Busy, Lease, Turns, _Class, _Waiter


def endpoint(costs: Mapping[str, float] | None = None, **limits: Any) -> Endpoint:
    """An endpoint with one key, whose chain is known."""
    config = EndpointConfig(name="one", url="env:GW", limits=EndpointLimits(**limits))
    made = Endpoint(ResolvedEndpoint(config, (Access(0, SecretStr("http://127.0.0.1:1/")),)), costs)
    made.chain_checked = True
    return made


async def take(
    turns: Turns,
    one: Endpoint,
    *,
    items: int = 1,
    caller: str = "a",
    priority: Priority = "normal",
    seconds: float = 20,
) -> Lease:
    """Wait for a turn."""
    until = asyncio.get_running_loop().time() + seconds
    return await turns.take((one,), ["m"] * items, caller=caller, priority=priority, until=until)


def test_exchanges_under_way_are_bounded() -> None:
    """The third of two waits until one ends."""

    async def run() -> None:
        turns, one = Turns(10, 5), endpoint(concurrency=2)
        first, _ = await take(turns, one), await take(turns, one)
        third = asyncio.create_task(take(turns, one))
        await asyncio.sleep(0.01)
        assert not third.done()
        assert turns.waiting == 1
        turns.release(first)
        await third
        assert (turns.waiting, one.keys[0].in_flight) == (0, 2)

    asyncio.run(run())


def test_who_stops_waiting_takes_nothing_along() -> None:
    """A cancelled wait leaves neither a place in the queue nor a key in use, even where its turn had come."""

    async def run() -> None:
        turns, one = Turns(10, 5), endpoint(concurrency=1)
        first = await take(turns, one)
        gone, waiting = asyncio.create_task(take(turns, one)), asyncio.create_task(take(turns, one))
        await asyncio.sleep(0.01)
        turns.release(first)
        gone.cancel()
        await asyncio.wait_for(waiting, 5)
        assert gone.cancelled()
        assert (turns.waiting, one.keys[0].in_flight) == (0, 1)

    asyncio.run(run())


def test_those_who_stopped_waiting_do_not_fill_the_memory() -> None:
    """Behind one that waits, thousands come and go: few are kept, and their caller's share is as before."""

    async def run() -> None:
        turns, one = Turns(10, 5), endpoint(concurrency=1)
        first = await take(turns, one)
        waiting = asyncio.create_task(take(turns, one))
        await asyncio.sleep(0)
        for _ in range(1000):
            gone = asyncio.create_task(take(turns, one, caller="fickle"))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.wait((gone,))
        waits = turns._classes["normal"]
        assert len(waits.waiting) < 100
        assert waits.finished["fickle"] == 0
        turns.release(first)
        await waiting
        assert turns.waiting == 0

    asyncio.run(run())


def test_a_wait_ends_in_time() -> None:
    """With an error that says when to ask again."""

    async def run() -> None:
        turns, one = Turns(10, 5), endpoint(concurrency=1)
        await take(turns, one)
        with pytest.raises(Busy) as caught:
            await take(turns, one, seconds=0.02)
        assert caught.value.retry_after_seconds >= 1
        assert turns.waiting == 0

    asyncio.run(run())


def test_one_caller_does_not_fill_the_queue() -> None:
    """However much it asks for, there is room for others."""

    async def run() -> None:
        turns, one = Turns(100, 5), endpoint(concurrency=1)
        await take(turns, one)
        greedy = [asyncio.create_task(take(turns, one, caller="greedy")) for _ in range(200)]
        await asyncio.sleep(0.01)
        assert sum(task.done() for task in greedy) == 136
        others = [asyncio.create_task(take(turns, one, caller=f"other {at}")) for at in range(10)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in others)
        for task in (*greedy, *others):
            task.cancel()
        results = await asyncio.gather(*greedy, *others, return_exceptions=True)
        assert sum(isinstance(result, Busy) for result in results) == 136

    asyncio.run(run())


def test_batches_and_single_requests_share_by_requests() -> None:
    """Who sends ten at once gets every tenth turn beside who sends one."""

    async def run() -> None:
        turns, one = Turns(1000, 5), endpoint(concurrency=1)
        held = await take(turns, one)
        order: list[str] = []

        async def ask(caller: str, items: int) -> None:
            lease = await take(turns, one, items=items, caller=caller)
            order.extend([caller] * lease.count)
            turns.release(lease)

        tasks = [asyncio.create_task(ask("batches", 10)) for _ in range(5)]
        tasks += [asyncio.create_task(ask("singles", 1)) for _ in range(50)]
        await asyncio.sleep(0.01)
        turns.release(held)
        await asyncio.gather(*tasks)
        for end in range(20, 101, 20):
            assert abs(order[:end].count("batches") - order[:end].count("singles")) <= 20

    asyncio.run(run())


def test_low_priority_is_served_too() -> None:
    """Beside a steady flood of high priority, one in nine is of the low one."""

    async def run() -> None:
        turns, one = Turns(1000, 5), endpoint(concurrency=1)
        held = await take(turns, one)
        order: list[str] = []

        async def ask(priority: Priority) -> None:
            lease = await take(turns, one, caller=priority, priority=priority)
            order.append(priority)
            turns.release(lease)

        tasks = [asyncio.create_task(ask("high")) for _ in range(90)]
        tasks += [asyncio.create_task(ask("low")) for _ in range(90)]
        await asyncio.sleep(0.01)
        turns.release(held)
        await asyncio.gather(*tasks)
        assert 8 <= order[:90].count("low") <= 12

    asyncio.run(run())


def test_credits_bound_what_is_sent_at_once() -> None:
    """A lease is for as many requests as the credits allow, one at least."""

    async def run() -> None:
        turns = Turns(1000, 5)
        one = endpoint({"m": 20, "default": 1}, credits_per_second=1000)
        assert (await take(turns, one, items=100)).count == 2
        dear = endpoint({"m": 5000}, credits_per_second=1000)
        assert (await take(turns, dear, items=100)).count == 1

    asyncio.run(run())


def test_a_broken_circuit_is_tried_by_one_request() -> None:
    """After failures in a row nothing is sent for a while, then one request; success closes it."""
    one = endpoint()
    (key,) = one.keys
    for at in range(5):
        assert key.ready_at("m", 10.0 + at / 100) == 10.0 + at / 100
        key.begin(["m"], 10.0)
        key.finished()
        key.failed(Fault(FaultKind.DROPPED, "connection closed"), 10.0)
    assert not one.is_up(10.1)
    assert one.is_up(10.6)
    assert key.begin(["m"] * 10, 10.6) == 1
    assert key.ready_at("m", 10.6) == float("inf")
    key.succeeded(0.01)
    key.finished()
    assert key.ready_at("m", 10.7) == 10.7
    assert key.begin(["m"] * 10, 10.7) == 10


def test_a_refusal_says_how_long_to_pause() -> None:
    """Retry-After of a 429 is kept to, and the circuit stays closed."""
    one = endpoint()
    (key,) = one.keys
    key.failed(Fault(FaultKind.RATE_LIMITED, "HTTP 429", 3.0), 10.0)
    assert one.is_up(10.0)
    assert key.ready_at("m", 10.0) == 13.0


def test_a_pause_is_kept_as_told_for_ten_minutes_at_most() -> None:
    """A provider that asks for two minutes is not asked in between."""
    one = endpoint()
    (key,) = one.keys
    key.failed(Fault(FaultKind.RATE_LIMITED, "HTTP 429", 120.0), 10.0)
    assert key.ready_at("m", 10.0) == 130.0
    assert one.is_paused(129.0)
    key.failed(Fault(FaultKind.RATE_LIMITED, "HTTP 429", 86_400.0), 130.0)
    assert key.ready_at("m", 130.0) == 730.0
    assert not one.is_paused(730.0)


def test_callers_are_told_how_long_the_only_key_pauses() -> None:
    """Also where there were turns just before, and nobody waits; never more than the longest wait."""

    async def run(paused_seconds: float) -> tuple[int, int]:
        turns, one = Turns(10, 30), endpoint()
        for _ in range(20):
            turns.release(await take(turns, one))
        now = asyncio.get_running_loop().time()
        one.keys[0].failed(Fault(FaultKind.RATE_LIMITED, "HTTP 429", paused_seconds), now)
        told = []
        for items in (1, 11):  # one waits in vain, the other is not let in
            with pytest.raises(Busy) as caught:
                await take(turns, one, items=items, seconds=0.02)
            told.append(caught.value.retry_after_seconds)
        return told[0], told[1]

    assert all(10 < seconds <= 20 for seconds in asyncio.run(run(20)))
    assert asyncio.run(run(120)) == (30, 30)


def test_a_full_queue_has_room_for_other_priorities() -> None:
    """Forty jobs of one token at low priority leave room for a follower, and a flood of it for them."""

    async def fill(first: Priority, second: Priority) -> None:
        turns, one = Turns(200, 5), endpoint(concurrency=1)
        held = await take(turns, one)
        flood = [
            asyncio.create_task(take(turns, one, caller=f"flood/{job}", priority=first, items=5))
            for job in range(400)
        ]
        await asyncio.sleep(0.01)
        refused = [task for task in flood if task.done()]
        assert len(refused) > 300
        assert all(isinstance(task.exception(), Busy) for task in refused)
        others = [asyncio.create_task(take(turns, one, caller="other/x", priority=second)) for _ in range(10)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in others)
        waiting = [task for task in (*flood, *others) if not task.done()]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        turns.release(held)

    asyncio.run(fill("low", "high"))
    asyncio.run(fill("high", "low"))


def test_a_token_is_not_many_callers() -> None:
    """One token with a job's name for each request leaves room to another token of its priority."""

    async def run() -> None:
        turns, one = Turns(200, 5), endpoint(concurrency=1)
        await take(turns, one)
        flood = [asyncio.create_task(take(turns, one, caller=f"flood/{job}")) for job in range(400)]
        await asyncio.sleep(0.01)
        other = asyncio.create_task(take(turns, one, caller="other/x"))
        await asyncio.sleep(0.01)
        assert not other.done()
        waiting = [task for task in (*flood, other) if not task.done()]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(isinstance(task.exception(), Busy) for task in flood if not task.cancelled()) > 200

    asyncio.run(run())


def test_callers_that_were_served_are_forgotten() -> None:
    """A queue that is never empty keeps nothing of names that no longer wait."""
    served = _Class(4)
    for number in range(10_000):
        waiter = _Waiter((), ["m"], f"a/{number}", cast("asyncio.Future[Lease]", None))
        served.clock = float(number)
        served.add(waiter, number)
    assert len(served.finished) < 3_000


def test_a_refusal_says_when_the_queue_has_gone_down() -> None:
    """By how many turns a second there were, and never later than the longest wait."""

    async def run(longest: float) -> int:
        turns, one = Turns(100, longest), endpoint(concurrency=1)
        held = await take(turns, one)
        waiting = [asyncio.create_task(take(turns, one)) for _ in range(40)]
        await asyncio.sleep(0.01)
        with pytest.raises(Busy) as caught:
            await take(turns, one, items=90)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        turns.release(held)
        return caught.value.retry_after_seconds

    assert asyncio.run(run(1000)) >= 40
    assert asyncio.run(run(7)) == 7


def test_who_got_no_turn_in_time_is_not_put_behind_others() -> None:
    """What was never sent does not count against a caller."""

    async def run() -> None:
        turns, one = Turns(1000, 20), endpoint(concurrency=1)
        held = await take(turns, one)
        keeps_the_clock = asyncio.create_task(take(turns, one, caller="b"))
        with pytest.raises(Busy):
            await take(turns, one, items=100, caller="a", seconds=0.05)
        done: list[str] = []

        async def wait(caller: str) -> None:
            lease = await take(turns, one, caller=caller)
            done.append(caller)
            turns.release(lease)

        tasks = [asyncio.create_task(wait("b")) for _ in range(5)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(wait("a")))
        await asyncio.sleep(0)
        turns.release(held)
        turns.release(await keeps_the_clock)
        await asyncio.gather(*tasks)
        assert done.index("a") <= 1

    asyncio.run(run())
