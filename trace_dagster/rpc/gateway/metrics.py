"""What the gateway counts, in Prometheus' text format; no URL, key or partition is ever a label."""

from collections import Counter as Counts
from collections.abc import Iterable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from trace_dagster.rpc.gateway.config import DEFAULT_METHODS
from trace_dagster.rpc.gateway.faults import FaultKind
from trace_dagster.rpc.gateway.records import Caller, Usage

__all__ = ["Metrics"]

_MAX_JOBS: Final = 200
_MAX_METHODS: Final = 100
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_EXACT: Final = frozenset(name for name in DEFAULT_METHODS if not name.endswith("*"))
_BEGINNINGS: Final = tuple(name[:-1] for name in DEFAULT_METHODS if name.endswith("*"))


class Metrics:
    """All counters of a gateway; they outlive a reload."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each
        self.registry = CollectorRegistry()
        self._jobs: set[str] = set()
        self._methods: set[str] = set()
        caller = ("pool", "token", "job")
        self._requests = self._counter("requests", "JSON-RPC requests of callers", *caller, "method")
        self._errors = self._counter("errors", "Requests answered with an error, by kind", *caller, "kind")
        self._spent = self._counter("credits", "Providers' credits spent for callers", *caller)
        self._retries = self._counter("retries", "Requests sent again after a failure", *caller)
        self._sent = self._counter("upstream_requests", "JSON-RPC requests to endpoints", *caller)
        self._bytes = self._counter("bytes", "Bytes of bodies, decompressed", *caller, "direction")
        self._cache_hits = self._counter("cache_hits", "Answers from the cache", *caller)
        self._shared = self._counter("shared", "Requests answered with one already under way", "pool")
        self._hedges = self._counter("hedges", "Slow reads asked of a second endpoint, too", "pool")
        self._faults = self._counter(
            "faults", "What endpoints did wrong, by kind", "pool", "endpoint", "kind"
        )
        self._asked = self._counter("endpoint_requests", "JSON-RPC requests by endpoint", "pool", "endpoint")
        self._disagreements = self._counter(
            "disagreements", "Blocks below finality whose hash endpoints disagree about", "pool"
        )
        self._refusals = self._counter("refusals", "HTTP requests refused, by status", "status")
        self._seconds = Histogram(
            "trace_gateway_request_seconds",
            "Time to answer an HTTP request",
            ("pool",),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._latency = Histogram(
            "trace_gateway_endpoint_seconds",
            "Time of an exchange with an endpoint",
            ("pool", "endpoint"),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._gauges = {
            name: Gauge(f"trace_gateway_{name}", text, labels, registry=self.registry)
            for name, text, labels in (
                ("head", "Newest block", ("pool", "endpoint")),
                ("up", "Whether an endpoint is in rotation", ("pool", "endpoint")),
                ("waiting", "Requests that wait for a key", ("pool",)),
            )
        }

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"trace_gateway_{name}", text, labels, registry=self.registry)

    def answered(
        self,
        pool: str,
        caller: Caller,
        methods: Iterable[str],
        usage: Usage,
        *,
        received: int,
        sent: int,
        seconds: float | None = None,
    ) -> None:
        """Count an HTTP request, and how long it took where it was answered."""
        who = (pool, caller.token, self._job(caller.job))
        for method, count in Counts(methods).items():
            self._requests.labels(*who, self._method(method)).inc(count)
        self.spent(pool, caller, usage)
        if usage.retries:
            self._retries.labels(*who).inc(usage.retries)
        if usage.cache_hits:
            self._cache_hits.labels(*who).inc(usage.cache_hits)
        self._bytes.labels(*who, "in").inc(received)
        self._bytes.labels(*who, "out").inc(sent)
        if seconds is not None:
            self._seconds.labels(pool).observe(seconds)

    def spent(self, pool: str, caller: Caller, usage: Usage) -> None:
        """Count what was sent to endpoints."""
        who = (pool, caller.token, self._job(caller.job))
        self._sent.labels(*who).inc(usage.requests)
        self._spent.labels(*who).inc(usage.credits)

    def failed(self, pool: str, caller: Caller, kind: str, count: int) -> None:
        """Count requests answered with an error."""
        self._errors.labels(pool, caller.token, self._job(caller.job), kind).inc(count)

    def refused(self, status: int) -> None:
        """Count an HTTP request that was refused."""
        self._refusals.labels(str(status)).inc()

    def asked(self, pool: str, endpoint: str, count: int, seconds: float | None) -> None:
        """Count requests sent to an endpoint, and how long a good answer took."""
        self._asked.labels(pool, endpoint).inc(count)
        if seconds is not None:
            self._latency.labels(pool, endpoint).observe(seconds)

    def fault(self, pool: str, endpoint: str, kind: FaultKind, count: int = 1) -> None:
        """Count what an endpoint did wrong."""
        self._faults.labels(pool, endpoint, str(kind)).inc(count)

    def disagreement(self, pool: str) -> None:
        """Count a block below finality whose hash endpoints disagree about."""
        self._disagreements.labels(pool).inc()

    def hedged(self, pool: str) -> None:
        """Count a slow read that was asked of a second endpoint."""
        self._hedges.labels(pool).inc()

    def shared(self, pool: str, count: int) -> None:
        """Count requests that were answered with one already under way."""
        self._shared.labels(pool).inc(count)

    def gauge(self, name: str, value: float, *labels: str) -> None:
        """Set ``head``, ``up`` or ``waiting``."""
        self._gauges[name].labels(*labels).set(value)

    def forget_gauges(self) -> None:
        """Drop what was set, before it is set for the endpoints that there are now."""
        for gauge in self._gauges.values():
            gauge.clear()

    def text(self) -> bytes:
        """Return everything for a scraper."""
        return generate_latest(self.registry)

    def _job(self, job: str) -> str:
        if job in self._jobs or not job:
            return job
        if len(self._jobs) >= _MAX_JOBS:
            return "other"
        self._jobs.add(job)
        return job

    def _method(self, method: str) -> str:
        """Return the method where it is one of those known; any other could be a stranger's invention."""
        if method in self._methods:
            return method
        known = method in _EXACT or method.startswith(_BEGINNINGS)
        if not known or len(self._methods) >= _MAX_METHODS:
            return "other"
        self._methods.add(method)
        return method
