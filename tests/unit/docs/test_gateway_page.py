"""What docs/gateway.md and the example say of the gateway is so."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from trace_dagster.cli import main
from trace_dagster.rpc.gateway import config as models
from trace_dagster.rpc.gateway.faults import FaultKind
from trace_dagster.rpc.gateway.json_schema import pools_schema
from trace_dagster.rpc.gateway.load import load_config
from trace_dagster.rpc.gateway.metrics import Metrics
from trace_dagster.rpc.gateway.resolved import resolve_config
from trace_dagster.spec.document import read_document

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "deploy" / "rpc_pools.yaml"
PAGE = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")


def _fields() -> Iterator[str]:
    for name in models.__all__:
        model = getattr(models, name)
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield from model.model_fields


def test_the_example_is_valid(tmp_path: Path) -> None:
    """Whoever copies it and gives the secrets can run it."""
    config = load_config(EXAMPLE)
    assert set(config.pools) == {"ethereum", "monad"}
    text = EXAMPLE.read_text(encoding="utf-8")
    for name in ("trace-backfill-token", "own-node-url"):
        text = text.replace(f"/run/secrets/{name}", str(tmp_path / name))
    text = text.replace("secretsmanager:prod/trace/provider-b#url", "env:B_URL")
    text = re.sub(
        r"secretsmanager:prod/[\w/#-]+", lambda match: f"env:{re.sub(r'[^A-Z]', '_', match[0].upper())}", text
    )
    (tmp_path / "rpc_pools.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "trace-backfill-token").write_text("backfill-0123456789\n", encoding="utf-8")
    (tmp_path / "own-node-url").write_text("http://10.0.0.5:8545\n", encoding="utf-8")
    environment = {name: f"value-of-{name}" for name in re.findall(r"env:(\w+)", text)}
    environment |= {
        "PROVIDER_A_URL": "https://eth.provider-a.example/v2/{key}",
        "B_URL": "https://eth.provider-b.example",
        "MONAD_URL": "https://monad.provider-a.example",
    }
    resolved = resolve_config(load_config(tmp_path / "rpc_pools.yaml"), environment)
    assert [len(one.accesses) for one in resolved.pools["ethereum"].endpoints] == [2, 1, 1]


def test_the_example_has_every_field() -> None:
    """Every field of the format stands in the example, or in a comment of it."""
    words = set(re.findall(r"\w+", EXAMPLE.read_text(encoding="utf-8")))
    assert set(_fields()) - words == set()


def test_defaults_of_the_example_are_the_defaults() -> None:
    """What is commented out with a value is what holds without it."""
    lines = re.findall(r"^ +# (\w+): ([\d.]+)(?: |$)", EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE)
    defaults = {
        **models.RequestLimits().model_dump(),
        **models.CacheConfig(path="x").model_dump(),
        "finality_blocks": models.PoolConfig.model_fields["finality_blocks"].default,
    }
    assert len(lines) >= 5
    assert {name: float(value) for name, value in lines} == {name: float(defaults[name]) for name, _ in lines}


def test_all_fields_are_described() -> None:
    """Every field of the format stands in a table of the page."""
    rows = " ".join(line for line in PAGE.splitlines() if line.startswith("| "))
    assert set(_fields()) - set(re.findall(r"\w+", rows)) == set()


def test_all_metrics_are_described() -> None:
    """The page's table has exactly the metrics that there are, with their labels, and every kind of fault."""
    described = dict(re.findall(r"^\| `(trace_gateway_\w+)` \| ([^|]+?) \|", PAGE, re.MULTILINE))
    metrics = Metrics()
    real = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in metrics.registry.collect()
    }
    assert set(described) == real
    row = next(line for line in PAGE.splitlines() if "trace_gateway_faults_total" in line)
    assert set(re.findall(r"`(\w+)`", row)) - {"trace_gateway_faults_total"} == set(FaultKind)


def test_all_flags_are_described() -> None:
    """The page's table has exactly the flags of the command."""
    table = PAGE.split("| flag |")[1].split("\n\n")[0]
    shown = CliRunner().invoke(main, ["gateway", "--help"]).output
    flags = set(re.findall(r"^  (--[a-z-]+)", shown, re.MULTILINE))
    assert set(re.findall(r"--[a-z][a-z-]+", table)) == flags


def test_committed_schema_is_current() -> None:
    """docs/rpc_pools.schema.json is what ``trace schema --pools`` prints."""
    committed = json.loads((ROOT / "docs" / "rpc_pools.schema.json").read_text(encoding="utf-8"))
    assert committed == json.loads(json.dumps(pools_schema()))
    assert committed == json.loads(CliRunner().invoke(main, ["schema", "--pools"]).stdout)
    Draft202012Validator.check_schema(committed)


def test_every_field_of_the_schema_is_explained() -> None:
    """An editor shows what each field means."""
    schema = pools_schema()
    for part in (schema, *schema["$defs"].values()):
        for name, field in part["properties"].items():
            assert field.get("description"), name


def test_schema_passes_what_is_valid() -> None:
    """An editor marks nothing in the example."""
    data = read_document(EXAMPLE.name, EXAMPLE.read_bytes()).data
    assert [error.message for error in Draft202012Validator(pools_schema()).iter_errors(data)] == []


@pytest.mark.parametrize("name", ["misspelt", "empty_pools", "no_pools"])
def test_schema_marks_what_is_not(name: str) -> None:
    """An editor marks misspelt and missing fields."""
    path = ROOT / "tests" / "gateway_configs" / "invalid" / f"{name}.yaml"
    data = read_document(path.name, path.read_bytes()).data
    assert list(Draft202012Validator(pools_schema()).iter_errors(data))
