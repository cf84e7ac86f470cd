"""Commit a dataset version: objects first, the manifest last, everything written once and never changed.

No object and no manifest is ever overwritten, so a writer that lost its lease and wakes up late cannot
change what another has committed: S3 has no condition that would hold a late overwrite off (the e_tag of
equal content is equal). An object name that an unfinished attempt has taken with other content is left
to ``trace gc``, and the new content goes under a name with its own hash.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from trace_dagster.chain.schemas import fingerprint
from trace_dagster.errors import CommitConflict, DataMismatch, StoreUnavailable
from trace_dagster.store.ids import MANIFEST_NAME, DatasetId
from trace_dagster.store.manifest import Manifest, ManifestObject, read_manifest
from trace_dagster.store.objects import ObjectStore
from trace_dagster.store.upload import ObjectUpload

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Content",
    "Published",
    "StagedDataset",
    "StagedFile",
    "UploadedFile",
    "commit_manifest",
    "publish",
    "put_objects",
]

# How often an object may vanish (garbage collection) between two looks at it.
_TRIES: Final = 3


class Content(Protocol):
    """A finished Parquet file that has no name in the store yet: a ``StagedFile`` or ``UploadedFile``."""

    @property
    def rows(self) -> int:
        """Its rows."""
        ...

    def measure(self) -> tuple[int, str]:
        """Return its bytes, and their SHA-256 in hex."""
        ...

    def put_new(self, store: ObjectStore, path: str) -> bool:
        """Make it the object at ``path``; return False where one is there."""
        ...


@dataclass(frozen=True)
class StagedFile:
    """A finished Parquet file on local disk, at most 256 MiB: it passes through memory whole.

    Attributes:
        path: the file.
        rows: its rows.
    """

    path: Path
    rows: int

    def measure(self) -> tuple[int, str]:
        """Return its bytes, and their SHA-256 in hex."""
        with self.path.open("rb") as content:
            return self.path.stat().st_size, hashlib.file_digest(content, "sha256").hexdigest()

    def put_new(self, store: ObjectStore, path: str) -> bool:
        """Copy it to ``path``; return False where an object is there."""
        return store.put_new(path, self.path.read_bytes())


@dataclass(frozen=True)
class UploadedFile:
    """A finished Parquet file that is in the store or in memory, not under its name yet.

    Attributes:
        upload: its content, closed.
        rows: its rows.
    """

    upload: ObjectUpload
    rows: int

    def measure(self) -> tuple[int, str]:
        """Return its bytes, and their SHA-256 in hex."""
        return self.upload.bytes, self.upload.sha256

    def put_new(self, store: ObjectStore, path: str) -> bool:  # noqa: ARG002 - it knows its store
        """Move it to ``path``; return False where an object is there."""
        return self.upload.put_new(path)


@dataclass(frozen=True)
class StagedDataset:
    """A dataset version that is complete and checked, but not committed.

    Attributes:
        id: its identity.
        files: in the order of their rows.
        schema: the Arrow schema of every file.
        engine: what made the rows.
        synthetic: whether the rows are made up.
        first_block_hash: of the first block, 0x hex, where the engine saw it.
        last_block_hash: of the last block, likewise.
        first_parent_hash: parent hash of the first block, likewise.
        checks: each check's name to ``passed`` or ``not checked: why``; the same for the same input.
    """

    id: DatasetId
    files: tuple[Content, ...]
    schema: "pa.Schema"
    engine: str
    synthetic: bool
    first_block_hash: str | None
    last_block_hash: str | None
    first_parent_hash: str | None
    checks: Mapping[str, str]


@dataclass(frozen=True)
class Published:
    """A committed dataset version.

    Attributes:
        manifest: as it lies in the store.
        created: False where the same content was committed before.
    """

    manifest: Manifest
    created: bool


def publish(store: ObjectStore, staged: StagedDataset, still_mine: Callable[[], None]) -> Published:
    """Commit ``staged``; idempotent.

    Args:
        store: where to.
        staged: what.
        still_mine: called before every write; raises AttemptLost to prevent it.

    Raises:
        CommitConflict: other content is committed under the same version.
        DataMismatch: the store holds something unreadable there.
        StoreUnavailable: the store cannot be reached, or refuses.
    """
    manifest = put_objects(store, staged, still_mine)
    still_mine()
    return commit_manifest(store, manifest)


def put_objects(store: ObjectStore, staged: StagedDataset, still_mine: Callable[[], None]) -> Manifest:
    """Write the objects of ``staged`` and return the manifest that would commit them.

    Where the version is committed already, with the same content, its manifest is returned, and only
    objects that have gone missing or were damaged are written. Raises as ``publish``.
    """
    committed = read_manifest(store, staged.id)
    if committed is not None:
        _restore(store, staged, committed, still_mine)
        return committed
    objects = []
    for name, file in zip(staged.id.object_names(len(staged.files)), staged.files, strict=True):
        size, sha256 = file.measure()
        written = _put(store, f"{staged.id.prefix}/{name}", file, sha256, still_mine)
        objects.append(ManifestObject(name=written, bytes=size, rows=file.rows, sha256=sha256))
    return _manifest(staged, tuple(objects))


def commit_manifest(store: ObjectStore, manifest: Manifest) -> Published:
    """Make the objects of ``manifest`` visible; the last step of a commit. Raises as ``publish``."""
    if store.put_new(f"{manifest.prefix}/{MANIFEST_NAME}", manifest.to_bytes()):
        return Published(manifest, created=True)
    committed = read_manifest(store, manifest.id)
    if committed is None:
        raise StoreUnavailable(f"{store.url}/{manifest.prefix} was deleted while it was committed; try again")
    _same_content(store, committed, manifest)
    return Published(committed, created=False)


def _manifest(staged: StagedDataset, objects: tuple[ManifestObject, ...]) -> Manifest:
    block_range = staged.id.range
    return Manifest(
        chain_id=staged.id.chain_id,
        dataset=staged.id.dataset,
        start_block=block_range.start_block,
        end_block=block_range.end_block,
        dataset_version=staged.id.version,
        config_hash=staged.id.config_hash,
        engine=staged.engine,
        synthetic=staged.synthetic,
        rows=sum(item.rows for item in objects),
        bytes=sum(item.bytes for item in objects),
        objects=objects,
        schema_fingerprint=fingerprint(staged.schema),
        first_block_hash=staged.first_block_hash,
        last_block_hash=staged.last_block_hash,
        first_parent_hash=staged.first_parent_hash,
        checks=dict(staged.checks),
    )


def _put(store: ObjectStore, path: str, content: Content, sha256: str, still_mine: Callable[[], None]) -> str:
    """Write one object at ``path``, or beside it where other content is there; return its name."""
    stem, _, suffix = path.rpartition(".")
    for candidate in (path, f"{stem}.{sha256[:16]}.{suffix}"):
        for _try in range(_TRIES):
            still_mine()
            if content.put_new(store, candidate):
                return candidate.rpartition("/")[2]
            present = store.sha256(candidate)
            if present == sha256:
                return candidate.rpartition("/")[2]
            if present is not None:
                break
    raise DataMismatch(
        f"{store.url}/{path}: objects of unfinished attempts are in the way; remove them with trace gc"
    )


def _restore(
    store: ObjectStore, staged: StagedDataset, committed: Manifest, still_mine: Callable[[], None]
) -> None:
    """Check that ``staged`` is what is committed, and write again what is missing of it or damaged."""
    digests = []
    for name, file in zip(staged.id.object_names(len(staged.files)), staged.files, strict=True):
        size, sha256 = file.measure()
        digests.append(ManifestObject(name=name, bytes=size, rows=file.rows, sha256=sha256))
    _same_content(store, committed, _manifest(staged, tuple(digests)))
    for path, item, file in zip(committed.paths, committed.objects, staged.files, strict=True):
        present = store.sha256(path)
        if present == item.sha256:
            continue
        still_mine()
        if present is not None:  # damaged from outside: it never was what the manifest says
            store.delete([path])
        file.put_new(store, path)


def _same_content(store: ObjectStore, committed: Manifest, made: Manifest) -> None:
    """Raise CommitConflict unless two manifests of one version say the same of the rows."""
    before, now = _content(committed), _content(made)
    for field in before | now:
        if before.get(field) != now.get(field):
            raise CommitConflict(
                f"{store.url}/{committed.prefix} is committed with {field} {before.get(field)}, but this "
                f"attempt made {now.get(field)}: the same input gave other content (a reorg, a provider's "
                "fault, an engine changed without a new format version). Find out which is right; to replace "
                "what is committed, raise the job's config.revision"
            )


def _content(manifest: Manifest) -> dict[str, object]:
    """Return what two manifests of one version must agree on: neither objects' names nor checks."""
    facts: dict[str, object] = {
        "rows": manifest.rows,
        "schema fingerprint": manifest.schema_fingerprint,
        "first block hash": manifest.first_block_hash,
        "last block hash": manifest.last_block_hash,
        "first parent hash": manifest.first_parent_hash,
        "number of objects": len(manifest.objects),
    }
    for number, item in enumerate(manifest.objects, start=1):
        facts[f"object {number}"] = f"sha256 {item.sha256} ({item.bytes} bytes, {item.rows} rows)"
    return facts
