"""The manifest: what one dataset version holds, and the commit of it."""

import builtins
from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import DataMismatch
from trace_dagster.store.ids import MANIFEST_NAME, DatasetId, canonical_json
from trace_dagster.store.objects import ObjectStore

__all__ = ["Manifest", "ManifestObject", "load_manifest", "read_manifest", "verify"]

_FORMAT: Final = 1


class ManifestObject(BaseModel):
    """One Parquet object of a dataset version.

    Attributes:
        name: its name beside the manifest.
        bytes: its size.
        rows: its rows.
        sha256: of its content, in hex.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int = Field(ge=0)
    rows: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What a dataset version holds. It has no time, host or run id: same input, same bytes.

    Attributes:
        format_version: of this file.
        chain_id: the chain.
        dataset: Cryo's name of the dataset.
        start_block: first block, inclusive.
        end_block: last block, inclusive.
        dataset_version: UUIDv5 of the four above and the config hash.
        config_hash: SHA-256 of everything that changes bytes.
        engine: what made the rows.
        synthetic: whether the rows are made up (the stub engine).
        rows: of all objects.
        bytes: of all objects.
        objects: in the order of their rows.
        schema_fingerprint: SHA-256 of the columns' names, order and types.
        first_block_hash: of ``start_block``, 0x hex, where the engine saw it.
        last_block_hash: of ``end_block``, likewise.
        first_parent_hash: parent hash of ``start_block``, likewise.
        checks: each check's name to ``passed`` or ``not checked: why``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = _FORMAT
    chain_id: int
    dataset: str
    start_block: int
    end_block: int
    dataset_version: str
    config_hash: str
    engine: str
    synthetic: bool
    rows: int
    bytes: int
    objects: tuple[ManifestObject, ...]
    schema_fingerprint: str
    first_block_hash: str | None
    last_block_hash: str | None
    first_parent_hash: str | None
    checks: Mapping[str, str]

    @property
    def id(self) -> DatasetId:
        """The identity of the dataset version."""
        return DatasetId(self.chain_id, self.dataset, self.range, self.config_hash)

    @property
    def range(self) -> BlockRange:
        """The block range, inclusive."""
        return BlockRange(self.start_block, self.end_block)

    @property
    def prefix(self) -> str:
        """Where the objects lie, below the store's root."""
        return self.id.prefix

    @property
    def paths(self) -> tuple[str, ...]:
        """The objects' paths below the store's root."""
        return tuple(f"{self.prefix}/{item.name}" for item in self.objects)

    def to_bytes(self) -> builtins.bytes:
        """Return the manifest as canonical JSON: equal manifests, equal bytes."""
        return canonical_json(self.model_dump(mode="json")) + b"\n"


def read_manifest(store: ObjectStore, id: DatasetId) -> Manifest | None:  # noqa: A002 - the interface's word
    """Return the manifest of a dataset version; None where it is not committed.

    Raises:
        DataMismatch: the manifest cannot be read, or is that of another version.
        StoreUnavailable: the store cannot be reached.
    """
    return load_manifest(store, id.prefix)


def load_manifest(store: ObjectStore, prefix: str) -> Manifest | None:
    """Return the manifest below ``prefix``; None where there is none. Raises as ``read_manifest``."""
    path = f"{prefix}/{MANIFEST_NAME}"
    content = store.get(path)
    if content is None:
        return None
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataMismatch(
            f"{store.url}/{path} is no manifest of format {_FORMAT}: {field}: {first['msg']}; "
            "use the trace-dagster version that wrote it, or delete the prefix and run the partition again"
        ) from None
    if manifest.prefix != prefix:
        raise DataMismatch(
            f"{store.url}/{path} is the manifest of {manifest.prefix}; "
            "delete the prefix and run the partition again"
        )
    return manifest


def verify(store: ObjectStore, manifest: Manifest) -> None:
    """Check that every object of a manifest is there with the right size; content is not read.

    Raises:
        DataMismatch: objects are missing or have other sizes; names them.
        StoreUnavailable: the store cannot be reached.
    """
    sizes = {item.path: item.bytes for item in store.walk(manifest.prefix)}
    wrong = [
        f"{item.name} has {sizes[path]} bytes instead of {item.bytes}"
        if path in sizes
        else f"{item.name} ({item.bytes} bytes) is missing"
        for item, path in zip(manifest.objects, manifest.paths, strict=True)
        if sizes.get(path) != item.bytes
    ]
    if wrong:
        raise DataMismatch(
            f"{store.url}/{manifest.prefix} is committed, but {'; '.join(wrong[:5])}"
            f"{f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''}; something else changed the store: "
            "put the objects back, or run the partition again with force (it restores missing objects)"
        )
