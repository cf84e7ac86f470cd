"""Bring the ledger's tables up to date, once, whichever process is first."""

from pathlib import Path
from typing import Final

import psycopg

from trace_dagster.errors import LedgerUnavailable
from trace_dagster.ledger.connections import Connections
from trace_dagster.ledger.failures import explain

__all__ = ["REVISION", "ensure_schema"]

# The newest migration. Kept here as well, so that a process need not import alembic to see that all is done.
REVISION: Final = "0004"

_ADVISORY_LOCK: Final = 7_235_419_081_664_529_413  # any number that only this project uses


def ensure_schema(connections: Connections, where: str) -> None:
    """Run the migrations that the database does not have yet.

    Raises:
        LedgerUnavailable: Postgres cannot be reached or refuses, or its tables are newer than this program.
    """
    exists = connections.rows("schema_exists", {})[0]["exists"]
    found = connections.rows("schema_revision", {}) if exists else []
    if found and found[0]["version_num"] == REVISION:
        return
    try:
        _migrate(connections.conninfo(), where)
    except psycopg.Error as error:
        raise explain(error, where) from None


def _migrate(conninfo: str, where: str) -> None:
    # Imported here: half a second that only the first process pays.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415
    from sqlalchemy import create_engine, exc, pool, text  # noqa: PLC0415

    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), poolclass=pool.NullPool
    )
    try:
        with engine.begin() as connection:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
            connection.execute(text("CREATE SCHEMA IF NOT EXISTS trace"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except exc.DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from None
        raise
    except CommandError as error:
        raise LedgerUnavailable(
            f"Postgres at {where}: the ledger's tables are of a version that this program, at revision "
            f"{REVISION}, does not know ({error}); upgrade trace-dagster"
        ) from None
