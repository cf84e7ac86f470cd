"""Writers killed at every step and at random moments, in a folder and in a bucket, on the real ledger."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
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
Writer = Callable[..., dict[str, Any]]


def start(
    store_url: str, home: Path, scratch: Path, environment: Mapping[str, str]
) -> "subprocess.Popen[str]":
    """Start a writer that waits for requests."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.crashing_publisher", store_url, str(home), str(scratch)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(process: "subprocess.Popen[str]", config: str, **moment: object) -> dict[str, Any]:
    """Let a writer commit the version that ``config`` names, perhaps killed; return how it went."""
    send(process, config, **moment)
    return answer(process)


def send(process: "subprocess.Popen[str]", config: str, **moment: object) -> None:
    """Let a writer begin."""
    assert process.stdin is not None
    request = {"config": config, "kill_at": None, "kill_after": None} | moment
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()


def answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """Wait for a writer's answer."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the writer ended"
    found: dict[str, Any] = json.loads(line)
    return found


def stop(process: "subprocess.Popen[str]") -> None:
    """End a writer."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.wait(timeout=60)
    process.stdout.close()


@pytest.fixture
def writers(
    store: ObjectStore,
    ledger: Ledger,
    trace_home: Path,
    tmp_path: Path,
    s3_environment: Mapping[str, str],
) -> Iterator[list["subprocess.Popen[str]"]]:
    """Two writers on the same store and ledger."""
    started = [start(store.url, trace_home, tmp_path / str(number), s3_environment) for number in range(2)]
    yield started
    for process in started:
        stop(process)


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
    writers: list["subprocess.Popen[str]"], store: ObjectStore, ledger: Ledger, tmp_path: Path
) -> None:
    """Around each statement and each write: nothing half-visible, and the next attempt completes."""
    steps = ask(writers[0], "whole")["steps"]
    assert steps > 2 * (FILES + 1)
    committed = 0
    for step in range(steps):
        config = f"step {step}"
        assert ask(writers[0], config, kill_at=step)["killed"]
        committed += check_never_half_visible(store, config)
        expire_leases(ledger, dataset_id(config=config).prefix)
        assert not ask(writers[1], config)["killed"]
        assert objects(store, config) == expected(tmp_path, config)
        version = dataset_id(config=config).version
        assert version in ledger.current(store.url, 1, "blocks")
    assert 0 < committed < steps


def test_killed_at_random_moments_and_raced(
    writers: list["subprocess.Popen[str]"], store: ObjectStore, ledger: Ledger, tmp_path: Path
) -> None:
    """Twenty kills of one partition, and two writers at once at the end: one manifest, the same bytes."""
    moments = random.Random(7)  # noqa: S311
    config = "random"
    for _ in range(20):
        ask(writers[0], config, kill_after=moments.uniform(0, 0.1))
        check_never_half_visible(store, config)
        expire_leases(ledger, dataset_id(config=config).prefix)
    for process in writers:
        send(process, config)
    assert [answer(process)["killed"] for process in writers] == [False, False]
    assert objects(store, config) == expected(tmp_path, config)
    later = datetime.now(UTC) + timedelta(days=2)
    collect_garbage(store, timedelta(days=1), ledger.guard(store.url), dry_run=False, now=later)
    if store.is_local:
        assert [path for path in store.folder.rglob("*#*") if path.is_file()] == []
    assert objects(store, config) == expected(tmp_path, config)


def test_two_writers_at_once(
    writers: list["subprocess.Popen[str]"], store: ObjectStore, tmp_path: Path
) -> None:
    """The second waits for the first's lease, finds the commit, and changes nothing."""
    for number in range(5):
        config = f"both {number}"
        for process in writers:
            send(process, config)
        assert [answer(process)["killed"] for process in writers] == [False, False]
        assert objects(store, config) == expected(tmp_path, config)
