"""The gateway as a process: listens, reloads on SIGHUP, and ends without dropping requests."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn

from trace_dagster.errors import ConfigurationError, TraceError
from trace_dagster.rpc.gateway.app import GatewayApp
from trace_dagster.rpc.gateway.auth import is_loopback
from trace_dagster.rpc.gateway.config import GatewayConfig
from trace_dagster.rpc.gateway.connections import Connections
from trace_dagster.rpc.gateway.environment import environment_config
from trace_dagster.rpc.gateway.listening import Certificate, Room, Server, bound
from trace_dagster.rpc.gateway.load import load_config
from trace_dagster.rpc.gateway.metrics import Metrics
from trace_dagster.rpc.gateway.protocol import GuardedProtocol
from trace_dagster.rpc.gateway.resolved import ResolvedConfig, resolve_config
from trace_dagster.rpc.gateway.running import Running

__all__ = ["GatewayServer", "Listen", "serve"]

_KEEP_ALIVE_SECONDS: Final = 75
_STOP_SECONDS: Final = 60
_ENDING: Final = (signal.SIGINT, signal.SIGTERM)
_STDIN: Final = 0
_READ_BYTES: Final = 4096

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listen:
    """What flags say of listening, before the configuration.

    Attributes:
        host: address, None: the configuration's.
        port: TCP port, None: the configuration's.
        tls_cert: certificate chain, PEM.
        tls_key: its private key, PEM.
        insecure_bind: whether tokens may cross a network without TLS.
        compresses: whether replies are compressed for those who read that.
        until_stdin_ends: whether the end of standard input ends the gateway.
    """

    host: str | None = None
    port: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_bind: bool = False
    compresses: bool = True
    until_stdin_ends: bool = False


class GatewayServer:
    """One gateway.

    Args:
        path: of ``rpc_pools.yaml``; None: pools are those of the environment.
        listen: what flags say.
        listening: called with the URL once it listens.
    """

    def __init__(self, path: Path | None, listen: Listen, listening: Callable[[str], None]) -> None:
        self._path, self._listen, self._listening = path, listen, listening
        self._metrics = Metrics()
        self._certificate: Certificate | None = None
        self._room = Room()
        self._connections = Connections(self._room.most_connections(0))
        self._reloading: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ConfigurationError: the configuration cannot be used, or nothing can listen there.
        """
        resolved = await asyncio.to_thread(self._read)
        host, port = self._address(resolved.config)
        self._check_bind(host, resolved.config)
        if self._listen.tls_cert is not None:
            self._certificate = Certificate(self._listen.tls_cert, self._listen.tls_key)
        running = Running(resolved, self._metrics)
        app = GatewayApp(running, self._metrics, compresses=self._listen.compresses)
        self._make_room(running)
        with bound(host, port, self._room.backlog) as listener:
            server = self._server(app)
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, self._reload, app)
            for number in _ENDING:
                loop.add_signal_handler(number, server.handle_exit, number, None)
            if self._listen.until_stdin_ends:
                loop.add_reader(_STDIN, _look_at_stdin, loop, server)
            await running.start()
            scheme = "https" if self._listen.tls_cert else "http"
            shown = f"[{host}]" if ":" in host else host
            self._listening(f"{scheme}://{shown}:{listener.getsockname()[1]}")
            try:
                await server.serve(sockets=[listener])
            finally:
                if self._reloading is not None:
                    await self._reloading
                await asyncio.gather(app.running.close(), *self._closing)

    def _read(self) -> ResolvedConfig:
        try:
            if self._path is None:
                return environment_config(os.environ)
            return resolve_config(load_config(self._path))
        except (TraceError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 (its text and its traceback may hold a secret)
            what = type(error).__name__
        place = self._path or "the environment"
        raise ConfigurationError(
            f"{place} cannot be read: {what}, which nobody expected; look at AWS_* first"
        )

    def _address(self, config: GatewayConfig) -> tuple[str, int]:
        port = self._listen.port
        return self._listen.host or config.listen.host, config.listen.port if port is None else port

    def _check_bind(self, host: str, config: GatewayConfig) -> None:
        if is_loopback(host) or host == "localhost":
            return
        if not config.tokens:
            raise ConfigurationError(
                f"the gateway would listen on {host} and answer anybody: name tokens in {self._path}, or "
                "listen on 127.0.0.1"
            )
        if self._listen.tls_cert is None and not self._listen.insecure_bind:
            raise ConfigurationError(
                f"tokens would cross the network to {host} in the clear: give --tls-cert and --tls-key, "
                "listen on 127.0.0.1, or say --insecure-bind where something before the gateway encrypts"
            )

    def _server(self, app: GatewayApp) -> Server:
        config = uvicorn.Config(
            app,
            loop="none",
            http=GuardedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # a warning for each stranger's request would let strangers fill the log
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        return Server(config, self._connections, self._room.backlog, self._certificate)

    def _make_room(self, running: Running) -> None:
        """Leave files for the connections to endpoints."""
        self._connections.most = self._room.most_connections(running.most_exchanges)

    def _reload(self, app: GatewayApp) -> None:
        before = self._reloading

        async def reload() -> None:
            if before is not None:
                await before
            try:
                await self._replace(app)
            except Exception as error:  # noqa: BLE001 (another reload may work; its text may hold a secret)
                what = type(error).__name__
                _logger.error("not reloaded, the gateway goes on as before: %s", what)  # noqa: TRY400

        self._reloading = asyncio.create_task(reload())

    async def _replace(self, app: GatewayApp) -> None:
        """Read everything anew and change over; where anything is wrong, all stays as it is."""
        try:
            resolved = await asyncio.to_thread(self._read)
            self._check_bind(self._address(app.running.config)[0], resolved.config)
            pair = None if self._certificate is None else self._certificate.read()
            running = Running(resolved, self._metrics)
        except (ConfigurationError, OSError) as error:
            _logger.error("not reloaded, the gateway goes on as before: %s", error)  # noqa: TRY400
            return
        async with AsyncExitStack() as failed:
            failed.push_async_callback(running.close)
            running.inherit(app.running)
            await running.start()
            failed.pop_all()
        if self._certificate is not None and pair is not None:
            self._certificate.use(pair)
        old, app.running = app.running, running
        self._make_room(running)
        closing = asyncio.create_task(old.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        _logger.warning("reloaded %s", self._path or "the environment")


def serve(path: Path | None, listen: Listen, listening: Callable[[str], None]) -> None:
    """Run a gateway in this process until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the configuration cannot be used, or nothing can listen there.
    """
    loop_factory = uvicorn.Config("", loop="auto").get_loop_factory()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(GatewayServer(path, listen, listening).run())


def _look_at_stdin(loop: asyncio.AbstractEventLoop, server: uvicorn.Server) -> None:
    """End the gateway once whatever holds the other end of its standard input is gone."""
    if not os.read(_STDIN, _READ_BYTES):
        loop.remove_reader(_STDIN)
        server.handle_exit(signal.SIGTERM, None)
