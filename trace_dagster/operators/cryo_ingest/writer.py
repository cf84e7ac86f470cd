"""Deterministic Parquet: the same rows in the same order give the same bytes, however they are batched.

Row groups hold up to 65,536 rows, less where rows are long; compression is zstd level 1; a column is
dictionary-encoded where the first rows show few different values; statistics are kept of numbers only, since
those of hashes and addresses skip nothing. Files hold no pandas metadata, time, host or path.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Final, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import DataMismatch, TraceError
from trace_dagster.operators.base import Deadline
from trace_dagster.operators.cryo_ingest.destinations import Destination, OpenFile
from trace_dagster.store import Content

__all__ = ["WRITER_SETTINGS", "DatasetWriter", "WriterLimits", "write_dataset"]


@dataclass(frozen=True)
class WriterLimits:
    """How rows are cut into files and row groups. All of it changes bytes.

    Attributes:
        max_rows: most rows of a file.
        max_bytes: most bytes of a file. A single row that is larger has a file of its own.
        group_rows: most rows of a row group.
        group_bytes: most bytes of a row group before encoding.
    """

    max_rows: int = 16 * 2**20
    max_bytes: int = 256 * 2**20
    group_rows: int = 65_536
    group_bytes: int = 32 * 2**20


_COMPRESSION: Final = "zstd"
_COMPRESSION_LEVEL: Final = 1
_SAMPLE_ROWS: Final = 4_096
_SAMPLE_SHARE: Final = 4
"""A column of the sample is of low cardinality where at most one in so many values is distinct."""

_CHUNK_OVERHEAD: Final = 512
"""Bytes a column chunk needs beside its values, at most: page headers and its entry in the footer."""

_FILE_OVERHEAD: Final = 4_096
_VALUE_OVERHEAD: Final = 8
"""Bytes a value needs beside itself, at most: its length, its level and its place in a dictionary."""

_NESTED_VALUE_BYTES: Final = 64

WRITER_SETTINGS: Final = {
    **asdict(WriterLimits()),
    "format": 1,
    "compression": f"{_COMPRESSION}-{_COMPRESSION_LEVEL}",
    "dictionary": f"1/{_SAMPLE_SHARE} of {_SAMPLE_ROWS}",
    "statistics": "numbers",
}
"""Everything here that changes bytes, for the config hash."""


@dataclass
class DatasetWriter:
    """Writes the rows of one dataset and range into files, in the order they come.

    A context manager: leaving it with an error, or without ``finish``, deletes what was written.

    Attributes:
        destination: where the files go; it has room to be checked after every row group.
        dataset: its canonical name.
        range: the blocks, both ends inclusive; only for messages.
        schema: Arrow schema of the files; its metadata is dropped.
        limits: how rows are cut.
        deadline: checked before every row group.
    """

    destination: Destination
    dataset: str
    range: BlockRange
    schema: pa.Schema
    limits: WriterLimits = field(default_factory=WriterLimits)
    deadline: Deadline = field(default_factory=lambda: Deadline.after(None))

    def __post_init__(self) -> None:
        self.schema = self.schema.remove_metadata()
        self._pending: list[pa.Table] = []
        self._pending_rows = self._pending_bytes = 0
        self._files: list[Content] = []
        self._open: _ParquetFile | None = None
        self._dictionary: list[str] | None = None
        self._finished = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            with suppress(OSError, TraceError):  # what stopped the work is what counts
                self._open.close()
        if kind is not None or not self._finished:
            self.destination.discard()

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Add ``rows``, after all those before.

        Raises:
            DataMismatch: the rows have other columns or types than ``schema``.
            DeadlineExceeded: the deadline has passed.
            StagingFull: the limits of staging or its disk are used up.
        """
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
        if not table.schema.equals(self.schema):
            raise DataMismatch(f"{self.dataset} {self.range.key}: {_difference(table.schema, self.schema)}")
        if not table.num_rows:
            return
        self._pending.append(table)
        self._pending_rows += table.num_rows
        self._pending_bytes += table.nbytes + _VALUE_OVERHEAD * len(self.schema) * table.num_rows
        while self._pending_rows >= self._group_rows or self._pending_bytes > self._group_bytes:
            if not self._write_group():
                break

    def finish(self) -> tuple[Content, ...]:
        """Write what is left and return the files in the order of their rows: at least one, maybe empty.

        Raises:
            DeadlineExceeded: the deadline has passed.
            StagingFull: the limits of staging or its disk are used up.
        """
        while self._pending_rows:
            self._write_group(last=True)
        with self.destination.failures_explained():
            if not self._files:
                self._file_for(self.schema.empty_table(), 0)
            self._close_file()
            self.destination.check()
        self._finished = True
        return tuple(self._files)

    @property
    def _overhead(self) -> int:
        return _FILE_OVERHEAD + 2 * _CHUNK_OVERHEAD * len(self.schema)

    @property
    def _group_bytes(self) -> int:
        return min(self.limits.group_bytes, self.limits.max_bytes - self._overhead)

    @property
    def _group_rows(self) -> int:
        return min(self.limits.group_rows, self.limits.max_rows)

    def _write_group(self, *, last: bool = False) -> bool:
        """Write the next row group, at least one row, if the pending rows fill one or are the last."""
        self.deadline.check()
        pending = pa.concat_tables(self._pending)
        count, size, total = self._fitting(pending)
        if count == pending.num_rows < self._group_rows and not last:
            self._pending, self._pending_bytes = [pending], total  # it was only an estimate
            return False
        group, rest = pending.slice(0, count), pending.slice(count)
        with self.destination.failures_explained():
            self._file_for(group, size).write(group.combine_chunks())
            self.destination.check()
        self._pending = [rest] if rest.num_rows else []
        self._pending_rows -= count
        self._pending_bytes = total - size
        return True

    def _fitting(self, table: pa.Table) -> tuple[int, int, int]:
        """Return how many of the first rows make the next group, their bytes, and those of all rows."""
        total = _table_bytes(table)
        if table.num_rows <= self._group_rows and total <= self._group_bytes:
            return table.num_rows, total, total
        sizes = pc.cumulative_sum(_row_bytes(table.slice(0, self._group_rows)))
        count = max(1, pc.sum(pc.less_equal(sizes, self._group_bytes)).as_py())
        return count, sizes[count - 1].as_py(), total

    def _has_room(self, file: "_ParquetFile", rows: int, size: int) -> bool:
        chunks = _CHUNK_OVERHEAD * len(self.schema) * (file.groups + 1)
        return (
            file.rows + rows <= self.limits.max_rows
            and file.bytes + size + chunks + self._overhead <= self.limits.max_bytes
        )

    def _file_for(self, group: pa.Table, size: int) -> "_ParquetFile":
        """Return the open file, a new one where ``group`` would make it too large."""
        if self._open is not None and not self._has_room(self._open, group.num_rows, size):
            self._close_file()
        if self._open is None:
            if self._dictionary is None:
                self._dictionary = _low_cardinality(group.slice(0, _SAMPLE_ROWS))
            file = self.destination.open(len(self._files) + 1)
            self._open = _ParquetFile(file, self.schema, self._dictionary)
        return self._open

    def _close_file(self) -> None:
        if self._open is None:
            return
        self._open.close()
        self._files.append(self._open.finished())
        self._open = None


class _ParquetFile:
    """A Parquet file being written."""

    def __init__(self, file: OpenFile, schema: pa.Schema, dictionary: list[str]) -> None:
        self.rows = self.groups = 0
        self._file = file
        self._writer = pq.ParquetWriter(
            file.stream,
            schema,
            version="2.6",
            compression=_COMPRESSION,
            compression_level=_COMPRESSION_LEVEL,
            use_dictionary=dictionary or False,
            write_statistics=[name for name, type_ in _fields(schema) if pa.types.is_primitive(type_)]
            or False,
        )

    @property
    def bytes(self) -> int:
        return int(self._file.stream.tell())

    def write(self, group: pa.Table) -> None:
        self._writer.write_table(group, row_group_size=group.num_rows)
        self.rows += group.num_rows
        self.groups += 1

    def close(self) -> None:
        try:
            self._writer.close()
        finally:
            self._file.stream.close()

    def finished(self) -> Content:
        return self._file.finished(self.rows)


def write_dataset(writer: DatasetWriter, tables: Iterable[pa.Table | pa.RecordBatch]) -> tuple[Content, ...]:
    """Write all ``tables`` with ``writer`` and return the files; after an error nothing is left of them."""
    with writer:
        for table in tables:
            writer.write(table)
        return writer.finish()


def _fields(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    return ((item.name, item.type) for item in schema)


def _difference(actual: pa.Schema, expected: pa.Schema) -> str:
    have = [f"{name} {type_}" for name, type_ in _fields(actual)]
    want = [f"{name} {type_}" for name, type_ in _fields(expected)]
    extra = [one for one in have if one not in want]
    missing = [one for one in want if one not in have]
    if not extra and not missing:
        return f"columns are in another order than expected: {', '.join(have)} instead of {', '.join(want)}"
    return f"rows have columns {', '.join(extra) or 'none'} instead of {', '.join(missing) or 'none'}"


def _table_bytes(table: pa.Table) -> int:
    """Return the sum of ``_row_bytes``."""
    lengths = (_lengths(table.column(name), type_) for name, type_ in _variable(table.schema))
    variable: int = sum(pc.sum(length, min_count=0).as_py() for length in lengths)
    rows: int = table.num_rows
    return variable + _fixed_bytes(table.schema) * rows


def _row_bytes(table: pa.Table) -> pa.ChunkedArray:
    """Return an upper bound of each row's bytes before compression; batches do not change it."""
    fixed = pa.scalar(_fixed_bytes(table.schema), pa.int64())
    sizes = pa.chunked_array([pa.repeat(fixed, table.num_rows)])
    for name, type_ in _variable(table.schema):
        sizes = pc.add(sizes, pc.fill_null(pc.cast(_lengths(table.column(name), type_), pa.int64()), 0))
    return sizes


def _is_fixed(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_primitive(type_) or pa.types.is_decimal(type_) or pa.types.is_fixed_size_binary(type_)
    )


def _variable(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    return ((name, type_) for name, type_ in _fields(schema) if not _is_fixed(type_))


def _fixed_bytes(schema: pa.Schema) -> int:
    widths: int = sum((type_.bit_width + 7) // 8 for _, type_ in _fields(schema) if _is_fixed(type_))
    return widths + _VALUE_OVERHEAD * len(schema)


def _lengths(column: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    """Return the bytes of each value; null for a null."""
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return pc.multiply(pc.cast(pc.list_value_length(column), pa.int64()), _NESTED_VALUE_BYTES)
    if pa.types.is_nested(type_) or pa.types.is_dictionary(type_) or pa.types.is_null(type_):
        return pc.if_else(pc.is_null(column), 0, _NESTED_VALUE_BYTES)
    return pc.binary_length(column)


def _low_cardinality(sample: pa.Table) -> list[str]:
    """Return the columns whose values repeat in ``sample``."""
    return [
        name
        for name, type_ in _fields(sample.schema)
        if not pa.types.is_nested(type_)
        and not pa.types.is_boolean(type_)
        and pc.count_distinct(sample.column(name), mode="all").as_py() * _SAMPLE_SHARE <= sample.num_rows
    ]
