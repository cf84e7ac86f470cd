"""eth_getLogs of more blocks than a provider gives at once: parts, and their logs joined in order."""

from collections.abc import Iterator, Sequence
from typing import Final

from trace_dagster.rpc.gateway.endpoint import Endpoint
from trace_dagster.rpc.gateway.jsonrpc import Answer, Call, is_null
from trace_dagster.rpc.gateway.routing import LogRange

__all__ = ["joined", "part_size", "parts_of", "up_to_head"]

# Blocks may have come since a head was looked at.
_ABOVE_HEAD: Final = 256


def part_size(logs: LogRange, endpoints: Sequence[Endpoint]) -> int:
    """Return how many blocks a part of a range has: as many as a known limit allows, else half of them."""
    known = max((one.log_range for one in endpoints if one.log_range is not None), default=logs.width)
    return known if known < logs.width else -(-logs.width // 2)


def up_to_head(logs: LogRange, head: int | None) -> LogRange:
    """Return the range without the blocks far above ``head``, which have no logs; at least one is left."""
    if head is None or logs.last <= head + _ABOVE_HEAD:
        return logs
    return LogRange(logs.first, max(logs.first, head + _ABOVE_HEAD), logs.rest)


def parts_of(logs: LogRange, size: int) -> Iterator[Call]:
    """Return the requests for parts of a range, in order, each of at most ``size`` blocks."""
    for first in range(logs.first, logs.last + 1, size):
        yield logs.part(first, min(first + size - 1, logs.last))


def joined(answers: Sequence[Answer | None]) -> Answer | None:
    """Return the logs of all parts in order, or the first answer among them that is an error or null."""
    lists = []
    for answer in answers:
        if answer is None or answer.result is None or is_null(answer):
            return answer
        inner = bytes(answer.result).strip()[1:-1].strip()
        if inner:
            lists.append(inner)
    return Answer(result=b"[" + b",".join(lists) + b"]")
