"""What Postgres' errors mean, in one line each, with the mend."""

import psycopg
from psycopg import errors

from trace_dagster.errors import LedgerRefused, LedgerUnavailable

__all__ = ["RowLocked", "explain"]


class RowLocked(LedgerUnavailable):
    """Another session has held a lock for too long."""


_MENDS: tuple[tuple[type[psycopg.Error], str, str], ...] = (
    (errors.InvalidPassword, "password authentication failed", "correct the user or password"),
    (errors.InvalidAuthorizationSpecification, "no pg_hba.conf entry", "let this client in, in pg_hba.conf"),
    (errors.InvalidCatalogName, "does not exist", "create the database (or role), or correct its name"),
    (errors.TooManyConnections, "too many clients", "raise max_connections, or run fewer workers"),
    (errors.DiskFull, "No space left on device", "free disk space on the database server"),
    (errors.ReadOnlySqlTransaction, "read-only", "name the primary, not a replica"),
    (errors.InsufficientPrivilege, "permission denied", "grant the user CREATE on the database"),
)


# Data exception; integrity constraint; syntax error or access rule.
_REFUSED_CLASSES = ("22", "23", "42")


def explain(error: psycopg.Error, where: str) -> LedgerRefused | LedgerUnavailable:
    """Return the error to raise for what psycopg raised; one line, without a credential.

    Args:
        error: the error; libpq's text names host, database and user, never a password.
        where: the server, as it may be shown.
    """
    text = str(error).strip()
    cause = " ".join(text.partition("\n")[0].split()) or type(error).__name__
    if isinstance(error, errors.LockNotAvailable):
        return RowLocked(f"Postgres at {where}: {cause}; end the session that holds the lock, or try again")
    for kind, phrase, mend in _MENDS:
        # Where there was no session yet, the text is all that libpq gives.
        if isinstance(error, kind) or (error.sqlstate is None and phrase in text):
            return LedgerUnavailable(f"Postgres at {where}: {cause}; {mend}")
    if (error.sqlstate or "")[:2] in _REFUSED_CLASSES:
        return LedgerRefused(
            f"Postgres at {where} refuses: {cause}; a table was changed from outside, or a value does not "
            "fit it. Nothing was written"
        )
    return LedgerUnavailable(
        f"Postgres at {where}: {cause}; check TRACE_POSTGRES_URL and that the server runs"
    )
