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

__all__ = ["assemble"]

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


def assemble(dataset: str, batch: FlatBatch, chain_id: int, filters: Filters) -> pa.Table:
    """Return the rows of ``dataset`` in ``batch``, in the columns of ``schema_of(dataset)``.

    Args:
        dataset: one of ``NATIVE_DATASETS``.
        batch: verified; it has what ``trace_dagster.chain.needs`` says.
        chain_id: for the column of that name.
        filters: those of the job that the dataset takes.

    Raises:
        DataMismatch: a value does not fit its column.
    """
    return _TABLES[dataset](batch, chain_id, filters)
