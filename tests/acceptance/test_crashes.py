"""Materializing processes killed with SIGKILL, and racing each other: all engines, a folder and a bucket."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Node
from tests.support.dags import CHAIN_ID, ingest_dag
from tests.support.project import REPOSITORY, Project
from tests.support.s3 import new_bucket_url
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.ledger import Ledger, open_ledger
from trace_dagster.settings import Settings
from trace_dagster.store import ObjectStore, open_store, resolve

MOMENTS = 20
OUTPUTS = ("blocks", "transactions", "logs")
BLOCKS = 3
PARTITIONS = [piece.key for piece in BlockRange.of(0, BLOCKS * MOMENTS - 1).split(BLOCKS)]
MANIFEST = "/_manifest.json"


@dataclass
class Worker:
    """A process that forks one child for each request.

    Attributes:
        project: whose partitions it materializes.
    """

    project: Project
    process: "subprocess.Popen[str]" = field(init=False)

    def __post_init__(self) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [
                sys.executable,
                *("-m", "tests.support.crashing_materializer"),
                *(f"crash/ingest/{output}" for output in OUTPUTS),
            ],
            cwd=REPOSITORY,
            env=self.project.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.project.root / "worker.log").open("w"),
            text=True,
        )

    def send(
        self,
        partitions: Sequence[str],
        *,
        count: bool = False,
        kill_at: int | None = None,
        delay: float = 0,
    ) -> None:
        """Let a child begin."""
        assert self.process.stdin is not None
        request = {"partitions": list(partitions), "count": count, "kill_at": kill_at, "delay": delay}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait until the child has ended."""
        answer: dict[str, Any] = json.loads(self._line())
        return answer

    def materialize(self, partitions: Sequence[str], *, count: bool = False) -> dict[str, Any]:
        """Let a child do its work undisturbed."""
        self.send(partitions, count=count)
        answer = self.answer()
        assert answer["status"] == 0, self._log()
        return answer

    def ready(self) -> "Worker":
        """Wait until the imports are done."""
        assert self._line().strip() == "ready"
        return self

    def stop(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the worker ended:\n{self._log()}"
        return line

    def _log(self) -> str:
        return (self.project.root / "worker.log").read_text()[-6000:]


@dataclass
class Place:
    """Two workers on one store and ledger.

    Attributes:
        engine: what makes the data.
        project: their project.
        store: where they commit.
        workers: the two.
        ledger: where they take leases; held here, so that its server keeps running.
    """

    engine: str
    project: Project
    store: ObjectStore
    workers: list[Worker]
    ledger: Ledger

    def objects(self, partition: str = "") -> dict[str, bytes | None]:
        """Return everything in the store, or what it has of one partition."""
        folders = [f"cryo/{CHAIN_ID}/{output}/{partition}".rstrip("/") for output in OUTPUTS]
        return {
            item.path: self.store.get(item.path) for folder in folders for item in self.store.walk(folder)
        }


@pytest.fixture(params=["stub-file", "stub-s3", "cryo-file", "native-s3"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, node: Node, s3_environment: Mapping[str, str]
) -> Iterator[Place]:
    """Return two workers on a folder or on a bucket, with one of the engines."""
    engine, _, where = request.param.partition("-")
    project = new_project(tmp_path, node, engine)
    if where == "s3":
        project.settings |= {**s3_environment, "TRACE_OBJECT_STORE_URL": new_bucket_url(s3_environment)}
    # What a dead worker left in staging is old at once.
    project.settings["TRACE_STAGING_MAX_AGE_HOURS"] = "0.0001"
    settings = Settings.from_environment(project.environment)
    with open_ledger(settings) as ledger:
        workers = [Worker(project), Worker(project)]
        try:
            store = open_store(settings.object_store_url, project.environment)
            yield Place(engine, project, store, [worker.ready() for worker in workers], ledger)
        finally:
            for worker in workers:
                worker.stop()


def new_project(folder: Path, node: Node, engine: str) -> Project:
    """Return a project with a DAG of ``PARTITIONS``, whose leases end soon."""
    project = Project(folder / "project")
    project.settings["TRACE_RPC_POOL_TEST_URL"] = node.anvil.url
    dag = ingest_dag(
        "crash",
        end_block=BLOCKS * MOMENTS - 1,
        chunk_size=BLOCKS,
        engine=engine,
        heartbeat_timeout_seconds=3,
    )
    project.write("crash.yaml", dag)
    return project


Undisturbed = tuple[dict[str, bytes], int]


@pytest.fixture(scope="module")
def undisturbed(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Undisturbed]:
    """Return what a run that nobody disturbs leaves in the store, and how many calls a partition takes."""

    @cache
    def of(engine: str) -> Undisturbed:
        project = new_project(tmp_path_factory.mktemp("undisturbed"), node, engine)
        worker = Worker(project)
        try:
            calls = worker.ready().materialize(PARTITIONS[:1], count=True)["calls"]
            worker.materialize(PARTITIONS)
        finally:
            worker.stop()
        return project.objects(), calls

    return of


def test_killed_at_twenty_moments(place: Place, undisturbed: Callable[[str], Undisturbed]) -> None:
    """After each kill nothing is half-visible; the next start completes, byte for byte, and cleans up."""
    expected, calls = undisturbed(place.engine)
    moments = random.Random(20)  # noqa: S311
    killed = 0
    for partition in PARTITIONS:
        place.workers[0].send([partition], kill_at=moments.randint(1, calls), delay=moments.uniform(0, 0.01))
        killed += place.workers[0].answer()["killed"]
        check_whole(place.objects(partition), expected)
    assert killed >= MOMENTS // 2
    place.workers[1].materialize(PARTITIONS)
    found = place.objects()
    assert found.keys() == expected.keys()
    assert found == expected
    assert place.project.staged() == []
    assert left_in_staging(place.project) == []
    for output in OUTPUTS:
        order = place.ledger.current(place.store.url, CHAIN_ID, output)
        pieces = resolve(place.store, CHAIN_ID, output, order=order, synthetic="allow")
        assert [piece.keep.key for piece in pieces] == PARTITIONS


def check_whole(found: Mapping[str, bytes | None], expected: Mapping[str, bytes]) -> None:
    """Check that where there is a manifest, all of its objects are there, with the right bytes."""
    for path in found:
        if path.endswith(MANIFEST):
            prefix = path.removesuffix(MANIFEST)
            wanted = {name: body for name, body in expected.items() if name.startswith(prefix)}
            assert {name: found.get(name) for name in wanted} == wanted


def left_in_staging(project: Project) -> list[str]:
    """Return the directories of attempts that are still there."""
    return [str(path) for path in (project.home / "staging" / "cryo").glob("*/*")]


def test_two_processes_at_once(place: Place, undisturbed: Callable[[str], Undisturbed]) -> None:
    """Two processes that materialize the same partitions both succeed, and commit each of them once."""
    expected, _ = undisturbed(place.engine)
    for partition in PARTITIONS[:3]:
        for worker in place.workers:
            worker.send([partition])
        assert [worker.answer()["status"] for worker in place.workers] == [0, 0]
        attempts = place.ledger.attempts_of(f"crash/ingest/{partition}")
        assert [attempt.state for attempt in attempts].count("succeeded") >= 1
    wanted = {
        path: body
        for path, body in expected.items()
        if any(f"/{partition}/" in path for partition in PARTITIONS[:3])
    }
    assert place.objects() == wanted
    assert left_in_staging(place.project) == []
