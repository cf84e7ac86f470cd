"""The ledger in Postgres: attempts, dataset versions, published names. Everything public is here."""

from trace_dagster.ledger.attempts import Attempt, Fence
from trace_dagster.ledger.ledger import Ledger, open_ledger
from trace_dagster.ledger.records import AttemptRecord, CommittedDataset, PublishedOutput

__all__ = [
    "Attempt",
    "AttemptRecord",
    "CommittedDataset",
    "Fence",
    "Ledger",
    "PublishedOutput",
    "open_ledger",
]
