"""Which version of which blocks a reader gets: of versions that share blocks, the one committed last."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import DataMismatch
from trace_dagster.store.ids import MANIFEST_NAME, ObjectPath, dataset_prefix
from trace_dagster.store.manifest import Manifest, load_manifest
from trace_dagster.store.objects import ObjectStore

__all__ = ["Gaps", "Piece", "Synthetic", "resolve"]

Synthetic = Literal["refuse", "allow"]
Gaps = Literal["refuse", "allow"]

_THREADS: Final = 16
_LAST_BLOCK: Final = 2**63 - 1
_UNRECORDED: Final = -1


@dataclass(frozen=True)
class Piece:
    """Consecutive blocks that come from one dataset version.

    Attributes:
        manifest: what the version holds.
        prefix: where it lies, below the store's root.
        urls: its Parquet objects, in order, as polars, pyarrow and DuckDB take them.
        keep: the blocks to take from it, inclusive.
    """

    manifest: Manifest
    prefix: str
    urls: tuple[str, ...]
    keep: BlockRange

    @property
    def trimmed(self) -> bool:
        """Whether only a part of the version's blocks is to be taken."""
        return self.keep != self.manifest.range


@dataclass(frozen=True)
class _Version:
    prefix: str
    range: BlockRange
    version: str
    sequence: int


def resolve(
    store: ObjectStore,
    chain_id: int,
    dataset: str,
    start_block: int | None = None,
    end_block: int | None = None,
    *,
    order: Mapping[str, int] | None = None,
    synthetic: Synthetic = "refuse",
    gaps: Gaps = "refuse",
) -> tuple[Piece, ...]:
    """Return the pieces that together hold each committed block once, in block order.

    Args:
        store: where from.
        chain_id: the chain.
        dataset: Cryo's name of the dataset.
        start_block: first block wanted, inclusive; None: the first there is.
        end_block: last block wanted, inclusive; None: the last there is.
        order: dataset version to sequence (``Ledger.current``); the highest wins, a version that is not in
            it loses. None: no two versions may share blocks.
        synthetic: with "refuse", made-up rows (the stub engine's) are passed over where a version read from a
            chain holds the same blocks, and are an error where none does.
        gaps: whether it is an error that blocks between ``start_block`` and ``end_block``, where both are
            given, are not committed.

    Raises:
        DataMismatch: blocks are missing, or in several versions without an order, or made up.
        StoreUnavailable: the store cannot be reached, or refuses.
    """
    wanted = BlockRange.of(start_block or 0, _LAST_BLOCK if end_block is None else end_block)
    bounded = start_block is not None or end_block is not None
    found = _committed(store, dataset_prefix(chain_id, dataset), wanted if bounded else None, order or {})
    what = f"{dataset} of chain {chain_id} in {store.url}"
    manifests = _Manifests(store)
    if synthetic == "refuse":
        kept = _real(list(found), wanted, what, manifests)
    else:
        kept = list(_newest(found, wanted, what))
    kept.sort(key=lambda item: item[1])
    if gaps == "refuse" and start_block is not None and end_block is not None:
        _refuse_gaps([keep for _, keep in kept], wanted, what)
    loaded = manifests.of(version for version, _ in kept)
    return tuple(
        Piece(
            manifest=(manifest := loaded[version]),
            prefix=version.prefix,
            urls=tuple(store.location(path) for path in manifest.paths),
            keep=keep,
        )
        for version, keep in kept
    )


def _committed(
    store: ObjectStore, root: str, wanted: BlockRange | None, order: Mapping[str, int]
) -> Iterator[_Version]:
    """Give the committed versions that share blocks with ``wanted``; None: all."""
    folders = [root]
    if wanted is not None:
        folders = [f"{root}/{name}" for name in store.folders(root) if _overlaps(name, wanted)]
    for folder in folders:
        for item in store.walk(folder):
            path = ObjectPath.parse(item.path)
            if path is not None and path.name == MANIFEST_NAME:
                sequence = order.get(path.version, _UNRECORDED)
                yield _Version(path.prefix, path.range, path.version, sequence)


def _overlaps(folder: str, wanted: BlockRange) -> bool:
    try:
        return BlockRange.parse(folder).overlaps(wanted)
    except ValueError:
        return False


def _newest(
    versions: Iterable[_Version], wanted: BlockRange, what: str
) -> Iterator[tuple[_Version, BlockRange]]:
    """Give each block of ``wanted`` once, from the version with the highest sequence."""
    taken = _Intervals()
    unrecorded: _Version | None = None
    for version in sorted(versions, key=lambda one: (-one.sequence, one.range, one.version)):
        if version.sequence == _UNRECORDED:
            if unrecorded is not None and unrecorded.range.overlaps(version.range):
                raise DataMismatch(
                    f"{what}: version {version.version} of blocks {version.range.key} and version "
                    f"{unrecorded.version} of blocks {unrecorded.range.key} share blocks, and which is newer "
                    "is not recorded; read with order=ledger.current(...), or materialize the right one again"
                )
            if unrecorded is None or unrecorded.range.end_block < version.range.end_block:
                unrecorded = version  # in block order, so the furthest end is what the next may overlap
        start = max(version.range.start_block, wanted.start_block)
        end = min(version.range.end_block, wanted.end_block)
        for keep in taken.add(BlockRange(start, end)):
            yield version, keep


class _Intervals:
    """A set of blocks, as sorted ranges that do not touch."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def without(self, blocks: BlockRange) -> list[BlockRange]:
        """Return those of ``blocks`` that are not in the set."""
        low = bisect_left(self._ends, blocks.start_block - 1)
        high = bisect_right(self._starts, blocks.end_block + 1)
        gaps, at = [], blocks.start_block
        for start, end in zip(self._starts[low:high], self._ends[low:high], strict=True):
            if at < start:
                gaps.append(BlockRange(at, min(start - 1, blocks.end_block)))
            at = max(at, end + 1)
        if at <= blocks.end_block:
            gaps.append(BlockRange(at, blocks.end_block))
        return gaps

    def add(self, new: BlockRange) -> list[BlockRange]:
        """Add the blocks, and return those that were not in the set."""
        gaps = self.without(new)
        low = bisect_left(self._ends, new.start_block - 1)
        high = bisect_right(self._starts, new.end_block + 1)
        start = min([new.start_block, *self._starts[low:high]])
        end = max([new.end_block, *self._ends[low:high]])
        self._starts[low:high], self._ends[low:high] = [start], [end]
        return gaps


def _refuse_gaps(kept: Iterable[BlockRange], wanted: BlockRange, what: str) -> None:
    covered = _Intervals()
    for keep in kept:
        covered.add(keep)
    missing = covered.without(wanted)
    if missing:
        shown = ", ".join(f"{gap.start_block} to {gap.end_block}" for gap in missing[:5])
        more = f" and {len(missing) - 5} more gaps" if len(missing) > 5 else ""
        raise DataMismatch(
            f"{what}: {sum(gap.blocks for gap in missing)} of the {wanted.blocks} blocks asked for are not "
            f"committed: {shown}{more}; materialize them, or read with gaps='allow'"
        )


def _real(
    found: list[_Version], wanted: BlockRange, what: str, manifests: "_Manifests"
) -> list[tuple[_Version, BlockRange]]:
    """Give each block once, as ``_newest``, from versions that were read from a chain."""

    def drop(doubtful: Iterable[_Version]) -> set[_Version]:
        loaded = manifests.of(doubtful)
        dropped = {version for version, manifest in loaded.items() if manifest.synthetic}
        found[:] = [version for version in found if version not in dropped]
        return dropped

    made_up = drop(version for version in found if version.sequence == _UNRECORDED)
    while True:
        kept = list(_newest(found, wanted, what))
        dropped = drop(version for version, _ in kept)
        if not dropped:
            break
        made_up |= dropped
    covered = _Intervals()
    for _, keep in kept:
        covered.add(keep)
    alone = sorted(
        version.range
        for version in made_up
        if covered.without(
            BlockRange(
                max(version.range.start_block, wanted.start_block),
                min(version.range.end_block, wanted.end_block),
            )
        )
    )
    if alone:
        raise DataMismatch(
            f"{what}: {len(alone)} versions are synthetic (first: blocks {alone[0].key}), made by the stub "
            "engine and not read from a chain; ingest with a real engine, or read with synthetic='allow'"
        )
    return kept


class _Manifests:
    """The manifests of a store, each loaded once."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._loaded: dict[_Version, Manifest] = {}

    def of(self, versions: Iterable[_Version]) -> dict[_Version, Manifest]:
        wanted = dict.fromkeys(versions)
        new = [version for version in wanted if version not in self._loaded]
        with ThreadPoolExecutor(_THREADS) as pool:
            manifests = pool.map(lambda version: load_manifest(self._store, version.prefix), new)
            for version, manifest in zip(new, manifests, strict=True):
                if manifest is None:
                    raise DataMismatch(
                        f"{self._store.url}/{version.prefix} was deleted while it was read; read again"
                    )
                self._loaded[version] = manifest
        return {version: self._loaded[version] for version in wanted}
