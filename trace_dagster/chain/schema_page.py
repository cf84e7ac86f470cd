"""The page of all datasets' columns, ``docs/schemas.md``."""

from collections.abc import Iterator, Mapping
from typing import Final

from trace_dagster.chain.datasets import DATASETS, NATIVE_DATASETS, NATIVE_ONLY
from trace_dagster.chain.decoding.layout import Field, Group, Layout, column_names
from trace_dagster.chain.schemas import cryo_columns_of, layouts_of, schema_of

__all__ = ["schema_page"]

_HEAD: Final = """\
# Datasets and their columns

Written by `trace schema --tables`; do not edit.

Columns of Cryo come first, with Cryo's names, order and types. Three of them are 64 bits wide here and 32
in Cryo: `timestamp`, and a trace's `action_gas` and `result_gas_used`. After them come ours (marked +):
null where the engine or the node cannot give them. "From" is the key in the node's answer. Every column
may be null; binary is binary, never hex.

- Numbers of up to 256 bits are three columns: `_binary` (32 bytes, big-endian, exact), `_string`
  (decimal, exact) and `_f64` (rounded).
- `extra` is a JSON object of what the node said and no column holds: fields of a new fork or of another
  chain, and numbers that do not fit their column (which is null then). Of a transaction's receipt it is
  under `receipt`. How many rows have one is in the materialization's `trace/unmodelled_fields` (engine
  `native`).
- `n_rlp_bytes` is the size of the signed transaction of types 0 to 4; null for other types.
- `contracts`: as in Cryo, `init_code_hash` is the hash of `code`, and `code_hash` that of `init_code`. As
  in Cryo, what was created in a frame that failed is listed in `contracts`, and failed frames and those
  without value in `native_transfers`; `succeeded` tells them apart.
- `traces`: a self-destruct has its contract in `action_from` and who gets the balance in `action_to`, a
  reward its receiver in `action_from`.
- `erc20_transfers` are `Transfer` logs with three topics and 32 bytes of data, `erc721_transfers` those
  with four topics and no data (the contract stands in `erc20` there, too).
- `calls` are the frames of the callTracer, each before those that it made; `trace_address` is its path,
  steps joined by `_`.
"""


def schema_page() -> str:
    """Return the page, Markdown."""
    parts = [_HEAD]
    fixed = sorted(name for name in {*DATASETS, *NATIVE_DATASETS} if schema_of(name) is not None)
    parts += ["\n".join([f"## {name}", "", _engines(name), "", *_table(name)]) + "\n" for name in fixed]
    others = ", ".join(f"`{name}`" for name in DATASETS if schema_of(name) is None)
    parts.append(
        f"## The other datasets\n\nOf the engine `cryo`, in the columns that Cryo 0.3.2 gives: {others}.\n"
    )
    return "\n".join(parts)


def _engines(dataset: str) -> str:
    if dataset in NATIVE_ONLY:
        return "Engine `native`."
    return (
        "Engines `native`, `cryo` and `stub`." if dataset in NATIVE_DATASETS else "Engines `cryo` and `stub`."
    )


def _table(dataset: str) -> Iterator[str]:
    schema = schema_of(dataset) or ()
    known = (
        set(cryo_columns_of(dataset) or ()) if dataset not in NATIVE_ONLY else {one.name for one in schema}
    )
    keys = _keys(layouts_of(dataset))
    yield "| column | type | from |"
    yield "|---|---|---|"
    for one in schema:
        mark = "" if one.name in known else " +"
        key = f"`{keys[one.name]}`" if one.name in keys else ""
        yield f"| `{one.name}`{mark} | {one.type} | {key} |"


def _keys(layouts: tuple[Layout, ...]) -> Mapping[str, str]:
    """Return which key of the answer each column comes from; of two layouts the first one's."""
    found: dict[str, str] = {}
    for layout in reversed(layouts):
        for member in layout.members:
            fields = member.fields if isinstance(member, Group) else (member,)
            for one in fields:
                stem = f"{member.key}." if isinstance(member, Group) else ""
                only = Layout("one", (one,), keeps_extra=False)
                found |= dict.fromkeys(column_names(only), f"{stem}{one.key}")
                if isinstance(one, Field) and one.kind.value == "amount":
                    found[one.column] = f"{stem}{one.key}"
    return found
