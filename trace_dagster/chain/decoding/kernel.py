"""The compiled decoder: hands a reply to ``_kernel.c`` and wraps what that fills as Arrow arrays.

The library is plain C, loaded with ctypes; where it was not built, there is none, and all goes through
``PureDecoder``. So does every reply that the kernel declines: see its first lines.
"""

import ctypes
import json
from collections.abc import Iterator, Mapping, Sequence
from ctypes import POINTER, Structure, c_char_p, c_int32, c_int64, c_void_p
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from trace_dagster.chain.decoding.decoded import Decoded
from trace_dagster.chain.decoding.layout import (
    Field,
    Group,
    Kind,
    Layout,
    Leaves,
    Member,
    Rows,
    Shape,
    arrow_type,
)
from trace_dagster.chain.decoding.layouts import FRAMES
from trace_dagster.chain.decoding.pure import PureDecoder, extra_text

__all__ = ["KernelDecoder", "kernel_library", "measures_library"]

_KINDS: Final = {
    Kind.QUANTITY: 0,
    Kind.WORD: 1,
    Kind.AMOUNT: 2,
    Kind.DATA: 3,
    Kind.FLAG: 4,
    Kind.TEXT: 5,
    Kind.TOPICS: 6,
}
_FIELD, _GROUP, _LEAVES, _ROWS, _IGNORED = range(5)
_FIXED, _BITS, _BYTES, _LISTS = range(4)
_FORMS: Final = {
    Kind.QUANTITY: (_FIXED,),
    Kind.WORD: (_BYTES,),
    Kind.AMOUNT: (_BYTES, _BYTES, _FIXED),
    Kind.DATA: (_BYTES,),
    Kind.FLAG: (_BITS,),
    Kind.TEXT: (_BYTES,),
    Kind.TOPICS: (_BYTES,) * 4,
}

_MEASURES: Final = {
    "trace_zero_bytes": (c_void_p, c_void_p, c_int64, c_void_p),
    "trace_rlp_of_numbers": (c_void_p, c_int64, c_void_p),
    "trace_rlp_of_strings": (c_void_p, c_void_p, c_int64, c_int32, c_void_p),
    "trace_rlp_of_lists": (c_void_p, c_int64, c_void_p),
    "trace_blooms": (c_void_p, c_void_p, c_void_p, c_int32, c_void_p, c_int64, c_void_p),
}


class _Key(Structure):
    _fields_ = (
        ("name", c_char_p),
        ("length", c_int32),
        ("action", c_int32),
        ("kind", c_int32),
        ("column", c_int32),
        ("size", c_int32),
        ("required", c_int32),
        ("layout", c_int32),
        ("bare", c_int32),
    )


class _Table(Structure):
    _fields_ = (
        ("keys", POINTER(_Key)),
        ("count", c_int32),
        ("keeps_extra", c_int32),
        ("first_column", c_int32),
        ("columns", c_int32),
        ("first_key", c_int32),
        ("owner", c_int32),
    )


class _Column(Structure):
    _fields_ = (
        ("form", c_int64),
        ("count", c_int64),
        ("nulls", c_int64),
        ("valid", c_void_p),
        ("valid_room", c_int64),
        ("offsets", c_void_p),
        ("offsets_room", c_int64),
        ("data", c_void_p),
        ("size", c_int64),
        ("room", c_int64),
    )


class _Extra(Structure):
    _fields_ = (
        ("table", c_int64),
        ("row", c_int64),
        ("key", c_int64),
        ("key_length", c_int64),
        ("value", c_int64),
        ("value_length", c_int64),
    )


class _Shape(Structure):
    _fields_ = (
        ("tables", POINTER(_Table)),
        ("table_count", c_int32),
        ("is_list", c_int32),
        ("column_count", c_int32),
        ("key_count", c_int32),
        ("forms", POINTER(c_int32)),
    )


class _Filled(Structure):
    _fields_ = (
        ("columns", POINTER(_Column)),
        ("column_count", c_int32),
        ("table_count", c_int32),
        ("rows", POINTER(c_int64)),
        ("last", POINTER(c_int32)),
        ("follows", POINTER(c_int32)),
        ("list_ends", POINTER(c_int64)),
        ("calls", POINTER(c_int64)),
        ("results", c_int64),
        ("extras", POINTER(_Extra)),
        ("extra_count", c_int64),
        ("extra_room", c_int64),
    )


@cache
def kernel_library() -> ctypes.CDLL | None:
    """Return the compiled part, or None where it was not built."""
    path = _library_path()
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    library.trace_decode.restype = POINTER(_Filled)
    library.trace_decode.argtypes = (
        c_void_p,
        c_int64,
        POINTER(POINTER(_Shape)),
        c_int32,
        POINTER(c_int32),
        c_int64,
    )
    library.trace_free.restype = None
    library.trace_free.argtypes = (POINTER(_Filled), c_int32)
    library.trace_keep_memory()
    return library


def _library_path() -> Path | None:
    paths = (Path(__file__).with_name(f"_kernel{suffix}") for suffix in EXTENSION_SUFFIXES)
    return next((path for path in paths if path.exists()), None)


@cache
def measures_library() -> ctypes.PyDLL | None:
    """Return the same library for short calls: they keep the interpreter's lock, dear to get back."""
    path = _library_path()
    if path is None:
        return None
    short = ctypes.PyDLL(str(path))
    for name, types in _MEASURES.items():
        getattr(short, name).restype = c_int32 if name == "trace_blooms" else None
        getattr(short, name).argtypes = types
    return short


class KernelDecoder:
    """Reads replies with the compiled part.

    Args:
        library: see ``kernel_library``.

    Attributes:
        name: ``kernel``.
        declined: how many replies went through ``PureDecoder`` instead.
    """

    name = "kernel"

    def __init__(self, library: ctypes.CDLL) -> None:
        self.declined = 0
        self._library = library
        self._pure = PureDecoder()

    def decode(self, reply: bytes | bytearray | memoryview, calls: Sequence[Shape]) -> Decoded:
        """Read the reply to ``calls``; see ``Decoder``."""
        decoded = self.attempt(reply, calls) if FRAMES not in calls and calls else None
        if decoded is None:
            self.declined += 1
            return self._pure.decode(reply, calls)
        return decoded

    def attempt(self, reply: bytes | bytearray | memoryview, calls: Sequence[Shape]) -> Decoded | None:
        """Return what the compiled part makes of a reply, or None where it declines."""
        shapes = list(dict.fromkeys(calls))
        programs = [_program(shape) for shape in shapes]
        pointers = (POINTER(_Shape) * len(shapes))(*(ctypes.pointer(one.shape) for one in programs))
        places = {shape: place for place, shape in enumerate(shapes)}
        shape_of = (c_int32 * len(calls))(*(places[shape] for shape in calls))
        held = pa.py_buffer(reply)
        filled = self._library.trace_decode(
            held.address, held.size, pointers, len(shapes), shape_of, len(calls)
        )
        if not filled:
            return None
        owner = _Owner(self._library, filled, len(shapes))
        return Decoded(
            {
                shape: _Result(program, filled[place], reply, owner).array()
                for place, (shape, program) in enumerate(zip(shapes, programs, strict=True))
            }
        )


class _Owner:
    """Frees the kernel's memory once no array uses it any longer."""

    def __init__(self, library: ctypes.CDLL, filled: Any, count: int) -> None:
        self._library, self._filled, self._count = library, filled, count

    def __del__(self) -> None:
        self._library.trace_free(self._filled, self._count)


class _Program:
    """A shape in the kernel's terms.

    Attributes:
        shape: what the kernel is given.
        layouts: the layout and first column of each table that is no group's, by number.
        group_of: the table around each group's table, and the group's key.
        lists: for each list member of a table, its items' table or column.
    """

    def __init__(self, shape: Shape) -> None:
        self.layout, self.is_list = shape.layout, shape.is_list
        self.forms: list[int] = []
        self.group_of: dict[int, tuple[int, str]] = {}
        self.tables: list[_Table] = []
        self.columns: dict[tuple[int, str], int] = {}
        self.items: dict[tuple[int, str], int] = {}
        self._kept: list[Any] = []
        self._keys = 0
        self._add(shape.layout)
        tables = (_Table * len(self.tables))(*self.tables)
        forms = (c_int32 * len(self.forms))(*self.forms)
        self._kept += [tables, forms]
        self.shape = _Shape(tables, len(tables), int(shape.is_list), len(forms), self._keys, forms)

    def _add(self, layout: Layout) -> int:
        number = self._table()
        first = len(self.forms)
        for member in layout.members:  # a layout's own columns stand side by side
            for one in member.fields if isinstance(member, Group) else (member,):
                self.columns[number, one.column] = len(self.forms)
                self._column(one)
        count = len(self.forms) - first
        keys = [self._key(number, member) for member in layout.members]
        keys += [_key(name, _IGNORED) for name in sorted(layout.ignored)]
        self._finish(number, keys, owner=number, keeps_extra=layout.keeps_extra, first=first, count=count)
        return number

    def _table(self) -> int:
        self.tables.append(_Table())
        return len(self.tables) - 1

    def _finish(
        self, number: int, keys: Sequence[_Key], *, owner: int, keeps_extra: bool, first: int, count: int
    ) -> None:
        array = (_Key * max(1, len(keys)))(*keys)
        self._kept.append(array)
        self.tables[number] = _Table(array, len(keys), int(keeps_extra), first, count, self._keys, owner)
        self._keys += len(keys) + 1

    def _column(self, one: Field | Leaves | Rows) -> None:
        self.forms += _FORMS[one.kind] if isinstance(one, Field) else (_LISTS,)

    def _key(self, number: int, member: Member) -> _Key:
        match member:
            case Field():
                return self._field(number, member)
            case Group():
                table = self._table()
                self.group_of[table] = (number, member.key)
                keys = [self._field(number, one) for one in member.fields]
                self._finish(table, keys, owner=number, keeps_extra=False, first=0, count=0)
                return _key(member.key, _GROUP, layout=table)
            case Leaves():
                item = len(self.forms)
                self.items[number, member.column] = item
                self.forms += _FORMS[member.kind]
                return _key(
                    member.key,
                    _LEAVES,
                    kind=_KINDS[member.kind],
                    column=self.columns[number, member.column],
                    size=member.size,
                    bare=item,
                )
            case Rows():
                table = self._add(member.layout)
                self.items[number, member.column] = table
                names = [one.key for one in member.layout.members]
                bare = -1 if member.bare is None else names.index(member.bare.key)
                return _key(
                    member.key,
                    _ROWS,
                    column=self.columns[number, member.column],
                    required=member.required,
                    layout=table,
                    bare=bare,
                )

    def _field(self, number: int, one: Field) -> _Key:
        return _key(
            one.key,
            _FIELD,
            kind=_KINDS[one.kind],
            column=self.columns[number, one.column],
            size=one.size,
            required=one.required,
        )


def _key(
    name: str,
    action: int,
    *,
    kind: int = 0,
    column: int = 0,
    size: int | None = None,
    required: bool = False,
    layout: int = 0,
    bare: int = -1,
) -> _Key:
    encoded = name.encode()
    return _Key(
        encoded, len(encoded), action, kind, column, -1 if size is None else size, int(required), layout, bare
    )


@cache
def _program(shape: Shape) -> _Program:
    return _Program(shape)


class _Result:
    """What the kernel made of one shape's results.

    Args:
        program: the shape.
        filled: the kernel's columns.
        reply: the reply, for what goes into ``extra``.
        owner: keeps the columns' memory.
    """

    def __init__(
        self, program: _Program, filled: Any, reply: bytes | bytearray | memoryview, owner: _Owner
    ) -> None:
        self._program, self._filled, self._reply, self._owner = program, filled, reply, owner
        self._extras: dict[int, dict[int, dict[str, Any]]] = {}
        for at in range(filled.extra_count):
            self._take_extra(filled.extras[at])

    def array(self) -> pa.Array:
        """Return the results in the order of the calls."""
        filled = self._filled
        rows = self._structs(0, self._program.layout)
        if self._program.is_list:
            offsets = pa.array([0, *filled.list_ends[: filled.results]], pa.int64())
            kind = pa.large_list(pa.field("item", rows.type, nullable=False))
            rows = pa.Array.from_buffers(kind, filled.results, [None, offsets.buffers()[1]], children=[rows])
        calls = filled.calls[: filled.results]
        if all(one < other for one, other in pairwise(calls)):
            return rows
        return rows.take(pa.array(sorted(range(len(calls)), key=calls.__getitem__), pa.int64()))

    def _take_extra(self, extra: _Extra) -> None:
        value = json.loads(bytes(self._reply[extra.value : extra.value + extra.value_length]))
        if value is None:
            return
        name = bytes(self._reply[extra.key : extra.key + extra.key_length]).decode()
        table = extra.table
        if table in self._program.group_of:
            table, group = self._program.group_of[table]
            name = f"{group}.{name}"
        self._extras.setdefault(table, {}).setdefault(extra.row, {})[name] = value

    def _structs(self, table: int, layout: Layout) -> pa.StructArray:
        count = self._filled.rows[table]
        columns = [column for member in layout.members for column in self._member(table, member)]
        if layout.keeps_extra:
            columns.append(self._extra(table, count))
        return pa.Array.from_buffers(arrow_type(layout), count, [None], children=columns)

    def _member(self, table: int, member: Member) -> Iterator[pa.Array]:
        match member:
            case Field():
                yield from self._fields(self._program.columns[table, member.column], member.kind)
            case Group():
                for one in member.fields:
                    yield from self._fields(self._program.columns[table, one.column], one.kind)
            case Leaves():
                (items,) = self._fields(self._program.items[table, member.column], member.kind)
                yield self._list(table, member.column, items)
            case Rows():
                rows = self._structs(self._program.items[table, member.column], member.layout)
                yield self._list(table, member.column, rows)

    def _list(self, table: int, name: str, items: pa.Array) -> pa.Array:
        column = self._filled.columns[self._program.columns[table, name]]
        kind = pa.large_list(pa.field("item", items.type, nullable=False))
        buffers = [self._validity(column), self._offsets(column)]
        return pa.Array.from_buffers(kind, column.count, buffers, column.nulls, children=[items])

    def _fields(self, first: int, kind: Kind) -> Iterator[pa.Array]:
        for at, type_ in enumerate(_types(kind)):
            column = self._filled.columns[first + at]
            buffers = [self._validity(column)]
            if column.form == _BYTES:
                buffers.append(self._offsets(column))
            size = (column.count + 7) // 8 if column.form == _BITS else column.size
            buffers.append(self._buffer(column.data, size))
            yield pa.Array.from_buffers(type_, column.count, buffers, column.nulls)

    def _validity(self, column: _Column) -> pa.Buffer | None:
        return self._buffer(column.valid, (column.count + 7) // 8) if column.nulls else None

    def _offsets(self, column: _Column) -> pa.Buffer:
        return (
            self._buffer(column.offsets, 8 * (column.count + 1)) if column.count else pa.py_buffer(bytes(8))
        )

    def _buffer(self, address: int | None, size: int) -> pa.Buffer:
        return pa.foreign_buffer(address, size, self._owner) if address and size else pa.py_buffer(b"")

    def _extra(self, table: int, count: int) -> pa.Array:
        found: Mapping[int, dict[str, Any]] = self._extras.get(table, {})
        if not found:
            return pa.nulls(count, pa.large_string())
        return pa.array(
            [extra_text(found[row]) if row in found else None for row in range(count)], pa.large_string()
        )


@cache
def _types(kind: Kind) -> tuple[pa.DataType, ...]:
    return tuple(one.type for one in arrow_type(Layout("one", (Field("a", "a", kind),), keeps_extra=False)))
