"""Object store: layout, manifest, commit, readers. Everything public is here."""

from trace_dagster.store.gc import Garbage, collect_garbage, find_garbage, remove_garbage
from trace_dagster.store.ids import JSON, DatasetId, canonical_json, config_hash
from trace_dagster.store.manifest import Manifest, ManifestObject, load_manifest, read_manifest, verify
from trace_dagster.store.objects import ObjectStore, open_store
from trace_dagster.store.publish import (
    Published,
    StagedDataset,
    StagedFile,
    commit_manifest,
    publish,
    put_objects,
)
from trace_dagster.store.readers import duckdb_urls, pyarrow_dataset, scan_polars
from trace_dagster.store.resolve import Piece, resolve

__all__ = [
    "JSON",
    "DatasetId",
    "Garbage",
    "Manifest",
    "ManifestObject",
    "ObjectStore",
    "Piece",
    "Published",
    "StagedDataset",
    "StagedFile",
    "canonical_json",
    "collect_garbage",
    "commit_manifest",
    "config_hash",
    "duckdb_urls",
    "find_garbage",
    "load_manifest",
    "open_store",
    "publish",
    "put_objects",
    "pyarrow_dataset",
    "read_manifest",
    "remove_garbage",
    "resolve",
    "scan_polars",
    "verify",
]
