"""From Cryo's files, chunk by chunk as they come, to verified rows in the files of the result."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.chain.rows import normalised
from trace_dagster.errors import EngineFailed
from trace_dagster.operators.base import Progress
from trace_dagster.operators.cryo_ingest.chain_reader import ChainReader
from trace_dagster.operators.cryo_ingest.cryo_collect import CryoPass
from trace_dagster.operators.cryo_ingest.engines import Extracted, Extraction
from trace_dagster.operators.cryo_ingest.verify import RangeVerifier
from trace_dagster.operators.cryo_ingest.writer import DatasetWriter
from trace_dagster.rpc import RpcConnections

__all__ = ["Assembly"]


class Assembly:
    """Takes chunks in the order of their blocks; a context manager, which deletes its files after an error.

    Args:
        work: what is extracted.
        rpc: what the rows are checked against.
        progress: where to report.
    """

    def __init__(self, work: Extraction, rpc: RpcConnections, progress: Progress) -> None:
        self._work, self._progress = work, progress
        self._passes: Sequence[CryoPass] = ()
        self._waiting: deque[BlockRange] = deque()
        self._verifier = RangeVerifier(ChainReader(rpc, work.range.start_block), work.datasets, work.filters)
        self._writers: dict[str, DatasetWriter] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def expect(self, passes: Sequence[CryoPass]) -> None:
        """Go on with the chunks of ``passes``, which follow those before."""
        self._passes = passes
        self._waiting.extend(passes[0].chunks)

    def take_next(self) -> bool:
        """Verify and write the next chunk, if all its files are there; return whether they were.

        Raises:
            DataMismatch: its rows disagree with the chain.
            EngineFailed: one of its files cannot be used.
            TraceError: the endpoint or the disk fail, or the deadline has passed.
        """
        if not self._waiting or not all(path.exists() for _, path in self._files(self._waiting[0])):
            return False
        chunk = self._waiting.popleft()
        run = self._verifier.read(chunk)
        for dataset, path in self._files(chunk):
            table = _read(dataset, path)
            self._writer(dataset, table.schema).write(self._verifier.verify(dataset, table, run))
            path.write_bytes(b"")  # its place is kept, or a further run of Cryo would collect it again
        done = chunk.end_block - self._work.range.start_block + 1
        self._progress("Verified against the chain", blocks=done, of=self._work.range.blocks)
        return True

    def take_all(self) -> None:
        """Take every chunk that is expected.

        Raises:
            EngineFailed: a chunk is missing.
            TraceError: as for ``take_next``.
        """
        while self.take_next():
            self._work.deadline.check()
        if self._waiting:
            raise EngineFailed(f"Cryo's files of blocks {self._waiting[0].key} are missing")

    def finish(self) -> tuple[Extracted, ...]:
        """Return the result of all chunks."""
        return tuple(
            Extracted(
                dataset=dataset,
                files=self._writers[dataset].finish(),
                schema=self._writers[dataset].schema,
                facts=self._verifier.facts,
                checks=self._verifier.checks(dataset),
            )
            for dataset in self._work.datasets
        )

    def _files(self, chunk: BlockRange) -> Iterator[tuple[str, Path]]:
        return ((dataset, one.file(dataset, chunk)) for one in self._passes for dataset in one.datasets)

    def _writer(self, dataset: str, schema: pa.Schema) -> DatasetWriter:
        if dataset not in self._writers:
            writer = DatasetWriter(
                destination=self._work.files_of(dataset),
                dataset=dataset,
                range=self._work.range,
                schema=schema,
                deadline=self._work.deadline,
            )
            self._writers[dataset] = self._stack.enter_context(writer)
        return self._writers[dataset]


def _read(dataset: str, path: Path) -> pa.Table:
    try:
        return normalised(dataset, pq.read_table(path))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise EngineFailed(f"Cryo's file {path.name} cannot be used: {error}") from None
