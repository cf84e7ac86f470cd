"""A circuit breaker: what failed several times in a row, or was refused, is left alone for a while."""

from dataclasses import dataclass
from typing import Final

__all__ = ["Circuit"]

_BREAKS_AT_FAILURES: Final = 5
_FIRST_BREAK_SECONDS: Final = 0.5
_LONGEST_BREAK_SECONDS: Final = 30.0
# A key that a provider refuses does not come back by itself within seconds.
_REFUSED_SECONDS: Final = 30.0


@dataclass(slots=True)
class Circuit:
    """Open until a moment; after that one exchange tries whether it may close.

    Attributes:
        open_until: that moment; 0: it is closed.
        failures: exchanges that failed in a row.
        breaks: how often it opened since the last that did not.
    """

    open_until: float = 0.0
    failures: int = 0
    breaks: int = 0

    def succeeded(self) -> bool:
        """Close; return whether it was open."""
        was_open = bool(self.open_until)
        self.open_until, self.failures, self.breaks = 0.0, 0, 0
        return was_open

    def failed(self, now: float, *, is_refused: bool) -> None:
        """Count a failure, and open where it is one of several, or a refusal."""
        self.failures += 1
        if is_refused:
            self.open_until = now + _REFUSED_SECONDS
        elif self.failures >= _BREAKS_AT_FAILURES:
            self.open_until = now + min(_FIRST_BREAK_SECONDS * 2**self.breaks, _LONGEST_BREAK_SECONDS)
            self.breaks = min(self.breaks + 1, 10)
