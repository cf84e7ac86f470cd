"""The project of ``trace demo``: a DAG, a Dagster instance, a store and a ledger in one folder."""

import hashlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import dagster as dg
import polars as pl

from trace_dagster import metadata
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.cli.gateway_run import stop
from trace_dagster.cli.local_gateway import LocalGateway, local_gateway
from trace_dagster.errors import DataMismatch, EngineFailed
from trace_dagster.ledger import Ledger, open_ledger
from trace_dagster.settings import Settings
from trace_dagster.store import ObjectStore, open_store, scan_polars
from trace_dagster.testing.anvil import Anvil

__all__ = ["DATASETS", "DemoProject", "Materialized", "PartitionRows", "demo_gateway"]

DATASETS = ("blocks", "transactions", "logs")

_YAML = """\
name: demo
jobs:
  - name: range_request
    activation: source
    runtime: dispatcher
    operator: range_request
    source: {{ kind: manual }}
    config: {{ start_block: {start}, end_block: {end} }}
    outputs: 1
  - name: range_split
    activation: reactive
    runtime: dispatcher
    operator: range_splitter
    execution_strategy: PerPartition
    inputs: [ {{ from: {{ job: range_request, output: 0 }} }} ]
    config: {{ chunk_size: {chunk} }}
    outputs: 1
    update_strategy: replace
  - name: ingest
    activation: reactive
    runtime: dispatcher
    operator: cryo_ingest
    execution_strategy: PerPartition
    inputs: [ {{ from: {{ job: range_split, output: 0 }} }} ]
    config: {{ chain_id: {chain_id}, datasets: [{datasets}], rpc_pool: demo, engine: {engine} }}
    scaling: {{ max_concurrency: 2 }}
    outputs: {outputs}
    update_strategy: replace
    timeout_seconds: 300
"""
_INSTANCE = """\
telemetry: { enabled: false }
concurrency: { pools: { granularity: op, default_limit: 1 } }
"""


@dataclass(frozen=True)
class Materialized:
    """One materialization that Dagster recorded.

    Attributes:
        dataset: the output.
        partition: its key.
        already_committed: whether the version was there already and was only verified.
        rpc_requests: JSON-RPC requests of all the partition's datasets, where that is told.
        rpc_credits: what the gateway counted for them, likewise.
    """

    dataset: str
    partition: str
    already_committed: bool
    rpc_requests: float | None = None
    rpc_credits: float | None = None


@dataclass(frozen=True)
class PartitionRows:
    """What the store holds of one partition.

    Attributes:
        partition: the blocks.
        blocks: rows of ``blocks``.
        transactions: rows of ``transactions``.
        logs: rows of ``logs``.
        reverted: transactions without success.
        last_block_hash: 0x hex.
        block_hashes: of every block, 0x hex, in order.
        transaction_hashes: of every transaction, 0x hex, in order.
        log_keys: (transaction hash, log index) of every log, in order.
    """

    partition: BlockRange
    blocks: int
    transactions: int
    logs: int
    reverted: int
    last_block_hash: str
    block_hashes: Sequence[str]
    transaction_hashes: Sequence[str]
    log_keys: Sequence[tuple[str, int]]


class DemoProject:
    """Everything of one demo below one folder; a context manager that holds the embedded Postgres."""

    CHAIN_ID: ClassVar[int] = 31337

    def __init__(
        self, folder: Path, engine: str, blocks: BlockRange, chunk_size: int, gateway: LocalGateway | None
    ) -> None:
        self._folder = folder
        self._engine = engine
        self._blocks = blocks
        self._chunk_size = chunk_size
        self._environment = self._environment_of(gateway)
        self._settings = Settings.from_environment(self._environment)

    def __enter__(self) -> Self:
        home = self._folder / "dagster"
        home.mkdir()
        (home / "dagster.yaml").write_text(_INSTANCE)
        with ExitStack() as resources:
            self._ledger: Ledger = resources.enter_context(open_ledger(self._settings))
            self._store: ObjectStore = open_store(self._settings.object_store_url, self._environment)
            self._instance = resources.enter_context(dg.DagsterInstance.from_config(str(home)))
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._resources.close()

    @property
    def partitions(self) -> Sequence[BlockRange]:
        """The block ranges, in order."""
        return list(self._blocks.split(self._chunk_size))

    @property
    def materialize_command(self) -> str:
        """The command that ``materialize`` runs, as one types it."""
        return shlex.join(["dagster", *self._materialize_arguments()])

    def write_dag(self) -> Path:
        """Write the DAG and return its file."""
        path = self._folder / "dag_specs" / "demo.yaml"
        path.parent.mkdir()
        path.write_text(
            _YAML.format(
                start=self._blocks.start_block,
                end=self._blocks.end_block,
                chunk=self._chunk_size,
                chain_id=self.CHAIN_ID,
                datasets=", ".join(DATASETS),
                outputs=len(DATASETS),
                engine=self._engine,
            )
        )
        return path

    def materialize(self) -> float:
        """Materialize every partition with Dagster's command, and return the seconds it took.

        Raises:
            EngineFailed: the command failed.
        """
        self._since = time.time()
        started = time.monotonic()
        log = self._folder / "dagster.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [str(Path(sys.executable).with_name("dagster")), *self._materialize_arguments()],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                status = process.wait()
            finally:
                stop(process)
        if status != 0:
            raise EngineFailed(f"dagster ended with status {status}:\n{log.read_text()[-4000:]}")
        return time.monotonic() - started

    def materializations(self) -> Sequence[Materialized]:
        """Return what the last ``materialize`` told Dagster."""
        found = []
        for dataset in DATASETS:
            records = self._instance.fetch_materializations(
                dg.AssetRecordsFilter(
                    asset_key=dg.AssetKey(["demo", "ingest", dataset]), after_timestamp=self._since
                ),
                limit=1000,
            ).records
            for record in records:
                event = record.asset_materialization
                if event is not None:
                    kept = event.metadata[metadata.ALREADY_COMMITTED].value is True
                    requests, spent = (
                        _number(event.metadata.get(name))
                        for name in (metadata.RPC_REQUESTS, metadata.RPC_CREDITS)
                    )
                    found.append(Materialized(dataset, event.partition or "", kept, requests, spent))
        return found

    def objects(self) -> Mapping[str, str]:
        """Return every object's path and SHA-256."""
        root = self._settings.home / "store"
        return {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }

    def read_back(self) -> Sequence[PartitionRows]:
        """Read what is committed, as any reader would."""
        rows = []
        for partition in self.partitions:
            blocks, transactions, logs = (self._scan(dataset, partition) for dataset in DATASETS)
            block_hashes = _hex(blocks["block_hash"])
            log_transactions = _hex(logs["transaction_hash"])
            rows.append(
                PartitionRows(
                    partition=partition,
                    blocks=blocks.height,
                    transactions=transactions.height,
                    logs=logs.height,
                    reverted=transactions.filter(~pl.col("success")).height,
                    last_block_hash=block_hashes[-1],
                    block_hashes=block_hashes,
                    transaction_hashes=_hex(transactions["transaction_hash"]),
                    log_keys=list(zip(log_transactions, logs["log_index"].to_list(), strict=True)),
                )
            )
        return rows

    def check_against_node(self, anvil: Anvil, rows: PartitionRows) -> None:
        """Compare blocks, transactions, statuses and logs with the node's own answers.

        Raises:
            DataMismatch: they differ.
        """
        numbers = range(rows.partition.start_block, rows.partition.end_block + 1)
        blocks = anvil.batch([("eth_getBlockByNumber", (hex(number), False)) for number in numbers])
        receipts = [
            receipt
            for block in anvil.batch([("eth_getBlockReceipts", (hex(number),)) for number in numbers])
            for receipt in block
        ]
        logs = [
            (log["transactionHash"], int(log["logIndex"], 16))
            for receipt in receipts
            for log in receipt["logs"]
        ]
        reverted = sum(receipt["status"] == "0x0" for receipt in receipts)
        for what, stored, answered in (
            ("block hashes", list(rows.block_hashes), [block["hash"] for block in blocks]),
            (
                "transaction hashes",
                list(rows.transaction_hashes),
                [one["transactionHash"] for one in receipts],
            ),
            ("logs", list(rows.log_keys), logs),
            ("reverted transactions", [rows.reverted], [reverted]),
        ):
            if stored != answered:
                raise DataMismatch(
                    f"{what} of partition {rows.partition.key}: the store has {len(stored)}, "
                    f"the node {len(answered)}, or they differ"
                )

    def _scan(self, dataset: str, partition: BlockRange) -> pl.DataFrame:
        return scan_polars(
            self._store,
            self.CHAIN_ID,
            dataset,
            partition.start_block,
            partition.end_block,
            order=self._ledger.current(self._store.url, self.CHAIN_ID, dataset),
            synthetic="allow" if self._engine == "stub" else "refuse",
        ).collect()

    def _materialize_arguments(self) -> list[str]:
        first, last = self.partitions[0].key, self.partitions[-1].key
        selection = 'key:"demo/ingest/*"'
        arguments = ["asset", "materialize", "-m", "trace_dagster.definitions", "--select", selection]
        return [*arguments, "--partition-range", f"{first}...{last}"]

    def _environment_of(self, gateway: LocalGateway | None) -> dict[str, str]:
        environment = _clean_environment() | {
            "DAGSTER_HOME": str(self._folder / "dagster"),
            "TRACE_HOME": str(self._folder),
            "TRACE_DAG_SPECS": str(self._folder / "dag_specs"),
            "PYTHONWARNINGS": "ignore",
        }
        return environment if gateway is None else gateway.given_to(environment)


def demo_gateway(folder: Path, url: str) -> AbstractContextManager[LocalGateway]:
    """Run the gateway of the demo's pool, the only process that knows the node."""
    environment = _clean_environment() | {"TRACE_RPC_POOL_DEMO_URL": url}
    return local_gateway(environment, folder / "gateway.log")


def _clean_environment() -> dict[str, str]:
    own = ("TRACE_", "AWS_", "DAGSTER_")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


def _number(value: dg.MetadataValue[Any] | None) -> float | None:
    return None if value is None else float(value.value)


def _hex(column: pl.Series) -> list[str]:
    return ["0x" + value.hex() for value in column.to_list()]
