"""``trace gc``."""

import math
import os
from datetime import timedelta

import click

from trace_dagster.errors import TraceError
from trace_dagster.operators.services import Services
from trace_dagster.settings import Settings
from trace_dagster.store import Garbage, collect_garbage

__all__ = ["command"]


@click.command("gc")
@click.option(
    "--older-than-hours",
    type=click.FloatRange(min=0, max=24 * 366 * 100),
    default=24.0,
    show_default=True,
    help="Leave alone what was written since.",
)
@click.option("--delete", is_flag=True, help="Remove it; without this, only list it.")
def command(older_than_hours: float, *, delete: bool) -> None:
    """Remove objects that failed attempts left behind, from TRACE_OBJECT_STORE_URL.

    No reader sees them: no manifest names them. What an attempt is writing now is left alone.
    """
    if math.isnan(older_than_hours):
        raise click.BadParameter("nan is no number of hours", param_hint="--older-than-hours")
    try:
        with Services(Settings.from_environment(os.environ), os.environ) as services:
            found = collect_garbage(
                services.store,
                timedelta(hours=older_than_hours),
                services.ledger.guard(services.store.url),
                dry_run=not delete,
            )
            for one in found:
                click.echo(
                    f"{services.store.url}/{one.prefix}: {_count(one)}, {one.bytes} bytes, {one.reason}"
                )
    except TraceError as error:
        raise click.ClickException(str(error)) from None
    objects, size = sum(len(one.paths) for one in found), sum(one.bytes for one in found)
    done = "removed" if delete else "would be removed; add --delete to remove them"
    click.echo(f"{objects} objects, {size} bytes: {done}" if found else "nothing to remove")


def _count(garbage: Garbage) -> str:
    number = len(garbage.paths)
    return f"{number} object" + ("" if number == 1 else "s")
