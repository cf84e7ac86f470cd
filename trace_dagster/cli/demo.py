"""``trace demo``."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Literal

import click
from rich.console import Console
from rich.table import Table

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.cli.demo_project import DATASETS, DemoProject, Materialized, demo_gateway
from trace_dagster.errors import ConfigurationError, TraceError
from trace_dagster.ledger.postmaster import running
from trace_dagster.settings import Settings
from trace_dagster.testing.anvil import Anvil, find_anvil, running_anvil

__all__ = ["command"]

EngineChoice = Literal["cryo", "stub"]
_PARTITIONS = 5
_SERVER_STOP_SECONDS = 20.0


@click.command("demo")
@click.option(
    "--engine", type=click.Choice(["cryo", "stub"]), help="Default: cryo where anvil and Cryo are installed."
)
@click.option(
    "--blocks", type=click.IntRange(min=10), default=100, show_default=True, help="Length of the chain."
)
@click.option("--keep", is_flag=True, help="Keep the folder with the data, the ledger and Dagster's history.")
def command(engine: EngineChoice | None, blocks: int, keep: bool) -> None:
    """Ingest a few partitions of a real chain, from nothing to a table.

    Starts an EVM node (anvil), mines a chain with contracts, token logs, reverted calls and all five types of
    transactions, materializes it through Dagster with Cryo, reads the Parquet back, compares it with
    the node, and does it all again to show that nothing changes. Needs no network.
    """
    console = Console(highlight=False, soft_wrap=True)
    started = time.monotonic()
    try:
        with _interruptible():
            _demo(console, engine, blocks, keep)
    except TraceError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        console.print("stopped")
        raise SystemExit(130) from None
    console.print(f"Done in {time.monotonic() - started:.0f} s.")


def _demo(console: Console, asked: EngineChoice | None, blocks: int, keep: bool) -> None:
    engine = _choose_engine(console, asked)
    with ExitStack() as resources:
        folder = resources.enter_context(_folder(console, keep))
        anvil = resources.enter_context(_chain(console, blocks)) if engine == "cryo" else None
        gateway = resources.enter_context(demo_gateway(folder, anvil.url)) if anvil else None
        if gateway is not None:
            console.print(
                f"   The RPC gateway at {gateway.url}: it alone knows the node; workers know a pool's "
                "name and a token."
            )
        project = DemoProject(
            folder, engine, BlockRange.of(0, blocks - 1), -(-blocks // _PARTITIONS), gateway
        )
        resources.enter_context(project)
        yaml = project.write_dag()
        console.print(f"[bold]2.[/bold] The DAG, {yaml.relative_to(folder)}:")
        console.print(yaml.read_text(), style="dim", markup=False, soft_wrap=True)
        _ingest(console, project, "[bold]3.[/bold]")
        _compare(console, project, anvil)
        _again(console, project)


def _choose_engine(console: Console, asked: EngineChoice | None) -> EngineChoice:
    missing = []
    try:
        find_anvil(os.environ)
    except ConfigurationError as error:
        missing.append(str(error))
    if find_spec("cryo") is None:
        missing.append(
            "Cryo is not installed: pip install 'trace-dagster[cryo]' (its wheel needs Python below 3.13)"
        )
    if asked == "cryo" and missing:
        raise ConfigurationError("; ".join(missing))
    if asked is None and missing:
        for line in missing:
            console.print(f"[yellow]{line}[/yellow]")
        console.print(
            "[yellow]So this demo uses the stub engine: its rows are made up, not read from a chain.[/yellow]"
        )
        return "stub"
    return asked or "cryo"


@contextmanager
def _folder(console: Console, keep: bool) -> Iterator[Path]:
    """Make a folder below ``TRACE_HOME`` and remove it at the end."""
    home = Settings.from_environment(os.environ).home
    made_home = not home.exists()
    home.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="demo-", dir=home))
    try:
        yield folder
    finally:
        # The embedded Postgres stops by itself, a second after its last client; then its folder can go.
        until = time.monotonic() + _SERVER_STOP_SECONDS
        while running(folder / "postgres") and time.monotonic() < until:
            time.sleep(0.05)
        if keep:
            console.print(f"Kept in {folder}: dag_specs/, store/ (the Parquet), dagster/, postgres/.")
        else:
            shutil.rmtree(folder, ignore_errors=True)
            if made_home and not any(home.iterdir()):
                home.rmdir()


@contextmanager
def _chain(console: Console, blocks: int) -> Iterator[Anvil]:
    # eth-account takes a second to import, which the other commands need not wait for.
    from trace_dagster.testing.demo_chain import ANVIL_ARGUMENTS, build_demo_chain  # noqa: PLC0415

    with running_anvil(*ANVIL_ARGUMENTS, "--chain-id", str(DemoProject.CHAIN_ID)) as anvil:
        with console.status("Starting an EVM node and mining a chain"):
            chain = build_demo_chain(anvil.url, blocks=blocks)
        kinds = ", ".join(f"{count} {kind}" for kind, count in chain.kinds.items())
        types = ", ".join(f"{count} of {kind}" for kind, count in chain.transactions.items())
        console.print(
            f"[bold]1.[/bold] A real EVM node (anvil) at {anvil.url}: "
            f"chain {chain.chain_id}, blocks 0 to {chain.head}\n"
            f"   Transactions by kind: {kinds}\n   Transactions by type: {types}"
        )
        yield anvil


def _ingest(console: Console, project: DemoProject, number: str) -> None:
    console.print(f"{number} $ {project.materialize_command}")
    with console.status("Dagster materializes the partitions"):
        seconds = project.materialize()
    facts = project.materializations()
    kept = sum(fact.already_committed for fact in facts)
    console.print(
        f"   {len(facts)} materializations in {seconds:.1f} s: "
        f"{len(facts) - kept} committed, {kept} already committed."
    )
    _tell_cost(console, facts)


def _tell_cost(console: Console, facts: Sequence[Materialized]) -> None:
    """Tell what a partition cost, of whose materializations each says the same."""
    told = {one.partition: one for one in facts if one.rpc_credits is not None}
    if told:
        each = ", ".join(
            f"{partition}: {one.rpc_requests or 0:g} and {one.rpc_credits:g}"
            for partition, one in sorted(told.items())
        )
        console.print(f"   RPC requests and credits, as their metadata shows them: {each}.")


def _compare(console: Console, project: DemoProject, anvil: Anvil | None) -> None:
    title = (
        "read back from Parquet, and compared with the node"
        if anvil
        else "read back from Parquet (synthetic)"
    )
    console.print(f"[bold]4.[/bold] Rows by partition, {title}:")
    table = Table(expand=False)
    table.add_column("partition")
    for dataset in DATASETS:
        table.add_column(dataset, justify="right", no_wrap=True)
    table.add_column("reverted", justify="right")
    table.add_column("last block hash", no_wrap=True)
    if anvil:
        table.add_column("node", no_wrap=True)
    for row in project.read_back():
        cells = [row.partition.key, str(row.blocks), str(row.transactions), str(row.logs), str(row.reverted)]
        cells.append(row.last_block_hash[:14] + "…")
        if anvil:
            project.check_against_node(anvil, row)
            cells.append("agrees")
        table.add_row(*cells)
    console.print(table)


def _again(console: Console, project: DemoProject) -> None:
    before = project.objects()
    _ingest(console, project, "[bold]5.[/bold] The same again:")
    after = project.objects()
    if before != after:
        changed = sorted(before.items() ^ after.items())
        raise ConfigurationError(f"the second run changed objects, which must never happen: {changed[:4]}")
    console.print(
        f"   {len(after)} objects in the store, each with the same SHA-256 and dataset version as before."
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that everything started is stopped."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
