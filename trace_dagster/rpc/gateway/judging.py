"""Whether an answer may be believed, as far as it shows by itself; pure."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from trace_dagster.rpc.failures import UNSUPPORTED_CODES
from trace_dagster.rpc.gateway.faults import FaultKind, LogsTooMany, kind_of_error
from trace_dagster.rpc.gateway.jsonrpc import Answer, Call, ErrorObject, error_answer, is_null, read_error
from trace_dagster.rpc.gateway.routing import Carries, Route, block_number
from trace_dagster.rpc.secrets import holds_secret, scrub

__all__ = ["Claim", "Verdict", "hash_in_header", "judge", "passed_on"]

_LONGEST_MESSAGE: Final = 2_000
_MOST_CHARACTERS: Final = 2**14
_MOST_DATA_BYTES: Final = 2**20
_OF_BLOCKS: Final = re.compile(r"(?i)range|block")
_OF_LOGS: Final = re.compile(
    r"(?i)result|response|[\dk]\s*(?:logs|events)\b|\b(?:many|max|maximum) (?:logs|events)"
)


class Claim(msgspec.Struct, frozen=True):
    """That a block has a hash."""

    number: int
    block_hash: str


class Verdict(msgspec.Struct, frozen=True):
    """What to make of an answer.

    Attributes:
        fault: why it is no good; None: it is good, or null.
        answer: what may be handed out; of an error that others may not give: what is, where none does better.
        is_null: whether it is null.
        is_empty: whether it is a list without anything, of a block asked for by hash.
        lacks: whether the endpoint says by its code that it does not have the method.
        claims: what it says of blocks, to be compared with what other endpoints say.
        split: whether parts of the request may be answered.
        by_width: whether that is for the number of blocks, not for what is in them.
        head: the newest block, where the answer says so.
    """

    fault: FaultKind | None = None
    answer: Answer | None = None
    is_null: bool = False
    is_empty: bool = False
    lacks: bool = False
    claims: Sequence[Claim] = ()
    split: bool = False
    by_width: bool = False
    head: int | None = None


class _Header(msgspec.Struct):
    number: str | None = None
    hash: str | None = None


class _Placed(msgspec.Struct):
    blockNumber: str | int | None = None  # noqa: N815
    blockHash: str | None = None  # noqa: N815


_header: Final = msgspec.json.Decoder(_Header | None)
_placed: Final = msgspec.json.Decoder(_Placed | None)
_list: Final = msgspec.json.Decoder(list[_Placed] | None)
_text: Final = msgspec.json.Decoder(str)
_GARBLED: Final = Verdict(FaultKind.GARBLED)


def judge(call: Call, route: Route, answer: Answer, secrets: Sequence[str]) -> Verdict:
    """Return what to make of ``answer`` to ``call``.

    Args:
        call: what was asked.
        route: what that needs.
        answer: the endpoint's.
        secrets: of the endpoint, taken out of errors.
    """
    if answer.error is not None:
        return _of_error(call, route, answer.error, secrets)
    if is_null(answer):
        return Verdict(answer=answer, is_null=True)
    if call.method == "eth_blockNumber":
        return _of_head(answer)
    if route.carries is Carries.NOTHING:
        return Verdict(answer=answer)
    try:
        return _of_blocks(route, answer)
    except (msgspec.DecodeError, RecursionError):
        return _GARBLED


def hash_in_header(answer: Answer | None, number: int) -> str | None:
    """Return the hash in an answer to eth_getBlockByNumber; None where it does not hold that block."""
    if answer is None or answer.result is None:
        return None
    try:
        header = _header.decode(answer.result)
    except (msgspec.DecodeError, RecursionError):
        return None
    if header is None or header.hash is None or block_number(header.number) != number:
        return None
    return str(header.hash).lower()


def passed_on(error: ErrorObject, secrets: Sequence[str]) -> Answer:
    """Return an endpoint's error without its secrets."""
    message, data = error.message, error.data
    if len(message) > _MOST_CHARACTERS:  # to look for secrets in it would take long
        message = f"an error of {len(message)} characters, which is not shown"
    shown = scrub(message, secrets, _LONGEST_MESSAGE)
    plain = " ".join(message.split())
    if shown != plain or len(message) > _LONGEST_MESSAGE:
        message = shown
    if isinstance(data, msgspec.Raw) and (
        len(bytes(data)) > _MOST_DATA_BYTES or holds_secret(str(msgspec.json.decode(data)), secrets)
    ):
        data = msgspec.UNSET
    return error_answer(ErrorObject(error.code, message, data))


def _of_error(call: Call, route: Route, error: bytes, secrets: Sequence[str]) -> Verdict:
    read = read_error(error)
    kind = kind_of_error(call.method, read, call.params)
    answer = passed_on(read, secrets)
    if kind is LogsTooMany:
        if route.logs is None or route.logs.last == route.logs.first:
            return Verdict(FaultKind.ERROR, answer)
        # Those that count logs may name a range of blocks, too, as a hint.
        by_width = _OF_BLOCKS.search(read.message) is not None and not _OF_LOGS.search(read.message)
        return Verdict(answer=answer, split=True, by_width=by_width)
    if kind is None:
        return Verdict(answer=answer)
    if isinstance(kind, type):
        return Verdict(FaultKind.TOO_LARGE, answer)
    return Verdict(kind, answer, lacks=kind is FaultKind.UNSUPPORTED and read.code in UNSUPPORTED_CODES)


def _of_head(answer: Answer) -> Verdict:
    try:
        head = block_number(_text.decode(answer.result or b""))
    except msgspec.DecodeError:
        return _GARBLED
    return _GARBLED if head is None else Verdict(answer=answer, head=head)


def _of_blocks(route: Route, answer: Answer) -> Verdict:
    result = answer.result or b""
    if route.carries is Carries.BLOCK:
        header = _header.decode(result)
        number = block_number(header.number) if header else None
        if header is None or number is None or header.hash is None:
            # The pending block has neither.
            return Verdict(answer=answer) if route.tip else _GARBLED
        claims = {Claim(number, header.hash.lower())}
    elif route.carries is Carries.PLACED:
        claims = _claims([_placed.decode(result)])
    else:
        claims = _claims(_list.decode(result) or ())
    if any(not _asked(route, claim) for claim in claims):
        return _GARBLED
    head = max((claim.number for claim in claims), default=None) if route.tells_head else None
    is_empty = route.block_hash is not None and route.carries is Carries.LIST and not claims
    return Verdict(answer=answer, claims=sorted(claims, key=_number), head=head, is_empty=is_empty)


def _claims(placed: Sequence[_Placed | None]) -> set[Claim]:
    found = set()
    for one in placed:
        if one is None or one.blockHash is None:
            continue
        number = one.blockNumber if isinstance(one.blockNumber, int) else block_number(one.blockNumber)
        if number is not None:
            found.add(Claim(number, one.blockHash.lower()))
    return found


def _asked(route: Route, claim: Claim) -> bool:
    if route.block is not None and claim.number != route.block:
        return False
    if route.logs is not None and not route.logs.first <= claim.number <= route.logs.last:
        return False
    return route.block_hash is None or claim.block_hash == route.block_hash.lower()


def _number(claim: Claim) -> int:
    return claim.number
