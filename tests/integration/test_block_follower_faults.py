"""The follower when something is wrong: providers, Postgres, other followers, tables, its own death."""

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.fault_proxy import FaultProxy, Reply, RpcFailure
from tests.support.followers import (
    POOL,
    PREFIX_BLOCKS,
    Fork,
    chain_rows,
    following,
    held_rows,
    made_of,
    services,
    two_branches,
)
from tests.support.project import PROGRAMS, clean_environment
from tests.support.small_chain import SmallChain, small_chain
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import ConfigurationError, DataMismatch, DeadlineExceeded, WrongChain
from trace_dagster.hot_tables import append_rows
from trace_dagster.operators.block_follower import following as following_module
from trace_dagster.operators.block_follower.follower import ReorgTooDeep, Step
from trace_dagster.operators.block_follower.following import Following
from trace_dagster.operators.block_follower.tables import hot_table
from trace_dagster.operators.services import Services


@pytest.fixture(scope="module")
def chain() -> Iterator[SmallChain]:
    """A node whose chain the tests change."""
    with small_chain() as built:
        yield built


@pytest.fixture
def proxy(chain: SmallChain, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The node behind a proxy; the follower tries again at once."""
    monkeypatch.setattr(following_module, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("trace_dagster.rpc.client._FIRST_WAIT_SECONDS", 0.01, raising=False)
    passed_on = FaultProxy(chain.anvil.url)
    yield passed_on
    passed_on.close()


@pytest.fixture
def opened(proxy: FaultProxy, trace_home: Path) -> Iterator[Services]:
    """Ledger, and the proxy as endpoint."""
    with services(trace_home, proxy.url()) as services_:
        yield services_


def until_idle(follower: Following, opened: Services, said: list[str] | None = None) -> list[Step]:
    """Run until there is nothing more to do; what is told is kept in ``said``."""
    told = [] if said is None else said
    steps = []
    run = follower.run(opened, run_id="test", progress=lambda line, **fields: told.append(f"{line} {fields}"))
    for step in run:
        if not step.committed and not step.reorg_depth:
            run.close()
            break
        steps.append(step)
    return steps


def equal(follower: Following, opened: Services, url: str, head: int) -> None:
    """Compare every row with the chain of an honest node."""
    with services(opened.settings.home, url) as honest:
        due = chain_rows(
            honest.settings.rpc_endpoint(POOL),
            follower.config.datasets,
            BlockRange(follower.config.start_block, head),
        )
    for dataset, table in follower.tables.items():
        assert held_rows(opened.ledger, table) == due[dataset], dataset


def no_receipts(_params: list[Any], result: Any) -> Any:
    """Lose the last receipt of a block."""
    return result[:-1]


def other_parent(_params: list[Any], result: Any) -> Any:
    """Give a block a parent that nobody knows, where whole transactions are asked for."""
    return {**result, "parentHash": "0x" + "ab" * 32} if _params[1] else result


@pytest.mark.parametrize(
    "spoil",
    [
        (lambda proxy: proxy.rewrite.update(eth_getBlockReceipts=no_receipts), True),
        (lambda proxy: proxy.rewrite.update(eth_getBlockReceipts=lambda *_: None), True),
        (lambda proxy: proxy.rewrite.update(eth_getBlockByNumber=other_parent), True),
        # The client itself tries these again for longer than the test lasts.
        (lambda proxy: setattr(proxy, "intercept", lambda _: Reply(b"<html>", 200)), False),
        (lambda proxy: setattr(proxy, "intercept", lambda _: Reply(b"", 503)), False),
    ],
)
def test_nothing_is_written_around_an_error(
    proxy: FaultProxy,
    opened: Services,
    chain: SmallChain,
    spoil: tuple[Callable[[FaultProxy], None], bool],
) -> None:
    """While the provider is wrong the tables stay as they are; once it is right, they equal the chain."""
    begin, is_told = spoil
    follower = following(f"spoilt_{random.randrange(10**9)}", start_block=1)  # noqa: S311
    until_idle(follower, opened)
    before = {dataset: held_rows(opened.ledger, table) for dataset, table in follower.tables.items()}
    chain.busy_block()
    begin(proxy)
    said: list[str] = []
    run = follower.run(opened, run_id="test", progress=lambda line, **_fields: said.append(line), seconds=1.5)
    assert [step for step in run if step.committed or step.reorg_depth] == []
    assert bool(said) == is_told
    assert {dataset: held_rows(opened.ledger, table) for dataset, table in follower.tables.items()} == before
    proxy.rewrite.clear()
    proxy.intercept = lambda _: None
    assert [step.committed for step in until_idle(follower, opened)] == [1]
    equal(follower, opened, chain.anvil.url, int(chain.anvil.call("eth_blockNumber"), 16))


def test_a_failure_that_passes_is_counted(proxy: FaultProxy, opened: Services, chain: SmallChain) -> None:
    """It is told, counted in the ledger with its text, and the follower goes on by itself."""
    follower = following("passing", start_block=1)
    until_idle(follower, opened)
    chain.busy_block()
    times = count()
    proxy.rewrite["eth_getBlockReceipts"] = lambda params, result: (
        result if next(times) else no_receipts(params, result)
    )
    said: list[str] = []
    assert [step.committed for step in until_idle(follower, opened, said)] == [1]
    state = opened.ledger.follower("passing/tip")
    assert state is not None
    assert state.errors == len(said) == 1
    assert state.last_error is not None
    assert "planted" not in f"{said} {state.last_error}"


def test_a_branch_comes_back(trace_home: Path) -> None:
    """A, B, A again: each time the tables are the branch that the provider has, and every turn is kept."""
    with two_branches((5, 7)) as (one, other):
        proxy = FaultProxy(one.url)
        with services(trace_home, proxy.url()) as opened:
            follower = following("flapping", start_block=1)
            depths = []
            for node in (one, other, one, other, one):
                proxy.upstream = node.url
                depths += [step.reorg_depth for step in until_idle(follower, opened)]
                equal(follower, opened, node.url, int(node.call("eth_blockNumber"), 16))
            assert depths == [0, 5, 7, 5, 7]
            state = opened.ledger.follower("flapping/tip")
            assert state is not None
            assert (state.reorgs, state.deepest_reorg, state.cursor_block) == (4, 7, PREFIX_BLOCKS + 5)
            stale = opened.ledger.invalidations("flapping", "tip")
            assert [(one.start_block, one.end_block) for one in stale] == [(13, 17), (13, 19)] * 2
        proxy.close()


def test_too_deep_a_reorganisation_stops_it(trace_home: Path) -> None:
    """Nothing is changed, and the message says what can be done; ``reset`` begins anew."""
    with two_branches((8, 9)) as (one, other):
        proxy = FaultProxy(one.url)
        with services(trace_home, proxy.url()) as opened:
            follower = following("deep", start_block=1, max_reorg_depth=3)
            until_idle(follower, opened)
            proxy.upstream = other.url
            with pytest.raises(
                ReorgTooDeep, match=r"max_reorg_depth: 3 below block 20; nothing was changed.* --reset"
            ):
                until_idle(follower, opened)
            other.call("anvil_rollback", 8)  # a head below the cursor, on the other branch
            with pytest.raises(ReorgTooDeep, match=r"max_reorg_depth: 3 below"):
                until_idle(follower, opened)
            equal(follower, opened, one.url, PREFIX_BLOCKS + 8)
            other.call("evm_mine")
            follower.reset(opened)
            assert held_rows(opened.ledger, follower.tables["blocks"]) == []
            until_idle(follower, opened)
            equal(follower, opened, other.url, PREFIX_BLOCKS + 2)
        proxy.close()


def test_only_one_follower_works(opened: Services) -> None:
    """The second one says who holds the lease, and ends."""
    follower = following("twice", start_block=1)
    first = follower.run(opened, run_id="the first", progress=lambda *_args, **_fields: None)
    next(first)
    with pytest.raises(DeadlineExceeded, match=r"twice/tip/tip is still held by attempt 1 of run the first"):
        next(follower.run(opened, run_id="second", progress=lambda *_args, **_fields: None))
    first.close()
    assert until_idle(follower, opened) == []


def test_postgres_drops_its_connections(opened: Services, chain: SmallChain) -> None:
    """Connections that die again and again cost nothing but time."""
    fork = Fork(chain, random.Random(4))  # noqa: S311
    follower = following("dropped", start_block=1, batch_blocks=1)
    done = threading.Event()

    def drop() -> None:
        while not done.wait(0.05):
            with opened.ledger.connection() as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                    "AND application_name = 'trace-dagster' AND query LIKE %s",
                    ["%trace.follow%"],
                )

    dropping = threading.Thread(target=drop)
    dropping.start()
    try:
        for _ in range(3):
            until_idle(follower, opened)
            fork.roll_back(2)
            fork.grow(4)
    finally:
        done.set()
        dropping.join()
    until_idle(follower, opened)
    equal(follower, opened, chain.anvil.url, fork.head)


def test_killed_at_random_moments(chain: SmallChain, trace_home: Path, tmp_path: Path) -> None:
    """SIGKILL of ``trace follow`` while the chain grows and reorganises; in the end the tables equal it."""
    draw = random.Random(5)  # noqa: S311
    fork = Fork(chain, draw)
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "killed.yaml").write_text(DAG)
    environment = {
        **clean_environment(),
        "TRACE_HOME": str(trace_home),
        "TRACE_RPC_POOL_TIP_URL": chain.anvil.url,
        "TRACE_DAG_SPECS": str(tmp_path / "dags"),
    }
    for _ in range(6):
        with subprocess.Popen(
            [str(PROGRAMS / "trace"), "follow", "killed/tip"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            until = time.monotonic() + 1.2 + draw.random()
            while time.monotonic() < until:
                fork.roll_back(draw.choice((0, 1, 3)) or 1)
                fork.grow(draw.randint(2, 5))
            os.kill(process.pid, signal.SIGKILL)
    fork.grow(6)
    with services(trace_home, chain.anvil.url) as opened:
        follower = following("killed", start_block=1)
        time.sleep(2.2)  # the lease of the dead one, which the DAG makes two seconds
        until_idle(follower, opened)
        equal(follower, opened, chain.anvil.url, fork.head)


DAG = """\
name: killed
defaults: { heartbeat_timeout_seconds: 2 }
jobs:
  - name: tip
    activation: source
    runtime: ecs_platform
    operator: block_follower
    source: { kind: always_on }
    config:
      chain_id: 31337
      rpc_pool: tip
      start_block: 1
      datasets: [blocks, transactions, logs]
      poll_seconds: 0.01
      batch_blocks: 3
    outputs: 3
    update_strategy: append
    unique_key: [chain_id, block_hash]
"""


def test_the_same_key_with_other_content_is_an_error(opened: Services) -> None:
    """Both rows are named, and nothing of the batch stays."""
    follower = following("conflict", start_block=1)
    until_idle(follower, opened)
    table = follower.tables["logs"]
    rows = chain_rows_as_table(opened, "logs", 1, 5)
    column = rows.schema.get_field_index("data")
    other = rows.set_column(
        column, rows.field(column), pa.array([b"\x01"] * rows.num_rows, pa.large_binary())
    )
    before = held_rows(opened.ledger, table)
    with opened.ledger.connection() as connection, connection.transaction():
        assert append_rows(connection, table, rows) == 0
    with (
        pytest.raises(DataMismatch, match=r"same unique_key \(chain_id 31337, block_hash .*data.*data"),
        opened.ledger.connection() as connection,
        connection.transaction(),
    ):
        append_rows(connection, table, other)
    assert held_rows(opened.ledger, table) == before


def chain_rows_as_table(opened: Services, dataset: str, first: int, last: int) -> Any:
    """Return rows of the chain as they are appended."""
    return made_of(opened.settings.rpc_endpoint(POOL), (dataset,), BlockRange(first, last)).tables[dataset]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "DROP VIEW shape.tip_blocks_canonical; ALTER TABLE shape.tip_blocks ALTER gas_used TYPE text",
            "has gas_used as text instead of numeric",
        ),
        (
            "DROP INDEX shape.tip_blocks_chain_id_block_hash_idx",
            "has no unique index on chain_id, block_hash",
        ),
    ],
)
def test_a_table_of_another_shape_is_refused(opened: Services, change: str, message: str) -> None:
    """What is there and what is due are named; a missing column alone is added."""
    follower = following("shape", start_block=1)
    follower.reset(opened)
    until_idle(follower, opened)
    rows = held_rows(opened.ledger, follower.tables["logs"])
    with opened.ledger.connection() as connection:
        connection.execute("ALTER TABLE shape.tip_logs DROP COLUMN extra CASCADE")
        connection.execute(change)
    with pytest.raises(ConfigurationError, match=message):
        until_idle(follower, opened)
    with opened.ledger.connection() as connection:
        connection.execute("DROP TABLE shape.tip_blocks CASCADE")
    with pytest.raises(ConfigurationError, match=r"tip_blocks does not exist, but blocks up to \d+ are"):
        until_idle(follower, opened)
    with pytest.raises(ConfigurationError, match="tip_blocks does not exist"):
        until_idle(following("shape", start_block=1, datasets=("blocks", "receipts")), opened)
    follower.reset(opened)
    until_idle(follower, opened)
    assert held_rows(opened.ledger, follower.tables["logs"]) == rows
    with opened.ledger.connection() as connection:
        assert connection.execute("SELECT extra FROM shape.tip_logs_canonical").fetchall()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start_block": 2}, "config.start_block is 2, but it began at block 3"),
        ({"start_block": 3, "datasets": ("blocks", "logs")}, "logs was not followed up to block"),
    ],
)
def test_what_was_not_followed_is_not_claimed(
    opened: Services, chain: SmallChain, change: dict[str, Any], message: str
) -> None:
    """An earlier start, or a dataset that was left out for a while, would be a hole in the rows."""
    whole = following("continued", start_block=3, datasets=("blocks", "logs"))
    whole.reset(opened)
    until_idle(whole, opened)
    chain.mine()
    until_idle(following("continued", start_block=3, datasets=("blocks",)), opened)
    with pytest.raises(ConfigurationError, match=message):
        until_idle(following("continued", **{"datasets": ("blocks",), **change}), opened)
    with opened.ledger.connection() as connection:
        connection.execute("UPDATE trace.followers SET chain_id = 5 WHERE follower = 'continued/tip'")
    with pytest.raises(ConfigurationError, match=r"config.chain_id is 31337, but it has followed chain 5"):
        until_idle(following("continued", start_block=3, datasets=("blocks",)), opened)


def test_rows_without_a_cursor_are_not_trusted(opened: Services) -> None:
    """Where the ledger was lost, rows may be of a branch that nobody knows; ``reset`` begins anew."""
    follower = following("forgotten", start_block=1)
    until_idle(follower, opened)
    rows = held_rows(opened.ledger, follower.tables["blocks"])
    with opened.ledger.connection() as connection:
        connection.execute("DELETE FROM trace.followers WHERE follower = 'forgotten/tip'")
    with pytest.raises(ConfigurationError, match="tip_blocks has rows, but the ledger knows of no committed"):
        until_idle(follower, opened)
    follower.reset(opened)
    until_idle(follower, opened)
    assert held_rows(opened.ledger, follower.tables["blocks"]) == rows


def test_bad_input_is_told(opened: Services, proxy: FaultProxy, chain: SmallChain) -> None:
    """Another chain, a pool without an endpoint, a first block that does not exist yet, a long name."""
    proxy.results["eth_chainId"] = "0x1"
    with pytest.raises(WrongChain, match=r"serves chain 1, but config.chain_id is 31337"):
        until_idle(following("wrong"), opened)
    proxy.results.clear()
    with pytest.raises(ConfigurationError, match="TRACE_RPC_POOL_NONE_URL"):
        until_idle(following("none", rpc_pool="none"), opened)
    run = following("later", start_block=10**6).run(
        opened, run_id="test", progress=lambda *_args, **_fields: None
    )
    step = next(run)
    run.close()
    assert (step.cursor, step.committed) == (None, 0)
    with pytest.raises(ConfigurationError, match="at most 63"):
        hot_table("long", "x" * 60, "blocks", ())


def test_methods_that_are_missing(opened: Services, proxy: FaultProxy) -> None:
    """A pool that cannot serve a dataset is told, and waited for: another backend may."""

    def refuse(_params: list[Any], _result: Any) -> Any:
        raise RpcFailure(-32601, "the method does not exist")

    proxy.rewrite |= {"trace_block": refuse, "debug_traceBlockByNumber": refuse}
    said: list[str] = []
    run = following("methods", start_block=1, datasets=("blocks", "traces")).run(
        opened, run_id="test", progress=lambda _line, **fields: said.append(str(fields)), seconds=1
    )
    assert [step for step in run if step.committed] == []
    assert "debug_traceBlockByNumber" in said[0]
