"""One attempt: a lease on a task, kept alive while the work runs, and the fence around its commits.

The lease is the row of the task in Postgres. Whoever's token is in it, before it expires, may commit;
nobody else. An attempt that has expired is lost for good, also when nobody has taken the task over:
garbage collection may already have removed what it wrote.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self
from uuid import uuid4

from psycopg.rows import DictRow

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import AttemptLost, DeadlineExceeded, LedgerUnavailable, TraceError
from trace_dagster.ledger.connections import Connections, Database
from trace_dagster.ledger.consuming import ConsumerStep
from trace_dagster.ledger.failures import RowLocked
from trace_dagster.ledger.following import FollowerStep
from trace_dagster.ledger.queries import QUERIES
from trace_dagster.ledger.records import AttemptState, CommittedDataset

__all__ = ["Attempt", "Fence"]

_log = logging.getLogger(__name__)

# How often a waiting attempt asks whether the task is free.
_FIRST_POLL_SECONDS: Final = 0.05
_LONGEST_POLL_SECONDS: Final = 1.0
# How often a heartbeat is tried again while Postgres does not answer.
_HEARTBEAT_RETRY_SECONDS: Final = 1.0
_MAX_ERROR_CHARACTERS: Final = 500


class Fence:
    """An open transaction during which the attempt cannot be taken over."""

    def __init__(self, connection: Database, attempt: "Attempt") -> None:
        self._connection = connection
        self._attempt = attempt

    @property
    def connection(self) -> Database:
        """The connection in the transaction, for other tables of the same database."""
        return self._connection

    def hold_edges(self, storage_root: str, chain_id: int, dataset: str, block_range: BlockRange) -> None:
        """Keep ranges that begin or end where this one does from committing until this commit is over."""
        self._connection.execute(QUERIES["wait_for_edges"])
        edges = (block_range.start_block, block_range.end_block + 1)  # ascending, or two could wait in a ring
        for block in edges:
            self._connection.execute(
                QUERIES["hold_edge"],
                {"storage_root": storage_root, "chain_id": chain_id, "dataset": dataset, "block": block},
            )

    def record(self, dataset: CommittedDataset) -> None:
        """Record a committed dataset version, as the current one of its range."""
        attempt = self._attempt
        parameters = dataset.parameters(attempt.task_key, attempt.number, attempt.run_id)
        self._connection.execute(QUERIES["record"], parameters)

    def follow(self, step: FollowerStep) -> None:
        """Record that a follower has committed blocks, those of another branch in place of some."""
        for query in step.queries:
            self._connection.execute(QUERIES[query], step.parameters)

    def consume(self, step: ConsumerStep) -> None:
        """Record that a job has done blocks, and invalidate those whose rows it changed."""
        self._connection.execute(QUERIES["consume"], step.parameters)
        if step.changed is not None:
            self._connection.execute(
                QUERIES["invalidate"],
                {"dag": step.dag, "job": step.job, "reason": step.reason, **step.changed._asdict()},
            )

    def forget_consumer(self, consumer: str) -> None:
        """Drop the cursor of a ``PerUpdate`` job, and invalidate what it has done."""
        self._connection.execute(QUERIES["forget_consumer"], {"consumer": consumer})

    def note_reset(self, follower: str) -> None:
        """Note that a follower began anew because its DAG says so."""
        self._connection.execute(QUERIES["note_reset"], {"follower": follower})

    def forget_follower(self, follower: str) -> None:
        """Drop a follower's cursor and the blocks that it remembers."""
        self._connection.execute(QUERIES["forget_follower"], {"follower": follower})


class Attempt:
    """One try of a task. ``Ledger.attempt`` makes it.

    Attributes:
        task_key: the task.
        run_id: the Dagster run.
        lease_seconds: how long it lives without a heartbeat.
        number: from 1, within the task.
        token: what makes this attempt the holder.
    """

    def __init__(self, connections: Connections, task_key: str, run_id: str, lease_seconds: float) -> None:
        self.task_key = task_key
        self.run_id = run_id
        self.lease_seconds = lease_seconds
        self.number = 0
        self.token = str(uuid4())
        self._connections = connections
        self._alive_until = 0.0  # by this process's monotonic clock, never later than Postgres says
        self._renewing = threading.Lock()
        self._done = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name=f"lease of {task_key}", daemon=True)

    @property
    def _parameters(self) -> dict[str, Any]:
        return {"task_key": self.task_key, "token": self.token, "lease_seconds": self.lease_seconds}

    def claim(self, wait_until: float, check: Callable[[], None] = lambda: None) -> Self:
        """Take the task, waiting while another live attempt holds it.

        Args:
            wait_until: ``time.monotonic()`` value after which to stop waiting.
            check: called at each look; raises to give up earlier.

        Raises:
            DeadlineExceeded: another attempt held the task until then; names it.
            LedgerUnavailable: Postgres cannot be reached, or refuses.
        """
        pause = _FIRST_POLL_SECONDS
        while True:
            asked_at = time.monotonic()
            rows = self._patiently("claim", run_id=self.run_id)
            if rows is None:
                self._connections.rows("end_stalled", self._parameters)
            if rows:
                self.number = rows[0]["number"]
                self._alive_until = asked_at + self.lease_seconds
                self._heartbeat.start()
                return self
            if time.monotonic() >= wait_until:
                raise DeadlineExceeded(
                    f"{self.task_key} is still held by {self._holder()}; its turn did not come"
                )
            check()
            time.sleep(min(pause, max(0.0, wait_until - time.monotonic())))
            pause = min(2 * pause, _LONGEST_POLL_SECONDS)

    def still_mine(self) -> None:
        """Do nothing while this attempt holds the task.

        Raises:
            AttemptLost: it does not any more.
            LedgerUnavailable: that cannot be found out.
        """
        self._check_clock()
        if not self._connections.rows("still_mine", self._parameters):
            self._lost()

    def announce(self, storage_root: str, prefixes: Sequence[str]) -> None:
        """Say where in the store objects will be written, so that garbage collection leaves them alone.

        Raises as ``still_mine``.
        """
        rows = None
        while rows is None:
            self._check_clock()
            rows = self._patiently("announce", storage_root=storage_root, prefixes=list(prefixes))
        if not rows:
            self._lost()

    @contextmanager
    def fenced(self) -> Iterator[Fence]:
        """Hold the task's row for the length of a commit: nobody can take the attempt over meanwhile.

        Raises as ``still_mine``; what the block recorded is then not recorded.
        """
        with self._renewing:  # the heartbeat would only wait for the row
            self._check_clock()
            asked_at = time.monotonic()
            with self._connections.transaction("renew", self._parameters) as (connection, rows):
                if not rows:
                    self._lost()
                connection.execute(QUERIES["name_session"], self._parameters)
                yield Fence(connection, self)
            self._alive_until = asked_at + self.lease_seconds

    def release(self, error: BaseException | None) -> None:
        """End the attempt. Postgres being away is only logged: the lease then ends by itself."""
        self._done.set()
        self._heartbeat.join()
        state: AttemptState = "succeeded" if error is None else "failed"
        line = None if error is None else _one_line(error)
        try:
            self._connections.rows("release", {**self._parameters, "state": state, "error": line})
        except LedgerUnavailable as unavailable:
            _log.warning("attempt is not released; its lease expires by itself: %s", unavailable)

    def _patiently(self, query: str, **parameters: object) -> list[DictRow] | None:
        """Run a statement that waits for another session's lock; None where it waited too long."""
        try:
            return self._connections.rows(query, {**self._parameters, **parameters})
        except RowLocked:
            return None

    def _check_clock(self) -> None:
        if time.monotonic() >= self._alive_until:
            raise AttemptLost(
                f"attempt {self.number} of {self.task_key} lost its lease: no heartbeat reached Postgres for "
                f"{self.lease_seconds:g} s; it commits nothing more"
            )

    def _lost(self) -> None:
        self._alive_until = 0.0
        raise AttemptLost(
            f"attempt {self.number} of {self.task_key} lost its lease of {self.lease_seconds:g} s; "
            f"the task is now held by {self._holder()}; this attempt commits nothing more"
        )

    def _holder(self) -> str:
        rows = self._connections.rows("holder", self._parameters)
        if not rows or not rows[0]["live"]:
            return "nobody, or by a session of Postgres that stands still"
        row = rows[0]
        return (
            f"attempt {row['number']} of run {row['run_id']} (for {row['seconds_left']:.0f} s more at least)"
        )

    def _beat(self) -> None:
        """Renew the lease three times in its length, until the attempt is done or lost."""
        wait = self.lease_seconds / 3
        while not self._done.wait(wait):
            wait = self.lease_seconds / 3
            with self._renewing:
                if self._done.is_set():
                    return
                asked_at = time.monotonic()
                try:
                    if not self._connections.rows("renew", self._parameters):
                        self._alive_until = 0.0
                        return
                    self._alive_until = asked_at + self.lease_seconds
                except LedgerUnavailable as unavailable:
                    if time.monotonic() >= self._alive_until:
                        return
                    _log.warning("heartbeat of %s is late: %s", self.task_key, unavailable)
                    wait = min(wait, _HEARTBEAT_RETRY_SECONDS)


def _one_line(error: BaseException) -> str:
    """Say what went wrong; the text of an error that is not ours may hold a secret, and is left out."""
    name = type(error).__name__
    text = " ".join(str(error).split()) if isinstance(error, TraceError) else ""
    return f"{name}: {text}"[:_MAX_ERROR_CHARACTERS] if text else name
