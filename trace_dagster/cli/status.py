"""``trace status``."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Column, Table

from trace_dagster.errors import TraceError
from trace_dagster.ledger import ConsumerState, FollowerState, Ledger
from trace_dagster.operators.services import Services
from trace_dagster.settings import Settings

__all__ = ["command"]

Facts = dict[str, Any]

_SECONDS_BETWEEN_LOOKS: Final = 1.0
_METRICS: Final = {
    "head_block": ("gauge", "Newest block that the provider reports."),
    "cursor_block": ("gauge", "Last block committed."),
    "final_block": ("gauge", "Last block that is taken for final."),
    "lag_blocks": ("gauge", "Head minus cursor."),
    "cursor_age_seconds": ("gauge", "Age of the last block committed, by its timestamp."),
    "head_seen_ago_seconds": ("gauge", "Time since the head was last seen to move."),
    "blocks_total": ("counter", "Blocks committed, those orphaned since included."),
    "reorgs_total": ("counter", "Reorganisations followed."),
    "deepest_reorg_blocks": ("gauge", "Blocks that the deepest reorganisation took out."),
    "last_reorg_ago_seconds": ("gauge", "Time since the last reorganisation was followed."),
    "errors_total": ("counter", "Steps that failed and were tried again."),
}
_CONSUMER_METRICS: Final = {
    "cursor_block": ("gauge", "Last block whose rows the job has done."),
    "behind_blocks": ("gauge", "Blocks that it can read and has not done."),
    "blocks_total": ("counter", "Blocks done, those done again included."),
}
_WIDE: Final = 240
_FIELDS: Final = {
    "blocks_total": "blocks",
    "reorgs_total": "reorgs",
    "deepest_reorg_blocks": "deepest_reorg",
    "errors_total": "errors",
}


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--prometheus", is_flag=True, help="Print metrics in Prometheus' text format.")
@click.option("--watch", is_flag=True, help="Print anew every second, until interrupted.")
def command(*, as_json: bool, prometheus: bool, watch: bool) -> None:
    """Show head, cursor, lag and reorganisations of every follower, and how far the jobs are that read them.

    As the ledger has it: nothing else is asked.
    """
    if as_json and prometheus:
        raise click.UsageError("--json and --prometheus exclude each other")
    show = _show_metrics if prometheus else _show_json if as_json else _show_table
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE  # a name or number that is cut off is none
    try:
        with Services(Settings.from_environment(os.environ), os.environ) as services:
            while True:
                now, ledger = datetime.now(UTC), services.ledger
                followers = [facts_of(state, now) for state in ledger.followers()]
                consumers = [_facts_of_consumer(state, ledger, now) for state in ledger.consumers()]
                show(followers, consumers, console)
                if not watch:
                    return
                time.sleep(_SECONDS_BETWEEN_LOOKS)
    except KeyboardInterrupt:
        return
    except TraceError as error:
        raise click.ClickException(str(error)) from None


def facts_of(state: FollowerState, now: datetime) -> Facts:
    """Return what is shown of a follower; seconds are whole, and None is what is not known."""
    lag_blocks = None
    if state.head_block is not None and state.cursor_block is not None:
        lag_blocks = max(0, state.head_block - state.cursor_block)
    return {
        "follower": state.follower,
        "chain_id": state.chain_id,
        "head_block": state.head_block,
        "cursor_block": state.cursor_block,
        "final_block": state.final_block,
        "lag_blocks": lag_blocks,
        "cursor_age_seconds": _age(state.cursor_time, now),
        "committed_ago_seconds": _age(state.committed_at, now),
        "head_seen_ago_seconds": _age(state.seen_at, now),
        "blocks": state.blocks or 0,
        "reorgs": state.reorgs or 0,
        "deepest_reorg": state.deepest_reorg or 0,
        "last_reorg_ago_seconds": _age(state.last_reorg_at, now),
        "errors": state.errors,
        "last_error": state.last_error,
    }


def _facts_of_consumer(state: ConsumerState, ledger: Ledger, now: datetime) -> Facts:
    extents = [extent for key in state.seen if (extent := ledger.extent(key)) is not None]
    last = min((one.end_block for one in extents), default=None)
    # What an invalidation changed that is not heeded yet counts as not done.
    changed = [
        one.start_block
        for key, heeded in state.seen.items()
        for one in ledger.invalidations(key.partition("/")[0], key.partition("/")[2], heeded)
    ]
    good = min([state.cursor_block, *(start - 1 for start in changed)])
    return {
        "consumer": state.consumer,
        "reads": sorted(state.seen),
        "cursor_block": state.cursor_block,
        "behind_blocks": None if last is None else max(0, last - good),
        "committed_ago_seconds": _age(state.committed_at, now),
        "blocks": state.blocks,
    }


def _age(moment: datetime | None, now: datetime) -> int | None:
    return None if moment is None else round((now - moment).total_seconds())


def _show_json(followers: Sequence[Facts], consumers: Sequence[Facts], _console: Console) -> None:
    click.echo(json.dumps({"followers": followers, "consumers": consumers}))


def _show_metrics(followers: Sequence[Facts], consumers: Sequence[Facts], _console: Console) -> None:
    # Names of DAGs and jobs need no escape.
    of_followers = [
        (f'follower="{row["follower"]}",chain_id="{row["chain_id"] or ""}"', row) for row in followers
    ]
    _show_samples("trace_follower", _METRICS, of_followers)
    _show_samples(
        "trace_consumer", _CONSUMER_METRICS, [(f'consumer="{row["consumer"]}"', row) for row in consumers]
    )


def _show_samples(
    prefix: str, metrics: Mapping[str, tuple[str, str]], rows: Sequence[tuple[str, Facts]]
) -> None:
    for name, (kind, meaning) in metrics.items():
        metric = f"{prefix}_{name}"
        click.echo(f"# HELP {metric} {meaning}\n# TYPE {metric} {kind}")
        for labels, row in rows:
            value = row[_FIELDS.get(name, name)]
            if value is not None:
                click.echo(f"{metric}{{{labels}}} {value}")


def _show_table(rows: Sequence[Facts], consumers: Sequence[Facts], console: Console) -> None:
    if not rows:
        click.echo("no follower has begun yet; start one with trace follow DAG/JOB")
    of_reorgs = ("reorgs", "deepest", "last reorg s ago")
    titles = ("follower", "chain", "head", "cursor", "lag", "block age s", *of_reorgs, "errors")
    table = Table(*(Column(title, overflow="fold") for title in titles))
    for row in rows:
        names = ("follower", "chain_id", "head_block", "cursor_block", "lag_blocks", "cursor_age_seconds")
        cells = [
            row[name] for name in (*names, "reorgs", "deepest_reorg", "last_reorg_ago_seconds", "errors")
        ]
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    if rows:
        console.print(table)
    if consumers:
        console.print(_table_of_consumers(consumers))
    for row in rows:
        if row["last_error"]:
            click.echo(f"{row['follower']}: last error: {row['last_error']}")


def _table_of_consumers(rows: Sequence[Facts]) -> Table:
    titles = ("job", "reads", "cursor", "behind", "committed s ago", "blocks done")
    table = Table(*(Column(title, overflow="fold") for title in titles))
    for row in rows:
        names = ("cursor_block", "behind_blocks", "committed_ago_seconds", "blocks")
        cells = [row["consumer"], ", ".join(row["reads"]), *(row[name] for name in names)]
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    return table
