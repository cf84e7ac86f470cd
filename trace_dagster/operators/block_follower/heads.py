"""When a follower looks at the head: woken by a WebSocket where there is one, by the clock in any case."""

import time
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from trace_dagster.operators.base import Deadline, Progress
from trace_dagster.operators.block_follower.config import BlockFollowerConfig
from trace_dagster.operators.block_follower.follower import Step
from trace_dagster.operators.block_follower.head_signal import HeadSignal
from trace_dagster.operators.block_follower.pace import SECONDS_BETWEEN_CHECKS, Pace, sleep
from trace_dagster.settings import RpcEndpoint

__all__ = ["Heads"]

_LEAST_SECONDS: Final = 0.05
"""Heads that come faster are not looked at one by one."""

_LEAST_POLLS: Final = 10
"""So many looks go by the clock after one that a socket asked for in vain."""

_BLOCKS_BETWEEN_PROBES: Final = 20
"""After so many that a socket told of, one is polled for: is it there before it is told of?"""

_LATE_AFTER: Final = 2
_ON_TIME_AFTER: Final = 3

_SECONDS_BETWEEN_NEWS: Final = 60.0


class _Probes:
    """Finds out whether a socket tells of blocks late, by polling for some of them.

    Attributes:
        is_one: whether the block that is waited for is polled for, to find out.
        is_late: whether the socket is late.
    """

    def __init__(self) -> None:
        self.is_one = self.is_late = False
        self._left = self._late = self._on_time = 0

    @property
    def is_due(self) -> bool:
        """Whether the next block is to be polled for."""
        return self.is_late or self._left <= 0

    def arrived(self, *, is_told: bool) -> None:
        """Note that a block arrived, and whether the socket had told of it by then."""
        if not self.is_one:
            self._left -= 1
        elif is_told:
            self._late, self._on_time = 0, self._on_time + 1
            self.is_late = self.is_late and self._on_time < _ON_TIME_AFTER
            self._left = _BLOCKS_BETWEEN_PROBES
        else:
            self._late, self._on_time, self._left = self._late + 1, 0, 0
            self.is_late = self.is_late or self._late >= _LATE_AFTER


class Heads:
    """The follower's pauses at the head; a context manager.

    A socket wakes it. Where one tells of a head that cannot be seen, does not tell of one that can, or tells
    of it late, blocks are polled for, as without it: a bad one costs little more than polling, and the first
    blocks it keeps silent about are late by half of the usual time between blocks, those after them are not.
    Whether it is late is found out with the first blocks, and now and then.

    Args:
        endpoint: the pool's.
        config: what is followed.
        progress: is told once which way heads come, and when that changes.
    """

    def __init__(self, endpoint: RpcEndpoint, config: BlockFollowerConfig, progress: Progress) -> None:
        self._endpoint, self._config, self._progress = endpoint, config, progress
        self._open = ExitStack()
        self._pace = Pace(config.poll_seconds)
        self._signal: HeadSignal | None = None
        self._head = -1
        self._heads_at_arrival: int | None = None
        self._is_silent = False
        self._polls_until = 0.0
        self._probes = _Probes()
        self._told, self._told_at = "", 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def wait(self, step: Step, deadline: Deadline) -> None:
        """Wait after a step until the head is to be looked at again, or the deadline."""
        if self._signal is None and self._config.heads != "poll":  # not for one that only catches up
            self._signal = self._open.enter_context(HeadSignal(self._endpoint))
        arrived = step.committed > 0 or step.head > self._head
        self._head = step.head
        rest = self._pace.seconds_until_next_look(arrived=arrived)
        if arrived:
            self._look_back(step.head_hash)
        self._tell()
        signal = self._signal
        is_woken = signal is not None and signal.is_live and not self._is_silent
        self._probes.is_one = is_woken and self._probes.is_due and time.monotonic() >= self._polls_until
        if signal is None or not is_woken or self._probes.is_one or time.monotonic() < self._polls_until:
            sleep(rest, deadline)
        elif self._wait_for(signal, step.head_hash, deadline):
            # Should there be no block, another backend has it: the next looks are not for heads told of.
            seconds = max(self._pace.safe_seconds, _LEAST_POLLS * self._config.poll_seconds)
            self._polls_until = time.monotonic() + seconds

    @property
    def _is_woken(self) -> bool:
        """Whether there is a socket, and it tells of blocks in time."""
        is_heard = self._signal is not None and self._signal.is_live and not self._is_silent
        return is_heard and not self._probes.is_late

    def _look_back(self, head_hash: bytes) -> None:
        """Compare a block that arrived with what the socket told since the one before."""
        self._polls_until = 0.0
        if self._signal is None or not self._signal.is_live:
            self._heads_at_arrival, self._is_silent, self._probes = None, False, _Probes()
            return
        heads = self._signal.heads
        self._probes.arrived(is_told=self._signal.newest in (None, f"0x{head_hash.hex()}"))
        if not self._probes.is_one:
            self._is_silent = heads == self._heads_at_arrival
        self._heads_at_arrival = heads

    def _wait_for(self, signal: HeadSignal, seen: bytes, deadline: Deadline) -> bool:
        """Wait for another head than ``seen`` to be told of, but not too long; return whether one was."""
        until = time.monotonic() + self._pace.safe_seconds
        sleep(min(_LEAST_SECONDS, self._config.poll_seconds), deadline)
        while (left := min(until - time.monotonic(), deadline.remaining_seconds)) > 0:
            if signal.wait(min(left, SECONDS_BETWEEN_CHECKS)) and signal.newest != f"0x{seen.hex()}":
                return True
        return False

    def _tell(self) -> None:
        """Say which way heads come; in ``auto`` no more often than each minute."""
        way = self._way()
        is_due = not self._told or time.monotonic() - self._told_at >= _SECONDS_BETWEEN_NEWS
        if way is None or way == self._told or not (is_due or self._config.heads == "websocket"):
            return
        self._told, self._told_at = way, time.monotonic()
        is_warning = self._config.heads == "websocket" and not self._is_woken
        self._progress(way, is_warning=is_warning)

    def _way(self) -> str | None:
        """Return which way heads come; None where that is not known yet."""
        if self._is_woken:
            return "heads by websocket"
        if self._signal is None:
            why = "config.heads is poll"
        elif not self._signal.is_live:  # whatever it did before
            if self._signal.problem is None:
                return None
            why = self._signal.problem
        elif self._probes.is_late:
            why = "the WebSocket tells of blocks after they are there"
        else:
            why = "the WebSocket does not tell of blocks that are there"
        return f"heads by polling, every {self._config.poll_seconds:g} s: {why}"
