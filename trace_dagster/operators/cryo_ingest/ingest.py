"""One attempt at a partition: extract, check that it joins what is committed, commit."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trace_dagster.errors import EngineFailed
from trace_dagster.operators.base import Deadline, OutputResult, Progress, Task
from trace_dagster.operators.cryo_ingest.config import CryoIngestConfig
from trace_dagster.operators.cryo_ingest.destinations import StoreUploads
from trace_dagster.operators.cryo_ingest.engines import Engine, Extracted, Extraction
from trace_dagster.operators.cryo_ingest.joins import Joins, check_same_blocks
from trace_dagster.operators.cryo_ingest.results import Figures, made
from trace_dagster.operators.cryo_ingest.staging import StagingLimits, staging_directory
from trace_dagster.rpc.spending import SpendingWatch
from trace_dagster.store import DatasetId, Manifest, StagedDataset

if TYPE_CHECKING:
    from trace_dagster.ledger import Attempt
    from trace_dagster.operators.services import Services

__all__ = ["Ingestion"]


@dataclass(frozen=True)
class Ingestion:
    """One attempt.

    Attributes:
        task: what is asked for.
        services: store, ledger and settings.
        engine: what extracts.
        ids: the versions to make, by dataset.
        beside: the versions of the same partition that are committed already, those not asked for too.
        is_revised: as of ``Joins``.
        is_outdated: as of ``Joins``.
        attempt: the lease.
        deadline: when to give up.
        progress: where to report.
    """

    task: Task
    services: "Services"
    engine: Engine
    ids: Mapping[str, DatasetId]
    beside: Sequence[Manifest]
    is_revised: bool
    is_outdated: Callable[[Manifest], bool]
    attempt: "Attempt"
    deadline: Deadline
    progress: Progress

    def run(self) -> dict[str, OutputResult]:
        """Return the committed versions, by dataset.

        Raises:
            TraceError: the attempt failed; what is committed is complete.
        """
        begun = time.monotonic()
        with self._scratch() as staging, self._uploads() as uploads:
            work = self._work(staging, uploads)
            spending = SpendingWatch.of(work.endpoint)
            result = self.engine.extract(work, self.progress)
            self.task.fetched()
            if [one.dataset for one in result.outputs] != list(self.ids):
                raise EngineFailed(
                    f"engine {self.engine.name} gave {[one.dataset for one in result.outputs]} instead of "
                    f"{list(self.ids)}"
                )
            check_same_blocks(self.task.partition, result.outputs[0], self.beside)
            joins = [self._joins(one) for one in result.outputs]
            for one in joins:
                one.check()
            manifests = {}
            for one in joins:
                self.deadline.check()
                staged = self._staged(one.extracted)
                published = self.services.replace.commit(self.attempt, staged, one.check)
                manifests[one.extracted.dataset] = published.manifest
        figures = Figures(
            seconds=time.monotonic() - begun,
            rpc_requests=result.rpc_requests,
            attempt=self.attempt.number,
            unjoined=tuple(sorted({key for one in joins for key in one.unjoined})),
            told=result.metadata,
            rpc_credits=None if spending is None else spending.spent(),
        )
        return {dataset: made(manifest, self.services, figures) for dataset, manifest in manifests.items()}

    @contextmanager
    def _scratch(self) -> Iterator[Path | None]:
        """Give a staging directory for the length of the block, where the engine needs one."""
        if self.engine.streams:
            yield None
            return
        settings = self.services.settings
        with staging_directory(
            settings.staging_dir, self.task.key, self.attempt.number, settings.staging_max_age_hours
        ) as place:
            yield place

    @contextmanager
    def _uploads(self) -> Iterator[Mapping[str, StoreUploads]]:
        """Give each dataset a way into the store, where the engine streams; drop what is not committed."""
        if not self.engine.streams:
            yield {}
            return
        store = self.services.store
        self.attempt.announce(store.url, [one.prefix for one in self.ids.values()])
        uploads = {
            dataset: StoreUploads(store, one.prefix, self.attempt.still_mine)
            for dataset, one in self.ids.items()
        }
        with ExitStack() as stack:
            for upload in uploads.values():
                stack.callback(upload.discard)
            yield uploads

    def _work(self, staging: Path | None, uploads: Mapping[str, StoreUploads]) -> Extraction:
        config: CryoIngestConfig = self.task.config
        settings = self.services.settings
        return Extraction(
            chain_id=config.chain_id,
            datasets=tuple(self.ids),
            range=self.task.partition,
            staging=staging,
            deadline=self.deadline,
            endpoint=settings.rpc_endpoint(config.rpc_pool or "").asked_by(
                f"{self.task.dag}/{self.task.job}", self.task.partition.key
            )
            if self.engine.needs_endpoint
            else None,
            filters=config.filters,
            limits=StagingLimits(max_files=settings.staging_max_files, max_bytes=settings.staging_max_bytes),
            uploads=uploads,
            fetched=self.task.fetched,
        )

    def _joins(self, extracted: Extracted) -> Joins:
        return Joins(
            replace=self.services.replace,
            id=self.ids[extracted.dataset],
            extracted=extracted,
            synthetic=self.engine.synthetic,
            is_revised=self.is_revised,
            is_outdated=self.is_outdated,
        )

    def _staged(self, extracted: Extracted) -> StagedDataset:
        return StagedDataset(
            id=self.ids[extracted.dataset],
            files=extracted.files,
            schema=extracted.schema,
            engine=self.engine.name,
            synthetic=self.engine.synthetic,
            first_block_hash=extracted.facts.first_block_hash,
            last_block_hash=extracted.facts.last_block_hash,
            first_parent_hash=extracted.facts.first_parent_hash,
            checks=extracted.checks,
        )
