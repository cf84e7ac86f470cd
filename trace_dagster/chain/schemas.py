"""Arrow schemas of the datasets: Cryo's own column names, order and types, with every column on.

Three columns of Cryo's are 32 bits wide where chains in use need more; they are 64 bits wide here:
``timestamp`` (milliseconds on some chains), and a trace's ``action_gas`` and ``result_gas_used``.
"""

import hashlib
from functools import cache
from typing import TYPE_CHECKING, Final

from trace_dagster.chain.datasets import ALIASES, DATASETS, canonical_dataset

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ALIASES", "DATASETS", "canonical_dataset", "columns_of", "fingerprint", "schema_of"]

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

_FIXED: Final = {"blocks": _BLOCKS, "transactions": _TRANSACTIONS, "logs": _LOGS, "traces": _TRACES}


def columns_of(dataset: str) -> tuple[str, ...] | None:
    """Return the column names of ``dataset`` in order, or None where Cryo decides them."""
    fixed = _FIXED.get(dataset)
    return None if fixed is None else tuple(name for name, _ in fixed)


@cache
def schema_of(dataset: str) -> "pa.Schema | None":
    """Return the Arrow schema of ``dataset``, all fields nullable; None: taken from what Cryo gives."""
    import pyarrow as pa  # noqa: PLC0415 (a quarter of a second that loading definitions must not pay)

    fixed = _FIXED.get(dataset)
    return None if fixed is None else pa.schema([(name, getattr(pa, kind)()) for name, kind in fixed])


def fingerprint(schema: "pa.Schema") -> str:
    """Return the SHA-256, in hex, of the schema's column names, order and types."""
    lines = "".join(f"{field.name}:{field.type}\n" for field in schema)
    return hashlib.sha256(lines.encode()).hexdigest()
