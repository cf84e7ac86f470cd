"""What the engine cryo decides before it starts Cryo, and what it makes of Cryo's words."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.support.extraction import Reports
from trace_dagster.chain.datasets import DATASETS, GROUPS
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import ConfigurationError
from trace_dagster.operators.base import Deadline
from trace_dagster.operators.cryo_ingest import cryo
from trace_dagster.operators.cryo_ingest.cryo import CryoEngine
from trace_dagster.operators.cryo_ingest.cryo_collect import CryoPass, plan_passes, planned_requests
from trace_dagster.operators.cryo_ingest.cryo_process import CryoJob
from trace_dagster.operators.cryo_ingest.engines import Extraction
from trace_dagster.operators.cryo_ingest.throttle import Throttled
from trace_dagster.settings import RpcEndpoint

ENDPOINT = RpcEndpoint(pool="p", url=SecretStr("http://127.0.0.1:1/"), variable="V")
ADDRESS = "0x" + "11" * 20


def work(
    datasets: tuple[str, ...], blocks: tuple[int, int] = (0, 249), **filters: tuple[str, ...]
) -> Extraction:
    """Work that never gets as far as the endpoint."""
    return Extraction(
        chain_id=1,
        datasets=datasets,
        range=BlockRange.of(*blocks),
        staging=Path("nowhere"),
        deadline=Deadline.after(None),
        endpoint=ENDPOINT,
        filters=filters,
    )


def planned(what: Extraction, directory: Path) -> tuple[CryoPass, ...]:
    """The runs for the whole range."""
    return plan_passes(what, what.range, directory)


def refused(what: Extraction, message: str, engine: CryoEngine | None = None) -> None:
    """Expect a ConfigurationError."""
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        (engine or CryoEngine()).extract(what, Reports())


def test_a_missing_wheel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel the error names the extra, the Python versions and the other way."""
    monkeypatch.setattr(cryo, "find_spec", lambda _: None)
    refused(
        work(("blocks",)),
        "engine cryo needs Cryo's Python wheel: run `pip install trace-dagster[cryo]` on Python 3.11 or 3.12 "
        "(later ones have none), or set TRACE_CRYO_BINARY to a cryo program",
    )


def test_a_program_that_is_none_is_named(tmp_path: Path) -> None:
    """A configured program must exist and be executable."""
    program = tmp_path / "cryo"
    program.write_text("")
    refused(
        work(("blocks",)),
        f"TRACE_CRYO_BINARY is {str(program)!r}, which is no program",
        CryoEngine(str(program)),
    )


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (
            {"address": ("/etc/passwd",)},
            "filters.address: '/etc/passwd' is not of the right form; write 0x and 40",
        ),
        ({"js_tracer": ("{}", "{}")}, "filters.js_tracer has 2 values; Cryo takes exactly one"),
    ],
)
def test_filters_are_checked_before_anything_runs(filters: dict[str, tuple[str, ...]], message: str) -> None:
    """A value that Cryo would take for a file, or could not take, is refused."""
    refused(work(("logs",), **filters), message)


def test_blocks_beyond_32_bits_are_refused() -> None:
    """Cryo's block numbers end there."""
    refused(work(("blocks",), (2**32, 2**32)), "Cryo has no blocks after 4294967295; end_block is 4294967296")


def test_an_endpoint_is_needed() -> None:
    """Work without one names the key of the config."""
    without = Extraction(
        chain_id=1,
        datasets=("blocks",),
        range=BlockRange.of(0, 1),
        staging=Path("nowhere"),
        deadline=Deadline.after(None),
    )
    refused(without, "engine cryo needs an endpoint; write rpc_pool into the job's config")


def test_unfiltered_datasets_go_together_filtered_ones_alone(tmp_path: Path) -> None:
    """Blocks, transactions and logs are one run; with an address the logs are another."""
    (one,) = planned(work(("blocks", "transactions", "logs")), tmp_path)
    assert one.datasets == ("blocks", "transactions", "logs")
    together, logs = planned(work(("logs", "blocks"), address=(ADDRESS,)), tmp_path)
    assert (together.datasets, logs.datasets) == (("blocks",), ("logs",))
    assert logs.arguments()["address"] == [ADDRESS]
    assert "address" not in together.arguments()


def test_incomplete_groups_are_taken_apart(tmp_path: Path) -> None:
    """What Cryo would collect together and fail is collected alone; whole groups stay together."""
    for name, members in GROUPS.items():
        assert len(planned(work(members), tmp_path)) == 1
        if len(members) > 2:
            assert [one.datasets for one in planned(work(members[:2]), tmp_path)] == [
                (members[0],),
                (members[1],),
            ], name


def test_every_dataset_is_in_exactly_one_run(tmp_path: Path) -> None:
    """No dataset is lost or collected twice, whatever else is asked for."""
    for asked in (DATASETS, DATASETS[::2], DATASETS[::3], DATASETS[1::3]):
        passes = planned(work(asked, address=(ADDRESS,)), tmp_path)
        assert sorted(dataset for one in passes for dataset in one.datasets) == sorted(asked)
        assert len({one.directory for one in passes}) == len(passes)


def test_chunks_tile_the_range_and_name_the_files(tmp_path: Path) -> None:
    """Chunks are at most 50 blocks, and a file lacks until it is there."""
    (one,) = planned(work(("blocks", "logs"), (7, 140)), tmp_path)
    assert one.chunks == (BlockRange(7, 56), BlockRange(57, 106), BlockRange(107, 140))
    assert one.file("logs", one.chunks[0]).name == "chain__logs__00000007_to_00000056.parquet"
    assert one.arguments()["blocks"] == ["7:141"]
    one.directory.mkdir()
    for chunk in one.chunks:
        one.file("blocks", chunk).touch()
    one.file("logs", one.chunks[1]).touch()
    assert one.missing() == [one.chunks[0], one.chunks[2]]


def test_requests_are_unknown_where_cryos_plan_is(tmp_path: Path) -> None:
    """Other datasets and filters make the count unknown, rather than wrong."""
    assert planned_requests(planned(work(("blocks", "balance_diffs")), tmp_path)) is None
    assert planned_requests(planned(work(("logs",), address=(ADDRESS,)), tmp_path)) is None
    assert planned_requests(planned(work(("blocks", "transactions", "logs")), tmp_path)) == 1 + 3 * 250


def test_a_job_shows_no_url() -> None:
    """The repr of a job, as a traceback with locals would show it, has neither URL nor secrets."""
    job = CryoJob("http://planted", ("planted",), ("blocks",), {}, Path())
    assert "planted" not in repr(job)


def test_progress_is_throttled_but_for_its_end() -> None:
    """Of many reports towards a goal only the last comes at once; others always."""
    reports = Reports()
    progress = Throttled(reports, seconds=1000)
    for blocks in (1, 2, 3):
        progress("Verified", blocks=blocks, of=3)
        progress("Cryo gave up", run=blocks)
    assert reports.said == [
        ("Cryo gave up", {"run": 1}),
        ("Cryo gave up", {"run": 2}),
        ("Verified", {"blocks": 3, "of": 3}),
        ("Cryo gave up", {"run": 3}),
    ]
    eager = Throttled(reports, seconds=0)
    eager("Verified", blocks=1, of=3)
    assert reports.said[-1] == ("Verified", {"blocks": 1, "of": 3})
