"""``trace gateway``."""

import logging
import sys
from pathlib import Path

import click

from trace_dagster.errors import TraceError

__all__ = ["command"]


class _LazyGroup(click.Group):
    """Imports the doctor, which reads DAGs, only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return ["doctor"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name != "doctor":
            return None
        from trace_dagster.cli.gateway_doctor import command as doctor  # noqa: PLC0415

        return doctor


@click.group("gateway", cls=_LazyGroup, invoke_without_command=True)
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=Path("rpc_pools.yaml"),
    show_default=True,
    help="Pools, endpoints, limits and tokens.",
)
@click.option("--host", help="Address to listen on, instead of the configuration's.")
@click.option("--port", type=click.IntRange(0, 65535), help="TCP port; 0: any free one.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key, PEM.")
@click.option("--insecure-bind", is_flag=True, help="Listen beyond this machine without TLS.")
@click.option("--no-compression", is_flag=True, help="For workers on this machine, where it only costs time.")
@click.pass_context
def command(
    context: click.Context,
    *,
    path: Path,
    host: str | None,
    port: int | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    insecure_bind: bool,
    no_compression: bool,
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
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    listen = Listen(host, port, tls_cert, tls_key, insecure_bind, not no_compression)
    try:
        serve(path, listen, lambda url: click.echo(f"the gateway listens on {url}"))
    except InvalidConfig as error:
        from trace_dagster.cli.loading import INVALID  # noqa: PLC0415 (brings all operators along)

        click.echo(str(error), err=True)
        sys.exit(INVALID)
    except TraceError as error:
        raise click.ClickException(str(error)) from None
