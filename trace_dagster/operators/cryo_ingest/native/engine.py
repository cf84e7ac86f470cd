"""From a block range to Parquet in the object store, every row checked on the way."""

import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import cache
from typing import Final

import pyarrow as pa

from trace_dagster import metadata
from trace_dagster.chain.datasets import NATIVE_DATASETS, listed
from trace_dagster.chain.decoding.choose import choose_decoder
from trace_dagster.chain.profiles import profile_of
from trace_dagster.chain.schemas import schema_of
from trace_dagster.chain.verification import PASSED
from trace_dagster.errors import ConfigurationError
from trace_dagster.operators.base import MetadataValue, Progress
from trace_dagster.operators.cryo_ingest.chain_reader import check_endpoint
from trace_dagster.operators.cryo_ingest.engines import Extracted, Extraction, ExtractionResult, RangeFacts
from trace_dagster.operators.cryo_ingest.native.fetch import Fetcher, FetchLimits
from trace_dagster.operators.cryo_ingest.native.making import Made, Wanted
from trace_dagster.operators.cryo_ingest.native.plan import FetchPlan, plan_of
from trace_dagster.operators.cryo_ingest.throttle import Throttled
from trace_dagster.operators.cryo_ingest.writer import DatasetWriter
from trace_dagster.rpc import JsonRpcClient
from trace_dagster.settings import RpcEndpoint

__all__ = ["NativeEngine"]

_OF_RECEIPTS: Final = ("receipts_match_transactions", "gas")
_OF_LOGS: Final = ("logs_match_transactions", "log_index", "logs_bloom", "logs_bloom_announces_all")
_OF_TRACES: Final = ("outermost_calls", "trace_tree")
_OF_CALLS: Final = ("outermost_calls", "frames_match_transactions")


class NativeEngine:
    """Asks an endpoint itself, and writes while it asks.

    Args:
        limits: how much at once.

    Attributes:
        name: ``native``.
        format_version: raised whenever the same chain may give other bytes.
        synthetic: never.
        needs_endpoint: always.
        streams: always; nothing touches the local disk.
    """

    name = "native"
    format_version = 2
    synthetic = False
    needs_endpoint = True
    streams = True

    def __init__(self, limits: FetchLimits | None = None) -> None:
        self._limits = limits or FetchLimits()

    def extract(self, work: Extraction, progress: Progress) -> ExtractionResult:
        """Extract ``work.range``; nothing is returned that disagrees with itself.

        Raises:
            ConfigurationError: a dataset is not one of ``NATIVE_DATASETS``, or there is no endpoint.
            WrongChain: the endpoint serves another chain than ``work.chain_id``.
            DataMismatch: its answers disagree with each other, also when asked again.
            DeadlineExceeded: ``work.deadline`` has passed.
            EngineFailed: the range ends beyond the head, or the endpoint lacks a method.
            RpcError: the endpoint does not answer as it should.
        """
        endpoint = _check_work(work)
        _use_jemalloc()
        with JsonRpcClient(endpoint, deadline=work.deadline) as first:
            check_endpoint(first, work.chain_id, work.range, endpoint.pool)
            begun = first.requests
        wanted = Wanted(
            chain_id=work.chain_id,
            profile=profile_of(work.chain_id),
            datasets=work.datasets,
            filters=work.filters,
            plan=plan_of(work.datasets, work.filters),
            range=work.range,
        )
        decoder = choose_decoder()
        with ExitStack() as stack:
            writers = {dataset: stack.enter_context(_writer(work, dataset)) for dataset in work.datasets}
            with Fetcher(endpoint, wanted, decoder, self._limits, work.deadline) as fetcher:
                tally = _write(work, fetcher, writers, Throttled(progress))
            outputs = tuple(
                Extracted(
                    dataset,
                    writer.finish(),
                    writer.schema,
                    tally.facts,
                    tally.checks_of(dataset, wanted.plan),
                )
                for dataset, writer in writers.items()
            )
        told: dict[str, MetadataValue] = {
            metadata.DECODER: decoder.name,
            metadata.HTTP_REQUESTS: fetcher.counts.exchanges,
            metadata.RECEIVED_BYTES: fetcher.counts.received_bytes,
            metadata.CHAIN_PROFILE: wanted.profile.name,
        }
        if fetcher.abilities.fallbacks:
            told[metadata.FALLBACKS] = dict(fetcher.abilities.fallbacks)
        if fetcher.counts.repeated:
            told[metadata.REPEATED] = dict(fetcher.counts.repeated)
        if tally.extras:
            told[metadata.UNMODELLED] = dict(tally.extras)
        return ExtractionResult(outputs, begun + fetcher.counts.requests, told)


class _Tally:
    """What is known of the blocks written so far."""

    def __init__(self) -> None:
        self.extras: dict[str, int] = {}
        self._first: Made | None = None
        self._last: Made | None = None
        self._checks: dict[str, str] = {}

    def add(self, made: Made) -> None:
        """Note the next blocks."""
        self._first, self._last = self._first or made, made
        for name, outcome in made.checks.items():
            if self._checks.get(name, PASSED) == PASSED:
                self._checks[name] = outcome
        for dataset, count in made.extras.items():
            self.extras[dataset] = self.extras.get(dataset, 0) + count

    @property
    def facts(self) -> RangeFacts:
        """Hashes at the ends."""
        if self._first is None or self._last is None:
            return RangeFacts()
        return RangeFacts(
            first_block_hash=f"0x{self._first.first_hash.hex()}",
            last_block_hash=f"0x{self._last.last_hash.hex()}",
            first_parent_hash=f"0x{self._first.first_parent_hash.hex()}",
        )

    def checks_of(self, dataset: str, plan: FetchPlan) -> Mapping[str, str]:
        """Return the checks that vouch for a dataset; the same whatever the endpoint could not do."""
        names: tuple[str, ...] = ("headers", "parent_links")
        if dataset == "withdrawals":
            names += ("withdrawals_root",)
        elif dataset != "blocks":
            names += ("empty_lists",)
        if dataset in ("transactions", "receipts"):
            names += _OF_RECEIPTS
        elif dataset in ("logs", "erc20_transfers", "erc721_transfers"):
            names += _OF_LOGS + (_OF_RECEIPTS if plan.receipts else ("completeness",))
        elif dataset in ("traces", "contracts", "native_transfers"):
            names += _OF_TRACES
        elif dataset == "calls":
            names += _OF_CALLS
        return {name: self._checks[name] for name in names if name in self._checks}


@cache
def _use_jemalloc() -> None:
    """Take Arrow's memory from jemalloc where it is built in: the default takes fresh pages more often."""
    with suppress(NotImplementedError):
        pa.set_memory_pool(pa.jemalloc_memory_pool())


def _check_work(work: Extraction) -> RpcEndpoint:
    if work.endpoint is None:
        raise ConfigurationError("engine native needs an endpoint; write rpc_pool into the job's config")
    unknown = [dataset for dataset in work.datasets if dataset not in NATIVE_DATASETS]
    if unknown:
        raise ConfigurationError(
            f"engine native has no dataset {listed(unknown)}; it has {listed(NATIVE_DATASETS, 20)}: "
            "write engine: cryo for others, in a job of their own"
        )
    return work.endpoint


def _writer(work: Extraction, dataset: str) -> DatasetWriter:
    schema = schema_of(dataset)
    if schema is None:
        raise ConfigurationError(f"engine native has no schema of {dataset}")
    return DatasetWriter(
        destination=work.files_of(dataset),
        dataset=dataset,
        range=work.range,
        schema=schema,
        deadline=work.deadline,
    )


def _write(
    work: Extraction, fetcher: Fetcher, writers: Mapping[str, DatasetWriter], progress: Progress
) -> _Tally:
    tally, begun = _Tally(), time.monotonic()
    told = False
    for made in fetcher:
        tally.add(made)
        if not told and fetcher.all_fetched:
            told = True
            work.fetched()
        for dataset, table in made.tables.items():
            writers[dataset].write(table)
        done = made.range.end_block - work.range.start_block + 1
        seconds = max(0.001, time.monotonic() - begun)
        progress(
            "Fetched, checked and written",
            blocks=done,
            of=work.range.blocks,
            blocks_per_second=round(done / seconds, 1),
            megabytes_per_second=round(fetcher.counts.received_bytes / seconds / 1e6, 2),
            requests=fetcher.counts.requests,
            repeated=sum(fetcher.counts.repeated.values()),
            eta_seconds=round((work.range.blocks - done) * seconds / done),
        )
    return tally
