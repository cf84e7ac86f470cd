"""One object streamed into the store, without local disk: nobody sees it before it is placed under its name.

What fits into one part stays in memory until then. Anything larger goes, as a multipart upload, to a name of
its own beside the final one, which no manifest lists and ``trace gc`` removes; placing it is a rename inside
the store that never overwrites.
"""

import hashlib
import uuid
from collections.abc import Callable
from typing import Final

from trace_dagster.store.objects import ObjectStore, StoreWriter

__all__ = ["PART_BYTES", "ObjectUpload"]

PART_BYTES: Final = 8 * 2**20
"""Bytes of a part, and most bytes kept in memory; S3 takes parts of 5 MiB and more."""


class ObjectUpload:
    """A writable file whose content becomes one object; for one thread at a time.

    Args:
        store: where to.
        prefix: folder of the temporary name, below the store's root.
        before_write: called before anything is sent; raises to prevent it.
        part_bytes: see ``PART_BYTES``.

    Attributes:
        bytes: written so far.
        closed: whether the content is complete.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        before_write: Callable[[], None],
        *,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self.bytes = 0
        self.closed = False
        self._store, self._before_write, self._part_bytes = store, before_write, part_bytes
        self._path = f"{prefix}/upload-{uuid.uuid4().hex}.parquet"
        self._digest = hashlib.sha256()
        self._kept: list[bytes] = []
        self._writer: StoreWriter | None = None
        self._is_stored = False

    @property
    def sha256(self) -> str:
        """SHA-256, in hex, of what was written so far."""
        return self._digest.hexdigest()

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self.bytes

    def flush(self) -> None:
        """Do nothing: parts are sent as they fill."""

    def write(self, data: bytes) -> int:
        """Add ``data``.

        Raises:
            StoreUnavailable: the store cannot be reached, or refuses.
        """
        data = bytes(data)
        self._digest.update(data)
        self.bytes += len(data)
        if self._writer is not None:
            self._writer.write(data)
            return len(data)
        self._kept.append(data)
        if self.bytes > self._part_bytes:
            self._before_write()
            self._writer = self._store.open_writer(self._path, self._part_bytes)
            for piece in self._kept:
                self._writer.write(piece)
            self._kept.clear()
        return len(data)

    def close(self) -> None:
        """End the content. Raises as ``write``."""
        if self.closed:
            return
        self.closed = True
        if self._writer is not None:
            self._before_write()
            self._writer.close()
            self._writer, self._is_stored = None, True

    def put_new(self, path: str) -> bool:
        """Make the object visible at ``path``; return False, and keep it, where something is there already.

        Raises:
            StoreUnavailable: the store cannot be reached, or refuses.
        """
        if self._is_stored:
            placed = self._store.rename_new(self._path, path)
            self._is_stored = not placed
            return placed
        return self._store.put_new(path, b"".join(self._kept))

    def discard(self) -> None:
        """Forget the content, and what of it lies in the store under the temporary name."""
        self._kept.clear()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()
        if self._is_stored:
            self._store.delete([self._path])
            self._is_stored = False
