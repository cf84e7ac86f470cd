"""How JSON objects become Arrow columns: declared once, read by every decoder."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

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


@dataclass(frozen=True)
class Layout:
    """The columns of one JSON object.

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


@dataclass(frozen=True)
class Shape:
    """What the result of one method looks like.

    Attributes:
        name: for messages, e.g. ``receipts``.
        layout: of the object, or of each object of the list.
        is_list: whether the result is a list of objects.
    """

    name: str
    layout: Layout
    is_list: bool


@cache
def arrow_type(layout: Layout) -> pa.StructType:
    """Return the struct type of ``layout``: its columns in order, all nullable."""
    return pa.struct(list(columns_of(layout)))


def columns_of(layout: Layout) -> Iterator[pa.Field]:
    """Yield the Arrow fields of ``layout``, ``extra`` last."""
    for member in layout.members:
        match member:
            case Field():
                yield from _field_columns(member)
            case Group():
                for one in member.fields:
                    yield from _field_columns(one)
            case Leaves():
                item = pa.field("item", _LEAF[member.kind], nullable=False)
                yield pa.field(member.column, pa.large_list(item))
            case Rows():
                item = pa.field("item", arrow_type(member.layout), nullable=False)
                yield pa.field(member.column, pa.large_list(item))
    if layout.keeps_extra:
        yield pa.field("extra", pa.large_string())


_LEAF = {
    Kind.QUANTITY: pa.uint64(),
    Kind.WORD: pa.large_binary(),
    Kind.DATA: pa.large_binary(),
    Kind.FLAG: pa.bool_(),
    Kind.TEXT: pa.large_string(),
}


def _field_columns(one: Field) -> Iterator[pa.Field]:
    if one.kind is Kind.AMOUNT:
        yield pa.field(f"{one.column}_binary", pa.large_binary())
        yield pa.field(f"{one.column}_string", pa.large_string())
        yield pa.field(f"{one.column}_f64", pa.float64())
    elif one.kind is Kind.TOPICS:
        for number in range(4):
            yield pa.field(f"{one.column}{number}", pa.large_binary())
    else:
        yield pa.field(one.column, _LEAF[one.kind])
