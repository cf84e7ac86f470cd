"""The decoder in Python: slower than the compiled one, and the authority on what a reply means."""

import json
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

import pyarrow as pa

from trace_dagster.chain.decoding.decoded import Decoded, DecodeError, GarbledAnswer, Refusal
from trace_dagster.chain.decoding.frames import call_frames
from trace_dagster.chain.decoding.layout import (
    Field,
    Group,
    Kind,
    Layout,
    Leaves,
    Rows,
    Shape,
    arrow_type,
)
from trace_dagster.chain.decoding.layouts import FRAMES
from trace_dagster.chain.decoding.safe_json import loads

__all__ = ["PureDecoder", "extra_text", "is_refused_batch", "no_json"]

_WORD_DIGITS: Final = 64
_MAX_WORD: Final = 2**256 - 1
_MAX_QUANTITY: Final = 2**64 - 1
_LONGEST_DECIMAL: Final = 100
_SHOWN: Final = 60
_HEX: Final = frozenset("0123456789abcdefABCDEF")

Objects = Sequence[Mapping[str, Any] | None]
Buffers = tuple[pa.Buffer | None, int]


class PureDecoder:
    """Reads replies with the standard library's JSON parser.

    Attributes:
        name: ``pure``.
    """

    name = "pure"

    def decode(self, reply: bytes | bytearray | memoryview, calls: Sequence[Shape]) -> Decoded:
        """Read the reply to ``calls``; see ``Decoder``."""
        answers = _parsed(reply)
        if len(calls) == 1:
            found: Mapping[int, Any] = {0: _single(answers)}
        elif isinstance(answers, dict):
            return Decoded(refused=_refusal(answers.get("error") or "one answer for all of them"))
        elif is_refused_batch(answers, len(calls)):
            return Decoded(refused=_refusal(answers[0]["error"]))
        else:
            found = _by_id(answers, len(calls))
        results, refusals = _opened(found)
        return Decoded(
            results={
                shape: _column(shape, [number for number, one in enumerate(calls) if one is shape], results)
                for shape in dict.fromkeys(calls)
            },
            refusals=refusals,
        )


def extra_text(members: Mapping[str, Any]) -> str | None:
    """Return the ``extra`` of a row whose unread members are these: canonical JSON, or None for none."""
    kept = {key: value for key, value in members.items() if value is not None}
    if not kept:
        return None
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class _Unfit(Exception):
    """A value does not fit its layout.

    Attributes:
        row: which row of the layout in work it is in.
        path: where in that row, outermost first.
    """

    def __init__(self, row: int, path: str, value: object, due: str) -> None:
        super().__init__()
        self.row, self.path, self.value, self.due = row, path, value, due


def _parsed(reply: bytes | bytearray | memoryview) -> Any:
    try:
        return loads(str(reply, "utf-8"))
    except ValueError:  # its text quotes the reply
        pass
    raise GarbledAnswer(no_json(reply))


def no_json(reply: bytes | bytearray | memoryview) -> str:
    """Return what to say of a reply that is no JSON."""
    if bytes(reply[:100]).lstrip().startswith(b"<"):
        return "a page of HTML or XML; is the URL that of a JSON-RPC endpoint?"
    return f"{len(reply)} bytes that are no JSON; they may be truncated"


def is_refused_batch(answers: Any, count: int) -> bool:
    """Whether a batch was answered by errors alone, and not one for each of its requests."""
    return (
        isinstance(answers, list)
        and 0 < len(answers) < count
        and all(isinstance(one, dict) and one.get("error") for one in answers)
    )


def _single(answer: Any) -> Any:
    if not isinstance(answer, dict):
        raise GarbledAnswer("the answer to a single request is no object")
    if not answer.get("error") and answer.get("id") != 0:
        raise GarbledAnswer("the answer has another request's id")
    return answer


def _by_id(answers: Any, count: int) -> Mapping[int, Any]:
    if not isinstance(answers, list):
        raise GarbledAnswer(f"the answer to a batch of {count} is no list")
    found = {number: answer for answer in answers if (number := _id_of(answer)) in range(count)}
    if len(found) != count or len(answers) != count:
        raise GarbledAnswer(
            f"{len(found)} of the {count} requests of a batch are answered, in {len(answers)} answers"
        )
    return found


def _id_of(answer: Any) -> int:
    number = answer.get("id") if isinstance(answer, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) else -1


def _opened(found: Mapping[int, Any]) -> tuple[dict[int, Any], dict[int, Refusal]]:
    results, refusals = {}, {}
    for number, answer in sorted(found.items()):
        if answer.get("error"):
            refusals[number] = _refusal(answer["error"])
        elif "result" not in answer:
            raise GarbledAnswer(f"answer {number} has neither result nor error")
        else:
            results[number] = answer["result"]
    return results, refusals


def _refusal(error: Any) -> Refusal:
    code = error.get("code") if isinstance(error, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return Refusal(code if isinstance(code, int) and not isinstance(code, bool) else None, str(message))


def _column(shape: Shape, numbers: Sequence[int], results: Mapping[int, Any]) -> pa.Array:
    values = [results.get(number) for number in numbers]
    if shape is FRAMES:
        values = [call_frames(value) for value in values]
    try:
        if shape.is_list:
            return _lists(values, "", lambda items: _structs(shape.layout, items), _is_object)
        _check_each(values, _is_object, "", "an object")
        return _structs(shape.layout, values)
    except _Unfit as unfit:
        shown = json.dumps(unfit.value)
        cut = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        raise DecodeError(
            f"{shape.name} of call {numbers[unfit.row]}: {unfit.path.removeprefix('.') or 'all'} is {cut}; "
            f"expected {unfit.due}"
        ) from None


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _check_each(
    values: Iterable[Any], fits: Callable[[object], bool], path: str, due: str, *, null_fits: bool = True
) -> None:
    for row, value in enumerate(values):
        if not fits(value) and not (null_fits and value is None):
            raise _Unfit(row, path, value, due)


def _structs(layout: Layout, rows: Objects) -> pa.StructArray:
    """Return the rows as structs, null where a row is None."""
    present = [row is not None for row in rows]
    objects: Sequence[Mapping[str, Any]] = [{} if row is None else row for row in rows]
    overflowing: dict[int, dict[str, Any]] | None = {} if layout.keeps_extra else None
    columns: list[pa.Array] = []
    for member in layout.members:
        match member:
            case Field():
                columns += _field(member, objects, present, overflowing)
            case Group():
                columns += _group(member, objects, present, overflowing)
            case Leaves():
                columns.append(_leaves(member, objects))
            case Rows():
                columns.append(_rows(member, objects, present))
    if layout.keeps_extra:
        columns.append(_extra(layout, objects, overflowing or {}))
    kind = arrow_type(layout)
    validity = None if all(present) else _bitmap(present)
    return pa.Array.from_buffers(kind, len(rows), [validity], children=columns)


def _field(
    field: Field,
    objects: Sequence[Mapping[str, Any]],
    present: Sequence[bool],
    overflowing: dict[int, dict[str, Any]] | None,
    path: str = "",
) -> list[pa.Array]:
    key = field.key
    values = [one.get(key) for one in objects]
    path = f"{path}.{key}"
    if field.required:
        for row, value in enumerate(values):
            if value is None and present[row]:
                raise _Unfit(row, path, None, "a value")
    if field.kind is Kind.QUANTITY:
        numbers = _numbers(values, path)
        if max((number for number in numbers if number is not None), default=0) > _MAX_QUANTITY:
            for row, number in enumerate(numbers):
                if number is not None and number > _MAX_QUANTITY:
                    if field.required or overflowing is None:
                        raise _Unfit(row, path, values[row], "at most 64 bits")
                    numbers[row] = None
                    overflowing.setdefault(row, {})[path.removeprefix(".")] = values[row]
        return [pa.array(numbers, pa.uint64())]
    return _KINDS[field.kind](values, path, field.size)


def _group(
    group: Group,
    objects: Sequence[Mapping[str, Any]],
    present: Sequence[bool],
    overflowing: dict[int, dict[str, Any]] | None,
) -> list[pa.Array]:
    values = [one.get(group.key) for one in objects]
    _check_each(values, _is_object, f".{group.key}", "an object")
    inner = [{} if value is None else value for value in values]
    columns: list[pa.Array] = []
    for field in group.fields:
        columns += _field(field, inner, present, overflowing, f".{group.key}")
    return columns


def _leaves(leaves: Leaves, objects: Sequence[Mapping[str, Any]]) -> pa.Array:
    values = [one.get(leaves.key) for one in objects]

    def items(found: Sequence[Any]) -> pa.Array:
        for row, value in enumerate(found):
            if value is None:
                raise _Unfit(row, "", None, "a value")
        if leaves.kind is Kind.QUANTITY:
            numbers = _numbers(found, "")
            for row, number in enumerate(numbers):
                if number is not None and number > _MAX_QUANTITY:
                    raise _Unfit(row, "", found[row], "at most 64 bits")
            return pa.array(numbers, pa.uint64())
        return _KINDS[leaves.kind](found, "", leaves.size)[0]

    return _lists(values, f".{leaves.key}", items)


def _rows(rows: Rows, objects: Sequence[Mapping[str, Any]], present: Sequence[bool]) -> pa.Array:
    values = [one.get(rows.key) for one in objects]
    if rows.required:
        for row, value in enumerate(values):
            if value is None and present[row]:
                raise _Unfit(row, f".{rows.key}", None, "a list")
    bare = rows.bare
    if bare is None:
        return _lists(values, f".{rows.key}", lambda items: _structs(rows.layout, items), _is_object)
    key = bare.key
    return _lists(
        values,
        f".{rows.key}",
        lambda items: _structs(
            rows.layout, [item if isinstance(item, dict) else {key: item} for item in items]
        ),
        lambda item: isinstance(item, dict | str),
    )


def _lists(
    values: Sequence[Any],
    path: str,
    column: Callable[[Sequence[Any]], pa.Array],
    fits: Callable[[object], bool] | None = None,
) -> pa.Array:
    """Return lists whose items, all in a row, ``column`` makes into an array; None is a null list."""
    _check_each(values, lambda value: isinstance(value, list), path, "a list")
    items = [item for value in values if value is not None for item in value]
    offsets = [0, *accumulate(0 if value is None else len(value) for value in values)]
    try:
        if fits is not None:
            _check_each(items, fits, "", "an object", null_fits=False)
        inner = column(items)
    except _Unfit as unfit:
        outer = bisect_right(offsets, unfit.row) - 1
        inside = f"{path}[{unfit.row - offsets[outer]}]{unfit.path}"
        raise _Unfit(outer, inside, unfit.value, unfit.due) from None
    kind = pa.large_list(pa.field("item", inner.type, nullable=False))
    validity, _ = _validity(values)
    return pa.Array.from_buffers(
        kind, len(values), [validity, pa.py_buffer(array("q", offsets))], children=[inner]
    )


def _extra(
    layout: Layout, objects: Sequence[Mapping[str, Any]], overflowing: Mapping[int, Mapping[str, Any]]
) -> pa.Array:
    groups = [member for member in layout.members if isinstance(member, Group)]
    known = layout.ignored | {member.key for member in layout.members}
    inside = {group.key: frozenset(field.key for field in group.fields) for group in groups}
    texts: list[str | None] = []
    for row, one in enumerate(objects):
        members: dict[str, Any] = {}
        if not one.keys() <= known:
            members = {key: value for key, value in one.items() if key not in known}
        for key, names in inside.items():
            held = one.get(key)
            if held is not None and not held.keys() <= names:
                members |= {f"{key}.{name}": value for name, value in held.items() if name not in names}
        members |= overflowing.get(row, {})
        texts.append(extra_text(members) if members else None)
    return _text(texts, ".extra", None)[0]


def _validity(values: Sequence[Any]) -> Buffers:
    """Return a bitmap of which values are not None, or None where all are; and how many are None."""
    missing = values.count(None)
    return (_bitmap([value is not None for value in values]) if missing else None), missing


def _bitmap(bits: Sequence[bool]) -> pa.Buffer:
    return pa.array(bits, pa.bool_()).buffers()[1]


def _binary(values: Sequence[Any], lengths: Iterable[int], data: bytes, kind: pa.DataType) -> pa.Array:
    validity, missing = _validity(values)
    offsets = array("q", [0, *accumulate(lengths)])
    return pa.Array.from_buffers(
        kind, len(values), [validity, pa.py_buffer(offsets), pa.py_buffer(data)], missing
    )


def _data(values: Sequence[Any], path: str, size: int | None) -> list[pa.Array]:
    try:
        prefixes = {value[:2] for value in values if value is not None}
        text = "".join([value[2:] for value in values if value is not None])
        lengths = [0 if value is None else len(value) - 2 for value in values]
        data = bytes.fromhex(text)
    except (TypeError, ValueError, KeyError):
        raise _odd_data(values, path, size) from None
    sizes = {length for length, value in zip(lengths, values, strict=True) if value is not None}
    # fromhex() skips spaces.
    if (
        not prefixes <= {"0x"}
        or 2 * len(data) != len(text)
        or any(length & 1 for length in sizes)
        or (size is not None and not sizes <= {2 * size})
    ):
        raise _odd_data(values, path, size)
    return [_binary(values, [length // 2 for length in lengths], data, pa.large_binary())]


def _odd_data(values: Sequence[Any], path: str, size: int | None) -> _Unfit:
    due = "0x and an even number of hex digits" if size is None else f"0x and {2 * size} hex digits"
    for row, value in enumerate(values):
        if value is None:
            continue
        digits = value[2:] if isinstance(value, str) and value.startswith("0x") else None
        if digits is None or not set(digits) <= _HEX or len(digits) % 2:
            return _Unfit(row, path, value, due)
        if size is not None and len(digits) != 2 * size:
            return _Unfit(row, path, value, due)
    raise AssertionError(f"{path}: every value fits")  # the fast path refuses only what this finds


def _numbers(values: Sequence[Any], path: str) -> list[int | None]:
    """Return quantities as numbers."""
    try:
        text = "".join([value[2:] for value in values if value is not None])
        prefixes = {value[:2] for value in values if value is not None}
        # int() takes spaces, underscores, signs and digits of other scripts, too.
        if prefixes <= {"0x"} and (not text or (text.isascii() and text.isalnum())):
            return [None if value is None else int(value, 16) for value in values]
    except (TypeError, ValueError, KeyError):
        pass
    return [None if value is None else _number(value, row, path) for row, value in enumerate(values)]


def _number(value: Any, row: int, path: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        if value.startswith("0x") and set(value[2:]) <= _HEX:
            return int(value[2:] or "0", 16)
        if value.isascii() and value.isdigit() and len(value.lstrip("0")) <= _LONGEST_DECIMAL:
            return int(value.lstrip("0") or "0")
    raise _Unfit(row, path, value, "an unsigned number")


def _words(values: Sequence[Any], path: str) -> list[int | None]:
    numbers = _numbers(values, path)
    for row, number in enumerate(numbers):
        if number is not None and number > _MAX_WORD:
            raise _Unfit(row, path, values[row], "at most 256 bits")
    return numbers


def _word(values: Sequence[Any], path: str, size: int | None) -> list[pa.Array]:  # noqa: ARG001
    return [_word_column(_words(values, path))]


def _word_column(numbers: Sequence[int | None]) -> pa.Array:
    data = b"".join([number.to_bytes(32, "big") for number in numbers if number is not None])
    return _binary(numbers, [0 if number is None else 32 for number in numbers], data, pa.large_binary())


def _amount(values: Sequence[Any], path: str, size: int | None) -> list[pa.Array]:
    numbers = _words(values, path)
    texts = [None if number is None else str(number) for number in numbers]
    floats = [None if number is None else float(number) for number in numbers]
    return [_word_column(numbers), *_text(texts, path, size), pa.array(floats, pa.float64())]


def _flag(values: Sequence[Any], path: str, size: int | None) -> list[pa.Array]:  # noqa: ARG001
    flags: list[bool | None] = []
    for row, value in enumerate(values):
        if value is None or isinstance(value, bool):
            flags.append(value)
            continue
        number = _number(value, row, path)
        if number > 1:
            raise _Unfit(row, path, value, "0 or 1")
        flags.append(number == 1)
    return [pa.array(flags, pa.bool_())]


def _text(values: Sequence[Any], path: str, size: int | None) -> list[pa.Array]:  # noqa: ARG001
    _check_each(values, lambda value: isinstance(value, str), path, "text")
    encoded: list[bytes | None] = []
    for row, value in enumerate(values):
        try:
            encoded.append(None if value is None else value.encode())
        except UnicodeEncodeError:  # half of a surrogate pair
            raise _Unfit(row, path, value, "text of whole characters") from None
    data = b"".join([value for value in encoded if value is not None])
    return [
        _binary(values, [0 if value is None else len(value) for value in encoded], data, pa.large_string())
    ]


def _topics(values: Sequence[Any], path: str, size: int | None) -> list[pa.Array]:  # noqa: ARG001
    for row, value in enumerate(values):
        if value is not None and not (isinstance(value, list) and len(value) <= 4 and None not in value):
            raise _Unfit(row, path, value, "a list of at most 4 topics")
    columns: list[pa.Array] = []
    for at in range(4):
        held = [value[at] if value is not None and at < len(value) else None for value in values]
        columns += _data(held, f"{path}[{at}]", _WORD_DIGITS // 2)
    return columns


_KINDS: Final[Mapping[Kind, Callable[[Sequence[Any], str, int | None], list[pa.Array]]]] = {
    Kind.WORD: _word,
    Kind.AMOUNT: _amount,
    Kind.DATA: _data,
    Kind.FLAG: _flag,
    Kind.TEXT: _text,
    Kind.TOPICS: _topics,
}
