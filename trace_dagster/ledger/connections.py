"""Connections to Postgres: a few idle ones are kept, and broken ones are replaced."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import psycopg
from psycopg.rows import DictRow, dict_row

from trace_dagster.ledger.failures import explain
from trace_dagster.ledger.queries import QUERIES

__all__ = ["Connections", "Database"]

Database = psycopg.Connection[DictRow]
Parameters = Mapping[str, Any]
_Result = TypeVar("_Result")

# How long a server that went away may take to come back: a restart or a fail-over.
_RECONNECT_SECONDS: Final = 20.0
_OPTIONS: Final[Mapping[str, Any]] = {
    "connect_timeout": 10,
    "application_name": "trace-dagster",
    # A host that vanished is noticed within half a minute, not after the kernel's two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}


class Connections:
    """A pool for one process. Safe to use from several threads.

    Every statement must be safe to send again: one whose answer was lost with the connection is.

    Attributes:
        conninfo: gives the connection string or URL for libpq.
    """

    def __init__(self, conninfo: Callable[[], str], where: str, revive: Callable[[], None]) -> None:
        """Make an empty pool.

        Args:
            conninfo: gives the connection string or URL for libpq.
            where: the server, as messages may show it.
            revive: called before a lost connection is made again; may start the server.
        """
        self.conninfo = conninfo
        self._where = where
        self._revive = revive
        self._idle: list[Database] = []
        self._guard = threading.Lock()
        self._reached = False

    def close(self) -> None:
        """Close the idle connections."""
        with self._guard:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def rows(self, query: str, parameters: Parameters) -> list[DictRow]:
        """Run one named statement in a transaction of its own.

        Raises:
            LedgerUnavailable: Postgres cannot be reached, or refuses.
        """
        with self._connected(lambda connection: _fetch(connection, query, parameters)) as (_, rows):
            return rows

    @contextmanager
    def lent(self) -> Iterator[Database]:
        """Lend a connection, outside of any transaction.

        Raises:
            LedgerUnavailable: Postgres cannot be reached, or refuses.
        """
        with self._connected(lambda connection: connection.execute("SELECT")) as (connection, _):
            yield connection

    @contextmanager
    def transaction(self, query: str, parameters: Parameters) -> Iterator[tuple[Database, list[DictRow]]]:
        """Begin a transaction with one named statement, and commit it when the block ends well.

        Yields:
            The connection, for further statements, and the first statement's rows.

        Raises:
            LedgerUnavailable: Postgres cannot be reached, or refuses; also when it is not known whether
                the commit was done.
        """

        def begin(connection: Database) -> list[DictRow]:
            connection.execute("BEGIN")
            return _fetch(connection, query, parameters)

        with self._connected(begin) as (connection, rows):
            try:
                yield connection, rows
                connection.execute("COMMIT")
            except BaseException:
                with suppress(psycopg.Error):
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _connected(self, first: Callable[[Database], _Result]) -> Iterator[tuple[Database, _Result]]:
        """Lend a connection on which ``first`` was done; what follows is not tried again."""
        connection, result = self._begin(first)
        usable = False
        try:
            yield connection, result
            usable = True
        except psycopg.Error as error:
            raise explain(error, self._where) from None
        finally:
            self._give_back(connection, usable=usable)

    def _begin(self, first: Callable[[Database], _Result]) -> tuple[Database, _Result]:
        give_up_at = time.monotonic() + _RECONNECT_SECONDS
        pause = 0.05
        while True:
            connection: Database | None = None
            try:
                connection = self._take()
                return connection, first(connection)
            except psycopg.Error as error:
                broken = connection is None or connection.broken or connection.closed
                if connection is not None:
                    connection.close()
                if not (broken and self._reached and time.monotonic() < give_up_at):
                    raise explain(error, self._where) from None
            except BaseException:
                if connection is not None:
                    connection.close()
                raise
            self.close()
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
            self._revive()

    def _take(self) -> Database:
        with self._guard:
            if self._idle:
                return self._idle.pop()
        connection = psycopg.connect(self.conninfo(), autocommit=True, row_factory=dict_row, **_OPTIONS)
        self._reached = True  # from now on a server that is away is waited for
        connection.execute(QUERIES["prepare_session"])
        return connection

    def _give_back(self, connection: Database, *, usable: bool) -> None:
        idle = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        if usable and idle:
            with self._guard:
                self._idle.append(connection)
        else:
            connection.close()


def _fetch(connection: Database, query: str, parameters: Parameters) -> list[DictRow]:
    cursor = connection.execute(QUERIES[query], parameters)
    return cursor.fetchall() if cursor.description else []
