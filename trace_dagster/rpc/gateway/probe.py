"""What an endpoint can do, found out with few requests, and told apart from outages."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trace_dagster.chain.headers import as_int
from trace_dagster.errors import RpcError
from trace_dagster.rpc.client import BatchRefused, Call
from trace_dagster.rpc.failures import GarbledReply, ReplyError, Unreachable
from trace_dagster.rpc.gateway.config import Capabilities

__all__ = ["MOST_BATCH", "MOST_LOG_RANGE", "Ask", "AskBatch", "Examination", "examine", "probe"]

Ask = Callable[[str, Sequence[Any]], Awaitable[Any]]
"""Sends one request: method, parameters -> result.

It raises ``ReplyError`` for a JSON-RPC error, ``Unreachable`` for HTTP's, or another ``RpcError``.
"""

AskBatch = Callable[[Sequence[Call]], Awaitable[Sequence[Any]]]
"""Sends requests in one body, and gives their results; it raises ``BatchRefused`` where that is not taken."""

MOST_LOG_RANGE: Final = 10_000
MOST_BATCH: Final = 100

_LOG_RANGES: Final = (1, 2, 5, 10, 50, 100, 500, 1000, 2000, 5000, MOST_LOG_RANGE)
_BATCHES: Final = (1, 2, 3, 5, 10, 20, 50, MOST_BATCH)
# Far enough behind the head that every backend of a provider has it, near enough that no node has pruned it.
_SETTLED_BLOCKS: Final = 16
_NOBODY: Final = "0x00000000000000000000000000000000000000ff"
_NO_EVENT: Final = "0x" + "f" * 63 + "e"
# Beside the words of ``ReplyError.unsupported`` and ``ReplyError.final``.
_NOT_IN_PLAN: Final = re.compile(r"(?i)\b(upgrade|plan|tier|subscription|add-?on|not authorized|paid)\b")
_NO_STATE: Final = re.compile(
    r"(?i)archive|old data|state .{0,80}(not|unavailable)|no state|not found|proof window|too old"
)
_LATER: Final = re.compile(
    r"(?i)time-?out|timed out|try again|temporar|overload|busy|internal (server )?error"
)
_LATER_STATUS: Final = frozenset({408, 425, 429})
_NUMBER: Final = re.compile(r"(?<![\w.])(\d{1,3}(?:,\d{3})+|\d{1,7})(k?)(?![\w])", re.IGNORECASE)


@dataclass(frozen=True)
class Examination:
    """What was found.

    Attributes:
        head: the newest block, as the endpoint says.
        capabilities: None in it is what could not be found out. A log range or batch is at most
            ``MOST_LOG_RANGE`` and ``MOST_BATCH``: more was not tried.
        denied: capability to why the endpoint says no, in its words.
        unknown: capability to what went wrong in finding out.
        requests: how many were sent, items of batches counted one by one.
    """

    head: int
    capabilities: Capabilities
    denied: Mapping[str, str]
    unknown: Mapping[str, str]
    requests: int


async def probe(
    ask: Ask, *, ask_batch: AskBatch | None = None, known: Capabilities | None = None
) -> Capabilities:
    """Return what the endpoint can do; see ``examine``."""
    return (await examine(ask, ask_batch=ask_batch, known=known)).capabilities


async def examine(
    ask: Ask, *, ask_batch: AskBatch | None = None, known: Capabilities | None = None
) -> Examination:
    """Find out what the endpoint can do: at most 30 requests, one after the other, and one batch or a few.

    Args:
        ask: sends one request, without hiding what the endpoint answers.
        ask_batch: sends a batch; None: batches are not tried.
        known: what need not be found out.

    Raises:
        RpcError: the endpoint does not even say its head.
    """
    return await _Probe(ask, ask_batch, known or Capabilities()).run()


class _Unknown(Exception):
    """Neither yes nor no."""


class _Denied(Exception):
    """No, and why."""


class _Probe:
    """One examination."""

    def __init__(self, ask: Ask, ask_batch: AskBatch | None, known: Capabilities) -> None:
        self._ask_endpoint, self._ask_batch = ask, ask_batch
        self._known = known
        self._head = 0
        self._denied: dict[str, str] = {}
        self._unknown: dict[str, str] = {}
        self._requests = 0

    async def run(self) -> Examination:
        self._head = _block_number(await self._ask("eth_blockNumber", []))
        known = self._known
        settled = hex(max(0, self._head - _SETTLED_BLOCKS))
        tracer = {"tracer": "callTracer"}
        capabilities = Capabilities(
            archive=await self._answer("archive", known.archive, self._archive),
            traces=await self._lists("traces", known.traces, "trace_block", [settled]),
            debug=await self._lists("debug", known.debug, "debug_traceBlockByNumber", [settled, tracer]),
            receipts=await self._lists("receipts", known.receipts, "eth_getBlockReceipts", [settled]),
            log_range=await self._limit("log_range", known.log_range, self._log_range),
            batch=await self._limit("batch", known.batch, self._batch),
        )
        return Examination(self._head, capabilities, self._denied, self._unknown, self._requests)

    async def _ask(self, method: str, params: Sequence[Any]) -> Any:
        self._requests += 1
        return await self._ask_endpoint(method, params)

    async def _answer(
        self, name: str, known: bool | None, find: Callable[[], Awaitable[None]]
    ) -> bool | None:
        """Return True where ``find`` ends well, False or None as it raises."""
        if known is not None:
            return known
        try:
            await find()
        except _Denied as error:
            self._denied[name] = str(error)
            return False
        except (_Unknown, RpcError) as error:
            self._unknown[name] = str(error)
            return None
        return True

    async def _lists(self, name: str, known: bool | None, method: str, params: Sequence[Any]) -> bool | None:
        async def find() -> None:
            result = await self._or_denied(method, params)
            if not isinstance(result, list):
                raise _Unknown(f"{method} answered {type(result).__name__}, not a list")

        return await self._answer(name, known, find)

    async def _archive(self) -> None:
        """Ask for state far back: in chains that began anew, only the later part of it can be had."""
        denial: _Denied | None = None
        for number in dict.fromkeys((min(1, self._head), self._head // 2, self._head * 7 // 8)):
            try:
                balance = await self._or_denied("eth_getBalance", [_NOBODY, hex(number)], words=_NO_STATE)
            except _Denied as error:
                denial = denial or error
                continue
            if not isinstance(balance, str):
                raise _Unknown("eth_getBalance answered no number")
            return
        if denial is not None:
            raise denial

    async def _or_denied(
        self, method: str, params: Sequence[Any], words: re.Pattern[str] | None = None
    ) -> Any:
        try:
            return await self._ask(method, params)
        except RpcError as error:
            if _denies(error, words):
                raise _Denied(str(error)) from None
            raise

    async def _limit(
        self, name: str, known: int | None, find: Callable[[], Awaitable[int | None]]
    ) -> int | None:
        if known is not None:
            return known
        try:
            return await find()
        except (_Unknown, RpcError) as error:
            self._unknown[name] = str(error)
            return None

    async def _log_range(self) -> int | None:
        """Return the most blocks that one request for logs may span; None where the chain has no more."""
        blocks = self._head + 1
        sizes = [size for size in _LOG_RANGES if size <= blocks]
        refusal = await self._refused_logs(sizes[-1])
        if refusal is None:
            return sizes[-1] if sizes[-1] == MOST_LOG_RANGE else None
        self._denied["log_range"] = str(refusal)
        for hint in _hints(refusal.text, sizes[-1]):
            above = next(size for size in sizes if size > hint)
            if await self._takes_logs(hint) and not await self._takes_logs(above):
                return hint
        return await _most(sizes[:-1], self._takes_logs) or None

    async def _takes_logs(self, blocks: int) -> bool:
        return await self._refused_logs(blocks) is None

    async def _refused_logs(self, blocks: int) -> ReplyError | None:
        """Return the refusal of logs of so many blocks, None where they are given."""
        last = max(blocks - 1, self._head - _SETTLED_BLOCKS)
        span = {"fromBlock": hex(last - blocks + 1), "toBlock": hex(last)}
        try:
            await self._ask("eth_getLogs", [{**span, "address": _NOBODY, "topics": [_NO_EVENT]}])
        except ReplyError as error:
            if error.limits_logs or _denies(error):
                return error
            raise
        return None

    async def _batch(self) -> int | None:
        """Return the most items that one batch may have."""
        return None if self._ask_batch is None else await _most(_BATCHES, self._takes_batch)

    async def _takes_batch(self, size: int) -> bool:
        if self._ask_batch is None or size == 1:
            return True
        self._requests += size
        try:
            await self._ask_batch([("eth_chainId", [])] * size)
        except (BatchRefused, GarbledReply):
            return False
        return True


async def _most(sizes: Sequence[int], takes: Callable[[int], Awaitable[bool]]) -> int:
    """Return the largest of ``sizes`` that is taken, 0 for none; the largest is tried first."""
    if sizes and await takes(sizes[-1]):
        return sizes[-1]
    low, high = 0, len(sizes) - 1
    while low < high:  # what is below low is taken, what is at high or above is not
        middle = (low + high) // 2
        if await takes(sizes[middle]):
            low = middle + 1
        else:
            high = middle
    return sizes[low - 1] if low > 0 else 0


def _hints(text: str, refused: int) -> Sequence[int]:
    """Return the first number of a refusal that may be its limit: smaller than what was refused."""
    numbers = (int(match[1].replace(",", "")) * (1000 if match[2] else 1) for match in _NUMBER.finditer(text))
    return [number for number in numbers if 0 < number < refused][:1]


def _block_number(answer: Any) -> int:
    try:
        return as_int(answer)
    except ValueError:
        pass
    raise GarbledReply("eth_blockNumber was answered with no hex number")


def _denies(error: RpcError, more_words: re.Pattern[str] | None = None) -> bool:
    """Whether an error says that the endpoint does not do this, rather than that it cannot now."""
    match error:
        case Unreachable(status=int() as status, transient=False):
            return 400 <= status < 500 and status not in _LATER_STATUS
        case ReplyError() if error.rate_limited or _LATER.search(error.text):
            return False
        case ReplyError():
            said = _NOT_IN_PLAN.search(error.text) or (more_words and more_words.search(error.text))
            return error.unsupported or error.final or bool(said)
        case _:
            return False
