"""The Protocol that every operator follows, and the data that passes through it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import DeadlineExceeded, Interrupted
from trace_dagster.spec.catalog import OperatorType
from trace_dagster.spec.naming import table_name

if TYPE_CHECKING:
    import pyarrow as pa

    from trace_dagster.operators.services import Services

__all__ = ["Deadline", "MetadataValue", "Operator", "OutputResult", "Progress", "Task", "TaskInput"]

MetadataValue = str | int | float | bool | Mapping[str, Any]


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock after which an attempt must not go on.

    Attributes:
        timeout_seconds: the limit, for the message.
        at: ``time.monotonic()`` value; infinite where there is no limit.
        is_stopped: whether the run ends and the attempt is to be given up at once.
    """

    timeout_seconds: float | None
    at: float
    is_stopped: Callable[[], bool] = lambda: False

    @classmethod
    def after(
        cls, timeout_seconds: float | None, is_stopped: Callable[[], bool] = lambda: False
    ) -> "Deadline":
        """Return the deadline that many seconds from now; never for None."""
        at = time.monotonic() + timeout_seconds if timeout_seconds else float("inf")
        return cls(timeout_seconds, at, is_stopped)

    @property
    def remaining_seconds(self) -> float:
        """Seconds left, at least 0; infinite without a limit."""
        return 0.0 if self.is_stopped() else max(0.0, self.at - time.monotonic())

    def check(self) -> None:
        """Do nothing before the deadline.

        Raises:
            DeadlineExceeded: the deadline has passed.
            Interrupted: the run ends.
        """
        if self.is_stopped():
            raise Interrupted("given up, since the run ends; nothing of the partition was committed")
        if time.monotonic() >= self.at:
            raise DeadlineExceeded(
                f"the attempt took longer than timeout_seconds: {self.timeout_seconds:g}; "
                "raise it, or make the partitions smaller"
            )


@dataclass(frozen=True)
class TaskInput:
    """What a task reads.

    Attributes:
        dag, job, output: the names of who writes it, and of the output.
        where: column: value; only rows where all are equal are meant.
    """

    dag: str
    job: str
    output: str
    where: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, services: "Services", blocks: BlockRange) -> "pa.Table":
        """Return the rows that a follower or a ``PerUpdate`` job has committed for ``blocks``, in order.

        Binary is binary; numbers of more than 64 bits are text, and lists are JSON text.

        Raises:
            ConfigurationError: there is no such table, or ``where`` does not fit it.
            LedgerUnavailable: Postgres cannot be reached, or refuses.
        """
        return services.append.read(self.dag, table_name(self.job, self.output), blocks, self.where)


@dataclass(frozen=True)
class Task:
    """One partition of one job, or one range of new blocks of a ``PerUpdate`` job, to be done once.

    Attributes:
        dag: the DAG's name.
        job: the job's name.
        partition: the block range.
        outputs: names of the outputs asked for, in the job's order.
        config: the operator's validated config.
        timeout_seconds: limit of this attempt; None for none.
        lease_seconds: how long the ledger waits for a heartbeat before another may take over.
        force: do the work again although it is committed.
        run_id: the Dagster run, for the ledger.
        inputs: what it reads, in the job's order.
        fetched: called once nothing more is read for it, so that the next partition may begin meanwhile.
        is_stopped: whether the run ends and the attempt is to be given up.
    """

    dag: str
    job: str
    partition: BlockRange
    outputs: tuple[str, ...]
    config: Any
    timeout_seconds: float | None
    lease_seconds: float
    force: bool
    run_id: str
    inputs: tuple[TaskInput, ...] = ()
    fetched: Callable[[], None] = lambda: None
    is_stopped: Callable[[], bool] = lambda: False

    @property
    def key(self) -> str:
        """``dag/job/partition``: what the ledger leases."""
        return f"{self.dag}/{self.job}/{self.partition.key}"


@dataclass(frozen=True)
class OutputResult:
    """One output of one partition, committed.

    Attributes:
        output: the output's name.
        data_version: Dagster's data version: the dataset version.
        metadata: keys of ``trace_dagster.metadata`` to plain values.
        rows: what is still to be written, into the output's hot table, as the job's ``update_strategy`` says;
            None where the operator has committed its output itself.
    """

    output: str
    data_version: str
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    rows: "pa.Table | None" = None


class Progress(Protocol):
    """Where an operator says how far it is: constant text and fields."""

    def __call__(self, message: str, **fields: object) -> None:
        """Report ``message``; fields are shown as ``name=value``."""
        ...


class Operator(OperatorType, Protocol):
    """An operator: its declaration and the work on one partition."""

    def run(self, task: Task, services: "Services", progress: Progress) -> Sequence[OutputResult]:
        """Do ``task`` and return one result for each output asked for.

        Idempotent: what is committed already is checked and returned, not made again, unless ``task.force``.

        Raises:
            TraceError: the work failed; nothing of this partition is half-visible.
        """
        ...
