"""The engine that makes its rows up."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.chain.schemas import DATASETS
from trace_dagster.errors import ConfigurationError, DeadlineExceeded, StagingFull
from trace_dagster.operators.base import Deadline
from trace_dagster.operators.cryo_ingest.engines import Extraction, ExtractionResult
from trace_dagster.operators.cryo_ingest.staging import StagingLimits
from trace_dagster.operators.cryo_ingest.stub import StubEngine
from trace_dagster.testing import SimulatedChain

MAIN = ("blocks", "transactions", "logs")


def extract(
    directory: Path,
    blocks: BlockRange,
    datasets: tuple[str, ...] = MAIN,
    progress: list[dict[str, object]] | None = None,
    **options: object,
) -> ExtractionResult:
    """Run the stub engine for chain 10143 in ``directory``, which is made."""
    directory.mkdir()
    work = Extraction(10143, datasets, blocks, directory, **{"deadline": Deadline.after(None), **options})
    told = [] if progress is None else progress
    return StubEngine().extract(work, lambda message, **fields: told.append({"message": message, **fields}))


def digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def test_it_says_that_it_is_synthetic() -> None:
    """The stub declares its rows synthetic and asks for no endpoint."""
    assert StubEngine.name == "stub"
    assert StubEngine.synthetic
    assert not StubEngine.needs_endpoint


def test_rows_are_the_simulated_chains(tmp_path: Path) -> None:
    """Files hold the rows of the simulated chain, also where they were made in several batches."""
    blocks = BlockRange(500, 2_600)
    result = extract(tmp_path / "a", blocks)
    assert [output.dataset for output in result.outputs] == list(MAIN)
    assert result.rpc_requests == 0
    expected = SimulatedChain(chain_id=10143).tables(MAIN, blocks)
    for output in result.outputs:
        (file,) = output.files
        assert file.path == tmp_path / "a" / f"{output.dataset}_500_2600.parquet"
        table = pq.read_table(file.path)
        assert table.equals(expected[output.dataset])
        assert file.rows == table.num_rows
        assert output.schema == table.schema
        assert output.checks == {"chain": "not checked: rows are synthetic"}


def test_neighbouring_ranges_link(tmp_path: Path) -> None:
    """A range's first parent hash is the last block hash of the range before it."""
    facts = [
        extract(tmp_path / blocks.key, blocks, ("blocks",)).outputs[0].facts
        for blocks in BlockRange(0, 29).split(10)
    ]
    assert facts[0].first_parent_hash == "0x" + "00" * 32
    assert facts[1].first_parent_hash == facts[0].last_block_hash
    assert facts[2].first_parent_hash == facts[1].last_block_hash
    table = pq.read_table(tmp_path / "10_19" / "blocks_10_19.parquet")
    hashes = [f"0x{value.hex()}" for value in table.column("block_hash").to_pylist()]
    assert (facts[1].first_block_hash, facts[1].last_block_hash) == (hashes[0], hashes[-1])


def test_every_dataset_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Another process with other hash seeds and an own directory writes the same bytes, for all datasets."""
    extract(tmp_path / "here", BlockRange(0, 29), DATASETS)
    program = (
        "import sys, pathlib; from tests.unit.operators.test_stub import extract, BlockRange, DATASETS;"
        "extract(pathlib.Path(sys.argv[1]), BlockRange(0, 29), DATASETS)"
    )
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(root)}
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "there")],
        check=True,
        cwd=root,
        env=environment,
        timeout=120,
    )
    assert digests(tmp_path / "there") == digests(tmp_path / "here")
    assert len(digests(tmp_path / "here")) == len(DATASETS)


def test_a_subset_has_the_same_bytes(tmp_path: Path) -> None:
    """Logs alone are the logs that come with blocks and transactions."""
    extract(tmp_path / "all", BlockRange(0, 99))
    extract(tmp_path / "one", BlockRange(0, 99), ("logs",))
    assert digests(tmp_path / "one").items() <= digests(tmp_path / "all").items()


def test_filters_are_heeded(tmp_path: Path) -> None:
    """A filter reaches the datasets that take it and no other."""
    token = SimulatedChain(chain_id=10143).accounts.tokens[3]
    extract(tmp_path / "a", BlockRange(0, 99), ("blocks", "logs"), filters={"address": (f"0x{token.hex()}",)})
    assert set(pq.read_table(tmp_path / "a" / "logs_0_99.parquet").column("address").to_pylist()) == {token}
    assert pq.read_metadata(tmp_path / "a" / "blocks_0_99.parquet").num_rows == 100


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    """Progress counts blocks up to the whole range."""
    told: list[dict[str, object]] = []
    extract(tmp_path / "a", BlockRange(0, 1_499), ("blocks",), progress=told)
    assert [(one["blocks"], one["of"]) for one in told] == [(1_000, 1_500), (1_500, 1_500)]


@pytest.mark.parametrize(
    ("blocks", "options", "error", "message"),
    [
        (
            BlockRange(2_499_999_999, 2_500_000_001),
            {},
            ConfigurationError,
            "engine stub has blocks 0 to 2500000000, and the range ends at 2500000001",
        ),
        (
            BlockRange(0, 9),
            {"filters": {"address": ("vitalik",)}},
            ConfigurationError,
            "engine stub cannot use filters {'address': \\('vitalik',\\)}: non-hexadecimal",
        ),
        (BlockRange(0, 9), {"deadline": Deadline(3, at=0)}, DeadlineExceeded, "timeout_seconds: 3"),
        (
            BlockRange(0, 9),
            {"limits": StagingLimits(max_files=1)},
            StagingFull,
            "has 2 files .* 1 are allowed",
        ),
    ],
    ids=["end", "filter", "deadline", "limits"],
)
def test_failures_name_their_cause_and_leave_nothing(
    tmp_path: Path, blocks: BlockRange, options: dict[str, object], error: type[Exception], message: str
) -> None:
    """What cannot be done is one error with its numbers, and no file stays."""
    with pytest.raises(error, match=message):
        extract(tmp_path / "a", blocks, ("blocks", "logs"), **options)
    assert list((tmp_path / "a").iterdir()) == []
