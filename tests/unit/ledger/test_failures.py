"""What Postgres' errors are turned into."""

import psycopg
import pytest
from psycopg import errors

from trace_dagster.errors import LedgerRefused
from trace_dagster.ledger.failures import RowLocked, explain


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            psycopg.OperationalError("connection failed: Connection refused\n\tIs it up?"),
            "check TRACE_POSTGRES",
        ),
        (
            psycopg.OperationalError('FATAL:  password authentication failed for user "u"'),
            "correct the user or",
        ),
        (psycopg.OperationalError('FATAL:  database "x" does not exist'), "create the database"),
        (errors.TooManyConnections("sorry, too many clients already"), "raise max_connections"),
        (errors.DiskFull("could not extend file: No space left on device"), "free disk space"),
        (errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction"), "not a replica"),
        (errors.InsufficientPrivilege("permission denied for database x"), "grant the user CREATE"),
        (psycopg.OperationalError(""), "OperationalError; check"),
    ],
)
def test_each_cause_is_one_line_with_its_mend(error: psycopg.Error, said: str) -> None:
    """The message names the server, the cause and what to do."""
    explained = explain(error, "postgresql://db:5432")
    assert str(explained).startswith("Postgres at postgresql://db:5432: ")
    assert said in str(explained)
    assert "\n" not in str(explained)


@pytest.mark.parametrize(
    "kind", [errors.NotNullViolation, errors.DatetimeFieldOverflow, errors.UndefinedColumn]
)
def test_what_does_not_fit_is_no_outage(kind: type[psycopg.Error]) -> None:
    """Trying again changes nothing, and the server runs."""
    explained = explain(kind("it does not fit"), "postgresql://db:5432")
    assert isinstance(explained, LedgerRefused)
    assert not explained.retryable
    assert "postgresql://db:5432 refuses: it does not fit; " in str(explained)


def test_a_held_lock_is_told_apart() -> None:
    """Waiting too long for somebody's commit is no reason to give up."""
    assert isinstance(
        explain(errors.LockNotAvailable("canceling statement due to lock timeout"), "x"), RowLocked
    )
