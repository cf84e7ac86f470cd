"""``trace gateway doctor``."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from trace_dagster.chain.datasets import NATIVE_ONLY
from trace_dagster.cli.loading import INVALID, load, show_problems, show_warnings
from trace_dagster.cli.tables import print_table
from trace_dagster.errors import ConfigurationError
from trace_dagster.operators.block_follower.config import BlockFollowerConfig
from trace_dagster.operators.cryo_ingest.config import CryoIngestConfig
from trace_dagster.rpc.gateway.doctor import EndpointReport, PoolReport, examine_pools
from trace_dagster.rpc.gateway.load import InvalidConfig, load_config
from trace_dagster.rpc.gateway.resolved import ResolvedConfig, resolve_config
from trace_dagster.rpc.gateway.serving import JobNeeds, Verdict, judge, ways_of_cryo, ways_of_native
from trace_dagster.settings import EngineName, Settings
from trace_dagster.spec.problems import Problem
from trace_dagster.spec.resolve import LoadResult, ResolvedDag, ResolvedJob

__all__ = ["command"]

_CANNOT_SERVE = 1
_HEADER = (
    "endpoint",
    "chain",
    "head",
    "block age",
    "latency",
    "archive",
    "traces",
    "debug",
    "receipts",
    "logs",
    "batch",
)


@click.command("doctor")
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="Pools, endpoints, limits and tokens.  [default: rpc_pools.yaml]",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(min=0.1, max=600),
    default=15.0,
    show_default=True,
    help="Seconds that one request may take.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON, to stdout.")
@click.argument("paths", nargs=-1)
@click.pass_context
def command(
    context: click.Context,
    path: Path | None,
    paths: tuple[str, ...],
    *,
    timeout_seconds: float,
    as_json: bool,
) -> None:
    """Ask every endpoint of every pool what it can do, and say which jobs of DAGs cannot be served, and why.

    PATHS are folders, files or globs of DAG YAML; without any, only the endpoints are asked. Endpoints are
    asked directly, about thirty small requests each, so a gateway need not run. Exit status 1: a job cannot
    be served, or a pool has no endpoint that works; 2: a file is not valid.
    """
    given = context.parent.params.get("path") if context.parent is not None else None
    resolved = _resolved(path or given or Path("rpc_pools.yaml"), as_json=as_json)
    loaded = load(paths) if paths else LoadResult((), (), ())
    pools = asyncio.run(examine_pools(resolved, timeout_seconds))
    by_name = {pool.name: pool for pool in pools}
    verdicts = [judge(needs, by_name) for dag in loaded.dags for needs in _needs_of_dag(dag)]
    if as_json:
        click.echo(json.dumps(_as_json(pools, verdicts, loaded), indent=2))
    else:
        show_problems(loaded)
        show_warnings(loaded)
        for pool in pools:
            _show_pool(pool)
        for verdict in verdicts:
            _show_verdict(verdict)
    if loaded.broken:
        sys.exit(INVALID)
    if any(verdict.reasons for verdict in verdicts) or not all(pool.usable for pool in pools):
        sys.exit(_CANNOT_SERVE)


def _resolved(path: Path, *, as_json: bool) -> ResolvedConfig:
    """Return the configuration with its secrets, or end with every problem of it."""
    try:
        return resolve_config(load_config(path), os.environ)
    except InvalidConfig as error:
        if as_json:
            click.echo(json.dumps({"problems": _problems(error.problems)}, indent=2))
        else:
            click.echo(str(error), err=True)
        sys.exit(INVALID)


def _needs_of_dag(dag: ResolvedDag) -> Iterator[JobNeeds]:
    try:
        engine = Settings.from_environment(os.environ).cryo_engine
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    for job in dag.jobs:
        needs = _needs_of_job(dag.name, job, engine)
        if needs is not None:
            yield needs


def _needs_of_job(dag: str, job: ResolvedJob, default: EngineName | None) -> JobNeeds | None:
    """Return what a job asks of its pool; None where it asks nothing."""
    config = job.config
    if isinstance(config, BlockFollowerConfig):
        followed = {str(dataset): ways_of_native(dataset) for dataset in config.datasets}
        return JobNeeds(dag, job.name, config.rpc_pool, config.chain_id, followed, follows=True)
    if not isinstance(config, CryoIngestConfig) or config.rpc_pool is None:
        return None
    # A job that names no engine gets a real one wherever there is a gateway.
    engine = config.engine or default or ("native" if set(NATIVE_ONLY) & set(config.datasets) else "cryo")
    if engine == "stub":
        return None
    ways = ways_of_native if engine == "native" else ways_of_cryo
    datasets = {dataset: ways(dataset) for dataset in config.datasets}
    ranges = job.plan.ranges if job.plan is not None else None
    first = ranges[0].start_block if ranges else None
    return JobNeeds(dag, job.name, config.rpc_pool, config.chain_id, datasets, first)


def _as_json(
    pools: Sequence[PoolReport], verdicts: Sequence[Verdict], loaded: LoadResult
) -> Mapping[str, object]:
    return {
        "pools": [
            {**asdict(pool), "endpoints": [_endpoint_json(one) for one in pool.endpoints]} for pool in pools
        ],
        "jobs": [
            {
                "dag": verdict.needs.dag,
                "job": verdict.needs.job,
                "pool": verdict.needs.pool,
                "can_be_served": not verdict.reasons,
                "reasons": verdict.reasons,
                "notes": verdict.notes,
            }
            for verdict in verdicts
        ],
        "problems": _problems(loaded.problems),
        "warnings": _problems(loaded.warnings),
    }


def _problems(problems: Sequence[Problem]) -> Sequence[Mapping[str, str | int]]:
    return [problem.to_json() for problem in problems]


def _endpoint_json(endpoint: EndpointReport) -> Mapping[str, object]:
    return {**asdict(endpoint), "capabilities": endpoint.capabilities.model_dump()}


def _show_pool(pool: PoolReport) -> None:
    click.echo(
        f"pool {pool.name}: chain {pool.chain_id}, head {'unknown' if pool.head is None else pool.head}"
    )
    print_table(_HEADER, [_row(endpoint) for endpoint in pool.endpoints])
    for endpoint in pool.endpoints:
        if endpoint.problem is not None:
            click.echo(f"  {endpoint.name}: cannot be used: {endpoint.problem}")
        for name, why in endpoint.denied.items():
            click.echo(f"  {endpoint.name}: {name}: {why}")
        for name, why in endpoint.unknown.items():
            click.echo(f"  {endpoint.name}: {name} is not known: {why}")
        for note in endpoint.notes:
            click.echo(f"  {endpoint.name}: {note}")
    click.echo()


def _row(endpoint: EndpointReport) -> tuple[str, ...]:
    found = endpoint.capabilities
    return (
        endpoint.name,
        _cell(endpoint.chain_id),
        _cell(endpoint.head),
        _cell(endpoint.block_age_seconds, "{:.0f} s"),
        _cell(None if endpoint.latency_seconds is None else endpoint.latency_seconds * 1000, "{:.0f} ms"),
        *(_yes(value) for value in (found.archive, found.traces, found.debug, found.receipts)),
        _logs(endpoint),
        _cell(found.batch),
    )


def _cell(value: float | None, form: str = "{}") -> str:
    return "?" if value is None else form.format(value)


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "?"}[value]


def _logs(endpoint: EndpointReport) -> str:
    """Return how many blocks of logs can be had at once: a limit, or that none was met."""
    most, limited = endpoint.capabilities.log_range, "log_range" in endpoint.denied
    if most is None:
        return "no" if limited else "?" if endpoint.head is None or "log_range" in endpoint.unknown else "any"
    return str(most) if limited else f"{most}+"


def _show_verdict(verdict: Verdict) -> None:
    name = f"{verdict.needs.dag}/{verdict.needs.job}"
    if not verdict.reasons:
        click.echo(f"{name}: pool {verdict.needs.pool} can serve it")
    for reason in verdict.reasons:
        click.echo(f"{name}: CANNOT BE SERVED: {reason}")
    for note in verdict.notes:
        click.echo(f"{name}: {note}")
