"""Writers killed at every step and at random moments, in a folder and in a bucket, on the real ledger."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import expire_leases
from tests.support.crashing_publisher import FILES
from tests.support.datasets import dataset_id, stage
from trace_dagster.ledger import Ledger
from trace_dagster.store import ObjectStore, collect_garbage, open_store, publish, read_manifest, verify

REPOSITORY = Path(__file__).parents[2]


class Writer:
    """A process that commits versions when asked, and is killed at it."""

    def __init__(self, home: Path, scratch: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.crashing_publisher", str(home), str(scratch)],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, store: ObjectStore, config: str, **moment: object) -> None:
        """Begin to commit the version that ``config`` names, perhaps to be killed."""
        assert self._process.stdin is not None
        request = {"store": store.url, "config": config, "kill_at": None, "kill_after": None} | moment
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the end of what was begun."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the writer ended"
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, store: ObjectStore, config: str, **moment: object) -> dict[str, Any]:
        """Begin and wait."""
        self.send(store, config, **moment)
        return self.answer()

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def writers(
    ledger: Ledger,
    trace_home: Path,
    tmp_path_factory: pytest.TempPathFactory,
    s3_environment: Mapping[str, str],
) -> Iterator[list[Writer]]:
    """Two writers on the same ledger."""
    started = [Writer(trace_home, tmp_path_factory.mktemp("writer"), s3_environment) for _ in range(2)]
    yield started
    for writer in started:
        writer.stop()


def objects(store: ObjectStore, config: str) -> dict[str, bytes | None]:
    """Return the content of every object of a version, and of the manifest."""
    return {item.path: store.get(item.path) for item in store.walk(dataset_id(config=config).prefix)}


def expected(tmp_path: Path, config: str) -> dict[str, bytes | None]:
    """Return what an undisturbed writer leaves."""
    reference = open_store((tmp_path / "reference").as_uri(), {})
    publish(reference, stage(tmp_path / "staged", dataset_id(config=config), files=FILES), lambda: None)
    return objects(reference, config)


def check_never_half_visible(store: ObjectStore, config: str) -> bool:
    """Check that a manifest, where there is one, has all its objects; return whether there is one."""
    manifest = read_manifest(store, dataset_id(config=config))
    if manifest is not None:
        verify(store, manifest)
    return manifest is not None


def test_killed_at_every_step(
    writers: list[Writer], store: ObjectStore, ledger: Ledger, tmp_path: Path
) -> None:
    """Around each statement and each write: nothing half-visible, and the next attempt completes."""
    steps = writers[0].ask(store, "whole")["steps"]
    assert steps > 2 * (FILES + 1)
    committed = 0
    for step in range(steps):
        config = f"step {step}"
        assert writers[0].ask(store, config, kill_at=step)["killed"]
        committed += check_never_half_visible(store, config)
        expire_leases(ledger, dataset_id(config=config).prefix)
        assert not writers[1].ask(store, config)["killed"]
        assert objects(store, config) == expected(tmp_path, config)
        version = dataset_id(config=config).version
        assert version in ledger.current(store.url, 1, "blocks")
    assert 0 < committed < steps


def test_killed_at_random_moments_and_raced(
    writers: list[Writer], store: ObjectStore, ledger: Ledger, tmp_path: Path
) -> None:
    """Twenty kills of one partition, and two writers at once at the end: one manifest, the same bytes."""
    moments = random.Random(7)  # noqa: S311
    config = "random"
    for _ in range(20):
        writers[0].ask(store, config, kill_after=moments.uniform(0, 0.1))
        check_never_half_visible(store, config)
        expire_leases(ledger, dataset_id(config=config).prefix)
    for writer in writers:
        writer.send(store, config)
    assert [writer.answer()["killed"] for writer in writers] == [False, False]
    assert objects(store, config) == expected(tmp_path, config)
    later = datetime.now(UTC) + timedelta(days=2)
    collect_garbage(store, timedelta(days=1), ledger.guard(store.url), dry_run=False, now=later)
    if store.is_local:
        assert [path for path in store.folder.rglob("*#*") if path.is_file()] == []
    assert objects(store, config) == expected(tmp_path, config)


def test_two_writers_at_once(writers: list[Writer], store: ObjectStore, tmp_path: Path) -> None:
    """The second waits for the first's lease, finds the commit, and changes nothing."""
    for number in range(5):
        config = f"both {number}"
        for writer in writers:
            writer.send(store, config)
        assert [writer.answer()["killed"] for writer in writers] == [False, False]
        assert objects(store, config) == expected(tmp_path, config)
