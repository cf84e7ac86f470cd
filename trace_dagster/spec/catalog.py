"""What the spec needs to know of an operator: a declaration, without its code."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from trace_dagster.chain.ranges import BlockRange

__all__ = [
    "Catalog",
    "OperatorConfig",
    "OperatorType",
    "OutputDeclaration",
    "RangePlan",
    "RangeProblem",
    "nearest",
]


class OperatorConfig(BaseModel):
    """Base of every operator's ``config`` model: frozen, and unknown keys are errors.

    Attributes:
        bytes_independent: fields that do not change what is written, e.g. which pool is asked.
    """

    bytes_independent: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@dataclass(frozen=True)
class OutputDeclaration:
    """One output of a job.

    Attributes:
        name: last part of the asset key, unique in its job; for chain data the dataset's name.
        description: one sentence for the Dagster UI.
        columns: column names, or None where they are known only at run time.
        place: what the output writes, e.g. ``cryo/10143/blocks``; None where it writes nothing.
            Two jobs that write one place are refused.
        kinds: Dagster kinds, e.g. ``("parquet",)``.
    """

    name: str
    description: str
    columns: tuple[str, ...] | None = None
    place: str | None = None
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class RangePlan:
    """The block ranges of one job: its partitions.

    Attributes:
        ranges: the bounded ranges in order; None where ranges are asked for at run time.
        lane: for run-time ranges, the job that registers them (an entry point), else None.
        chunk_size: for run-time ranges, blocks per partition, None for uncut; else None.
    """

    ranges: tuple[BlockRange, ...] | None
    lane: str | None = None
    chunk_size: int | None = None


class RangeProblem(Exception):
    """Ranges that cannot be found or do not fit.

    Attributes:
        at: path below the job, e.g. ``("config", "end_block")``.
        problem: what is wrong.
        mend: what to write instead.
    """

    def __init__(self, at: tuple[str, ...], problem: str, mend: str) -> None:
        super().__init__(f"{problem}; {mend}")
        self.at, self.problem, self.mend = at, problem, mend


class OperatorType(Protocol):
    """The declaration of an operator: all that compiling a DAG needs."""

    name: str
    description: str
    config_model: type[OperatorConfig]
    activations: frozenset[str]
    source_kinds: frozenset[str]
    update_strategies: frozenset[str]
    default_unique_key: tuple[str, ...]
    subsettable: bool
    runnable: bool

    def outputs(self, config: Any) -> tuple[OutputDeclaration, ...]:
        """Return the outputs that ``config`` yields, in order."""
        ...

    def plan_ranges(self, job: str, config: Any, upstream: RangePlan | None) -> RangePlan | None:
        """Return the job's ranges; None for a job without block ranges.

        Args:
            job: the job's name, which is the lane's name where this job is an entry point.
            config: the validated config.
            upstream: the plan of the job's input, None for a source.

        Raises:
            RangeProblem: the ranges cannot be found or do not fit.
        """
        ...

    def estimate_rpc_requests(self, config: Any, blocks: int) -> int | None:
        """Return about how many JSON-RPC requests ``blocks`` blocks take; None where none are made."""
        ...


@dataclass(frozen=True)
class Catalog:
    """The operators known here, and names of the format that this version does not have yet."""

    operators: Mapping[str, OperatorType]
    reserved: frozenset[str] = field(default_factory=frozenset)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for a near miss, else what may be written."""
    names = sorted(known)
    matches = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {matches[0]!r}?" if matches else f"write one of {', '.join(names)}"
