"""What a user reads when Postgres does not serve."""

import socket
import uuid
from collections.abc import Iterator
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from trace_dagster.errors import ConfigurationError, LedgerUnavailable
from trace_dagster.ledger import Ledger, open_ledger
from trace_dagster.ledger.schema import REVISION
from trace_dagster.settings import Settings


def settings(url: str) -> Settings:
    """Return settings with an outside Postgres."""
    return Settings.from_environment({"TRACE_POSTGRES_URL": url})


@pytest.fixture
def database(ledger: Ledger) -> Iterator[str]:
    """An empty database of the test server; gives its URL."""
    name = f"d{uuid.uuid4().hex}"
    with psycopg.connect(ledger.conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        yield url_of(ledger, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[call-overload]


def url_of(ledger: Ledger, database: str, user: str = "trace") -> str:
    """Return a URL of the test server."""
    folder = str(conninfo_to_dict(ledger.conninfo)["host"])
    return f"postgresql+psycopg2://{user}:hunter2@/{database}?host={quote(folder, safe='')}&port=5432"


def message(url: str, error: type[Exception] = LedgerUnavailable) -> str:
    """Return what opening the ledger says; always one line, never the password."""
    with pytest.raises(error) as caught, open_ledger(settings(url)):
        pytest.fail("it opened")
    text = str(caught.value)
    assert "\n" not in text
    assert "hunter2" not in text
    return text


def test_an_outside_postgres_works_with_any_driver_in_its_url(database: str) -> None:
    """SQLAlchemy's driver name is allowed; the tables are made once, and found the next time."""
    for _ in range(2):
        with open_ledger(settings(database)) as opened:
            opened.publish_names("dag", {})


def test_postgres_down() -> None:
    """Nobody listens: the message has host and port, and the variable to look at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        text = message(f"postgresql://trace:hunter2@127.0.0.1:{port}/trace")
    assert f"postgresql://127.0.0.1:{port}" in text
    assert "check TRACE_POSTGRES_URL and that the server runs" in text


def test_a_database_that_does_not_exist(ledger: Ledger) -> None:
    """The message names it."""
    assert 'database "nowhere" does not exist; create the database' in message(url_of(ledger, "nowhere"))


def test_a_user_without_rights(ledger: Ledger, database: str) -> None:
    """The message says which right to grant."""
    role = f"r{uuid.uuid4().hex}"
    with psycopg.connect(ledger.conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")  # type: ignore[call-overload]
    assert "grant the user CREATE on the database" in message(database.replace("trace:", f"{role}:", 1))


def test_tables_of_a_newer_program(database: str) -> None:
    """A program that was rolled back does not touch what it does not know."""
    with open_ledger(settings(database)) as opened, psycopg.connect(opened.conninfo) as connection:
        connection.execute("UPDATE trace.alembic_version SET version_num = '9999'")
    text = message(database)
    assert f"at revision {REVISION}, does not know" in text
    assert text.endswith("upgrade trace-dagster")


@pytest.mark.parametrize(
    "url", ["mysql://u:hunter2@host/db", "postgresql://u:hunter2@host:port/db", "hunter2"]
)
def test_what_is_no_url(url: str) -> None:
    """The message shows the form, and nothing of what was given."""
    assert "write postgresql://user:password@host:5432/database" in message(url, ConfigurationError)
