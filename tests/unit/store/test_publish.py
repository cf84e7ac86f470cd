"""The commit of a dataset version, in a folder."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.datasets import changed, dataset_id, stage
from trace_dagster.errors import AttemptLost, CommitConflict, DataMismatch
from trace_dagster.store import ObjectStore, open_store, publish, put_objects, read_manifest, verify


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """An empty folder."""
    return open_store((tmp_path / "store").as_uri(), {})


def mine() -> None:
    """Hold the lease for ever."""


def losing_after(calls: int) -> Callable[[], None]:
    """Return a check that passes ``calls`` times and then finds the lease lost."""
    left = iter(range(calls))

    def still_mine() -> None:
        if next(left, None) is None:
            raise AttemptLost("lost")

    return still_mine


def contents(store: ObjectStore) -> dict[str, bytes]:
    """Return every file of the store."""
    return {
        str(path.relative_to(store.folder)): path.read_bytes()
        for path in sorted(store.folder.rglob("*"))
        if path.is_file()
    }


def test_a_commit_is_objects_and_a_manifest_that_names_them(store: ObjectStore, tmp_path: Path) -> None:
    """The manifest lists each object with size, rows and hash, and the totals."""
    staged = stage(tmp_path, dataset_id(), files=2)
    published = publish(store, staged, mine)
    assert published.created
    assert read_manifest(store, staged.id) == published.manifest
    assert [item.name for item in published.manifest.objects] == list(staged.id.object_names(2))
    for item, file in zip(published.manifest.objects, staged.files, strict=True):
        content = file.path.read_bytes()
        assert (item.bytes, item.rows, item.sha256) == (
            len(content),
            file.rows,
            hashlib.sha256(content).hexdigest(),
        )
    assert published.manifest.rows == 10
    assert published.manifest.bytes == sum(item.bytes for item in published.manifest.objects)
    verify(store, published.manifest)


def test_the_same_input_gives_the_same_bytes(store: ObjectStore, tmp_path: Path) -> None:
    """Two stores that got the same dataset hold the same files; a second publish changes none."""
    other = open_store((tmp_path / "other").as_uri(), {})
    for place in (store, other):
        publish(place, stage(tmp_path / "staged", dataset_id(), files=2), mine)
    before = contents(store)
    assert contents(other) == before
    again = publish(store, stage(tmp_path / "again", dataset_id(), files=2), mine)
    assert not again.created
    assert contents(store) == before


def test_an_empty_dataset_is_committed_too(store: ObjectStore, tmp_path: Path) -> None:
    """A range without logs has a manifest with no rows, which is not the same as no manifest."""
    staged = changed(stage(tmp_path, dataset_id()), files=())
    manifest = publish(store, staged, mine).manifest
    assert (manifest.rows, manifest.objects) == (0, ())
    verify(store, manifest)


def test_other_content_under_the_same_version_fails_loudly(store: ObjectStore, tmp_path: Path) -> None:
    """The committed files stay as they were; the error names both hashes and the mend."""
    first = publish(store, stage(tmp_path / "1", dataset_id()), mine).manifest
    before = contents(store)
    other = stage(tmp_path / "2", dataset_id(), note="y")
    sha256 = hashlib.sha256(other.files[0].path.read_bytes()).hexdigest()
    with pytest.raises(CommitConflict, match=rf"{first.objects[0].sha256}.*{sha256}.*config\.revision"):
        publish(store, other, mine)
    assert contents(store) == before


def test_another_block_hash_is_a_conflict(store: ObjectStore, tmp_path: Path) -> None:
    """Rows that happen to be equal do not hide that they come from another branch of the chain."""
    staged = stage(tmp_path, dataset_id())
    publish(store, staged, mine)
    with pytest.raises(CommitConflict, match=r"last block hash 0x22.* made 0x33"):
        publish(store, changed(staged, last_block_hash="0x" + "33" * 32), mine)


def test_checks_that_came_later_are_no_conflict(store: ObjectStore, tmp_path: Path) -> None:
    """The same rows checked by a newer version are the same content; the first manifest stays."""
    staged = stage(tmp_path, dataset_id())
    first = publish(store, staged, mine)
    again = publish(store, changed(staged, checks={"roots": "passed"}), mine)
    assert again.manifest == first.manifest


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_lost_attempt_writes_nothing_more(store: ObjectStore, tmp_path: Path, writes: int) -> None:
    """The lease is checked before every write; without it nothing is committed, and the next one can."""
    staged = stage(tmp_path, dataset_id(), files=2)
    with pytest.raises(AttemptLost):
        publish(store, staged, losing_after(writes))
    assert len(contents(store)) == writes
    assert read_manifest(store, staged.id) is None
    assert publish(store, staged, mine).created


def test_objects_of_a_failed_attempt_are_taken_over(store: ObjectStore, tmp_path: Path) -> None:
    """Equal objects that are there already are named by the manifest as if just written."""
    reference = open_store((tmp_path / "reference").as_uri(), {})
    staged = stage(tmp_path, dataset_id(), files=2)
    publish(reference, staged, mine)
    put_objects(store, staged, mine)
    publish(store, staged, mine)
    assert contents(store) == contents(reference)


def test_other_objects_of_a_failed_attempt_are_not_touched(store: ObjectStore, tmp_path: Path) -> None:
    """The new content goes beside them, and committing it again finds the same content."""
    put_objects(store, stage(tmp_path / "old", dataset_id(), note="old"), mine)
    left = contents(store)
    staged = stage(tmp_path / "new", dataset_id(), note="new")
    manifest = publish(store, staged, mine).manifest
    verify(store, manifest)
    assert contents(store).items() >= left.items()
    assert manifest.objects[0].name == f"blocks_0_9.{manifest.objects[0].sha256[:16]}.parquet"
    assert publish(store, staged, mine).manifest == manifest


def test_a_late_writer_cannot_change_what_another_committed(store: ObjectStore, tmp_path: Path) -> None:
    """A writer that pauses after its last check and wakes after a take-over leaves the commit whole."""
    late = stage(tmp_path / "late", dataset_id(), note="late", files=2)
    winner = stage(tmp_path / "winner", dataset_id(), note="winner", files=2)
    pauses = iter([False, True, False])

    def pause_before_second_object() -> None:
        if next(pauses):
            publish(store, winner, mine)

    manifest = put_objects(store, late, pause_before_second_object)
    committed = read_manifest(store, winner.id)
    assert committed is not None
    assert manifest != committed
    verify(store, committed)
    for item, path in zip(committed.objects, committed.paths, strict=True):
        assert store.sha256(path) == item.sha256
    with pytest.raises(CommitConflict):
        publish(store, late, mine)


def test_verify_names_what_is_wrong(store: ObjectStore, tmp_path: Path) -> None:
    """Missing and cut objects are named with their sizes; publishing again restores what is missing."""
    staged = stage(tmp_path, dataset_id(), files=2)
    manifest = publish(store, staged, mine).manifest
    first, second = (store.folder / path for path in manifest.paths)
    whole = second.read_bytes()
    first.unlink()
    second.write_bytes(b"cut")
    missing = rf"0001.parquet \({manifest.objects[0].bytes} bytes\) is missing"
    with pytest.raises(DataMismatch, match=rf"{missing}; .*0002.parquet has 3 bytes instead of {len(whole)}"):
        verify(store, manifest)
    second.write_bytes(whole)
    assert not publish(store, staged, mine).created
    verify(store, manifest)


def test_a_manifest_that_cannot_be_read_is_an_error(store: ObjectStore, tmp_path: Path) -> None:
    """Neither a newer format nor a broken file passes for an uncommitted version."""
    staged = stage(tmp_path, dataset_id())
    path = store.folder / staged.id.prefix / "_manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"format_version": 2}')
    with pytest.raises(DataMismatch, match="no manifest of format 1: format_version"):
        publish(store, staged, mine)
    path.write_text("half a fi")
    with pytest.raises(DataMismatch, match="no manifest of format 1: the file"):
        read_manifest(store, staged.id)


def test_a_manifest_of_another_place_is_an_error(store: ObjectStore, tmp_path: Path) -> None:
    """A copied manifest does not commit the folder that it was copied to."""
    manifest = publish(store, stage(tmp_path, dataset_id()), mine).manifest
    elsewhere = dataset_id(config="b")
    store.put_new(f"{elsewhere.prefix}/_manifest.json", manifest.to_bytes())
    with pytest.raises(DataMismatch, match=f"is the manifest of {manifest.prefix}"):
        read_manifest(store, elsewhere)


def test_publishing_again_replaces_what_was_damaged(store: ObjectStore, tmp_path: Path) -> None:
    """Objects that were cut or changed from outside become again what the manifest says."""
    manifest = publish(store, stage(tmp_path / "once", dataset_id(), files=2), mine).manifest
    before = contents(store)
    cut, changed_one = (store.folder / path for path in manifest.paths)
    cut.write_bytes(b"PAR1")
    changed_one.write_bytes(bytes(len(changed_one.read_bytes())))
    publish(store, stage(tmp_path / "again", dataset_id(), files=2), mine)
    assert contents(store) == before
    verify(store, manifest)
