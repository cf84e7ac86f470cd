"""The tree of errors that this project raises on purpose.

Every message states actual against expected and what to do. An error carries its data as attributes,
and never a credential: anything that may hold one goes through ``trace_dagster.urls.redact`` first.
"""

__all__ = [
    "AttemptLost",
    "CommitConflict",
    "ConfigurationError",
    "DataMismatch",
    "DeadlineExceeded",
    "EngineFailed",
    "Interrupted",
    "LedgerRefused",
    "LedgerUnavailable",
    "RpcError",
    "RpcUnavailable",
    "StagingFull",
    "StoreUnavailable",
    "TraceError",
    "WrongChain",
]


class TraceError(Exception):
    """Something this project found wrong, with a message for a person.

    Attributes:
        retryable: whether the same work may succeed when it is tried again unchanged.
        stops_run: whether other partitions of the same run would fail in the same way.
    """

    retryable = True
    stops_run = False


class ConfigurationError(TraceError):
    """A setting or a DAG asks for something that cannot work; trying again changes nothing."""

    retryable = False
    stops_run = True


class StoreUnavailable(TraceError):
    """The object store cannot be reached, or refuses."""

    stops_run = True


class LedgerUnavailable(TraceError):
    """Postgres cannot be reached, or refuses."""

    stops_run = True


class LedgerRefused(TraceError):
    """Postgres refuses a statement for what it says: a value or a table does not fit. It would again."""

    retryable = False
    stops_run = True


class AttemptLost(TraceError):
    """The attempt's lease was taken over: what it made must not be committed.

    A new attempt may be made: it waits for the present holder, and finds what that one committed.
    """


class CommitConflict(TraceError):
    """Another content is already committed under the same dataset version."""

    retryable = False


class DeadlineExceeded(TraceError):
    """The attempt took longer than ``timeout_seconds``."""


class Interrupted(TraceError):
    """The run ends, and the attempt was given up."""

    retryable = False
    stops_run = True


class StagingFull(TraceError):
    """A partition needs more local disk than allowed or available."""

    retryable = False


class EngineFailed(TraceError):
    """An extraction engine ended without giving everything it was asked for."""


class DataMismatch(TraceError):
    """Extracted rows disagree with themselves or with the chain; nothing was committed."""


class RpcError(TraceError):
    """A JSON-RPC endpoint answered with an error, or with something that is no answer."""


class RpcUnavailable(RpcError):
    """A JSON-RPC endpoint cannot be reached."""


class WrongChain(TraceError):
    """The endpoint serves another chain than the DAG names."""

    retryable = False
    stops_run = True
