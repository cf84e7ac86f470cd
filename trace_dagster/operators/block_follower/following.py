"""Keeps a follower going: its lease, its tables, its pauses, and what it does when something is away."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trace_dagster.chain.headers import Header
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import AttemptLost, ConfigurationError, LedgerUnavailable, TraceError
from trace_dagster.hot_tables import (
    HotTable,
    delete_blocks,
    ensure_table,
    has_block,
    has_rows,
    table_exists,
)
from trace_dagster.ledger import Attempt
from trace_dagster.operators.base import Deadline, Progress
from trace_dagster.operators.block_follower.chain_tip import ChainTip
from trace_dagster.operators.block_follower.config import BlockFollowerConfig
from trace_dagster.operators.block_follower.follower import Follower, Step
from trace_dagster.operators.block_follower.heads import Heads
from trace_dagster.operators.block_follower.pace import sleep
from trace_dagster.operators.block_follower.tables import hot_table
from trace_dagster.spec.resolve import ResolvedDag, ResolvedJob

if TYPE_CHECKING:
    from trace_dagster.operators.services import Services

__all__ = ["Following", "following_of", "head_of", "nothing_new"]

_FIRST_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Following:
    """A follower to be kept going.

    Attributes:
        dag: the DAG.
        job: the job.
        config: what is followed.
        tables: by dataset, in the job's order.
        is_replacing: whether ``update_strategy`` is ``replace``.
        lease_seconds: how long the ledger waits for a heartbeat before another may take over.
        resets: whether ``bootstrap.reset_outputs`` is true: it begins anew, once for as long as that stays.
    """

    dag: str
    job: str
    config: BlockFollowerConfig
    tables: Mapping[str, HotTable]
    is_replacing: bool
    lease_seconds: float
    resets: bool = False

    @property
    def key(self) -> str:
        """``dag/job``: the follower's name in the ledger."""
        return f"{self.dag}/{self.job}"

    def run(
        self,
        services: "Services",
        *,
        run_id: str,
        progress: Progress,
        is_stopped: Callable[[], bool] = lambda: False,
        until_block: int | None = None,
        seconds: float | None = None,
        patience_seconds: float = 0.0,
    ) -> Generator[Step, None, None]:
        """Yield the steps until it is stopped, or a block is reached, or the time is over.

        What may pass by itself is waited for, told to ``progress`` and counted in the ledger: an endpoint or
        a Postgres that is away, answers that do not fit together, a lease that was lost meanwhile.

        Args:
            services: ledger and settings.
            run_id: for the ledger.
            progress: where to report.
            is_stopped: looked at several times a second.
            until_block: ends once the cursor is there.
            seconds: ends after so long; None for never.
            patience_seconds: how long another holder of the lease is waited for; it may be dead.

        Raises:
            DeadlineExceeded: another run holds the lease; names it.
            TraceError: something that does not pass by itself.
        """
        until = time.monotonic() + seconds if seconds is not None else float("inf")
        deadline = Deadline(seconds, until, is_stopped)
        endpoint = services.settings.rpc_endpoint(self.config.rpc_pool).asked_by(self.key, priority="high")
        told = False

        def waiting() -> None:
            nonlocal told
            deadline.check()
            if not told:
                progress("waiting for the lease of another follower of", why=self.key)
            told = True

        with (
            ChainTip(endpoint, self.config, deadline) as tip,
            Heads(endpoint, self.config, progress) as heads,
        ):
            if not self._patiently(deadline, progress, tip.check_chain):
                return
            patience, pause = patience_seconds, _FIRST_PAUSE_SECONDS
            while deadline.remaining_seconds:
                try:
                    with services.ledger.attempt(
                        f"{self.key}/tip",
                        run_id=run_id,
                        lease_seconds=self.lease_seconds,
                        wait_until=time.monotonic() + patience,
                        check=waiting,
                    ) as attempt:
                        self._reset_once(services, attempt, progress)
                        self._make_tables(services)
                        pause = _FIRST_PAUSE_SECONDS
                        follower = self._follower(services, attempt, tip)
                        yield from self._steps(
                            follower, services, heads, deadline, progress=progress, until_block=until_block
                        )
                        return
                except AttemptLost as error:
                    progress("lost the lease, and asks for it again:", why=str(error))
                    patience = self.lease_seconds
                except LedgerUnavailable as error:
                    progress("waiting, and will try again:", why=str(error))
                    sleep(pause, deadline)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                    patience = max(patience, self.lease_seconds)  # of a lease that could not be given back

    def reset(self, services: "Services") -> None:
        """Delete every row and the cursor: the follower begins anew at ``start_block``.

        Raises:
            DeadlineExceeded: a run holds the lease; names it.
        """
        ledger = services.ledger
        lease = ledger.attempt(
            f"{self.key}/tip", run_id="reset", lease_seconds=self.lease_seconds, wait_until=time.monotonic()
        )
        with lease as attempt:
            self._wipe(services, attempt)

    def _reset_once(self, services: "Services", attempt: Attempt, progress: Progress) -> None:
        """Begin anew where the DAG asks for it, and not a second time before it stops asking."""
        was_reset = services.ledger.was_reset(self.key)
        if self.resets and not was_reset:
            progress("begins anew, as bootstrap.reset_outputs says:", why=self.key)
            self._wipe(services, attempt)
        elif was_reset and not self.resets:
            services.ledger.forget_reset(self.key)

    def _wipe(self, services: "Services", attempt: Attempt) -> None:
        self._make_tables(services, anew=True)
        with attempt.fenced() as fence:
            for table in self.tables.values():
                delete_blocks(fence.connection, table, 0)
            fence.forget_follower(self.key)
            if self.resets:
                fence.note_reset(self.key)

    def _make_tables(self, services: "Services", *, anew: bool = False) -> None:
        """Make what is missing; but tables and cursor must tell the same: either both are there, or neither.

        Raises:
            ConfigurationError: a table is missing behind a cursor, or has rows without one, or another shape.
        """
        state = services.ledger.follower(self.key)
        cursor = None if state is None else state.cursor_block
        with services.ledger.connection() as connection:
            for dataset, table in self.tables.items():
                problem = None
                if cursor is not None and not table_exists(connection, table):
                    problem = (
                        f"does not exist, but blocks up to {cursor} are committed: their rows are missing"
                    )
                if problem is None or anew:
                    ensure_table(connection, table)
                if cursor is None and has_rows(connection, table):
                    problem = (
                        "has rows, but the ledger knows of no committed block: they may be of any branch"
                    )
                is_due = problem is None and cursor is not None and dataset == "blocks" and not anew
                if is_due and not has_block(connection, table, cursor or 0):
                    problem = f"lacks block {cursor}, the last one that was committed"
                if problem is not None and not anew:
                    raise ConfigurationError(
                        f"{self.key}: the table {table.shown} {problem}. Restore what is lost, or begin anew "
                        f"with trace follow {self.key} --reset"
                    )

    def _follower(self, services: "Services", attempt: Attempt, tip: ChainTip) -> Follower:
        return Follower(
            self.dag,
            self.job,
            config=self.config,
            tables=self.tables,
            is_replacing=self.is_replacing,
            ledger=services.ledger,
            attempt=attempt,
            tip=tip,
        )

    def _steps(
        self,
        follower: Follower,
        services: "Services",
        heads: Heads,
        deadline: Deadline,
        *,
        progress: Progress,
        until_block: int | None,
    ) -> Iterator[Step]:
        pause, told_early = _FIRST_PAUSE_SECONDS, False
        while deadline.remaining_seconds:
            try:
                step = follower.step()
            except TraceError as error:
                if not deadline.remaining_seconds:
                    return
                if isinstance(error, AttemptLost) or not error.retryable:
                    raise
                with suppress(LedgerUnavailable):
                    services.ledger.saw_error(self.key, error)
                progress("waiting, and will try again:", why=str(error))
                sleep(pause, deadline)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                continue
            pause = _FIRST_PAUSE_SECONDS
            if step.cursor is None and not told_early:
                progress(
                    "waiting for the chain to reach start_block:",
                    why=f"{self.config.start_block}, with confirmations; the head is block {step.head}",
                )
                told_early = True
            yield step
            if until_block is not None and step.cursor is not None and step.cursor >= until_block:
                return
            is_at_head = step.cursor is None or step.cursor >= step.head - self.config.confirmations
            if is_at_head or not step.committed:
                heads.wait(step, deadline)

    def _patiently(self, deadline: Deadline, progress: Progress, do: Callable[[], None]) -> bool:
        """Do what may have to wait for something that is away; return False where the time is over first."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                do()
            except TraceError as error:
                if not deadline.remaining_seconds:
                    return False
                if not error.retryable:
                    raise
                progress("waiting, and will try again:", why=str(error))
            else:
                return True
            sleep(pause, deadline)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def following_of(dag: ResolvedDag, job: ResolvedJob) -> Following:
    """Return the follower that a job of a DAG asks for.

    Raises:
        ConfigurationError: a table's name is too long, or ``unique_key`` names a column that is not there.
    """
    config = job.config
    if not isinstance(config, BlockFollowerConfig):
        raise TypeError(f"{dag.name}/{job.name} is no block_follower")
    is_replacing = job.spec.update_strategy == "replace"
    return Following(
        dag=dag.name,
        job=job.name,
        config=config,
        tables={
            dataset: hot_table(
                dag.name, job.name, dataset, _unique_key(job, dataset), is_replacing=is_replacing
            )
            for dataset in config.datasets
        },
        is_replacing=is_replacing,
        lease_seconds=job.heartbeat_timeout_seconds,
        resets=job.spec.bootstrap is not None and job.spec.bootstrap.reset_outputs,
    )


def head_of(services: "Services", following: Following) -> Header:
    """Return the newest block that the follower's endpoint has.

    Raises:
        TraceError: the endpoint does not answer.
    """
    with _looking(services, following) as tip:
        return tip.head()


def nothing_new(services: "Services", following: Following) -> str | None:
    """Return why a follower that is up to date has nothing to do; None where the endpoint has news.

    Raises:
        TraceError: the endpoint or Postgres does not answer.
    """
    state = services.ledger.follower(following.key)
    with _looking(services, following) as tip:
        head = tip.head()
        target = head.number - following.config.confirmations
        if state is None or state.cursor_block is None:
            return None if target >= following.config.start_block else f"the head is block {head.number}"
        if target > state.cursor_block:
            return None
        newest = min(head.number, state.cursor_block)
        known = services.ledger.followed_blocks(following.key, BlockRange(newest, newest)).get(newest)
        found = head.hash if newest == head.number else tip.headers([newest])[0].hash
    if known is not None and found != known:
        return None
    return f"block {state.cursor_block} is committed, and the head is block {head.number}"


def _looking(services: "Services", following: Following) -> ChainTip:
    endpoint = services.settings.rpc_endpoint(following.config.rpc_pool).asked_by(
        following.key, priority="high"
    )
    return ChainTip(endpoint, following.config, Deadline.after(_LOOK_SECONDS))


def _unique_key(job: ResolvedJob, dataset: str) -> Sequence[str]:
    key = job.spec.unique_key
    if isinstance(key, Mapping):
        key = key.get(dataset)
    return key or job.operator.default_unique_key
