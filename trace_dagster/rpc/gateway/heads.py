"""Where the endpoints of a pool are: their chain, and the newest block of each."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from trace_dagster.rpc.gateway.endpoint import Endpoint
from trace_dagster.rpc.gateway.faults import FaultKind
from trace_dagster.rpc.gateway.jsonrpc import Answer, Call
from trace_dagster.rpc.gateway.sending import Sender, told_number

__all__ = ["ANY_CHAIN", "Heads"]

ANY_CHAIN: Final = 0
"""In the place of a chain id: whichever the first endpoint that answers serves."""

_CHAIN_ID: Final = Call("eth_chainId", b"[]")
_BLOCK_NUMBER: Final = Call("eth_blockNumber", b"[]")
_FRESH_SECONDS: Final = 0.25
_LONGEST_POLL_SECONDS: Final = 2.0
# An endpoint that takes longer keeps no request waiting.
_REFRESH_SECONDS: Final = 0.3
_ASKED_WITHIN_SECONDS: Final = 10.0
_FIRST_RECHECK_SECONDS: Final = 0.5
_LONGEST_RECHECK_SECONDS: Final = 30.0
_CHECKED_TIMES: Final = 3
_CHECK_SECONDS: Final = 4.0
_MOST_OF_LIMIT: Final = 0.1
_STALE_SECONDS: Final = 30.0
# A head so far above all others is rather a fault than news, unless the chain could be there by now.
_MOST_AHEAD: Final = 256
_MOST_PER_SECOND: Final = 20.0

_logger = logging.getLogger(__name__)


class Heads:
    """Looks at the endpoints of one pool while it is asked.

    Args:
        endpoints: all of them.
        chain_id: what each must serve, or ``ANY_CHAIN``.
        sender: how they are asked.
    """

    def __init__(self, endpoints: Sequence[Endpoint], chain_id: int, sender: Sender) -> None:
        self._endpoints, self._chain_id, self._sender = endpoints, chain_id, sender
        self._refreshing: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._asked_at = float("-inf")
        self._refreshed_at = self._known_since = float("-inf")
        self._agreed: int | None = None
        self._far_ahead: set[Endpoint] = set()
        self._sound: dict[Endpoint, tuple[int, float]] = {}
        self._woken, self._doubted = asyncio.Event(), asyncio.Event()
        for endpoint in endpoints:
            endpoint.doubted = self._doubted

    async def start(self, timeout_seconds: float) -> None:
        """Check every endpoint's chain, waiting at most so long, and go on in the background."""
        self._tasks.append(asyncio.create_task(self._check_on()))
        if len(self._endpoints) > 1:
            self._tasks.append(asyncio.create_task(self._poll()))
        await asyncio.wait([self._check()], timeout=timeout_seconds)

    def trust(self, endpoint: Endpoint, chain: int) -> None:
        """Use an endpoint that served a chain before a reload; it is asked again all the same."""
        if self._chain_id == ANY_CHAIN:
            self._chain_id = chain
        if chain == self._chain_id:
            endpoint.chain, endpoint.chain_checked, endpoint.reason = chain, True, ""

    async def close(self) -> None:
        """Stop looking."""
        tasks = [*self._tasks, *filter(None, (self._refreshing, self._checking))]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def head(self) -> int | None:
        """The highest block that an endpoint in rotation has; None where none is known."""
        heads = self._plausible()
        return heads[-1] if heads else None

    @property
    def agreed(self) -> int | None:
        """The highest block that two endpoints have, or the only one; None where none is known.

        What is final is counted from here: one endpoint's word does not make a block final. While only one of
        several endpoints is known, this stays where it was.
        """
        heads = self._plausible()
        if len(heads) > 1:
            return heads[-2]
        if not heads or len(self._endpoints) == 1:
            return heads[-1] if heads else None
        return None if self._agreed is None else min(self._agreed, heads[-1])

    def _plausible(self) -> list[int]:
        """Return the heads of all endpoints in rotation but those far above the others, in order."""
        return sorted(one.head for one in self._known() if one.head is not None)

    def _known(self, *, but: Endpoint | None = None) -> list[Endpoint]:
        now = asyncio.get_running_loop().time()
        return [
            one
            for one in self._endpoints
            if one is not but
            and one.head is not None
            and one.is_up(now)
            and now - one.head_at < _STALE_SECONDS
            and one not in self._far_ahead
        ]

    def asked(self) -> None:
        """Note that someone asks the pool, so that heads are looked at."""
        self._asked_at = asyncio.get_running_loop().time()
        self._woken.set()

    async def refresh(self) -> None:
        """Ask every endpoint for its head, unless that was done just now."""
        now = asyncio.get_running_loop().time()
        if self._refreshing is None or self._refreshing.done():
            if now - self._refreshed_at < _FRESH_SECONDS:
                return
            self._refreshed_at = now
            self._refreshing = asyncio.create_task(self._refresh())
        await asyncio.wait((self._refreshing,), timeout=_REFRESH_SECONDS)

    def known_since(self, moment: float) -> bool:
        """Whether every endpoint that is due was asked for its head after ``moment``, and has answered."""
        return self._known_since >= moment

    async def checked(self) -> None:
        """Wait for the check of chains under way, or make one."""
        await asyncio.shield(self._check())

    def _check(self) -> "asyncio.Task[None]":
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check_all())
        return self._checking

    async def _check_all(self) -> None:
        await asyncio.gather(*(self._check_one(one) for one in self._endpoints if one.is_doubted))

    async def _check_one(self, endpoint: Endpoint) -> None:
        (chain, head), _ = await self._sender.ask(
            (endpoint,), [_CHAIN_ID, _BLOCK_NUMBER], times=_CHECKED_TIMES, seconds=_CHECK_SECONDS
        )
        found = told_number(chain)
        if found is None:
            if endpoint.chain_checked:
                return
            reasons = sorted({key.reason for key in endpoint.keys if key.reason})
            endpoint.reason = "; ".join(reasons) or "did not answer eth_chainId"
            return
        endpoint.chain = found
        if self._chain_id == ANY_CHAIN:
            self._chain_id = found
        if found != self._chain_id:
            if not endpoint.reason.startswith(FaultKind.WRONG_CHAIN):
                self._sender.count(endpoint, FaultKind.WRONG_CHAIN)
                _logger.error(
                    "endpoint %s of pool %s serves chain %d, not %d; it is not used",
                    endpoint.name,
                    self._sender.pool,
                    found,
                    self._chain_id,
                )
            endpoint.chain_checked, endpoint.is_doubted = False, True
            endpoint.reason = f"{FaultKind.WRONG_CHAIN}: serves chain {found}, not {self._chain_id}"
            return
        endpoint.chain_checked, endpoint.is_doubted, endpoint.reason = True, False, ""
        self._heard(endpoint, head)

    async def _check_on(self) -> None:
        wait_seconds = _FIRST_RECHECK_SECONDS
        await asyncio.shield(self._check())
        waiting = [
            one
            for one in self._endpoints
            if not one.chain_checked and not one.reason.startswith(FaultKind.WRONG_CHAIN)
        ]
        for one in waiting:
            _logger.warning(
                "endpoint %s of pool %s is not used yet, and asked again: %s",
                one.name,
                self._sender.pool,
                one.reason,
            )
        while True:
            wait_seconds = await self._doubt(wait_seconds)
            await asyncio.shield(self._check())
            for one in [one for one in waiting if one.chain_checked]:
                waiting.remove(one)
                _logger.warning("endpoint %s of pool %s answers now", one.name, self._sender.pool)

    async def _doubt(self, wait_seconds: float) -> float:
        """Wait until an endpoint is to be checked, or to be checked again; return how long to wait next."""
        again = any(one.is_doubted for one in self._endpoints)
        try:
            async with asyncio.timeout(wait_seconds if again else None):
                await self._doubted.wait()
        except TimeoutError:
            return min(2 * wait_seconds, _LONGEST_RECHECK_SECONDS)
        finally:
            self._doubted.clear()
        return _FIRST_RECHECK_SECONDS

    async def _refresh(self) -> None:
        now = asyncio.get_running_loop().time()
        due = [
            one
            for one in self._endpoints
            if one.is_up(now) and not one.is_paused(now) and now - one.head_at >= _least_seconds_between(one)
        ]
        await asyncio.gather(*(self._refresh_one(one) for one in due))
        self._known_since = now

    async def _refresh_one(self, endpoint: Endpoint) -> None:
        (answer,), _ = await self._sender.ask((endpoint,), [_BLOCK_NUMBER])
        self._heard(endpoint, answer)

    def _heard(self, endpoint: Endpoint, answer: Answer | None) -> None:
        number = told_number(answer)
        if number is not None:
            self.heard(endpoint, number)

    def heard(self, endpoint: Endpoint, number: int) -> None:
        """Note an endpoint's newest block."""
        now = asyncio.get_running_loop().time()
        is_plausible = self._is_plausible(endpoint, number, now)
        endpoint.heard_head(number, now)
        if is_plausible:
            self._far_ahead.discard(endpoint)
            self._sound[endpoint] = number, now
            heads = self._plausible()
            if len(heads) > 1:
                self._agreed = heads[-2]
            return
        self._sender.count(endpoint, FaultKind.AHEAD)
        if endpoint not in self._far_ahead:
            self._far_ahead.add(endpoint)
            _logger.error(
                "endpoint %s of pool %s says that its newest block is %d, far above all others (%d);"
                " it is not asked for new blocks",
                endpoint.name,
                self._sender.pool,
                number,
                max(one.head or 0 for one in self._known(but=endpoint)),
            )

    def _is_plausible(self, endpoint: Endpoint, number: int, now: float) -> bool:
        """Whether a head far above all others may be true: the endpoint came there step by step.

        Of one that was not heard before it may where no two others agree.
        """
        others = sorted(one.head for one in self._known(but=endpoint) if one.head is not None)
        if not others or number - others[-1] <= _MOST_AHEAD:
            return True
        if endpoint in self._sound:
            before, moment = self._sound[endpoint]
            return number - before <= _MOST_AHEAD + _MOST_PER_SECOND * (now - moment)
        return len(others) == 1 or others[-1] - others[-2] > _MOST_AHEAD

    async def _poll(self) -> None:
        """Refresh while the pool is asked, the more often the faster the chain is."""
        loop = asyncio.get_running_loop()
        wait_seconds = _FRESH_SECONDS
        while True:
            if loop.time() - self._asked_at > _ASKED_WITHIN_SECONDS:
                self._woken.clear()
                await self._woken.wait()
            before = self.head
            await self.refresh()
            grown = (self.head or 0) - (before or 0)
            wait_seconds = (
                wait_seconds / 2 if grown > 1 else wait_seconds * 1.2 if not grown else wait_seconds
            )
            wait_seconds = min(max(wait_seconds, _FRESH_SECONDS), _LONGEST_POLL_SECONDS)
            await asyncio.sleep(wait_seconds)


def _least_seconds_between(endpoint: Endpoint) -> float:
    """Return how long a head is not asked for again, so that this takes little of what an endpoint allows."""
    per_second = endpoint.config.limits.requests_per_second
    return 0.0 if per_second is None else 1 / (_MOST_OF_LIMIT * per_second * len(endpoint.keys))
