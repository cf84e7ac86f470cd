"""eth_getLogs of more blocks than a provider gives at once: parts, and their logs joined in order."""

from collections.abc import Sequence
from typing import Final

from trace_dagster.rpc.gateway.endpoint import Endpoint
from trace_dagster.rpc.gateway.jsonrpc import Answer, Call
from trace_dagster.rpc.gateway.records import Work

__all__ = ["joined", "parts_of"]

_MAX_PARTS: Final = 256


def parts_of(work: Work, endpoints: Sequence[Endpoint]) -> list[Call]:
    """Return the requests for parts of a range: as long as a known limit allows, else halves."""
    logs = work.route.logs
    if logs is None:
        return [work.call]
    width = logs.width
    known = max((one.log_range for one in endpoints if one.log_range is not None), default=width)
    size = known if known < width else -(-width // 2)
    size = max(size, -(-width // _MAX_PARTS))
    return [
        logs.part(first, min(first + size - 1, logs.last)) for first in range(logs.first, logs.last + 1, size)
    ]


def joined(answers: Sequence[Answer | None]) -> Answer | None:
    """Return the logs of all parts in order, or the first error among them."""
    lists = []
    for answer in answers:
        if answer is None or answer.result is None:
            return answer
        inner = bytes(answer.result).strip()[1:-1].strip()
        if inner:
            lists.append(inner)
    return Answer(result=b"[" + b",".join(lists) + b"]")
