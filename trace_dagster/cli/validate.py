"""``trace validate``."""

import json
import sys

import click

from trace_dagster.cli.loading import INVALID, load, show_problems, show_warnings

__all__ = ["command"]


@click.command("validate")
@click.argument("paths", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the problems as JSON, to stdout.")
def command(paths: tuple[str, ...], *, as_json: bool) -> None:
    """Check DAG files; print everything that is wrong with them, one problem a line, and exit with 2.

    PATHS are folders, files or globs; without any, TRACE_DAG_SPECS (dag_specs/) is checked.
    """
    result = load(paths)
    if as_json:
        found = {
            "problems": [problem.to_json() for problem in result.problems],
            "warnings": [warning.to_json() for warning in result.warnings],
        }
        click.echo(json.dumps(found, indent=2))
    else:
        show_problems(result)
        show_warnings(result)
    if result.broken:
        sys.exit(INVALID)
    if not as_json:
        jobs = sum(len(dag.jobs) for dag in result.dags)
        click.echo(f"ok: {_count(len(result.dags), 'DAG')}, {_count(jobs, 'job')}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
