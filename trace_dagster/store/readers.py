"""Read committed rows with polars, pyarrow or DuckDB; arguments as of ``trace_dagster.store.resolve``."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trace_dagster.errors import DataMismatch
from trace_dagster.store.objects import ObjectStore
from trace_dagster.store.resolve import Gaps, Piece, Synthetic, resolve

if TYPE_CHECKING:
    import polars as pl
    import pyarrow.dataset as pads

__all__ = ["duckdb_urls", "pyarrow_dataset", "scan_polars"]


def scan_polars(
    store: ObjectStore,
    chain_id: int,
    dataset: str,
    start_block: int | None = None,
    end_block: int | None = None,
    *,
    order: Mapping[str, int] | None = None,
    synthetic: Synthetic = "refuse",
    gaps: Gaps = "refuse",
) -> "pl.LazyFrame":
    """Return the rows as a polars LazyFrame, in block order.

    Columns that only some versions have are null in the others. Raises as ``resolve``, and DataMismatch
    where nothing is committed.
    """
    import polars as pl  # noqa: PLC0415 - slow to import

    pieces = resolve(
        store, chain_id, dataset, start_block, end_block, order=order, synthetic=synthetic, gaps=gaps
    )
    _refuse_nothing(pieces, store, chain_id, dataset)
    options = _polars_options(store)
    frames = []
    for whole, group in _runs(pieces):
        urls = [url for piece in group for url in piece.urls]
        frame = pl.scan_parquet(urls, storage_options=options, glob=False)
        if not whole:
            keep = group[0].keep
            frame = frame.filter(pl.col("block_number").is_between(keep.start_block, keep.end_block))
        frames.append(frame)
    return frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal")


def pyarrow_dataset(
    store: ObjectStore,
    chain_id: int,
    dataset: str,
    start_block: int | None = None,
    end_block: int | None = None,
    *,
    order: Mapping[str, int] | None = None,
    synthetic: Synthetic = "refuse",
    gaps: Gaps = "refuse",
) -> "pads.Dataset":
    """Return the rows as a pyarrow dataset, in block order. Raises as ``duckdb_urls``."""
    import pyarrow.dataset as pads  # noqa: PLC0415 - slow to import

    urls = duckdb_urls(
        store, chain_id, dataset, start_block, end_block, order=order, synthetic=synthetic, gaps=gaps
    )
    paths = [url.removeprefix("s3://") for url in urls]
    return pads.dataset(paths, format="parquet", filesystem=_pyarrow_filesystem(store))


def duckdb_urls(
    store: ObjectStore,
    chain_id: int,
    dataset: str,
    start_block: int | None = None,
    end_block: int | None = None,
    *,
    order: Mapping[str, int] | None = None,
    synthetic: Synthetic = "refuse",
    gaps: Gaps = "refuse",
) -> list[str]:
    """Return the Parquet objects' paths or s3:// URLs, in block order, for ``read_parquet([...])``.

    Raises as ``resolve``, and DataMismatch where nothing is committed, or where only some blocks of an object
    are wanted, which a list of URLs cannot say.
    """
    pieces = resolve(
        store, chain_id, dataset, start_block, end_block, order=order, synthetic=synthetic, gaps=gaps
    )
    _refuse_nothing(pieces, store, chain_id, dataset)
    for piece in pieces:
        if piece.trimmed:
            raise DataMismatch(
                f"only blocks {piece.keep.key} of {store.url}/{piece.prefix} are to be read, which a list of "
                "objects cannot say; read with scan_polars, or materialize whole ranges with one config"
            )
    return [url for piece in pieces for url in piece.urls]


def _runs(pieces: Sequence[Piece]) -> list[tuple[bool, list[Piece]]]:
    """Group pieces that one scan can read: whole ones of one schema, one after another; others alone."""
    runs: list[tuple[bool, list[Piece]]] = []
    for piece in pieces:
        whole = not piece.trimmed
        last = runs[-1] if runs else None
        if last and whole and last[0] and _schema_of(last[1][0]) == _schema_of(piece):
            last[1].append(piece)
        else:
            runs.append((whole, [piece]))
    return runs


def _schema_of(piece: Piece) -> str:
    return piece.manifest.schema_fingerprint


def _refuse_nothing(pieces: Sequence[Piece], store: ObjectStore, chain_id: int, dataset: str) -> None:
    if not pieces:
        raise DataMismatch(
            f"{store.url} holds nothing committed of {dataset} of chain {chain_id} there; materialize it "
            "first, or correct the chain, the dataset or the blocks"
        )


def _polars_options(store: ObjectStore) -> dict[str, str] | None:
    access = store.s3
    if access is None:
        return None
    options = {
        "aws_region": access.region,
        "aws_endpoint_url": access.endpoint,
        "aws_allow_http": "true" if (access.endpoint or "").startswith("http://") else None,
        "aws_access_key_id": access.key_id,
        "aws_secret_access_key": access.secret,
        "aws_session_token": access.token,
    }
    return {name: value for name, value in options.items() if value}


def _pyarrow_filesystem(store: ObjectStore) -> Any:
    from pyarrow import fs  # noqa: PLC0415

    access = store.s3
    if access is None:
        return fs.LocalFileSystem()
    options: dict[str, Any] = {"region": access.region, "allow_bucket_creation": False}
    if access.key_id and access.secret:
        options |= {
            "access_key": access.key_id,
            "secret_key": access.secret,
            "session_token": access.token,
        }
    if access.endpoint:
        scheme, _, host = access.endpoint.partition("://")
        options |= {"endpoint_override": host.rstrip("/"), "scheme": scheme}
    return fs.S3FileSystem(**options)
