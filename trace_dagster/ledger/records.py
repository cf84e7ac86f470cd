"""What the ledger stores, as plain frozen data."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from trace_dagster.chain.ranges import BlockRange

__all__ = ["AttemptRecord", "AttemptState", "CommittedDataset", "PublishedOutput"]

AttemptState = Literal["running", "succeeded", "failed", "lost"]


@dataclass(frozen=True)
class CommittedDataset:
    """A dataset version whose manifest is in the store.

    Attributes:
        storage_root: the store's URL, without credentials.
        chain_id: the chain.
        dataset: Cryo's name of the dataset.
        range: the block range, inclusive.
        dataset_version: the version, a UUID.
        config_hash: SHA-256 of what changes its bytes.
        prefix: where it lies below the root.
        rows: of all its objects.
        bytes: of all its objects.
        engine: what made the rows.
        synthetic: whether the rows are made up.
    """

    storage_root: str
    chain_id: int
    dataset: str
    range: BlockRange
    dataset_version: str
    config_hash: str
    prefix: str
    rows: int
    bytes: int
    engine: str
    synthetic: bool

    def parameters(self, task_key: str | None, attempt: int | None, run_id: str | None) -> dict[str, object]:
        """Return the parameters of the statement ``record``; None where no attempt of ours committed it."""
        return {
            **{name: value for name, value in vars(self).items() if name != "range"},
            **self.range._asdict(),
            "task_key": task_key,
            "attempt": attempt,
            "run_id": run_id,
        }


@dataclass(frozen=True)
class AttemptRecord:
    """One try of a task.

    Attributes:
        number: from 1, within the task.
        state: ``lost`` where the lease expired and another attempt took over.
        run_id: the Dagster run.
        started_at: by Postgres' clock.
        finished_at: likewise; None while it runs.
        error: one line, where it failed or was lost.
    """

    number: int
    state: AttemptState
    run_id: str
    started_at: datetime
    finished_at: datetime | None
    error: str | None


class PublishedOutput(NamedTuple):
    """What a published name stands for.

    Attributes:
        job: the job.
        output: its output's name.
    """

    job: str
    output: str
