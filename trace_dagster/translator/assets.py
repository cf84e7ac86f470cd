"""Jobs as Dagster multi-assets: one op each, with pool, retries, partitions and backfill policy."""

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from trace_dagster.operators.base import Operator
from trace_dagster.operators.updating import Updating
from trace_dagster.spec.catalog import RangePlan
from trace_dagster.spec.resolve import ResolvedDag, ResolvedInput, ResolvedJob
from trace_dagster.translator.dagster_internals import launched_for_partition_range
from trace_dagster.translator.execution import JobRunConfig, OpEvent, run_job
from trace_dagster.translator.followers import follower_assets, is_follower
from trace_dagster.translator.partitions import backfill_policy, partition_mapping, partitions_of
from trace_dagster.translator.translator import (
    OutputData,
    TraceTranslator,
    asset_key,
    code_version,
    op_name,
    pool_name,
)
from trace_dagster.translator.updates import update_assets

__all__ = ["Plans", "job_assets"]

Plans = Mapping[tuple[str, str], RangePlan | None]


def job_assets(
    *,
    dag: ResolvedDag,
    job: ResolvedJob,
    operator: Operator,
    plans: Plans,
    translator: TraceTranslator,
    synthetic: bool,
    updating: Updating | None = None,
) -> dg.AssetsDefinition | Sequence[dg.AssetSpec]:
    """Return the job's assets: executable, or specs only where this version does not run the operator.

    Args:
        dag: the DAG.
        job: the job.
        operator: what runs it.
        plans: the range plan of every (DAG, job), for partition mappings.
        translator: makes the asset specs.
        synthetic: whether the job's rows are made up.
        updating: what it does, where it runs on new rows.
    """
    specs = [
        translator.get_asset_spec(
            OutputData(
                dag=dag,
                job=job,
                output=output,
                partitions_def=partitions_of(dag.name, job.plan),
                deps=[_dependency(source, plans, job.plan) for source in job.inputs],
                published_as=[
                    name for name, origin in dag.publish.items() if origin == (job.spec.name, output.name)
                ],
                synthetic=synthetic,
            )
        )
        for output in job.outputs
    ]
    if is_follower(job):
        return follower_assets(dag, job, specs)
    if updating is not None:
        return update_assets(updating, operator, specs)
    if not operator.runnable or job.plan is None:
        return specs
    return _executable(dag, job, operator, job.plan, specs)


def _dependency(source: ResolvedInput, plans: Plans, plan: RangePlan | None) -> dg.AssetDep:
    return dg.AssetDep(
        asset_key(source.dag, source.job, source.output),
        partition_mapping=partition_mapping(plans[source.dag, source.job], plan),
    )


def _executable(
    dag: ResolvedDag, job: ResolvedJob, operator: Operator, plan: RangePlan, specs: Sequence[dg.AssetSpec]
) -> dg.AssetsDefinition:
    records_only = all(output.place is None for output in job.outputs)
    # A range_request's op must not be named as the job that asks for ranges.
    suffix = "__record" if job.spec.activation == "source" else ""

    @dg.multi_asset(
        name=op_name(dag.name, job.spec.name) + suffix,
        specs=specs,
        can_subset=operator.subsettable,
        required_resource_keys={"trace"},
        pool=pool_name(dag.name, job.spec.name) if job.max_concurrency is not None else None,
        backfill_policy=backfill_policy(
            plan, job.max_concurrency, one_run=records_only or launched_for_partition_range()
        ),
        retry_policy=dg.RetryPolicy(
            max_retries=job.max_attempts - 1,
            delay=2,
            backoff=dg.Backoff.EXPONENTIAL,
            jitter=dg.Jitter.PLUS_MINUS,
        ),
        op_tags={"trace/runtime": job.spec.runtime, "trace/code_version": code_version(job)},
    )
    def op(context: dg.AssetExecutionContext, config: JobRunConfig) -> Iterator[OpEvent]:
        yield from run_job(context, dag, job, operator, config)

    return op
