"""An endpoint and its keys: limits, circuit breaker, what is known of it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from trace_dagster.rpc.gateway.circuit import Circuit
from trace_dagster.rpc.gateway.config import DEFAULT_COST, Capabilities
from trace_dagster.rpc.gateway.faults import Fault, FaultKind
from trace_dagster.rpc.gateway.learned import LearnedLimit
from trace_dagster.rpc.gateway.limits import AdaptiveLimit, Pause
from trace_dagster.rpc.gateway.probe import MOST_LOG_RANGE
from trace_dagster.rpc.gateway.resolved import Access, ResolvedEndpoint
from trace_dagster.rpc.gateway.routing import Route

__all__ = ["Endpoint", "Key"]

_MAX_BATCH_ITEMS: Final = 100
_UNKNOWN_LATENCY_SECONDS: Final = 0.05
_WEIGHT_OF_NEWEST: Final = 0.1
_ERRORS_COUNT: Final = 4
_UNSUPPORTED_SECONDS: Final = 600.0
# Once it was said once only, it is asked again soon: it may have been another's fault.
_FIRST_UNSUPPORTED_SECONDS: Final = 5.0
# Shorter pauses are waited for, rather than another endpoint asked.
_LONG_PAUSE_SECONDS: Final = 0.5


class Key:
    """One way to an endpoint, with its own limits.

    Attributes:
        access: URL and headers.
        requests: how many may be sent; shared, as are credits and pause, by all keys of one account.
        credits: likewise, of credits; None: without a limit.
        pause: after 429s.
        circuit: after other failures.
        endpoint: whose it is.
        in_flight: HTTP exchanges under way.
        latency_seconds: of an exchange, the newest weighing most.
        deviation_seconds: how far latencies are from that.
        reason: why it is not used, where it is not.
    """

    def __init__(self, endpoint: "Endpoint", access: Access) -> None:
        limits = endpoint.config.limits
        self.endpoint, self.access = endpoint, access
        self.requests = AdaptiveLimit(limits.requests_per_second)
        self.credits = AdaptiveLimit(limits.credits_per_second) if limits.credits_per_second else None
        self.pause = Pause()
        self.circuit = Circuit()
        self.in_flight = 0
        self.latency_seconds = _UNKNOWN_LATENCY_SECONDS
        self.deviation_seconds = _UNKNOWN_LATENCY_SECONDS
        self.reason = ""
        self._concurrency = limits.concurrency
        self._error_rate = 0.0
        self._trying = False

    def __repr__(self) -> str:
        return f"Key({self.endpoint.name}, {self.access.number})"

    def inherit(self, others: Sequence["Key"]) -> None:
        """Go on with the limits and the pause of an account before a reload: both may be in use for a while.

        Args:
            others: keys of that account; at least one.
        """
        limits = self.endpoint.config.limits
        self.requests = others[0].requests.successor(limits.requests_per_second)
        self.pause = others[0].pause
        counted = next((one.credits for one in others if one.credits is not None), None)
        if self.credits is not None and counted is not None:
            self.credits = counted.successor(limits.credits_per_second)

    def inherit_circuit(self, other: "Key") -> None:
        """Stay as broken as the same URL was before a reload."""
        self.circuit, self.reason = replace(other.circuit), other.reason

    @property
    def score(self) -> float:
        """How long an exchange with it is likely to take; the lowest is asked."""
        return self.latency_seconds * (1 + self.in_flight) * (1 + _ERRORS_COUNT * self._error_rate)

    def is_up(self, now: float) -> bool:
        """Whether its circuit is closed, or may be tried again."""
        return self.circuit.open_until <= now

    def is_paused(self, now: float, seconds: float = _LONG_PAUSE_SECONDS) -> bool:
        """Whether its provider asked not to be asked for longer than ``seconds``."""
        return self.pause.until > now + seconds

    def contradicted(self) -> None:
        """Count an answer in whose place another endpoint had a better one: others are asked rather."""
        self._error_rate += _WEIGHT_OF_NEWEST * (1 - self._error_rate)

    def ready_at(self, method: str, now: float) -> float:
        """Return the moment at which a request may be sent, as far as is known; infinite until others end."""
        if self.in_flight >= self._concurrency or self._trying:
            return float("inf")
        ready = max(now, self.circuit.open_until, self.pause.until)
        if self.requests.allowance(now) < float("inf"):
            ready = max(ready, self.requests.ready_at(1, now))
        if self.credits is not None:
            self.credits.allowance(now)
            ready = max(ready, self.credits.ready_at(self.endpoint.cost(method), now))
        return ready

    def begin(self, methods: Sequence[str], now: float) -> int:
        """Begin an exchange; return how many of the requests it may hold, at least one."""
        count = min(len(methods), self.endpoint.batch_items)
        if self.circuit.open_until:
            self._trying = True
            count = 1
        if count > 1:
            count = max(1, int(min(count, self.requests.allowance(now))))
        if self.credits is None:
            self.requests.take(count, now)
        else:
            count, spent = self._affordable(methods[:count], self.credits.allowance(now))
            self.requests.take(count, now)
            self.credits.take(spent, now)
        self.in_flight += 1
        return count

    def _affordable(self, methods: Sequence[str], most: float) -> tuple[int, float]:
        spent = self.endpoint.cost(methods[0])
        count = 1
        for method in methods[1:]:
            cost = self.endpoint.cost(method)
            if spent + cost > most:
                break
            spent += cost
            count += 1
        return count, spent

    def finished(self) -> None:
        """End an exchange, however it went."""
        self.in_flight -= 1
        self._trying = False

    def succeeded(self, seconds: float) -> None:
        """Count an exchange that took ``seconds`` and gave answers."""
        away = abs(seconds - self.latency_seconds)
        self.latency_seconds += _WEIGHT_OF_NEWEST * (seconds - self.latency_seconds)
        self.deviation_seconds += _WEIGHT_OF_NEWEST * (away - self.deviation_seconds)
        self._error_rate *= 1 - _WEIGHT_OF_NEWEST
        self.pause.repeated = 0
        if self.circuit.succeeded():
            self.endpoint.doubt()
        self.reason = ""

    def failed(self, fault: Fault, now: float) -> None:
        """Count an exchange that failed; after several in a row the circuit breaks for a while."""
        self.reason = f"{fault.kind}: {fault.detail}"
        if fault.kind is FaultKind.RATE_LIMITED:
            self._slow_down(fault.retry_after_seconds, now)
            return
        self._error_rate += _WEIGHT_OF_NEWEST * (1 - self._error_rate)
        self.circuit.failed(now, is_refused=fault.kind is FaultKind.REFUSED and fault.is_of_key)

    def failed_batch(self, fault: Fault, items: int) -> None:
        """Count an exchange that failed perhaps because it held so many requests; fewer are tried at once."""
        self.reason = f"{fault.kind}: {fault.detail}"
        self.endpoint.fails_batch_of(items)

    def _slow_down(self, retry_after_seconds: float | None, now: float) -> None:
        self.pause.begin(retry_after_seconds, now)
        self.requests.cut(now)
        if self.credits is not None:
            self.credits.cut(now)


class Endpoint:
    """One provider of a pool.

    Args:
        resolved: the endpoint with its secrets.
        costs: credits by method; None: one for each request.

    Attributes:
        head: the newest block that it was heard to have, None before that.
        chain: id of the chain that it was found to serve; None: not known.
        chain_checked: whether that is known to be the pool's.
        doubted: set where any endpoint of the pool is to be asked for its chain.
        is_doubted: whether this one is.
        reason: why it is not used, where it is not.
        capabilities: what the configuration says that it can do, else what was found out.
    """

    def __init__(self, resolved: ResolvedEndpoint, costs: Mapping[str, float] | None) -> None:
        self.config = resolved.config
        self.name, self.tier = resolved.name, resolved.config.tier
        self.secrets = tuple({text for access in resolved.accesses for text in access.secrets})
        self.capabilities = known = resolved.config.capabilities
        most_items = known.batch or _MAX_BATCH_ITEMS
        self._batch, self._logs = (LearnedLimit(one, one) for one in (most_items, known.log_range))
        self.head: int | None = None
        self.head_at = float("-inf")
        self.chain: int | None = None
        self.chain_checked, self.is_doubted = False, True
        self.doubted = asyncio.Event()
        self.reason = "not asked yet"
        self._odd_network = ""
        self._costs = costs
        self._default_cost = 1.0 if costs is None else costs.get(DEFAULT_COST, 1.0)
        self._unsupported: dict[str, float] = {}
        self.keys = tuple(Key(self, access) for access in resolved.accesses)

    def __repr__(self) -> str:
        return f"Endpoint({self.name})"

    @property
    def batch_items(self) -> int:
        """Most requests in one exchange, learned from refusals."""
        return self._batch.value or 1

    @property
    def log_range(self) -> int | None:
        """Most blocks in one eth_getLogs, learned from refusals; None: no limit known."""
        return self._logs.value

    def cost(self, method: str) -> float:
        """Return what one request costs, in the provider's credits."""
        return self._default_cost if self._costs is None else self._costs.get(method, self._default_cost)

    def is_up(self, now: float) -> bool:
        """Whether it serves the right chain and any key of it may be used."""
        return self.chain_checked and any(key.is_up(now) for key in self.keys)

    def is_paused(self, now: float, seconds: float = _LONG_PAUSE_SECONDS) -> bool:
        """Whether every key that could be used is paused for longer than ``seconds``."""
        return all(key.is_paused(now, seconds) for key in self.keys if key.is_up(now))

    def doubt(self) -> None:
        """Let it be asked for its chain again, and be used meanwhile."""
        self.is_doubted = True
        self.doubted.set()

    def said_chain(self, number: int) -> bool:
        """Take note of the chain that it told a caller; return whether it was found to serve that one.

        If not, it is not used before it was asked again.
        """
        if self.chain is None or number == self.chain:
            return True
        self.reason = f"told a caller that it serves chain {number}, not {self.chain}"
        self.chain_checked = False
        self.doubt()
        return False

    def said_network(self, network: str) -> None:
        """Take note of the network that it told a caller: on some chains that is not the chain's id."""
        if network not in (str(self.chain), self._odd_network):
            self._odd_network = network
            self.doubt()

    def is_free(self, now: float) -> bool:
        """Whether it is in rotation, and not paused for long."""
        return self.is_up(now) and not self.is_paused(now)

    def can(self, method: str, route: Route, now: float) -> bool:
        """Whether it is not known to lack what a request needs."""
        if route.capability and getattr(self.capabilities, route.capability) is False:
            return False
        return not self._unsupported or self._unsupported.get(method, 0.0) <= now

    def learn(self, found: Capabilities) -> None:
        """Take over what was found out; what the configuration says stays."""
        self.capabilities = found.model_copy(update=self.config.capabilities.model_dump(exclude_none=True))
        limit = found.log_range
        if self.config.capabilities.log_range is None and limit is not None:
            self._logs.reset(limit if limit < MOST_LOG_RANGE else None)

    def lacks(self, method: str, now: float) -> None:
        """Remember that it does not have ``method``, for a while; for longer where it said so before."""
        seconds = _UNSUPPORTED_SECONDS if method in self._unsupported else _FIRST_UNSUPPORTED_SECONDS
        self._unsupported[method] = now + seconds

    def refuses_logs_of(self, blocks: int) -> None:
        """Remember that it gives the logs of fewer blocks only."""
        self._logs.refused(blocks)

    def gives_logs_of(self, blocks: int) -> None:
        """Count that it gave the logs of so many blocks."""
        self._logs.succeeded(blocks)

    def refuses_batch_of(self, items: int) -> None:
        """Remember that it takes fewer requests in one exchange only."""
        self._batch.refused(items)

    def fails_batch_of(self, items: int) -> None:
        """Remember that it failed at so many requests in one exchange."""
        self._batch.failed(items)

    def takes_batch_of(self, items: int) -> None:
        """Count that it answered so many requests in one exchange."""
        self._batch.succeeded(items)

    def heard_head(self, number: int, now: float) -> None:
        """Remember the newest block that it answered with; it may be lower than before."""
        self.head, self.head_at = number, now

    def has(self, number: int) -> bool | None:
        """Whether it has block ``number``; None where its head is not known."""
        return None if self.head is None else self.head >= number

    def why_down(self) -> str:
        """Return why it is not used, without secrets."""
        if not self.chain_checked:
            return self.reason
        return "; ".join(sorted({key.reason for key in self.keys if key.reason})) or self.reason
