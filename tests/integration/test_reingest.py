"""Ranges that are ingested anew under a raised ``config.revision``: a reorg, or a provider's fault."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from trace_dagster import metadata
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import CommitConflict, DataMismatch
from trace_dagster.operators.base import OutputResult, Task
from trace_dagster.operators.cryo_ingest import stub
from trace_dagster.operators.cryo_ingest.config import CryoIngestConfig
from trace_dagster.operators.cryo_ingest.joins import Joins
from trace_dagster.operators.cryo_ingest.operator import CryoIngest
from trace_dagster.operators.services import Services
from trace_dagster.settings import Settings
from trace_dagster.store import scan_polars
from trace_dagster.testing.simulated_chain import SimulatedChain

FIRST, SECOND, THIRD = BlockRange(0, 9), BlockRange(10, 19), BlockRange(20, 29)
CHAIN_ID = 77


@pytest.fixture
def services(trace_home: Path, tmp_path: Path) -> Iterator[Services]:
    """A store of its own."""
    environment = {"TRACE_HOME": str(trace_home), "TRACE_OBJECT_STORE_URL": (tmp_path / "store").as_uri()}
    with Services(Settings.from_environment(environment), environment) as opened:
        yield opened


def ingest(
    services: Services, block_range: BlockRange, *, revision: int = 0, force: bool = False
) -> OutputResult:
    """Ingest blocks of the chain as it is now."""
    one = task(services, block_range, revision=revision, force=force)
    results: Sequence[OutputResult] = CryoIngest().run(one, services, lambda *_args, **_fields: None)
    return results[0]


def task(services: Services, block_range: BlockRange, *, revision: int = 0, force: bool = False) -> Task:
    """The same, not yet run."""
    return Task(
        dag=services.store.url.split("/")[-2].replace("-", "_"),
        job="ingest",
        partition=block_range,
        outputs=("blocks",),
        config=CryoIngestConfig(chain_id=CHAIN_ID, datasets=("blocks",), engine="stub", revision=revision),
        timeout_seconds=600,
        lease_seconds=60,
        force=force,
        run_id="test",
    )


@pytest.mark.parametrize("force", [False, True])
def test_datasets_of_one_range_are_of_one_branch(
    services: Services, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    """A dataset that is asked for alone is compared with those that were committed before it."""
    blocks = replace(task(services, FIRST), config=both_datasets())
    CryoIngest().run(blocks, services, lambda *_args, **_fields: None)
    reorganise(monkeypatch)
    logs = replace(blocks, outputs=("logs",), force=force)
    with pytest.raises(DataMismatch, match="first block 0"):
        CryoIngest().run(logs, services, lambda *_args, **_fields: None)


def both_datasets() -> CryoIngestConfig:
    """Blocks and logs of the simulated chain."""
    return CryoIngestConfig(chain_id=CHAIN_ID, datasets=("blocks", "logs"), engine="stub")


def test_what_is_kept_and_what_is_waited_for_is_said(services: Services) -> None:
    """An attempt behind another one says so while it waits; one that finds everything committed says that."""
    said: list[str] = []
    one = task(services, FIRST)
    again = threading.Thread(
        target=CryoIngest().run, args=(one, services, lambda line, **_fields: said.append(line))
    )
    with services.ledger.attempt(one.key, run_id="first", lease_seconds=60, wait_until=0):
        again.start()
        deadline = time.monotonic() + 60
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
    again.join()
    assert said[0] == "waiting for another attempt at"
    del said[:]
    CryoIngest().run(one, services, lambda line, **_fields: said.append(line))
    assert said == ["committed already, kept:"]


def reorganise(monkeypatch: pytest.MonkeyPatch) -> SimulatedChain:
    """Let the chain be another one from now on, and return it."""
    other = SimulatedChain(seed=1, chain_id=CHAIN_ID)
    monkeypatch.setattr(stub, "_chain", lambda _chain_id: other)
    return other


def test_ranges_beside_each_other_are_replaced_one_after_another(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each names the neighbours still to come; at the end the rows are one chain, and nothing is named."""
    for one in (FIRST, SECOND, THIRD):
        ingest(services, one)
    chain = reorganise(monkeypatch)
    named = [
        ingest(services, one, revision=1).metadata.get(metadata.UNJOINED) for one in (SECOND, FIRST, THIRD)
    ]
    assert named == ["0_9, 20_29", None, None]
    order = services.ledger.current(services.store.url, CHAIN_ID, "blocks")
    rows = scan_polars(services.store, CHAIN_ID, "blocks", 0, 29, order=order, synthetic="allow").collect()
    assert rows["block_hash"].to_list() == [chain.block_hash(number) for number in range(30)]


def test_other_branches_are_refused_all_the_same(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new range must join, whatever the revision; and nothing is replaced without a raised one."""
    for one in (FIRST, SECOND):
        ingest(services, one)
    reorganise(monkeypatch)
    for revision in (0, 1):
        with pytest.raises(DataMismatch, match="parent of block 20"):
            ingest(services, THIRD, revision=revision)
    with pytest.raises((DataMismatch, CommitConflict)):
        ingest(services, FIRST, force=True)


def test_neighbours_that_commit_meanwhile_must_join_too(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A range of another branch that is committed after the first look is found before the commit."""
    looked = Joins.check

    def look(joins: Joins) -> None:
        looked(joins)
        if joins.id.range == FIRST and not committed:
            committed.append(SECOND)
            reorganise(monkeypatch)
            ingest(services, SECOND)

    committed: list[BlockRange] = []
    monkeypatch.setattr(Joins, "check", look)
    with pytest.raises(DataMismatch, match="block 9, parent of block 10"):
        ingest(services, FIRST)
    assert committed
    assert [item.path.split("/")[3] for item in services.store.walk("cryo") if "_manifest" in item.path] == [
        SECOND.key
    ]
