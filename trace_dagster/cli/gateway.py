"""``trace gateway``."""

import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Final

import click
from click.core import ParameterSource

from trace_dagster.errors import TraceError

__all__ = ["command"]

_NOT_OF_THE_ENVIRONMENT: Final = frozenset({"path", "host", "tls_cert", "tls_key", "insecure_bind"})


class _LazyGroup(click.Group):
    """Imports a sub-command only when it is asked for: the doctor reads DAGs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return ["doctor", "run"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"trace_dagster.cli.gateway_{cmd_name}").command
        return command


@click.group("gateway", cls=_LazyGroup, invoke_without_command=True)
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=Path("rpc_pools.yaml"),
    show_default=True,
    help="Pools, endpoints, limits and tokens.",
)
@click.option(
    "--from-environment",
    is_flag=True,
    help="A pool for each TRACE_RPC_POOL_<NAME>_URL instead, for this machine only, on any free port.",
)
@click.option("--host", help="Address to listen on, instead of the configuration's.")
@click.option("--port", type=click.IntRange(0, 65535), help="TCP port; 0: any free one.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key, PEM.")
@click.option("--insecure-bind", is_flag=True, help="Listen beyond this machine without TLS.")
@click.option("--no-compression", is_flag=True, help="For workers on this machine, where it only costs time.")
@click.option("--until-stdin-ends", is_flag=True, help="End with whatever holds its standard input open.")
@click.pass_context
def command(
    context: click.Context,
    *,
    path: Path,
    from_environment: bool,
    host: str | None,
    port: int | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    insecure_bind: bool,
    no_compression: bool,
    until_stdin_ends: bool,
) -> None:
    """Run the RPC Egress Gateway: the only process that knows providers.

    SIGHUP reads the configuration and all secrets anew, without dropping a request.
    """
    if context.invoked_subcommand is not None:
        return
    from trace_dagster.rpc.gateway.load import InvalidConfig  # noqa: PLC0415 (not for sub-commands)
    from trace_dagster.rpc.gateway.server import Listen, serve  # noqa: PLC0415

    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    if from_environment:
        _refuse_beside_environment(context)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    compresses = not (no_compression or from_environment)
    listen = Listen(host, port, tls_cert, tls_key, insecure_bind, compresses, until_stdin_ends)
    try:
        serve(
            None if from_environment else path,
            listen,
            lambda url: click.echo(f"the gateway listens on {url}"),
        )
    except InvalidConfig as error:
        from trace_dagster.cli.loading import INVALID  # noqa: PLC0415 (brings all operators along)

        click.echo(str(error), err=True)
        sys.exit(INVALID)
    except TraceError as error:
        raise click.ClickException(str(error)) from None


def _refuse_beside_environment(context: click.Context) -> None:
    """Refuse flags that mean nothing for the pools of the environment, which this machine alone may ask."""
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name in _NOT_OF_THE_ENVIRONMENT
        and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"--from-environment does not go with {', '.join(given)}")
