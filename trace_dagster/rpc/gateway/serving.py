"""What a job asks of a pool, and whether the pool can give it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from trace_dagster.chain.datasets import listed
from trace_dagster.chain.needs import Need, needs_of
from trace_dagster.rpc.gateway.doctor import EndpointReport, PoolReport
from trace_dagster.suggest import nearest

__all__ = ["JobNeeds", "Verdict", "judge", "ways_of_cryo", "ways_of_native"]

Way = frozenset[str]
"""Capabilities that together are enough: ``archive``, ``traces``, ``debug``, ``logs``."""

_RECENT_BLOCKS: Final = 128
"""So many blocks geth keeps the state of, without an archive."""
_FEW_BLOCKS_OF_LOGS: Final = 100

_METHODS: Final[Mapping[str, str]] = {
    "archive": "state of old blocks",
    "traces": "trace_*",
    "debug": "debug_trace*",
    "logs": "eth_getLogs",
}
_CRYO_TRACES: Final = frozenset({
    "address_appearances", "balance_diffs", "code_diffs", "contracts", "native_transfers", "nonce_diffs",
    "storage_diffs", "trace_calls", "traces", "vm_traces",
})  # fmt: skip
_CRYO_DEBUG: Final = frozenset({
    "balance_reads", "code_reads", "four_byte_counts", "geth_balance_diffs", "geth_calls", "geth_code_diffs",
    "geth_nonce_diffs", "geth_opcodes", "geth_storage_diffs", "javascript_traces", "nonce_reads",
    "storage_reads",
})  # fmt: skip
_CRYO_STATE: Final = frozenset({
    "balances", "codes", "erc20_balances", "erc20_metadata", "erc20_supplies", "erc721_metadata", "eth_calls",
    "nonces", "slots",
})  # fmt: skip
_CRYO_LOGS: Final = frozenset({"address_appearances", "erc20_transfers", "erc721_transfers", "logs"})
_OF_RECEIPTS: Final = frozenset({"logs", "receipts", "transactions"})


@dataclass(frozen=True)
class JobNeeds:
    """What one job asks of its pool.

    Attributes:
        dag: the DAG's name.
        job: the job's name.
        pool: the pool's name.
        chain_id: of the job.
        datasets: dataset to the ways in which it can be had; without any: any endpoint will do.
        first_block: the oldest block that it asks for; None where that is not known before it runs.
        follows: whether it only ever asks for blocks near the head.
    """

    dag: str
    job: str
    pool: str
    chain_id: int
    datasets: Mapping[str, tuple[Way, ...]] = field(default_factory=dict)
    first_block: int | None = None
    follows: bool = False


@dataclass(frozen=True)
class Verdict:
    """Whether a pool can serve a job.

    Attributes:
        needs: what was asked.
        reasons: why not; none: it can.
        notes: what will be slow, or hangs on one endpoint.
    """

    needs: JobNeeds
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()


def ways_of_native(dataset: str) -> tuple[Way, ...]:
    """Return the ways in which the engine ``native`` can have ``dataset``."""
    needs = needs_of(dataset)
    if Need.FRAMES in needs:
        return (frozenset({"debug"}),)
    if Need.TRACES in needs:
        return (frozenset({"traces"}), frozenset({"debug"}))
    return ()


def ways_of_cryo(dataset: str) -> tuple[Way, ...]:
    """Return the one way in which Cryo has ``dataset``."""
    kinds = {"traces": _CRYO_TRACES, "debug": _CRYO_DEBUG, "archive": _CRYO_STATE, "logs": _CRYO_LOGS}
    way = frozenset(kind for kind, datasets in kinds.items() if dataset in datasets)
    return (way,) if way else ()


def judge(needs: JobNeeds, pools: Mapping[str, PoolReport]) -> Verdict:
    """Return whether the job's pool can serve it, and why not."""
    pool = pools.get(needs.pool)
    if pool is None:
        return Verdict(needs, (f"there is no pool {needs.pool!r}; {nearest(needs.pool, pools)}",))
    if pool.chain_id != needs.chain_id:
        reason = f"pool {pool.name} is of chain {pool.chain_id}, the job of chain {needs.chain_id}"
        return Verdict(needs, (f"{reason}; mend the job's rpc_pool or its chain_id",))
    if not pool.usable:
        failures = "; ".join(f"{one.name}: {one.problem}" for one in pool.endpoints)
        return Verdict(needs, (f"no endpoint of pool {pool.name} can be used: {failures}",))
    return Verdict(needs, tuple(_reasons(needs, pool)), tuple(_notes(needs, pool)))


def _reasons(needs: JobNeeds, pool: PoolReport) -> Iterator[str]:
    old = _asks_for_old_blocks(needs, pool)
    together: dict[tuple[Way, ...], list[str]] = {}
    for dataset, ways in needs.datasets.items():
        together.setdefault(tuple(_with_state(way, old=old) for way in ways), []).append(dataset)
    for ways, datasets in together.items():
        if not ways or any(_can(pool, way) for way in ways):
            continue
        wanted = ", or ".join(" and ".join(_METHODS[one] for one in sorted(way)) for way in ways)
        named = sorted(frozenset().union(*ways))
        lacking = "; ".join(f"{one.name} {_lacks(one, named)}" for one in pool.usable)
        yield f"{listed(datasets)} needs {wanted}, which no endpoint of pool {pool.name} has: {lacking}"


def _asks_for_old_blocks(needs: JobNeeds, pool: PoolReport) -> bool:
    if needs.follows:
        return False
    return needs.first_block is None or pool.head is None or needs.first_block <= pool.head - _RECENT_BLOCKS


def _with_state(way: Way, *, old: bool) -> Way:
    """Return a way with what tracing takes: the state of the blocks that are traced."""
    if not old:
        return way - {"archive"}
    return way | {"archive"} if way & {"traces", "debug"} else way


def _can(pool: PoolReport, way: Way) -> bool:
    """Whether the pool has all of a way: tracing and its state at one endpoint, logs at any."""
    if "logs" in way and not any(_has(endpoint, frozenset({"logs"})) for endpoint in pool.usable):
        return False
    return any(_has(endpoint, way - {"logs"}) for endpoint in pool.usable)


def _has(endpoint: EndpointReport, way: Way) -> bool:
    return all(_capability(endpoint, one) is True for one in way)


def _capability(endpoint: EndpointReport, name: str) -> bool | None:
    if name == "logs":
        if endpoint.capabilities.log_range is None and "log_range" in endpoint.denied:
            return False
        return None if "log_range" in endpoint.unknown else True
    found: bool | None = getattr(endpoint.capabilities, name)
    return found


def _lacks(endpoint: EndpointReport, names: list[str]) -> str:
    """Return what an endpoint lacks, in its own words where there are any."""
    told = []
    for name in names:
        key = "log_range" if name == "logs" else name
        match _capability(endpoint, name):
            case False:
                why = f" ({endpoint.denied[key]})" if key in endpoint.denied else ""
                told.append(f"has no {_METHODS[name]}{why}")
            case None:
                told.append(
                    f"may have {_METHODS[name]}, not found out: {endpoint.unknown.get(key, 'not asked')}"
                )
    return ", ".join(told)


def _notes(needs: JobNeeds, pool: PoolReport) -> Iterator[str]:
    receipts = sorted(_OF_RECEIPTS & needs.datasets.keys())
    if receipts and not any(endpoint.capabilities.receipts for endpoint in pool.usable):
        yield (
            f"{listed(receipts)}: no endpoint of pool {pool.name} is known to have eth_getBlockReceipts; "
            "receipts are asked for one transaction at a time, which takes many more requests"
        )
    logs = sorted(_CRYO_LOGS & needs.datasets.keys())
    ranges = [endpoint.capabilities.log_range for endpoint in pool.usable]
    longest = None if None in ranges else max((one for one in ranges if one is not None), default=None)
    if logs and longest is not None and longest < _FEW_BLOCKS_OF_LOGS:
        yield f"{listed(logs)}: pool {pool.name} gives logs of at most {longest} blocks at once"
    unusable = [endpoint for endpoint in pool.endpoints if endpoint.problem is not None]
    if unusable:
        yield f"pool {pool.name} works without {listed(endpoint.name for endpoint in unusable)}"
