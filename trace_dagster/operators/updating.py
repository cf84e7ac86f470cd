"""``PerUpdate`` jobs: they run on the new rows of others, behind a cursor, and again where rows have changed.

A step takes the blocks that are new, or that a reorganisation changed, lets the operator make rows of them,
and commits those rows in one transaction with the cursor and the invalidations heeded. Invalidations are read
before the extent of what is read, and that before the rows: whatever happens in between is another
invalidation, which the next step heeds.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from trace_dagster import metadata
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.hot_tables import HotTable, append_rows, delete_blocks, ensure_table
from trace_dagster.io_managers.append import check_inside
from trace_dagster.ledger import Attempt, ConsumerState, ConsumerStep
from trace_dagster.operators.base import Deadline, Operator, OutputResult, Progress, Task, TaskInput
from trace_dagster.operators.block_follower.config import BlockFollowerConfig
from trace_dagster.spec.naming import table_name
from trace_dagster.spec.resolve import ResolvedDag, ResolvedJob

if TYPE_CHECKING:
    from trace_dagster.operators.services import Services

__all__ = ["Due", "UpdateStep", "Updating", "updating_of"]

_BLOCKS_AT_ONCE: Final = 1000


@dataclass(frozen=True)
class Due:
    """What a job has to do next.

    Attributes:
        blocks: new to it, or changed.
        seen: by job that it reads: the last invalidation heeded with it.
        stale: blocks done before, from the first that changed to the cursor; None where none changed.
        reason: why they did.
    """

    blocks: BlockRange
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
    """

    dag: ResolvedDag
    job: ResolvedJob
    inputs: tuple[TaskInput, ...]
    emits: Mapping[str, int]

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
            LedgerUnavailable: Postgres cannot be reached, or refuses.
        """
        ledger = services.ledger
        state = ledger.consumer(self.key)
        seen = {key: state.seen.get(key, 0) if state else 0 for key in self.emits}
        changed: list[BlockRange] = []
        reason = "reorg"
        for key, heeded in list(seen.items()):
            dag, _, job = key.partition("/")
            for one in ledger.invalidations(dag, job, heeded):
                seen[key], reason = one.invalidation_id, one.reason
                changed.append(BlockRange(one.start_block, one.end_block))
        extents = [ledger.extent(key) for key in self.emits]
        held = [one for one in extents if one is not None]
        if len(held) < len(extents):
            return None  # one of them has nothing yet
        first = max(one.start_block for one in held)
        last = min(one.end_block for one in held)
        stale = _stale(state, first, changed) if state else None
        if state and stale:
            start = max(first, stale.start_block)
            # Up to the cursor at first: what is new behind it waits for its threshold.
            end = min(last, max(start, state.cursor_block))
            # Where the new branch has not come so far, it is waited for.
            return Due(_first_of(start, end), seen, stale, reason) if end >= start else None
        origin = state.first_block if state else first
        start = state.cursor_block + 1 if state else first
        step = max(self.emits.values())
        end = origin + (last - origin + 1) // step * step - 1
        return Due(_first_of(start, end), seen) if end >= start else None

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
            DeadlineExceeded: another run holds the job's lease; names it.
            TraceError: the operator failed, or Postgres is away; what was committed stays.
        """
        job, ends_at = self.job, time.monotonic() + seconds
        with services.ledger.attempt(
            self.task_key,
            run_id=run_id,
            lease_seconds=job.heartbeat_timeout_seconds,
            wait_until=time.monotonic() + 2 * job.heartbeat_timeout_seconds,
            check=Deadline.after(job.timeout_seconds, is_stopped).check,
        ) as attempt:
            while time.monotonic() < ends_at and (due := self.due(services)) is not None:
                task = Task(
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
                yield UpdateStep(
                    due, self._commit(operator.run(task, services, progress), due, services, attempt)
                )

    def _commit(
        self, results: Sequence[OutputResult], due: Due, services: "Services", attempt: Attempt
    ) -> Sequence[OutputResult]:
        """Write the rows and move the cursor, in one transaction."""
        tables = [_table(self.dag.name, self.job, one) for one in results]
        with services.ledger.connection() as connection:
            for result, table in zip(results, tables, strict=True):
                if table is not None and result.rows is not None:
                    check_inside(table, result.rows, due.blocks)
                    ensure_table(connection, table)
        told = []
        with attempt.fenced() as fence:
            for result, table in zip(results, tables, strict=True):
                if table is None or result.rows is None:
                    told.append(result)
                    continue
                start = due.blocks.start_block if due.stale is None else due.stale.start_block
                gone = 0
                if due.stale is not None or self.job.spec.update_strategy == "replace":
                    gone = delete_blocks(fence.connection, table, start)
                added = append_rows(fence.connection, table, result.rows)
                facts = {
                    metadata.TABLE: table.shown,
                    metadata.ROWS: result.rows.num_rows,
                    metadata.ROWS_ADDED: added,
                    **({metadata.ROWS_REMOVED: gone} if gone else {}),
                }
                told.append(replace(result, rows=None, metadata={**result.metadata, **facts}))
            fence.consume(
                ConsumerStep(self.dag.name, self.job.name, due.blocks, due.seen, due.stale, due.reason)
            )
        return told


def updating_of(dag: ResolvedDag, job: ResolvedJob, jobs: Mapping[tuple[str, str], ResolvedJob]) -> Updating:
    """Return a ``PerUpdate`` job; ``jobs`` are those of every DAG, by DAG and job."""
    emits = {}
    for source in job.inputs:
        config = jobs[source.dag, source.job].config
        emitted = config.emitted_blocks if isinstance(config, BlockFollowerConfig) else 1
        emits[f"{source.dag}/{source.job}"] = emitted
    inputs = tuple(TaskInput(one.dag, one.job, one.output, one.where) for one in job.inputs)
    return Updating(dag, job, inputs, emits)


def _stale(state: ConsumerState, first: int, changed: Sequence[BlockRange]) -> BlockRange | None:
    """Return the blocks that are done and must be done again: all from the first that changed."""
    starts = [one.start_block for one in changed if one.start_block <= state.cursor_block]
    if first < state.first_block:
        starts.append(first)  # what it reads began anew, further back
    return BlockRange(min(starts), state.cursor_block) if starts else None


def _first_of(start_block: int, end_block: int) -> BlockRange:
    """Return as many of the blocks as one step takes."""
    return BlockRange(start_block, min(end_block, start_block + _BLOCKS_AT_ONCE - 1))


def _table(dag: str, job: ResolvedJob, result: OutputResult) -> HotTable | None:
    if result.rows is None:
        return None
    key = job.spec.unique_key or job.operator.default_unique_key
    if isinstance(key, Mapping):
        key = key.get(result.output, ())
    return HotTable(dag, table_name(job.name, result.output), result.rows.schema, tuple(key))
