"""``trace plan``."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import click

from trace_dagster.cli.loading import INVALID, load, show_problems, show_warnings
from trace_dagster.cli.tables import print_table
from trace_dagster.spec.catalog import RangePlan
from trace_dagster.spec.models import CronSource
from trace_dagster.spec.naming import (
    aggregator_sensor_name,
    follower_sensor_name,
    pool_name,
    request_job_name,
    schedule_name,
    update_sensor_name,
)
from trace_dagster.spec.resolve import LoadResult, ResolvedDag, ResolvedJob
from trace_dagster.spec.schedules import to_cron

__all__ = ["AssetPlan", "DagPlan", "JobPlan", "command", "describe"]

POOL_SENSOR: Final = "trace_pools"
_SENSORS: Final = {
    "block_follower": (follower_sensor_name, "keeps it going"),
    "range_aggregator": (aggregator_sensor_name, "asks for full ranges"),
}
_AT_RUN_TIME: Final = "at run time"


@dataclass(frozen=True)
class JobPlan:
    """One job, in numbers.

    Attributes:
        job: its name.
        operator: the plug-in.
        fires: what makes it run, e.g. ``PerPartition`` or ``cron 0 6 * * *``.
        runtime: where it runs in production.
        partitions: how many; None where it has none, or they are asked for at run time.
        blocks: how many; None likewise.
        blocks_per_partition: of the largest partition; None where not known.
        run_time_ranges: whether ranges are asked for at run time.
        rpc_requests: an estimate for all blocks; None where none are made, or blocks are not known.
        rpc_requests_per_1000_blocks: an estimate; None where none are made.
        max_concurrency: partitions in flight; None for no limit.
        timeout_seconds: limit of one attempt; None for none.
        heartbeat_timeout_seconds: lease of an attempt.
        max_attempts: tries of a partition.
        runnable: whether this version runs it.
    """

    job: str
    operator: str
    fires: str
    runtime: str
    partitions: int | None
    blocks: int | None
    blocks_per_partition: int | None
    run_time_ranges: bool
    rpc_requests: int | None
    rpc_requests_per_1000_blocks: int | None
    max_concurrency: int | None
    timeout_seconds: int | None
    heartbeat_timeout_seconds: int
    max_attempts: int
    runnable: bool


@dataclass(frozen=True)
class AssetPlan:
    """One asset.

    Attributes:
        key: ``dag/job/output``.
        kinds: Dagster kinds.
        reads: keys of the assets that it depends on.
        published_as: names that the DAG publishes it under.
        place: what it writes; None where it writes nothing, or the place is the DAG's hot table.
    """

    key: str
    kinds: tuple[str, ...]
    reads: tuple[str, ...]
    published_as: tuple[str, ...]
    place: str | None


@dataclass(frozen=True)
class DagPlan:
    """One DAG.

    Attributes:
        dag: its name.
        file: its file.
        jobs: every job, after those that it reads.
        assets: every output.
        pools: limit of each Dagster pool.
        launchable_jobs: Dagster jobs that ask for ranges.
        schedules: cron text of each Dagster schedule.
        sensors: the DAG's own Dagster sensors, and what each does.
    """

    dag: str
    file: str
    jobs: tuple[JobPlan, ...]
    assets: tuple[AssetPlan, ...]
    pools: Mapping[str, int]
    launchable_jobs: tuple[str, ...]
    schedules: Mapping[str, str]
    sensors: Mapping[str, str]


def describe(dag: ResolvedDag) -> DagPlan:
    """Return what ``dag`` compiles to."""
    return DagPlan(
        dag=dag.name,
        file=str(dag.path),
        jobs=tuple(_describe_job(job) for job in dag.jobs),
        assets=tuple(asset for job in dag.jobs for asset in _describe_assets(dag, job)),
        pools={pool_name(dag.name, job.name): job.max_concurrency for job in dag.jobs if job.max_concurrency},
        launchable_jobs=tuple(
            request_job_name(dag.name, job.name) for job in dag.jobs if job.operator.name == "range_request"
        ),
        schedules={
            schedule_name(dag.name, job.name): to_cron(job.spec.source.schedule)
            for job in dag.jobs
            if isinstance(job.spec.source, CronSource)
        },
        sensors={
            **{
                name_of(dag.name, job.name): does
                for job in dag.jobs
                for operator, (name_of, does) in _SENSORS.items()
                if job.operator.name == operator
            },
            **{
                update_sensor_name(dag.name, job.name): "asks for it where there are new rows"
                for job in dag.jobs
                if job.is_per_update
            },
        },
    )


def _describe_job(job: ResolvedJob) -> JobPlan:
    plan = job.plan
    ranges = plan.ranges if plan is not None else None
    blocks = ranges[-1].end_block - ranges[0].start_block + 1 if ranges else None
    estimate = job.operator.estimate_rpc_requests
    return JobPlan(
        job=job.name,
        operator=job.operator.name,
        fires=_fires(job),
        runtime=job.spec.runtime,
        partitions=len(ranges) if ranges else None,
        blocks=blocks,
        blocks_per_partition=_blocks_per_partition(plan),
        run_time_ranges=plan is not None and ranges is None,
        rpc_requests=None if blocks is None else estimate(job.config, blocks),
        rpc_requests_per_1000_blocks=estimate(job.config, 1000),
        max_concurrency=job.max_concurrency,
        timeout_seconds=job.timeout_seconds,
        heartbeat_timeout_seconds=job.heartbeat_timeout_seconds,
        max_attempts=job.max_attempts,
        runnable=job.operator.runnable,
    )


def _blocks_per_partition(plan: RangePlan | None) -> int | None:
    if plan is None:
        return None
    return plan.chunk_size if plan.ranges is None else max(part.blocks for part in plan.ranges)


def _fires(job: ResolvedJob) -> str:
    source = job.spec.source
    if isinstance(source, CronSource):
        return f"cron {to_cron(source.schedule)}"
    return source.kind if source is not None else job.spec.execution_strategy or ""


def _describe_assets(dag: ResolvedDag, job: ResolvedJob) -> list[AssetPlan]:
    reads = tuple(f"{source.dag}/{source.job}/{source.output}" for source in job.inputs)
    return [
        AssetPlan(
            key=f"{dag.name}/{job.name}/{output.name}",
            kinds=output.kinds,
            reads=reads,
            published_as=tuple(
                name for name, behind in dag.publish.items() if behind == (job.name, output.name)
            ),
            place=output.place,
        )
        for output in job.outputs
    ]


@click.command("plan")
@click.argument("paths", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def command(paths: tuple[str, ...], *, as_json: bool) -> None:
    """Show what DAG files compile to: jobs, assets, partitions, pools, schedules, blocks and RPC requests.

    PATHS are folders, files or globs; without any, TRACE_DAG_SPECS (dag_specs/) is shown. Files with
    problems are listed on stderr, the others are shown, and the exit status is 2.
    """
    result = load(paths)
    plans = [describe(dag) for dag in result.dags]
    if as_json:
        click.echo(json.dumps(_as_json(result, plans), indent=2))
    else:
        show_problems(result)
        show_warnings(result)
        for plan in plans:
            _show(plan)
        click.echo(_sensors(plans))
    if result.broken:
        sys.exit(INVALID)


def _as_json(result: LoadResult, plans: Sequence[DagPlan]) -> Mapping[str, object]:
    return {
        "dags": [asdict(plan) for plan in plans],
        "sensors": [
            *([POOL_SENSOR] if any(plan.pools for plan in plans) else []),
            *(sensor for plan in plans for sensor in plan.sensors),
        ],
        "problems": [problem.to_json() for problem in result.problems],
        "warnings": [warning.to_json() for warning in result.warnings],
    }


def _sensors(plans: Sequence[DagPlan]) -> str:
    pools = sum(len(plan.pools) for plan in plans)
    sensors = [f"{POOL_SENSOR} (keeps {pools} pool limits as written)"] if pools else []
    sensors += [f"{sensor} ({does})" for plan in plans for sensor, does in plan.sensors.items()]
    return f"sensors: {', '.join(sensors) or 'none'}"


def _show(plan: DagPlan) -> None:
    click.echo(f"DAG {plan.dag} ({plan.file})")
    print_table(
        (
            "job",
            "operator",
            "fires",
            "partitions",
            "blocks each",
            "blocks",
            "RPC requests",
            "tries",
            "timeout",
        ),
        [_job_row(job) for job in plan.jobs],
    )
    print_table(
        ("asset", "kind", "reads", "published as"),
        [
            (
                asset.key,
                ", ".join(asset.kinds) or "-",
                ", ".join(asset.reads) or "-",
                ", ".join(asset.published_as) or "-",
            )
            for asset in plan.assets
        ],
    )
    for name, limit in plan.pools.items():
        click.echo(f"pool {name}: {limit} at once")
    for name in plan.launchable_jobs:
        click.echo(f"launchable job {name}: asks for a block range")
    for name, cron in plan.schedules.items():
        click.echo(f"schedule {name}: {cron} UTC")
    click.echo()


def _job_row(job: JobPlan) -> tuple[str, ...]:
    unknown = _AT_RUN_TIME if job.run_time_ranges else "-"
    requests = f"about {job.rpc_requests:,}" if job.rpc_requests is not None else "-"
    if job.rpc_requests is None and job.rpc_requests_per_1000_blocks is not None:
        requests = f"about {job.rpc_requests_per_1000_blocks:,} for 1,000 blocks"
    return (
        job.job,
        job.operator if job.runnable else f"{job.operator} (not run)",
        job.fires,
        _number(job.partitions, unknown),
        _number(job.blocks_per_partition, unknown),
        _number(job.blocks, unknown),
        requests,
        str(job.max_attempts),
        "-" if job.timeout_seconds is None else f"{job.timeout_seconds} s",
    )


def _number(value: int | None, unknown: str) -> str:
    return unknown if value is None else f"{value:,}"
