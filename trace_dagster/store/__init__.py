"""Object store: layout, manifest, commit, readers. Everything public is here."""

from trace_dagster.store.gc import Garbage, collect_garbage, find_garbage, remove_garbage
from trace_dagster.store.ids import JSON, DatasetId, canonical_json, config_hash
from trace_dagster.store.manifest import Manifest, ManifestObject, load_manifest, read_manifest, verify
from trace_dagster.store.objects import ObjectStore, open_store
from trace_dagster.store.publish import (
    Content,
    Published,
    StagedDataset,
    StagedFile,
    UploadedFile,
    commit_manifest,
    publish,
    put_objects,
)
from trace_dagster.store.readers import duckdb_urls, pyarrow_dataset, scan_polars
from trace_dagster.store.resolve import Piece, resolve
from trace_dagster.store.upload import ObjectUpload

__all__ = [
    "JSON",
    "Content",
    "DatasetId",
    "Garbage",
    "Manifest",
    "ManifestObject",
    "ObjectStore",
    "ObjectUpload",
    "Piece",
    "Published",
    "StagedDataset",
    "StagedFile",
    "UploadedFile",
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
