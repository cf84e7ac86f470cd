"""``trace publish``."""

import os
import sys

import click

from trace_dagster.cli.loading import INVALID, load, show_problems
from trace_dagster.errors import TraceError
from trace_dagster.ledger import PublishedOutput
from trace_dagster.operators.services import Services
from trace_dagster.settings import Settings

__all__ = ["command"]


@click.command("publish")
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("--prune", is_flag=True, help="Release the names of DAGs that are not among the files.")
def command(paths: tuple[str, ...], *, prune: bool) -> None:
    """Write the published names of DAG files to the ledger's registry, and show the registry.

    A run does the same for its own DAG; this is for names that must stand, or go, before one.
    """
    loaded = load(paths)
    if loaded.broken:
        show_problems(loaded)
        sys.exit(INVALID)
    try:
        with Services(Settings.from_environment(os.environ), os.environ) as services:
            if prune:
                for name in services.ledger.release_names(dag.name for dag in loaded.dags):
                    click.echo(f"{name}: released")
            for dag in loaded.dags:
                names = {name: PublishedOutput(job, output) for name, (job, output) in dag.publish.items()}
                services.ledger.publish_names(dag.name, names)
            for name, (owner, target) in sorted(services.ledger.published().items()):
                click.echo(f"{name}: {owner}/{target.job}/{target.output}")
    except TraceError as error:
        raise click.ClickException(str(error)) from None
