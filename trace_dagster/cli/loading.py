"""What the commands that read DAG files share."""

import os
from collections.abc import Sequence

import click

from trace_dagster.errors import ConfigurationError
from trace_dagster.operators.registry import catalog
from trace_dagster.settings import Settings
from trace_dagster.spec.resolve import LoadResult, load_dags

__all__ = ["INVALID", "load", "show_problems", "show_warnings"]

INVALID = 2
"""Exit status where a DAG file is not valid."""


class _Unusable(click.ClickException):
    exit_code = INVALID


def load(paths: Sequence[str]) -> LoadResult:
    """Load the DAG files at ``paths``, or at ``TRACE_DAG_SPECS`` where there are none.

    Raises:
        click.ClickException: a setting or a plug-in cannot be used, or there are no files.
    """
    try:
        specs = paths or [Settings.from_environment(os.environ).dag_specs]
        loaded = load_dags(specs, catalog())
    except ConfigurationError as error:
        raise _Unusable(str(error)) from None
    if not loaded.dags and not loaded.broken:
        raise _Unusable(
            f"no DAG files in {', '.join(map(str, specs))}: a DAG is a *.yaml or *.yml file directly in a "
            "folder that is named"
        )
    return loaded


def show_problems(result: LoadResult) -> None:
    """Print each problem on a line of its own, to stderr."""
    for problem in result.problems:
        click.echo(str(problem), err=True)


def show_warnings(result: LoadResult) -> None:
    """Print each warning on a line of its own, to stderr."""
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
