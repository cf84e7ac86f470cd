"""``rpc_pools.yaml`` -> ``GatewayConfig``, with everything that is wrong with it told at once."""

import json
import re
from collections.abc import Iterable
from pathlib import Path as FilePath
from typing import Final

from pydantic import ValidationError

from trace_dagster.errors import ConfigurationError
from trace_dagster.rpc.gateway.config import GatewayConfig
from trace_dagster.rpc.gateway.rules import check_rules
from trace_dagster.rpc.gateway.secrets import reference_problem
from trace_dagster.spec.document import Document, read_document
from trace_dagster.spec.explain import explain
from trace_dagster.spec.files import read_file, show_path
from trace_dagster.spec.findings import Findings
from trace_dagster.spec.problems import Path, Problem, split_message
from trace_dagster.spec.secrets import Finding, find_in_comment, find_secret

__all__ = ["InvalidConfig", "load_config"]

# Of any scheme: one that is misspelt has a key in it all the same.
_URL: Final = re.compile(r"://")
# What a line that lacks a break or a quote becomes, values and all.
_NO_KEY: Final = re.compile(r"[\s\[\]{}:,]")
_REFERENCES: Final = "env:NAME, file:PATH or secretsmanager:ID"
_KINDS: Final = frozenset({"env:", "file:", "secretsmanager:"})
_MEND: Final = f"take it out, replace it at its provider if it was ever shared, and write {_REFERENCES}"


class InvalidConfig(ConfigurationError):
    """The gateway's configuration cannot be used.

    Attributes:
        problems: everything that is wrong with it, by line.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def load_config(path: str | FilePath) -> GatewayConfig:
    """Read the file at ``path``. Only the file is read: no secret is looked up.

    Raises:
        InvalidConfig: it cannot be read, or anything is wrong with it; one line for each problem.
    """
    content = read_file(FilePath(path))
    if isinstance(content, Problem):
        raise InvalidConfig([content])
    document = read_document(show_path(path), content, least="pools")
    findings = Findings(document, find=_find, find_comment=_find_in_comment)
    config = _validate(document, findings)
    check_rules(document.data, findings)
    if config is None or not findings.clean:
        raise InvalidConfig(findings.problems())
    return config.read_from(document)


def _validate(document: Document, findings: Findings) -> GatewayConfig | None:
    data = document.data
    if not isinstance(data, dict):
        if data is not None or findings.clean:
            findings.add((), "the file is not a mapping", "write pools: at its left edge")
        return None
    try:
        # As JSON, where a list may become a tuple although nothing else is converted.
        return GatewayConfig.model_validate_json(json.dumps(data))
    except ValidationError as error:
        for item in explain(GatewayConfig, data, error):
            if item.at_key and _is_named(item.path) and _NO_KEY.search(str(item.path[-1])):
                continue  # it is told that this is no key, and a name that is like it would show what it was
            findings.add(item.path, item.problem, item.mend, at_key=item.at_key)
        return None


def _find(path: Path, name: str, text: str) -> Finding | None:
    """Return what is secret about a value: all that stands where a reference belongs and is none, any URL."""
    if _URL.search(text):
        return Finding("is a URL, which is never written here", _MEND)
    if not name and _NO_KEY.search(text):
        return Finding("is no key", "write `key: value`, each on a line of its own, and no spaces in a key")
    if name and _is_entry(path):
        return Finding("must be a mapping, not text", "write its fields as `key: value`")
    if name and _is_reference(path):  # a key of the document itself has no name above it
        problem = reference_problem(text)
        if problem is not None:
            # Without a place it is no secret yet, and the model says what is wrong.
            return None if text in _KINDS else Finding(*split_message(problem))
        finding = find_in_comment(text)  # by its form alone: names of secrets may look random
    else:
        finding = find_secret(name, text)
    return None if finding is None else Finding(finding.problem, _MEND)


def _find_in_comment(text: str) -> Finding | None:
    finding = find_in_comment(text)
    return None if finding is None else Finding(finding.problem, "take it out and replace it at its provider")


def _is_entry(path: Path) -> bool:
    """Whether a token or an endpoint belongs here."""
    match path:
        case ("tokens", int()) | ("pools", str(), "endpoints", int()):
            return True
        case _:
            return False


def _is_named(path: Path) -> bool:
    """Whether a pool, or a table of costs or a method in it, is named here."""
    match path:
        case ("pools" | "costs", str()) | ("costs", str(), str()):
            return True
        case _:
            return False


def _is_reference(path: Path) -> bool:
    match path:
        case ("pools", str(), "endpoints", int(), "url" | "keys", *_):
            return True
        case ("tokens", int(), "token", *_):
            return True
        case _:
            return False
