"""Sending requests with a key, and what is remembered of how that went."""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from trace_dagster.rpc.gateway.endpoint import Endpoint
from trace_dagster.rpc.gateway.exchange import Upstream
from trace_dagster.rpc.gateway.faults import BatchTooLarge, Fault, FaultKind, kind_of_error
from trace_dagster.rpc.gateway.jsonrpc import (
    Answer,
    Call,
    ErrorObject,
    call_body,
    parse_replies,
    read_error,
)
from trace_dagster.rpc.gateway.metrics import Metrics
from trace_dagster.rpc.gateway.records import GATEWAY, Usage
from trace_dagster.rpc.gateway.replies import NoRoom
from trace_dagster.rpc.gateway.routing import block_number
from trace_dagster.rpc.gateway.turns import Busy, Lease, Turns
from trace_dagster.rpc.secrets import scrub

__all__ = ["Sender", "told_number", "told_text"]

_ASKED_TIMES: Final = 6
_ASK_SECONDS: Final = 10.0
_FIRST_WAIT_SECONDS: Final = 0.02
# Of an exchange, where another endpoint may be asked instead.
_PATIENCE_SECONDS: Final = 1.0
_TOLD_CHARACTERS: Final = 200
# Nobody has a reason to refuse these in particular.
_OF_ALL: Final = frozenset({"eth_blockNumber", "eth_chainId"})
# With these errors, no request and no JSON, providers refuse a batch as such.
_NOT_UNDERSTOOD: Final = frozenset({-32600, -32700})


class Sender:
    """Sends to the endpoints of one pool.

    Args:
        pool: its name.
        upstream: connections.
        turns: who may send next.
        metrics: where it is counted.
    """

    def __init__(self, pool: str, upstream: Upstream, turns: Turns, metrics: Metrics) -> None:
        self.pool, self.turns = pool, turns
        self._upstream, self._metrics = upstream, metrics

    async def send(
        self, lease: Lease, calls: Sequence[Call], usage: Usage, timeout_seconds: float
    ) -> list[Answer | None]:
        """Return the answers to ``calls``, errors among them, and give ``lease`` back.

        Answers that are missing in a batch are None.

        Raises:
            Fault: the exchange failed, or shows another chain; key or endpoint have been told.
            BatchTooLarge: the endpoint takes fewer at once; it has been told.
            NoRoom: too many bytes of replies are held already.
        """
        answers = await self._exchange(lease, calls, usage, timeout_seconds)
        _look_at_chain(lease.key.endpoint, calls, answers)
        return answers

    async def _exchange(
        self, lease: Lease, calls: Sequence[Call], usage: Usage, timeout_seconds: float
    ) -> list[Answer | None]:
        key = lease.key
        endpoint = key.endpoint
        begun = asyncio.get_running_loop().time()
        usage.requests += len(calls)
        usage.credits += sum(endpoint.cost(call.method) for call in calls)
        usage.endpoints.add(endpoint.name)
        seconds = None
        reply = b""
        try:
            body = call_body(calls)
            reply = await self._upstream.exchange(
                key, body, items=len(calls), timeout_seconds=timeout_seconds, held=usage.held
            )
            answers = self._read(reply, calls, endpoint)
            seconds = asyncio.get_running_loop().time() - begun
            limited = [one for one in map(_rate_limit, calls, answers) if one is not None]
            if len(limited) < len(calls):
                key.succeeded(seconds)
            if limited:
                key.failed(Fault(FaultKind.RATE_LIMITED, _told(limited[0], endpoint)), begun + seconds)
            endpoint.takes_batch_of(len(calls))
        except Fault as fault:
            if usage.held is not None:
                usage.held.drop(reply)
            self.count(endpoint, fault.kind)
            if fault.kind is FaultKind.INTERNAL and len(calls) > 1:
                key.failed_batch(fault, len(calls))
            else:
                fault.is_of_key |= _OF_ALL.issuperset(call.method for call in calls)
                key.failed(fault, asyncio.get_running_loop().time())
            if fault.kind is FaultKind.REFUSED and not fault.is_of_key:
                endpoint.doubt()  # it is asked for its chain, which is refused only where all is
            raise
        except BatchTooLarge:
            endpoint.refuses_batch_of(len(calls))
            raise
        finally:
            self._metrics.asked(self.pool, endpoint.name, len(calls), seconds)
            self.turns.release(lease)
        return answers

    async def ask(
        self,
        endpoints: Sequence[Endpoint],
        calls: Sequence[Call],
        usage: Usage | None = None,
        *,
        times: int = _ASKED_TIMES,
        seconds: float = _ASK_SECONDS,
    ) -> tuple[list[Answer | None], set[Endpoint]]:
        """Return what any of ``endpoints`` answers, for the gateway's own sake, and who was asked.

        An answer is None where none came, although ``times`` exchanges were tried for ``seconds``.

        Args:
            endpoints: any of them will do.
            calls: what is asked.
            usage: of the caller for whom it is asked; None: it is counted as the gateway's.
            times: most exchanges that may fail.
            seconds: for all of it.
        """
        if usage is not None:
            return await self._ask(endpoints, calls, usage, times, seconds)
        own = Usage()
        try:
            return await self._ask(endpoints, calls, own, times, seconds)
        finally:
            self._metrics.spent(self.pool, GATEWAY, own)

    async def _ask(
        self,
        endpoints: Sequence[Endpoint],
        calls: Sequence[Call],
        usage: Usage,
        times: int,
        seconds: float,
    ) -> tuple[list[Answer | None], set[Endpoint]]:
        found: list[Answer | None] = []
        asked: set[Endpoint] = set()
        failures = 0
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while len(found) < len(calls) and failures < times:
            rest = calls[len(found) :]
            try:
                lease = await self.turns.take(
                    endpoints,
                    [call.method for call in rest],
                    caller=GATEWAY.name,
                    priority=GATEWAY.priority,
                    until=until,
                )
                asked.add(lease.key.endpoint)
                left_seconds = max(0.05, until - loop.time())
                if len(endpoints) > 1:  # one that hangs does not take the time of the others
                    left_seconds = min(left_seconds, _PATIENCE_SECONDS)
                found += await self._exchange(lease, rest[: lease.count], usage, left_seconds)
            except (Busy, NoRoom):
                break
            except BatchTooLarge:
                failures += 1
            except Fault as fault:
                failures += 1
                if fault.kind is FaultKind.TIMEOUT and len(endpoints) > 1:
                    endpoints = [one for one in endpoints if one is not lease.key.endpoint]
                endpoints = [one for one in endpoints if one.is_up(loop.time()) or not one.chain_checked]
                if not endpoints:
                    break
                await asyncio.sleep(_FIRST_WAIT_SECONDS * 2**failures)
        return found + [None] * (len(calls) - len(found)), asked

    def count(self, endpoint: Endpoint, kind: FaultKind) -> None:
        """Count what an endpoint did wrong."""
        self._metrics.fault(self.pool, endpoint.name, kind)

    def _read(self, reply: bytes, calls: Sequence[Call], endpoint: Endpoint) -> list[Answer | None]:
        try:
            answers = parse_replies(reply, len(calls))
        except ValueError as error:
            raise Fault(FaultKind.GARBLED, str(error)) from None
        if isinstance(answers, ErrorObject):
            raise _refusal(answers, calls, endpoint)
        if any(one is None for one in answers):
            self.count(endpoint, FaultKind.GARBLED)
        return answers


def _told(error: ErrorObject, endpoint: Endpoint) -> str:
    return scrub(error.message, endpoint.secrets, _TOLD_CHARACTERS)


def _rate_limit(call: Call, answer: Answer | None) -> ErrorObject | None:
    """Return the error that an answer is, where it asks for fewer requests."""
    if answer is None or answer.error is None:
        return None
    error = read_error(answer.error)
    return error if kind_of_error(call.method, error, call.params) is FaultKind.RATE_LIMITED else None


def _look_at_chain(endpoint: Endpoint, calls: Sequence[Call], answers: Sequence[Answer | None]) -> None:
    """Compare what ``endpoint`` told a caller of its chain with what it was found to serve.

    Raises:
        Fault: it is another one.
    """
    for call, answer in zip(calls, answers, strict=True):
        if call.method == "eth_chainId":
            number = told_number(answer)
            if number is not None and not endpoint.said_chain(number):
                raise Fault(FaultKind.WRONG_CHAIN, endpoint.reason)
        elif call.method == "net_version":
            network = told_text(answer)
            if network is not None:
                endpoint.said_network(network)


def told_number(answer: Answer | None) -> int | None:
    """Return the number that an answer is, as JSON-RPC writes them; None where it is none."""
    return block_number(told_text(answer))


def told_text(answer: Answer | None) -> str | None:
    """Return the text that an answer is; None where it is none."""
    if answer is None or answer.result is None:
        return None
    try:
        return msgspec.json.decode(answer.result, type=str)
    except msgspec.DecodeError:
        return None


def _refusal(error: ErrorObject, calls: Sequence[Call], endpoint: Endpoint) -> Fault | BatchTooLarge:
    """Return what one error in place of the answers to ``calls`` means."""
    kind = kind_of_error("", error, b"[%b]" % b",".join(call.params for call in calls))
    if kind is FaultKind.ERROR and error.code not in _NOT_UNDERSTOOD and "batch" not in error.message.lower():
        kind = FaultKind.INTERNAL
    if isinstance(kind, FaultKind) and kind not in (FaultKind.ERROR, FaultKind.UNSUPPORTED):
        return Fault(kind, _told(error, endpoint))
    if len(calls) == 1:
        return Fault(FaultKind.GARBLED, "an error with another request's id")
    return BatchTooLarge()
