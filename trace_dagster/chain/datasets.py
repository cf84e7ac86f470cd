"""The names of Cryo 0.3.2's datasets, and the filters that each takes; as printed by ``cryo help``.

Beside them stand the few datasets that Cryo does not have and the engine ``native`` does.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = [
    "ALIASES",
    "ALLOWED_FILTERS",
    "DATASETS",
    "FILTERS",
    "GROUPS",
    "NATIVE_DATASETS",
    "NATIVE_ONLY",
    "REQUIRED_FILTERS",
    "canonical_dataset",
    "expand_datasets",
    "filter_problem",
    "filters_of",
    "listed",
]

DATASETS: Final = (
    "address_appearances",
    "balance_diffs",
    "balance_reads",
    "balances",
    "blocks",
    "code_diffs",
    "code_reads",
    "codes",
    "contracts",
    "erc20_balances",
    "erc20_metadata",
    "erc20_supplies",
    "erc20_transfers",
    "erc721_metadata",
    "erc721_transfers",
    "eth_calls",
    "four_byte_counts",
    "geth_balance_diffs",
    "geth_calls",
    "geth_code_diffs",
    "geth_nonce_diffs",
    "geth_opcodes",
    "geth_storage_diffs",
    "javascript_traces",
    "logs",
    "native_transfers",
    "nonce_diffs",
    "nonce_reads",
    "nonces",
    "slots",
    "storage_diffs",
    "storage_reads",
    "trace_calls",
    "traces",
    "transactions",
    "vm_traces",
)

NATIVE_ONLY: Final = ("calls", "receipts", "withdrawals")
"""Datasets of the engine ``native`` that Cryo does not have."""

NATIVE_DATASETS: Final = (
    "blocks",
    "calls",
    "contracts",
    "erc20_transfers",
    "erc721_transfers",
    "logs",
    "native_transfers",
    "receipts",
    "traces",
    "transactions",
    "withdrawals",
)
"""Every dataset of the engine ``native``."""

ALIASES: Final[Mapping[str, str]] = {
    "4byte_counts": "four_byte_counts",
    "events": "logs",
    "js_traces": "javascript_traces",
    "opcode_traces": "vm_traces",
    "slot_diffs": "storage_diffs",
    "slot_reads": "storage_reads",
    "storages": "slots",
    "txs": "transactions",
}

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "blocks_and_transactions": ("blocks", "transactions"),
    "call_trace_derivatives": ("contracts", "native_transfers", "traces"),
    "geth_state_diffs": (
        "geth_balance_diffs",
        "geth_code_diffs",
        "geth_nonce_diffs",
        "geth_storage_diffs",
    ),
    "state_diffs": ("balance_diffs", "code_diffs", "nonce_diffs", "storage_diffs"),
    "state_reads": ("balance_reads", "code_reads", "nonce_reads", "storage_reads"),
}
"""Cryo's names for several datasets at once, each collected as its own dataset."""

FILTERS: Final = (
    "address",
    "call_data",
    "contract",
    "from_address",
    "js_tracer",
    "slot",
    "to_address",
    "topic0",
    "topic1",
    "topic2",
    "topic3",
)

REQUIRED_FILTERS: Final[Mapping[str, frozenset[str]]] = {
    "balances": frozenset({"address"}),
    "codes": frozenset({"address"}),
    "erc20_balances": frozenset({"address", "contract"}),
    "erc20_metadata": frozenset({"address"}),
    "erc20_supplies": frozenset({"address"}),
    "erc721_metadata": frozenset({"address"}),
    "eth_calls": frozenset({"call_data", "contract"}),
    "javascript_traces": frozenset({"js_tracer"}),
    "nonces": frozenset({"address"}),
    "slots": frozenset({"address", "slot"}),
    "trace_calls": frozenset({"call_data", "contract"}),
}
"""Filters without which Cryo cannot collect a dataset; datasets that need none are left out."""

_OPTIONAL_FILTERS: Final[Mapping[str, frozenset[str]]] = {
    "erc20_transfers": frozenset({"address", "from_address", "to_address", "topic0", "topic1", "topic2"}),
    "erc721_transfers": frozenset({"address", "from_address", "to_address"}),
    "logs": frozenset({"address", "topic0", "topic1", "topic2", "topic3"}),
    "native_transfers": frozenset({"from_address", "to_address"}),
    "traces": frozenset({"from_address", "to_address"}),
    "transactions": frozenset({"from_address", "to_address"}),
}

ALLOWED_FILTERS: Final[Mapping[str, frozenset[str]]] = {
    name: REQUIRED_FILTERS.get(name, frozenset()) | _OPTIONAL_FILTERS.get(name, frozenset())
    for name in (*DATASETS, *NATIVE_ONLY)
}
"""Every filter that a dataset takes, required or not; for each dataset, also where there is none."""


_HEX: Final = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_FILTER_BYTES: Final[Mapping[str, int | None]] = {
    "address": 20,
    "call_data": None,
    "contract": 20,
    "from_address": 20,
    "slot": 32,
    "to_address": 20,
    "topic0": 32,
    "topic1": 32,
    "topic2": 32,
    "topic3": 32,
}


def canonical_dataset(name: str) -> str:
    """Return the dataset that ``name`` means: itself, or what an alias stands for.

    Raises:
        ValueError: ``name`` is no dataset of Cryo's, or a group of several.
    """
    canonical = ALIASES.get(name, name)
    if canonical in GROUPS:
        raise ValueError(f"{name!r} is a group of datasets; write {listed(GROUPS[canonical])}")
    if canonical not in ALLOWED_FILTERS:
        raise ValueError(f"{name!r} is no dataset of Cryo, nor of engine native")
    return canonical


def expand_datasets(names: Iterable[str]) -> tuple[str, ...]:
    """Return canonical datasets in order, groups replaced by their members, each once.

    Raises:
        ValueError: a name is no dataset and no group.
    """
    found: dict[str, None] = {}
    for name in names:
        for member in GROUPS.get(name, (name,)):
            found[canonical_dataset(member)] = None
    return tuple(found)


def filters_of(dataset: str, filters: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
    """Return those of a job's ``filters`` that ``dataset`` takes."""
    return {name: filters[name] for name in sorted(ALLOWED_FILTERS[dataset] & filters.keys())}


def filter_problem(name: str, value: str) -> str | None:
    """Return what is wrong with a filter's value and what to write instead; None where it is right.

    Cryo takes text that is no hex for the name of a file to read values from, which a DAG must not do.
    """
    size = _FILTER_BYTES.get(name)
    if name == "js_tracer" or (_HEX.fullmatch(value) and size in (None, len(value) // 2 - 1)):
        return None
    wanted = "an even number of hex digits" if size is None else f"{2 * size} hex digits"
    return f"filters.{name}: {value[:80]!r} is not of the right form; write 0x and {wanted}"


def listed(items: Iterable[object], limit: int = 10) -> str:
    """Return ``items`` as text for a message, at most ``limit`` of them, with how many were left out."""
    shown = list(items)
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(str(item) for item in shown[:limit]) + more
