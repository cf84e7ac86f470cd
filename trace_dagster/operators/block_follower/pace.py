"""The pace of a chain, and pauses that end when a run does."""

import statistics
import time
from collections import deque
from typing import Final

from trace_dagster.operators.base import Deadline

__all__ = ["SECONDS_BETWEEN_CHECKS", "Pace", "sleep"]

SECONDS_BETWEEN_CHECKS: Final = 0.2
_GAPS: Final = 8
"""So many times between blocks are remembered."""

_SHARE_OF_GAP: Final = 0.75
"""Of the shortest of them, this part passes before the head is looked at again."""

_SAFE_SHARE_OF_GAP: Final = 1.5
"""After this part of the usual one, the head is looked at although nobody told of a block."""

_FEWEST_GAPS: Final = 2
_SAFE_SECONDS: Final = 0.5
"""The same, as long as fewer than that are known."""

_LONGEST_SAFE_SECONDS: Final = 30.0


class Pace:
    """When to look at the head again: not before the next block can be there, and then often.

    Args:
        poll_seconds: between looks, once a block is due.
    """

    def __init__(self, poll_seconds: float) -> None:
        self._poll_seconds = poll_seconds
        self._gaps: deque[float] = deque(maxlen=_GAPS)
        self._arrived_at: float | None = None

    def seconds_until_next_look(self, *, arrived: bool) -> float:
        """Return how long to wait; ``arrived``: whether this look brought a block."""
        if not arrived:
            return self._poll_seconds
        now = time.monotonic()
        if self._arrived_at is not None:
            self._gaps.append(now - self._arrived_at)
        self._arrived_at = now
        if len(self._gaps) < _GAPS:
            return self._poll_seconds
        return max(self._poll_seconds, _SHARE_OF_GAP * min(self._gaps))

    @property
    def safe_seconds(self) -> float:
        """How long a block that nobody tells of may at most stay unseen."""
        if len(self._gaps) < _FEWEST_GAPS:
            return max(self._poll_seconds, _SAFE_SECONDS)
        usual = _SAFE_SHARE_OF_GAP * statistics.median(self._gaps)
        return max(self._poll_seconds, min(usual, _LONGEST_SAFE_SECONDS))


def sleep(seconds: float, deadline: Deadline) -> None:
    """Wait so long, or until the deadline."""
    until = time.monotonic() + seconds
    while (left := min(until - time.monotonic(), deadline.remaining_seconds)) > 0:
        time.sleep(min(left, SECONDS_BETWEEN_CHECKS))
