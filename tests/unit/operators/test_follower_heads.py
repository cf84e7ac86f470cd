"""How a follower waits for heads: what it makes of a socket that speaks, is silent, or speaks of nothing."""

from collections.abc import Iterator
from typing import Any, Self

import pytest
from pydantic import SecretStr

from trace_dagster.operators.base import Deadline
from trace_dagster.operators.block_follower import heads as heads_module
from trace_dagster.operators.block_follower import pace as pace_module
from trace_dagster.operators.block_follower.config import BlockFollowerConfig
from trace_dagster.operators.block_follower.follower import Step
from trace_dagster.operators.block_follower.heads import Heads
from trace_dagster.settings import RpcEndpoint

GAP = 10.0


class Clock:
    """Time that passes only where somebody waits.

    Attributes:
        now: seconds.
        tells: when the socket tells of a head, and of which hash; in order.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.tells: list[tuple[float, str | None]] = []

    def sleep(self, seconds: float, _deadline: Deadline) -> None:
        """Let time pass."""
        self.now += seconds


class Socket:
    """What ``HeadSignal`` is to ``Heads``."""

    clock: Clock
    is_live = True
    problem: str | None = None

    def __init__(self, _endpoint: RpcEndpoint) -> None:
        self.passed_on = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def told(self) -> list[str | None]:
        """What was told until now, after the subscription itself."""
        return [None, *(one for at, one in self.clock.tells if at <= self.clock.now)]

    @property
    def heads(self) -> int:
        """How many that are."""
        return len(self.told)

    @property
    def newest(self) -> str | None:
        """The last of them."""
        return self.told[-1]

    def wait(self, seconds: float) -> bool:
        """Wait, in little steps."""
        until = self.clock.now + seconds
        while self.heads == self.passed_on and self.clock.now < until:
            self.clock.now += 0.01
        is_woken = self.heads > self.passed_on
        self.passed_on = self.heads
        return is_woken


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Replace time and socket."""
    clock = Socket.clock = Clock()
    monkeypatch.setattr(heads_module, "HeadSignal", Socket)
    for module in (heads_module, pace_module):
        monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(heads_module, "sleep", clock.sleep)
    return clock


class Chain:
    """A chain of a block each ``GAP`` seconds, and a follower that looks at it.

    Attributes:
        looks: when it looked, one list for each block that was the head then.
        said: what it told.
    """

    def __init__(self, clock: Clock, **config: Any) -> None:
        self.clock, self.said = clock, []  # type: ignore[var-annotated]
        self.begun = clock.now
        self.looks: dict[int, list[float]] = {}
        endpoint = RpcEndpoint(pool="tip", url=SecretStr("http://127.0.0.1:1"), variable="X_URL")
        follows = BlockFollowerConfig(
            chain_id=1, rpc_pool="tip", datasets=("blocks",), poll_seconds=0.5, **config
        )
        self.heads = Heads(endpoint, follows, lambda line, **_fields: self.said.append(line))

    def follow(self, blocks: int) -> None:
        """Look and wait until there are so many blocks."""
        until = self.clock.now + blocks * GAP
        while self.clock.now < until:
            number = int((self.clock.now - self.begun) // GAP)
            first = number not in self.looks
            self.looks.setdefault(number, []).append((self.clock.now - self.begun) % GAP)
            step = Step(number, number.to_bytes(32, "big"), number, committed=int(first))
            self.heads.wait(step, Deadline.after(None))


def told(number: int) -> str:
    """Return a block's hash as a socket tells it."""
    return "0x" + number.to_bytes(32, "big").hex()


def test_a_socket_that_tells_of_each_block_is_all_that_is_needed(clock: Clock) -> None:
    """One look a block, at once."""
    clock.tells = [(clock.now + at * GAP + 0.02, told(at)) for at in range(1, 10)]
    chain = Chain(clock)
    chain.follow(9)
    for number in range(4, 9):
        (look,) = chain.looks[number]
        assert look == pytest.approx(0.02, abs=0.01)
    assert chain.said == ["heads by websocket"]


def test_a_head_that_was_seen_already_wakes_nobody(clock: Clock) -> None:
    """Told late, or twice."""
    clock.tells = [(clock.now + at * GAP + late, told(at)) for at in range(1, 10) for late in (0.02, 3, 4)]
    chain = Chain(clock)
    chain.follow(9)
    assert [len(chain.looks[number]) for number in range(4, 9)] == [1] * 5


def test_a_silent_socket_is_late_once(clock: Clock) -> None:
    """Then blocks are polled for as if there was none, until it speaks again."""
    speaks = [*range(1, 6), *range(13, 20)]
    clock.tells = [(clock.now + at * GAP + 0.02, told(at)) for at in speaks]
    chain = Chain(clock)
    chain.follow(18)
    first = {number: looks[0] for number, looks in chain.looks.items()}
    assert first[5] < 0.1
    assert 4 < first[6] < 6  # by half of the time between blocks
    assert all(first[number] <= 0.6 for number in range(7, 18))
    assert len(chain.looks[9]) > 2
    assert [len(chain.looks[number]) for number in (15, 16, 17)] == [1] * 3
    assert "does not tell of blocks that are there" in chain.said[1]


def test_a_socket_that_lies_costs_no_more_than_polling(clock: Clock) -> None:
    """Heads that are not there are looked for as often as a poll would look, and blocks are not late."""
    clock.tells = [(clock.now + 0.05 * at, None) for at in range(1, int(8 * GAP / 0.05))]
    chain = Chain(clock)
    chain.follow(8)
    looks = {number: len(chain.looks[number]) for number in range(1, 8)}
    assert max(looks.values()) <= GAP / 0.5 + 4, looks
    assert all(chain.looks[number][0] <= 0.6 for number in range(1, 8))


def test_a_socket_that_is_late_is_found_out(clock: Clock) -> None:
    """Blocks that are there before they are told of are polled for, until they are told of in time again."""
    late = dict.fromkeys(range(1, 60), 0.02) | dict.fromkeys(range(6, 40), 4.0)
    clock.tells = sorted((clock.now + at * GAP + after, told(at)) for at, after in late.items())
    chain = Chain(clock)
    chain.follow(58)
    first = {number: looks[0] for number, looks in chain.looks.items()}
    assert first[7] == pytest.approx(4, abs=0.1)
    assert all(first[number] <= 0.6 for number in range(28, 58))
    assert len(chain.looks[35]) > 2
    assert [len(chain.looks[number]) for number in (50, 51, 52)] == [1] * 3
    polling = "heads by polling, every 0.5 s: the WebSocket tells of blocks after they are there"
    assert chain.said == ["heads by websocket", polling, "heads by websocket"]


@pytest.mark.parametrize("heads", ["auto", "websocket"])
def test_a_change_is_told(clock: Clock, monkeypatch: pytest.MonkeyPatch, heads: str) -> None:
    """At once where a socket was asked for; else only one that lasts."""
    chain = Chain(clock, heads=heads)
    monkeypatch.setattr(Socket, "is_live", False)
    chain.follow(1)
    assert chain.said == []  # the first try is under way
    monkeypatch.setattr(Socket, "problem", "nobody there")
    chain.follow(1)
    monkeypatch.setattr(Socket, "is_live", True)
    clock.tells = [(clock.now + 0.5 * at, None) for at in range(1, 100)]
    chain.follow(1)
    monkeypatch.setattr(Socket, "is_live", False)
    chain.follow(1)
    polling = "heads by polling, every 0.5 s: nobody there"
    assert chain.said == ([polling] if heads == "auto" else [polling, "heads by websocket", polling])


def test_a_socket_that_was_silent_and_broke_off_is_told_by_its_problem(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it did before it broke off is no longer of interest, also where no block comes any more."""
    clock.tells = [(clock.now + at * GAP + 0.02, told(at)) for at in range(1, 4)]
    chain = Chain(clock, heads="websocket")
    chain.follow(7)
    assert "does not tell of blocks that are there" in chain.said[-1]
    monkeypatch.setattr(Socket, "is_live", False)
    monkeypatch.setattr(Socket, "problem", "it broke off")
    chain.heads.wait(Step(max(chain.looks), bytes(32), 0), Deadline.after(None))
    assert chain.said[-1] == "heads by polling, every 0.5 s: it broke off"


def test_polling_alone_opens_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it says."""
    monkeypatch.setattr(heads_module, "HeadSignal", None)
    chain = Chain(clock, heads="poll")
    chain.follow(2)
    assert chain.said == ["heads by polling, every 0.5 s: config.heads is poll"]
