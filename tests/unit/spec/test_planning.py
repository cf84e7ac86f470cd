"""Ranges of jobs whose operators come from other packages."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.operators.registry import catalog
from trace_dagster.spec.catalog import (
    MAX_PARTITIONS,
    Catalog,
    OperatorConfig,
    OutputDeclaration,
    RangePlan,
    RangeProblem,
    cut_ranges,
)
from trace_dagster.spec.resolve import LoadResult, load_dags

DAG = """\
name: plugins
jobs:
  - name: first
    activation: source
    runtime: dispatcher
    operator: plugin
    source: { kind: manual }
    outputs: 1
  - name: second
    activation: reactive
    runtime: dispatcher
    operator: reader
    execution_strategy: PerPartition
    inputs: [ { from: { job: first, output: 0 } } ]
    outputs: 1
"""


class _NoConfig(OperatorConfig):
    """No settings."""


@dataclass(frozen=True)
class _Plugin:
    """An operator whose ranges a test chooses."""

    plan: Callable[[RangePlan | None], RangePlan | None]
    output_names: tuple[str, ...] = ("out",)
    name: str = "plugin"
    description: str = "A plug-in."
    config_model: type[OperatorConfig] = _NoConfig
    activations: frozenset[str] = frozenset({"source", "reactive"})
    source_kinds: frozenset[str] = frozenset({"manual"})
    update_strategies: frozenset[str] = frozenset()
    default_unique_key: tuple[str, ...] = ()
    subsettable: bool = False
    runnable: bool = True

    def outputs(self, config: Any) -> tuple[OutputDeclaration, ...]:
        """Return the outputs that the test chose."""
        return tuple(OutputDeclaration(name, "An output.") for name in self.output_names)

    def plan_ranges(self, job: str, config: Any, upstream: RangePlan | None) -> RangePlan | None:
        """Return what the test chose."""
        return self.plan(upstream)

    def estimate_rpc_requests(self, config: Any, blocks: int) -> None:
        """Return None."""


def _load(tmp_path: Path, plan: RangePlan | None, **changes: Any) -> LoadResult:
    reader = _Plugin(lambda upstream: upstream, name="reader")
    (tmp_path / "dag.yaml").write_text(DAG)
    operators = {"plugin": replace(_Plugin(lambda _: plan), **changes), "reader": reader}
    return load_dags(tmp_path, Catalog({**catalog().operators, **operators}))


def _ranges(*pairs: tuple[int, int]) -> RangePlan:
    return RangePlan(ranges=tuple(BlockRange(*pair) for pair in pairs))


def test_plugin_s_ranges_reach_its_readers(tmp_path: Path) -> None:
    """An operator of another package plans ranges like a built-in one."""
    (dag,) = _load(tmp_path, _ranges((0, 4), (5, 9))).dags
    assert dag.jobs[1].plan == _ranges((0, 4), (5, 9))


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (_ranges((0, 4), (6, 9)), "range 6_9 follows 0_4: a gap; start it at block 5"),
        (_ranges((0, 4), (4, 9)), "range 4_9 follows 0_4: an overlap; start it at block 5"),
        (RangePlan(tuple(BlockRange(n, n) for n in range(MAX_PARTITIONS + 1))), "makes 100001 partitions"),
    ],
)
def test_ranges_that_do_not_fit_are_refused(tmp_path: Path, plan: RangePlan, words: str) -> None:
    """Gaps, overlaps and too many partitions are found whoever makes them, and told once."""
    (problem,) = _load(tmp_path, plan).problems
    assert words in str(problem)
    assert problem.path == "jobs[0].config"


def test_reader_of_a_job_without_ranges_is_refused(tmp_path: Path) -> None:
    """PerPartition needs ranges to run by."""
    (problem,) = _load(tmp_path, None).problems
    assert "first has none" in problem.problem


def test_output_name_twice_is_refused(tmp_path: Path) -> None:
    """A plug-in that yields one name twice would make one asset of two."""
    (problem,) = _load(tmp_path, _ranges((0, 4)), output_names=("out", "out")).problems
    assert "yields output out twice" in problem.problem


@given(
    start=st.integers(0, 2**40),
    blocks=st.lists(st.integers(1, 10**9), min_size=1, max_size=4),
    chunk_size=st.integers(1, 10**7),
)
def test_cutting_keeps_every_block_or_says_what_fits(start: int, blocks: list[int], chunk_size: int) -> None:
    """Chunks follow one another over all blocks; where they are too many, the size told is enough."""
    ranges = []
    for count in blocks:
        ranges.append(BlockRange(start, start + count - 1))
        start += count
    try:
        chunks = cut_ranges(ranges, max(chunk_size, sum(blocks) // 2000))
        assert sum(chunk.blocks for chunk in chunks) == sum(blocks)
        cut_ranges(ranges, chunk_size) if sum(blocks) // chunk_size > MAX_PARTITIONS else None
    except RangeProblem as error:
        enough = int(error.mend.removeprefix("write chunk_size: ").removesuffix(" or more"))
        assert sum(-(-whole.blocks // enough) for whole in ranges) <= MAX_PARTITIONS
        assert enough > chunk_size
