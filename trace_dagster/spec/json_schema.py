"""The JSON Schema of DAG YAML, for editors."""

from collections.abc import Mapping
from typing import Any

from trace_dagster.spec.catalog import Catalog, OperatorType
from trace_dagster.spec.models import DagSpec

__all__ = ["dag_schema"]

_RULES: tuple[Mapping[str, Any], ...] = (
    {
        "if": {"properties": {"activation": {"const": "source"}}, "required": ["activation"]},
        "then": {"required": ["source"], "not": {"required": ["inputs"]}},
    },
    {
        "if": {"properties": {"activation": {"const": "reactive"}}, "required": ["activation"]},
        "then": {"required": ["inputs", "execution_strategy"], "not": {"required": ["source"]}},
    },
    {
        "if": {"properties": {"update_strategy": {"const": "append"}}, "required": ["update_strategy"]},
        "then": {"required": ["unique_key"]},
    },
)


def dag_schema(catalog: Catalog) -> dict[str, Any]:
    """Return the schema of a whole file, with the config of each operator of ``catalog``."""
    schema = DagSpec.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs")
    job = definitions["JobSpec"]
    names = sorted(catalog.operators)
    job["properties"]["operator"] = {
        "anyOf": [{"enum": names}, job["properties"]["operator"]],
        "description": "The plug-in that does the work.",
    }
    job["allOf"] = [*_RULES, *(_config_rule(name) for name in names)]
    for name in names:
        definitions |= _config_definitions(catalog.operators[name])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Trace DAG",
        "$defs": dict(sorted(definitions.items())),
    }


def _config_rule(operator: str) -> Mapping[str, Any]:
    return {
        "if": {"properties": {"operator": {"const": operator}}, "required": ["operator"]},
        "then": {"properties": {"config": {"$ref": f"#/$defs/{operator}.config"}}},
    }


def _config_definitions(operator: OperatorType) -> dict[str, Any]:
    schema = operator.config_model.model_json_schema(ref_template=f"#/$defs/{operator.name}.{{model}}")
    nested = {f"{operator.name}.{name}": value for name, value in schema.pop("$defs", {}).items()}
    return {f"{operator.name}.config": schema, **nested}
