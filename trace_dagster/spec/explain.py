"""pydantic's errors, in words that say what to write."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trace_dagster.spec.fields import NAME_PATTERN
from trace_dagster.spec.problems import Path, shown, split_message
from trace_dagster.spec.schema_walk import describe, known_keys, tags_at
from trace_dagster.suggest import closest, nearest

__all__ = ["RESERVED_FIELDS", "Explained", "explain"]

RESERVED_FIELDS: Mapping[str, str] = {
    "max_queue_depth": "remove it; scaling.max_concurrency limits what runs at once",
    "max_queue_age": "remove it; timeout_seconds limits an attempt",
    "backpressure_mode": "remove it; scaling.max_concurrency limits what runs at once",
    "worker_pools": "remove it; config.rpc_pool names a pool of the RPC Egress Gateway",
}

_NAME_RULE = "write lower-case letters, digits and _, a letter first, at most 63 in all"
_BOUNDS = {
    "greater_than_equal": ("ge", "at least {}"),
    "greater_than": ("gt", "more than {}"),
    "less_than_equal": ("le", "at most {}"),
    "less_than": ("lt", "less than {}"),
    "multiple_of": ("multiple_of", "a multiple of {}"),
}
_LENGTHS = {
    "too_short": ("min_length", "at least"),
    "string_too_short": ("min_length", "at least"),
    "too_long": ("max_length", "at most"),
    "string_too_long": ("max_length", "at most"),
}
_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "mapping_type": "a mapping",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_BY_INDEX = "write the output's index, from 0, not its name"
_MOST_KEYS = 5
_MISSING = object()


class Explained(NamedTuple):
    """One error.

    Attributes:
        path: where, below the model's own path.
        problem: what is wrong.
        mend: what to write.
        at_key: whether the key is wrong, not the value.
        unknown: the key is unknown, so another rule may know where it belongs.
    """

    path: Path
    problem: str
    mend: str
    at_key: bool = False
    unknown: bool = False


def explain(model: type[BaseModel], data: Any, error: ValidationError) -> tuple[Explained, ...]:
    """Return every error of ``data`` against ``model``, in its order."""
    details = error.errors(include_url=False)
    explained = [_explain_one(model, data, detail) for detail in details]
    stand_ins = {
        (*item.path[:-1], closest(str(item.path[-1]), known_keys(model, detail["loc"][:-1])))
        for detail, item in zip(details, explained, strict=True)
        if item.unknown
    }
    return tuple(
        item
        for detail, item in zip(details, explained, strict=True)
        if not (detail["type"] == "missing" and item.path in stand_ins) and not _is_echo(data, detail, item)
    )


def _is_echo(data: Any, detail: ErrorDetails, item: Explained) -> bool:
    """Whether a list is called too short only because its items are wrong, which is told already."""
    value = _look_up(data, item.path)
    return detail["type"] == "too_short" and len(value) >= detail["ctx"]["min_length"]


def _explain_one(model: type[BaseModel], data: Any, detail: ErrorDetails) -> Explained:
    kind, location = detail["type"], detail["loc"]
    path = _path_in(model, data, detail)
    if location[-1:] == ("[key]",):
        return _explain_value(model, path, path[-1], detail)._replace(at_key=True)
    value = _look_up(data, path)
    if kind == "missing":
        return Explained(path, "is missing", _how_to_add(model, location))
    if kind == "extra_forbidden":
        return _unknown_key(path, known_keys(model, location[:-1]))
    if value is None:
        return Explained(path, "has no value", _how_to_add(model, location))
    if kind in _KINDS:
        problem = f"must be {_KINDS[kind]}, not {_described(value)}"
        by_name = path[-1:] == ("output",) and isinstance(value, str)
        mend = _BY_INDEX if by_name else _convert(kind, value, known_keys(model, location))
        return Explained(path, problem, mend)
    return _explain_value(model, path, value, detail)


def _explain_value(model: type[BaseModel], path: Path, value: Any, detail: ErrorDetails) -> Explained:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return Explained(path, f"is {shown(value)}", f"write {words.format(context[key])}")
    if kind == "literal_error":
        return _not_one_of(path, value, re.findall(r"'([^']*)'", context["expected"]))
    if kind.startswith("union_tag"):
        return _wrong_tag(model, (*path, context["discriminator"].strip("'")), value)
    if kind == "string_pattern_mismatch":
        return Explained(path, *_against_pattern(value, context["pattern"]))
    if kind in _LENGTHS:
        key, words = _LENGTHS[kind]
        return Explained(path, f"has {_length(value)}", f"write {words} {context[key]}")
    problem, mend = split_message(str(context.get("error", detail["msg"])))
    return Explained(_narrowed(path, value, problem), problem, mend)


def _path_in(model: type[BaseModel], data: Any, detail: ErrorDetails) -> Path:
    """Return the error's location without pydantic's own parts, such as the tags of unions."""
    path: Path = ()
    here, tagged = data, False
    for part in detail["loc"]:
        tagged = not tagged and part in tags_at(model, path)
        below = _MISSING if tagged else _child(here, part)
        if below is not _MISSING:
            path, here = (*path, part), below
    last = detail["loc"][-1] if detail["loc"] else None
    return (*path, last) if detail["type"] == "missing" and last is not None else path


def _child(here: Any, part: str | int) -> Any:
    if isinstance(here, dict) and part in here:
        return here[part]
    if isinstance(here, list) and isinstance(part, int) and part < len(here):
        return here[part]
    return _MISSING


def _look_up(data: Any, path: Path) -> Any:
    for part in path:
        data = _child(data, part)
    return data


def _how_to_add(model: type[BaseModel], location: Path) -> str:
    what = describe(model, location) or "<a value>"
    return f"write {what}" if isinstance(location[-1], int) else f"write {location[-1]}: {what}"


def _unknown_key(path: Path, known: tuple[str, ...]) -> Explained:
    key = str(path[-1])
    if key in RESERVED_FIELDS:
        problem = f"{key} is reserved for a later version of the format"
        return Explained(path, problem, RESERVED_FIELDS[key], at_key=True)
    if key in known:
        return Explained(path, f"{key} does not go with what else is here", "remove one of them", at_key=True)
    return Explained(path, f"unknown field {shown(key)}", nearest(key, known), at_key=True, unknown=True)


def _wrong_tag(model: type[BaseModel], path: Path, value: Any) -> Explained:
    tags, key = tags_at(model, path[:-1]), path[-1]
    if key in value:
        return _not_one_of(path, value[key], tags)
    return Explained(path, "is missing", f"write {key}: {' or '.join(tags)}")


def _not_one_of(path: Path, value: Any, allowed: Iterable[str]) -> Explained:
    return Explained(path, f"is {shown(value)}", nearest(str(value), allowed))


def _against_pattern(value: str, pattern: str) -> tuple[str, str]:
    if pattern != NAME_PATTERN:
        return f"{shown(value)} does not have the form {pattern}", "write it in that form"
    plain = re.sub(r"[^a-z0-9_]+", "_", value.lower()).strip("_")[:63]
    example = f", e.g. {plain}" if re.fullmatch(NAME_PATTERN, plain) else ""
    return f"{shown(value)} is no name", f"{_NAME_RULE}{example}"


def _described(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return shown(value)


def _length(value: Any) -> str:
    return f"{len(value)} {'characters' if isinstance(value, str) else 'items'}"


def _convert(kind: str, value: Any, keys: tuple[str, ...]) -> str:
    """Return how to write ``value`` as what it should be."""
    wanted = _KINDS[kind]
    if wanted == "text" and not isinstance(value, dict | list):
        return f'write it in quotes: "{_described(value)}"'
    if wanted == "a list" and not isinstance(value, dict | list):
        return f"write [{_described(value)}]"
    if wanted == "a whole number":
        return _as_integer(value)
    if wanted == "a mapping" and keys:
        return (
            f"write a mapping with {', '.join(keys[:_MOST_KEYS])}{', ...' if len(keys) > _MOST_KEYS else ''}"
        )
    return f"write {wanted}"


def _as_integer(value: Any) -> str:
    if isinstance(value, float):
        return f"write {int(value)}" if value.is_integer() else f"write {int(value)} or {int(value) + 1}"
    text = str(value).replace(",", "").replace(" ", "")
    if re.fullmatch(r"0x[0-9a-fA-F]{1,15}", text):
        return f"write it in base ten: {int(text, 16)}"
    if re.fullmatch(r"[0-9_]{1,19}", text):
        return f"write {text}, without quotes or commas"
    return "write digits only"


def _narrowed(path: Path, value: Any, problem: str) -> Path:
    """Return the path of the item or field of ``value`` that a validator's text is about."""
    if isinstance(value, dict):
        field = re.match(r"[A-Za-z_]\w*", problem)
        return (*path, field[0]) if field and field[0] in value else path
    if isinstance(value, list):
        named = [index for index, item in enumerate(value) if isinstance(item, str) and repr(item) in problem]
        return (*path, named[-1]) if named else path
    return path
