"""``trace follow``."""

import math
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from trace_dagster.cli.loading import INVALID, load, show_problems
from trace_dagster.errors import ConfigurationError, TraceError
from trace_dagster.operators.block_follower.config import BlockFollowerConfig
from trace_dagster.operators.block_follower.follower import Step
from trace_dagster.operators.block_follower.following import Following, following_of
from trace_dagster.operators.services import Services
from trace_dagster.rpc.client import log_no_retries
from trace_dagster.settings import Settings
from trace_dagster.spec.resolve import LoadResult

__all__ = ["command"]


@click.command("follow")
@click.argument("follower", metavar="DAG/JOB")
@click.option("--specs", type=click.Path(), help="DAG files, instead of TRACE_DAG_SPECS.")
@click.option("--until", "until_block", type=click.IntRange(min=0), help="End once this block is committed.")
@click.option("--for", "seconds", type=click.FloatRange(min=0), help="End after so many seconds.")
@click.option("--reset", is_flag=True, help="First delete the follower's rows and its cursor.")
def command(
    follower: str, specs: str | None, until_block: int | None, seconds: float | None, *, reset: bool
) -> None:
    """Follow a chain with the block_follower DAG/JOB, in the foreground.

    The same work under the same lease as the job in Dagster: where that runs, this says so and ends.
    """
    log_no_retries()
    if seconds is not None and math.isnan(seconds):
        raise click.BadParameter("nan is no time", param_hint="--for")
    loaded = load([specs] if specs else ())
    try:
        wanted = _find(loaded, follower)
        with Services(Settings.from_environment(os.environ), os.environ) as services:
            if reset:
                wanted.reset(services)
            _follow(wanted, services, until_block, seconds)
    except TraceError as error:
        raise click.ClickException(str(error)) from None


def _find(loaded: LoadResult, follower: str) -> Following:
    followers = {
        f"{dag.name}/{job.name}": (dag, job)
        for dag in loaded.dags
        for job in dag.jobs
        if isinstance(job.config, BlockFollowerConfig)
    }
    if follower in followers:
        return following_of(*followers[follower])
    if loaded.broken:
        show_problems(loaded)
        sys.exit(INVALID)
    raise ConfigurationError(
        f"{follower!r} is no block_follower of the DAG files; "
        f"there is {', '.join(sorted(followers)) or 'none'}"
    )


def _follow(wanted: Following, services: Services, until_block: int | None, seconds: float | None) -> None:
    console = Console(stderr=True, highlight=False)
    done = reorgs = 0
    cursor: int | None = None
    begun = time.monotonic()

    def say(message: str, **fields: object) -> None:
        console.print(f"{message} {fields.get('why', '')}".strip(), markup=False)

    with _live(console) as live:
        steps = wanted.run(
            services,
            run_id=f"trace follow on {socket.gethostname()}, process {os.getpid()}",
            progress=say,
            until_block=until_block,
            seconds=seconds,
        )
        try:
            for step in steps:
                cursor = step.cursor
                done += step.committed
                reorgs += step.reorg_depth > 0
                live.update(Text(_line(wanted, step, done, reorgs, time.monotonic() - begun)))
        except KeyboardInterrupt:
            console.print("interrupted")
        finally:
            steps.close()
    shown = "no block" if cursor is None else f"block {cursor}"
    click.echo(f"{wanted.key}: {shown} is committed; {done} blocks and {reorgs} reorganisations in this run")


@contextmanager
def _live(console: Console) -> Iterator[Live]:
    with Live(console=console, transient=True, refresh_per_second=8) as live:
        yield live


def _line(wanted: Following, step: Step, done: int, reorgs: int, seconds: float) -> str:
    if step.cursor is None:
        return f"{wanted.key}  head {step.head}  waiting for block {wanted.config.start_block}"
    lag = max(0, step.head - step.cursor)
    return (
        f"{wanted.key}  head {step.head}  cursor {step.cursor}  lag {lag} blocks  "
        f"{done / max(seconds, 0.001):.1f} blocks/s  {reorgs} reorgs"
    )
