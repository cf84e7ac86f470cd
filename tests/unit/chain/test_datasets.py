"""Cryo's dataset names, and what filters may hold."""

import re
from pathlib import Path

import pytest

from trace_dagster.chain.datasets import (
    ALIASES,
    ALLOWED_FILTERS,
    DATASETS,
    FILTERS,
    GROUPS,
    NATIVE_DATASETS,
    NATIVE_ONLY,
    REQUIRED_FILTERS,
    canonical_dataset,
    expand_datasets,
    filter_problem,
    filters_of,
    listed,
)
from trace_dagster.chain.schema_page import schema_page
from trace_dagster.chain.schemas import columns_of, cryo_columns_of, fingerprint, schema_of


def test_the_tables_agree_with_each_other() -> None:
    """Aliases, groups and filters name datasets and filters that exist; no alias hides a dataset."""
    assert set(ALIASES.values()) < set(DATASETS)
    assert not set(ALIASES) & set(DATASETS)
    assert {member for members in GROUPS.values() for member in members} < set(DATASETS)
    assert set(ALLOWED_FILTERS) == {*DATASETS, *NATIVE_ONLY}
    assert {*NATIVE_ONLY} < {*NATIVE_DATASETS} <= {*DATASETS, *NATIVE_ONLY}
    assert frozenset().union(*ALLOWED_FILTERS.values()) == set(FILTERS)
    assert all(required <= ALLOWED_FILTERS[name] for name, required in REQUIRED_FILTERS.items())


@pytest.mark.parametrize(
    ("name", "expected"), [("txs", "transactions"), ("events", "logs"), ("blocks", "blocks")]
)
def test_aliases_become_datasets(name: str, expected: str) -> None:
    """Cryo's short names mean their datasets."""
    assert canonical_dataset(name) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blcoks", "'blcoks' is no dataset of Cryo"),
        (
            "state_reads",
            "'state_reads' is a group of datasets; write balance_reads, code_reads, nonce_reads, storage_",
        ),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    """A misspelt name and a group are errors that say so."""
    with pytest.raises(ValueError, match=re.escape(message)):
        canonical_dataset(name)


def test_groups_expand_in_order_and_once() -> None:
    """A group becomes its members; what is named twice comes once."""
    assert expand_datasets(["transactions", "blocks_and_transactions", "events"]) == (
        "transactions",
        "blocks",
        "logs",
    )


def test_filters_reach_the_datasets_that_take_them() -> None:
    """Of a job's filters each dataset gets its own."""
    filters = {"address": ("0x01",), "from_address": ("0x02",)}
    assert filters_of("logs", filters) == {"address": ("0x01",)}
    assert filters_of("transactions", filters) == {"from_address": ("0x02",)}
    assert filters_of("blocks", filters) == {}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("address", "0x" + "aB" * 20, None),
        ("topic0", "0x" + "00" * 32, None),
        ("call_data", "0x", None),
        ("js_tracer", "{result: ...}", None),
        (
            "address",
            "0x1234",
            "filters.address: '0x1234' is not of the right form; write 0x and 40 hex digits",
        ),
        ("slot", "0x0", "filters.slot: '0x0' is not of the right form; write 0x and 64 hex digits"),
        (
            "address",
            "/etc/accounts.parquet:address",
            "filters.address: '/etc/accounts.parquet:address' is not of",
        ),
        (
            "call_data",
            "0xabc",
            "filters.call_data: '0xabc' is not of the right form; write 0x and an even number",
        ),
    ],
)
def test_filters_are_hex_of_the_right_length(name: str, value: str, problem: str | None) -> None:
    """Values have the right length, and are never names of files, which Cryo would read."""
    found = filter_problem(name, value)
    assert found is None if problem is None else (found or "").startswith(problem)


def test_long_lists_are_cut() -> None:
    """A message names the first few and counts the others."""
    assert listed(range(3)) == "0, 1, 2"
    assert listed(range(5), limit=2) == "0, 1 and 3 more"


def test_schemas_are_fixed_for_what_the_native_engine_makes() -> None:
    """These datasets have our schema, Cryo's columns first; the others are as Cryo gives them."""
    fixed = {name for name in (*DATASETS, *NATIVE_ONLY) if schema_of(name) is not None}
    assert fixed == set(NATIVE_DATASETS)
    for name in DATASETS:
        schema = schema_of(name)
        assert columns_of(name) == (None if schema is None else tuple(schema.names))
        first = cryo_columns_of(name) or ()
        assert (columns_of(name) or ())[: len(first)] == first


def test_the_page_of_columns_is_current() -> None:
    """docs/schemas.md is what ``trace schema --tables`` prints."""
    page = (Path(__file__).parents[3] / "docs" / "schemas.md").read_text(encoding="utf-8")
    assert page == schema_page()


def test_fingerprints_tell_schemas_apart() -> None:
    """A fingerprint changes with a name, a type or the order, and with nothing else."""
    schema = schema_of("logs")
    assert schema is not None
    assert fingerprint(schema) == fingerprint(schema.with_metadata({"a": "b"}))
    swapped = schema.set(0, schema.field(1)).set(1, schema.field(0))
    assert len({fingerprint(schema), fingerprint(swapped), fingerprint(schema.remove(0))}) == 3
