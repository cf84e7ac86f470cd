"""Commit and load versioned Parquet: the ``replace`` update strategy on the object store."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import dagster as dg

from trace_dagster import metadata
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import ConfigurationError
from trace_dagster.ledger import Attempt, CommittedDataset, Ledger
from trace_dagster.store import (
    DatasetId,
    Manifest,
    ObjectStore,
    Published,
    StagedDataset,
    commit_manifest,
    load_manifest,
    put_objects,
    read_manifest,
    scan_polars,
    verify,
)

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ReplaceIOManager"]


class ReplaceIOManager(dg.IOManager):
    """Dataset versions in the object store, with the ledger saying which is current.

    Operators call ``committed`` and ``commit``. As a Dagster IO manager it gives downstream Python assets
    a polars LazyFrame of the partitions they ask for.
    """

    def __init__(self, store: ObjectStore, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger

    def committed(self, id: DatasetId) -> Manifest | None:  # noqa: A002 - the interface's word
        """Return the manifest of a committed version, checked against its objects, as the current version.

        A version that is asked for again becomes the current one of its range, although another was
        committed since (a config that was changed and changed back), or the ledger has never heard of it
        (a crash between the manifest and the ledger). None where it is not committed.

        Raises:
            DataMismatch: its objects are not what its manifest says.
            LedgerUnavailable: Postgres cannot be reached, or refuses.
            StoreUnavailable: the store cannot be reached, or refuses.
        """
        manifest = read_manifest(self._store, id)
        if manifest is not None:
            verify(self._store, manifest)
            self._ledger.touch_current(self._committed_dataset(manifest))
        return manifest

    def commit(
        self, attempt: Attempt, staged: StagedDataset, check: Callable[[], None] = lambda: None
    ) -> Published:
        """Commit a staged dataset version: objects, then the manifest and the ledger's row behind the fence.

        Idempotent. Where it fails, nothing of the version is visible, or all of it; the next attempt finds
        out which.

        Args:
            attempt: the lease.
            staged: what to commit.
            check: called right before the manifest is written, while no range that meets this one can commit.

        Raises:
            AttemptLost: another attempt has taken over, or the lease ran out.
            CommitConflict: other content is committed under the same version.
            LedgerUnavailable: Postgres cannot be reached, or refuses.
            StoreUnavailable: the store cannot be reached, or refuses.
        """
        attempt.announce(self._store.url, [staged.id.prefix])
        manifest = put_objects(self._store, staged, attempt.still_mine)
        one = staged.id
        with attempt.fenced() as fence:
            fence.hold_edges(self._store.url, one.chain_id, one.dataset, one.range)
            check()
            published = commit_manifest(self._store, manifest)
            fence.record(self._committed_dataset(published.manifest))
        return published

    def neighbours(self, id: DatasetId, *, synthetic: bool) -> tuple[str, ...]:  # noqa: A002
        """Return the prefixes of the newest versions right before and right behind a range, if committed.

        Raises:
            LedgerUnavailable: Postgres cannot be reached, or refuses.
        """
        return self._ledger.neighbours(
            self._store.url, id.chain_id, id.dataset, id.range, synthetic=synthetic
        )

    def manifest(self, prefix: str) -> Manifest | None:
        """Return the manifest at a version's prefix, if there is one. Raises as ``committed``."""
        return load_manifest(self._store, prefix)

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Do nothing for None: the operator has committed its outputs itself.

        Raises:
            ConfigurationError: an asset returned a value.
        """
        if obj is not None:
            raise ConfigurationError(
                f"{context.asset_key.to_user_string()} returned {type(obj).__name__}, which this IO manager "
                "does not store: only operators write here; give the asset another io_manager_key"
            )

    def load_input(self, context: dg.InputContext) -> "pl.LazyFrame":
        """Return the rows of the partitions asked for, in block order; of every committed range without.

        Made-up rows are given only where the upstream asset is declared made up, and the store is local.

        Raises:
            DataMismatch: blocks of a partition are not committed.
            ConfigurationError: the upstream asset is none of this project's.
        """
        import polars as pl  # noqa: PLC0415 - slow to import, and operators do without

        facts = context.upstream_output.definition_metadata if context.upstream_output else {}
        try:
            chain_id, dataset = int(facts[metadata.CHAIN_ID]), str(facts[metadata.DATASET])
        except KeyError as missing:
            raise ConfigurationError(
                f"{context.asset_key.to_user_string()} has no {missing} in its metadata, so it is no dataset "
                "in the object store; load it with another io_manager_key"
            ) from None
        is_synthetic = bool(facts.get(metadata.SYNTHETIC))
        ranges: list[BlockRange | None] = [None]
        if context.has_asset_partitions:
            ranges = list(_merged(BlockRange.parse(key) for key in context.asset_partition_keys))
        order = self._ledger.current(self._store.url, chain_id, dataset)
        frames = [
            scan_polars(
                self._store,
                chain_id,
                dataset,
                one.start_block if one else None,
                one.end_block if one else None,
                order=order,
                synthetic="allow" if is_synthetic and self._store.is_local else "refuse",
            )
            for one in ranges
        ]
        return pl.concat(frames, how="diagonal") if len(frames) > 1 else frames[0]

    def _committed_dataset(self, manifest: Manifest) -> CommittedDataset:
        return CommittedDataset(
            storage_root=self._store.url,
            chain_id=manifest.chain_id,
            dataset=manifest.dataset,
            range=manifest.range,
            dataset_version=manifest.dataset_version,
            config_hash=manifest.config_hash,
            prefix=manifest.prefix,
            rows=manifest.rows,
            bytes=manifest.bytes,
            engine=manifest.engine,
            synthetic=manifest.synthetic,
        )


def _merged(ranges: Iterable[BlockRange]) -> Iterable[BlockRange]:
    """Join ranges that touch, in block order."""
    joined: BlockRange | None = None
    for one in sorted(ranges):
        if joined is not None and one.start_block <= joined.end_block + 1:
            joined = BlockRange(joined.start_block, max(joined.end_block, one.end_block))
            continue
        if joined is not None:
            yield joined
        joined = one
    if joined is not None:
        yield joined
