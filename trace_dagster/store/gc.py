"""Find and remove what no manifest names: objects of attempts that failed."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Literal

from trace_dagster.store.access import StoredObject
from trace_dagster.store.ids import MANIFEST_NAME, ObjectPath
from trace_dagster.store.manifest import load_manifest
from trace_dagster.store.objects import ObjectStore

__all__ = ["Garbage", "collect_garbage", "find_garbage", "remove_garbage"]

Guard = Callable[[str], AbstractContextManager[bool]]
Reason = Literal["uncommitted", "unlisted", "unfinished"]


@dataclass(frozen=True)
class Garbage:
    """Objects below one prefix that no reader sees.

    Attributes:
        prefix: a dataset version's prefix, below the store's root.
        paths: the objects, below the store's root.
        bytes: their sizes together.
        newest: when the last of them was written.
        reason: ``uncommitted``: the prefix has no manifest; ``unlisted``: its manifest does not name them;
            ``unfinished``: multipart uploads that nobody ended, whose sizes are not known.
    """

    prefix: str
    paths: tuple[str, ...]
    bytes: int
    newest: datetime
    reason: Reason


def collect_garbage(
    store: ObjectStore,
    older_than: timedelta,
    guard: Guard,
    *,
    dry_run: bool = True,
    now: datetime | None = None,
) -> list[Garbage]:
    """Remove what no manifest names and nobody is writing; return what was, or with ``dry_run`` would be.

    Args:
        store: where.
        older_than: objects written since then are left alone.
        guard: ``Ledger.guard(store.url)``: keeps attempts away from a prefix while the block runs, and gives
            False where one is writing there.
        dry_run: only look.
        now: the time; the clock's if None.

    Raises:
        LedgerUnavailable: Postgres cannot be reached, or refuses.
        StoreUnavailable: the store cannot be reached, or refuses.
    """
    now = now or datetime.now(UTC)
    found = find_garbage(store, older_than, now=now)
    if not dry_run:
        return [gone for one in found for gone in remove_garbage(store, one, older_than, guard, now=now)]
    kept = []
    for one in found:
        with guard(one.prefix) as unclaimed:
            if unclaimed:
                kept.append(one)
    return kept


def find_garbage(
    store: ObjectStore, older_than: timedelta, *, below: str = "cryo", now: datetime | None = None
) -> list[Garbage]:
    """Return what no manifest names, without asking who is writing. Raises as ``collect_garbage``."""
    before = (now or datetime.now(UTC)) - older_than
    files = _by_prefix([*store.walk(below), *store.leftovers(below)])
    unlisted = [one for prefix, items in files for one in _garbage(store, prefix, items, before)]
    uploads = _by_prefix(store.uploads(below))
    return unlisted + [one for prefix, items in uploads for one in _unfinished(prefix, items, before)]


def remove_garbage(
    store: ObjectStore,
    garbage: Garbage,
    older_than: timedelta,
    guard: Guard,
    *,
    now: datetime | None = None,
) -> list[Garbage]:
    """Remove what is still garbage of what was found; return it. Arguments as of ``collect_garbage``."""
    with guard(garbage.prefix) as unclaimed:
        if not unclaimed:
            return []
        found = find_garbage(store, older_than, below=garbage.prefix, now=now)
        for one in found:
            if one.reason == "unfinished":
                store.abort_uploads(one.paths)
            else:
                store.delete(one.paths)
        return found


def _by_prefix(files: Iterable[StoredObject]) -> Iterator[tuple[str, list[StoredObject]]]:
    """Give each folder and what is in it."""
    ordered = sorted(files, key=lambda item: item.path)
    for prefix, items in groupby(ordered, key=lambda item: item.path.rpartition("/")[0]):
        yield prefix, list(items)


def _unfinished(prefix: str, items: Iterable[StoredObject], before: datetime) -> Iterator[Garbage]:
    old = [item for item in items if ObjectPath.parse(item.path) is not None and item.last_modified < before]
    if old:
        yield _of(prefix, old, "unfinished")


def _garbage(
    store: ObjectStore, prefix: str, items: list[StoredObject], before: datetime
) -> Iterator[Garbage]:
    parsed = ObjectPath.parse(items[0].path)
    if parsed is None:  # somebody else's
        return
    others = [item for item in items if not item.path.endswith("/" + MANIFEST_NAME)]
    if len(others) == len(items):
        if all(item.last_modified < before for item in items):
            yield _of(prefix, items, "uncommitted")
        return
    usual = f"{prefix}/{parsed.dataset}_{parsed.range.key}.parquet"
    if [item.path for item in others] == [usual]:  # the manifest names it: no need to read every manifest
        return
    manifest = load_manifest(store, prefix)
    listed = set(manifest.paths) if manifest is not None else {item.path for item in others}
    unlisted = [item for item in others if item.path not in listed and item.last_modified < before]
    if unlisted:
        yield _of(prefix, unlisted, "unlisted")


def _of(prefix: str, items: Iterable[StoredObject], reason: Reason) -> Garbage:
    items = tuple(items)
    return Garbage(
        prefix=prefix,
        paths=tuple(item.path for item in items),
        bytes=sum(item.bytes for item in items),
        newest=max(item.last_modified for item in items),
        reason=reason,
    )
