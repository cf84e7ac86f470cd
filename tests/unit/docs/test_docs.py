"""What README and docs say is so: paths, links, DAGs, variables, and examples that run."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pytest
import yaml

from trace_dagster import metadata
from trace_dagster.build import build_definitions
from trace_dagster.operators import registry
from trace_dagster.operators.registry import catalog, operators
from trace_dagster.settings import Settings
from trace_dagster.spec.models import DagSpec
from trace_dagster.spec.resolve import load_dags
from trace_dagster.translator.resources import resources_of

ROOT = Path(__file__).parents[3]
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "deploy/README.md",
    ROOT / "benchmarks/README.md",
]
OWN_PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>\w+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
PATH = re.compile(r"`((?:tests|trace_dagster|docs|deploy|dag_specs|benchmarks)/[\w./-]+)`")

# Three partitions of what the examples read.
CHAIN = """\
name: monad
jobs:
  - { name: range_request, activation: source, runtime: dispatcher, operator: range_request, outputs: 1,
      source: { kind: manual }, config: { start_block: 0, end_block: 29 } }
  - { name: range_split, activation: reactive, runtime: dispatcher, operator: range_splitter, outputs: 1,
      execution_strategy: PerPartition, config: { chunk_size: 10 },
      inputs: [ { from: { job: range_request, output: 0 } } ] }
  - { name: cryo_bootstrap, activation: reactive, runtime: ecs_platform, operator: cryo_ingest, outputs: 1,
      execution_strategy: PerPartition, update_strategy: replace,
      inputs: [ { from: { job: range_split, output: 0 } } ],
      config: { chain_id: 10143, datasets: [blocks], engine: stub } }
publish:
  cold_blocks: { from: { job: cryo_bootstrap, output: 0 } }
"""
PARTITIONS = ("0_9", "10_19", "20_29")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    mark: str | None
    language: str
    text: str


def blocks_of(page: Path) -> Iterator[Block]:
    """Give the fenced blocks of a page."""
    content = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(content):
        line = content.count("\n", 0, match.start()) + 1
        yield Block(page.name, line, match["mark"], match["language"], match["text"])


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def marked(mark: str, language: str) -> list[Block]:
    """Return the blocks that bear a mark."""
    return [block for block in BLOCKS if (block.mark, block.language) == (mark, language)]


def is_dag(block: Block) -> bool:
    """Whether a block is a whole DAG."""
    if block.language != "yaml":
        return False
    data = yaml.safe_load(block.text)
    return isinstance(data, dict) and {"name", "jobs"} <= data.keys()


def named(blocks: Sequence[Block]) -> list[Any]:
    """Return parameters named for their place."""
    return [pytest.param(block, id=f"{block.page}:{block.line}") for block in blocks]


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)}


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    """Every relative link, with its anchor, and every path that a page names exists."""
    content = page.read_text(encoding="utf-8")
    wrong = []
    for match in LINK.finditer(content):
        target, _, fragment = match["target"].partition("#")
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (fragment and fragment not in anchors_of(file)):
            wrong.append(match["target"])
    wrong += [path for path in PATH.findall(content) if not (ROOT / path).exists()]
    assert wrong == []


def test_every_test_file_that_guarantees_name_has_tests() -> None:
    """A file that was emptied shows nothing."""
    files = set(
        re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "docs/guarantees.md").read_text(encoding="utf-8"))
    )
    assert len(files) > 20
    assert [file for file in files if "def test_" not in (ROOT / file).read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("block", named([block for block in BLOCKS if is_dag(block) and block.mark is None]))
def test_dags_of_the_docs_are_valid(block: Block, tmp_path: Path) -> None:
    """Whoever copies one gets no message, except what the format only declares."""
    (tmp_path / "dag.yaml").write_text(block.text, encoding="utf-8")
    result = load_dags(tmp_path, catalog())
    assert [str(problem) for problem in (*result.problems, *result.warnings)] == []


def test_the_readmes_dag_makes_what_its_graph_shows(tmp_path: Path) -> None:
    """The assets of the first example are those in the graph below it, with as many partitions."""
    dag, graph = next((dag, graph) for dag, graph in pairwise(BLOCKS) if graph.language == "mermaid")
    assert is_dag(dag)
    assert dag.page == "README.md"
    (tmp_path / "monad.yaml").write_text(dag.text, encoding="utf-8")
    definitions = build_definitions(str(tmp_path), environment={"TRACE_HOME": str(tmp_path)})
    partitions = {
        spec.key.to_user_string(): len(spec.partitions_def.get_partition_keys()) if spec.partitions_def else 0
        for spec in definitions.resolve_all_asset_specs()
    }
    assert set(partitions) == set(re.findall(r"monad/\w+/\w+", graph.text))
    assert set(partitions.values()) == {1, 1000}
    assert re.findall(r"([\d,]+) partitions?\b", graph.text) == ["1", "1,000"]


def test_all_variables_are_described_and_exist() -> None:
    """Settings and the configuration's table have the same variables."""
    fields = {f"TRACE_{name.upper()}" for name in Settings.model_fields} - {
        "TRACE_RPC_POOL_URLS",
        "TRACE_RPC_POOL_WS_URLS",
    }
    expected = {*fields, "TRACE_RPC_POOL_<NAME>_URL", "TRACE_RPC_POOL_<NAME>_WS_URL"}
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `TRACE_")]
    assert {name for row in rows for name in re.findall(r"`(TRACE_[^`]+)`", row)} == expected
    examples = re.compile(r"TRACE_RPC_POOL_[A-Z]+(_WS)?_URL")
    for other in OWN_PAGES:
        found = set(re.findall(r"TRACE_[A-Z_<>]*[A-Z]", other.read_text(encoding="utf-8")))
        known = expected | {"TRACE_RPC"}
        assert {name for name in found if name not in known and not examples.fullmatch(name)} == set()


def test_all_metadata_is_described() -> None:
    """Every key that a materialization may have stands in the runbook, and no other."""
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    headings = ("## What a materialization says", "## Following the tip")
    table = "".join(page.split(heading)[1].split("\n## ")[0] for heading in headings)
    described = set(re.findall(r"`(trace/\w+|dagster/\w+)`", table))
    names = list(vars(metadata))
    materializations = names[names.index("RANGE") : names.index("FOLLOWER_TAG")]
    assert described == {getattr(metadata, name) for name in materializations}


def test_messages_of_the_runbook_are_the_codes_own() -> None:
    """What a reader looks an error up by is in the source: numbers and names apart, word for word."""
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    table = page.split("## Errors")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "trace_dagster").rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    missing = []
    for message in (message for cell in cells for message in re.findall(r"`([^`]+)`", cell)):
        parts = [re.escape(part) for part in re.split(r"\.\.\.|\b[A-Z]\b", message)]
        if re.search(".*".join(parts), code) is None:
            missing.append(message)
    assert len(cells) > 12
    assert missing == []


def test_all_fields_of_the_format_are_described() -> None:
    """Every field of a DAG, a job and a built-in operator's config stands on the format's page."""
    page = (ROOT / "docs/dag-format.md").read_text(encoding="utf-8")
    cells = " ".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    words = set(re.findall(r"\w+", cells))
    job = DagSpec.model_fields["jobs"].annotation.__args__[0]  # type: ignore[union-attr]
    fields = {*DagSpec.model_fields, *job.model_fields}
    for name in ("range_request", "range_splitter", "cryo_ingest", "block_follower"):
        fields |= set(catalog().operators[name].config_model.model_fields)
    assert fields - words == set()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return settings with three committed partitions of synthetic blocks."""
    home = tmp_path_factory.mktemp("docs")
    (home / "dags").mkdir()
    (home / "dags" / "monad.yaml").write_text(CHAIN, encoding="utf-8")
    settings = {"TRACE_HOME": str(home), "TRACE_DAG_SPECS": str(home / "dags")}
    definitions = build_definitions(environment=settings)
    for key in PARTITIONS:
        materialize(definitions, ["monad", "cryo_bootstrap", "blocks"], key)
    return settings


def materialize(definitions: dg.Definitions, key: Sequence[str], partition: str) -> dict[str, Any]:
    """Materialize one partition of an asset, and return its metadata."""
    asset_key = dg.AssetKey(list(key))
    job = definitions.resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(partition_key=partition, asset_selection=[asset_key])
    (event,) = done.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


@pytest.fixture
def using(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process have the settings."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("using")
@pytest.mark.parametrize("block", named(marked("runnable", "python")))
def test_marked_examples_run(block: Block) -> None:
    """An example does what it says on synthetic blocks; one that makes definitions gives assets that run."""
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(compile(block.text, f"{block.page}:{block.line}", "exec"), namespace)  # noqa: S102
    if "fees" in namespace:
        resources = resources_of(Settings.from_environment(os.environ), dict(os.environ))
        for asset, partition in (("labels", None), ("fees", "0_999")):
            done = dg.materialize([namespace[asset]], resources=resources, partition_key=partition)
            (event,) = done.get_asset_materialization_events()
            assert event.materialization.metadata["trace/rows_added"].value == 1
        return
    definitions = namespace.get("defs")
    if definitions is None:
        assert namespace["blocks"].collect().height == namespace["dataset"].count_rows() == 30
        assert len(namespace["urls"]) == 3
        return
    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    if "gas_by_range" in specs:
        assert materialize(definitions, ["gas_by_range"], "10_19")["blocks"] == 10
    else:
        assert specs["monad/cryo_bootstrap/blocks"].tags["cost_center"] == "chain-data"


def test_the_operator_of_the_docs_runs(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Module, entry point and DAG, as printed, load, are checked like any other, and run."""
    (module,), (dag,) = marked("operator", "python"), marked("operator", "yaml")
    entry = re.search(
        r'^gas_totals = "(.+)"$', (ROOT / "docs/dag-format.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert entry is not None
    (tmp_path / "gas_totals.py").write_text(module.text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint("gas_totals", entry[1], registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    specs = tmp_path / "dags"
    shutil.copytree(environment["TRACE_DAG_SPECS"], specs)
    (specs / "gas.yaml").write_text(dag.text, encoding="utf-8")
    operators.cache_clear()
    catalog.cache_clear()
    try:
        result = load_dags(specs, catalog())
        assert [str(problem) for problem in (*result.problems, *result.warnings)] == []
        definitions = build_definitions(str(specs), environment=environment)
        assert materialize(definitions, ["gas", "total", "total"], "0_9")["gas_used"] > 0
    finally:
        operators.cache_clear()
        catalog.cache_clear()
