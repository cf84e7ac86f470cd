"""Follows a chain into hot tables, over reorganisations: the tables equal the branch that the endpoint has.

Each step looks at the head, and does one of: nothing; commit the blocks that follow the cursor; or, where the
cursor is not on the endpoint's branch, find the last block that both have, fetch the new branch, and put it
in the place of the old one in one transaction.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from trace_dagster.chain.headers import Header
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import ConfigurationError, DataMismatch, TraceError
from trace_dagster.hot_tables import HotTable, append_rows, delete_blocks
from trace_dagster.ledger import Attempt, FollowerState, FollowerStep, Ledger
from trace_dagster.operators.block_follower.chain_tip import ChainTip
from trace_dagster.operators.block_follower.config import BlockFollowerConfig
from trace_dagster.operators.cryo_ingest.native.making import Made

__all__ = ["Follower", "ReorgTooDeep", "Step"]

_HEADERS_AT_ONCE: Final = 32
_SECONDS_BETWEEN_TAGS: Final = 2.0
_LEAST_REMEMBERED: Final = 1024
"""Hashes of so many of the newest blocks are kept: ``max_reorg_depth`` may be raised when it is too late."""


class ReorgTooDeep(TraceError):
    """The endpoint's branch leaves ours further back than ``max_reorg_depth``: a person must look at it."""

    retryable = False
    stops_run = True


@dataclass(frozen=True)
class Step:
    """What one step did.

    Attributes:
        head: number of the head that the endpoint reported.
        head_hash: its hash.
        cursor: the last block committed; None before the first.
        committed: how many blocks were committed.
        reorg_depth: how many blocks were taken out; 0 where none were.
    """

    head: int
    head_hash: bytes
    cursor: int | None
    committed: int = 0
    reorg_depth: int = 0


@dataclass(frozen=True)
class _Place:
    """A block of the branch that is committed; the hash is empty right before the follower's first block."""

    number: int
    hash: bytes


class Follower:
    """One follower, whose lease the caller holds.

    Args:
        dag: the DAG.
        job: the job.
        config: what is followed.
        tables: by dataset; they exist.
        is_replacing: whether ``update_strategy`` is ``replace``: the rows of a block range are swapped.
        ledger: where the cursor is.
        attempt: the lease.
        tip: the endpoint.
    """

    def __init__(
        self,
        dag: str,
        job: str,
        *,
        config: BlockFollowerConfig,
        tables: Mapping[str, HotTable],
        is_replacing: bool,
        ledger: Ledger,
        attempt: Attempt,
        tip: ChainTip,
    ) -> None:
        self._dag, self._job, self._config, self._tables = dag, job, config, tables
        self._is_replacing, self._ledger, self._attempt, self._tip = is_replacing, ledger, attempt, tip
        self._key = f"{dag}/{job}"
        self._first_block = config.start_block
        self._cursor: _Place | None = None
        self._is_known = False
        self._seen_head = -1
        self._final_block: int | None = None
        self._finality_due = 0.0

    def step(self) -> Step:
        """Do what the endpoint's head asks for; after any error it may be called again.

        Raises:
            DataMismatch: the endpoint's answers do not fit together: asked again they may.
            ReorgTooDeep: see there.
            TraceError: the endpoint or Postgres does not answer, or the lease is lost.
        """
        if not self._is_known:
            self._load_cursor()
        head = self._tip.head()
        if head.number != self._seen_head:
            self._look_at_finality(head)
            self._ledger.saw_head(self._key, head.number, self._final_block)
            self._seen_head = head.number
        target = head.number - self._config.confirmations
        cursor = self._cursor
        if cursor is None:
            return self._advance(head, None, target)
        if target > cursor.number:
            return self._advance(head, cursor, target)
        newest = min(head.number, cursor.number)
        if self._is_ours(head, newest):
            return Step(head.number, head.hash, cursor.number)
        return self._reorganise(head, cursor, target, newest)

    def _look_at_finality(self, head: Header) -> None:
        """Ask for the final block, for a tag no more often than it can move on."""
        is_tag = isinstance(self._config.finality, str)
        if is_tag and time.monotonic() < self._finality_due:
            return
        self._finality_due = time.monotonic() + _SECONDS_BETWEEN_TAGS
        found = self._tip.final_block(head)
        if found is not None:
            self._final_block = max(found, self._final_block or 0)

    def _load_cursor(self) -> None:
        """Take the cursor from the ledger: at the start, and where a commit may or may not have been done."""
        state = self._ledger.follower(self._key)
        if state is None or state.cursor_block is None or state.cursor_hash is None:
            self._cursor = None
        else:
            self._check_continues(state)
            self._cursor = _Place(state.cursor_block, state.cursor_hash)
            self._first_block = state.first_block if state.first_block is not None else self._first_block
        self._is_known = True

    def _check_continues(self, state: FollowerState) -> None:
        """Raise where the config asks for rows that were not committed up to the cursor."""
        config = self._config
        new = [one for one in config.datasets if one not in (state.datasets or ())]
        if state.chain_id != config.chain_id:
            problem = f"config.chain_id is {config.chain_id}, but it has followed chain {state.chain_id}"
        elif state.first_block is not None and config.start_block < state.first_block:
            problem = f"config.start_block is {config.start_block}, but it began at block {state.first_block}"
        elif new:
            problem = f"{', '.join(new)} was not followed up to block {state.cursor_block}"
        else:
            return
        raise ConfigurationError(
            f"{self._key}: {problem}. Write a job of another name, or begin anew with "
            f"trace follow {self._key} --reset"
        )

    def _is_ours(self, head: Header, newest: int) -> bool:
        """Whether ``newest``, the last block that both sides have, is the same one.

        Also where that cannot be known, since the endpoint is further behind than hashes are remembered, or
        empty: it is waited for, and the block behind our cursor will tell.
        """
        known = self._known_hash(newest) if newest >= self._first_block else None
        if known is None:
            return True
        found = head.hash if newest == head.number else self._tip.headers([newest])[0].hash
        return found == known

    def _known_hash(self, number: int) -> bytes | None:
        if self._cursor is not None and number == self._cursor.number:
            return self._cursor.hash
        return self._ledger.followed_blocks(self._key, BlockRange(number, number)).get(number)

    def _advance(self, head: Header, cursor: _Place | None, target: int) -> Step:
        first = self._config.start_block if cursor is None else cursor.number + 1
        last = min(target, first + self._config.batch_blocks - 1)
        if last < first:  # the chain has not reached start_block yet
            return Step(head.number, head.hash, None)
        if cursor is not None and self._leaves(head, cursor):
            return self._reorganise(head, cursor, target, cursor.number)
        made = self._tip.blocks(BlockRange(first, last), cursor.hash if cursor else None)
        self._commit(made)
        return Step(head.number, head.hash, last, last - first + 1)

    def _leaves(self, head: Header, cursor: _Place) -> bool:
        """Whether the block behind the cursor has another parent; a cheap question before the dear ones."""
        following = cursor.number + 1
        header = head if head.number == following else self._tip.headers([following])[0]
        return header.parent_hash != cursor.hash

    def _reorganise(self, head: Header, cursor: _Place, target: int, differs_at: int) -> Step:
        """Take out what is not on the endpoint's branch, whose block ``differs_at`` is another."""
        self._tip.check_chain()
        ancestor, timestamp = self._common_ancestor(cursor, differs_at)
        if ancestor.number >= differs_at:
            raise DataMismatch(
                f"{self._key}: the endpoint gave another branch from block {differs_at} on, and then the one "
                "that is committed: two backends on different branches? trying again"
            )
        self._check_final(ancestor)
        first = ancestor.number + 1
        last = min(target, max(cursor.number, first + self._config.batch_blocks - 1))
        made: list[Made] = []
        if last >= first:
            is_start = ancestor.number < self._first_block
            made = self._tip.blocks(BlockRange(first, last), None if is_start else ancestor.hash)
        depth = cursor.number - ancestor.number
        self._commit(made, _Turn(ancestor, timestamp, cursor))
        committed = last - first + 1 if made else 0
        return Step(head.number, head.hash, max(last, ancestor.number), committed, depth)

    def _check_final(self, ancestor: _Place) -> None:
        final = self._final_block
        if self._config.finality == "finalized" and final is not None and ancestor.number < final:
            raise ReorgTooDeep(
                f"{self._key}: the endpoint's branch leaves ours behind block {ancestor.number}, but block "
                f"{final} was finalized; nothing was changed. Is it the right chain? If so, start anew with "
                f"trace follow {self._key} --reset"
            )

    def _common_ancestor(self, cursor: _Place, highest: int) -> tuple[_Place, int]:
        """Return the last block that both branches have, from ``highest`` back, and its timestamp."""
        most = self._config.max_reorg_depth
        lowest = max(self._first_block, cursor.number - most)
        remembered = self._ledger.followed_blocks(self._key, BlockRange(lowest, cursor.number))
        deepest = min(remembered, default=cursor.number)
        for top in range(highest, deepest - 1, -_HEADERS_AT_ONCE):
            bottom = max(deepest, top - _HEADERS_AT_ONCE + 1)
            for theirs in self._tip.headers(range(top, bottom - 1, -1)):
                if remembered.get(theirs.number) == theirs.hash:
                    return _Place(theirs.number, theirs.hash), theirs.timestamp
        if deepest == self._first_block and cursor.number - self._first_block < most:
            return _Place(self._first_block - 1, b""), 0  # all of ours is gone: begin again where we began
        anew = f"start anew with trace follow {self._key} --reset"
        if deepest > lowest:
            mend = f"hashes below block {deepest} are not remembered: {anew}"
        else:
            mend = f"raise that, or {anew}"
        raise ReorgTooDeep(
            f"{self._key}: the endpoint's branch leaves ours more than {cursor.number - deepest} blocks "
            f"below block {cursor.number}, and max_reorg_depth is {most}; nothing was changed. If its "
            f"chain is right, {mend}"
        )

    def _commit(self, made: list[Made], turn: "_Turn | None" = None) -> None:
        """Put blocks, and in a reorganisation the new branch in the place of the old, in one transaction."""
        step = self._ledger_step(made, turn)
        self._is_known = False  # until it is certain that it was done
        with self._attempt.fenced() as fence:
            for dataset, table in self._tables.items():
                if turn is not None:
                    delete_blocks(fence.connection, table, turn.ancestor.number + 1)
                for one in made:
                    if self._is_replacing:
                        delete_blocks(fence.connection, table, *one.range)
                    append_rows(fence.connection, table, one.tables[dataset])
            fence.follow(step)
        self._cursor = _Place(step.cursor_block, step.cursor_hash)
        self._is_known = True

    def _ledger_step(self, made: list[Made], turn: "_Turn | None") -> FollowerStep:
        hashes: dict[int, bytes] = {}
        for one in made:
            numbers = range(one.range.start_block, one.range.end_block + 1)
            hashes |= dict(zip(numbers, one.tables["blocks"].column("block_hash").to_pylist(), strict=True))
        if made:
            cursor = _Place(made[-1].range.end_block, made[-1].last_hash)
            timestamp = made[-1].tables["blocks"].column("timestamp")[-1].as_py()
        elif turn is not None and turn.ancestor.number >= self._first_block:
            cursor, timestamp = turn.ancestor, turn.timestamp
        else:
            raise DataMismatch(
                f"{self._key}: the endpoint's chain no longer has block {self._first_block}, where this "
                "follower began; waiting until it has"
            )
        step = FollowerStep(
            dag=self._dag,
            job=self._job,
            chain_id=self._config.chain_id,
            first_block=self._first_block,
            datasets=self._config.datasets,
            cursor_block=cursor.number,
            cursor_hash=cursor.hash,
            cursor_time=timestamp,
            hashes=hashes,
            kept_blocks=max(_LEAST_REMEMBERED, 2 * self._config.max_reorg_depth + 1),
        )
        if turn is None:
            return step
        return replace(step, ancestor_block=turn.ancestor.number, old_cursor_block=turn.old.number)


@dataclass(frozen=True)
class _Turn:
    """A reorganisation: the last common block with its timestamp, and the cursor before."""

    ancestor: _Place
    timestamp: int
    old: _Place
