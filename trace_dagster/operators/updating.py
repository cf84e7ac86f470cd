"""``PerUpdate`` jobs: they run on the new rows of others, behind a cursor, and again where rows have changed.

A step takes the blocks that are new, or that a reorganisation changed, lets the operator make rows of them,
and commits those rows in one transaction with the cursor and the invalidations heeded. Invalidations are read
before the extent of what is read, and that before the rows: whatever happens in between is another
invalidation, which the next step heeds.
"""

import hashlib
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import (
    AttemptLost,
    ConfigurationError,
    DataMismatch,
    DeadlineExceeded,
    TraceError,
)
from trace_dagster.hot_tables import HotTable, delete_all, has_rows, table_exists
from trace_dagster.ledger import Attempt, ConsumerState, ConsumerStep
from trace_dagster.operators.base import Deadline, Operator, OutputResult, Progress, Task, TaskInput
from trace_dagster.operators.block_follower.config import BlockFollowerConfig
from trace_dagster.operators.updated_rows import UpdatedRows, tables_of
from trace_dagster.spec.resolve import ResolvedDag, ResolvedJob

if TYPE_CHECKING:
    from trace_dagster.operators.services import Services

__all__ = ["Due", "UpdateStep", "Updating", "updating_of"]

_FIRST_PAUSE_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
_BLOCKS_AT_ONCE: Final = 100
"""Where no follower says how many blocks are one commit."""


@dataclass(frozen=True)
class Due:
    """What a job has to do next.

    Attributes:
        blocks: new to it, or changed.
        first_block: the first block whose rows are there afterwards.
        seen: by job that it reads: the last invalidation heeded with it.
        stale: blocks done before, from the first that changed to the cursor; None where none changed.
        reason: why they did.
    """

    blocks: BlockRange
    first_block: int
    seen: Mapping[str, int]
    stale: BlockRange | None = None
    reason: str = "reorg"


@dataclass(frozen=True)
class UpdateStep:
    """What one step did.

    Attributes:
        due: the blocks.
        results: what was committed, an output each; ``rows`` is None.
    """

    due: Due
    results: Sequence[OutputResult]


@dataclass(frozen=True)
class Updating:
    """A ``PerUpdate`` job.

    Attributes:
        dag: the DAG.
        job: the job.
        inputs: what it reads.
        emits: by job that it reads, ``{dag}/{job}``: how many new blocks there must be.
        most_blocks: of one step.
        definition: hash of what decides its rows: operator, config, inputs, outputs.
    """

    dag: ResolvedDag
    job: ResolvedJob
    inputs: tuple[TaskInput, ...]
    emits: Mapping[str, int]
    most_blocks: int
    definition: str

    @property
    def key(self) -> str:
        """``dag/job``: the job's name in the ledger."""
        return f"{self.dag.name}/{self.job.name}"

    @property
    def task_key(self) -> str:
        """What the ledger leases."""
        return f"{self.key}/updates"

    def due(self, services: "Services") -> Due | None:
        """Return what there is to do; None where nothing is new.

        Raises:
            ConfigurationError: the job would give other rows than those that are there.
            LedgerUnavailable: Postgres cannot be reached, or refuses.
        """
        ledger = services.ledger
        state = ledger.consumer(self.key)
        if state is not None:
            self._check_continues(state)
        seen, changed, reason = self._invalidated(services, state)
        extents = [ledger.extent(key) for key in self.emits]
        held = [one for one in extents if one is not None]
        if len(held) < len(extents):
            return None  # one of them has nothing yet
        first = max(one.start_block for one in held)
        last = min(one.end_block for one in held)
        stale = _stale(state, first, changed) if state else None
        if state and stale:
            start = max(first, stale.start_block)
            begins_anew = stale.start_block <= state.first_block
            # Up to the cursor at first: what is new behind it waits for its threshold.
            blocks = self._first_of(start, min(last, max(start, state.cursor_block)))
            # Where the new branch has not come so far, it is waited for.
            return blocks and Due(blocks, start if begins_anew else state.first_block, seen, stale, reason)
        origin = state.first_block if state else first
        step = max(self.emits.values())
        end = origin + (last - origin + 1) // step * step - 1
        blocks = self._first_of(state.cursor_block + 1 if state else first, end)
        return blocks and Due(blocks, origin, seen)

    def _invalidated(
        self, services: "Services", state: ConsumerState | None
    ) -> tuple[Mapping[str, int], Sequence[BlockRange], str]:
        """Return the last invalidations of what is read, what they changed, and why."""
        seen, changed, reason = {}, [], "reorg"
        for key in self.emits:
            dag, _, job = key.partition("/")
            seen[key] = state.seen.get(key, 0) if state else 0
            for one in services.ledger.invalidations(dag, job, seen[key]):
                seen[key], reason = one.invalidation_id, one.reason
                changed.append(BlockRange(one.start_block, one.end_block))
        return seen, changed, reason

    def _check_continues(self, state: ConsumerState) -> None:
        if state.definition != self.definition:
            raise ConfigurationError(
                f"{self.key} was changed: its operator, config, inputs or outputs are not those by which "
                f"blocks up to {state.cursor_block} were done. Write a job of another name, or begin anew "
                f"with trace update {self.key} --reset"
            )

    def _first_of(self, start_block: int, end_block: int) -> BlockRange | None:
        """Return as many of the blocks as one step takes; None where there are none."""
        if end_block < start_block:
            return None
        return BlockRange(start_block, min(end_block, start_block + self.most_blocks - 1))

    def run(
        self,
        operator: Operator,
        services: "Services",
        *,
        run_id: str,
        progress: Progress,
        seconds: float,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> Generator[UpdateStep, None, None]:
        """Yield the steps, each committed, until nothing is new or the time is over.

        Args:
            operator: makes the rows.
            services: ledger and tables.
            run_id: for the ledger.
            progress: where the operator reports.
            seconds: no step begins after so long.
            is_stopped: whether the run ends.

        Raises:
            ConfigurationError: cursor and tables do not tell the same, or the job was changed.
            DeadlineExceeded: another run holds the job's lease, named; or a step took too long.
            TraceError: a step failed ``max_attempts`` times, or in a way that another try does not mend; what
                was committed stays.
        """
        ends_at = time.monotonic() + seconds
        with self._leased(services, run_id, is_stopped) as attempt:
            self._check_tables(services)
            failures = 0
            while time.monotonic() < ends_at and (due := self.due(services)) is not None:
                try:
                    step = self._step(
                        operator, due, services, progress, attempt=attempt, is_stopped=is_stopped
                    )
                except TraceError as error:
                    failures += 1
                    self._let_pass(error, failures)
                    # Under the lease: a run that pauses is no run whose worker is gone.
                    progress("will try again:", why=str(error))
                    _sleep(_FIRST_PAUSE_SECONDS * 2 ** (failures - 1), is_stopped)
                    continue
                failures = 0
                if step is not None:
                    yield step

    def _let_pass(self, error: TraceError, failures: int) -> None:
        """Raise what asking again does not mend, or what was asked for often enough."""
        is_final = isinstance(error, AttemptLost | DeadlineExceeded) or not error.retryable
        if is_final or failures >= self.job.max_attempts:
            raise error

    def _step(
        self,
        operator: Operator,
        due: Due,
        services: "Services",
        progress: Progress,
        *,
        attempt: Attempt,
        is_stopped: Callable[[], bool],
    ) -> UpdateStep | None:
        """Do what is due, and commit it; None where it has changed meanwhile."""
        deadline = Deadline.after(self.job.timeout_seconds, is_stopped)
        results = operator.run(self._task(due, attempt.run_id, is_stopped), services, progress)
        deadline.check()
        try:
            return self._commit(results, due, services, attempt)
        except DataMismatch:
            if self._invalidated(services, services.ledger.consumer(self.key))[0] == due.seen:
                raise
            return None  # a reorganisation came meanwhile: the rows were of two branches

    def reset(self, services: "Services") -> None:
        """Delete the job's rows and its cursor: the next run begins anew.

        Raises:
            DeadlineExceeded: a run holds the lease; names it.
        """
        state = services.ledger.consumer(self.key)
        tables = {table.name: table for table in tables_of(self.dag.name, self.job).values()}
        for name in state.tables if state else ():
            tables.setdefault(name, HotTable(self.dag.name, name, pa.schema([]), ()))
        lease = self._leased(services, "reset", lambda: False, patience_seconds=0)
        with lease as attempt, attempt.fenced() as fence:
            for table in tables.values():
                if table_exists(fence.connection, table):
                    delete_all(fence.connection, table)
            fence.forget_consumer(self.key)

    def _leased(
        self,
        services: "Services",
        run_id: str,
        is_stopped: Callable[[], bool],
        patience_seconds: float | None = None,
    ) -> AbstractContextManager[Attempt]:
        lease_seconds = self.job.heartbeat_timeout_seconds
        patience_seconds = 2 * lease_seconds if patience_seconds is None else patience_seconds
        return services.ledger.attempt(
            self.task_key,
            run_id=run_id,
            lease_seconds=lease_seconds,
            wait_until=time.monotonic() + patience_seconds,
            check=Deadline.after(None, is_stopped).check,
        )

    def _task(self, due: Due, run_id: str, is_stopped: Callable[[], bool]) -> Task:
        job = self.job
        return Task(
            dag=self.dag.name,
            job=job.name,
            partition=due.blocks,
            outputs=tuple(output.name for output in job.outputs),
            config=job.config,
            timeout_seconds=job.timeout_seconds,
            lease_seconds=job.heartbeat_timeout_seconds,
            force=due.stale is not None,
            run_id=run_id,
            inputs=self.inputs,
            is_stopped=is_stopped,
        )

    def _check_tables(self, services: "Services") -> None:
        """Raise where there are rows without a cursor, or a cursor without its tables."""
        state = services.ledger.consumer(self.key)
        with services.ledger.connection() as connection:
            for table in tables_of(self.dag.name, self.job).values():
                is_there = table_exists(connection, table)
                problem = None
                if state is not None and table.name in state.tables and not is_there:
                    problem = f"does not exist, but blocks up to {state.cursor_block} are done"
                if state is None and is_there and has_rows(connection, table):
                    problem = (
                        "has rows, but the ledger knows of no block that is done: they may be of any branch"
                    )
                if problem is not None:
                    raise ConfigurationError(
                        f"{self.key}: the table {table.shown} {problem}. Restore what is lost, or "
                        f"begin anew with trace update {self.key} --reset"
                    )

    def _commit(self, returned: object, due: Due, services: "Services", attempt: Attempt) -> UpdateStep:
        """Write the rows and move the cursor, in one transaction."""
        rows = UpdatedRows.of(self.dag.name, self.job, returned, due.blocks)
        with services.ledger.connection() as connection:
            rows.ensure_tables(connection)
        with attempt.fenced() as fence:
            told = rows.write(fence.connection, due.blocks, due.stale)
            fence.consume(
                ConsumerStep(
                    self.dag.name,
                    self.job.name,
                    first_block=due.first_block,
                    blocks=due.blocks,
                    seen=due.seen,
                    tables=[table.name for table in rows.tables.values()],
                    definition=self.definition,
                    changed=due.stale,
                    reason=due.reason,
                )
            )
        return UpdateStep(due, told)


def _sleep(seconds: float, is_stopped: Callable[[], bool]) -> None:
    until = time.monotonic() + min(seconds, _LONGEST_PAUSE_SECONDS)
    while time.monotonic() < until and not is_stopped():
        time.sleep(0.2)


def updating_of(dag: ResolvedDag, job: ResolvedJob, jobs: Mapping[tuple[str, str], ResolvedJob]) -> Updating:
    """Return a ``PerUpdate`` job; ``jobs`` are those of every DAG, by DAG and job."""
    emits: dict[str, int] = {}
    most_blocks = []
    for source in job.inputs:
        config = jobs[source.dag, source.job].config
        emits[f"{source.dag}/{source.job}"] = 1
        if isinstance(config, BlockFollowerConfig):
            emits[f"{source.dag}/{source.job}"] = config.emitted_blocks
            most_blocks.append(config.batch_blocks)
    inputs = tuple(TaskInput(one.dag, one.job, one.output, one.where) for one in job.inputs)
    return Updating(dag, job, inputs, emits, min(most_blocks, default=_BLOCKS_AT_ONCE), _definition(job))


def _definition(job: ResolvedJob) -> str:
    config = job.config.model_dump(mode="json", exclude=set(job.config.bytes_independent))
    inputs = [[one.dag, one.job, one.output, dict(one.where)] for one in job.inputs]
    facts = [job.operator.name, config, inputs, [output.name for output in job.outputs]]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _stale(state: ConsumerState, first: int, changed: Sequence[BlockRange]) -> BlockRange | None:
    """Return the blocks that are done and must be done again: all from the first that changed."""
    starts = [one.start_block for one in changed if one.start_block <= state.cursor_block]
    if first < state.first_block:
        starts.append(first)  # what it reads began anew, further back
    return BlockRange(min(starts), state.cursor_block) if starts else None
