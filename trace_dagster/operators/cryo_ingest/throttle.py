"""Progress that does not flood a run's log."""

import time
from collections import defaultdict

from trace_dagster.operators.base import Progress

__all__ = ["Throttled"]


class Throttled:
    """A Progress that passes on reports with a goal, the field ``of``, every so often, and the last one.

    Args:
        progress: where reports go.
        seconds: least time between two reports of the same message; whatever has no goal goes through.
    """

    def __init__(self, progress: Progress, seconds: float = 5.0) -> None:
        self._progress, self._seconds = progress, seconds
        begun = time.monotonic()
        self._reported: defaultdict[str, float] = defaultdict(lambda: begun)

    def __call__(self, message: str, **fields: object) -> None:
        """Report, or leave it."""
        now = time.monotonic()
        due = now - self._reported[message] >= self._seconds
        if "of" not in fields or due or fields.get("blocks") == fields["of"]:
            self._reported[message] = now
            self._progress(message, **fields)
