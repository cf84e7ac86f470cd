"""The real Cryo on real blocks of several chains and forks, as far as their data lies beside the checkout."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.extraction import cryo_rows_of, extract
from tests.support.fault_proxy import FaultProxy
from tests.support.real_blocks import ROOT, RealBlocks, real_sets
from trace_dagster.errors import DataMismatch, EngineFailed, TraceError

ABSENT = "absent"

# What the engine must say of sets whose transactions it cannot give; of all others it must give every row.
REFUSED: dict[str, tuple[type[TraceError], str]] = {
    "cronos-131465": (
        DataMismatch,
        "block 131465: it lists 3 transactions, but the endpoint gave 2 receipts",
    ),
    "eth-frontier-47218": (DataMismatch, "block 47218: the endpoint gave null instead of the receipts"),
    "eth-homestead-1755634": (EngineFailed, "could not determine status .* before the Byzantium fork"),
    "eth-spurious-4369999": (EngineFailed, "could not determine status .* before the Byzantium fork"),
    "tempo-mainnet-17708868": (EngineFailed, "missing field `value`"),
}


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """An endpoint that serves what the test gives it."""
    monkeypatch.setattr("trace_dagster.operators.cryo_ingest.cryo_collect._FIRST_PAUSE_SECONDS", 0.01)
    empty = FaultProxy()
    yield empty
    empty.close()


@pytest.mark.parametrize("name", real_sets() or [ABSENT])
def test_real_blocks_come_out_as_they_are(proxy: FaultProxy, tmp_path: Path, name: str) -> None:
    """Blocks, logs and transactions equal the node's answers, or the error says what is wrong with them."""
    if name == ABSENT:
        print(f"no real blocks in {ROOT}: set TRACE_CHAIN_FIXTURES to test with them")
        return
    real = RealBlocks(name)
    real.serve(proxy)

    def rows(dataset: str) -> list[dict[str, Any]]:
        result = extract(tmp_path, proxy.endpoint(), dataset, (real.first, real.last), chain_id=real.chain_id)
        return cryo_rows_of(result, dataset)

    assert [_block(row) for row in rows("blocks")] == [
        real.blocks[number]["block"]["hash"] for number in sorted(real.blocks)
    ]
    if name in REFUSED:
        error, message = REFUSED[name]
        with pytest.raises(error, match=message):
            rows("transactions")
        return
    assert [_transaction(row) for row in rows("transactions")] == list(_true_transactions(real))
    assert [_log(row) for row in rows("logs")] == list(_true_logs(real))


def _hex(value: bytes | None) -> str | None:
    return None if value is None else f"0x{value.hex()}"


def _block(row: dict[str, Any]) -> str | None:
    return _hex(row["block_hash"])


def _transaction(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        _hex(row["transaction_hash"]),
        row["transaction_index"],
        _hex(row["from_address"]),
        _hex(row["to_address"]),
        int(row["value_string"]),
        _hex(row["input"]),
        row["nonce"],
        row["gas_limit"],
        row["transaction_type"],
        row["gas_used"],
        row["success"],
    )


def _true_transactions(real: RealBlocks) -> Iterator[tuple[Any, ...]]:
    for _, answers in sorted(real.blocks.items()):
        receipts = {one["transactionHash"]: one for one in answers["receipts"]}
        for index, one in enumerate(answers["block"]["transactions"]):
            receipt = receipts[one["hash"]]
            yield (
                one["hash"],
                index,
                one["from"],
                one["to"],
                int(one["value"], 16),
                one["input"],
                int(one["nonce"], 16),
                int(one["gas"], 16),
                int(one["type"], 16),
                int(receipt["gasUsed"], 16),
                receipt["status"] == "0x1",
            )


def _log(row: dict[str, Any]) -> tuple[Any, ...]:
    topics = [_hex(row[f"topic{at}"]) for at in range(4)]
    return (_hex(row["transaction_hash"]), row["log_index"], _hex(row["address"]), topics, _hex(row["data"]))


def _true_logs(real: RealBlocks) -> Iterator[tuple[Any, ...]]:
    for _, answers in sorted(real.blocks.items()):
        for receipt in answers["receipts"]:
            for log in receipt["logs"]:
                topics = [*log["topics"], None, None, None, None][:4]
                yield log["transactionHash"], int(log["logIndex"], 16), log["address"], topics, log["data"]
