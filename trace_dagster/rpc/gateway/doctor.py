"""Every endpoint of every pool, examined: what ``trace gateway doctor`` shows."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Final

from trace_dagster.chain.headers import as_int
from trace_dagster.errors import RpcError
from trace_dagster.rpc.failures import GarbledReply
from trace_dagster.rpc.gateway.config import Capabilities
from trace_dagster.rpc.gateway.direct import DirectEndpoint
from trace_dagster.rpc.gateway.probe import Examination, examine
from trace_dagster.rpc.gateway.resolved import ResolvedConfig, ResolvedEndpoint, ResolvedPool

__all__ = ["EndpointReport", "PoolReport", "examine_pools"]

_AT_ONCE: Final = 8
_LATENCY_SAMPLES: Final = 3
_MOST_CLOCK_AHEAD_SECONDS: Final = 30.0
_STALE_SECONDS: Final = 600.0
_LAGS_BLOCKS: Final = 16


@dataclass(frozen=True)
class EndpointReport:
    """One endpoint.

    Attributes:
        name: its name.
        shown: its URL as it may be shown.
        problem: why it cannot be used; None where it can.
        chain_id: as it says; None where it does not.
        head: its newest block; None likewise.
        block_age_seconds: how old that block is by its own timestamp; None likewise.
        latency_seconds: of a small request over an open connection, the median of a few; None likewise.
        capabilities: what the configuration says, else what was found out.
        denied: capability to why the endpoint says no.
        unknown: capability to what went wrong in finding out.
        notes: what else a person should know.
    """

    name: str
    shown: str
    problem: str | None = None
    chain_id: int | None = None
    head: int | None = None
    block_age_seconds: float | None = None
    latency_seconds: float | None = None
    capabilities: Capabilities = field(default_factory=Capabilities)
    denied: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PoolReport:
    """One pool.

    Attributes:
        name: its name.
        chain_id: as the configuration says.
        endpoints: in the file's order.
    """

    name: str
    chain_id: int
    endpoints: tuple[EndpointReport, ...]

    @property
    def usable(self) -> tuple[EndpointReport, ...]:
        """The endpoints that can be used."""
        return tuple(endpoint for endpoint in self.endpoints if endpoint.problem is None)

    @property
    def head(self) -> int | None:
        """The highest head of those."""
        return max((endpoint.head for endpoint in self.usable if endpoint.head is not None), default=None)


async def examine_pools(config: ResolvedConfig, timeout_seconds: float = 15.0) -> tuple[PoolReport, ...]:
    """Examine every endpoint of ``config``, several at once; an endpoint that fails is part of the report."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(pool: ResolvedPool, endpoint: ResolvedEndpoint) -> EndpointReport:
        async with turns:
            return await _Examiner(pool, endpoint, timeout_seconds).report()

    pools = list(config.pools.values())
    reports = await asyncio.gather(*(one(pool, endpoint) for pool in pools for endpoint in pool.endpoints))
    left = iter(reports)
    return tuple(
        _compared(PoolReport(pool.name, pool.config.chain_id, tuple(next(left) for _ in pool.endpoints)))
        for pool in pools
    )


class _Examiner:
    """Examines one endpoint, over a connection for each of its keys."""

    def __init__(self, pool: ResolvedPool, endpoint: ResolvedEndpoint, timeout_seconds: float) -> None:
        self._pool, self._endpoint, self._timeout_seconds = pool, endpoint, timeout_seconds

    async def report(self) -> EndpointReport:
        name, shown = self._endpoint.name, self._endpoint.accesses[0].shown
        async with AsyncExitStack() as connections:
            asked = [
                await connections.enter_async_context(DirectEndpoint(name, access, self._timeout_seconds))
                for access in self._endpoint.accesses
            ]
            chains = [await _answer(one, "eth_chainId") for one in asked]
            working = [one for one, chain in zip(asked, chains, strict=True) if isinstance(chain, int)]
            if not working:
                return EndpointReport(name, shown, problem=str(chains[0]))
            notes = tuple(_bad_keys(self._endpoint, chains))
            first = next(chain for chain in chains if isinstance(chain, int))
            wrong = next(
                (chain for chain in chains if isinstance(chain, int) and chain != self._chain_id), None
            )
            if wrong is not None:
                problem = f"it serves chain {wrong}, but the pool is of chain {self._chain_id}"
                return EndpointReport(name, shown, problem=problem, chain_id=wrong, notes=notes)
            try:
                return await self._examined(working[0], EndpointReport(name, shown, None, first, notes=notes))
            except RpcError as error:
                return EndpointReport(name, shown, problem=str(error), chain_id=first, notes=notes)

    @property
    def _chain_id(self) -> int:
        return self._pool.config.chain_id

    async def _examined(self, endpoint: DirectEndpoint, report: EndpointReport) -> EndpointReport:
        latency = await _latency(endpoint)
        age = await _block_age(endpoint)
        found = await examine(endpoint.ask, ask_batch=endpoint.ask_batch)
        said = self._endpoint.config.capabilities.model_dump(exclude_none=True)
        return EndpointReport(
            name=report.name,
            shown=report.shown,
            chain_id=report.chain_id,
            head=found.head,
            block_age_seconds=age,
            latency_seconds=latency,
            capabilities=found.capabilities.model_copy(update=said),
            denied={name: why for name, why in found.denied.items() if name not in said},
            unknown={name: why for name, why in found.unknown.items() if name not in said},
            notes=(*report.notes, *_clock(age), *_contradictions(said, found)),
        )


async def _answer(endpoint: DirectEndpoint, method: str) -> int | RpcError:
    try:
        return as_int(await endpoint.ask(method))
    except RpcError as error:
        return error
    except ValueError:
        return GarbledReply(f"{method} was answered with no hex number")


def _bad_keys(endpoint: ResolvedEndpoint, chains: Sequence[int | RpcError]) -> Iterator[str]:
    for reference, chain in zip(endpoint.config.keys, chains, strict=False):
        if not isinstance(chain, int):
            yield f"key {reference} does not work: {chain}"


async def _latency(endpoint: DirectEndpoint) -> float:
    seconds = []
    for _ in range(_LATENCY_SAMPLES):
        started = time.monotonic()
        await endpoint.ask("eth_chainId")
        seconds.append(time.monotonic() - started)
    return median(seconds)


async def _block_age(endpoint: DirectEndpoint) -> float:
    block = await endpoint.ask("eth_getBlockByNumber", ["latest", False])
    try:
        return time.time() - as_int(block["timestamp"])
    except (KeyError, TypeError, ValueError):
        pass
    raise GarbledReply("eth_getBlockByNumber was answered with no block that has a timestamp")


def _clock(age_seconds: float) -> Iterator[str]:
    if age_seconds < -_MOST_CLOCK_AHEAD_SECONDS:
        yield f"its last block is {-age_seconds:.0f} s ahead of this machine's clock; check the clock here"
    elif age_seconds > _STALE_SECONDS:
        yield f"its last block is {age_seconds:.0f} s old: the chain or the endpoint stands still"


def _contradictions(said: dict[str, Any], found: Examination) -> Iterator[str]:
    for name, value in said.items():
        seen = getattr(found.capabilities, name)
        if name in found.denied and value is True:
            yield f"the configuration says {name}: true, but {found.denied[name]}"
        elif seen is True and value is False:
            yield f"the configuration says {name}: false, but it works"
        elif name == "log_range" and seen is not None and value > seen and name in found.denied:
            yield f"the configuration says log_range: {value}, but {found.denied[name]}"
        elif name == "batch" and seen is not None and value > seen:
            yield f"the configuration says batch: {value}, but only {seen} were taken"


def _compared(pool: PoolReport) -> PoolReport:
    """Note which endpoints are far behind the others."""
    head = pool.head

    def noted(endpoint: EndpointReport) -> EndpointReport:
        behind = head - endpoint.head if head is not None and endpoint.head is not None else 0
        if behind < _LAGS_BLOCKS:
            return endpoint
        note = f"it is {behind} blocks behind the highest head of the pool"
        return replace(endpoint, notes=(*endpoint.notes, note))

    return PoolReport(pool.name, pool.chain_id, tuple(noted(endpoint) for endpoint in pool.endpoints))
