"""What the ledger knows of followers: cursors, the newest blocks behind them, reorganisations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

__all__ = ["FollowerState", "FollowerStep", "Invalidation", "OrphanedBlock", "Reorg"]


_LAST_SECONDS: Final = 10**11
"""The year 5138: a larger timestamp counts milliseconds."""

_LAST_TIME: Final = 253_402_300_799
"""The end of the year 9999, the last that Python's datetimes have."""


@dataclass(frozen=True)
class FollowerState:
    """How far a follower is.

    Attributes:
        follower: ``{dag}/{job}``.
        chain_id: the chain; None, as are all fields of the cursor, before the first commit.
        first_block: where it began.
        datasets: what was committed with the last block.
        cursor_block: the last block committed.
        cursor_hash: its hash.
        cursor_time: its timestamp.
        committed_at: when, by Postgres' clock.
        blocks: how many were committed, those that were orphaned since included.
        reorgs: how many reorganisations were followed.
        deepest_reorg: blocks orphaned by the deepest.
        last_reorg_at: when the last one was seen.
        head_block: the head that the provider reported last; None where it never did.
        final_block: the last block that is taken for final, as the config's ``finality`` says; it may be
            above the cursor. None where that is not known.
        seen_at: when.
        errors: how many steps failed.
        last_error: of the last that did, one line.
        last_error_at: when.
    """

    follower: str
    chain_id: int | None
    first_block: int | None
    datasets: Sequence[str] | None
    cursor_block: int | None
    cursor_hash: bytes | None
    cursor_time: datetime | None
    committed_at: datetime | None
    blocks: int | None
    reorgs: int | None
    deepest_reorg: int | None
    last_reorg_at: datetime | None
    head_block: int | None
    final_block: int | None
    seen_at: datetime | None
    errors: int
    last_error: str | None
    last_error_at: datetime | None


@dataclass(frozen=True)
class FollowerStep:
    """Blocks that a follower commits.

    Attributes:
        dag, job: whose follower it is.
        chain_id: the chain.
        first_block: where the follower began.
        datasets: what is committed.
        cursor_block, cursor_hash, cursor_time: the cursor afterwards; the time as the block's header has it.
        hashes: of the blocks committed, by number.
        kept_blocks: how many of the newest blocks are remembered.
        ancestor_block: the last block that both branches have; None where there is no reorganisation.
        old_cursor_block: the cursor before it.
    """

    dag: str
    job: str
    chain_id: int
    first_block: int
    datasets: Sequence[str]
    cursor_block: int
    cursor_hash: bytes
    cursor_time: int
    hashes: Mapping[int, bytes]
    kept_blocks: int
    ancestor_block: int | None = None
    old_cursor_block: int | None = None

    @property
    def queries(self) -> Sequence[str]:
        """Names of the statements, in order."""
        orphan = ("orphan_blocks",) if self.ancestor_block is not None else ()
        return (*orphan, "move_cursor", "keep_blocks", "forget_blocks")

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Parameters of all of them."""
        depth = 0
        if self.ancestor_block is not None and self.old_cursor_block is not None:
            depth = self.old_cursor_block - self.ancestor_block
        return {
            "follower": f"{self.dag}/{self.job}",
            "dag": self.dag,
            "job": self.job,
            "chain_id": self.chain_id,
            "first_block": self.first_block,
            "datasets": list(self.datasets),
            "cursor_block": self.cursor_block,
            "cursor_hash": self.cursor_hash,
            "cursor_time": _seconds(self.cursor_time),
            "blocks": len(self.hashes),
            "numbers": list(self.hashes),
            "hashes": list(self.hashes.values()),
            "up_to_block": self.cursor_block - self.kept_blocks,
            "ancestor_block": self.ancestor_block,
            "old_cursor_block": self.old_cursor_block,
            "new_cursor_block": self.cursor_block,
            "depth": depth,
        }


def _seconds(timestamp: int) -> float:
    """Return seconds since 1970; some chains count milliseconds, and a header may say anything."""
    seconds = timestamp / 1000 if timestamp > _LAST_SECONDS else timestamp
    return min(seconds, _LAST_TIME)


@dataclass(frozen=True)
class Reorg:
    """A reorganisation that was followed.

    Attributes:
        reorg_id: ascending.
        ancestor_block: the last block that both branches have.
        old_cursor_block: the cursor before.
        new_cursor_block: the cursor after.
        depth: how many blocks were orphaned.
        seen_at: by Postgres' clock.
    """

    reorg_id: int
    ancestor_block: int
    old_cursor_block: int
    new_cursor_block: int
    depth: int
    seen_at: datetime


@dataclass(frozen=True)
class OrphanedBlock:
    """A block that a reorganisation took out.

    Attributes:
        reorg_id: of the reorganisation.
        block_number: its number.
        block_hash: its hash.
        replaced_by: hash of the block in its place; None where the new branch did not reach so far yet.
    """

    reorg_id: int
    block_number: int
    block_hash: bytes
    replaced_by: bytes | None


@dataclass(frozen=True)
class Invalidation:
    """Blocks of a job whose rows have changed.

    Attributes:
        invalidation_id: ascending.
        start_block, end_block: both inclusive.
        reason: ``reorg``.
        branch_hash: of the last block that the new branch had when it was seen; None where it is not known.
        made_at: by Postgres' clock.
    """

    invalidation_id: int
    start_block: int
    end_block: int
    reason: str
    branch_hash: bytes | None
    made_at: datetime = field(compare=False)

    @property
    def token(self) -> str:
        """What tells rows made after it from those before; the same wherever the chain is the same."""
        return self.branch_hash.hex() if self.branch_hash else str(self.invalidation_id)
