"""The JSON Schema of ``rpc_pools.yaml``, for editors."""

import inspect
import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel

from trace_dagster.rpc.gateway import config

__all__ = ["pools_schema"]

_ATTRIBUTE: Final = re.compile(r"^    (\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


def pools_schema() -> dict[str, Any]:
    """Return the schema of the whole file, with what the models' docstrings say of each field."""
    schema = config.GatewayConfig.model_json_schema()
    definitions = schema.pop("$defs")
    for model in _models():
        of_model = schema if model is config.GatewayConfig else definitions[model.__name__]
        of_model.pop("description", None)
        for name, text in _ATTRIBUTE.findall(inspect.getdoc(model) or ""):
            of_model["properties"][name]["description"] = " ".join(text.split())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Pools of the RPC Egress Gateway",
        "$defs": dict(sorted(definitions.items())),
    }


def _models() -> Iterator[type[BaseModel]]:
    for name in config.__all__:
        model = getattr(config, name)
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield model
