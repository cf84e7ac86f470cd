"""The real Cryo against a real node: rows, filters, determinism."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.extraction import Reports, cryo_rows_of, extract, table_of
from tests.support.fault_proxy import FaultProxy
from tests.support.small_chain import TRANSFER, SmallChain, node_rows, small_chain
from trace_dagster.chain.datasets import DATASETS, GROUPS, REQUIRED_FILTERS
from trace_dagster.chain.schemas import schema_of
from trace_dagster.errors import StagingFull
from trace_dagster.operators.cryo_ingest.staging import StagingLimits
from trace_dagster.settings import RpcEndpoint

FOUR = "blocks,transactions,logs,traces"


@pytest.fixture(scope="module")
def chain() -> Iterator[SmallChain]:
    """A chain of seven blocks."""
    with small_chain() as built:
        yield built


@pytest.fixture
def endpoint(chain: SmallChain) -> Iterator[RpcEndpoint]:
    """The node itself."""
    return RpcEndpoint(pool="tested", url=chain.anvil.url, variable="TRACE_RPC_POOL_TESTED_URL")


@pytest.mark.parametrize("start", [0, 3])
def test_every_cell_is_what_the_node_says(
    chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path, start: int
) -> None:
    """Blocks, transactions, logs and traces equal the node's own answers, in every column and in order."""
    result = extract(tmp_path, endpoint, FOUR, (start, chain.head))
    for dataset in FOUR.split(","):
        rows = cryo_rows_of(result, dataset)
        assert rows == node_rows(chain.anvil, dataset, start, chain.head), dataset
        assert rows
        assert table_of(result, dataset).schema == schema_of(dataset)
    transactions = cryo_rows_of(result, "transactions")
    assert {row["transaction_type"] for row in transactions} >= {0, 1, 2}
    assert {row["success"] for row in transactions} == {True, False}


def test_two_runs_give_the_same_bytes(
    endpoint: RpcEndpoint, chain: SmallChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every dataset that needs no filter is the same byte for byte, also in other chunks and segments."""
    asked = ",".join(dataset for dataset in DATASETS if dataset not in REQUIRED_FILTERS)
    once = extract(tmp_path, endpoint, asked, (0, chain.head))
    monkeypatch.setattr("trace_dagster.operators.cryo_ingest.cryo_collect.BLOCKS_PER_CHUNK", 2)
    monkeypatch.setattr("trace_dagster.operators.cryo_ingest.cryo.BLOCKS_PER_SEGMENT", 5)
    again = extract(tmp_path, endpoint, asked, (0, chain.head))
    for one, other in zip(once.outputs, again.outputs, strict=True):
        assert [file.path.read_bytes() for file in one.files] == [
            file.path.read_bytes() for file in other.files
        ], one.dataset
        assert (one.dataset, one.schema, one.facts, one.checks) == (
            other.dataset,
            other.schema,
            other.facts,
            other.checks,
        )
    assert [one.dataset for one in once.outputs] == asked.split(",")


def test_facts_and_checks_are_reported(chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path) -> None:
    """The result names the hashes at the ends, and which checks were made and which were not."""
    result = extract(tmp_path, endpoint, f"{FOUR},contracts", (2, 4))
    rows = cryo_rows_of(result, "blocks")
    facts = result.outputs[0].facts
    assert (facts.first_block_hash, facts.last_block_hash, facts.first_parent_hash) == (
        f"0x{rows[0]['block_hash'].hex()}",
        f"0x{rows[-1]['block_hash'].hex()}",
        f"0x{rows[0]['parent_hash'].hex()}",
    )
    assert {one.dataset: dict(one.checks) for one in result.outputs} == {
        "blocks": {"headers": "passed"},
        "transactions": {"headers": "passed", "receipts": "passed"},
        "logs": {"headers": "passed", "receipts": "passed", "logs_bloom": "passed"},
        "traces": {"headers": "passed", "outermost_calls": "passed"},
        "contracts": {
            "headers": "passed",
            "completeness": "not checked: the node has no other list of contracts",
        },
    }


def test_progress_is_structured_and_staging_holds_the_result_alone(
    chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path
) -> None:
    """Progress is a constant text with fields; after the end only the named files lie in staging."""
    progress = Reports()
    result = extract(tmp_path, endpoint, "blocks,logs", (0, 4), progress=progress)
    assert progress.said[-1] == ("Verified against the chain", {"blocks": 5, "of": 5})
    staging = result.outputs[0].files[0].path.parent
    assert sorted(path.name for path in staging.iterdir()) == ["blocks_0_4.parquet", "logs_0_4.parquet"]


@pytest.mark.parametrize("datasets", [FOUR, "blocks", "transactions", "logs", "traces", "blocks,logs"])
def test_requests_are_counted(chain: SmallChain, tmp_path: Path, datasets: str) -> None:
    """The number of JSON-RPC requests in the result is what the endpoint saw."""
    proxy = FaultProxy(chain.anvil.url)
    result = extract(tmp_path, proxy.endpoint(), datasets, (1, chain.head))
    proxy.close()
    assert result.rpc_requests == proxy.calls.total()


def test_logs_are_filtered_and_still_checked(
    chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path
) -> None:
    """Addresses and topics filter logs alone; the kept rows are compared with the receipts'."""
    result = extract(
        tmp_path,
        endpoint,
        "blocks,logs,erc20_transfers",
        (0, chain.head),
        address=(chain.logger, chain.token),
        topic0=(f"0x{TRANSFER}", f"0x{1:064x}", f"0x{0x2A:064x}"),
    )
    addresses = {bytes.fromhex(text[2:]) for text in (chain.logger, chain.token)}
    topics = {bytes.fromhex(TRANSFER), (1).to_bytes(32, "big"), (0x2A).to_bytes(32, "big")}
    expected = [
        row
        for row in node_rows(chain.anvil, "logs", 0, chain.head)
        if row["address"] in addresses and row["topic0"] in topics
    ]
    assert cryo_rows_of(result, "logs") == expected
    assert len(expected) > 6
    assert len(cryo_rows_of(result, "blocks")) == chain.head + 1
    assert {row["value_string"] for row in cryo_rows_of(result, "erc20_transfers")} == {"7"}
    assert result.outputs[1].checks["receipts"] == "passed"


def test_transactions_are_filtered_and_still_checked(
    chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path
) -> None:
    """Sender and recipient filter transactions, and traces by their own addresses."""
    sender = chain.accounts[2]
    result = extract(
        tmp_path,
        endpoint,
        "transactions,traces",
        (0, chain.head),
        from_address=(sender,),
        to_address=(chain.token,),
    )
    expected = [
        row
        for row in node_rows(chain.anvil, "transactions", 0, chain.head)
        if row["from_address"].hex() == sender[2:].lower() and row["to_address"]
    ]
    assert cryo_rows_of(result, "transactions") == expected
    assert len(expected) == 3
    assert len(cryo_rows_of(result, "traces")) == 3


@pytest.mark.parametrize(
    ("dataset", "filters"),
    [
        ("balances", {"address": 2}),
        ("nonces", {"address": 1}),
        ("codes", {"address": 1}),
        ("slots", {"address": 1, "slot": 1}),
        ("eth_calls", {"contract": 1, "call_data": 1}),
        ("erc20_balances", {"contract": 1, "address": 1}),
        ("erc20_supplies", {"address": 1}),
        ("erc20_metadata", {"address": 1}),
        ("erc721_metadata", {"address": 1}),
        ("javascript_traces", {"js_tracer": 1}),
    ],
)
def test_datasets_that_need_filters(
    chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path, dataset: str, filters: dict[str, int]
) -> None:
    """Datasets about given accounts have one row a block and account."""
    values = {
        "address": (chain.token, chain.accounts[1]),
        "contract": (chain.token,),
        "slot": (f"0x{0:064x}",),
        "call_data": ("0x",),
        "js_tracer": (
            "{data: [], fault: function(log) {}, step: function(log) {}, result: function() {return 1}}",
        ),
    }
    chosen = {name: values[name][:count] for name, count in filters.items()}
    result = extract(tmp_path, endpoint, dataset, (3, 5), **chosen)
    rows = cryo_rows_of(result, dataset)
    assert {row["block_number"] for row in rows} == {3, 4, 5}
    if dataset != "javascript_traces":
        assert len(rows) == 3 * max(filters.values())


@pytest.mark.parametrize("group", [name for name in GROUPS if name != "blocks_and_transactions"])
def test_parts_of_a_group_are_collected(
    chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path, group: str
) -> None:
    """Some but not all datasets of one of Cryo's groups, which Cryo itself cannot do together, work."""
    some = GROUPS[group][:2]
    result = extract(tmp_path, endpoint, ",".join(some), (1, chain.head))
    assert [one.dataset for one in result.outputs] == list(some)
    assert all(len(cryo_rows_of(result, dataset)) > 0 for dataset in some)


def test_parquet_holds_no_trace_of_the_machine(
    chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path
) -> None:
    """The files' metadata is the writer's name and the Arrow schema, nothing else."""
    result = extract(tmp_path, endpoint, "blocks", (0, 1))
    metadata = pq.read_metadata(result.outputs[0].files[0].path).metadata or {}
    assert set(metadata) <= {b"ARROW:schema"}


def test_a_disk_that_is_full_is_named(chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path) -> None:
    """Too little room is found before Cryo starts: it would say only that it cannot write."""
    limits = StagingLimits(min_free_bytes=2**62)
    with pytest.raises(StagingFull, match="TRACE_STAGING_DIR"):
        extract(tmp_path, endpoint, "blocks", (0, chain.head), limits=limits)
