"""DAG files that are valid, and what they resolve to."""

from pathlib import Path

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.operators.registry import catalog
from trace_dagster.spec.catalog import RangePlan
from trace_dagster.spec.resolve import LoadResult, ResolvedDag, ResolvedInput, ResolvedJob, load_dags

ROOT = Path(__file__).parents[3]


def _load(*paths: Path) -> dict[str, ResolvedDag]:
    result = load_dags(paths, catalog())
    assert result.problems == ()
    return {dag.name: dag for dag in result.dags}


def _jobs(dag: ResolvedDag) -> dict[str, ResolvedJob]:
    return {job.name: job for job in dag.jobs}


def test_seed_example_compiles_as_printed(specs: Path) -> None:
    """The job of the operator's documentation needs nothing but a range_request for its input."""
    jobs = _jobs(_load(specs / "valid" / "seed_example.yaml")["monad"])
    ingest = jobs["cryo_bootstrap"]
    assert [output.name for output in ingest.outputs] == ["blocks", "transactions", "logs"]
    assert ingest.plan == RangePlan(ranges=(BlockRange(0, 999),))
    assert ingest.inputs == (ResolvedInput("monad", "range_request", "range"),)
    assert (ingest.max_concurrency, ingest.timeout_seconds, ingest.spec.idle_timeout) == (20, 3600, 0)


def test_shipped_dag_is_valid() -> None:
    """The DAG that comes with the project loads, and warns of the job that this version does not run."""
    result = load_dags(ROOT / "dag_specs", catalog())
    assert result.problems == ()
    (dag,) = result.dags
    assert dag.name == "monad"
    assert dag.publish == {"cold_blocks": ("cryo_bootstrap", "blocks")}
    plan = _jobs(dag)["cryo_bootstrap"].plan
    assert plan is not None
    assert plan.ranges is not None
    assert len(plan.ranges) == 1000
    assert plan.ranges[-1] == BlockRange(999_000, 999_999)
    assert result.warnings == ()


def test_ranges_are_shared_between_jobs() -> None:
    """A job hands on its input's ranges themselves, so that 20,000 partitions are held once."""
    jobs = _jobs(_load(ROOT / "dag_specs")["monad"])
    split, ingest = jobs["range_split"].plan, jobs["cryo_bootstrap"].plan
    assert split is not None
    assert ingest is not None
    assert split.ranges is ingest.ranges


def test_jobs_come_after_what_they_read(specs: Path) -> None:
    """Jobs are in an order to compile in, whatever their order in the file."""
    dag = _load(specs / "valid" / "off_order.yaml")["off_order"]
    assert [job.name for job in dag.jobs] == ["range_request", "range_split", "cryo_bootstrap"]


def test_run_time_ranges_have_a_lane_and_a_chunk_size(specs: Path) -> None:
    """Without a range in the YAML, partitions are registered by the entry point, cut by the splitter."""
    jobs = _jobs(_load(specs / "valid" / "run_time.yaml")["run_time"])
    assert jobs["range_request"].plan == RangePlan(ranges=None, lane="range_request")
    assert jobs["cryo_bootstrap"].plan == RangePlan(ranges=None, lane="range_request", chunk_size=1000)


def test_dataset_of_another_dag_is_resolved(specs: Path) -> None:
    """A published name leads to the job and output behind it, in whichever file."""
    dags = _load(specs / "valid")
    job = dags["other_dag"].jobs[0]
    assert job.inputs == (ResolvedInput("published", "cryo_bootstrap", "blocks", {"chain_id": 8}),)
    assert job.plan == _jobs(dags["published"])["cryo_bootstrap"].plan


def test_limits_come_from_the_job_then_the_dag_then_the_format(specs: Path) -> None:
    """Each limit has one value, whoever set it."""
    dags = _load(specs / "valid")
    other, published = dags["other_dag"].jobs[0], _jobs(dags["published"])
    assert (other.heartbeat_timeout_seconds, other.max_attempts) == (15, 1)
    assert (
        published["cryo_bootstrap"].heartbeat_timeout_seconds,
        published["cryo_bootstrap"].max_attempts,
    ) == (30, 3)
    assert published["cryo_bootstrap"].max_concurrency == 4
    assert published["range_split"].heartbeat_timeout_seconds == 60
    assert (published["range_split"].max_concurrency, published["range_split"].timeout_seconds) == (
        None,
        None,
    )


def test_yaml_conveniences_work(specs: Path) -> None:
    """Anchors, merge keys, underscores in numbers and unquoted addresses mean what they look like."""
    jobs = _jobs(_load(specs / "valid" / "yaml_forms.yaml")["yaml_forms"])
    assert jobs["second_request"].plan == RangePlan(ranges=(BlockRange(2_000_000, 2_999_999),))
    filters = jobs["token_logs"].config.model_dump()["filters"]
    assert filters["address"] == ("0xdAC17F958D2ee523a2206206994597C13D831ec7",)
    assert [output.name for output in jobs["token_logs"].outputs] == ["logs"]


def test_two_jobs_may_share_a_place_when_their_blocks_are_apart(specs: Path) -> None:
    """Known ranges that do not overlap cannot overwrite one another."""
    jobs = _jobs(_load(specs / "valid" / "yaml_forms.yaml")["yaml_forms"])
    assert jobs["token_logs"].outputs[0].place == jobs["more_token_logs"].outputs[0].place


def test_broken_files_hide_no_others(specs: Path) -> None:
    """A broken file is told of, and the rest loads, even where both claim one name."""
    result: LoadResult = load_dags(
        [specs / "valid", specs / "invalid" / "cycle.yaml", specs / "invalid" / "unclosed_quote.yaml"],
        catalog(),
    )
    assert {dag.name for dag in result.dags} >= {"monad", "published", "run_time"}
    assert [(file.path.name, file.name) for file in result.broken] == [
        ("cycle.yaml", "monad"),
        ("unclosed_quote.yaml", None),
    ]


def test_fields_that_nothing_acts_on_are_warned_of(tmp_path: Path) -> None:
    """What the format has but this version does not do is said, so that nobody counts on it."""
    text = (ROOT / "tests" / "specs" / "valid" / "seed_example.yaml").read_text(encoding="utf-8")
    text = text.replace("output: 0 }", "output: 0 }\n        where: { chain_id: 1 }")
    text = text.replace(
        "idle_timeout: 0", "idle_timeout: 60\n    bootstrap: { reset_outputs: true }\n    secrets: [key]"
    )
    (tmp_path / "dag.yaml").write_text(text, encoding="utf-8")
    result = load_dags(tmp_path, catalog())
    assert result.problems == ()
    assert {warning.path.rpartition(".")[2] for warning in result.warnings} == {
        "where",
        "idle_timeout",
        "reset_outputs",
        "secrets",
    }
