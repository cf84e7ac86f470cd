"""The aggregator's sensor on a ledger written by hand: what it asks for, and asks for again."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.support.followers import services
from trace_dagster.ledger import FollowerStep
from trace_dagster.operators.registry import catalog, operators
from trace_dagster.operators.services import Services
from trace_dagster.spec.resolve import load_dags
from trace_dagster.translator import asking
from trace_dagster.translator.compile import compile_dags

DAG = """\
name: {name}
jobs:
  - name: tip
    activation: source
    runtime: ecs_platform
    operator: block_follower
    source: {{ kind: always_on }}
    config: {{ chain_id: 1, rpc_pool: tip, datasets: [blocks] }}
    outputs: 1
    update_strategy: append
    unique_key: [chain_id, block_hash]
  - name: full
    activation: reactive
    runtime: dispatcher
    operator: range_aggregator
    execution_strategy: PerUpdate
    inputs: [ {{ from: {{ job: tip, output: 0 }} }} ]
    config: {{ range_size: 10, finality_blocks: 0 }}
    outputs: 1
    update_strategy: replace
"""


class Aggregated:
    """A sensor, its cursor, and the runs that it asked for."""

    def __init__(self, opened: Services, instance: dg.DagsterInstance, folder: Path) -> None:
        self.name = f"a{uuid.uuid4().hex[:10]}"
        path = folder / f"{self.name}.yaml"
        path.write_text(DAG.format(name=self.name), encoding="utf-8")
        definitions = compile_dags(
            loaded=load_dags(path, catalog()), operators=operators(), settings=opened.settings, environment={}
        )
        self.repository = definitions.get_repository_def()
        self.sensor = self.repository.get_sensor_def(f"{self.name}__full__aggregate")
        self.opened, self.instance = opened, instance
        self.cursor: str | None = None
        self.skipped: str | None = None

    def follow(
        self, cursor: int, *, first: int = 0, ancestor: int | None = None, old: int | None = None
    ) -> None:
        """Let the follower have committed blocks, over a reorganisation where an ancestor is given."""
        step = FollowerStep(
            dag=self.name,
            job="tip",
            chain_id=1,
            first_block=first,
            datasets=["blocks"],
            cursor_block=cursor,
            cursor_hash=uuid.uuid4().bytes,
            cursor_time=1_800_000_000,
            hashes={},
            kept_blocks=0,
            ancestor_block=ancestor,
            old_cursor_block=old,
        )
        with self.attempt() as fence:
            fence.follow(step)

    def reset(self) -> None:
        """Let it begin anew."""
        with self.attempt() as fence:
            fence.forget_follower(f"{self.name}/tip")

    def attempt(self) -> Any:
        """Hold the follower's lease for one commit."""
        return _fenced(self.opened, f"{self.name}/tip")

    def look(self) -> list[str]:
        """Let the sensor look once; return the partitions and run keys that it asks for."""
        context = dg.build_sensor_context(
            instance=self.instance,
            repository_def=self.repository,
            resources={"trace": self.opened},
            cursor=self.cursor,
        )
        with context:
            told = self.sensor._raw_fn(context)
            self.cursor = getattr(told, "cursor", None) or context.cursor
        self.skipped = getattr(told, "skip_message", None)
        for one in getattr(told, "dynamic_partitions_requests", None) or ():
            self.instance.add_dynamic_partitions(one.partitions_def_name, one.partition_keys)
        asked = getattr(told, "run_requests", None) or ()
        return [f"{one.partition_key} {one.run_key.partition(':')[2]}" for one in asked]

    def ended(self, run_key: str, status: dg.DagsterRunStatus) -> None:
        """Let a run that was asked for have ended."""
        tags = {"dagster/run_key": f"{self.name}__full:{run_key}"}
        self.instance.add_run(
            dg.DagsterRun(job_name="any", tags=tags, status=status, run_id=str(uuid.uuid4()))
        )


class _fenced:  # noqa: N801
    def __init__(self, opened: Services, key: str) -> None:
        self._lease = opened.ledger.attempt(key, run_id="test", lease_seconds=30, wait_until=0)

    def __enter__(self) -> Any:
        self._fence = self._lease.__enter__().fenced()
        return self._fence.__enter__()

    def __exit__(self, *error: object) -> None:
        self._fence.__exit__(*error)
        self._lease.__exit__(*error)


@pytest.fixture(scope="module")
def opened(trace_home: Path) -> Iterator[Services]:
    """A ledger."""
    with services(trace_home, "http://127.0.0.1:9") as services_:
        yield services_


@pytest.fixture
def aggregated(opened: Services, tmp_path: Path) -> Iterator[Aggregated]:
    """A sensor that has seen nothing yet."""
    with dg.instance_for_test() as instance:
        yield Aggregated(opened, instance, tmp_path)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """So many seconds after now it is for the sensor; add to it."""
    now, passed = asking.time.time, [0.0]
    monkeypatch.setattr(asking, "time", type("Clock", (), {"time": staticmethod(lambda: now() + passed[0])}))
    return passed


def test_a_run_that_failed_is_asked_for_again(aggregated: Aggregated, later: list[float]) -> None:
    """After a minute, then two; one that went well, or was canceled, is not."""
    aggregated.follow(39)
    assert aggregated.look() == ["0_9 0_9", "10_19 10_19", "20_29 20_29", "30_39 30_39"]
    assert aggregated.look() == []
    aggregated.ended("0_9", dg.DagsterRunStatus.SUCCESS)
    aggregated.ended("10_19", dg.DagsterRunStatus.FAILURE)
    aggregated.ended("20_29", dg.DagsterRunStatus.CANCELED)
    assert aggregated.look() == []
    later[0] = 61
    assert aggregated.look() == ["10_19 10_19:again1"]
    assert aggregated.look() == []
    aggregated.ended("10_19:again1", dg.DagsterRunStatus.FAILURE)
    assert aggregated.look() == []
    later[0] = 122
    assert aggregated.look() == ["10_19 10_19:again2"]
    aggregated.ended("10_19:again2", dg.DagsterRunStatus.SUCCESS)
    aggregated.ended("30_39", dg.DagsterRunStatus.STARTED)
    later[0] = 1e6
    assert aggregated.look() == []
    assert "30_39" in str(aggregated.cursor)
    assert "10_19" not in str(aggregated.cursor)


def test_it_never_gives_up(aggregated: Aggregated, later: list[float]) -> None:
    """At last it asks every hour; a run that somebody deleted is asked for again after ten minutes."""
    aggregated.follow(9)
    (asked,) = aggregated.look()
    for _ in range(12):
        aggregated.ended(asked.partition(" ")[2], dg.DagsterRunStatus.FAILURE)
        later[0] += 3601
        (asked,) = aggregated.look()
    assert asked == "0_9 0_9:again12"
    later[0] += 599
    assert aggregated.look() == []
    later[0] += 2
    assert aggregated.look() == ["0_9 0_9:again13"]


def test_new_ranges_wait_while_many_have_not_ended(aggregated: Aggregated) -> None:
    """A hundred at once are enough."""
    aggregated.follow(1999)
    assert [len(aggregated.look()) for _ in range(7)] == [20, 20, 20, 20, 20, 0, 0]
    assert aggregated.skipped == f"{aggregated.name}/tip is at block 1999; 100 runs have not ended well yet"
    for start in range(0, 300, 10):
        aggregated.ended(f"{start}_{start + 9}", dg.DagsterRunStatus.SUCCESS)
    assert [len(aggregated.look()) for _ in range(3)] == [0, 20, 10]


def test_what_changed_is_asked_for_anew(aggregated: Aggregated, later: list[float]) -> None:
    """Once full and final on the new branch; an older request of the same range is forgotten."""
    aggregated.follow(39)
    aggregated.look()
    aggregated.ended("20_29", dg.DagsterRunStatus.FAILURE)
    for key in ("0_9", "10_19", "30_39"):
        aggregated.ended(key, dg.DagsterRunStatus.SUCCESS)
    aggregated.follow(35, ancestor=24, old=39)
    later[0] = 61
    assert aggregated.look() == ["20_29 20_29:again1"]
    aggregated.ended("20_29:again1", dg.DagsterRunStatus.FAILURE)
    aggregated.follow(40)
    later[0] = 1e4
    (first, second) = aggregated.look()
    assert first.startswith("20_29 20_29:")
    assert second.startswith("30_39 30_39:")
    assert "again" not in first + second
    assert aggregated.look() == []


def test_what_changed_comes_in_turns_too(aggregated: Aggregated) -> None:
    """Of an invalidation of many ranges some at a time, each once, and only while there is room."""
    aggregated.follow(1499)
    for _ in range(8):
        for asked in aggregated.look():
            aggregated.ended(asked.partition(" ")[2], dg.DagsterRunStatus.SUCCESS)
    aggregated.follow(1499, ancestor=4, old=1499)
    asked = [aggregated.look() for _ in range(7)]
    assert [len(some) for some in asked] == [20, 20, 20, 20, 20, 0, 0]
    for one in (one for some in asked for one in some):
        aggregated.ended(one.partition(" ")[2], dg.DagsterRunStatus.SUCCESS)
    assert aggregated.look() == []
    asked += [aggregated.look() for _ in range(4)]
    again = [one.partition(" ")[0] for some in asked for one in some]
    assert again == [f"{start}_{start + 9}" for start in range(0, 1500, 10)]


def test_two_invalidations_at_once_leave_nothing_out(aggregated: Aggregated) -> None:
    """The second, deeper one is of more ranges than there is room for, and has those of the first in it."""
    aggregated.follow(599)
    for _ in range(4):
        for asked in aggregated.look():
            aggregated.ended(asked.partition(" ")[2], dg.DagsterRunStatus.SUCCESS)
    aggregated.follow(599, ancestor=579, old=599)
    aggregated.follow(599, ancestor=4, old=599)
    again = [one.partition(" ")[0] for _ in range(3) for one in aggregated.look()]
    assert sorted(again) == sorted(f"{start}_{start + 9}" for start in range(0, 600, 10))


@pytest.mark.parametrize("first", [0, 5, 20])
def test_a_follower_that_began_anew_gives_its_ranges_again(aggregated: Aggregated, first: int) -> None:
    """Those that it has again are asked for under another name, once it has them."""
    aggregated.follow(39, first=5)
    assert [one.partition(" ")[0] for one in aggregated.look()] == ["10_19", "20_29", "30_39"]
    aggregated.reset()
    aggregated.follow(25, first=first)
    assert aggregated.look() == []
    aggregated.follow(59, first=first)
    asked = [*aggregated.look(), *aggregated.look()]
    again = {one.partition(" ")[0] for one in asked if one.count(":") == 1}
    assert again == {one for one in ("10_19", "20_29", "30_39") if int(one[:2]) >= first}
    new = {one for one in asked if one.count(":") == 0}
    assert {"40_49 40_49", "50_59 50_59"} <= new
    assert ("0_9 0_9" in new) == (first == 0)
