"""How much may be sent to one key: no one-second window holds more than its limit, and 429s slow it down."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

__all__ = ["AdaptiveLimit", "Pause", "RateLimit"]

# The window is this much longer than a second, so that a delay on the way does not push two windows together.
_WINDOW_SECONDS: Final = 1.02
# Spread evenly, what is sent may be late by this share of a second's work, and catches up.
_BURST_SHARE: Final = 1 / 20
_MOST_LATE_SECONDS: Final = 0.1
_SLOWER: Final = 0.7
_FASTER_PER_SECOND: Final = 0.1
_SLOWEST: Final = 0.1
# Of a limit that was learned, not configured.
_SLOWEST_LEARNED: Final = 5.0
_LEARNED_FASTER_PER_SECOND: Final = 0.2
_SECONDS_BETWEEN_CUTS: Final = 0.5
_FORGOTTEN_AFTER_SECONDS: Final = 60.0
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 600.0


@dataclass(slots=True)
class RateLimit:
    """At most ``per_second`` in any window of one second, spread evenly.

    Attributes:
        per_second: the limit, in requests or credits.
    """

    per_second: float
    _sent: deque[tuple[float, float]] = field(default_factory=deque)
    _in_window: float = 0.0
    _due: float = float("-inf")

    def ready_at(self, amount: float, now: float) -> float:
        """Return the moment from which ``amount`` may be sent, ``now`` or later.

        More than a whole second's worth may be sent where nothing was sent for a second.
        """
        self._forget(now)
        ready = max(now, self._due)
        wanted = min(amount, self.per_second)
        left = self._in_window
        for moment, sent in self._sent:
            if left + wanted <= self.per_second + 1e-9:
                break
            left -= sent
            ready = max(ready, moment + _WINDOW_SECONDS)
        return ready

    @property
    def burst(self) -> float:
        """How much may be sent at once, at least one request."""
        return max(1.0, self.per_second * _BURST_SHARE)

    def take(self, amount: float, now: float) -> None:
        """Count ``amount`` as sent now."""
        self._sent.append((now, amount))
        self._in_window += amount
        late_seconds = min(self.burst / self.per_second, _MOST_LATE_SECONDS)
        self._due = max(self._due, now - late_seconds) + amount / self.per_second

    def under(self, per_second: float) -> "RateLimit":
        """Return another limit, under which what was sent counts as well."""
        return replace(self, per_second=per_second, _sent=self._sent.copy())

    def _forget(self, now: float) -> None:
        while self._sent and self._sent[0][0] + _WINDOW_SECONDS <= now:
            self._in_window -= self._sent.popleft()[1]
        if not self._sent:
            self._in_window = 0.0


@dataclass(slots=True)
class Pause:
    """How long nothing is sent after a 429.

    Attributes:
        until: the moment at which it ends.
        repeated: how many came one after the other.
    """

    until: float = 0.0
    repeated: int = 0

    def begin(self, seconds: float | None, now: float) -> None:
        """Pause for as long as the provider said, else longer each time."""
        if self.until <= now:
            self.repeated = min(self.repeated + 1, 10)
        seconds = seconds or _FIRST_PAUSE_SECONDS * 2 ** (self.repeated - 1)
        self.until = max(self.until, now + min(seconds, _LONGEST_PAUSE_SECONDS))


class AdaptiveLimit:
    """A rate limit that provider 429s cut, and that grows back; without a limit it learns one.

    Args:
        per_second: what the provider's plan allows; None: not known.
        limit: that, where something was sent under it already.
    """

    def __init__(self, per_second: float | None, limit: RateLimit | None = None) -> None:
        self._most = per_second
        self._limit = limit or (RateLimit(per_second) if per_second else None)
        self._seen: deque[tuple[float, float]] = deque()
        self._last_cut = self._last_change = float("-inf")

    @property
    def per_second(self) -> float | None:
        """What is allowed at present; None: anything."""
        return self._limit.per_second if self._limit else None

    def allowance(self, now: float) -> float:
        """Return how much may be sent at once when the time has come; infinite without a limit."""
        self._grow(now)
        return self._limit.burst if self._limit else float("inf")

    def ready_at(self, amount: float, now: float) -> float:
        """Return the moment from which ``amount`` may be sent, ``now`` or later."""
        return self._limit.ready_at(amount, now) if self._limit else now

    def take(self, amount: float, now: float) -> None:
        """Count ``amount`` as sent now."""
        if self._limit:
            self._limit.take(amount, now)
        elif amount:
            self._seen.append((now, amount))
            while self._seen[0][0] < now - 1.0:
                self._seen.popleft()

    def successor(self, per_second: float | None) -> "AdaptiveLimit":
        """Return the limit of the same key after a reload, under which what was sent counts as well."""
        if per_second == self._most:
            return self
        limit = self._limit.under(per_second) if self._limit is not None and per_second else None
        return AdaptiveLimit(per_second, limit)

    def cut(self, now: float) -> None:
        """Slow down, after the provider said that it was too much; not twice for what was sent together."""
        if now - self._last_cut < _SECONDS_BETWEEN_CUTS:
            return
        self._last_cut = self._last_change = now
        if self._limit:
            least = _SLOWEST_LEARNED if self._most is None else self._most * _SLOWEST
            self._limit.per_second = max(least, self._limit.per_second * _SLOWER)
            return
        recent = sum(amount for moment, amount in self._seen if moment >= now - 1.0)
        self._limit = RateLimit(max(_SLOWEST_LEARNED, recent * _SLOWER))
        self._seen.clear()

    def _grow(self, now: float) -> None:
        if self._limit is None or self._last_cut == float("-inf"):
            return
        seconds = now - self._last_change
        if seconds < 0.25:
            return
        self._last_change = now
        if self._most is None:
            if now - self._last_cut > _FORGOTTEN_AFTER_SECONDS:
                self._limit = None
            else:
                faster = _SLOWEST_LEARNED + self._limit.per_second * _LEARNED_FASTER_PER_SECOND
                self._limit.per_second += faster * seconds
            return
        grown = self._limit.per_second + self._most * _FASTER_PER_SECOND * seconds
        self._limit.per_second = min(self._most, grown)
