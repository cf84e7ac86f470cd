"""Objects streamed into the store, in a folder and in a bucket."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.datasets import SCHEMA, dataset_id
from trace_dagster.errors import AttemptLost, CommitConflict
from trace_dagster.store import (
    ObjectStore,
    ObjectUpload,
    StagedDataset,
    UploadedFile,
    collect_garbage,
    publish,
    read_manifest,
    verify,
)

PART = 5 * 2**20
SMALL = b"small" * 1000
LARGE = bytes(range(256)) * (3 * PART // 256)
ONE = dataset_id(0, 9)
PLACE = f"{ONE.prefix}/blocks_0_9.parquet"
LATER = datetime.now(UTC) + timedelta(days=1)
REPOSITORY = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
from trace_dagster.store import ObjectUpload, open_store
store = open_store(sys.argv[1], os.environ)
upload = ObjectUpload(store, sys.argv[2], lambda: None, part_bytes=5 * 2**20)
for _ in range(32):
    upload.write(bytes(2**20))
os.kill(os.getpid(), signal.SIGKILL)
"""


def uploaded(store: ObjectStore, content: bytes, before_write: object = None) -> ObjectUpload:
    """Return a closed upload of ``content``, which was written in pieces of a mebibyte."""
    upload = ObjectUpload(store, ONE.prefix, before_write or (lambda: None), part_bytes=PART)
    for start in range(0, len(content), 2**20):
        upload.write(content[start : start + 2**20])
    upload.close()
    return upload


def visible(store: ObjectStore) -> dict[str, int]:
    """Return the objects with a name that ends as they should, and their sizes."""
    return {item.path: item.bytes for item in store.walk("cryo") if "/upload-" not in item.path}


@contextmanager
def nobody_writes(_prefix: str) -> Iterator[bool]:
    """Find no prefix in use."""
    yield True


def staged(store: ObjectStore, *contents: bytes) -> StagedDataset:
    """Return uploads as a dataset version to commit."""
    return StagedDataset(
        id=ONE,
        files=tuple(UploadedFile(uploaded(store, content), 10) for content in contents),
        schema=SCHEMA,
        engine="test",
        synthetic=False,
        first_block_hash=None,
        last_block_hash=None,
        first_parent_hash=None,
        checks={},
    )


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_content_is_whole_under_its_name_and_nowhere_else(store: ObjectStore, content: bytes) -> None:
    """Nobody sees it before it is placed; then it is there with the size and digest that were counted."""
    upload = uploaded(store, content)
    assert visible(store) == {}
    assert (upload.bytes, upload.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert upload.put_new(PLACE)
    assert {item.path: item.bytes for item in store.walk("cryo")} == {PLACE: len(content)}
    assert store.get(PLACE) == content
    assert list(store.uploads("cryo")) == []


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_nothing_is_overwritten(store: ObjectStore, content: bytes) -> None:
    """An object that is there stays; the upload can be placed elsewhere, or be dropped without a trace."""
    assert store.put_new(PLACE, b"before")
    upload = uploaded(store, content)
    assert not upload.put_new(PLACE)
    assert store.get(PLACE) == b"before"
    assert upload.put_new(PLACE + "2")
    assert store.get(PLACE + "2") == content
    dropped = uploaded(store, content)
    dropped.discard()
    assert {item.path for item in store.walk("cryo")} == {PLACE, PLACE + "2"}


def test_an_upload_that_breaks_off_leaves_nothing(store: ObjectStore) -> None:
    """Dropping one in the middle aborts it: no object and no parts."""
    upload = ObjectUpload(store, ONE.prefix, lambda: None, part_bytes=PART)
    upload.write(LARGE)
    upload.discard()
    assert list(store.walk("cryo")) == []
    assert list(store.uploads("cryo")) == []


def test_a_lost_attempt_sends_nothing_more(store: ObjectStore) -> None:
    """What is called before writing can prevent it."""

    def lost() -> None:
        raise AttemptLost("taken over")

    upload = ObjectUpload(store, ONE.prefix, lost, part_bytes=PART)
    upload.write(SMALL)
    with pytest.raises(AttemptLost):
        upload.write(LARGE)
    upload.discard()
    assert list(store.walk("cryo")) == []


def test_uploads_are_committed_like_files(store: ObjectStore) -> None:
    """A version of small and large uploads has the names of a split partition, and its manifest is true."""
    made = publish(store, staged(store, LARGE, SMALL), lambda: None)
    assert [item.name for item in made.manifest.objects] == [
        "blocks_0_9_0001.parquet",
        "blocks_0_9_0002.parquet",
    ]
    manifest = read_manifest(store, ONE)
    assert manifest == made.manifest
    verify(store, made.manifest)
    again = staged(store, LARGE, SMALL)
    assert not publish(store, again, lambda: None).created
    for file in again.files:
        file.upload.discard()
    other = staged(store, LARGE + b"x", SMALL)
    with pytest.raises(CommitConflict, match="object 1"):
        publish(store, other, lambda: None)
    for file in other.files:
        file.upload.discard()
    assert len(list(store.walk("cryo"))) == 3


def test_a_killed_upload_is_invisible_and_removed_by_garbage_collection(
    store: ObjectStore, s3_environment: Mapping[str, str]
) -> None:
    """SIGKILL in the middle of a multipart upload makes no object; its parts are found and removed."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, store.url, ONE.prefix],
        cwd=REPOSITORY,
        env={**os.environ, **s3_environment},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert visible(store) == {}
    left = [*store.uploads("cryo"), *store.leftovers("cryo"), *store.walk("cryo")]
    assert left
    found = collect_garbage(store, timedelta(hours=1), nobody_writes, dry_run=False, now=LATER)
    assert {one.prefix for one in found} == {ONE.prefix}
    assert [*store.uploads("cryo"), *store.leftovers("cryo"), *store.walk("cryo")] == []
