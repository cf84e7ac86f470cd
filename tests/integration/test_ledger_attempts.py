"""Leases, fencing and records on a real Postgres."""

import math
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from tests.integration.conftest import expire_leases
from tests.support.datasets import dataset_id, stage
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import (
    AttemptLost,
    ConfigurationError,
    DataMismatch,
    DeadlineExceeded,
    Interrupted,
    LedgerUnavailable,
)
from trace_dagster.io_managers.replace import ReplaceIOManager
from trace_dagster.ledger import Attempt, CommittedDataset, Ledger, PublishedOutput
from trace_dagster.store import ObjectStore, collect_garbage, open_store, put_objects, read_manifest

PATIENCE_SECONDS = 60.0


@pytest.fixture
def key() -> str:
    """A task of this test's own."""
    return f"dag/job/{uuid.uuid4()}"


@pytest.fixture
def folder(tmp_path: Path) -> ObjectStore:
    """An empty folder."""
    return open_store((tmp_path / "store").as_uri(), {})


@contextmanager
def attempt(
    ledger: Ledger, key: str, *, lease_seconds: float = 600, wait_seconds: float = PATIENCE_SECONDS
) -> Iterator[Attempt]:
    """Hold a task."""
    until = time.monotonic() + wait_seconds
    with ledger.attempt(key, run_id="run", lease_seconds=lease_seconds, wait_until=until) as held:
        yield held


def hold_briefly(ledger: Ledger, key: str) -> tuple[int, float]:
    """Hold a task and let it go; return the attempt's number and when it was held."""
    with attempt(ledger, key) as held:
        return held.number, time.monotonic()


def committed(version: str, start: int = 0, end: int = 9, root: str = "file:///x") -> CommittedDataset:
    """Return a row to record."""
    return CommittedDataset(
        storage_root=root,
        chain_id=1,
        dataset="blocks",
        range=BlockRange.of(start, end),
        dataset_version=version,
        config_hash="hash",
        prefix="prefix",
        rows=1,
        bytes=2,
        engine="test",
        synthetic=False,
    )


def wait_for(ledger: Ledger, query: str, *parameters: object) -> None:
    """Wait until a query gives true."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    with psycopg.connect(ledger.conninfo, autocommit=True) as connection:
        while time.monotonic() < give_up_at:
            row = connection.execute(query, parameters).fetchone()
            if row and row[0]:
                return
    pytest.fail(f"never true: {query}")


def test_attempts_are_numbered_and_remembered(ledger: Ledger, key: str) -> None:
    """Each try is a row with how it ended, one line of error, the run and the times."""
    with attempt(ledger, key) as first:
        first.still_mine()
        assert [record.state for record in ledger.attempts_of(key)] == ["running"]
    with pytest.raises(DataMismatch), attempt(ledger, key):
        raise DataMismatch("2 rows\ninstead of 3")
    with pytest.raises(KeyboardInterrupt), attempt(ledger, key):
        raise KeyboardInterrupt
    records = ledger.attempts_of(key)
    assert [(one.number, one.state, one.error) for one in records] == [
        (1, "succeeded", None),
        (2, "failed", "DataMismatch: 2 rows instead of 3"),
        (3, "failed", "KeyboardInterrupt"),
    ]
    assert all(
        one.run_id == "run" and one.finished_at and one.finished_at >= one.started_at for one in records
    )


def test_a_second_attempt_waits_for_the_first(ledger: Ledger, key: str) -> None:
    """It gets the task when the first is done, not before."""
    with ThreadPoolExecutor(1) as pool:
        with attempt(ledger, key):
            second: Future[tuple[int, float]] = pool.submit(hold_briefly, ledger, key)
            refused = pytest.raises(DeadlineExceeded, match=f"{key} is still held by attempt 1 of run run")
            with refused, attempt(ledger, key, wait_seconds=0):
                pytest.fail("two attempts at once")
            released_at = time.monotonic()
        number, held_at = second.result()
    assert number == 2
    assert held_at > released_at


def test_only_one_of_many_claims_wins(ledger: Ledger, key: str) -> None:
    """Ten at once on a task that never was: numbers 1 to 10, one after another."""
    inside = threading.Lock()

    def work(_: int) -> int:
        with attempt(ledger, key) as held:
            assert inside.acquire(blocking=False)
            held.still_mine()
            inside.release()
            return held.number

    with ThreadPoolExecutor(10) as pool:
        assert sorted(pool.map(work, range(10))) == list(range(1, 11))


def test_a_heartbeat_keeps_the_lease(ledger: Ledger, key: str) -> None:
    """Work that takes longer than the lease keeps the task."""
    with attempt(ledger, key, lease_seconds=3) as held:
        later = datetime.now(UTC) + timedelta(seconds=3)
        wait_for(ledger, "SELECT lease_expires_at > %s FROM trace.tasks WHERE task_key = %s", later, key)
        held.still_mine()
    assert ledger.attempts_of(key)[0].state == "succeeded"


def test_a_stale_attempt_can_do_nothing(ledger: Ledger, key: str) -> None:
    """Once its lease was taken over, each of its doors is shut, and the message says who holds the task."""
    with attempt(ledger, key) as stale:
        expire_leases(ledger, key)
        with attempt(ledger, key) as holder:
            with pytest.raises(AttemptLost, match="now held by attempt 2 of run run"):
                stale.still_mine()
            with pytest.raises(AttemptLost):
                stale.announce("file:///x", ["p"])
            with pytest.raises(AttemptLost), stale.fenced():
                pytest.fail("behind the fence")
            holder.still_mine()
    records = ledger.attempts_of(key)
    assert [one.state for one in records] == ["lost", "succeeded"]
    assert records[0].error == "its lease expired and was taken over"


def test_a_lease_that_ran_out_is_lost_for_good(ledger: Ledger, key: str) -> None:
    """Also while nobody has taken the task over: its objects may be gone already."""
    with attempt(ledger, key) as stale:
        expire_leases(ledger, key)
        with pytest.raises(AttemptLost, match="now held by nobody"), stale.fenced():
            pytest.fail("behind the fence")


@pytest.mark.parametrize("moment", ["before the objects", "before the manifest"])
def test_a_commit_of_a_stale_attempt_is_refused(
    ledger: Ledger, key: str, folder: ObjectStore, tmp_path: Path, moment: str
) -> None:
    """Taken over in mid-run, it commits nothing; the new holder commits its own."""
    one = dataset_id(config=key)
    replace = ReplaceIOManager(folder, ledger)
    with attempt(ledger, key) as stale:
        staged = stage(tmp_path / "stale", one, note="stale")
        if moment == "before the manifest":
            stale.announce(folder.url, [one.prefix])
            put_objects(folder, staged, stale.still_mine)
        expire_leases(ledger, key)
        with attempt(ledger, key) as holder:
            with pytest.raises(AttemptLost):
                replace.commit(stale, staged)
            assert read_manifest(folder, one) is None
            published = replace.commit(holder, stage(tmp_path / "holder", one, note="holder"))
    assert published.created
    assert replace.committed(one) == published.manifest
    assert list(ledger.current(folder.url, 1, "blocks")) == [one.version]


def test_nobody_takes_over_during_a_commit(ledger: Ledger, key: str) -> None:
    """While the fence is held the next attempt waits, although the lease's time is over."""
    version = str(uuid.uuid4())
    with ThreadPoolExecutor(1) as pool:
        with attempt(ledger, key, lease_seconds=2) as held, held.fenced() as fence:
            second = pool.submit(hold_briefly, ledger, key)
            waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            wait_for(ledger, waiting)
            expired = "SELECT lease_expires_at < clock_timestamp() FROM trace.tasks WHERE task_key = %s"
            wait_for(ledger, expired, key)
            assert not second.done()
            fence.record(committed(version, root=key))
            recorded_at = time.monotonic()
        number, held_at = second.result()
    assert number == 2
    assert held_at > recorded_at
    assert list(ledger.current(key, 1, "blocks")) == [version]


def test_a_process_that_stands_still_in_its_commit_is_taken_over(ledger: Ledger, key: str) -> None:
    """Its session is ended once its lease is long over; its commit is then not done."""
    version = str(uuid.uuid4())
    with attempt(ledger, key, lease_seconds=1) as still, pytest.raises(LedgerUnavailable):  # noqa: PT012, SIM117
        with still.fenced() as fence:
            fence.record(committed(version))
            with attempt(ledger, key, lease_seconds=1, wait_seconds=60) as next_one:
                assert next_one.number == 2
    assert version not in ledger.current("file:///x", 1, "blocks")


def test_what_fails_behind_the_fence_is_not_recorded(ledger: Ledger, key: str) -> None:
    """The record is undone with the commit that failed, and the attempt can try again."""
    version = str(uuid.uuid4())
    with attempt(ledger, key) as held:
        with pytest.raises(DataMismatch), held.fenced() as fence:  # noqa: PT012
            fence.record(committed(version, root=key))
            raise DataMismatch("no")
        assert not ledger.current(key, 1, "blocks")
        with held.fenced() as fence:
            fence.record(committed(version, root=key))
    assert list(ledger.current(key, 1, "blocks")) == [version]


def test_the_version_asked_for_last_is_current(ledger: Ledger, key: str) -> None:
    """A version that is committed again moves to the front, once; others stay where they are."""
    old, new, elsewhere = (str(uuid.uuid4()) for _ in range(3))
    for version in (old, new):
        ledger.touch_current(committed(version, root=key))
    ledger.touch_current(committed(elsewhere, 100, 109, root=key))
    first = dict(ledger.current(key, 1, "blocks"))
    assert first[old] < first[new] < first[elsewhere]
    ledger.touch_current(committed(new, root=key))
    assert ledger.current(key, 1, "blocks") == first
    ledger.touch_current(committed(old, root=key))
    second = dict(ledger.current(key, 1, "blocks"))
    assert second[old] > second[new] == first[new]
    assert ledger.current("file:///elsewhere", 1, "blocks") == {}


def test_garbage_of_a_live_attempt_is_left_alone(
    ledger: Ledger, key: str, folder: ObjectStore, tmp_path: Path
) -> None:
    """However old its objects are; once it has failed they go."""
    one = dataset_id(config=key)
    later = datetime.now(UTC) + timedelta(days=1)
    hour = timedelta(hours=1)
    guard = ledger.guard(folder.url)
    with attempt(ledger, key) as held:
        held.announce(folder.url, [one.prefix])
        put_objects(folder, stage(tmp_path, one), held.still_mine)
        assert ledger.live_prefixes(folder.url) == {one.prefix}
        assert collect_garbage(folder, hour, guard, dry_run=False, now=later) == []
    assert ledger.live_prefixes(folder.url) == frozenset()
    assert len(collect_garbage(folder, hour, guard, dry_run=False, now=later)) == 1


def test_an_attempt_cannot_begin_to_write_under_garbage_collection(ledger: Ledger, key: str) -> None:
    """It waits until the prefix is free, so it never counts on objects that are being removed."""
    with ThreadPoolExecutor(1) as pool, attempt(ledger, key) as held:
        with ledger.unclaimed(key, "prefix") as unclaimed:
            assert unclaimed
            announced = pool.submit(held.announce, key, ["prefix"])
            wait_for(ledger, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'advisory'")
            assert not announced.done()
        announced.result(PATIENCE_SECONDS)
        with ledger.unclaimed(key, "prefix") as unclaimed:
            assert not unclaimed


def test_names_of_a_dag_that_is_no_more_can_be_released(ledger: Ledger) -> None:
    """A renamed DAG gets its published name back once the old DAG's names are released."""
    before = set(ledger.published())
    old, new, name = "renamed_from", "renamed_to", "renamed_name"
    target = PublishedOutput("job", "blocks")
    ledger.publish_names(old, {name: target})
    with pytest.raises(ConfigurationError, match=r"belongs to DAG 'renamed_from'; .*trace publish --prune"):
        ledger.publish_names(new, {name: target})
    others = {owner for owner, _ in ledger.published().values()} - {old}
    assert ledger.release_names([new, *others]) == [name]
    ledger.publish_names(new, {name: target})
    assert ledger.published()[name] == (new, target)
    assert set(ledger.published()) == before | {name}


def test_published_names_follow_the_dag(ledger: Ledger) -> None:
    """Names come, change and go with their DAG; another DAG's name is refused, with both named."""
    dag, other = uuid.uuid4().hex, uuid.uuid4().hex
    mine, theirs = f"{dag}_blocks", f"{other}_blocks"
    ledger.publish_names(other, {theirs: PublishedOutput("job", "blocks")})
    ledger.publish_names(
        dag, {mine: PublishedOutput("job", "blocks"), f"{dag}_x": PublishedOutput("job", "x")}
    )
    ledger.publish_names(dag, {mine: PublishedOutput("other_job", "blocks")})
    published = ledger.published()
    assert published[mine] == (dag, PublishedOutput("other_job", "blocks"))
    assert f"{dag}_x" not in published
    with pytest.raises(ConfigurationError, match=f"'{theirs}' belongs to DAG '{other}'"):
        ledger.publish_names(dag, {theirs: PublishedOutput("job", "blocks")})
    assert ledger.published()[mine][0] == dag


def test_a_connection_that_breaks_in_mid_run_is_replaced(ledger: Ledger, key: str) -> None:
    """An attempt goes on after its server has ended every session."""
    with attempt(ledger, key) as held:
        with psycopg.connect(ledger.conninfo, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'trace-dagster' AND pid <> pg_backend_pid()"
            )
        held.still_mine()
        with held.fenced() as fence:
            fence.record(committed(str(uuid.uuid4()), root=key))
    assert ledger.attempts_of(key)[0].state == "succeeded"


def test_waiting_for_a_lease_can_be_given_up(ledger: Ledger, key: str) -> None:
    """What is called at each look may end the wait, before lease and deadline; the holder goes on."""
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise Interrupted("the run ends")

    with attempt(ledger, key, lease_seconds=600) as held:
        waiting = ledger.attempt(key, run_id="second", lease_seconds=600, wait_until=math.inf, check=check)
        with pytest.raises(Interrupted), waiting:
            pytest.fail("two hold the task")
        held.still_mine()
    assert [record.run_id for record in ledger.attempts_of(key)].count("second") == 0
