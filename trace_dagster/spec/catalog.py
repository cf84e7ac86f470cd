"""What the spec needs to know of an operator: a declaration, without its code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.suggest import nearest

__all__ = [
    "MAX_PARTITIONS",
    "Catalog",
    "OperatorConfig",
    "OperatorType",
    "OutputDeclaration",
    "RangePlan",
    "RangeProblem",
    "cut_ranges",
    "nearest",
]

# Dagster's maintainers advise at most this many partitions for one asset.
MAX_PARTITIONS = 100_000


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
        facts: metadata of the asset that follows from the config, by keys of ``trace_dagster.metadata``.
    """

    name: str
    description: str
    columns: tuple[str, ...] | None = None
    place: str | None = None
    kinds: tuple[str, ...] = ()
    facts: Mapping[str, str | int] = field(default_factory=dict)


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

    def __init__(self, at: tuple[str | int, ...], problem: str, mend: str) -> None:
        super().__init__(f"{problem}; {mend}")
        self.at, self.problem, self.mend = at, problem, mend


def cut_ranges(ranges: Sequence[BlockRange], chunk_size: int) -> tuple[BlockRange, ...]:
    """Cut each range, from its start, into partitions of ``chunk_size`` blocks; the last may be shorter.

    Raises:
        RangeProblem: that makes more than ``MAX_PARTITIONS``; says which chunk size would fit.
    """
    count = _count_chunks(ranges, chunk_size)
    if count <= MAX_PARTITIONS:
        return tuple(chain.from_iterable(whole.split(chunk_size) for whole in ranges))
    raise RangeProblem(
        ("config", "chunk_size"),
        f"chunk_size {chunk_size} cuts {sum(whole.blocks for whole in ranges)} blocks into {count} "
        f"partitions, more than the {MAX_PARTITIONS} that one asset can have",
        f"write chunk_size: {_fitting_chunk_size(ranges)} or more",
    )


def _count_chunks(ranges: Sequence[BlockRange], chunk_size: int) -> int:
    return sum(-(-whole.blocks // chunk_size) for whole in ranges)


def _fitting_chunk_size(ranges: Sequence[BlockRange]) -> int:
    """Return the smallest chunk size of the form 1, 2 or 5 times a power of ten that fits."""
    most = max(MAX_PARTITIONS, len(ranges))
    size = power = 1
    while _count_chunks(ranges, size * power) > most:
        size, power = {1: (2, power), 2: (5, power), 5: (1, power * 10)}[size]
    return size * power


class OperatorType(Protocol):
    """The declaration of an operator: all that compiling a DAG needs."""

    @property
    def name(self) -> str:
        """What ``operator:`` says in a DAG."""
        ...

    @property
    def description(self) -> str:
        """One sentence."""
        ...

    @property
    def config_model(self) -> type[OperatorConfig]:
        """The model of ``config``."""
        ...

    @property
    def activations(self) -> frozenset[str]:
        """Which of ``source`` and ``reactive`` it may be."""
        ...

    @property
    def source_kinds(self) -> frozenset[str]:
        """Which ``source.kind`` it may have; empty for a reactive operator."""
        ...

    @property
    def update_strategies(self) -> frozenset[str]:
        """How its outputs may be written; empty where it writes no rows."""
        ...

    @property
    def default_unique_key(self) -> tuple[str, ...]:
        """The key of ``append`` where the DAG names none."""
        ...

    @property
    def subsettable(self) -> bool:
        """Whether its outputs can be made alone."""
        ...

    @property
    def runnable(self) -> bool:
        """Whether this version runs it."""
        ...

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
