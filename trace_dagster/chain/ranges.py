"""Block ranges: inclusive at both ends everywhere in this project."""

import re
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import NamedTuple, Self

__all__ = ["BlockRange"]

_KEY = re.compile(r"(0|[1-9][0-9]*)_(0|[1-9][0-9]*)")


class BlockRange(NamedTuple):
    """The blocks ``start_block`` to ``end_block``, both inclusive.

    Make one with ``BlockRange.of``, which checks its arguments.
    """

    start_block: int
    end_block: int

    @classmethod
    def of(cls, start_block: int, end_block: int) -> Self:
        """Return the range.

        Raises:
            ValueError: a block is negative, or ``end_block`` is before ``start_block``.
        """
        if start_block < 0:
            raise ValueError(f"start_block is {start_block}; blocks count from 0")
        if end_block < start_block:
            raise ValueError(f"end_block {end_block} is before start_block {start_block}; both are inclusive")
        return cls(start_block, end_block)

    @classmethod
    def parse(cls, key: str) -> Self:
        """Read a partition key, ``{start_block}_{end_block}``, unpadded.

        Raises:
            ValueError: ``key`` has another form, or is no range.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"{key!r} is not a block range; write start_end, as in 0_999")
        return cls.of(int(match[1]), int(match[2]))

    @property
    def key(self) -> str:
        """The partition key, ``{start_block}_{end_block}``."""
        return f"{self.start_block}_{self.end_block}"

    @property
    def blocks(self) -> int:
        """How many blocks the range holds."""
        return self.end_block - self.start_block + 1

    def covers(self, other: "BlockRange") -> bool:
        """Whether every block of ``other`` is in this range."""
        return self.start_block <= other.start_block and other.end_block <= self.end_block

    def overlaps(self, other: "BlockRange") -> bool:
        """Whether the two ranges share a block."""
        return self.start_block <= other.end_block and other.start_block <= self.end_block

    def split(self, chunk_size: int) -> Iterator["BlockRange"]:
        """Cut the range, from its start, into ranges of ``chunk_size`` blocks; the last may be shorter.

        Raises:
            ValueError: ``chunk_size`` is below 1.
        """
        if chunk_size < 1:
            raise ValueError(f"chunk_size is {chunk_size}; it must be at least 1")
        starts = range(self.start_block, self.end_block + 1, chunk_size)
        ends = chain(range(self.start_block + chunk_size - 1, self.end_block, chunk_size), (self.end_block,))
        # Hundreds of thousands when definitions load: no Python code for each.
        return map(partial(tuple.__new__, BlockRange), zip(starts, ends, strict=True))
