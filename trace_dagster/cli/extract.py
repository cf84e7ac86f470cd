"""``trace extract``."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trace_dagster import metadata
from trace_dagster.cli.native import Asked, ask, asked_options
from trace_dagster.errors import TraceError
from trace_dagster.operators.base import MetadataValue
from trace_dagster.operators.cryo_ingest.native.standalone import StandaloneExtraction
from trace_dagster.store import ObjectStore, open_store

__all__ = ["command"]


@click.command("extract")
@asked_options
@click.option("--out", required=True, metavar="DIR|s3://...", help="Object store to write to.")
@click.option(
    "--chunk-size", type=click.IntRange(min=1), default=1000, show_default=True, help="Blocks of a partition."
)
def command(
    datasets: Sequence[str], blocks: str, rpc_pool: str, filters: Sequence[str], **options: Any
) -> None:
    """Extract DATASETS with the engine native, without Dagster.

    Rows, objects, versions and manifests are those of a DAG's job of the same chain, datasets, chunks and
    filters. A second run keeps what is committed. Not for a store that Dagster writes to at the same time:
    there is no ledger here.
    """
    console = Console(stderr=True, highlight=False)
    try:
        asked = ask(
            datasets, blocks, rpc_pool, filters, max_concurrent_requests=options["max_concurrent_requests"]
        )
        _extract(asked, _open(options["out"]), options["chunk_size"], console)
    except TraceError as error:
        raise click.ClickException(str(error)) from None


def _open(out: str) -> ObjectStore:
    if not out:
        raise click.BadParameter("name a folder or s3://bucket/prefix", param_hint="--out")
    url = out if "://" in out else Path(out).absolute().as_uri()
    return open_store(url, os.environ, setting="--out")


def _extract(asked: Asked, store: ObjectStore, chunk_size: int, console: Console) -> None:
    work = StandaloneExtraction(asked.config, asked.range, chunk_size, asked.endpoint, store)
    rows = size = requests = kept = 0
    notes = _Notes()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("blocks", total=asked.range.blocks, told="")
        done = 0

        def report(message: str, **fields: object) -> None:  # noqa: ARG001
            told = f"{fields.get('blocks_per_second')} blocks/s, {fields.get('megabytes_per_second')} MB/s"
            repeated = fields.get("repeated")
            bar.update(
                task,
                completed=done + int(str(fields.get("blocks", 0))),
                told=f"{told}, {repeated} asked for again" if repeated else told,
            )

        for chunk in work.run(report):
            done += chunk.range.blocks
            bar.update(task, completed=done)
            rows += sum(manifest.rows for manifest in chunk.manifests.values())
            size += sum(manifest.bytes for manifest in chunk.manifests.values())
            if chunk.result is None:
                kept += 1
            else:
                requests += chunk.result.rpc_requests or 0
                notes.add(chunk.result.metadata)
    chunks = -(-asked.range.blocks // chunk_size)
    click.echo(
        f"chain {asked.config.chain_id}, blocks {asked.range.start_block} to {asked.range.end_block}: "
        f"{rows} rows, {size} bytes of Parquet in {store.url}/cryo/{asked.config.chain_id}; "
        f"{requests} RPC requests; {kept} of {chunks} chunks were committed before"
    )
    for line in notes.lines():
        click.echo(line)


class _Notes:
    """What the engine tells of its chunks beside rows: fallbacks, repeats, fields that no column holds."""

    def __init__(self) -> None:
        self._fallbacks: dict[str, str] = {}
        self._counts: dict[str, Counter[str]] = {
            metadata.REPEATED: Counter(),
            metadata.UNMODELLED: Counter(),
        }

    def add(self, told: Mapping[str, MetadataValue]) -> None:
        """Add up a chunk's."""
        fallbacks = told.get(metadata.FALLBACKS)
        if isinstance(fallbacks, Mapping):
            self._fallbacks |= fallbacks
        for key, counter in self._counts.items():
            counts = told.get(key)
            if isinstance(counts, Mapping):
                counter.update(counts)

    def lines(self) -> Iterator[str]:
        """Yield what there is to say."""
        for method, instead in self._fallbacks.items():
            yield f"the endpoint limits or lacks {method}: {instead} instead"
        for kind, count in self._counts[metadata.REPEATED].items():
            yield f"asked again {count} times after {kind}"
        for dataset, count in self._counts[metadata.UNMODELLED].items():
            yield f"{dataset}: {count} rows or items have fields that no column holds, kept in extra"
