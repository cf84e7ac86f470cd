"""``trace quote``."""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, Final

import click
import pyarrow as pa
import pyarrow.parquet as pq

from trace_dagster import metadata
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.cli.native import Asked, ask, asked_options
from trace_dagster.errors import TraceError
from trace_dagster.operators.base import Deadline
from trace_dagster.operators.cryo_ingest.engines import Extraction
from trace_dagster.operators.cryo_ingest.native import NativeEngine
from trace_dagster.operators.cryo_ingest.native.fetch import FetchLimits

__all__ = ["command"]

_SAMPLES: Final = 8
_BLOCKS_PER_SAMPLE: Final = 10
_REQUESTS_OF_A_PARTITION: Final = 2
"""Chain id and head: they do not grow with the blocks."""


@click.command("quote")
@asked_options
def command(
    datasets: Sequence[str], blocks: str, rpc_pool: str, filters: Sequence[str], **options: Any
) -> None:
    """Estimate what DATASETS of a range cost, from a few samples of it, before spending anything.

    Reads up to eight runs of ten blocks, evenly over the range, writes nothing, and says how much the samples
    differ. Parquet of many blocks compresses better than that of ten: the estimate is an upper one. Time is
    that of one process with as many requests in flight as it is allowed.
    """
    try:
        asked = ask(datasets, blocks, rpc_pool, filters, **options)
        samples = [_sample(asked, one) for one in _places(asked.range)]
    except TraceError as error:
        raise click.ClickException(str(error)) from None
    count = asked.range.blocks
    click.echo(
        f"chain {asked.config.chain_id}, {count} blocks; from {len(samples)} samples, smallest to largest:"
    )
    for title, name, unit in (
        ("RPC requests", "requests", ""),
        ("JSON received, decompressed", "received", "B"),
        ("Parquet", "parquet", "B"),
        ("rows", "rows", ""),
        ("time, one partition after another", "seconds", "s"),
    ):
        each = sorted(getattr(one, name) / one.blocks for one in samples)
        middle = median(each) if name == "seconds" else fmean(each)  # the first one also starts things up
        low, middle, high = (_shown(value * count, unit) for value in (each[0], middle, each[-1]))
        click.echo(f"  {title:<36} {middle:>12}   ({low} to {high})")


@dataclass(frozen=True)
class _Sample:
    blocks: int
    requests: int
    received: int
    parquet: int
    rows: int
    seconds: float


@dataclass
class _Measured:
    """A file that is only measured, without its footer, which does not grow with the blocks."""

    stream: pa.NativeFile = field(default_factory=pa.BufferOutputStream)

    def finished(self, rows: int) -> "_Content":
        written = pq.ParquetFile(self.stream.getvalue()).metadata
        chunks = (
            written.row_group(group).column(column)
            for group in range(written.num_row_groups)
            for column in range(written.num_columns)
        )
        return _Content(rows, sum(chunk.total_compressed_size for chunk in chunks))


@dataclass(frozen=True)
class _Content:
    rows: int
    bytes: int

    def measure(self) -> tuple[int, str]:
        return self.bytes, ""

    def put_new(self, store: object, path: str) -> bool:
        raise NotImplementedError(f"{path} is only measured, and not for {store}")


class _Nowhere:
    """A destination that keeps nothing."""

    def open(self, number: int) -> _Measured:  # noqa: ARG002
        return _Measured()

    def check(self) -> None:
        """Do nothing: there is always room."""

    def discard(self) -> None:
        """Do nothing: there is nothing."""

    def failures_explained(self) -> nullcontext[None]:
        return nullcontext()


def _places(whole: BlockRange) -> Iterator[BlockRange]:
    """Yield runs of blocks, evenly over a range; all of it where it is short."""
    if whole.blocks <= _SAMPLES * _BLOCKS_PER_SAMPLE:
        yield whole
        return
    for number in range(_SAMPLES):
        first = whole.start_block + (whole.blocks - _BLOCKS_PER_SAMPLE) * number // (_SAMPLES - 1)
        yield BlockRange.of(first, first + _BLOCKS_PER_SAMPLE - 1)


def _sample(asked: Asked, blocks: BlockRange) -> _Sample:
    config = asked.config
    engine = NativeEngine(FetchLimits(config.max_concurrent_requests, config.max_memory_bytes))
    work = Extraction(
        chain_id=config.chain_id,
        datasets=config.datasets,
        range=blocks,
        staging=None,
        deadline=Deadline.after(None),
        endpoint=asked.endpoint,
        filters=config.filters,
        uploads={dataset: _Nowhere() for dataset in config.datasets},
    )
    begun, busy = time.monotonic(), time.process_time()
    result = engine.extract(work, _silent)
    busy = time.process_time() - busy
    waited = max(0.0, time.monotonic() - begun - busy)
    files = [file for one in result.outputs for file in one.files]
    received = result.metadata[metadata.RECEIVED_BYTES]
    return _Sample(
        blocks=blocks.blocks,
        requests=max(0, (result.rpc_requests or 0) - _REQUESTS_OF_A_PARTITION),
        received=int(str(received)),
        parquet=sum(file.measure()[0] for file in files),
        rows=sum(file.rows for file in files),
        seconds=busy + waited / config.max_concurrent_requests,
    )


def _shown(value: float, unit: str) -> str:
    """Return a number with three digits and its unit."""
    if unit == "s":
        return (
            f"{value / 3600:.3g} h"
            if value >= 3600
            else f"{value / 60:.3g} min"
            if value >= 60
            else f"{value:.3g} s"
        )
    for prefix in ("", "k", "M", "G", "T"):
        if value < 1000:
            return f"{value:.3g} {prefix}{unit}".rstrip()
        value /= 1000
    return f"{value:.3g} P{unit}"


def _silent(message: str, **fields: object) -> None:
    """Report nothing."""
