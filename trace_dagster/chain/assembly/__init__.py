"""Tables of datasets out of verified blocks."""

from collections.abc import Callable, Mapping
from typing import Final

import pyarrow as pa

from trace_dagster.chain.assembly.derived import (
    contracts,
    erc20_transfers,
    erc721_transfers,
    native_transfers,
)
from trace_dagster.chain.assembly.tables import (
    blocks,
    calls,
    logs,
    receipts,
    traces,
    transactions,
    withdrawals,
)
from trace_dagster.chain.verification import FlatBatch

__all__ = ["Needs", "assemble", "needs_of"]

Filters = Mapping[str, tuple[str, ...]]

_TABLES: Final[Mapping[str, Callable[[FlatBatch, int, Filters], pa.Table]]] = {
    "blocks": blocks,
    "calls": calls,
    "contracts": contracts,
    "erc20_transfers": erc20_transfers,
    "erc721_transfers": erc721_transfers,
    "logs": logs,
    "native_transfers": native_transfers,
    "receipts": receipts,
    "traces": traces,
    "transactions": transactions,
    "withdrawals": withdrawals,
}


class Needs:
    """What must be fetched of every block for a dataset."""

    TRANSACTIONS: Final = "transactions"
    RECEIPTS: Final = "receipts"
    LOGS: Final = "logs"
    TRACES: Final = "traces"
    FRAMES: Final = "frames"


_NEEDS: Final[Mapping[str, frozenset[str]]] = {
    "blocks": frozenset(),
    "calls": frozenset({Needs.FRAMES}),
    "contracts": frozenset({Needs.TRACES}),
    "erc20_transfers": frozenset({Needs.LOGS}),
    "erc721_transfers": frozenset({Needs.LOGS}),
    "logs": frozenset({Needs.LOGS}),
    "native_transfers": frozenset({Needs.TRACES}),
    "receipts": frozenset({Needs.RECEIPTS}),
    "traces": frozenset({Needs.TRACES}),
    "transactions": frozenset({Needs.TRANSACTIONS, Needs.RECEIPTS}),
    "withdrawals": frozenset(),
}


def needs_of(dataset: str) -> frozenset[str]:
    """Return what must be fetched for ``dataset`` beside the blocks' headers."""
    return _NEEDS[dataset]


def assemble(dataset: str, batch: FlatBatch, chain_id: int, filters: Filters) -> pa.Table:
    """Return the rows of ``dataset`` in ``batch``, in the columns of ``schema_of(dataset)``.

    Args:
        dataset: one of ``NATIVE_DATASETS``.
        batch: verified; it has what ``needs_of(dataset)`` names.
        chain_id: for the column of that name.
        filters: those of the job that the dataset takes.

    Raises:
        DataMismatch: a value does not fit its column.
    """
    return _TABLES[dataset](batch, chain_id, filters)
