"""What a committed dataset version tells Dagster."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trace_dagster import metadata
from trace_dagster.operators.base import MetadataValue, OutputResult
from trace_dagster.store import Manifest

if TYPE_CHECKING:
    from trace_dagster.operators.services import Services

__all__ = ["Figures", "kept", "made"]


@dataclass(frozen=True)
class Figures:
    """What an attempt took, beside what it committed.

    Attributes:
        seconds: wall time.
        rpc_requests: JSON-RPC requests of all the partition's datasets; None where it is not known.
        attempt: number of the attempt, from 1.
        unjoined: ranges beside the partition that are of a branch which it replaces.
        told: what else the engine tells.
        rpc_credits: what its requests cost at the providers; None where no gateway tells.
    """

    seconds: float
    rpc_requests: int | None
    attempt: int
    unjoined: tuple[str, ...]
    told: Mapping[str, MetadataValue] = field(default_factory=dict)
    rpc_credits: float | None = None


def kept(manifest: Manifest, services: "Services") -> OutputResult:
    """Return the result of a version that was committed before."""
    facts = {**_facts(manifest, services), metadata.ALREADY_COMMITTED: True}
    return OutputResult(manifest.dataset, manifest.dataset_version, facts)


def made(manifest: Manifest, services: "Services", figures: Figures) -> OutputResult:
    """Return the result of a version that this attempt committed."""
    facts = {
        **_facts(manifest, services),
        **figures.told,
        metadata.ALREADY_COMMITTED: False,
        metadata.ATTEMPT: figures.attempt,
        metadata.BLOCKS_PER_SECOND: round(manifest.range.blocks / max(figures.seconds, 1e-9), 3),
    }
    if figures.rpc_requests is not None:
        facts[metadata.RPC_REQUESTS] = figures.rpc_requests
    if figures.rpc_credits is not None:
        facts[metadata.RPC_CREDITS] = figures.rpc_credits
    if figures.unjoined:
        facts[metadata.UNJOINED] = ", ".join(figures.unjoined)
    return OutputResult(manifest.dataset, manifest.dataset_version, facts)


def _facts(manifest: Manifest, services: "Services") -> dict[str, MetadataValue]:
    facts: dict[str, MetadataValue] = {
        metadata.RANGE: manifest.range.key,
        metadata.BLOCKS: manifest.range.blocks,
        metadata.ROWS: manifest.rows,
        metadata.BYTES: manifest.bytes,
        metadata.OBJECTS: len(manifest.objects),
        metadata.DATASET_VERSION: manifest.dataset_version,
        metadata.STORAGE_PREFIX: f"{services.store.url}/{manifest.prefix}",
        metadata.ENGINE: manifest.engine,
        metadata.SYNTHETIC: manifest.synthetic,
        metadata.CHECKS: dict(manifest.checks),
    }
    if manifest.first_block_hash is not None and manifest.last_block_hash is not None:
        facts[metadata.FIRST_BLOCK_HASH] = manifest.first_block_hash
        facts[metadata.LAST_BLOCK_HASH] = manifest.last_block_hash
    return facts
