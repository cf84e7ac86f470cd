"""Rules of ``rpc_pools.yaml`` that look across its fields, checked on whatever of it can be read."""

from collections.abc import Iterator, Mapping
from typing import Any

from trace_dagster.rpc.gateway.addresses import header_problem, is_loopback
from trace_dagster.rpc.gateway.config import DEFAULT_COST, OWN_NAME, RequestLimits, is_name
from trace_dagster.spec.findings import Findings
from trace_dagster.spec.problems import Path, shown, split_message
from trace_dagster.suggest import nearest

__all__ = ["check_rules"]


def check_rules(data: Any, findings: Findings) -> None:
    """Add what is wrong with ``data``, the document's, to ``findings``."""
    root = _mapping(data)
    pools = _mapping(root.get("pools"))
    costs = _mapping(root.get("costs"))
    _check_listen(root, findings)
    _check_waits(_mapping(root.get("limits")), findings)
    _check_tokens(root, pools, findings)
    for name, table in costs.items():
        if isinstance(table, dict) and DEFAULT_COST not in table:
            mend = "add default: <credits>, which every method costs that is not named"
            findings.add(("costs", name), f"has no {DEFAULT_COST}", mend)
    for name, pool in pools.items():
        _check_pool(("pools", name), _mapping(pool), costs, findings)


def _check_listen(root: Mapping[str, Any], findings: Findings) -> None:
    host = _mapping(root.get("listen")).get("host")
    if isinstance(host, str) and not root.get("tokens") and not is_loopback(host):
        problem = f"is {shown(host)}, which others can reach, and there are no tokens"
        findings.add(("listen", "host"), problem, "add tokens, or listen at 127.0.0.1")


def _check_waits(limits: Mapping[str, Any], findings: Findings) -> None:
    defaults = RequestLimits()
    wait = limits.get("max_wait_seconds", defaults.max_wait_seconds)
    deadline = limits.get("deadline_seconds", defaults.deadline_seconds)
    if _is_number(wait) and _is_number(deadline) and wait > deadline:
        at = "max_wait_seconds" if "max_wait_seconds" in limits else "deadline_seconds"
        problem = f"max_wait_seconds is {shown(wait)}, more than deadline_seconds, {shown(deadline)}"
        findings.add(("limits", at), problem, "write a wait that ends before the deadline")


def _check_tokens(root: Mapping[str, Any], pools: Mapping[str, Any], findings: Findings) -> None:
    tokens = list(_items(root, "tokens"))
    _check_unique(tokens, "name", findings, "two tokens have the name", "give each its own")
    mend = "give each caller a token of its own"
    _check_unique(tokens, "token", findings, "another token is the same:", mend)
    for path, token in tokens:
        if token.get("name") == OWN_NAME:
            problem = f"is {OWN_NAME}, as which the gateway counts what it asks for its own sake"
            findings.add((*path, "name"), problem, "write another name")
        named = token.get("pools")
        for at, name in enumerate(named if isinstance(named, list) else ()):
            if isinstance(name, str) and is_name(name) and name not in pools:
                findings.add((*path, "pools", at), f"there is no pool {shown(name)}", nearest(name, pools))


def _check_pool(at: Path, pool: Mapping[str, Any], costs: Mapping[str, Any], findings: Findings) -> None:
    endpoints = [((*at, *path), endpoint) for path, endpoint in _items(pool, "endpoints")]
    _check_unique(endpoints, "name", findings, "two endpoints have the name", "give each its own")
    # One provider twice would outvote an honest one where endpoints are compared.
    mend = "name a provider once in a pool, with several keys"
    _check_unique(endpoints, "url", findings, "another endpoint has the same URL,", mend)
    for path, endpoint in endpoints:
        _check_keys(path, endpoint, findings)
        _check_costs(path, endpoint, costs, findings)


def _check_keys(at: Path, endpoint: Mapping[str, Any], findings: Findings) -> None:
    header, keys = endpoint.get("key_header"), endpoint.get("keys")
    if isinstance(header, str):
        problem = header_problem(header)
        if problem is not None:
            findings.add((*at, "key_header"), *split_message(problem))
        if not keys:
            findings.add((*at, "key_header"), "there are no keys for it to carry", "add keys, or remove it")
    known: set[str] = set()
    for index, key in enumerate(keys if isinstance(keys, list) else ()):
        if isinstance(key, str) and key in known:
            findings.add((*at, "keys", index), f"{shown(key)} is listed twice", "name each key once")
        known.add(str(key))


def _check_costs(at: Path, endpoint: Mapping[str, Any], costs: Mapping[str, Any], findings: Findings) -> None:
    name = endpoint.get("costs")
    limit = _mapping(endpoint.get("limits")).get("credits_per_second")
    if isinstance(name, str) and name not in costs:
        mend = nearest(name, costs) if costs else "write the table under costs, or remove this"
        findings.add((*at, "costs"), f"there is no table of costs {shown(name)}", mend)
        return
    path = (*at, "limits", "credits_per_second")
    if limit is not None and name is None:
        findings.add(path, "there is no table of costs to count by", "write costs: <name of a table>")
    table = _mapping(costs.get(name)) if isinstance(name, str) else {}
    dear = {method: cost for method, cost in table.items() if _is_number(cost)}
    dearest = max(dear, key=lambda method: dear[method], default=None)
    if dearest is not None and limit is not None and _is_number(limit) and 0 < limit < dear[dearest]:
        problem = f"is {shown(limit)}, less than what {dearest} costs, so it could never be asked"
        findings.add(path, problem, f"write {shown(dear[dearest])} or more, or mend costs.{name}.{dearest}")


def _check_unique(
    items: list[tuple[Path, Mapping[str, Any]]], field: str, findings: Findings, what: str, mend: str
) -> None:
    first: dict[str, int] = {}
    for path, item in items:
        value = item.get(field)
        if not isinstance(value, str):
            continue
        if value in first:
            line = f"first on line {first[value]}"
            findings.add((*path, field), f"{what} {shown(value)}, {line}", mend)
        else:
            first[value] = findings.document.mark((*path, field)).line


def _items(parent: Mapping[str, Any], field: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    items = parent.get(field)
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield (field, index), item


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
