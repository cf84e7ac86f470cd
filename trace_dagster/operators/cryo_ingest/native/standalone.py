"""The engine as a command, without Dagster and without a ledger: the same rows, objects and versions."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import DataMismatch
from trace_dagster.operators.base import Deadline, Progress, Task
from trace_dagster.operators.cryo_ingest.config import CryoIngestConfig
from trace_dagster.operators.cryo_ingest.destinations import StoreUploads
from trace_dagster.operators.cryo_ingest.engines import (
    Extracted,
    Extraction,
    ExtractionResult,
    RangeFacts,
)
from trace_dagster.operators.cryo_ingest.joins import check_neighbour, check_same_blocks
from trace_dagster.operators.cryo_ingest.native.engine import NativeEngine
from trace_dagster.operators.cryo_ingest.native.fetch import FetchLimits
from trace_dagster.operators.cryo_ingest.operator import dataset_id
from trace_dagster.settings import RpcEndpoint
from trace_dagster.store import (
    DatasetId,
    Manifest,
    ObjectStore,
    StagedDataset,
    publish,
    read_manifest,
    verify,
)
from trace_dagster.store.ids import MANIFEST_NAME, ObjectPath, dataset_prefix
from trace_dagster.store.manifest import load_manifest

__all__ = ["ChunkDone", "StandaloneExtraction"]

_MEND: Final = (
    "the chain was reorganised, or an endpoint served another branch: remove the _manifest.json of the range "
    "that is not canonical, and extract it again"
)


@dataclass(frozen=True)
class ChunkDone:
    """One chunk, committed.

    Attributes:
        range: its blocks.
        manifests: by dataset.
        result: what the engine did; None where all was committed before.
    """

    range: BlockRange
    manifests: Mapping[str, Manifest]
    result: ExtractionResult | None


@dataclass(frozen=True)
class StandaloneExtraction:
    """A range, cut into chunks, each committed on its own.

    Attributes:
        config: what to extract; its engine is ``native``.
        range: the blocks, both ends inclusive.
        chunk_size: blocks of a chunk.
        endpoint: where to ask.
        store: where to.
    """

    config: CryoIngestConfig
    range: BlockRange
    chunk_size: int
    endpoint: RpcEndpoint
    store: ObjectStore

    def run(self, progress: Progress) -> Iterator[ChunkDone]:
        """Yield the chunks as they are committed; what is committed already is verified and kept.

        Raises:
            DataMismatch: chunks do not follow each other, or a committed object is damaged.
            TraceError: a chunk failed; those before stay.
        """
        engine = NativeEngine(FetchLimits(self.config.max_concurrent_requests, self.config.max_memory_bytes))
        there = _There(self.store, self.config.chain_id)
        for chunk in self.range.split(self.chunk_size):
            ids = {
                dataset: dataset_id(self._task(chunk), dataset, engine) for dataset in self.config.datasets
            }
            done = self._committed(ids)
            missing = {dataset: one for dataset, one in ids.items() if dataset not in done}
            result = None
            if missing:
                made, result = self._extract(engine, chunk, missing, there, progress)
                done |= made
            manifests = {dataset: done[dataset] for dataset in self.config.datasets}
            if result is None:
                there.check_committed(manifests)
            there.add(manifests)
            yield ChunkDone(chunk, manifests, result)

    def _task(self, chunk: BlockRange) -> Task:
        return Task(
            dag="",
            job="",
            partition=chunk,
            outputs=self.config.datasets,
            config=self.config,
            timeout_seconds=None,
            lease_seconds=0,
            force=False,
            run_id="",
        )

    def _committed(self, ids: Mapping[str, DatasetId]) -> dict[str, Manifest]:
        found = {}
        for dataset, one in ids.items():
            manifest = read_manifest(self.store, one)
            if manifest is not None:
                verify(self.store, manifest)
                found[dataset] = manifest
        return found

    def _extract(
        self,
        engine: NativeEngine,
        chunk: BlockRange,
        ids: Mapping[str, DatasetId],
        there: "_There",
        progress: Progress,
    ) -> tuple[dict[str, Manifest], ExtractionResult]:
        with ExitStack() as stack:
            uploads = {
                dataset: StoreUploads(self.store, one.prefix, _nothing) for dataset, one in ids.items()
            }
            for upload in uploads.values():
                stack.callback(upload.discard)
            work = Extraction(
                chain_id=self.config.chain_id,
                datasets=tuple(ids),
                range=chunk,
                staging=None,
                deadline=Deadline.after(None),
                endpoint=self.endpoint,
                filters=self.config.filters,
                uploads=uploads,
            )
            result = engine.extract(work, progress)
            there.check_same_blocks(chunk, result.outputs[0], but=ids)
            for one in result.outputs:
                there.check_neighbours(chunk, one)
            manifests = {}
            for one in result.outputs:
                staged = StagedDataset(
                    id=ids[one.dataset],
                    files=one.files,
                    schema=one.schema,
                    engine=engine.name,
                    synthetic=False,
                    first_block_hash=one.facts.first_block_hash,
                    last_block_hash=one.facts.last_block_hash,
                    first_parent_hash=one.facts.first_parent_hash,
                    checks=one.checks,
                )
                manifests[one.dataset] = publish(self.store, staged, _nothing).manifest
        return manifests, result


def _nothing() -> None:
    """Hold no lease: nobody else is kept away; equal content under one name is."""


class _There:
    """What is committed beside the blocks of a run, which it must join.

    Where several versions hold a range, one that joins is enough: only a ledger knows which is current.

    Args:
        store: where.
        chain_id: of the chain.
    """

    def __init__(self, store: ObjectStore, chain_id: int) -> None:
        self._store, self._chain_id = store, chain_id
        self._datasets = store.folders(f"cryo/{chain_id}")
        self._ranges: dict[str, list[BlockRange]] = {}

    def check_same_blocks(self, chunk: BlockRange, extracted: Extracted, but: Collection[str]) -> None:
        """Check rows against what is committed of the same blocks, of datasets ``but`` some.

        Raises:
            DataMismatch: it is of another branch.
        """
        for dataset in self._datasets:
            if dataset not in but:
                same = self._manifests(dataset, chunk)
                _any(same, lambda other: check_same_blocks(chunk, extracted, [other], _MEND))

    def check_neighbours(self, chunk: BlockRange, extracted: Extracted) -> None:
        """Check rows against the blocks before and behind them.

        Raises:
            DataMismatch: they are of another branch.
        """
        for neighbour in self._neighbours(extracted.dataset, chunk):
            _any(
                self._manifests(extracted.dataset, neighbour),
                lambda other: check_neighbour(chunk, extracted, other, _MEND),
            )

    def check_committed(self, manifests: Mapping[str, Manifest]) -> None:
        """Check rows that were committed before, in the same way.

        Raises:
            DataMismatch: as above.
        """
        committed = [_extracted(one) for one in manifests.values()]
        chunk = next(iter(manifests.values())).range
        check_same_blocks(chunk, committed[0], manifests.values(), _MEND)
        for one in committed:
            self.check_neighbours(chunk, one)

    def add(self, manifests: Mapping[str, Manifest]) -> None:
        """Count versions as there that are committed now."""
        for dataset, manifest in manifests.items():
            known = self._known(dataset)
            if manifest.range not in known:
                known.append(manifest.range)

    def _neighbours(self, dataset: str, chunk: BlockRange) -> list[BlockRange]:
        ends = (chunk.start_block - 1, chunk.end_block + 1)
        return [one for one in self._known(dataset) if one.end_block == ends[0] or one.start_block == ends[1]]

    def _known(self, dataset: str) -> list[BlockRange]:
        if dataset not in self._ranges:
            names = self._store.folders(dataset_prefix(self._chain_id, dataset))
            self._ranges[dataset] = [one for name in names if (one := _range_of(name)) is not None]
        return self._ranges[dataset]

    def _manifests(self, dataset: str, blocks: BlockRange) -> list[Manifest]:
        folder = f"{dataset_prefix(self._chain_id, dataset)}/{blocks.key}"
        paths = [ObjectPath.parse(item.path) for item in self._store.walk(folder)]
        found = [
            load_manifest(self._store, path.prefix)
            for path in paths
            if path is not None and path.name == MANIFEST_NAME
        ]
        return [one for one in found if one is not None and not one.synthetic]


def _extracted(manifest: Manifest) -> Extracted:
    facts = RangeFacts(manifest.first_block_hash, manifest.last_block_hash, manifest.first_parent_hash)
    return Extracted(manifest.dataset, (), pa.schema([]), facts)


def _range_of(folder: str) -> BlockRange | None:
    try:
        return BlockRange.parse(folder)
    except ValueError:
        return None


def _any(manifests: Sequence[Manifest], check: Callable[[Manifest], None]) -> None:
    """Raise what the last check raises where none of them passes."""
    for place, manifest in enumerate(manifests, 1):
        try:
            check(manifest)
        except DataMismatch:
            if place == len(manifests):
                raise
        else:
            return
