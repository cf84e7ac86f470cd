"""Holds requests at a FaultProxy for as long as a test wants, so that no test depends on time."""

import threading
from collections.abc import Sequence
from typing import Any

from tests.support.fault_proxy import Exchange, Reply
from trace_dagster.chain.ranges import BlockRange


class Gate:
    """An intercept that holds every request about one block until it is opened.

    Args:
        block: the block; None: every request is held.

    Attributes:
        reached: set once a request is held.
    """

    def __init__(self, block: int | None) -> None:
        self.reached = threading.Event()
        self._block = None if block is None else hex(block)
        self._opened = threading.Event()

    def __call__(self, exchange: Exchange) -> Reply | None:
        """Hold the request if it is about the block."""
        if self._block is None or any(self._block in call.get("params", []) for call in exchange.calls):
            self.reached.set()
            self._opened.wait()
        return None

    def open(self) -> None:
        """Let all requests pass, those that are held too."""
        self._opened.set()


class Meeting:
    """An intercept that holds every request about the blocks of a partition until enough partitions are held.

    Attributes:
        met: set once that many were in work at the same moment; from then on everything passes.
    """

    def __init__(self, partitions: Sequence[BlockRange], size: int) -> None:
        self.met = threading.Event()
        self._partitions, self._size = partitions, size
        self._held: set[BlockRange] = set()
        self._guard = threading.Lock()

    def __call__(self, exchange: Exchange) -> Reply | None:
        """Hold the request if it is about one of the partitions."""
        about = {one for call in exchange.calls for one in self._partitions if _is_about(call, one)}
        if about:
            with self._guard:
                self._held |= about
                if len(self._held) >= self._size:
                    self.met.set()
            self.met.wait()
        return None


def _is_about(call: dict[str, Any], partition: BlockRange) -> bool:
    numbers = {hex(number) for number in range(partition.start_block, partition.end_block + 1)}
    return any(isinstance(one, str) and one in numbers for one in call.get("params", []))
