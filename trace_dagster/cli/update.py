"""``trace update``."""

import os
import socket
import sys
from contextlib import closing

import click

from trace_dagster.cli.loading import INVALID, load, show_problems
from trace_dagster.errors import ConfigurationError, TraceError
from trace_dagster.operators.base import Operator
from trace_dagster.operators.registry import operators
from trace_dagster.operators.services import Services
from trace_dagster.operators.updating import Updating, updating_of
from trace_dagster.settings import Settings
from trace_dagster.spec.resolve import LoadResult

__all__ = ["command"]


@click.command("update")
@click.argument("job", metavar="DAG/JOB")
@click.option("--specs", type=click.Path(), help="DAG files, instead of TRACE_DAG_SPECS.")
@click.option("--reset", is_flag=True, help="First delete the job's rows and its cursor.")
def command(job: str, specs: str | None, *, reset: bool) -> None:
    """Run the PerUpdate job DAG/JOB on what is new, in the foreground.

    The same work under the same lease as the job in Dagster: where that runs, this waits for it.
    """
    loaded = load([specs] if specs else ())
    try:
        updating, operator = _find(loaded, job)
        with Services(Settings.from_environment(os.environ), os.environ) as services:
            if reset:
                updating.reset(services)
            _update(updating, operator, services)
    except TraceError as error:
        raise click.ClickException(str(error)) from None


def _find(loaded: LoadResult, wanted: str) -> tuple[Updating, Operator]:
    jobs = {(dag.name, job.name): job for dag in loaded.dags for job in dag.jobs}
    found = {
        f"{dag.name}/{job.name}": (dag, job) for dag in loaded.dags for job in dag.jobs if job.is_per_update
    }
    if wanted in found:
        dag, job = found[wanted]
        return updating_of(dag, job, jobs), operators()[job.operator.name]
    if loaded.broken:
        show_problems(loaded)
        sys.exit(INVALID)
    raise ConfigurationError(
        f"{wanted!r} is no PerUpdate job of the DAG files; there is {', '.join(sorted(found)) or 'none'}"
    )


def _update(updating: Updating, operator: Operator, services: Services) -> None:
    steps = updating.run(
        operator,
        services,
        run_id=f"trace update on {socket.gethostname()}, process {os.getpid()}",
        progress=_say_nothing,
        seconds=float("inf"),
    )
    cursor = None
    try:
        with closing(steps):
            for step in steps:
                cursor = step.due.blocks.end_block
                again = "" if step.due.stale is None else f", again after a {step.due.reason}"
                click.echo(f"{updating.key}: blocks {step.due.blocks.key} are committed{again}")
    except KeyboardInterrupt:
        click.echo("interrupted; what was committed stays", err=True)
        return
    if cursor is None:
        click.echo(f"{updating.key}: nothing is due")


def _say_nothing(message: str, **fields: object) -> None:
    """The steps are told; what an operator says in between is for Dagster's log."""
