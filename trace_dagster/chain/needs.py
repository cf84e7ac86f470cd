"""What must be asked of a node for each dataset of the engine ``native``."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

__all__ = ["Need", "needs_of"]


class Need(StrEnum):
    """Something asked of every block beside its header.

    Attributes:
        TRANSACTIONS: whole transactions, not only their hashes.
        RECEIPTS: the receipts, with their logs.
        LOGS: the logs, which receipts hold, too.
        TRACES: ``trace_block``.
        FRAMES: ``debug_traceBlockByNumber`` with the callTracer.
    """

    TRANSACTIONS = "transactions"
    RECEIPTS = "receipts"
    LOGS = "logs"
    TRACES = "traces"
    FRAMES = "frames"


_NEEDS: Final[Mapping[str, frozenset[Need]]] = {
    "blocks": frozenset(),
    "calls": frozenset({Need.FRAMES}),
    "contracts": frozenset({Need.TRACES}),
    "erc20_transfers": frozenset({Need.LOGS}),
    "erc721_transfers": frozenset({Need.LOGS}),
    "logs": frozenset({Need.LOGS}),
    "native_transfers": frozenset({Need.TRACES}),
    "receipts": frozenset({Need.RECEIPTS}),
    "traces": frozenset({Need.TRACES}),
    "transactions": frozenset({Need.TRANSACTIONS, Need.RECEIPTS}),
    "withdrawals": frozenset(),
}


def needs_of(dataset: str) -> frozenset[Need]:
    """Return what must be asked for ``dataset``, one of ``NATIVE_DATASETS``."""
    return _NEEDS[dataset]
