"""Checks what an engine extracted against the chain itself, run of blocks by run of blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from trace_dagster.chain.checks import (
    check_blocks,
    check_logs,
    check_logs_alone,
    check_membership,
    check_traces,
    check_transactions,
    check_transactions_alone,
    with_unknown_status,
)
from trace_dagster.chain.datasets import filters_of
from trace_dagster.chain.headers import Header
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.chain.receipts import BlockReceipts
from trace_dagster.operators.cryo_ingest.chain_reader import ChainReader
from trace_dagster.operators.cryo_ingest.engines import PASSED, RangeFacts, not_checked

__all__ = ["ChainRun", "RangeVerifier"]

_NEEDS_RECEIPTS: Final = frozenset({"transactions", "logs"})
_UNFILTERED_ONLY: Final = not_checked("the job's filters leave rows out")


@dataclass(frozen=True)
class ChainRun:
    """What the endpoint says of a run of consecutive blocks.

    Attributes:
        headers: one a block, ascending and linked.
        receipts: of the same blocks; None where they were not asked for or cannot be had.
    """

    headers: Sequence[Header]
    receipts: Sequence[BlockReceipts] | None


class RangeVerifier:
    """Verifies the datasets of one range.

    Args:
        reader: the endpoint, at the start of the range.
        datasets: canonical names of what was extracted.
        filters: the job's filters.
    """

    def __init__(
        self, reader: ChainReader, datasets: Sequence[str], filters: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._reader = reader
        self._datasets = datasets
        self._filters = {dataset: filters_of(dataset, filters) for dataset in datasets}
        self._checks: dict[str, dict[str, str]] = {dataset: {"headers": PASSED} for dataset in datasets}
        self._first: Header | None = None
        self._last: Header | None = None

    @property
    def facts(self) -> RangeFacts:
        """Hashes at the ends of what was verified so far."""
        if self._first is None or self._last is None:
            return RangeFacts()
        return RangeFacts(
            first_block_hash=f"0x{self._first.hash.hex()}",
            last_block_hash=f"0x{self._last.hash.hex()}",
            first_parent_hash=f"0x{self._first.parent_hash.hex()}",
        )

    def checks(self, dataset: str) -> dict[str, str]:
        """Return the outcome of each check of ``dataset``."""
        return dict(self._checks[dataset])

    def read(self, blocks: BlockRange) -> ChainRun:
        """Read the next run of blocks from the endpoint.

        Raises:
            DataMismatch: what it gives does not agree with itself.
        """
        headers = self._reader.headers(blocks)
        self._first, self._last = self._first or headers[0], headers[-1]
        wanted = not _NEEDS_RECEIPTS.isdisjoint(self._datasets)
        return ChainRun(headers, self._reader.receipts(headers) if wanted else None)

    def verify(self, dataset: str, table: pa.Table, run: ChainRun) -> pa.Table:
        """Check the rows of one dataset in one run of blocks, and return them.

        Raises:
            DataMismatch: they disagree with the chain.
        """
        checks, filters = self._checks[dataset], self._filters[dataset]
        match dataset:
            case "blocks":
                check_blocks(table, run.headers)
            case "transactions":
                return self._transactions(table, run, filters)
            case "logs":
                self._logs(table, run, filters)
            case "traces" if not filters:
                check_traces(table, run.headers)
                checks["outermost_calls"] = PASSED
            case _:
                check_membership(dataset, table, run.headers)
                checks["completeness"] = (
                    _UNFILTERED_ONLY if filters else not_checked(f"the node has no other list of {dataset}")
                )
        return table

    def _transactions(
        self, table: pa.Table, run: ChainRun, filters: Mapping[str, tuple[str, ...]]
    ) -> pa.Table:
        checks = self._checks["transactions"]
        if run.receipts is not None:
            table, repaired = with_unknown_status(table, run.receipts)
            if repaired:
                checks["success_is_null_without_status"] = PASSED
            check_transactions(table, run.receipts, filters)
            checks["receipts"] = PASSED
            return table
        checks["receipts"] = not_checked(self._reader.no_receipts or "")
        if filters:
            check_membership("transactions", table, run.headers)
            checks["completeness"] = _UNFILTERED_ONLY
        else:
            check_transactions_alone(table, run.headers)
        return table

    def _logs(self, table: pa.Table, run: ChainRun, filters: Mapping[str, tuple[str, ...]]) -> None:
        checks = self._checks["logs"]
        if run.receipts is not None:
            check_logs(table, run.receipts, filters)
            checks["receipts"] = PASSED
        else:
            check_logs_alone(table, run.headers, filtered=bool(filters))
            checks["receipts"] = not_checked(self._reader.no_receipts or "")
        if table.num_rows and not any(any(header.logs_bloom or b"") for header in run.headers):
            checks["logs_bloom"] = not_checked("the blooms are empty although there are logs")
        checks.setdefault("logs_bloom", PASSED)
