"""The ledger in Postgres: attempts, versions, followers, published names. Everything public is here."""

from trace_dagster.ledger.attempts import Attempt, Fence
from trace_dagster.ledger.consuming import ConsumerState, ConsumerStep
from trace_dagster.ledger.following import (
    FollowerState,
    FollowerStep,
    Invalidation,
    OrphanedBlock,
    Reorg,
)
from trace_dagster.ledger.ledger import Ledger, open_ledger
from trace_dagster.ledger.records import AttemptRecord, CommittedDataset, PublishedOutput

__all__ = [
    "Attempt",
    "AttemptRecord",
    "CommittedDataset",
    "ConsumerState",
    "ConsumerStep",
    "Fence",
    "FollowerState",
    "FollowerStep",
    "Invalidation",
    "Ledger",
    "OrphanedBlock",
    "PublishedOutput",
    "Reorg",
    "open_ledger",
]
