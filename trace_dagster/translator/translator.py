"""The one place that decides how an output of a DAG looks as a Dagster asset. Subclass it to change that."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from trace_dagster import metadata
from trace_dagster.spec.catalog import OutputDeclaration
from trace_dagster.spec.resolve import ResolvedDag, ResolvedJob

__all__ = ["OutputData", "TraceTranslator", "asset_key", "op_name", "pool_name"]


def asset_key(dag: str, job: str, output: str) -> dg.AssetKey:
    """Return the key of an output: ``[dag, job, output]``."""
    return dg.AssetKey([dag, job, output])


def op_name(dag: str, job: str) -> str:
    """Return the name of a job's op, which run config is keyed by: ``{dag}__{job}``."""
    return f"{dag}__{job}"


def pool_name(dag: str, job: str) -> str:
    """Return the name of a job's concurrency pool: ``{dag}/{job}``."""
    return f"{dag}/{job}"


@dataclass(frozen=True)
class OutputData:
    """One output of one job, with what the translation has found about it.

    Attributes:
        dag: the DAG.
        job: the job.
        output: the output.
        partitions_def: its partitions; None where it has none.
        deps: the outputs that it reads, with partition mappings.
        published_as: names under which the DAG publishes it.
        synthetic: whether its rows are made up by the stub engine.
    """

    dag: ResolvedDag
    job: ResolvedJob
    output: OutputDeclaration
    partitions_def: dg.PartitionsDefinition | None
    deps: Sequence[dg.AssetDep]
    published_as: Sequence[str]
    synthetic: bool


class TraceTranslator:
    """Turns outputs into asset specs.

    Override ``get_asset_spec`` and hand an instance to ``compile_dags`` (or set it on the component) to add
    owners, groups or tags of your own. Keys must stay ``[dag, job, output]``: the ledger and the store's
    layout do not depend on them, but lineage between DAGs does.
    """

    def get_asset_spec(self, data: OutputData) -> dg.AssetSpec:
        """Return the spec of one output."""
        dag, job = data.dag.name, data.job.spec.name
        spec = dg.AssetSpec(
            key=asset_key(dag, job, data.output.name),
            deps=data.deps,
            description=self.get_description(data),
            group_name=dag,
            owners=data.dag.spec.owners,
            kinds={*data.output.kinds, "synthetic"} if data.synthetic else set(data.output.kinds),
            tags=self.get_tags(data),
            metadata=self.get_metadata(data),
            code_version=code_version(data.job),
            partitions_def=data.partitions_def,
            skippable=data.job.operator.runnable,
        )
        if data.output.place is None or not data.job.operator.runnable:
            return spec
        return spec.with_io_manager_key("trace_parquet")

    def get_description(self, data: OutputData) -> str:
        """Return what the UI says of the output."""
        text = data.output.description
        if data.job.spec.description:
            text = f"{data.job.spec.description}\n\n{text}"
        if data.synthetic:
            text += "\n\n**Synthetic**: made by the stub engine, not read from a chain."
        if not data.job.operator.runnable:
            text += f"\n\nDeclared only: this version does not run `{data.job.operator.name}`."
        return text

    def get_tags(self, data: OutputData) -> Mapping[str, str]:
        """Return the tags to filter by in the UI."""
        tags = {metadata.OPERATOR: data.job.operator.name, metadata.RUNTIME: data.job.spec.runtime}
        if data.published_as:
            tags[metadata.PUBLISHED_AS] = data.published_as[0]
        if data.synthetic:
            tags[metadata.SYNTHETIC] = "true"
        return tags

    def get_metadata(self, data: OutputData) -> Mapping[str, object]:
        """Return facts about the output that follow from the YAML alone."""
        job = data.job
        facts: dict[str, object] = {
            metadata.DAG: data.dag.name,
            metadata.SPEC_FILE: data.dag.path.name,
            metadata.JOB: job.spec.name,
            metadata.OUTPUT: data.output.name,
            metadata.MAX_ATTEMPTS: job.max_attempts,
            **data.output.facts,
        }
        if data.synthetic:
            facts[metadata.SYNTHETIC] = True
        if job.timeout_seconds is not None:
            facts[metadata.TIMEOUT_SECONDS] = job.timeout_seconds
        if job.max_concurrency is not None:
            facts[metadata.POOL_LIMIT] = job.max_concurrency
        if data.published_as:
            facts[metadata.PUBLISHED_AS] = ", ".join(data.published_as)
        if data.output.columns is not None:
            facts["dagster/column_schema"] = dg.TableSchema(
                columns=[dg.TableColumn(name=column) for column in data.output.columns]
            )
        return facts


def code_version(job: ResolvedJob) -> str:
    """Return a version that changes when the job's config asks for other bytes."""
    config = job.config.model_dump(mode="json", exclude=set(job.config.bytes_independent))
    text = json.dumps([job.operator.name, config], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
