"""How JSON objects become Arrow columns: declared once, read by every decoder."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Field",
    "Group",
    "Kind",
    "Layout",
    "Leaves",
    "Member",
    "Rows",
    "Shape",
    "arrow_type",
    "column_names",
    "columns_of",
]


class Kind(StrEnum):
    """How one JSON value is read, and the Arrow columns it gives.

    Every kind reads null, and a key that is missing, as null.

    Attributes:
        QUANTITY: an unsigned number, as ``0x`` hex of any case and length (``0x`` alone is 0), as decimal
            text or as a JSON integer; ``uint64``. One that needs more bits leaves the column null and is kept
            in ``extra``.
        WORD: a quantity of up to 256 bits; ``large_binary``, 32 bytes, big-endian.
        AMOUNT: a quantity of up to 256 bits, as three columns in Cryo's manner: ``{column}_binary`` (as
            WORD), ``{column}_string`` (``large_string``, decimal) and ``{column}_f64`` (``float64``).
        DATA: ``0x`` hex of an even number of digits; ``large_binary``. Of exactly ``Field.size`` bytes where
            that is set.
        FLAG: true or false, or a quantity of 0 or 1; ``bool``.
        TEXT: a JSON string, unescaped; ``large_string``.
        TOPICS: a list of up to four 32-byte DATA; columns ``{column}0`` to ``{column}3``, ``large_binary``.
    """

    QUANTITY = "quantity"
    WORD = "word"
    AMOUNT = "amount"
    DATA = "data"
    FLAG = "flag"
    TEXT = "text"
    TOPICS = "topics"


@dataclass(frozen=True)
class Field:
    """One key of a JSON object.

    Attributes:
        key: in the JSON.
        column: in the row, or the stem of its names.
        kind: how it is read.
        size: exact number of bytes of DATA; None for any.
        required: whether null or missing is an error.
    """

    key: str
    column: str
    kind: Kind
    size: int | None = None
    required: bool = False


@dataclass(frozen=True)
class Group:
    """A key whose object's members stand in the same row; all null where it is null or missing.

    Attributes:
        key: in the JSON.
        fields: the object's fields; no groups and lists. Other keys of it are kept in ``extra`` as
            ``{key}.{name}``.
    """

    key: str
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Leaves:
    """A key with a list of values of one kind; ``large_list`` of what the kind gives.

    Attributes:
        key: in the JSON.
        column: in the row.
        kind: DATA, WORD, QUANTITY or TEXT; no item may be null.
        size: as for ``Field``.
    """

    key: str
    column: str
    kind: Kind
    size: int | None = None


@dataclass(frozen=True)
class Rows:
    """A key with a list of objects; ``large_list`` of ``struct``.

    Attributes:
        key: in the JSON.
        column: in the row.
        layout: of each object; no item may be null.
        bare: a field of ``layout`` that an item stands for which is no object, such as a transaction's hash;
            None: such an item is an error.
        required: whether null or missing is an error.
    """

    key: str
    column: str
    layout: "Layout"
    bare: Field | None = None
    required: bool = False


Member = Field | Group | Leaves | Rows


@dataclass(frozen=True, eq=False)
class Layout:
    """The columns of one JSON object; told apart by identity, which costs no time.

    Attributes:
        name: for messages, singular: ``block``, ``log``.
        members: in the order of their columns.
        ignored: keys that say again what another one says.
        keeps_extra: whether the last column is ``extra`` (``large_string``): a JSON object of every key that
            is neither a member nor ignored, and not null, with sorted keys and without spaces; null where
            there is none.
    """

    name: str
    members: tuple[Member, ...]
    ignored: frozenset[str] = field(default_factory=frozenset)
    keeps_extra: bool = True


@dataclass(frozen=True, eq=False)
class Shape:
    """What the result of one method looks like; told apart by identity.

    Attributes:
        name: for messages, e.g. ``receipts``.
        layout: of the object, or of each object of the list.
        is_list: whether the result is a list of objects.
    """

    name: str
    layout: Layout
    is_list: bool


_AMOUNT_PARTS: Final = ("binary", "string", "f64")
_TOPICS: Final = 4


def column_names(layout: Layout) -> Iterator[str]:
    """Yield the names of the columns of ``layout``, ``extra`` last."""
    for member in layout.members:
        for one in member.fields if isinstance(member, Group) else (member,):
            if isinstance(one, Field) and one.kind is Kind.AMOUNT:
                yield from (f"{one.column}_{part}" for part in _AMOUNT_PARTS)
            elif isinstance(one, Field) and one.kind is Kind.TOPICS:
                yield from (f"{one.column}{number}" for number in range(_TOPICS))
            else:
                yield one.column
    if layout.keeps_extra:
        yield "extra"


@cache
def arrow_type(layout: Layout) -> "pa.StructType":
    """Return the struct type of ``layout``: its columns in order, all nullable."""
    import pyarrow as pa  # noqa: PLC0415 (a quarter of a second that loading definitions must not pay)

    return pa.struct(list(columns_of(layout)))


def columns_of(layout: Layout) -> Iterator["pa.Field"]:
    """Yield the Arrow fields of ``layout``, ``extra`` last."""
    import pyarrow as pa  # noqa: PLC0415

    types = (kind for member in layout.members for kind in _types(member))
    extra = (pa.large_string(),) if layout.keeps_extra else ()
    return map(pa.field, column_names(layout), (*types, *extra))


def _types(member: Member) -> Iterator["pa.DataType"]:
    import pyarrow as pa  # noqa: PLC0415

    match member:
        case Field(kind=Kind.AMOUNT):
            yield from (pa.large_binary(), pa.large_string(), pa.float64())
        case Field(kind=Kind.TOPICS):
            yield from [pa.large_binary()] * _TOPICS
        case Field():
            yield _leaf(member.kind)
        case Group():
            for one in member.fields:
                yield from _types(one)
        case Leaves():
            yield pa.large_list(pa.field("item", _leaf(member.kind), nullable=False))
        case Rows():
            yield pa.large_list(pa.field("item", arrow_type(member.layout), nullable=False))


def _leaf(kind: Kind) -> "pa.DataType":
    import pyarrow as pa  # noqa: PLC0415

    match kind:
        case Kind.QUANTITY:
            return pa.uint64()
        case Kind.FLAG:
            return pa.bool_()
        case Kind.TEXT:
            return pa.large_string()
        case _:
            return pa.large_binary()
