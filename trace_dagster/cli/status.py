"""``trace status``."""

import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from trace_dagster.errors import TraceError
from trace_dagster.ledger import FollowerState
from trace_dagster.operators.services import Services
from trace_dagster.settings import Settings

__all__ = ["command"]

_SECONDS_BETWEEN_LOOKS = 1.0


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--watch", is_flag=True, help="Print anew every second, until interrupted.")
def command(*, as_json: bool, watch: bool) -> None:
    """Show head, cursor, lag and reorganisations of every follower, as the ledger has them."""
    console = Console(highlight=False)
    try:
        with Services(Settings.from_environment(os.environ), os.environ) as services:
            while True:
                _show(services.ledger.followers(), console, as_json=as_json)
                if not watch:
                    return
                time.sleep(_SECONDS_BETWEEN_LOOKS)
    except KeyboardInterrupt:
        return
    except TraceError as error:
        raise click.ClickException(str(error)) from None


def facts_of(state: FollowerState, now: datetime) -> dict[str, Any]:
    """Return what is shown of a follower; seconds are whole, and None is what is not known."""
    lag_blocks = None
    if state.head_block is not None and state.cursor_block is not None:
        lag_blocks = max(0, state.head_block - state.cursor_block)
    return {
        "follower": state.follower,
        "chain_id": state.chain_id,
        "head_block": state.head_block,
        "cursor_block": state.cursor_block,
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


def _age(moment: datetime | None, now: datetime) -> int | None:
    return None if moment is None else round((now - moment).total_seconds())


def _show(states: Sequence[FollowerState], console: Console, *, as_json: bool) -> None:
    rows = [facts_of(state, datetime.now(UTC)) for state in states]
    if as_json:
        click.echo(json.dumps(rows))
        return
    if not rows:
        click.echo("no follower has begun yet; start one with trace follow DAG/JOB")
        return
    table = Table("follower", "chain", "head", "cursor", "lag", "block age s", "reorgs", "deepest", "errors")
    for row in rows:
        names = ("follower", "chain_id", "head_block", "cursor_block", "lag_blocks", "cursor_age_seconds")
        cells = [row[name] for name in (*names, "reorgs", "deepest_reorg", "errors")]
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    console.print(table)
    for row in rows:
        if row["last_error"]:
            click.echo(f"{row['follower']}: last error: {row['last_error']}")
