"""A follower on a real node, stepped by hand, and its tables compared with the node's chain."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
from psycopg import sql

from tests.support.small_chain import CHAIN_ID, SmallChain
from trace_dagster.chain.decoding.pure import PureDecoder
from trace_dagster.chain.profiles import profile_of
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.hot_tables import HotTable
from trace_dagster.ledger import Ledger
from trace_dagster.operators.block_follower.config import BlockFollowerConfig
from trace_dagster.operators.block_follower.following import Following
from trace_dagster.operators.block_follower.tables import hot_table
from trace_dagster.operators.cryo_ingest.native.making import Made, Wanted, make
from trace_dagster.operators.cryo_ingest.native.plan import plan_of
from trace_dagster.operators.cryo_ingest.native.reader import Abilities, BlockReader
from trace_dagster.operators.services import Services
from trace_dagster.rpc import JsonRpcClient
from trace_dagster.settings import RpcEndpoint, Settings
from trace_dagster.testing.anvil import Anvil, running_anvil

DATASETS = ("blocks", "transactions", "logs")
POOL = "tip"


def following(
    dag: str, *, is_replacing: bool = False, datasets: Sequence[str] = DATASETS, **config: Any
) -> Following:
    """Return a follower of a DAG of this name."""
    return Following(
        dag=dag,
        job="tip",
        config=BlockFollowerConfig(
            **{"chain_id": CHAIN_ID, "rpc_pool": POOL, "poll_seconds": 0.01, "heads": "poll", **config},
            datasets=tuple(datasets),
        ),
        tables={
            dataset: hot_table(dag, "tip", dataset, (), is_replacing=is_replacing) for dataset in datasets
        },
        is_replacing=is_replacing,
        lease_seconds=10,
    )


@contextmanager
def services(home: Path, url: str) -> Iterator[Services]:
    """Open the embedded Postgres of ``home``, and name the endpoint."""
    environment = {"TRACE_HOME": str(home), f"TRACE_RPC_POOL_{POOL.upper()}_URL": url}
    with Services(Settings.from_environment(environment), environment) as opened:
        yield opened


def held_rows(ledger: Ledger, table: HotTable) -> list[dict[str, Any]]:
    """Return every row of a table, in the order of the chain."""
    order = [
        name
        for name in ("block_number", "transaction_index", "log_index", "trace_address")
        if name in table.columns.names
    ]
    statement = sql.SQL("SELECT * FROM {} ORDER BY {}").format(
        table.identifier, sql.SQL(", ").join(map(sql.Identifier, order))
    )
    with ledger.connection() as connection:
        return [dict(row) for row in connection.execute(statement)]


def made_of(endpoint: RpcEndpoint, datasets: Sequence[str], blocks: BlockRange) -> Made:
    """Return the tables of the node's chain, read and decoded apart from the follower, in Python."""
    plan = plan_of(datasets, {})
    wanted = Wanted(CHAIN_ID, profile_of(CHAIN_ID), tuple(datasets), {}, plan, blocks)
    with JsonRpcClient(endpoint) as client:
        return make(wanted, BlockReader(client, plan, PureDecoder(), Abilities()).read(blocks), None)


def chain_rows(
    endpoint: RpcEndpoint, datasets: Sequence[str], blocks: BlockRange
) -> Mapping[str, list[dict[str, Any]]]:
    """Return the rows of the node's chain as hot tables hold them."""
    made = made_of(endpoint, datasets, blocks)
    return {dataset: _as_held(made.tables[dataset]) for dataset in datasets}


def _as_held(table: pa.Table) -> list[dict[str, Any]]:
    return [{name: _value(name, value) for name, value in row.items()} for row in table.to_pylist()]


def _value(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_value("", one) for one in value]
    if isinstance(value, dict):
        return {key: _hex(_value(key, one)) for key, one in value.items()}
    if name.endswith("_string") and value is not None:
        return Decimal(value)
    return value


def _hex(value: Any) -> Any:
    return f"0x{value.hex()}" if isinstance(value, bytes) else value


@dataclass
class Fork:
    """Changes a node's chain at random, and counts what a follower must see.

    Attributes:
        chain: the node.
        random: draws.
    """

    chain: SmallChain
    random: random.Random

    @property
    def head(self) -> int:
        """The node's newest block."""
        return int(self.chain.anvil.call("eth_blockNumber"), 16)

    def grow(self, blocks: int) -> None:
        """Mine blocks, some with transactions."""
        for _ in range(blocks):
            if self.random.random() < 0.4:
                self.chain.busy_block()
            else:
                self.chain.mine()

    def roll_back(self, depth: int) -> None:
        """Take the newest blocks away."""
        self.chain.anvil.call("anvil_rollback", depth)


PREFIX_BLOCKS = 12
_FIRST_TIMESTAMP = 1_800_000_000


@contextmanager
def two_branches(lengths: tuple[int, int]) -> Iterator[tuple[Anvil, Anvil]]:
    """Start two nodes whose chains are the same up to block ``PREFIX_BLOCKS``, and then so long apart."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(running_anvil("--timestamp", str(_FIRST_TIMESTAMP))) for _ in lengths]
        for at, (node, length) in enumerate(zip(nodes, lengths, strict=True)):
            for number in range(1, PREFIX_BLOCKS + length + 1):
                apart = at if number > PREFIX_BLOCKS else 0
                node.call("evm_mine", hex(_FIRST_TIMESTAMP + 10 * number + apart))
        yield nodes[0], nodes[1]
