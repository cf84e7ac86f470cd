"""What a model allows at a path, read from its JSON Schema."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel

from trace_dagster.spec.problems import Path

__all__ = ["describe", "known_keys", "tags_at"]

Schema = Mapping[str, Any]
_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}


@cache
def _schema_of(model: type[BaseModel]) -> Schema:
    return model.model_json_schema(by_alias=True)


def known_keys(model: type[BaseModel], path: Path) -> tuple[str, ...]:
    """Return the keys that the mapping at ``path`` may have.

    Here and below, ``path`` may hold the tags of unions, as pydantic's locations do, to tell their members
    apart.
    """
    found = (key for schema in _at(model, path) for key in schema.get("properties", ()))
    return tuple(dict.fromkeys(found))


def tags_at(model: type[BaseModel], path: Path) -> tuple[str, ...]:
    """Return what the tag of a tagged union at ``path`` may be."""
    found = (tag for schema in _at(model, path) for tag in schema.get("discriminator", {}).get("mapping", ()))
    return tuple(dict.fromkeys(found))


def describe(model: type[BaseModel], path: Path) -> str:
    """Return in words what the value at ``path`` may be, e.g. ``source or reactive``; empty if unknown."""
    words: list[str] = []
    for schema in _at(model, path):
        values = [schema["const"]] if "const" in schema else schema.get("enum", ())
        words += [str(value) for value in values]
        if not values and schema.get("type") in _TYPES:
            words.append(f"<{_TYPES[schema['type']]}>")
    unique = list(dict.fromkeys(words))
    return " or ".join(filter(None, (", ".join(unique[:-1]), *unique[-1:])))


def _at(model: type[BaseModel], path: Path) -> list[Schema]:
    root = _schema_of(model)
    here = list(_alternatives(root, root))
    for part in path:
        below = [schema for parent in here for schema in _below(parent, part)]
        if below or isinstance(part, int):
            here = [schema for parent in below for schema in _alternatives(root, parent)]
    return here


def _below(schema: Schema, part: str | int) -> Iterator[Schema]:
    tagged = schema.get("discriminator", {}).get("mapping", {})
    if isinstance(part, int):
        options = [schema.get("items")]
    elif part in tagged:
        options = [{"$ref": tagged[part]}]
    elif part in schema.get("properties", {}):
        options = [schema["properties"][part]]
    else:
        options = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
    yield from (option for option in options if isinstance(option, Mapping))


def _alternatives(root: Schema, schema: Schema) -> Iterator[Schema]:
    """Return the schema itself, and what it refers to."""
    yield schema
    reference = schema.get("$ref", "").removeprefix("#/$defs/")
    if reference:
        yield from _alternatives(root, root["$defs"][reference])
    for kind in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(kind, ()):
            yield from _alternatives(root, option)
