"""A limit of an endpoint that nobody told: learned from refusals, and tried again after successes."""

from dataclasses import dataclass
from typing import Final

__all__ = ["LearnedLimit"]

# Of what is asked at the limit one in so many may be refused, where the limit has not changed.
_GROWS_AFTER: Final = 100


@dataclass(slots=True)
class LearnedLimit:
    """How much may be asked for at once.

    Attributes:
        value: the limit as far as is known; None: there is none.
        most: what it never grows above; None: there is no such bound.
    """

    value: int | None
    most: int | None
    _successes: int = 0

    def reset(self, most: int | None) -> None:
        """Begin again, with another bound."""
        self.value = self.most = most
        self._successes = 0

    def refused(self, amount: int) -> None:
        """Ask for half of ``amount`` at most."""
        half = max(1, amount // 2)
        self.value = half if self.value is None else min(self.value, half)
        self._successes = 0

    def succeeded(self, amount: int) -> None:
        """Count that ``amount`` was had; after many at the limit, twice as much is tried."""
        if self.value is None or amount < self.value or self.value == self.most:
            return
        self._successes += 1
        if self._successes >= _GROWS_AFTER:
            self.value = 2 * self.value if self.most is None else min(2 * self.value, self.most)
            self._successes = 0
