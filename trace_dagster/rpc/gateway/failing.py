"""What callers are told where no answer was to be had."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from trace_dagster.rpc.gateway.endpoint import Endpoint
from trace_dagster.rpc.gateway.jsonrpc import Answer, ErrorObject, error_answer
from trace_dagster.rpc.gateway.records import MAX_PARTS, Work
from trace_dagster.rpc.gateway.replies import NoRoom
from trace_dagster.rpc.gateway.turns import Busy

__all__ = [
    "LIMIT_EXCEEDED",
    "UNAVAILABLE",
    "UNSUPPORTED",
    "all_failed",
    "busy",
    "no_room",
    "too_late",
    "too_wide",
    "unsupported",
]

LIMIT_EXCEEDED: Final = -32005
"""EIP-1474."""
UNAVAILABLE: Final = -32002
"""EIP-1474: resource unavailable."""

UNSUPPORTED: Final = -32601
"""JSON-RPC 2.0's "method not found": clients that can do without it go on without it."""


class _Pool(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def endpoints(self) -> Sequence[Endpoint]: ...


def busy(pool: _Pool, error: Busy) -> Answer:
    """Return that no turn came."""
    message = f"pool {pool.name}: {error}"
    return error_answer(ErrorObject(LIMIT_EXCEEDED, message), 429, error.retry_after_seconds)


def no_room(pool: _Pool, error: NoRoom) -> Answer:
    """Return that there is no room for a reply."""
    return error_answer(ErrorObject(UNAVAILABLE, f"pool {pool.name}: {error}"), 503, 1)


def unsupported(pool: _Pool, work: Work) -> Answer:
    """Return that no endpoint has the method."""
    message = f"the method {work.call.method} is not available: no endpoint of pool {pool.name} has it"
    return error_answer(ErrorObject(UNSUPPORTED, message))


def all_failed(pool: _Pool, work: Work) -> Answer:
    """Return that no endpoint answered, and how each failed."""
    message = f"pool {pool.name}: no endpoint answered {work.call.method}: {_each(pool, work.nulls, work)}"
    return error_answer(ErrorObject(UNAVAILABLE, message), 503, 1)


def too_late(pool: _Pool, nulls: Collection[Endpoint]) -> Answer:
    """Return that the deadline passed."""
    message = f"pool {pool.name}: no answer within limits.deadline_seconds: {_each(pool, nulls)}"
    return error_answer(ErrorObject(UNAVAILABLE, message), 503, 1)


def too_wide(pool: _Pool, blocks: int, size: int) -> Answer:
    """Return that logs of so many blocks take too many requests of ``size`` blocks each."""
    message = (
        f"pool {pool.name}: the block range is too wide: logs of {blocks} blocks take more than {MAX_PARTS}"
        f" requests, for the endpoints give at most {size} blocks at once; ask for fewer blocks"
    )
    return error_answer(ErrorObject(LIMIT_EXCEEDED, message))


def _each(pool: _Pool, nulls: Collection[Endpoint], work: Work | None = None) -> str:
    now = asyncio.get_running_loop().time()
    why_not = "not asked: it lags, or was outvoted about the block"
    if work is not None and not work.route.repeatable:
        why_not = "not asked: what may change something is sent once"
    return "; ".join(f"{one.name}: {_how(one, one in nulls, now, why_not)}" for one in pool.endpoints)


def _how(endpoint: Endpoint, said_null: bool, now: float, why_not: str) -> str:
    if said_null:
        return "answered null"
    state = "" if endpoint.is_up(now) else "out of rotation, "
    return state + (endpoint.why_down() or why_not)
