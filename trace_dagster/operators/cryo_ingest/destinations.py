"""Where a dataset's Parquet files go while they are written: local staging, or the object store itself."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from trace_dagster.operators.cryo_ingest.staging import StagingLimits, disk_errors_explained
from trace_dagster.store import Content, ObjectStore, ObjectUpload, StagedFile, UploadedFile

__all__ = ["Destination", "OpenFile", "StagingFiles", "StoreUploads"]


class OpenFile(Protocol):
    """One file being written.

    Attributes:
        stream: where its bytes go; whoever writes closes it.
    """

    stream: pa.NativeFile

    def finished(self, rows: int) -> Content:
        """Return the file, whose stream is closed and which has so many rows."""
        ...


class Destination(Protocol):
    """Takes the files of one dataset and range, one after the other."""

    def open(self, number: int) -> OpenFile:
        """Begin file ``number``, counted from 1."""
        ...

    def check(self) -> None:
        """Do nothing while there is room for more; raises StagingFull."""
        ...

    def discard(self) -> None:
        """Remove every file, open or finished."""
        ...

    def failures_explained(self) -> AbstractContextManager[None]:
        """Turn what its files raise into TraceErrors."""
        ...


@dataclass
class _LocalFile:
    path: Path
    stream: pa.NativeFile

    def finished(self, rows: int) -> StagedFile:
        return StagedFile(self.path, rows)


@dataclass
class StagingFiles:
    """Files in a staging directory.

    Attributes:
        directory: it exists.
        stem: of the files' names; objects get their own at the commit.
        limits: caps on all of ``directory``.
    """

    directory: Path
    stem: str
    limits: StagingLimits = field(default_factory=StagingLimits)

    def open(self, number: int) -> _LocalFile:
        """Begin file ``number``."""
        suffix = "" if number == 1 else f"_{number:04d}"
        path = self.directory / f"{self.stem}{suffix}.parquet"
        return _LocalFile(path, pa.OSFile(str(path), "wb"))

    def check(self) -> None:
        """Do nothing while the directory is within its limits."""
        self.limits.check(self.directory)

    def discard(self) -> None:
        """Delete every file."""
        for pattern in (f"{self.stem}.parquet", f"{self.stem}_[0-9]*.parquet"):
            for path in self.directory.glob(pattern):
                path.unlink()

    def failures_explained(self) -> AbstractContextManager[None]:
        """Turn a full disk and the like into TraceErrors."""
        return disk_errors_explained(self.directory)


@dataclass
class _Upload:
    upload: ObjectUpload
    stream: pa.NativeFile

    def finished(self, rows: int) -> UploadedFile:
        return UploadedFile(self.upload, rows)


@dataclass
class StoreUploads:
    """Objects of the store without their final names; nothing touches the local disk.

    Attributes:
        store: where to.
        prefix: the dataset version's prefix.
        before_write: called before anything is sent; raises to prevent it.
    """

    store: ObjectStore
    prefix: str
    before_write: Callable[[], None]
    _uploads: list[ObjectUpload] = field(default_factory=list)

    def open(self, number: int) -> _Upload:  # noqa: ARG002 - names are given at the commit
        """Begin the next object."""
        upload = ObjectUpload(self.store, self.prefix, self.before_write)
        self._uploads.append(upload)
        return _Upload(upload, pa.PythonFile(upload, mode="w"))

    def check(self) -> None:
        """Do nothing: the store has no limit."""

    def discard(self) -> None:
        """Remove what was sent."""
        for upload in self._uploads:
            upload.discard()
        self._uploads.clear()

    def failures_explained(self) -> AbstractContextManager[None]:
        """Do nothing: an upload raises TraceErrors itself."""
        return nullcontext()
