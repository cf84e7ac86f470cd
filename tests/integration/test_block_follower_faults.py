"""The follower when something is wrong: providers, Postgres, other followers, tables, its own death."""

import os
import random
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC
from itertools import count
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from tests.integration.conftest import expire_leases
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
from trace_dagster import metadata
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import (
    ConfigurationError,
    DataMismatch,
    DeadlineExceeded,
    LedgerUnavailable,
    TraceError,
    WrongChain,
)
from trace_dagster.hot_tables import append_rows
from trace_dagster.operators.block_follower import following as following_module
from trace_dagster.operators.block_follower.follower import ReorgTooDeep, Step
from trace_dagster.operators.block_follower.following import Following, nothing_new
from trace_dagster.operators.block_follower.tables import hot_table
from trace_dagster.operators.services import Services
from trace_dagster.rpc import JsonRpcClient
from trace_dagster.testing.anvil import running_anvil
from trace_dagster.translator import followers
from trace_dagster.translator.followers import _single
from trace_dagster.translator.single_run import end_unheard, why_no_run


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

    def tell(line: str, **fields: object) -> None:
        if not line.startswith("heads by"):
            told.append(f"{line} {fields}")

    run = follower.run(opened, run_id="test", progress=tell)
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
                ReorgTooDeep,
                match=r"more than 3 blocks below block 20, and max_reorg_depth is 3; nothing was.* --reset",
            ):
                until_idle(follower, opened)
            other.call("anvil_rollback", 8)  # a head below the cursor, on the other branch
            with pytest.raises(ReorgTooDeep, match="max_reorg_depth is 3"):
                until_idle(follower, opened)
            equal(follower, opened, one.url, PREFIX_BLOCKS + 8)
            other.call("evm_mine")
            follower.reset(opened)
            assert held_rows(opened.ledger, follower.tables["blocks"]) == []
            until_idle(follower, opened)
            equal(follower, opened, other.url, PREFIX_BLOCKS + 2)
        proxy.close()


def test_a_finalized_block_is_never_replaced(trace_home: Path) -> None:
    """What the node called finalized and then takes back is no reorganisation to follow."""
    with two_branches((5, 7)) as (one, other):
        proxy = FaultProxy(one.url)

        def finalized(params: list[Any], result: Any) -> Any:
            return one.call("eth_getBlockByNumber", "0xe", False) if params[0] == "finalized" else result  # noqa: FBT003

        proxy.rewrite["eth_getBlockByNumber"] = finalized
        with services(trace_home, proxy.url()) as opened:
            follower = following("finalized", start_block=1, finality="finalized")
            until_idle(follower, opened)
            state = opened.ledger.follower(follower.key)
            assert state is not None
            assert state.final_block == 14
            proxy.upstream = other.url
            with pytest.raises(
                ReorgTooDeep, match="behind block 12, but block 14 was finalized; nothing was"
            ):
                until_idle(follower, opened)
            equal(follower, opened, one.url, PREFIX_BLOCKS + 5)
        proxy.close()


@pytest.mark.parametrize("finality", [3, "safe", "finalized"])
def test_final_blocks_are_known(opened: Services, proxy: FaultProxy, finality: int | str) -> None:
    """By depth, or by what the node says."""
    with running_anvil() as own:
        own.call("anvil_mine", 80)
        proxy.upstream = own.url
        follower = following(f"final_{finality}", start_block=1, finality=finality)
        until_idle(follower, opened)
        state = opened.ledger.follower(follower.key)
        assert state is not None
        assert state.cursor_block is not None
        due = state.cursor_block - 3
        if isinstance(finality, str):
            due = int(own.call("eth_getBlockByNumber", finality, False)["number"], 16)  # noqa: FBT003
        assert state.final_block == due < state.cursor_block


def test_only_what_the_node_calls_finalized_stops(opened: Services, chain: SmallChain) -> None:
    """What an earlier config took for final by its depth is no promise of the node."""
    fork = Fork(chain, random.Random(9))  # noqa: S311
    fork.grow(8)
    until_idle(following("promised", start_block=1, finality=1), opened)
    fork.roll_back(4)
    chain.anvil.call("evm_increaseTime", 1000)
    fork.grow(6)
    steps = until_idle(following("promised", start_block=1, finality="finalized"), opened)
    assert [step.reorg_depth for step in steps] == [4]
    equal(following("promised", start_block=1), opened, chain.anvil.url, fork.head)


def test_a_dag_that_asks_to_begin_anew_is_heeded_once(opened: Services, chain: SmallChain) -> None:
    """Not again by a restart; again once it has not asked in between."""
    asking = replace(following("anew", start_block=1), resets=True)
    plain = following("anew", start_block=1)
    until_idle(plain, opened)
    told = []
    for follower in (asking, asking, plain, asking, asking):
        chain.mine()
        said: list[str] = []
        until_idle(follower, opened, said)
        told.append(any("begins anew" in line for line in said))
        equal(follower, opened, chain.anvil.url, int(chain.anvil.call("eth_blockNumber"), 16))
    assert told == [True, False, False, True, False]


def test_a_bound_that_is_raised_is_enough(trace_home: Path) -> None:
    """Hashes are remembered beyond it: the reorganisation is then followed as what it is."""
    with two_branches((8, 9)) as (one, other):
        proxy = FaultProxy(one.url)
        with services(trace_home, proxy.url()) as opened:
            # The whole of what is followed is another branch, one block more than may be.
            short = following("short", start_block=13, max_reorg_depth=7)
            until_idle(short, opened)
            until_idle(following("raised", start_block=1, max_reorg_depth=3), opened)
            proxy.upstream = other.url
            with pytest.raises(ReorgTooDeep, match="max_reorg_depth is 7"):
                until_idle(short, opened)
            follower = following("raised", start_block=1, max_reorg_depth=8)
            (step,) = until_idle(follower, opened)
            assert (step.reorg_depth, step.committed) == (8, 9)
            equal(follower, opened, other.url, PREFIX_BLOCKS + 9)
            (stale,) = opened.ledger.invalidations("raised", "tip")
            assert (stale.start_block, stale.end_block) == (13, 20)
        proxy.close()


@pytest.mark.parametrize("lengths", [(5, 5), (5, 3), (5, 8)])
def test_a_head_of_another_branch_than_the_blocks_changes_nothing(
    trace_home: Path, lengths: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two backends behind one address: what contradicts itself is no reorganisation."""
    monkeypatch.setattr(following_module, "_FIRST_PAUSE_SECONDS", 0.01)
    with two_branches(lengths) as (one, other):
        proxy = FaultProxy(one.url)
        with services(trace_home, proxy.url()) as opened:
            follower = following(f"torn_{lengths[1]}", start_block=1)
            until_idle(follower, opened)

            def head_of_other(params: list[Any], result: Any) -> Any:
                return other.call("eth_getBlockByNumber", *params) if params[0] == "latest" else result

            proxy.rewrite["eth_getBlockByNumber"] = head_of_other
            run = follower.run(opened, run_id="test", progress=lambda *_args, **_fields: None, seconds=1)
            assert [step for step in run if step.committed or step.reorg_depth] == []
            assert opened.ledger.reorgs_of(follower.key) == ()
            equal(follower, opened, one.url, PREFIX_BLOCKS + 5)
        proxy.close()


def test_another_chain_at_the_same_address_is_refused(trace_home: Path) -> None:
    """An endpoint that serves another chain all at once is no reorganisation."""
    with two_branches((5, 7)) as (one, other):
        proxy = FaultProxy(one.url)
        with services(trace_home, proxy.url()) as opened:
            follower = following("swapped", start_block=1)
            run = follower.run(opened, run_id="test", progress=lambda *_args, **_fields: None)
            next(run)
            proxy.upstream = other.url
            proxy.results["eth_chainId"] = "0x1"
            with pytest.raises(WrongChain, match=r"serves chain 1, but config.chain_id is 31337"):
                deque(run, maxlen=0)
            equal(follower, opened, one.url, PREFIX_BLOCKS + 5)
        proxy.close()


def test_a_timestamp_can_be_anything(opened: Services, proxy: FaultProxy, chain: SmallChain) -> None:
    """Milliseconds are read as such, and what is beyond all calendars stops nothing."""
    stamp = number = ""

    def stamped(params: list[Any], result: Any) -> Any:
        return {**result, "timestamp": stamp} if params[0] == number and params[1] else result

    follower = following("stamped", start_block=1)
    until_idle(follower, opened)
    proxy.rewrite["eth_getBlockByNumber"] = stamped
    for moment, year in ((1_700_000_000_000, 2023), (2**63, 9999)):
        stamp = hex(moment)
        chain.mine()
        number = chain.anvil.call("eth_blockNumber")
        assert [step.committed for step in until_idle(follower, opened)] == [1]
        state = opened.ledger.follower(follower.key)
        assert state is not None
        assert state.cursor_time is not None
        assert state.cursor_time.astimezone(UTC).year == year


def test_rewards_are_rows_too(opened: Services, proxy: FaultProxy) -> None:
    """A block's and an uncle's have neither transaction nor place; each is kept. NUL is shown."""

    def rewarded(params: list[Any], result: Any) -> Any:
        block = {"blockHash": chain_block["hash"], "blockNumber": int(params[0], 16)}
        return result + [
            {
                "action": {"author": "0x" + author * 20, "rewardType": kind, "value": "0x1"},
                "type": "reward",
                "traceAddress": [],
                "subtraces": 0,
                "error": "a\0b",
                **block,
            }
            for author, kind in (("aa", "block"), ("aa", "uncle"), ("bb", "uncle"))
        ]

    chain_block = opened_call(opened, "eth_getBlockByNumber", "0x4", False)  # noqa: FBT003
    proxy.rewrite["trace_block"] = lambda p, result: rewarded(p, result) if p[0] == "0x4" else result
    follower = following("rewarded", start_block=4, datasets=("blocks", "traces"))
    until_idle(follower, opened)
    rewards = [r for r in held_rows(opened.ledger, follower.tables["traces"]) if r["action_type"] == "reward"]
    assert len(rewards) == 3
    assert {row["error"] for row in rewards} == {"a\u2400b"}


def opened_call(opened: Services, method: str, *params: Any) -> Any:
    """Ask the endpoint."""
    with JsonRpcClient(opened.settings.rpc_endpoint(POOL)) as client:
        return client.call(method, params)


def test_another_unique_index_keeps_no_row_out_silently(opened: Services, chain: SmallChain) -> None:
    """A unique index of somebody's would; it is named, and nothing is written."""
    follower = following("indexed", start_block=1)
    until_idle(follower, opened)
    with opened.ledger.connection() as connection:
        connection.execute("DELETE FROM indexed.tip_logs")
        connection.execute("CREATE UNIQUE INDEX mine ON indexed.tip_logs (transaction_hash)")
    chain.busy_block()
    before = opened.ledger.follower(follower.key)
    with pytest.raises(
        ConfigurationError, match=r"indexed.tip_logs has the unique index mine beside that on"
    ):
        until_idle(follower, opened)
    assert held_rows(opened.ledger, follower.tables["logs"]) == []
    after = opened.ledger.follower(follower.key)
    assert before is not None
    assert after is not None
    assert after.cursor_block == before.cursor_block


def test_two_equal_rows_of_one_batch_are_an_error(opened: Services) -> None:
    """A key that does not tell them apart would lose one of them."""
    until_idle(following("doubled", start_block=1), opened)
    table = following("doubled").tables["logs"]
    rows = chain_rows_as_table(opened, "logs", 4, 4)
    with (
        pytest.raises(DataMismatch, match="two rows came with the same unique_key"),
        opened.ledger.connection() as connection,
        connection.transaction(),
    ):
        append_rows(connection, table, pa.concat_tables([rows, rows]))


@pytest.mark.parametrize("dataset", ["transactions", "logs", "traces"])
def test_a_key_of_the_block_is_completed(dataset: str) -> None:
    """By hash or by number: what tells rows of one block apart is added."""
    by_hash = hot_table("a", "tip", dataset, ("chain_id", "block_hash")).key
    by_number = hot_table("a", "tip", dataset, ("chain_id", "block_number")).key
    assert by_hash[2:] == by_number[2:] != ()


def test_two_cold_starts_at_once(opened: Services) -> None:
    """One works; the other says that it does not, and never that rows are there which nobody committed."""
    for number in range(8):
        said: list[str] = []

        def start(name: str, said: list[str] = said, number: int = number) -> None:
            try:
                run = following(f"raced_{number}", start_block=1, batch_blocks=1).run(
                    opened, run_id=name, progress=lambda *_args, **_fields: None
                )
                for step in run:
                    if not step.committed:
                        break
                run.close()
            except TraceError as error:
                said.append(f"{type(error).__name__}: {error}")

        threads = [threading.Thread(target=start, args=(name,)) for name in ("one", "other")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(line.startswith("DeadlineExceeded") for line in said), said


def test_postgres_away_when_the_lease_is_asked_for(
    opened: Services, chain: SmallChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for, as at any other moment."""
    follower = following("claiming", start_block=1)
    real, times = opened.ledger.attempt, count()

    def attempt(*arguments: Any, **options: Any) -> Any:
        if next(times) < 2:
            raise LedgerUnavailable("Postgres is away")
        return real(*arguments, **options)

    monkeypatch.setattr(opened.ledger, "attempt", attempt)
    said: list[str] = []
    until_idle(follower, opened, said)
    assert len(said) == 2
    equal(follower, opened, chain.anvil.url, int(chain.anvil.call("eth_blockNumber"), 16))


def test_a_tick_is_asked_for_only_where_there_is_news(opened: Services, chain: SmallChain) -> None:
    """A head that went back on the same branch is none; another branch at the same height is."""
    fork = Fork(chain, random.Random(8))  # noqa: S311
    fork.grow(5)
    follower = following("ticking", start_block=1)
    assert nothing_new(opened, follower) is None
    until_idle(follower, opened)
    assert f"block {fork.head} is committed" in (nothing_new(opened, follower) or "")
    fork.roll_back(2)
    assert "is committed, and the head is block" in (nothing_new(opened, follower) or "")
    chain.busy_block()
    assert nothing_new(opened, follower) is None


def test_a_follower_started_by_hand_is_left_alone(opened: Services) -> None:
    """The sensor asks for no other run while the lease is held by one that is alive, or is no run."""
    follower = following("by_hand", start_block=1)
    with dg.DagsterInstance.ephemeral() as instance:
        assert why_no_run(instance, opened.ledger, _single(follower)) is None
        run = follower.run(opened, run_id="trace follow", progress=lambda *_args, **_fields: None)
        next(run)
        assert why_no_run(instance, opened.ledger, _single(follower)) == "trace follow is at it"
        run.close()
        assert why_no_run(instance, opened.ledger, _single(follower)) is None


def test_only_one_follower_works(opened: Services, chain: SmallChain) -> None:
    """The second one says who holds the lease, and ends."""
    follower = following("twice", start_block=1)
    first = follower.run(opened, run_id="the first", progress=lambda *_args, **_fields: None)
    next(first)
    with pytest.raises(DeadlineExceeded, match=r"twice/tip/tip is still held by attempt 1 of run the first"):
        next(follower.run(opened, run_id="second", progress=lambda *_args, **_fields: None))
    first.close()
    until_idle(follower, opened)
    equal(follower, opened, chain.anvil.url, int(chain.anvil.call("eth_blockNumber"), 16))


def test_postgres_drops_its_connections(opened: Services, chain: SmallChain) -> None:
    """Connections that die again and again cost nothing but time."""
    fork = Fork(chain, random.Random(4))  # noqa: S311
    follower = following("dropped", start_block=1, batch_blocks=1)
    done = threading.Event()
    dropped: list[Any] = []

    def drop() -> None:
        while not done.wait(0.02):
            with opened.ledger.connection() as connection:
                dropped.extend(
                    connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE pid <> pg_backend_pid() AND application_name LIKE 'trace%%' AND query LIKE %s",
                        ["%trace.follow%"],
                    )
                )

    dropping = threading.Thread(target=drop)
    dropping.start()
    try:
        for number in range(60):
            until_idle(follower, opened)
            fork.roll_back(2)
            fork.grow(4)
            if number >= 2 and dropped:  # on a busy machine none may be met in three rounds
                break
    finally:
        done.set()
        dropping.join()
    until_idle(follower, opened)
    equal(follower, opened, chain.anvil.url, fork.head)
    assert dropped


@pytest.fixture
def own_chain() -> Iterator[SmallChain]:
    """A node for one test that makes its chain long."""
    with small_chain() as built:
        yield built


def test_killed_at_random_moments(own_chain: SmallChain, trace_home: Path, tmp_path: Path) -> None:
    """SIGKILL of ``trace follow`` while the chain grows and reorganises; in the end the tables equal it."""
    draw = random.Random(5)  # noqa: S311
    chain, fork = own_chain, Fork(own_chain, draw)
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "killed.yaml").write_text(DAG)
    environment = {
        **clean_environment(),
        "TRACE_HOME": str(trace_home),
        "TRACE_RPC_POOL_TIP_URL": chain.anvil.url,
        "TRACE_DAG_SPECS": str(tmp_path / "dags"),
    }

    def progress() -> tuple[int, int]:
        state = watched.ledger.follower("killed/tip")
        return (0, 0) if state is None else (state.blocks or 0, state.reorgs or 0)

    watching = services(trace_home, chain.anvil.url)
    watched = watching.__enter__()
    for _ in range(6):
        before = progress()
        with subprocess.Popen(
            [str(PROGRAMS / "trace"), "follow", "killed/tip"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            give_up, until = time.monotonic() + 60, float("inf")
            while time.monotonic() < min(until, give_up):
                fork.roll_back(draw.choice((0, 1, 3)) or 1)
                fork.grow(draw.randint(2, 5))
                time.sleep(0.02)
                if until == float("inf") and progress() != before:  # it works: from now on any moment will do
                    until = time.monotonic() + 0.3 * draw.random()
            os.kill(process.pid, signal.SIGKILL)
        assert progress() != before
        expire_leases(watched.ledger, "killed/tip/tip")
    watching.__exit__(None, None, None)
    fork.grow(6)
    with services(trace_home, chain.anvil.url) as opened:
        follower = following("killed", start_block=1)
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


def test_a_run_whose_worker_is_gone_is_ended(opened: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster takes it for running as long as nobody says otherwise; one that renews its lease is let be."""
    follower = following("gone", start_block=1)
    tags = {metadata.FOLLOWER_TAG: follower.key}
    with dg.DagsterInstance.ephemeral() as instance:
        run_id = instance.create_run_for_job(gone, tags=tags).run_id
        instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "gone"), run_id)
        run = follower.run(opened, run_id=run_id, progress=lambda *_args, **_fields: None)
        next(run)
        assert end_unheard(instance, opened.ledger, _single(follower), "") == ""
        assert why_no_run(instance, opened.ledger, _single(follower)) == f"run {run_id} is at it"
        expire_leases(opened.ledger, f"{follower.key}/tip")
        begun, passed = time.time(), [0.0]
        monkeypatch.setattr(followers.time, "time", lambda: begun + passed[0])

        def look(after: float, before: str) -> str:
            passed[0] += after
            return end_unheard(instance, opened.ledger, _single(follower), before)

        remembered = look(0, "")
        assert remembered == f"{run_id} {begun:.0f} {begun:.0f}"
        # What nobody saw is not counted: the looks were far apart, failed, or were of another run.
        for before in (look(35, remembered), look(0, ""), look(0, f"other-run {begun:.0f} {begun:.0f}")):
            assert before == f"{run_id} {begun + 35:.0f} {begun + 35:.0f}"
        for _ in range(2):
            before = look(12, before)
            assert before.startswith(f"{run_id} {begun + 35:.0f} ")
        assert look(12, before) == ""
        ended = instance.get_run_by_id(run_id)
        assert ended is not None
        assert ended.status is dg.DagsterRunStatus.FAILURE
        run.close()


def test_a_run_that_died_before_its_first_lease_is_ended(
    opened: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits logs so; one that logs nothing for half an hour is gone."""
    single = _single(following("gone_early", start_block=1))
    begun, passed = time.time(), [0.0]
    with dg.DagsterInstance.ephemeral() as instance:
        run_id = instance.create_run_for_job(gone, tags={metadata.FOLLOWER_TAG: single.key}).run_id
        instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "gone"), run_id)
        monkeypatch.setattr(followers.time, "time", lambda: begun + passed[0])
        for passed[0], status in ((1700, dg.DagsterRunStatus.STARTED), (1900, dg.DagsterRunStatus.FAILURE)):
            assert end_unheard(instance, opened.ledger, single, "") == ""
            run = instance.get_run_by_id(run_id)
            assert run is not None
            assert run.status is status


@dg.job
def gone() -> None:
    """A job without work."""
