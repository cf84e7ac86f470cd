"""Arrow schemas of the datasets: Cryo's own column names, order and types, with every column on, then ours.

The columns after ``chain_id`` are not Cryo's; they are null where an engine cannot give them. They are what
the layouts of JSON-RPC results name and Cryo has no column for, ``extra`` last.

Three columns of Cryo's are 32 bits wide where chains in use need more; they are 64 bits wide here:
``timestamp`` (milliseconds on some chains), and a trace's ``action_gas`` and ``result_gas_used``.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Final

from trace_dagster.chain.datasets import ALIASES, DATASETS, canonical_dataset
from trace_dagster.chain.decoding.layout import Field, Kind, Layout, Rows, column_names
from trace_dagster.chain.decoding.layout import columns_of as layout_columns
from trace_dagster.chain.decoding.layouts import BLOCK, FRAMES, LOGS, RECEIPT, TRACES

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ALIASES",
    "DATASETS",
    "canonical_dataset",
    "columns_of",
    "cryo_columns_of",
    "fingerprint",
    "layouts_of",
    "schema_of",
]

# Type names are pyarrow's factories. Binary is "large", as in Cryo's files, so that no batch can overflow it.
_BINARY, _TEXT = "large_binary", "large_string"

_BLOCKS: Final = (
    ("block_hash", _BINARY),
    ("parent_hash", _BINARY),
    ("author", _BINARY),
    ("state_root", _BINARY),
    ("transactions_root", _BINARY),
    ("receipts_root", _BINARY),
    ("block_number", "uint32"),
    ("gas_used", "uint64"),
    ("extra_data", _BINARY),
    ("logs_bloom", _BINARY),
    ("timestamp", "uint64"),
    ("total_difficulty_binary", _BINARY),
    ("total_difficulty_string", _TEXT),
    ("total_difficulty_f64", "float64"),
    ("size", "uint32"),
    ("base_fee_per_gas", "uint64"),
    ("chain_id", "uint64"),
)

_TRANSACTIONS: Final = (
    ("block_number", "uint32"),
    ("transaction_index", "uint64"),
    ("transaction_hash", _BINARY),
    ("nonce", "uint64"),
    ("from_address", _BINARY),
    ("to_address", _BINARY),
    ("value_binary", _BINARY),
    ("value_string", _TEXT),
    ("value_f64", "float64"),
    ("input", _BINARY),
    ("gas_limit", "uint64"),
    ("gas_used", "uint64"),
    ("gas_price", "uint64"),
    ("transaction_type", "uint32"),
    ("max_priority_fee_per_gas", "uint64"),
    ("max_fee_per_gas", "uint64"),
    ("success", "bool_"),
    ("n_input_bytes", "uint32"),
    ("n_input_zero_bytes", "uint32"),
    ("n_input_nonzero_bytes", "uint32"),
    ("n_rlp_bytes", "uint32"),
    ("block_hash", _BINARY),
    ("timestamp", "uint64"),
    ("chain_id", "uint64"),
)

_LOGS: Final = (
    ("block_number", "uint32"),
    ("block_hash", _BINARY),
    ("transaction_index", "uint32"),
    ("log_index", "uint32"),
    ("transaction_hash", _BINARY),
    ("address", _BINARY),
    ("topic0", _BINARY),
    ("topic1", _BINARY),
    ("topic2", _BINARY),
    ("topic3", _BINARY),
    ("data", _BINARY),
    ("chain_id", "uint64"),
)

_TRACES: Final = (
    ("action_from", _BINARY),
    ("action_to", _BINARY),
    ("action_value", _TEXT),
    ("action_gas", "uint64"),
    ("action_input", _BINARY),
    ("action_call_type", _TEXT),
    ("action_init", _BINARY),
    ("action_reward_type", _TEXT),
    ("action_type", _TEXT),
    ("result_gas_used", "uint64"),
    ("result_output", _BINARY),
    ("result_code", _BINARY),
    ("result_address", _BINARY),
    ("trace_address", _TEXT),
    ("subtraces", "uint32"),
    ("transaction_index", "uint32"),
    ("transaction_hash", _BINARY),
    ("block_number", "uint32"),
    ("block_hash", _BINARY),
    ("error", _TEXT),
    ("chain_id", "uint64"),
)

_TRANSFER: Final = (
    ("block_number", "uint32"),
    ("block_hash", _BINARY),
    ("transaction_index", "uint32"),
    ("log_index", "uint32"),
    ("transaction_hash", _BINARY),
    ("erc20", _BINARY),
    ("from_address", _BINARY),
    ("to_address", _BINARY),
)


def _amount(stem: str) -> tuple[tuple[str, str], ...]:
    return ((f"{stem}_binary", _BINARY), (f"{stem}_string", _TEXT), (f"{stem}_f64", "float64"))


_CHAIN_ID: Final = ("chain_id", "uint64")

_CONTRACTS: Final = (
    ("block_number", "uint32"),
    ("block_hash", _BINARY),
    ("create_index", "uint32"),
    ("transaction_hash", _BINARY),
    ("contract_address", _BINARY),
    ("deployer", _BINARY),
    ("factory", _BINARY),
    ("init_code", _BINARY),
    ("code", _BINARY),
    ("init_code_hash", _BINARY),
    ("n_init_code_bytes", "uint32"),
    ("n_code_bytes", "uint32"),
    ("code_hash", _BINARY),
    _CHAIN_ID,
)

_NATIVE_TRANSFERS: Final = (
    ("block_number", "uint32"),
    ("block_hash", _BINARY),
    ("transaction_index", "uint32"),
    ("transfer_index", "uint32"),
    ("transaction_hash", _BINARY),
    ("from_address", _BINARY),
    ("to_address", _BINARY),
    *_amount("value"),
    _CHAIN_ID,
)

# What the engine native alone has: the place of the row, then the layout's own columns.
_RECEIPTS: Final = (
    ("block_number", "uint32"),
    ("block_hash", _BINARY),
    ("timestamp", "uint64"),
    ("transaction_index", "uint32"),
    ("transaction_hash", _BINARY),
    _CHAIN_ID,
)
_WITHDRAWALS: Final = (
    ("block_number", "uint32"),
    ("block_hash", _BINARY),
    ("timestamp", "uint64"),
    _CHAIN_ID,
)
_CALLS: Final = (
    ("block_number", "uint32"),
    ("block_hash", _BINARY),
    ("transaction_index", "uint32"),
    ("transaction_hash", _BINARY),
    _CHAIN_ID,
)

_FIXED: Final = {
    "blocks": _BLOCKS,
    "transactions": _TRANSACTIONS,
    "logs": _LOGS,
    "traces": _TRACES,
    "contracts": _CONTRACTS,
    "native_transfers": _NATIVE_TRANSFERS,
    "erc20_transfers": (*_TRANSFER, *_amount("value"), _CHAIN_ID),
    "erc721_transfers": (*_TRANSFER, *_amount("token_id"), _CHAIN_ID),
    "receipts": _RECEIPTS,
    "withdrawals": _WITHDRAWALS,
    "calls": _CALLS,
}


def _nested(layout: Layout, column: str) -> Layout:
    return next(one.layout for one in layout.members if isinstance(one, Rows) and one.column == column)


_TRANSACTION: Final = _nested(BLOCK.layout, "transactions")
_WITHDRAWAL: Final = _nested(BLOCK.layout, "withdrawals")

_SUCCEEDED: Final = Layout("frame", (Field("succeeded", "succeeded", Kind.FLAG),), keeps_extra=False)
"""Whether neither the frame nor one around it failed."""

# Which layouts the added columns come from, and which of their columns stay out: they are in a table of their
# own, are always false in what is committed, or are Cryo's in another form.
_ADDED: Final[dict[str, tuple[tuple[Layout, ...], frozenset[str]]]] = {
    "blocks": ((BLOCK.layout,), frozenset({"transactions"})),
    "transactions": ((_TRANSACTION, RECEIPT.layout), frozenset({"logs", "logs_bloom"})),
    "logs": ((LOGS.layout,), frozenset({"removed"})),
    "traces": (
        (TRACES.layout,),
        frozenset({"action_value_binary", "action_value_string", "action_value_f64"}),
    ),
    "receipts": ((RECEIPT.layout,), frozenset({"logs"})),
    "withdrawals": ((_WITHDRAWAL,), frozenset()),
    "calls": ((FRAMES.layout,), frozenset()),
    "contracts": ((_SUCCEEDED,), frozenset()),
    "native_transfers": ((_SUCCEEDED,), frozenset()),
}


def cryo_columns_of(dataset: str) -> tuple[str, ...] | None:
    """Return the names of the columns that Cryo gives too, in order, or None where Cryo decides them."""
    fixed = _FIXED.get(dataset)
    return None if fixed is None else tuple(name for name, _ in fixed)


def layouts_of(dataset: str) -> tuple[Layout, ...]:
    """Return the layouts that the columns of ``dataset`` come from; none where Cryo decides them."""
    return _ADDED.get(dataset, ((), frozenset()))[0]


def columns_of(dataset: str) -> tuple[str, ...] | None:
    """Return the column names of ``dataset`` in order, or None where Cryo decides them."""
    fixed = cryo_columns_of(dataset)
    if fixed is None:
        return None
    layouts, left_out = _ADDED.get(dataset, ((), frozenset()))
    names = [name for layout in layouts for name in column_names(layout)]
    return (*fixed, *_added(names, {*fixed, *left_out}))


def _added(names: list[str], known: set[str]) -> Iterator[str]:
    """Yield the names that are not known, each once, ``extra`` last."""
    yield from dict.fromkeys(name for name in names if name not in known and name != "extra")
    if "extra" in names:
        yield "extra"


@cache
def schema_of(dataset: str) -> "pa.Schema | None":
    """Return the Arrow schema of ``dataset``, all fields nullable; None: taken from what Cryo gives."""
    import pyarrow as pa  # noqa: PLC0415 (a quarter of a second that loading definitions must not pay)

    fixed = _FIXED.get(dataset)
    if fixed is None:
        return None
    types = {one.name: one.type for layout in layouts_of(dataset) for one in layout_columns(layout)}
    types |= {name: getattr(pa, kind)() for name, kind in fixed}
    return pa.schema([(name, types[name]) for name in columns_of(dataset) or ()])


def fingerprint(schema: "pa.Schema") -> str:
    """Return the SHA-256, in hex, of the schema's column names, order and types."""
    lines = "".join(f"{field.name}:{field.type}\n" for field in schema)
    return hashlib.sha256(lines.encode()).hexdigest()
