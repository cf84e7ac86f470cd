"""What was spent on a job's partition, for whoever works on it to ask."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from trace_dagster.rpc.gateway.records import Caller, Usage

__all__ = ["Spending", "Spent"]

_MAX_REMEMBERED: Final = 10_000

_Key = tuple[str, str, str, str]
"""Pool, token, job and partition."""


@dataclass(slots=True)
class Spent:
    """The sum of what answers took since the gateway began.

    Attributes:
        requests: JSON-RPC requests sent to endpoints.
        credits: what they cost.
        retries: those of them that were sent because another failed.
        cache_hits: answers from the cache.
    """

    requests: int = 0
    credits: float = 0.0
    retries: int = 0
    cache_hits: int = 0


class Spending:
    """Sums by pool, token, job and partition; those that were not added to for longest are forgotten first.

    Args:
        max_remembered: sums that are kept.
    """

    def __init__(self, max_remembered: int = _MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._sums: OrderedDict[_Key, Spent] = OrderedDict()

    def add(self, pool: str, caller: Caller, usage: Usage) -> None:
        """Add what an answer to ``caller`` took."""
        key = _key(pool, caller)
        spent = self._sums.setdefault(key, Spent())
        spent.requests += usage.requests
        spent.credits += usage.credits
        spent.retries += usage.retries
        spent.cache_hits += usage.cache_hits
        self._sums.move_to_end(key)
        if len(self._sums) > self._max_remembered:
            self._sums.popitem(last=False)

    def of(self, pool: str, caller: Caller) -> Spent:
        """Return what was spent on ``caller``; nothing where that is not known."""
        return self._sums.get(_key(pool, caller), Spent())


def _key(pool: str, caller: Caller) -> _Key:
    return pool, caller.token, caller.job, caller.partition
