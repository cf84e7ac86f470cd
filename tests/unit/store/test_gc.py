"""Garbage collection in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.datasets import dataset_id, stage
from trace_dagster.store import ObjectStore, collect_garbage, open_store, publish, put_objects

HOUR = timedelta(hours=1)
LATER = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """A folder with one commit, one failed attempt, and one of each in the same prefix."""
    opened = open_store((tmp_path / "store").as_uri(), {})
    publish(opened, stage(tmp_path / "1", dataset_id(0, 9)), lambda: None)
    put_objects(opened, stage(tmp_path / "2", dataset_id(10, 19), files=2), lambda: None)
    put_objects(opened, stage(tmp_path / "3", dataset_id(20, 29), note="failed"), lambda: None)
    publish(opened, stage(tmp_path / "4", dataset_id(20, 29)), lambda: None)
    return opened


@contextmanager
def nobody_writes(_prefix: str) -> Iterator[bool]:
    """Find no prefix in use."""
    yield True


def files(store: ObjectStore) -> set[str]:
    """Return every file's path below the root."""
    return {str(path.relative_to(store.folder)) for path in store.folder.rglob("*") if path.is_file()}


def test_only_what_no_manifest_names_is_removed(store: ObjectStore) -> None:
    """A failed attempt's objects go, also beside a commit; commits and their objects stay."""
    before = files(store)
    gone = collect_garbage(store, HOUR, nobody_writes, dry_run=False, now=LATER)
    assert [(one.prefix, one.reason, len(one.paths)) for one in gone] == [
        (dataset_id(10, 19).prefix, "uncommitted", 2),
        (dataset_id(20, 29).prefix, "unlisted", 1),
    ]
    assert files(store) == before - {path for one in gone for path in one.paths}
    assert not (store.folder / "cryo/1/blocks/10_19").exists()
    assert collect_garbage(store, HOUR, nobody_writes, dry_run=False, now=LATER) == []


def test_a_dry_run_only_looks(store: ObjectStore) -> None:
    """The default says what would go, and how many bytes, and removes nothing."""
    before = files(store)
    found = collect_garbage(store, HOUR, nobody_writes, now=LATER)
    assert [one.bytes > 0 for one in found] == [True, True]
    assert files(store) == before


def test_young_objects_are_left_alone(store: ObjectStore) -> None:
    """What was written within the age limit may belong to somebody at work."""
    assert collect_garbage(store, HOUR, nobody_writes, dry_run=False) == []


def test_prefixes_of_live_attempts_are_left_alone(store: ObjectStore) -> None:
    """However old the objects are, one who is writing there keeps them."""
    live = dataset_id(10, 19).prefix

    @contextmanager
    def guard(prefix: str) -> Iterator[bool]:
        yield prefix != live

    gone = collect_garbage(store, HOUR, guard, dry_run=False, now=LATER)
    assert [one.prefix for one in gone] == [dataset_id(20, 29).prefix]


def test_a_commit_that_came_between_looking_and_removing_is_kept(store: ObjectStore, tmp_path: Path) -> None:
    """What was found is looked at again once the prefix is held."""

    @contextmanager
    def guard(prefix: str) -> Iterator[bool]:
        if prefix == dataset_id(10, 19).prefix:
            publish(store, stage(tmp_path / "5", dataset_id(10, 19), files=2), lambda: None)
        yield True

    gone = collect_garbage(store, HOUR, guard, dry_run=False, now=LATER)
    assert [one.prefix for one in gone] == [dataset_id(20, 29).prefix]


def test_unfinished_files_of_killed_writers_are_removed(store: ObjectStore) -> None:
    """A folder keeps the half-written file of a killed process; it is no object, and it goes, too."""
    half = store.folder / dataset_id(0, 9).prefix / "blocks_0_9.parquet#1"
    half.write_bytes(b"half")
    gone = collect_garbage(store, HOUR, nobody_writes, dry_run=False, now=LATER)
    assert half.relative_to(store.folder).as_posix() in gone[0].paths
    assert not half.exists()


def test_other_peoples_files_are_left_alone(store: ObjectStore) -> None:
    """Only paths of this project's form are ever removed."""
    store.put_new("cryo/1/blocks/notes/readme.txt", b"mine")
    collect_garbage(store, HOUR, nobody_writes, dry_run=False, now=LATER)
    assert store.get("cryo/1/blocks/notes/readme.txt") == b"mine"
