"""A limit of an endpoint that nobody told: learned from refusals, and tried again after successes."""

from dataclasses import dataclass
from typing import Final

__all__ = ["LearnedLimit"]

# Of what is asked at the limit one in so many may be refused, where the limit has not changed.
_GROWS_AFTER: Final = 100


@dataclass(slots=True)
class LearnedLimit:
    """How much may be asked for at once.

    Args:
        limit: as far as is known; None: there is none.
        most: what it never grows above; None: there is no such bound.
    """

    limit: int | None
    most: int | None
    _successes: int = 0
    _failed_at: int | None = None
    """Least amount at which it failed, for a reason that nobody told."""
    _worked_at: int | None = None
    """Less than that, which it took afterwards."""

    @property
    def value(self) -> int | None:
        """How much may be asked for next: after a failure less than what failed; None: there is no limit."""
        if self._failed_at is None or self._worked_at is not None:
            return self.limit
        half = max(1, self._failed_at // 2)
        return half if self.limit is None else min(self.limit, half)

    def reset(self, most: int | None) -> None:
        """Begin again, with another bound."""
        self.limit = self.most = most
        self._successes = 0
        self._failed_at = self._worked_at = None

    def refused(self, amount: int) -> None:
        """Ask for half of ``amount`` at most."""
        half = max(1, amount // 2)
        self.limit = half if self.limit is None else min(self.limit, half)
        self._successes = 0
        self._failed_at = self._worked_at = None

    def failed(self, amount: int) -> None:
        """Note a failure that may be for the amount, or an outage, which the next ones tell.

        Where less works and as much fails again it was the amount; where nothing works, or as much does,
        it was not.
        """
        if amount == 1:
            self._failed_at = self._worked_at = None
        elif self._worked_at is not None and amount > self._worked_at:
            self.refused(min(amount, self._failed_at or amount))
        else:
            self._failed_at = min(amount, self._failed_at or amount)

    def succeeded(self, amount: int) -> None:
        """Count that ``amount`` was had; after many at the limit, twice as much is tried."""
        if self._failed_at is not None:
            self._weigh(amount, self._failed_at)
        if self.limit is None or amount < self.limit or self.limit == self.most:
            return
        self._successes += 1
        if self._successes >= _GROWS_AFTER:
            self.limit = 2 * self.limit if self.most is None else min(2 * self.limit, self.most)
            self._successes = 0

    def _weigh(self, amount: int, failed_at: int) -> None:
        if amount >= failed_at:
            self._failed_at = self._worked_at = None
        elif amount >= failed_at // 2:  # less says nothing: it works in any case
            self._worked_at = max(amount, self._worked_at or 0)
