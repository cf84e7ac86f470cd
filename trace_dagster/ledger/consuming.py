"""What the ledger knows of ``PerUpdate`` jobs, which run on new rows of others."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trace_dagster.chain.ranges import BlockRange

__all__ = ["ConsumerState", "ConsumerStep"]


@dataclass(frozen=True)
class ConsumerState:
    """How far a job is.

    Attributes:
        consumer: ``{dag}/{job}``.
        first_block: the first block that it has done.
        cursor_block: the last one.
        seen: by job that it reads, ``{dag}/{job}``: id of the last of its invalidations that was heeded.
        tables: names of the tables that it has made, in the DAG's schema.
        definition: hash of what decides its rows.
        committed_at: when, by Postgres' clock.
        blocks: how many blocks it has done, those done again included.
    """

    consumer: str
    first_block: int
    cursor_block: int
    seen: Mapping[str, int]
    tables: Sequence[str]
    definition: str
    committed_at: datetime
    blocks: int


@dataclass(frozen=True)
class ConsumerStep:
    """Blocks that a job has done.

    Attributes:
        dag, job: whose they are.
        first_block: the first block whose rows are there afterwards.
        blocks: the range; its last block is the cursor afterwards.
        seen, tables, definition: as of ``ConsumerState``.
        changed: blocks that were done before and whose rows are gone or were made again: what reads this job
            must heed it. None for none.
        reason: of their invalidation.
    """

    dag: str
    job: str
    first_block: int
    blocks: BlockRange
    seen: Mapping[str, int]
    tables: Sequence[str]
    definition: str
    changed: BlockRange | None = None
    reason: str = "reorg"

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Parameters of the statement ``consume``."""
        return {
            "consumer": f"{self.dag}/{self.job}",
            "first_block": self.first_block,
            "cursor_block": self.blocks.end_block,
            "seen": json.dumps(dict(self.seen)),
            "tables": list(self.tables),
            "definition": self.definition,
            "blocks": self.blocks.blocks,
        }
