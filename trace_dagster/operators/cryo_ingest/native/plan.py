"""What is asked of every block, so that all datasets of a job share one fetch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from trace_dagster.chain.bloom import bloom_of
from trace_dagster.chain.datasets import filters_of
from trace_dagster.chain.needs import Need, needs_of
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.rpc.client import Call

__all__ = ["FetchPlan", "plan_of"]

_TRANSFER: Final = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
_OF_LOGS: Final = ("logs", "erc20_transfers", "erc721_transfers")


@dataclass(frozen=True)
class FetchPlan:
    """What is asked of every block beside its header.

    Attributes:
        full: whether blocks come with whole transactions.
        receipts: whether their receipts are asked for; logs are in these.
        logs: whether logs are asked for alone, by range.
        traces: whether ``trace_block`` is asked.
        frames: whether call frames are asked for.
        log_filter: ``address`` and ``topics`` of the request for logs; empty for all.
    """

    full: bool
    receipts: bool
    logs: bool
    traces: bool
    frames: bool
    log_filter: Mapping[str, Any] = field(default_factory=dict)

    @property
    def items_per_block(self) -> int:
        """JSON-RPC requests a block, but those for logs alone."""
        return 1 + self.receipts + self.traces + self.frames

    def block_calls(self, numbers: Sequence[int]) -> list[Call]:
        """Return the requests for blocks."""
        return [("eth_getBlockByNumber", [hex(number), self.full]) for number in numbers]

    def log_call(self, blocks: BlockRange) -> Call:
        """Return the request for the logs of some blocks."""
        ends = {"fromBlock": hex(blocks.start_block), "toBlock": hex(blocks.end_block)}
        return "eth_getLogs", [{**ends, **self.log_filter}]

    def all_logs_call(self, blocks: BlockRange) -> Call:
        """Return the request for the logs of some blocks, whatever the filter."""
        return "eth_getLogs", [{"fromBlock": hex(blocks.start_block), "toBlock": hex(blocks.end_block)}]

    def may_have_logs(self, bloom: bytes) -> bool:
        """Whether a block's bloom announces logs that pass the filter."""
        announced = int.from_bytes(bloom)
        return all(
            any(bloom_of([value]) & ~announced == 0 for value in values)
            for values in self._filter_values.values()
        )

    def matching_logs(self, logs: pa.StructArray) -> pa.BooleanArray:
        """Return which of some logs pass the filter."""
        passed = pa.array([True] * len(logs), pa.bool_())
        for name, values in self._filter_values.items():
            column = logs.field(name)
            passed = pc.and_(passed, pc.is_in(column, pa.array(values, column.type)))
        return passed

    @property
    def _filter_values(self) -> Mapping[str, list[bytes]]:
        named = {f"topic{at}": values for at, values in enumerate(self.log_filter.get("topics", ()))}
        named["address"] = self.log_filter.get("address")
        return {
            name: [bytes.fromhex(one.removeprefix("0x")) for one in values]
            for name, values in named.items()
            if values
        }


def plan_of(datasets: Sequence[str], filters: Mapping[str, tuple[str, ...]]) -> FetchPlan:
    """Return the cheapest plan for all of ``datasets``, which ``NATIVE_DATASETS`` has."""
    needs = frozenset[Need]().union(*(needs_of(dataset) for dataset in datasets))
    receipts = Need.RECEIPTS in needs
    logs = Need.LOGS in needs and not receipts
    return FetchPlan(
        full=Need.TRANSACTIONS in needs,
        receipts=receipts,
        logs=logs,
        traces=Need.TRACES in needs,
        frames=Need.FRAMES in needs,
        log_filter=_log_filter(datasets, filters) if logs else {},
    )


def _log_filter(datasets: Sequence[str], filters: Mapping[str, tuple[str, ...]]) -> Mapping[str, Any]:
    """Return what the job's own filters leave out, where one dataset of logs is asked for alone.

    Transfers without a filter are picked out of all logs: only those can be compared with the blooms.
    """
    takers = [dataset for dataset in datasets if dataset in _OF_LOGS]
    if len(takers) != 1:
        return {}
    (dataset,) = takers
    held = filters_of(dataset, filters)
    topics: list[list[str] | None] = [
        list(held[f"topic{at}"]) if f"topic{at}" in held else None for at in range(4)
    ]
    if not any(topics) and "address" not in held:
        return {}
    if dataset != "logs" and topics[0] is None:
        topics[0] = [_TRANSFER]
    while topics and topics[-1] is None:
        topics.pop()
    found: dict[str, Any] = {"topics": topics} if topics else {}
    if "address" in held:
        found["address"] = list(held["address"])
    return found
