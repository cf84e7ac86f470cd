"""The ``trace`` command. Each command is a file of its own, imported only when it runs."""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Final

import click

__all__ = ["main"]

_COMMANDS: Final[Mapping[str, str]] = {
    "demo": "Ingest a few partitions of a real chain, from nothing to a table.",
    "extract": "Extract chain data with the engine native, without Dagster.",
    "follow": "Follow the tip of a chain in the foreground.",
    "gateway": "Run the RPC Egress Gateway, the only process that knows providers.",
    "gc": "Remove objects that failed attempts left behind.",
    "plan": "Show what DAG files compile to, and about what they cost.",
    "publish": "Write published names to the ledger's registry.",
    "quote": "Estimate what a range costs, from a few samples of it.",
    "schema": "Print the JSON Schema of DAG YAML.",
    "status": "Show how far every follower is behind its chain.",
    "update": "Run a PerUpdate job on what is new, in the foreground.",
    "validate": "Check DAG files; print everything that is wrong with them.",
}


class _LazyGroup(click.Group):
    """Imports the file of a command when that command runs, so that ``--help`` is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [name for name in _COMMANDS if find_spec(f"{__name__}.{name}") is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trace-dagster", prog_name="trace")
def main() -> None:
    """Compile Trace DAG YAML into Dagster assets that ingest verified chain data."""
