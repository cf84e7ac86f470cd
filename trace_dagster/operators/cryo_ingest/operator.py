"""``cryo_ingest``: bounded chain data to Parquet, one committed dataset version a partition and dataset."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trace_dagster import metadata
from trace_dagster.chain.datasets import filters_of
from trace_dagster.chain.schemas import columns_of, fingerprint, schema_of
from trace_dagster.errors import ConfigurationError, DataMismatch, EngineFailed
from trace_dagster.operators.base import Deadline, MetadataValue, OutputResult, Progress, Task
from trace_dagster.operators.cryo_ingest.config import CryoIngestConfig
from trace_dagster.operators.cryo_ingest.cryo import CryoEngine
from trace_dagster.operators.cryo_ingest.engines import Engine, Extracted, Extraction
from trace_dagster.operators.cryo_ingest.joins import (
    check_neighbour,
    check_same_blocks,
    is_replaced_too,
)
from trace_dagster.operators.cryo_ingest.staging import (
    StagingLimits,
    remove_dead_attempts,
    staging_directory,
)
from trace_dagster.operators.cryo_ingest.stub import StubEngine
from trace_dagster.operators.cryo_ingest.writer import WRITER_SETTINGS
from trace_dagster.settings import Settings
from trace_dagster.spec.catalog import OutputDeclaration, RangePlan, RangeProblem
from trace_dagster.store import JSON, DatasetId, Manifest, StagedDataset, config_hash

if TYPE_CHECKING:
    from trace_dagster.ledger import Attempt
    from trace_dagster.operators.services import Services

__all__ = ["CryoIngest"]


@dataclass(frozen=True)
class _Figures:
    """What an attempt took, beside what it committed.

    Attributes:
        seconds: wall time.
        rpc_requests: JSON-RPC requests of all the partition's datasets; None where it is not known.
        attempt: number of the attempt, from 1.
        unjoined: ranges beside the partition that are of a branch which it replaces.
    """

    seconds: float
    rpc_requests: int | None
    attempt: int
    unjoined: tuple[str, ...]


class CryoIngest:
    """Ingests block ranges with an engine, checks them, and commits them to the object store."""

    name = "cryo_ingest"
    description = "Historical chain data, as Parquet in the object store."
    config_model = CryoIngestConfig
    activations = frozenset({"reactive"})
    source_kinds: frozenset[str] = frozenset()
    update_strategies = frozenset({"replace"})
    default_unique_key: tuple[str, ...] = ()
    subsettable = True
    runnable = True

    def outputs(self, config: CryoIngestConfig) -> tuple[OutputDeclaration, ...]:
        """Return one output for each dataset, in the config's order."""
        return tuple(
            OutputDeclaration(
                name=dataset,
                description=f"Cryo's `{dataset}` of chain {config.chain_id}, by block range.",
                columns=columns_of(dataset),
                place=f"cryo/{config.chain_id}/{dataset}",
                kinds=("parquet",),
                facts={metadata.CHAIN_ID: config.chain_id, metadata.DATASET: dataset},
            )
            for dataset in config.datasets
        )

    def plan_ranges(self, job: str, config: CryoIngestConfig, upstream: RangePlan | None) -> RangePlan:  # noqa: ARG002
        """Return the input's ranges.

        Raises:
            RangeProblem: the input has none.
        """
        if upstream is None:
            raise RangeProblem(
                ("inputs",),
                f"{job} ingests block ranges, but its input has none",
                "read from a range_request or a range_splitter",
            )
        return upstream

    def estimate_rpc_requests(self, config: CryoIngestConfig, blocks: int) -> int | None:
        """Return about how many JSON-RPC requests Cryo and the checks make; None for the stub engine.

        Cryo asks for each block once a dataset, for blocks and transactions together, and once more for the
        receipts of transactions; the checks ask for each header, and for its receipts where transactions or
        logs are ingested.
        """
        if config.engine == "stub":
            return None
        together = {"blocks", "transactions"} <= set(config.datasets)
        cryo = len(config.datasets) - together + ("transactions" in config.datasets)
        checks = 2 if {"transactions", "logs"} & set(config.datasets) else 1
        return blocks * (cryo + checks)

    def run(self, task: Task, services: "Services", progress: Progress) -> Sequence[OutputResult]:
        """Commit every dataset asked for, or none that is not complete and checked.

        Committed versions are verified and kept, unless ``task.force``; then they are made again, and must
        come out with the same content.

        Raises:
            TraceError: the attempt failed.
        """
        config: CryoIngestConfig = task.config
        deadline = Deadline.after(task.timeout_seconds)
        remove_dead_attempts(services.settings.staging_dir, task.key)
        engine = engine_of(config, services.settings)
        ids = {dataset: dataset_id(task, dataset, engine) for dataset in task.outputs}
        done = {} if task.force else _committed(services, ids)
        if len(done) == len(ids):
            return [_kept(manifest, services) for manifest in done.values()]
        lease = services.ledger.attempt(
            task.key, run_id=task.run_id, lease_seconds=task.lease_seconds, wait_until=deadline.at
        )
        with lease as attempt:
            if not task.force:
                done = _committed(services, ids)
            missing = {dataset: one for dataset, one in ids.items() if dataset not in done}
            made = {}
            if missing:
                made = _ingest(
                    task,
                    services,
                    engine=engine,
                    ids=missing,
                    done=done,
                    attempt=attempt,
                    deadline=deadline,
                    progress=progress,
                )
        return [
            made[dataset] if dataset in made else _kept(done[dataset], services) for dataset in task.outputs
        ]


def engine_of(config: CryoIngestConfig, settings: Settings) -> Engine:
    """Return the job's engine.

    Raises:
        ConfigurationError: it does not exist yet, or may not write synthetic data to this store.
    """
    name = config.engine or settings.default_engine()
    if name == "stub":
        if config.engine is None and not settings.store_is_local:
            raise ConfigurationError(
                "the stub engine makes up its rows, and the object store is not local: write engine: stub "
                "into the job's config if that is meant, or unset TRACE_CRYO_ENGINE"
            )
        return StubEngine()
    if name == "cryo":
        return CryoEngine(binary=settings.cryo_binary)
    raise ConfigurationError(f"engine {name} is not in this version; write engine: cryo, or engine: stub")


def dataset_id(task: Task, dataset: str, engine: Engine) -> DatasetId:
    """Return the identity of one dataset of the task: everything that changes its bytes."""
    config: CryoIngestConfig = task.config
    schema = schema_of(dataset)
    facts: dict[str, JSON] = {
        "engine": engine.name,
        "engine_format": engine.format_version,
        "columns": fingerprint(schema) if schema is not None else "as the engine gives them",
        "filters": {name: list(values) for name, values in filters_of(dataset, config.filters).items()},
        "writer": dict(WRITER_SETTINGS),
        "revision": config.revision,
    }
    return DatasetId(config.chain_id, dataset, task.partition, config_hash(facts))


def _committed(services: "Services", ids: Mapping[str, DatasetId]) -> dict[str, Manifest]:
    found = {dataset: services.replace.committed(one) for dataset, one in ids.items()}
    return {dataset: manifest for dataset, manifest in found.items() if manifest is not None}


def _ingest(
    task: Task,
    services: "Services",
    *,
    engine: Engine,
    ids: Mapping[str, DatasetId],
    done: Mapping[str, Manifest],
    attempt: "Attempt",
    deadline: Deadline,
    progress: Progress,
) -> dict[str, OutputResult]:
    """Extract ``ids`` into staging, check that they join what is committed, commit them."""
    config: CryoIngestConfig = task.config
    settings = services.settings
    begun = time.monotonic()
    limits = StagingLimits(max_files=settings.staging_max_files, max_bytes=settings.staging_max_bytes)
    endpoint = settings.rpc_endpoint(config.rpc_pool or "") if engine.needs_endpoint else None
    with staging_directory(
        settings.staging_dir, task.key, attempt.number, settings.staging_max_age_hours
    ) as place:
        work = Extraction(
            chain_id=config.chain_id,
            datasets=tuple(ids),
            range=task.partition,
            staging=place,
            deadline=deadline,
            endpoint=endpoint,
            filters=config.filters,
            limits=limits,
        )
        result = engine.extract(work, progress)
        if [one.dataset for one in result.outputs] != list(ids):
            raise EngineFailed(
                f"engine {engine.name} gave {[one.dataset for one in result.outputs]} instead of {list(ids)}"
            )
        first = result.outputs[0]
        unjoined = _check_joins(
            services,
            ids[first.dataset],
            first,
            done,
            synthetic=engine.synthetic,
            is_revised=config.revision > 0,
        )
        manifests = {}
        for extracted in result.outputs:
            deadline.check()
            staged = _staged(ids[extracted.dataset], extracted, engine)
            manifests[extracted.dataset] = services.replace.commit(attempt, staged).manifest
    figures = _Figures(time.monotonic() - begun, result.rpc_requests, attempt.number, unjoined)
    return {dataset: _result(manifest, services, figures) for dataset, manifest in manifests.items()}


def _check_joins(
    services: "Services",
    one: DatasetId,
    extracted: Extracted,
    done: Mapping[str, Manifest],
    *,
    synthetic: bool,
    is_revised: bool,
) -> tuple[str, ...]:
    """Check for one chain through the partition's committed datasets, the new ones and its neighbours.

    One new dataset stands for all: an engine reads a partition's datasets from the same blocks. Under a
    raised ``revision``, neighbours of the branch that is being replaced are let be, or no two ranges beside
    each other could ever be replaced. Their keys are returned.
    """
    check_same_blocks(one.range, extracted, done.values())
    unjoined = []
    for neighbour in services.replace.neighbours(one, synthetic=synthetic):
        try:
            check_neighbour(one.range, extracted, neighbour)
        except DataMismatch:
            beside = services.replace.neighbours(neighbour.id, synthetic=synthetic)
            if not (is_revised and is_replaced_too(one.range, neighbour, beside)):
                raise
            unjoined.append(neighbour.range.key)
    return tuple(unjoined)


def _staged(one: DatasetId, extracted: Extracted, engine: Engine) -> StagedDataset:
    return StagedDataset(
        id=one,
        files=extracted.files,
        schema=extracted.schema,
        engine=engine.name,
        synthetic=engine.synthetic,
        first_block_hash=extracted.facts.first_block_hash,
        last_block_hash=extracted.facts.last_block_hash,
        first_parent_hash=extracted.facts.first_parent_hash,
        checks=extracted.checks,
    )


def _kept(manifest: Manifest, services: "Services") -> OutputResult:
    facts = {**_facts(manifest, services), metadata.ALREADY_COMMITTED: True}
    return OutputResult(manifest.dataset, manifest.dataset_version, facts)


def _result(manifest: Manifest, services: "Services", figures: _Figures) -> OutputResult:
    facts = {
        **_facts(manifest, services),
        metadata.ALREADY_COMMITTED: False,
        metadata.ATTEMPT: figures.attempt,
        metadata.BLOCKS_PER_SECOND: round(manifest.range.blocks / max(figures.seconds, 1e-9), 3),
    }
    if figures.rpc_requests is not None:
        facts[metadata.RPC_REQUESTS] = figures.rpc_requests
    if figures.unjoined:
        facts[metadata.UNJOINED] = ", ".join(figures.unjoined)
    return OutputResult(manifest.dataset, manifest.dataset_version, facts)


def _facts(manifest: Manifest, services: "Services") -> dict[str, MetadataValue]:
    facts: dict[str, MetadataValue] = {
        metadata.RANGE: manifest.range.key,
        metadata.BLOCKS: manifest.range.blocks,
        metadata.ROWS: manifest.rows,
        metadata.BYTES: manifest.bytes,
        metadata.OBJECTS: len(manifest.objects),
        metadata.DATASET_VERSION: manifest.dataset_version,
        metadata.STORAGE_PREFIX: f"{services.store.url}/{manifest.prefix}",
        metadata.ENGINE: manifest.engine,
        metadata.SYNTHETIC: manifest.synthetic,
        metadata.CHECKS: dict(manifest.checks),
    }
    if manifest.first_block_hash is not None and manifest.last_block_hash is not None:
        facts[metadata.FIRST_BLOCK_HASH] = manifest.first_block_hash
        facts[metadata.LAST_BLOCK_HASH] = manifest.last_block_hash
    return facts
