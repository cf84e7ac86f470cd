"""``cryo_ingest``: bounded chain data to Parquet, one committed dataset version a partition and dataset."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trace_dagster import metadata
from trace_dagster.chain.datasets import NATIVE_ONLY, filters_of, listed
from trace_dagster.chain.schemas import columns_of, fingerprint, schema_of
from trace_dagster.errors import ConfigurationError
from trace_dagster.operators.base import Deadline, OutputResult, Progress, Task
from trace_dagster.operators.cryo_ingest.config import CryoIngestConfig
from trace_dagster.operators.cryo_ingest.cryo import CryoEngine
from trace_dagster.operators.cryo_ingest.engines import Engine
from trace_dagster.operators.cryo_ingest.ingest import Ingestion
from trace_dagster.operators.cryo_ingest.native import NativeEngine
from trace_dagster.operators.cryo_ingest.native.fetch import FetchLimits
from trace_dagster.operators.cryo_ingest.native.plan import plan_of
from trace_dagster.operators.cryo_ingest.results import kept
from trace_dagster.operators.cryo_ingest.staging import remove_dead_attempts
from trace_dagster.operators.cryo_ingest.stub import StubEngine
from trace_dagster.operators.cryo_ingest.writer import WRITER_SETTINGS
from trace_dagster.settings import Settings
from trace_dagster.spec.catalog import OutputDeclaration, RangePlan, RangeProblem
from trace_dagster.store import JSON, DatasetId, Manifest, config_hash

if TYPE_CHECKING:
    from trace_dagster.ledger import Invalidation
    from trace_dagster.operators.services import Services

__all__ = ["CryoIngest"]


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
        """Return about how many JSON-RPC requests are made for so many blocks; None for the stub engine.

        The engine ``native`` asks once for what all datasets need. Cryo asks for each block once a dataset,
        for blocks and transactions together, and once more for the receipts of transactions; the checks ask
        for each header, and for its receipts where transactions or logs are ingested.
        """
        if config.engine == "stub":
            return None
        if config.engine == "native":
            return blocks * plan_of(config.datasets, config.filters).items_per_block
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
        deadline = Deadline.after(task.timeout_seconds, task.is_stopped)
        remove_dead_attempts(services.settings.staging_dir, task.key)
        engine = engine_of(config, services.settings)
        changed = services.ledger.last_invalidation(task.dag, task.job, task.partition)
        ids = {dataset: dataset_id(task, dataset, engine, changed) for dataset in task.outputs}
        done = {} if task.force else _committed(services, ids)
        if len(done) == len(ids):
            progress("committed already, kept:", partition=task.partition.key, datasets=len(done))
            return [kept(manifest, services) for manifest in done.values()]

        def is_outdated(neighbour: Manifest) -> bool:
            newest = services.ledger.last_invalidation(task.dag, task.job, neighbour.range)
            if newest is None:
                return False
            return neighbour.config_hash != dataset_id(task, neighbour.dataset, engine, newest).config_hash

        def waiting() -> None:
            deadline.check()
            progress("waiting for another attempt at", partition=task.partition.key)

        lease = services.ledger.attempt(
            task.key,
            run_id=task.run_id,
            lease_seconds=task.lease_seconds,
            wait_until=deadline.at,
            check=waiting,
        )
        with lease as attempt:
            if not task.force:
                done = _committed(services, ids)
            missing = {dataset: one for dataset, one in ids.items() if dataset not in done}
            beside = [dataset_id(task, one, engine, changed) for one in config.datasets if one not in missing]
            made = {}
            if missing:
                made = Ingestion(
                    task=task,
                    services=services,
                    engine=engine,
                    ids=missing,
                    beside=[
                        manifest
                        for one in beside
                        if (manifest := services.replace.manifest(one.prefix)) is not None
                    ],
                    is_revised=config.revision > 0 or changed is not None,
                    is_outdated=is_outdated,
                    attempt=attempt,
                    deadline=deadline,
                    progress=progress,
                ).run()
        return [
            made[dataset] if dataset in made else kept(done[dataset], services) for dataset in task.outputs
        ]


def engine_of(config: CryoIngestConfig, settings: Settings) -> Engine:
    """Return the job's engine.

    Raises:
        ConfigurationError: it has no such dataset, or may not write synthetic data to this store.
    """
    name = config.engine or settings.default_engine()
    only_native = [dataset for dataset in config.datasets if dataset in NATIVE_ONLY]
    if only_native and name != "native":
        raise ConfigurationError(
            f"engine {name} has no dataset {listed(only_native)}; write engine: native, or set "
            "TRACE_CRYO_ENGINE=native"
        )
    if name == "stub":
        if config.engine is None and not settings.store_is_local:
            raise ConfigurationError(
                "the stub engine makes up its rows, and the object store is not local: write engine: stub "
                "into the job's config if that is meant, or unset TRACE_CRYO_ENGINE"
            )
        return StubEngine()
    if name == "cryo":
        return CryoEngine(binary=settings.cryo_binary)
    return NativeEngine(
        FetchLimits(connections=config.max_concurrent_requests, memory_bytes=config.max_memory_bytes)
    )


def dataset_id(task: Task, dataset: str, engine: Engine, changed: "Invalidation | None" = None) -> DatasetId:
    """Return the identity of one dataset of the task: everything that changes its bytes.

    Args:
        task: the task.
        dataset: one of its outputs.
        engine: what makes it.
        changed: the newest invalidation of the partition's blocks: what was committed before is of a branch
            that is no more.
    """
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
    if changed is not None:
        facts["invalidated"] = changed.token
    return DatasetId(config.chain_id, dataset, task.partition, config_hash(facts))


def _committed(services: "Services", ids: Mapping[str, DatasetId]) -> dict[str, Manifest]:
    found = {dataset: services.replace.committed(one) for dataset, one in ids.items()}
    return {dataset: manifest for dataset, manifest in found.items() if manifest is not None}
