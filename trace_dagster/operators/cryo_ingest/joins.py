"""Whether extracted ranges join what is committed beside them: one chain, not pieces of several."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import DataMismatch
from trace_dagster.operators.cryo_ingest.engines import Extracted
from trace_dagster.store import DatasetId, Manifest

if TYPE_CHECKING:
    from trace_dagster.io_managers.replace import ReplaceIOManager

__all__ = ["Joins", "check_neighbour", "check_same_blocks", "is_replaced_too"]

_MEND = (
    "the chain was reorganised, or a provider served another branch: find out which range is canonical and "
    "ingest the other one again, under a new config.revision where it is committed"
)


@dataclass
class Joins:
    """Checks, as often as it is asked, that one new dataset version goes on from its neighbours.

    Attributes:
        replace: knows the neighbours.
        id: the new version.
        extracted: its rows' facts.
        synthetic: whether its rows are made up.
        is_revised: whether ``config.revision`` is raised, or the blocks were invalidated. Then neighbours of
            the branch that is replaced are let be, or no two ranges beside each other could ever be replaced.
        is_outdated: whether a neighbour's blocks were invalidated, and it was not made again since.
        unjoined: keys of the ranges that were let be.
    """

    replace: "ReplaceIOManager"
    id: DatasetId
    extracted: Extracted
    synthetic: bool
    is_revised: bool
    is_outdated: Callable[[Manifest], bool] = lambda _: False
    unjoined: set[str] = field(default_factory=set)
    _seen: set[str] = field(default_factory=set)

    def check(self) -> None:
        """Check the neighbours that were not there the last time.

        Raises:
            DataMismatch: one does not join.
            LedgerUnavailable: Postgres cannot be reached, or refuses.
            StoreUnavailable: the store cannot be reached, or refuses.
        """
        for prefix in self.replace.neighbours(self.id, synthetic=self.synthetic):
            if prefix not in self._seen:
                neighbour = self.replace.manifest(prefix)
                if neighbour is not None:
                    self._check(neighbour)
                self._seen.add(prefix)

    def _check(self, neighbour: Manifest) -> None:
        try:
            check_neighbour(self.id.range, self.extracted, neighbour)
        except DataMismatch:
            replaced = self.is_revised and is_replaced_too(self.id.range, neighbour, self._beside(neighbour))
            if not replaced and not self.is_outdated(neighbour):
                raise
            self.unjoined.add(neighbour.range.key)

    def _beside(self, neighbour: Manifest) -> list[Manifest]:
        prefixes = self.replace.neighbours(neighbour.id, synthetic=self.synthetic)
        found = (self.replace.manifest(prefix) for prefix in prefixes)
        return [manifest for manifest in found if manifest is not None]


def check_same_blocks(
    block_range: BlockRange, extracted: Extracted, others: Iterable[Manifest], mend: str = _MEND
) -> None:
    """Check that other datasets of the same range were read from the same blocks; ``mend`` ends the message.

    Raises:
        DataMismatch: they begin or end with other block hashes.
    """
    facts = extracted.facts
    for other in others:
        _check(
            f"first block {block_range.start_block}",
            extracted,
            facts.first_block_hash,
            other,
            other.first_block_hash,
            mend=mend,
        )
        _check(
            f"last block {block_range.end_block}",
            extracted,
            facts.last_block_hash,
            other,
            other.last_block_hash,
            mend=mend,
        )


def check_neighbour(
    block_range: BlockRange, extracted: Extracted, neighbour: Manifest, mend: str = _MEND
) -> None:
    """Check that a range and the one committed right before or right behind it are linked by parent hash.

    ``mend`` ends the message.

    Raises:
        DataMismatch: they are not.
    """
    facts = extracted.facts
    if neighbour.end_block < block_range.start_block:
        what = f"parent of block {block_range.start_block}"
        _check(what, extracted, facts.first_parent_hash, neighbour, neighbour.last_block_hash, mend=mend)
    else:
        what = f"block {block_range.end_block}, parent of block {neighbour.start_block}"
        _check(what, extracted, facts.last_block_hash, neighbour, neighbour.first_parent_hash, mend=mend)


def is_replaced_too(block_range: BlockRange, neighbour: Manifest, beside: Iterable[Manifest]) -> bool:
    """Whether a neighbour goes on from what a range holds so far, so that a new branch replaces both.

    Args:
        block_range: the range that is ingested anew.
        neighbour: committed right before or right behind it.
        beside: what is committed right before and right behind ``neighbour``.
    """
    if neighbour.end_block < block_range.start_block:
        start = block_range.start_block
        earlier = {other.first_parent_hash for other in beside if other.start_block == start}
        return neighbour.last_block_hash in earlier
    earlier = {other.last_block_hash for other in beside if other.end_block == block_range.end_block}
    return neighbour.first_parent_hash in earlier


def _check(
    what: str, extracted: Extracted, ours: str | None, other: Manifest, theirs: str | None, *, mend: str
) -> None:
    if ours is not None and theirs is not None and ours != theirs:
        raise DataMismatch(
            f"{what}: {ours} in the {extracted.dataset} just read, {theirs} in the committed "
            f"{other.dataset} of {other.range.key}; {mend}"
        )
