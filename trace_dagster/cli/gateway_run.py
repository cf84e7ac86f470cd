"""``trace gateway run``."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final

import click

from trace_dagster.cli.local_gateway import LocalGateway, local_gateway
from trace_dagster.errors import TraceError
from trace_dagster.settings import Settings

__all__ = ["command", "stop"]

_SECONDS_BETWEEN_LOOKS: Final = 0.1
_STOP_SECONDS: Final = 15.0
_SIGNALLED: Final = 128


@click.command("run", context_settings={"allow_interspersed_args": False})
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def command(program: tuple[str, ...]) -> None:
    """Run PROGRAM with a gateway of TRACE_RPC_POOL_<NAME>_URL beside it.

    It is given TRACE_RPC_GATEWAY_URL and the gateway's token in the place of the pools' URLs. Both end
    together, whichever ends first. Where there is a gateway, or no pool's URL, it is run as it is.
    """
    try:
        settings = Settings.from_environment(os.environ)
        if settings.rpc_gateway_url is not None or not settings.rpc_pool_urls:
            os.execvp(program[0], program)  # noqa: S606 - it is what was asked for
        with local_gateway(os.environ) as gateway:
            pools = ", ".join(sorted(name.lower() for name in settings.rpc_pool_urls))
            click.echo(f"==> The RPC gateway of {pools} listens on {gateway.url}; it ends with {program[0]}")
            status = _run(program, gateway)
    except TraceError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{program[0]} cannot be run: {error.strerror}") from None
    sys.exit(status)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process where it still runs, as Ctrl-C does; it may have had that of the terminal, too."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _run(program: Sequence[str], gateway: LocalGateway) -> int:
    """Run ``program`` to its end, or to the gateway's, and return the exit status."""
    # It holds the gateway's input, too: were this process killed, both would go on until the program ends.
    held = () if gateway.process.stdin is None else (gateway.process.stdin.fileno(),)
    with _signals_left_to() as children:
        process = subprocess.Popen(program, env=gateway.given_to(os.environ), pass_fds=held)
        children.append(process)
        try:
            while process.poll() is None and gateway.process.poll() is None:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            status = gateway.process.poll()
            if process.poll() is None:
                click.echo(
                    f"==> The RPC gateway ended with status {status}; so {program[0]} is ended", err=True
                )
        finally:
            stop(process)
    if status is not None:
        return 1
    return process.returncode if process.returncode >= 0 else _SIGNALLED - process.returncode


@contextmanager
def _signals_left_to() -> "Iterator[list[subprocess.Popen[bytes]]]":
    """Let the program end first: Ctrl-C it has from the terminal itself, SIGTERM is passed on."""
    children: list[subprocess.Popen[bytes]] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            for child in children:
                child.send_signal(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
