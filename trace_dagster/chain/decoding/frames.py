"""Trees of call frames, as the callTracer gives them, laid out in rows."""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["call_frames"]


def call_frames(result: Any) -> Any:
    """Return the frames of a block in the order in which they began, each with its place.

    Args:
        result: of ``debug_traceBlockByNumber`` with the callTracer: for each transaction ``{"txHash": ...,
            "result": frame}``; a frame's inner ones are its ``calls``.

    Returns:
        one object a frame, with ``transactionIndex``, ``transactionHash`` and ``traceAddress`` (steps joined
        by ``_``) added. What is not of this form is returned as it is, for the layout to refuse.
    """
    if not isinstance(result, list):
        return result
    rows: list[Any] = []
    for index, transaction in enumerate(result):
        if not isinstance(transaction, dict):
            return result
        outermost = transaction.get("result")
        place = {"transactionIndex": index, "transactionHash": transaction.get("txHash")}
        if not isinstance(outermost, dict):
            # The tracer gave up on this one: no row, so that the count is wrong, and is seen.
            continue
        rows += [{**frame, **place, "traceAddress": path} for path, frame in _below(outermost)]
    return rows


def _below(outermost: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a frame and all inside of it, each before those that it made; not recursive, they may be deep."""
    waiting: list[tuple[str, Any]] = [("", outermost)]
    while waiting:
        path, frame = waiting.pop()
        if not isinstance(frame, dict):
            frame = {"calls": None}
        yield path, frame
        inner = frame.get("calls")
        if isinstance(inner, list):
            steps = [(f"{path}_{at}" if path else str(at), one) for at, one in enumerate(inner)]
            waiting += reversed(steps)
