"""Cryo's datasets out of simulated blocks: which columns, and one row after the other.

The columns of datasets whose schema the project fixes are those of ``trace_dagster.chain.schemas``; the
others are what Cryo 0.3.2 prints for them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from trace_dagster.chain.datasets import filters_of
from trace_dagster.chain.schemas import canonical_dataset, schema_of
from trace_dagster.testing import simulated_rows as rows
from trace_dagster.testing import simulated_state as state
from trace_dagster.testing.simulated_records import SimulatedBlock
from trace_dagster.testing.simulated_rows import Filters, Row

if TYPE_CHECKING:
    from trace_dagster.testing.simulated_chain import SimulatedChain

__all__ = ["rows_of", "simulated_schema"]

_TYPES: Final = {
    "b": pa.large_binary(),
    "s": pa.large_string(),
    "u32": pa.uint32(),
    "u64": pa.uint64(),
    "f64": pa.float64(),
    "bool": pa.bool_(),
}
_IN_TRANSACTION: Final = "block_number:u32 transaction_index:u32 transaction_hash:b"
_IN_TRANSACTION_64: Final = "block_number:u32 transaction_index:u64 transaction_hash:b"
_FRAME: Final = (
    "action_from:b action_to:b action_value:s action_gas:u64 action_input:b action_call_type:s action_init:b "
    "action_reward_type:s action_type:s result_gas_used:u64 result_output:b result_code:b result_address:b "
    "trace_address:s subtraces:u32"
)


@dataclass(frozen=True)
class _Dataset:
    """How a dataset is made.

    Attributes:
        columns: ``name:type`` in the order of a row's values, without ``chain_id``; a ``u256`` is one value
            in a row and three columns (``_binary``, ``_string``, ``_f64``).
        rows: yields the rows of some blocks.
    """

    columns: str
    rows: Callable[["SimulatedChain", Sequence[SimulatedBlock], Filters], Iterator[Row]]

    @property
    def fields(self) -> list[list[str]]:
        return [item.split(":") for item in self.columns.split()]


_DATASETS: Final[Mapping[str, _Dataset]] = {
    "address_appearances": _Dataset(
        "block_number:u32 block_hash:b transaction_hash:b address:b relationship:s", rows.address_appearances
    ),
    "balance_diffs": _Dataset(
        f"{_IN_TRANSACTION} address:b from_value:u256 to_value:u256", state.balance_diffs
    ),
    "balance_reads": _Dataset(f"{_IN_TRANSACTION} address:b balance:u256", state.balance_reads),
    "balances": _Dataset("block_number:u32 address:b balance:u256", state.balances),
    "blocks": _Dataset(
        "block_hash:b parent_hash:b author:b state_root:b transactions_root:b receipts_root:b "
        "block_number:u32 gas_used:u64 gas_limit:u64 extra_data:b logs_bloom:b timestamp:u64 "
        "total_difficulty:u256 size:u32 base_fee_per_gas:u64",
        rows.blocks,
    ),
    "code_diffs": _Dataset(f"{_IN_TRANSACTION} address:b from_value:b to_value:b", state.code_diffs),
    "code_reads": _Dataset(f"{_IN_TRANSACTION} contract_address:b code:b", state.code_reads),
    "codes": _Dataset("block_number:u32 address:b code:b", state.codes),
    "contracts": _Dataset(
        "block_number:u32 block_hash:b create_index:u32 transaction_hash:b contract_address:b deployer:b "
        "factory:b init_code:b code:b init_code_hash:b n_init_code_bytes:u32 n_code_bytes:u32 code_hash:b",
        rows.contracts,
    ),
    "erc20_balances": _Dataset("block_number:u32 erc20:b address:b balance:u256", state.erc20_balances),
    "erc20_metadata": _Dataset("block_number:u32 erc20:b name:s symbol:s decimals:u32", state.erc20_metadata),
    "erc20_supplies": _Dataset("block_number:u32 erc20:b total_supply:u256", state.erc20_supplies),
    "erc20_transfers": _Dataset(
        "block_number:u32 block_hash:b transaction_index:u32 log_index:u32 transaction_hash:b erc20:b "
        "from_address:b to_address:b value:u256",
        rows.erc20_transfers,
    ),
    "erc721_metadata": _Dataset("block_number:u32 erc721:b name:s symbol:s", state.erc721_metadata),
    "erc721_transfers": _Dataset(
        "block_number:u32 block_hash:b transaction_index:u32 log_index:u32 transaction_hash:b erc20:b "
        "from_address:b to_address:b token_id:u256",
        rows.erc721_transfers,
    ),
    "eth_calls": _Dataset(
        "block_number:u32 contract_address:b call_data:b call_data_hash:b output_data:b output_data_hash:b",
        state.eth_calls,
    ),
    "four_byte_counts": _Dataset(f"{_IN_TRANSACTION} signature:b size:u64 count:u64", rows.four_byte_counts),
    "geth_balance_diffs": _Dataset(
        f"{_IN_TRANSACTION_64} address:b from_value:u256 to_value:u256", state.balance_diffs
    ),
    "geth_calls": _Dataset(
        "typ:s from_address:b to_address:b value:u256 gas:u256 gas_used:u256 input:b output:b error:s "
        "block_number:u32 transaction_hash:b transaction_index:u32 trace_address:s",
        rows.geth_calls,
    ),
    "geth_code_diffs": _Dataset(f"{_IN_TRANSACTION_64} address:b from_value:b to_value:b", state.code_diffs),
    "geth_nonce_diffs": _Dataset(
        f"{_IN_TRANSACTION_64} address:b from_value:u256 to_value:u256", state.nonce_diffs
    ),
    "geth_opcodes": _Dataset(
        "block_number:u32 transaction_hash:b transaction_index:u32 trace_address:s depth:u64 error:s gas:u64 "
        "gas_cost:u64 op:s pc:u64 refund_counter:u64 memory:s stack:s storage:s return_data:b",
        rows.geth_opcodes,
    ),
    "geth_storage_diffs": _Dataset(
        f"{_IN_TRANSACTION_64} address:b slot:b from_value:b to_value:b", state.storage_diffs
    ),
    "javascript_traces": _Dataset(f"{_IN_TRANSACTION} output:s", rows.javascript_traces),
    "logs": _Dataset(
        "block_number:u32 block_hash:b transaction_index:u32 log_index:u32 transaction_hash:b address:b "
        "topic0:b topic1:b topic2:b topic3:b data:b",
        rows.logs,
    ),
    "native_transfers": _Dataset(
        "block_number:u32 block_hash:b transaction_index:u32 transfer_index:u32 transaction_hash:b "
        "from_address:b to_address:b value:u256",
        rows.native_transfers,
    ),
    "nonce_diffs": _Dataset(f"{_IN_TRANSACTION} address:b from_value:u64 to_value:u64", state.nonce_diffs),
    "nonce_reads": _Dataset(f"{_IN_TRANSACTION} address:b nonce:u64", state.nonce_reads),
    "nonces": _Dataset("block_number:u32 address:b nonce:u64", state.nonces),
    "slots": _Dataset("block_number:u32 address:b slot:b value:b", state.slots),
    "storage_diffs": _Dataset(
        f"{_IN_TRANSACTION} address:b slot:b from_value:b to_value:b", state.storage_diffs
    ),
    "storage_reads": _Dataset(f"{_IN_TRANSACTION} contract_address:b slot:b value:b", state.storage_reads),
    "trace_calls": _Dataset(
        f"block_number:u32 transaction_index:u32 {_FRAME} error:s tx_to_address:b tx_call_data:b",
        state.trace_calls,
    ),
    "traces": _Dataset(
        f"{_FRAME} transaction_index:u32 transaction_hash:b block_number:u32 block_hash:b error:s",
        rows.traces,
    ),
    "transactions": _Dataset(
        "block_number:u32 transaction_index:u64 transaction_hash:b nonce:u64 from_address:b to_address:b "
        "value:u256 input:b gas_limit:u64 gas_used:u64 gas_price:u64 transaction_type:u32 "
        "max_priority_fee_per_gas:u64 max_fee_per_gas:u64 success:bool n_input_bytes:u32 "
        "n_input_zero_bytes:u32 n_input_nonzero_bytes:u32 n_rlp_bytes:u32 block_hash:b timestamp:u64",
        rows.transactions,
    ),
    "vm_traces": _Dataset(
        "block_number:u32 transaction_hash:b transaction_index:u32 pc:u64 cost:u64 used:u64 push:b "
        "mem_off:u32 mem_data:b storage_key:b storage_val:b op:s",
        rows.vm_traces,
    ),
}


@cache
def simulated_schema(dataset: str) -> pa.Schema:
    """Return the Arrow schema of a simulated dataset.

    Raises:
        ValueError: no such dataset.
    """
    fixed = schema_of(canonical_dataset(dataset))
    if fixed is not None:
        return fixed
    fields: list[tuple[str, pa.DataType]] = []
    for name, kind in _DATASETS[canonical_dataset(dataset)].fields:
        if kind == "u256":
            fields += [(f"{name}_{part}", _TYPES[of]) for part, of in _U256_PARTS]
        else:
            fields.append((name, _TYPES[kind]))
    return pa.schema([*fields, ("chain_id", pa.uint64())])


def rows_of(
    chain: "SimulatedChain",
    dataset: str,
    blocks: Sequence[SimulatedBlock],
    filters: Mapping[str, Sequence[str]],
) -> pa.Table:
    """Return the rows of ``dataset`` in ``blocks``; a column that the chain cannot fill is null.

    Raises:
        ValueError: no such dataset, or a filter that is not hex.
    """
    dataset = canonical_dataset(dataset)
    schema = simulated_schema(dataset)
    made = _DATASETS[dataset]
    wanted = {
        name: tuple(bytes.fromhex(value.removeprefix("0x")) for value in values)
        for name, values in filters_of(dataset, {name: tuple(of) for name, of in filters.items()}).items()
        if name != "js_tracer"
    }
    values = list(zip(*made.rows(chain, blocks, wanted), strict=True)) or [() for _ in made.fields]
    columns = dict(_named(made.fields, values))
    count = len(values[0])
    columns["chain_id"] = [chain.chain_id] * count
    arrays = [
        pa.array(columns[field.name], type=field.type)
        if field.name in columns
        else pa.nulls(count, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


_U256_PARTS: Final = (("binary", "b"), ("string", "s"), ("f64", "f64"))


def _named(fields: list[list[str]], values: Sequence[Sequence[Any]]) -> Iterable[tuple[str, list[Any]]]:
    for (name, kind), column in zip(fields, values, strict=True):
        if kind == "u256":
            yield f"{name}_binary", [value.to_bytes(32, "big") for value in column]
            yield f"{name}_string", [str(value) for value in column]
            yield f"{name}_f64", [float(value) for value in column]
        else:
            yield name, list(column)
