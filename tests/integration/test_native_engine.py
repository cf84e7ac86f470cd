"""The native engine against a real node: rows, plans, determinism, filters."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.extraction import Reports, cryo_rows_of, extract, rows_of, table_of
from tests.support.fault_proxy import FaultProxy
from tests.support.small_chain import TRANSFER, SmallChain, node_rows, small_chain
from trace_dagster.chain.datasets import NATIVE_DATASETS, NATIVE_ONLY
from trace_dagster.chain.schemas import cryo_columns_of, schema_of
from trace_dagster.errors import ConfigurationError, DeadlineExceeded, EngineFailed, WrongChain
from trace_dagster.operators.base import Deadline
from trace_dagster.operators.cryo_ingest.native import NativeEngine
from trace_dagster.operators.cryo_ingest.native.fetch import FetchLimits
from trace_dagster.settings import RpcEndpoint

NATIVE = NativeEngine()
COMMON = tuple(name for name in NATIVE_DATASETS if name not in NATIVE_ONLY)


@pytest.fixture(scope="module")
def chain() -> Iterator[SmallChain]:
    """A chain of seven blocks."""
    with small_chain() as built:
        yield built


@pytest.fixture
def endpoint(chain: SmallChain) -> RpcEndpoint:
    """The node itself."""
    return RpcEndpoint(pool="tested", url=chain.anvil.url, variable="TRACE_RPC_POOL_TESTED_URL")


@pytest.fixture
def proxy(chain: SmallChain) -> Iterator[FaultProxy]:
    """The node, counting what it is asked."""
    counting = FaultProxy(chain.anvil.url)
    yield counting
    counting.close()


@pytest.mark.parametrize("start", [0, 3])
def test_every_cell_is_what_the_node_says(
    chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path, start: int
) -> None:
    """Cryo's columns of blocks, transactions, logs and traces equal the node's own answers."""
    result = extract(
        tmp_path, endpoint, "blocks,transactions,logs,traces", (start, chain.head), engine=NATIVE
    )
    for dataset in ("blocks", "transactions", "logs", "traces"):
        rows = cryo_rows_of(result, dataset)
        assert rows == node_rows(chain.anvil, dataset, start, chain.head), dataset
        assert rows
        assert table_of(result, dataset).schema == schema_of(dataset)


@pytest.mark.parametrize("together", [True, False])
def test_rows_equal_cryos(
    chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path, *, together: bool
) -> None:
    """Every dataset that both engines have is the same in all of Cryo's columns, however it is asked for."""
    by_cryo = extract(tmp_path, endpoint, ",".join(COMMON), (0, chain.head))
    asked = [COMMON] if together else [(dataset,) for dataset in COMMON]
    for datasets in asked:
        by_us = extract(tmp_path, endpoint, ",".join(datasets), (0, chain.head), engine=NATIVE)
        for dataset in datasets:
            columns = list(cryo_columns_of(dataset) or ())
            ours, theirs = (table_of(result, dataset).select(columns) for result in (by_us, by_cryo))
            assert ours.equals(theirs), dataset
            assert dataset == "erc721_transfers" or ours.num_rows > 0


@pytest.mark.parametrize(
    ("dataset", "filters"),
    [
        ("logs", {"topic0": (f"0x{TRANSFER}",)}),
        ("logs", {"address": "logger"}),
        ("erc20_transfers", {"address": "token"}),
        ("transactions", {"to_address": "token"}),
        ("transactions", {"from_address": "accounts"}),
        ("traces", {"to_address": "logger"}),
        ("native_transfers", {"from_address": "caller"}),
    ],
)
def test_filters_are_cryos(
    chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path, dataset: str, filters: dict[str, object]
) -> None:
    """A filter lets the same rows through as Cryo's."""
    values: dict[str, tuple[str, ...]] = {}
    for name, value in filters.items():
        held = getattr(chain, value) if isinstance(value, str) else value
        values[name] = (held,) if isinstance(held, str) else tuple(held[:2])
    ours, theirs = (
        table_of(extract(tmp_path, endpoint, dataset, (0, chain.head), engine=engine, **values), dataset)
        for engine in (NATIVE, None)
    )
    columns = list(cryo_columns_of(dataset) or ())
    assert ours.select(columns).equals(theirs.select(columns))
    unfiltered = table_of(extract(tmp_path, endpoint, dataset, (0, chain.head), engine=NATIVE), dataset)
    assert 0 < ours.num_rows < unfiltered.num_rows or dataset == "erc20_transfers"


def test_filters_of_one_dataset_leave_the_others_whole(
    chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path
) -> None:
    """A filter on logs changes neither transactions nor transfers asked for beside them."""
    datasets = "logs,transactions,erc20_transfers"
    some = extract(tmp_path, endpoint, datasets, (0, chain.head), engine=NATIVE, topic3=("0x" + "00" * 32,))
    every = extract(tmp_path, endpoint, datasets, (0, chain.head), engine=NATIVE)
    assert table_of(some, "logs").num_rows == 0
    for dataset in ("transactions", "erc20_transfers"):
        assert table_of(some, dataset).equals(table_of(every, dataset))


@pytest.mark.parametrize(
    ("datasets", "methods"),
    [
        ("blocks", {"eth_getBlockByNumber": 8}),
        ("blocks,transactions,logs", {"eth_getBlockByNumber": 8, "eth_getBlockReceipts": 8}),
        ("logs,erc20_transfers,blocks", {"eth_getBlockByNumber": 8, "eth_getLogs": 2}),
        ("traces,contracts,native_transfers", {"eth_getBlockByNumber": 8, "trace_block": 8}),
        (
            ",".join(NATIVE_DATASETS),
            {
                "eth_getBlockByNumber": 8,
                "eth_getBlockReceipts": 8,
                "trace_block": 8,
                "debug_traceBlockByNumber": 8,
            },
        ),
    ],
)
def test_datasets_share_their_requests(
    chain: SmallChain, proxy: FaultProxy, tmp_path: Path, datasets: str, methods: dict[str, int]
) -> None:
    """Each block is asked for once, whatever is made of it, and several in one exchange."""
    result = extract(tmp_path, proxy.endpoint(), datasets, (0, 7), engine=NATIVE)
    assert dict(proxy.calls) == {**methods, "eth_chainId": 1, "eth_blockNumber": 1}
    assert result.rpc_requests == sum(proxy.calls.values())
    assert result.metadata["trace/http_requests"] == 2
    assert len(proxy.seen) == 4


def test_any_batching_gives_the_same_bytes(
    chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One connection or many, one block a batch or all, and a repeated run, give the same files and facts."""
    asked = ",".join(NATIVE_DATASETS)
    once = extract(tmp_path, endpoint, asked, (0, chain.head), engine=NATIVE)
    alone = NativeEngine(FetchLimits(connections=1, memory_bytes=1))
    for blocks, engine in ((1, NATIVE), (3, alone), (100, NATIVE)):
        monkeypatch.setattr("trace_dagster.operators.cryo_ingest.native.fetch._FIRST_BLOCKS", blocks)
        again = extract(tmp_path, endpoint, asked, (0, chain.head), engine=engine)
        for one, other in zip(once.outputs, again.outputs, strict=True):
            assert [file.path.read_bytes() for file in one.files] == [
                file.path.read_bytes() for file in other.files
            ], one.dataset
            assert (one.facts, one.checks, one.schema) == (other.facts, other.checks, other.schema)


def test_facts_and_checks_are_reported(chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path) -> None:
    """The result names the hashes at the ends, and the checks that vouch for each dataset."""
    said = Reports()
    result = extract(tmp_path, endpoint, "blocks,logs,traces", (2, 4), engine=NATIVE, progress=said)
    rows = rows_of(result, "blocks")
    facts = result.outputs[0].facts
    assert (facts.first_block_hash, facts.last_block_hash, facts.first_parent_hash) == (
        f"0x{rows[0]['block_hash'].hex()}",
        f"0x{rows[-1]['block_hash'].hex()}",
        f"0x{rows[0]['parent_hash'].hex()}",
    )
    headers = {"headers": "passed", "parent_links": "passed"}
    assert {one.dataset: dict(one.checks) for one in result.outputs} == {
        "blocks": headers,
        "logs": {
            **headers,
            "empty_lists": "passed",
            "logs_match_transactions": "passed",
            "log_index": "passed",
            "logs_bloom": "passed",
        },
        "traces": {
            **headers,
            "empty_lists": "passed",
            "outermost_calls": "passed",
            "trace_tree": "passed",
        },
    }
    message, fields = said.said[-1]
    assert message == "Fetched, checked and written"
    assert (fields["blocks"], fields["of"], fields["eta_seconds"]) == (3, 3, 0)


def test_native_only_datasets(chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path) -> None:
    """Receipts, withdrawals and call frames say what the node says."""
    result = extract(tmp_path, endpoint, "receipts,withdrawals,calls", (0, chain.head), engine=NATIVE)
    receipts = rows_of(result, "receipts")
    asked = [
        chain.anvil.call("eth_getTransactionReceipt", f"0x{row['transaction_hash'].hex()}")
        for row in receipts
    ]
    for name, key in (
        ("cumulative_gas_used", "cumulativeGasUsed"),
        ("effective_gas_price", "effectiveGasPrice"),
        ("transaction_type", "type"),
    ):
        assert [row[name] for row in receipts] == [int(one[key], 16) for one in asked]
    assert [row["success"] for row in receipts] == [one["status"] == "0x1" for one in asked]
    frames = rows_of(result, "calls")
    assert len([one for one in frames if one["trace_address"] == ""]) == len(receipts)
    assert {one["type"] for one in frames} >= {"CALL", "CREATE", "STATICCALL"}
    assert any(one["error"] for one in frames)
    assert table_of(result, "withdrawals").num_rows == 0


def test_one_range_larger_than_the_head_or_on_another_chain(
    chain: SmallChain, endpoint: RpcEndpoint, tmp_path: Path
) -> None:
    """Both are errors before anything is written."""
    beyond = chain.head + 1
    with pytest.raises(EngineFailed, match=f"block {beyond} does not exist yet at rpc_pool 'tested'"):
        extract(tmp_path, endpoint, "blocks", (0, beyond), engine=NATIVE)
    with pytest.raises(WrongChain, match="serves chain 31337, but the job's chain_id is 5"):
        extract(tmp_path, endpoint, "blocks", (0, 1), engine=NATIVE, chain_id=5)
    with pytest.raises(
        ConfigurationError, match="engine native has no dataset balance_diffs; it has blocks,"
    ):
        extract(tmp_path, endpoint, "blocks,balance_diffs", (0, 1), engine=NATIVE)
    with pytest.raises(DeadlineExceeded, match="timeout_seconds: 9"):
        extract(tmp_path, endpoint, "blocks", (0, 1), engine=NATIVE, deadline=Deadline(9, at=0))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_column_too_narrow_is_an_error(chain: SmallChain, proxy: FaultProxy, tmp_path: Path) -> None:
    """A value that its column's type cannot hold fails with the value; nothing is cut."""
    proxy.rewrite["eth_getBlockByNumber"] = lambda _params, block: {**block, "size": hex(2**32)}
    with pytest.raises(Exception, match="blocks: size 4294967296 does not fit the column's type, uint32"):
        extract(tmp_path, proxy.endpoint(), "blocks", (0, 0), engine=NATIVE)


def test_unmodelled_fields_are_kept_and_counted(chain: SmallChain, proxy: FaultProxy, tmp_path: Path) -> None:
    """A field that no column holds is in ``extra``, and metadata says in how many rows."""

    def newer(_params: object, block: dict[str, object]) -> dict[str, object]:
        return {**block, "forkField": {"b": 1, "a": "0x1"}, "baseFeePerGas": hex(2**64)}

    proxy.rewrite["eth_getBlockByNumber"] = newer
    result = extract(tmp_path, proxy.endpoint(), "blocks", (1, 2), engine=NATIVE)
    table = table_of(result, "blocks")
    assert (
        table.column("extra").to_pylist()
        == ['{"baseFeePerGas":"0x10000000000000000","forkField":{"a":"0x1","b":1}}'] * 2
    )
    assert pa.compute.is_null(table.column("base_fee_per_gas")).to_pylist() == [True, True]
    assert result.metadata["trace/unmodelled_fields"] == {"blocks": 2}
