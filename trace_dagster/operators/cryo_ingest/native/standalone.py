"""The engine as a command, without Dagster and without a ledger: the same rows, objects and versions."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import DataMismatch
from trace_dagster.operators.base import Deadline, Progress, Task
from trace_dagster.operators.cryo_ingest.config import CryoIngestConfig
from trace_dagster.operators.cryo_ingest.destinations import StoreUploads
from trace_dagster.operators.cryo_ingest.engines import Extraction, ExtractionResult
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

__all__ = ["ChunkDone", "StandaloneExtraction"]


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
        before: Manifest | None = None
        for chunk in self.range.split(self.chunk_size):
            ids = {
                dataset: dataset_id(self._task(chunk), dataset, engine) for dataset in self.config.datasets
            }
            done = self._committed(ids)
            missing = {dataset: one for dataset, one in ids.items() if dataset not in done}
            result = None
            if missing:
                made, result = self._extract(engine, chunk, missing, progress)
                done |= made
            manifests = {dataset: done[dataset] for dataset in self.config.datasets}
            for manifest in manifests.values():
                _check_follows(manifest, before)
            before = manifests[self.config.datasets[0]]
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
        self, engine: NativeEngine, chunk: BlockRange, ids: Mapping[str, DatasetId], progress: Progress
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


def _check_follows(manifest: Manifest, before: Manifest | None) -> None:
    if before is not None and manifest.first_parent_hash != before.last_block_hash:
        raise DataMismatch(
            f"{manifest.dataset} {manifest.range.key} begins with the parent {manifest.first_parent_hash}, "
            f"but {before.range.key} ends with {before.last_block_hash}: a reorganisation in between? Remove "
            "the _manifest.json of the one that is not canonical, and extract again"
        )
