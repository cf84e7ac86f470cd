"""What a request needs of the endpoint that answers it, from its method and parameters."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import msgspec

from trace_dagster.rpc.gateway.jsonrpc import Call
from trace_dagster.rpc.gateway.methods import BLOCK_AT, BY_BLOCK_HASH, READS

__all__ = ["Carries", "LogRange", "Route", "block_number", "route_of"]


class Carries(Enum):
    """Where a result says which blocks it is of."""

    NOTHING = 0
    BLOCK = 1
    PLACED = 2
    """An object with blockNumber and blockHash: a transaction, a receipt."""
    LIST = 3
    """A list of such objects: receipts, logs, traces."""


class LogRange(msgspec.Struct, frozen=True):
    """A plain eth_getLogs of numbered blocks, which can be split.

    Attributes:
        first: first block, inclusive.
        last: last block, inclusive.
        rest: the filter without its range.
    """

    first: int
    last: int
    rest: Mapping[str, msgspec.Raw]

    @property
    def width(self) -> int:
        """How many blocks."""
        return self.last - self.first + 1

    def part(self, first: int, last: int) -> Call:
        """Return the request for a part of the range."""
        limited = {**self.rest, "fromBlock": hex(first), "toBlock": hex(last)}
        return Call("eth_getLogs", msgspec.json.encode([limited]))


class Route(msgspec.Struct, frozen=True):
    """What a request needs.

    Attributes:
        highest: block that the endpoint must have; None: any.
        tip: whether it is about the newest block, whichever that is.
        settled: whether it is about the newest safe or finalized block, which an endpoint that lags lacks.
        tells_head: whether the block in its answer is the newest one of the endpoint.
        block: the one block asked for by number, None: another or several.
        block_hash: the block asked for by hash.
        carries: where the result says of which block it is.
        capability: field of ``Capabilities`` that the endpoint must not lack.
        repeatable: whether it is known to change nothing; all else is sent once, to one endpoint.
        logs: a range that can be split.
    """

    highest: int | None = None
    tip: bool = False
    settled: bool = False
    tells_head: bool = False
    block: int | None = None
    block_hash: str | None = None
    carries: Carries = Carries.NOTHING
    capability: str | None = None
    repeatable: bool = True
    logs: LogRange | None = None


_CARRIES: Final[Mapping[str, Carries]] = {
    "eth_getBlockByHash": Carries.BLOCK,
    "eth_getBlockByNumber": Carries.BLOCK,
    "eth_getBlockReceipts": Carries.LIST,
    "eth_getLogs": Carries.LIST,
    "eth_getTransactionByBlockHashAndIndex": Carries.PLACED,
    "eth_getTransactionByBlockNumberAndIndex": Carries.PLACED,
    "eth_getTransactionByHash": Carries.PLACED,
    "eth_getTransactionReceipt": Carries.PLACED,
    "erigon_getLogs": Carries.LIST,
    "trace_block": Carries.LIST,
    "trace_filter": Carries.LIST,
    "trace_transaction": Carries.LIST,
}
_TIP: Final = frozenset(
    {"eth_blockNumber", "eth_gasPrice", "eth_maxPriorityFeePerGas", "eth_blobBaseFee", "eth_syncing"}
)

# A filter of blocks is their first parameter.
_OF_RANGES: Final = frozenset({"alchemy_getAssetTransfers", "erigon_getLogs", "trace_filter"})
_LONGEST_NUMBER: Final = 65  # 0x and 64 digits are a hash

_params: Final = msgspec.json.Decoder(list[Any])
_filters: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_SETTLED: Final = frozenset({"safe", "finalized"})
_DIGITS: Final = frozenset("0123456789abcdefABCDEF")


def route_of(call: Call) -> Route:
    """Return what ``call`` needs; a call that cannot be understood may go anywhere, and is refused there."""
    method = call.method
    at = BLOCK_AT.get(method)
    try:
        if at is not None:
            return _of_block(call, at)
        if method == "eth_getLogs":
            return _of_logs(call)
        if method in _OF_RANGES:
            return _of_range(call)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return Route(capability=_capability(method))
    asked = _first_text(call) if method in BY_BLOCK_HASH else None
    return Route(
        tip=method in _TIP,
        block_hash=asked,
        carries=_CARRIES.get(method, Carries.NOTHING),
        capability=_capability(method),
        repeatable=method in READS,
    )


def block_number(given: object) -> int | None:
    """Return the number that ``given`` is, or writes in hex; None where it does not, or is above 64 bits."""
    if isinstance(given, int):
        number = -1 if isinstance(given, bool) else given
    elif not isinstance(given, str) or not given.startswith("0x") or not 3 <= len(given) <= _LONGEST_NUMBER:
        return None
    else:
        number = int(given, 16) if _DIGITS.issuperset(given[2:]) else -1
    return number if 0 <= number < 2**64 else None


def _of_block(call: Call, at: int) -> Route:
    method, params = call.method, _params.decode(call.params)
    asked: Any = params[at] if at < len(params) else "latest"
    block_hash = None
    if isinstance(asked, dict):
        block_hash = asked.get("blockHash")
        asked = asked.get("blockNumber")
    elif isinstance(asked, str) and len(asked) == 66:
        block_hash, asked = asked, None
    number = block_number(asked)
    settled = isinstance(asked, str) and asked in _SETTLED
    return Route(
        highest=number,
        tip=number is None and block_hash is None and asked != "earliest" and not settled,
        settled=settled,
        tells_head=method == "eth_getBlockByNumber" and asked == "latest",
        block=number,
        block_hash=block_hash if isinstance(block_hash, str) else None,
        carries=_CARRIES.get(method, Carries.NOTHING),
        capability=_capability(method),
    )


def _of_logs(call: Call) -> Route:
    (given,) = _filters.decode(call.params)
    if "blockHash" in given:
        block_hash = msgspec.json.decode(given["blockHash"], type=str)
        return Route(block_hash=block_hash, carries=Carries.LIST)
    first, last = (block_number(_end(given, name)) for name in ("fromBlock", "toBlock"))
    rest = {name: value for name, value in given.items() if name not in ("fromBlock", "toBlock")}
    is_plain = first is not None and last is not None and first <= last
    return Route(
        highest=last if last is not None else first,
        tip=last is None,
        block=first if first == last else None,
        carries=Carries.LIST,
        logs=LogRange(first, last, rest) if is_plain and first is not None and last is not None else None,
    )


def _end(given: Mapping[str, msgspec.Raw], name: str) -> str | int | None:
    return msgspec.json.decode(given[name], type=str | int | None) if name in given else None


def _of_range(call: Call) -> Route:
    (given,) = _filters.decode(call.params)
    last = block_number(_end(given, "toBlock"))
    return Route(
        highest=last,
        tip=last is None,
        carries=_CARRIES.get(call.method, Carries.NOTHING),
        capability=_capability(call.method),
    )


def _capability(method: str) -> str | None:
    if method.startswith("trace_"):
        return "traces"
    if method.startswith("debug_trace"):
        return "debug"
    return "receipts" if method == "eth_getBlockReceipts" else None


def _first_text(call: Call) -> str | None:
    try:
        params = _params.decode(call.params)
    except (msgspec.DecodeError, RecursionError):
        return None
    return params[0] if params and isinstance(params[0], str) else None
