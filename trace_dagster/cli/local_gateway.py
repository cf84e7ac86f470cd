"""A gateway of this machine's own, for as long as something runs beside it."""

import re
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from trace_dagster.errors import ConfigurationError
from trace_dagster.settings import without_pools

__all__ = ["LocalGateway", "local_gateway"]

_LISTENS: Final = re.compile(r"listens on (\S+)")
_TOKEN: Final = "TRACE_RPC_GATEWAY_TOKEN"  # noqa: S105 - the variable's name
_STOP_SECONDS: Final = 10.0


@dataclass(frozen=True)
class LocalGateway:
    """A running gateway.

    Attributes:
        url: where it listens.
        token: what it asks for: others on this machine must not spend what the pools' keys cost.
        process: it; it ends once all writing ends of its standard input are closed.
    """

    url: str
    token: SecretStr
    process: "subprocess.Popen[str]"

    def given_to(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return an environment that names the gateway in the place of the pools' URLs."""
        gateway = {"TRACE_RPC_GATEWAY_URL": self.url, _TOKEN: self.token.get_secret_value()}
        return without_pools(environment) | gateway


@contextmanager
def local_gateway(environment: Mapping[str, str], log: Path | None = None) -> Iterator[LocalGateway]:
    """Run a gateway of the pools that ``environment`` names, and end it at the end, or with this process.

    It has a session of its own: Ctrl-C does not end it before those who ask it have ended.

    Args:
        environment: its environment.
        log: where it writes what is wrong; None: to standard error.

    Raises:
        ConfigurationError: it does not start; what it wrote says why.
    """
    token = SecretStr(secrets.token_hex(16))
    with ExitStack() as resources:
        errors = None if log is None else resources.enter_context(log.open("w"))
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("trace")),
                "gateway",
                "--from-environment",
                "--until-stdin-ends",
            ],
            env={**environment, _TOKEN: token.get_secret_value()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        resources.callback(_end, process)
        yield LocalGateway(_url_of(process, log), token, process)


def _url_of(process: "subprocess.Popen[str]", log: Path | None) -> str:
    for line in process.stdout or ():
        if match := _LISTENS.search(line):
            return match[1]
    said = "" if log is None else f": {log.read_text()[-2000:].strip()}"
    raise ConfigurationError(f"the gateway ended with status {process.wait()} before it listened{said}")


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.communicate(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
