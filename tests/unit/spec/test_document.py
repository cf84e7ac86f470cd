"""YAML text to data: places, scalars, and texts that are no YAML."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_dagster.operators.registry import catalog
from trace_dagster.spec.document import read_document
from trace_dagster.spec.draft import draft_dag
from trace_dagster.spec.job_rules import check_jobs
from trace_dagster.spec.links import link_dags
from trace_dagster.spec.planning import plan_dags
from trace_dagster.spec.problems import Mark
from trace_dagster.spec.scalars import AmbiguousScalar, read_plain

DAG = """\
name: monad
jobs:
  - name: range_request
    activation: source
    runtime: dispatcher
    operator: range_request
    source: { kind: cron, schedule: "0 6 * * *" }
    config: { start_block: 0, end_block: 999 }
    outputs: 1
  - name: range_split
    activation: reactive
    runtime: dispatcher
    operator: range_splitter
    execution_strategy: PerPartition
    inputs: [ { from: { job: range_request, output: 0 }, where: { a: b } } ]
    config: { chunk_size: 100 }
    outputs: 1
publish:
  ranges: { from: { job: range_split, output: 0 } }
"""


def test_every_value_and_key_has_a_place() -> None:
    """Lines and columns count from 1 and lead to where a value starts."""
    document = read_document("dag.yaml", DAG.encode())
    assert document.mark(("jobs", 0, "source", "kind")) == Mark(7, 21)
    assert document.mark(("jobs", 0, "source", "kind"), at_key=True) == Mark(7, 15)
    assert document.mark(("jobs", 1, "config", "absent", 3)) == Mark(16, 13)
    assert document.get(("jobs", 1, "config", "chunk_size")) == 100
    assert document.get(("jobs", 7)) is None


def test_columns_count_characters() -> None:
    """A byte order mark and wide characters before a value do not shift its column."""
    document = read_document("dag.yaml", "\ufeffdescription: 'é😀' \nname: monad".encode())
    assert document.problems == ()
    assert document.mark(("name",)) == Mark(2, 7)
    assert read_document("dag.yaml", "a: é \xff".encode()[:-1]).problems[0].column == 7


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("FALSE", False), ("0", 0), ("-7", -7),
        ("+7", 7), ("1_000_000", 1_000_000), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("0x10", "0x10"),
        ("2026-01-02", "2026-01-02"), ("12:30:00", "12:30:00"), ("y", "y"), ("1.2.3", "1.2.3"), ("<<", "<<"),
        ("_1", "_1"), ("9223372036854775807", 2**63 - 1), ("1,000", "1,000"), ("=", "="), ("None", "None"),
    ],
)  # fmt: skip
def test_unquoted_scalars(text: str, value: object) -> None:
    """Scalars are YAML 1.2's, and numbers may have underscores."""
    found = read_plain(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "No",
        "ON",
        "off",
        "0123",
        "-01",
        "0o17",
        "0b11",
        ".inf",
        "-.INF",
        ".nan",
        "1e999",
        "9" * 20,
        "9" * 9000,
    ],
)
def test_scalars_that_readers_disagree_about(text: str) -> None:
    """What another reader of YAML would take for something else is refused."""
    assert isinstance(read_plain(text), AmbiguousScalar)


def test_quoted_scalars_are_text() -> None:
    """Quotes make text of anything, as every message about a scalar promises."""
    document = read_document("dag.yaml", b"""{a: "no", b: '0123', c: "1"}""")
    assert document.problems == ()
    assert document.data == {"a": "no", "b": "0123", "c": "1"}


def test_merge_keys_keep_what_is_written_beside_them() -> None:
    """A key of the mapping itself wins over merged ones, an earlier merged mapping over a later one."""
    text = b"a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {<<: [*a, *b], y: 3}\nd: {<<: {<<: *b, w: 4}}"
    document = read_document("dag.yaml", text)
    assert document.problems == ()
    assert document.data["c"] == {"x": 1, "y": 3, "z": 2}
    assert document.data["d"] == {"x": 2, "z": 2, "w": 4}


def _load(text: str) -> list[str]:
    """Run everything that a file goes through, short of other files."""
    draft = draft_dag(read_document("dag.yaml", text.encode("utf-8", "surrogatepass")), catalog())
    check_jobs(draft, catalog())
    plan_dags([draft], link_dags([draft]))
    return [str(problem) for problem in (*draft.findings.problems(), *draft.findings.warnings())]


def _check(messages: list[str]) -> None:
    for message in messages:
        message.encode("utf-8")
        assert "\n" not in message
        assert message.startswith("dag.yaml:")


@settings(max_examples=250, deadline=None)
@given(
    st.text(max_size=80)
    | st.text(alphabet="ab:- \n\t[]{}&*!|>'\"%@`,?#<~.0_1xuU\\\x85\u2028\ufeff", max_size=80)
)
def test_no_text_gives_a_traceback(text: str) -> None:
    """Any text is a DAG or a list of problems, each on one line that can be printed."""
    _check(_load(text))


_WORDS = st.sampled_from(
    ["monad", "range_request", "range_split", "source", "reactive", "PerUpdate", "a b", "0x1"]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats(-1e9, 1e9) | _WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_WORDS, inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=250, deadline=None)
@given(place=st.integers(0, 46), value=_VALUES, drop=st.booleans())
def test_no_value_in_a_dag_gives_a_traceback(place: int, value: object, *, drop: bool) -> None:
    """A valid DAG with any one value replaced or left out is valid, or gives problems."""
    data = read_document("dag.yaml", DAG.encode()).data
    _change(data, place, value, drop=drop)
    _check(_load(_flow(data)))


def _change(data: Any, place: int, value: object, *, drop: bool) -> int:
    """Replace or drop the value at ``place`` of a walk through ``data``; return what is left to count."""
    for key in list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        if place == 0 and drop:
            del data[key]
            return -1
        if place == 0:
            data[key] = value
            return -1
        place = _change(data[key], place - 1, value, drop=drop)
        if place < 0:
            return place
    return place


def _flow(value: object) -> str:
    """Return ``value`` as YAML in flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, str):
        return f'"{value}"'
    return "null" if value is None else str(value).lower()
