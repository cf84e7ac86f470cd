"""The hot tables of a follower."""

from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

from trace_dagster.chain.schemas import schema_of
from trace_dagster.errors import ConfigurationError
from trace_dagster.hot_tables import HotTable
from trace_dagster.spec.naming import table_name

__all__ = ["ROW_IDENTITY", "hot_table"]

ROW_IDENTITY: Final[Mapping[str, tuple[str, ...]]] = {
    "blocks": ("chain_id", "block_hash"),
    "transactions": ("chain_id", "block_hash", "transaction_index"),
    "receipts": ("chain_id", "block_hash", "transaction_index"),
    "logs": ("chain_id", "block_hash", "log_index"),
    "traces": (
        *("chain_id", "block_hash", "transaction_index", "trace_address"),
        *("action_type", "action_reward_type", "action_author"),  # rewards have no place but these
    ),
}
"""What tells one row of a dataset from every other, on any branch."""

_OF_BLOCK: Final = frozenset({"chain_id", "block_hash", "block_number"})


def hot_table(
    dag: str, job: str, dataset: str, unique_key: Sequence[str], *, is_replacing: bool = False
) -> HotTable:
    """Return the table of one output.

    A ``unique_key`` that all rows of a block share, such as the operator's default or ``[chain_id,
    block_number]``, is completed to what identifies a row. Where rows are appended, readers have the view
    ``{table}_canonical`` too, which means the same whatever the table keeps.

    Raises:
        ConfigurationError: the name is too long, or the key names a column that is not there.
    """
    schema: pa.Schema | None = schema_of(dataset)
    if schema is None:
        raise ConfigurationError(f"block_follower has no schema of {dataset}")
    identity = ROW_IDENTITY[dataset]
    key = tuple(unique_key)
    if set(key) <= set(identity):
        key = identity
    elif set(key) <= _OF_BLOCK and dataset != "blocks":
        key = (*key, *(name for name in identity if name not in _OF_BLOCK))
    name = table_name(job, dataset)
    view = None if is_replacing else f"{name}_canonical"
    return HotTable(schema=dag, name=name, columns=schema, key=key, view=view)
