"""A running Dagster, as ``dagster dev`` starts it, used as a person and as a browser use it."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Page, expect, sync_playwright

from tests.acceptance.conftest import Node
from tests.support.dags import CHAIN_ID, ingest_dag
from tests.support.fault_proxy import FaultProxy
from tests.support.gates import Meeting
from tests.support.project import REPOSITORY, Project
from tests.support.small_chain import node_rows
from tests.support.stack import Stack, running_stack
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.store import open_store, scan_polars

OUTPUTS = ("blocks", "transactions", "logs")
POOL_PARTITIONS = tuple(BlockRange.of(0, 39).split(5))
POOL_LIMIT = 2
BROWSER = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
_POOL = "query Pool($key: String!) { instance { concurrencyLimit(concurrencyKey: $key) { limit } } }"
_MATERIALIZED = """
query Asset($path: [String!]!) { assetOrError(assetKey: {path: $path}) { ... on Asset {
  assetMaterializations(limit: 100) { partition metadataEntries { label } } } } }
"""


@dataclass(frozen=True)
class Launched:
    """A running Dagster and the work it was asked for at once, since its daemon looks every 30 seconds.

    Attributes:
        stack: Dagster.
        real: backfill of three real partitions.
        pool: backfills of eight partitions of a job with ``max_concurrency: 2``, one each.
        meeting: what holds the pool's partitions until two of them are in work.
        asked: the run that asks for a range at run time.
    """

    stack: Stack
    real: str
    pool: Sequence[str]
    meeting: Meeting
    asked: str


@pytest.fixture(scope="module")
def meeting_place(node: Node) -> Iterator[FaultProxy]:
    """Return an endpoint that says that the node's chain is chain 2."""
    proxy = FaultProxy(node.anvil.url)
    proxy.results["eth_chainId"] = hex(2)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def launched(
    node: Node, meeting_place: FaultProxy, new_project: Callable[[str], Project]
) -> Iterator[Launched]:
    """Start Dagster on four DAGs and one broken file, and launch everything but what the browser launches."""
    project = new_project("running")
    size_runs(project.dagster_home / "dagster.yaml")
    project.settings["TRACE_RPC_POOL_TEST_URL"] = node.anvil.url
    project.write("real.yaml", ingest_dag("real", end_block=59, chunk_size=20, engine="cryo"))
    meeting = Meeting(POOL_PARTITIONS, POOL_LIMIT)
    project.settings["TRACE_RPC_POOL_MET_URL"] = meeting_place.url()
    meeting_place.intercept = meeting
    pool = ingest_dag(
        "pool",
        end_block=39,
        chunk_size=5,
        engine="cryo",
        chain_id=2,
        rpc_pool="met",
        max_concurrency=POOL_LIMIT,
    )
    project.write("pool.yaml", pool)
    project.write("asked.yaml", ingest_dag("asked", end_block=None, chunk_size=10, engine="stub", chain_id=3))
    project.write(
        "monad.yaml", ingest_dag("monad", end_block=29, chunk_size=10, engine="stub", chain_id=10143)
    )
    project.write("broken.yaml", "name: broken\njobs: 7\n")
    with running_stack(project) as stack:
        yield Launched(
            stack=stack,
            real=stack.launch_backfill(paths("real"), ["0_19", "20_39", "40_59"]),
            pool=[stack.launch_backfill(paths("pool"), [one.key]) for one in POOL_PARTITIONS],
            meeting=meeting,
            asked=stack.launch_job(
                "asked__ask", {"ops": {"request": {"config": {"start_block": 5, "end_block": 34}}}}
            ),
        )


def size_runs(instance_file: Path) -> None:
    """Put the run queue of ``deploy/`` into an instance file, with a size for one job."""
    settings = yaml.safe_load(instance_file.read_text())
    queue = yaml.safe_load((REPOSITORY / "deploy" / "dagster.yaml").read_text())["run_coordinator"]
    queue["config"]["job_tags"] = {"real/ingest": {"ecs/memory": "8192"}}
    instance_file.unlink()
    instance_file.write_text(yaml.safe_dump({**settings, "run_coordinator": queue}))


def paths(dag: str) -> list[list[str]]:
    """Return the asset keys of a DAG's ingest job."""
    return [[dag, "ingest", output] for output in OUTPUTS]


def materialized(stack: Stack, dag: str, output: str) -> dict[str, set[str]]:
    """Return the partitions that Dagster shows as materialized, with their metadata's keys."""
    asset = stack.query(_MATERIALIZED, {"path": [dag, "ingest", output]})["assetOrError"]
    return {
        event["partition"]: {entry["label"] for entry in event["metadataEntries"]}
        for event in asset.get("assetMaterializations", [])
    }


def open_browser() -> str:
    """Return the program of the browser."""
    return os.environ.get("CHROMIUM") or "/usr/bin/chromium"


@pytest.mark.ui
def test_a_person_backfills_a_dag_in_the_browser(launched: Launched, tmp_path: Path) -> None:
    """The UI shows the lineage; "Materialize all" there turns every asset green, three partitions each."""
    stack = launched.stack
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=open_browser(), args=BROWSER) as browser,
    ):
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(120_000)
        try:
            backfill_in(page, f"{stack.url}/locations/trace/asset-groups/monad/lineage")
        except AssertionError as error:
            page.screenshot(path=tmp_path / "browser.png")
            raise AssertionError(f"{error}\nsee {tmp_path}/browser.png\n{stack.tail()}") from None
        if os.environ.get("REFRESH_SCREENSHOT"):
            page.screenshot(path=REPOSITORY / "docs" / "lineage.png")
    for output in OUTPUTS:
        assert materialized(stack, "monad", output).keys() == {"0_9", "10_19", "20_29"}


def backfill_in(page: Page, url: str) -> None:
    """Launch everything on a lineage page and wait until it shows that all is there."""
    page.goto(url)
    for name in ("range", "ranges", "blocks", "logs", "transactions"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible(timeout=120_000)
    expect(page.get_by_text("3 partitions")).to_have_count(4, timeout=120_000)
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_role("button", name="All", exact=True).click()
    page.get_by_role("button", name="Launch backfill").click()
    # Three jobs, one after another; the daemon starts each within 30 seconds.
    expect(page.get_by_text("100% filled")).to_have_count(5, timeout=400_000)


def test_a_backfill_from_the_ui_ingests_what_the_node_answers(launched: Launched, node: Node) -> None:
    """A backfill asked for over GraphQL commits every row of a real chain, and tells Dagster about it."""
    stack = launched.stack
    assert stack.finished_backfill(launched.real)["status"] == "COMPLETED_SUCCESS"
    store = open_store(stack.project.store.as_uri(), {})
    for output in OUTPUTS:
        stored = scan_polars(store, CHAIN_ID, output, 0, 59).collect().to_dicts()
        expected = node_rows(node.anvil, output, 0, 59)
        columns = set(expected[0]) - {"n_rlp_bytes"}
        assert [{name: row[name] for name in columns} for row in stored] == [
            {name: row[name] for name in columns} for row in expected
        ]
        shown = materialized(stack, "real", output)
        assert shown.keys() == {"0_19", "20_39", "40_59"}
        for labels in shown.values():
            assert {
                "dagster/partition_row_count",
                "trace/bytes",
                "trace/blocks_per_second",
                "trace/rpc_requests",
                "trace/block_range",
                "trace/dataset_version",
                "trace/storage_prefix",
                "trace/first_block_hash",
                "trace/last_block_hash",
            } <= labels


@pytest.mark.parametrize(("dag", "memory"), [("real", "8192"), ("pool", "1024")])
def test_a_backfills_run_has_the_size_of_its_job(launched: Launched, dag: str, memory: str) -> None:
    """Runs that the daemon makes for a backfill get the ECS tags of their runtime and job from the queue."""
    stack = launched.stack
    backfill = launched.real if dag == "real" else launched.pool[0]
    expected = {"ecs/cpu": "256", "ecs/memory": memory}
    runs = stack.finished_backfill(backfill)["runs"]
    assert [sizes(stack.run(run["id"])["tags"]) for run in runs] == [expected] * len(runs)
    assert runs


def sizes(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the tags that the ECS run launcher reads."""
    return {tag["key"]: tag["value"] for tag in tags if tag["key"].startswith("ecs/")}


def test_a_pool_holds_without_a_manual_step(launched: Launched) -> None:
    """Eight runs of a job with ``max_concurrency: 2``: its limit is set, two work at once, and never more."""
    stack = launched.stack
    backfills = [stack.finished_backfill(backfill_id) for backfill_id in launched.pool]
    runs = [run for backfill in backfills for run in backfill["runs"]]
    assert [run["status"] for run in runs] == ["SUCCESS"] * len(POOL_PARTITIONS)
    assert stack.query(_POOL, {"key": "pool/ingest"})["instance"]["concurrencyLimit"]["limit"] == POOL_LIMIT
    assert launched.meeting.met.is_set()
    assert most_at_once([step for run in runs for step in run["stepStats"]]) == POOL_LIMIT


def most_at_once(steps: Sequence[Mapping[str, Any]]) -> int:
    """Return the largest number of steps that worked at one moment."""
    changes = sorted(
        (step[name], change) for step in steps for name, change in (("endTime", -1), ("startTime", 1))
    )
    working = most = 0
    for _, change in changes:
        working += change
        most = max(most, working)
    return most


def test_a_range_can_be_asked_for_at_run_time(launched: Launched) -> None:
    """The request job registers partitions and ingests them; an upside-down range is refused."""
    stack = launched.stack
    assert stack.finished_run(launched.asked) == "SUCCESS"
    expected = {"5_14", "15_24", "25_34"}

    def look() -> bool | None:
        return (
            True
            if all(materialized(stack, "asked", output).keys() == expected for output in OUTPUTS)
            else None
        )

    assert stack.wait_for("the partitions that were asked for", look)
    upside_down = {"ops": {"request": {"config": {"start_block": 9, "end_block": 2}}}}
    assert stack.finished_run(stack.launch_job("asked__ask", upside_down)) == "FAILURE"


def test_a_broken_file_is_shown_and_takes_nothing_down(launched: Launched) -> None:
    """The errors of a file that does not load stand in its asset's description; the other DAGs are there."""
    answer = launched.stack.query("{ assetNodes { assetKey { path } groupName description } }")
    nodes = {tuple(node["assetKey"]["path"]): node for node in answer["assetNodes"]}
    broken = nodes["invalid_dags", "broken"]
    assert "broken.yaml:2:7" in broken["description"]
    assert {("real", "ingest", "blocks"), ("monad", "ask", "range")} <= nodes.keys()
    assert json.dumps(answer).count("invalid_dags") == 2
