"""DAG YAML -> Dagster definitions, without a run."""

from pathlib import Path

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox

from trace_dagster import metadata
from trace_dagster.build import build_definitions
from trace_dagster.components import TraceDagsComponent
from trace_dagster.translator.translator import OutputData, TraceTranslator

DAG = """\
name: monad
owners: [data@example.com, "team:chain"]
defaults: { max_attempts: 4 }
jobs:
  - name: range_request
    activation: source
    runtime: dispatcher
    operator: range_request
    source: { kind: SOURCE }
    config: { RANGE }
    outputs: 1
  - name: range_split
    activation: reactive
    runtime: dispatcher
    operator: range_splitter
    execution_strategy: PerPartition
    inputs: [ { from: { job: range_request, output: 0 } } ]
    config: { chunk_size: 1000 }
    outputs: 1
    update_strategy: replace
  - name: cryo_bootstrap
    description: Bootstrap of the whole chain.
    activation: reactive
    runtime: ecs_platform
    operator: cryo_ingest
    execution_strategy: PerPartition
    inputs: [ { from: { job: range_split, output: 0 } } ]
    config: { chain_id: 10143, datasets: [blocks, txs, logs], rpc_pool: monad }
    scaling: { max_concurrency: 20 }
    outputs: 3
    update_strategy: replace
    timeout_seconds: 3600
publish:
  cold_blocks: { from: { job: cryo_bootstrap, output: 0 }, storage: s3 }
"""
BOUNDED = DAG.replace("SOURCE", "manual").replace("RANGE", "start_block: 0, end_block: 9999")
RUN_TIME = DAG.replace("SOURCE", "manual").replace("RANGE", "")
CRON = DAG.replace("kind: SOURCE", "kind: cron, schedule: rate(6 hours)").replace(
    "RANGE", "start_block: 0, end_block: 9999"
)


def compiled(
    folder: Path,
    text: str,
    environment: dict[str, str] | None = None,
    translator: TraceTranslator | None = None,
) -> dg.Definitions:
    (folder / "monad.yaml").write_text(text)
    settings = {"TRACE_HOME": str(folder / "home"), **(environment or {})}
    return build_definitions(str(folder), environment=settings, translator=translator)


def spec_of(definitions: dg.Definitions, *key: str) -> dg.AssetSpec:
    return next(spec for spec in definitions.resolve_all_asset_specs() if spec.key == dg.AssetKey(list(key)))


def assets_of(definitions: dg.Definitions, *key: str) -> dg.AssetsDefinition:
    return definitions.resolve_assets_def(dg.AssetKey(list(key)))


def test_every_output_is_an_asset_keyed_by_dag_job_and_output(tmp_path: Path) -> None:
    """Short dataset names become Cryo's own; the group is the DAG."""
    specs = list(compiled(tmp_path, BOUNDED).resolve_all_asset_specs())
    assert {spec.key.to_user_string() for spec in specs} == {
        "monad/range_request/range",
        "monad/range_split/ranges",
        "monad/cryo_bootstrap/blocks",
        "monad/cryo_bootstrap/transactions",
        "monad/cryo_bootstrap/logs",
    }
    assert {spec.group_name for spec in specs} == {"monad"}
    assert {tuple(spec.owners) for spec in specs} == {("data@example.com", "team:chain")}


def test_partitions_and_lineage_follow_the_ranges(tmp_path: Path) -> None:
    """The request has one partition, its readers one a chunk; chunks map one to one below the splitter."""
    definitions = compiled(tmp_path, BOUNDED)
    request = spec_of(definitions, "monad", "range_request", "range")
    split = spec_of(definitions, "monad", "range_split", "ranges")
    blocks = spec_of(definitions, "monad", "cryo_bootstrap", "blocks")
    assert request.partitions_def is not None
    assert request.partitions_def.get_partition_keys() == ["0_9999"]
    assert split.partitions_def is blocks.partitions_def
    assert split.partitions_def is not None
    assert split.partitions_def.get_partition_keys()[::9] == ["0_999", "9000_9999"]
    (above,), (between,) = split.deps, blocks.deps
    assert above.asset_key == request.key
    assert isinstance(above.partition_mapping, dg.AllPartitionMapping)
    assert between.asset_key == split.key
    assert isinstance(between.partition_mapping, dg.IdentityPartitionMapping)


def test_an_ingest_job_is_one_subsettable_op_with_pool_retries_and_batched_backfills(tmp_path: Path) -> None:
    """Limits of the YAML become Dagster's own."""
    job = assets_of(compiled(tmp_path, BOUNDED), "monad", "cryo_bootstrap", "logs")
    assert job.op.name == "monad__cryo_bootstrap"
    assert job.can_subset
    assert len(list(job.keys)) == 3
    assert job.op.pool == "monad/cryo_bootstrap"
    assert job.op.retry_policy is not None
    assert job.op.retry_policy.max_retries == 3
    assert job.backfill_policy == dg.BackfillPolicy.multi_run(1)


def test_an_asset_says_where_it_comes_from_and_what_limits_it(tmp_path: Path) -> None:
    """Tags are for filtering in the UI, metadata for reading."""
    blocks = spec_of(compiled(tmp_path, BOUNDED), "monad", "cryo_bootstrap", "blocks")
    assert blocks.tags[metadata.PUBLISHED_AS] == "cold_blocks"
    assert blocks.tags[metadata.RUNTIME] == "ecs_platform"
    assert blocks.metadata[metadata.POOL_LIMIT] == 20
    assert blocks.metadata[metadata.TIMEOUT_SECONDS] == 3600
    assert blocks.metadata[metadata.MAX_ATTEMPTS] == 4
    assert blocks.metadata[metadata.CHAIN_ID] == 10143
    columns = blocks.metadata["dagster/column_schema"].columns
    assert "parent_hash" in [column.name for column in columns]
    assert (blocks.description or "").startswith("Bootstrap of the whole chain.")


@pytest.mark.parametrize(
    ("environment", "synthetic"),
    [
        ({}, True),
        ({"TRACE_CRYO_ENGINE": "cryo"}, False),
        ({"TRACE_RPC_POOL_MONAD_URL": "http://127.0.0.1:8545"}, False),
        ({"TRACE_RPC_GATEWAY_URL": "http://127.0.0.1:8545"}, False),
        ({"TRACE_OBJECT_STORE_URL": "s3://bucket/prefix"}, False),
    ],
)
def test_the_stub_is_the_default_only_where_nothing_real_is_configured(
    tmp_path: Path, environment: dict[str, str], synthetic: bool
) -> None:
    """What the stub would make up is marked before it runs."""
    blocks = spec_of(compiled(tmp_path, BOUNDED, environment), "monad", "cryo_bootstrap", "blocks")
    assert ("synthetic" in blocks.kinds) is synthetic
    assert (blocks.tags.get(metadata.SYNTHETIC) == "true") is synthetic


def test_a_request_job_has_a_form_with_the_dags_own_range(tmp_path: Path) -> None:
    """Launching it without input asks for the whole range."""
    job = compiled(tmp_path, BOUNDED).resolve_job_def("monad__range_request")
    filled = dg.validate_run_config(job, {})
    assert filled["ops"]["request"]["config"] == {"start_block": 0, "end_block": 9999}


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (-1, 5, "start_block"),
        (5, 4, "end_block"),
        (0, 2**63, f"end_block {2**63} is above {2**63 - 1}; no chain has such blocks"),
    ],
)
def test_a_run_time_range_that_cannot_be_is_refused(
    tmp_path: Path, start: int, end: int, reason: str
) -> None:
    """The launched job fails with one line, and registers no partition."""
    job = compiled(tmp_path, RUN_TIME).resolve_job_def("monad__range_request")
    config = {"ops": {"request": {"config": {"start_block": start, "end_block": end}}}}
    with dg.DagsterInstance.ephemeral(str(tmp_path)) as instance:
        done = job.execute_in_process(run_config=config, instance=instance, raise_on_error=False)
        assert not done.success
        failure = done.failure_data_for_node("request")
        assert failure is not None
        assert failure.user_failure_data is not None
        assert reason in str(failure.user_failure_data.description)
        assert instance.get_dynamic_partitions("monad__range_request") == []


def test_a_partition_that_is_no_range_is_refused(tmp_path: Path) -> None:
    """Somebody may add any text as a dynamic partition in the UI."""
    definitions = compiled(tmp_path, RUN_TIME)
    with dg.DagsterInstance.ephemeral(str(tmp_path)) as instance:
        instance.add_dynamic_partitions("monad__range_request", ["last week"])
        done = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            partition_key="last week",
            asset_selection=[dg.AssetKey(["monad", "cryo_bootstrap", "blocks"])],
            instance=instance,
            raise_on_error=False,
        )
    failures = [event.event_specific_data for event in done.all_node_events if event.is_step_failure]
    assert [
        "a partition that is no block range" in str(one.user_failure_data.description) for one in failures
    ] == [True]


def test_run_time_ranges_share_the_entry_points_dynamic_partitions(tmp_path: Path) -> None:
    """Request, splitter and ingest job have the same partitions, and the form has no defaults."""
    definitions = compiled(tmp_path, RUN_TIME)
    found = {
        spec.partitions_def.name
        for spec in definitions.resolve_all_asset_specs()
        if isinstance(spec.partitions_def, dg.DynamicPartitionsDefinition)
    }
    assert found == {"monad__range_request"}
    assert definitions.resolve_job_def("monad__range_request").name == "monad__range_request"


def test_a_cron_source_is_a_running_schedule_of_its_request_job(tmp_path: Path) -> None:
    """rate(...) becomes cron, in UTC."""
    schedule = compiled(tmp_path, CRON).resolve_schedule_def("monad__range_request__schedule")
    assert schedule.cron_schedule == "0 */6 * * *"
    assert schedule.job_name == "monad__range_request"
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING


def test_a_broken_file_shows_its_errors_and_takes_no_other_down(tmp_path: Path) -> None:
    """The other DAG's assets are all there."""
    (tmp_path / "broken.yaml").write_text("name: broken\njobs: []\n")
    definitions = compiled(tmp_path, BOUNDED)
    broken = spec_of(definitions, "invalid_dags", "broken")
    assert "broken.yaml:2:7: jobs:" in (broken.description or "")
    assert broken.tags[metadata.STATUS] == "invalid"
    assert len(list(definitions.resolve_all_asset_specs())) == 6
    assert definitions.get_repository_def().assets_defs_by_key


def test_broken_files_of_like_names_are_all_shown(tmp_path: Path) -> None:
    """Names that become the same asset key are told apart, also where one looks like a numbered one."""
    for name in ("x-y", "x.y", "x_y_2"):
        (tmp_path / f"{name}.yaml").write_text("name: broken\njobs: []\n")
    definitions = compiled(tmp_path, BOUNDED)
    keys = {spec.key.path[1] for spec in definitions.resolve_all_asset_specs() if len(spec.key.path) == 2}
    assert keys in ({"x_y", "x_y_2", "x_y_2_2"}, {"x_y", "x_y_2", "x_y_3"})


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (50, 10, "end_block 10 is before start_block 50"),
        (
            0,
            100_000_000,
            "chunk_size 1000 cuts 100000001 blocks into 100001 partitions, more than the 100000",
        ),
        (
            1_000_000,
            100_500_000,
            "99501 partitions were asked for, and 1000 are there already: together 100501",
        ),
    ],
)
def test_a_range_that_cannot_be_asked_for_is_one_line(
    tmp_path: Path, start: int, end: int, message: str
) -> None:
    """The request job fails with the cause and the numbers before it registers anything."""
    definitions = compiled(tmp_path, RUN_TIME)
    job = definitions.resolve_job_def("monad__range_request")
    with dg.DagsterInstance.ephemeral() as instance:
        first = [f"{block}_{block + 999}" for block in range(0, 1_000_000, 1000)]
        instance.add_dynamic_partitions("monad__range_request", first)
        config = {"ops": {"request": {"config": {"start_block": start, "end_block": end}}}}
        result = job.execute_in_process(run_config=config, instance=instance, raise_on_error=False)
        assert not result.success
        (failed,) = result.filter_events(lambda event: event.is_step_failure)
        failure = failed.step_failure_data.user_failure_data
        assert failure is not None
        assert message in (failure.description or "")
        assert "\n" not in (failure.description or "")
        assert list(instance.get_dynamic_partitions("monad__range_request")) == first
        assert instance.get_backfills() == []


def test_many_dags_make_one_code_location(tmp_path: Path) -> None:
    """DAGs whose jobs have the same names do not get into each other's way."""
    for name, chain_id in (("first", 1), ("second", 2)):
        text = RUN_TIME.replace("name: monad", f"name: {name}").replace("10143", str(chain_id))
        (tmp_path / f"{name}.yaml").write_text(text.replace("cold_blocks", f"{name}_blocks"))
    location = build_definitions(str(tmp_path), environment={}).get_repository_def()
    assert {"first__range_request", "second__range_request"} <= set(location.job_names)


def test_the_translator_can_be_replaced(tmp_path: Path) -> None:
    """A subclass changes specs without touching the compiler."""

    class Tagged(TraceTranslator):
        def get_asset_spec(self, data: OutputData) -> dg.AssetSpec:
            return super().get_asset_spec(data).merge_attributes(tags={"cost_centre": "42"})

    blocks = spec_of(compiled(tmp_path, BOUNDED, translator=Tagged()), "monad", "cryo_bootstrap", "blocks")
    assert blocks.tags["cost_centre"] == "42"


def test_a_config_change_changes_the_code_version_and_a_pool_change_does_not(tmp_path: Path) -> None:
    """Dagster then shows which assets were made by an older config."""
    before = spec_of(compiled(tmp_path, BOUNDED), "monad", "cryo_bootstrap", "blocks").code_version
    other_pool = BOUNDED.replace("rpc_pool: monad", "rpc_pool: other")
    assert spec_of(compiled(tmp_path, other_pool), "monad", "cryo_bootstrap", "blocks").code_version == before
    revised = BOUNDED.replace("rpc_pool: monad", "rpc_pool: monad, revision: 1")
    assert spec_of(compiled(tmp_path, revised), "monad", "cryo_bootstrap", "blocks").code_version != before


@pytest.mark.filterwarnings("ignore::dagster_shared.utils.warnings.BetaWarning")  # of Dagster, in itself
def test_five_lines_of_defs_yaml_load_a_folder_of_dags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Dagster component compiles what lies at its path, relative to defs.yaml."""
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    content = {"type": "trace_dagster.components.TraceDagsComponent", "attributes": {"path": "dags"}}
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(TraceDagsComponent, defs_yaml_contents=content)
        (folder / "dags").mkdir()
        (folder / "dags" / "monad.yaml").write_text(BOUNDED)
        with sandbox.load_component_and_build_defs(folder) as (_, definitions):
            assert spec_of(definitions, "monad", "cryo_bootstrap", "blocks").group_name == "monad"


def test_a_dag_is_described_at_its_code_location(tmp_path: Path) -> None:
    """The location's metadata names each DAG with its description, its file and its number of jobs."""
    described = BOUNDED.replace("name: monad\n", "name: monad\ndescription: Monad testnet.\n", 1)
    definitions = compiled(tmp_path, described)
    assert definitions.metadata["trace/dag/monad"].value == "Monad testnet. (monad.yaml: 3 jobs)"


@pytest.mark.filterwarnings("ignore::dagster_shared.utils.warnings.BetaWarning")  # of Dagster, in itself
def test_several_components_make_one_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their definitions merge: resources are the same objects, sensors and broken files have other names."""
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    content = {"type": "trace_dagster.components.TraceDagsComponent", "attributes": {"path": "dags"}}
    with create_defs_folder_sandbox() as sandbox:
        for name in ("first", "second"):  # two folders of one name, at two places
            folder = sandbox.scaffold_component(
                TraceDagsComponent, defs_yaml_contents=content, defs_path=Path(name) / "chain"
            )
            (folder / "dags").mkdir()
            text = BOUNDED.replace("name: monad", f"name: {name}").replace("cold_blocks", f"{name}_blocks")
            (folder / "dags" / "chain.yaml").write_text(text)
            (folder / "dags" / "broken.yaml").write_text("name: broken\njobs: []\n")
        with sandbox.build_all_defs() as definitions:
            repository = definitions.get_repository_def()
            assert {"first__chain__trace_pools", "second__chain__trace_pools"} == {
                sensor.name for sensor in repository.sensor_defs
            }
            keys = {spec.key.to_user_string() for spec in definitions.resolve_all_asset_specs()}
            assert {"invalid_dags/first__chain__broken", "invalid_dags/second__chain__broken"} < keys
