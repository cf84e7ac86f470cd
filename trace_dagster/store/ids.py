"""Identity of a dataset version: the same input always has the same version and the same place."""

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from trace_dagster.chain.ranges import BlockRange

__all__ = ["MANIFEST_NAME", "DatasetId", "ObjectPath", "canonical_json", "config_hash", "dataset_prefix"]

JSON = None | bool | int | float | str | list["JSON"] | tuple["JSON", ...] | Mapping[str, "JSON"]

MANIFEST_NAME: Final = "_manifest.json"

# The fixed namespace of dataset versions: UUIDv5 of "trace-dagster/dataset_version" in the OID namespace.
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_OID, "trace-dagster/dataset_version")
_DATASET = re.compile(r"[a-z][a-z0-9_]*")
_PATH = re.compile(r"cryo/(\d+)/([a-z][a-z0-9_]*)/(\d+_\d+)/([0-9a-f-]{36})/([^/]+)")


def canonical_json(value: JSON) -> bytes:
    """Return ``value`` as JSON with sorted keys, no spaces and ASCII only: equal values, equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def config_hash(facts: Mapping[str, JSON]) -> str:
    """Return the SHA-256, in hex, of everything that changes the bytes of a dataset.

    Args:
        facts: engine kind and format version, columns, filters, writer settings. Never pool names,
            concurrency, time-outs or credentials: they do not change bytes.
    """
    return hashlib.sha256(canonical_json(facts)).hexdigest()


def dataset_prefix(chain_id: int, dataset: str) -> str:
    """Return where all ranges of a dataset lie, below the store's root."""
    return f"cryo/{chain_id}/{dataset}"


@dataclass(frozen=True)
class DatasetId:
    """One version of one block range of one dataset.

    Attributes:
        chain_id: the chain.
        dataset: Cryo's name of the dataset, e.g. ``blocks``.
        range: the block range, inclusive.
        config_hash: what ``config_hash`` gave.
    """

    chain_id: int
    dataset: str
    range: BlockRange
    config_hash: str

    def __post_init__(self) -> None:
        """Refuse what would make a bad path.

        Raises:
            ValueError: the dataset's name cannot be part of a path.
        """
        if not _DATASET.fullmatch(self.dataset):
            raise ValueError(f"{self.dataset!r} is no dataset name; lower-case letters, digits and _ only")

    @property
    def version(self) -> str:
        """The dataset version: UUIDv5 of the identity's canonical JSON."""
        identity: dict[str, JSON] = {
            "chain_id": self.chain_id,
            "dataset": self.dataset,
            "start_block": self.range.start_block,
            "end_block": self.range.end_block,
            "config_hash": self.config_hash,
        }
        return str(uuid.uuid5(_NAMESPACE, canonical_json(identity).decode()))

    @property
    def prefix(self) -> str:
        """Where the objects and the manifest lie, below the store's root, without a slash at the end."""
        return f"{dataset_prefix(self.chain_id, self.dataset)}/{self.range.key}/{self.version}"

    def object_names(self, count: int) -> tuple[str, ...]:
        """Return the names of ``count`` Parquet objects: numbered from 0001 where there are several."""
        stem = f"{self.dataset}_{self.range.key}"
        if count == 1:
            return (f"{stem}.parquet",)
        return tuple(f"{stem}_{number:04d}.parquet" for number in range(1, count + 1))


@dataclass(frozen=True)
class ObjectPath:
    """What the path of an object below the store's root says about it.

    Attributes:
        prefix: the dataset version's prefix.
        dataset: the dataset.
        range: the block range, inclusive.
        version: the dataset version.
        name: the object's own name.
    """

    prefix: str
    dataset: str
    range: BlockRange
    version: str
    name: str

    @classmethod
    def parse(cls, path: str) -> Self | None:
        """Read ``path``; None where it is none of this project's objects."""
        match = _PATH.fullmatch(path)
        if match is None:
            return None
        try:
            block_range = BlockRange.parse(match[3])
        except ValueError:
            return None
        return cls(path.rpartition("/")[0], match[2], block_range, match[4], match[5])
