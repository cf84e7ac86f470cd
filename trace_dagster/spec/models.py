"""The DAG YAML format, field by field."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from trace_dagster.spec.fields import Name, Owner, Schedule

__all__ = [
    "Activation",
    "AlwaysOnSource",
    "Bootstrap",
    "CronSource",
    "DagSpec",
    "Defaults",
    "FromDataset",
    "FromJob",
    "InputSpec",
    "JobSpec",
    "ManualSource",
    "PublishSpec",
    "Runtime",
    "Scaling",
    "SourceSpec",
    "ThresholdSource",
]

Activation = Literal["source", "reactive"]
Runtime = Literal["ecs_platform", "lambda", "dispatcher"]
Scalar = str | int | float | bool | None

Seconds = Annotated[int, Field(ge=1, le=31 * 24 * 3600)]


class _SpecModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class FromJob(_SpecModel):
    """An output of a job of the same DAG."""

    job: Name
    """Name of the job."""
    output: int = Field(ge=0)
    """Index of its output, from 0."""


class FromDataset(_SpecModel):
    """An output by its published name, of any DAG."""

    dataset: Name
    """The name under ``publish`` of the DAG that makes it."""


def _which_reference(value: Any) -> str:
    named = value if isinstance(value, Mapping) else {}
    return "<dataset>" if isinstance(value, FromDataset) or "dataset" in named else "<job>"


Reference = Annotated[
    Annotated[FromJob, Tag("<job>")] | Annotated[FromDataset, Tag("<dataset>")],
    Discriminator(_which_reference),
]


class InputSpec(_SpecModel):
    """What a reactive job reads."""

    from_: Reference = Field(alias="from")
    """``{job, output}`` or ``{dataset}``."""
    where: Mapping[Name, Scalar] = Field(default_factory=dict)
    """Column: value; only rows where all are equal."""


class ManualSource(_SpecModel):
    """Fires when a person or another system asks."""

    kind: Literal["manual"]


class CronSource(_SpecModel):
    """Fires on a schedule, in UTC."""

    kind: Literal["cron"]
    schedule: Schedule
    """Cron text of five fields, or ``rate(N minutes|hours|days)``."""


class AlwaysOnSource(_SpecModel):
    """Runs all the time, e.g. at the tip of a chain."""

    kind: Literal["always_on"]


class ThresholdSource(_SpecModel):
    """Fires whenever another output has grown by so much."""

    kind: Literal["threshold"]
    count: Literal["blocks", "rows"]
    """What is counted."""
    of: Reference
    """The output it is counted in."""
    at_least: int = Field(ge=1)
    """How many make the source fire."""


SourceSpec = Annotated[
    ManualSource | CronSource | AlwaysOnSource | ThresholdSource, Field(discriminator="kind")
]


class Bootstrap(_SpecModel):
    """What happens once, when the DAG is first deployed."""

    reset_outputs: bool = False
    """One deliberate wipe and restart; never on an ordinary restart."""


class Scaling(_SpecModel):
    """How much of a job may run at once."""

    max_concurrency: int | None = Field(default=None, ge=1, le=1000)
    """Partitions in flight; a Dagster pool with this limit."""


class Defaults(_SpecModel):
    """Limits of every job that does not set its own."""

    heartbeat_timeout_seconds: Seconds = 60
    """An attempt without a heartbeat for so long may be taken over."""
    max_attempts: int = Field(default=3, ge=1, le=100)
    """Tries of a partition, the first included."""


def _which_unique_key(value: Any) -> str:
    return "<mapping>" if isinstance(value, Mapping) else "<list>"


Columns = Annotated[tuple[Name, ...], Field(min_length=1)]


class JobSpec(_SpecModel):
    """One job."""

    name: Name
    """Unique in the DAG; second part of its asset keys."""
    activation: Activation
    """``source``: an entry point. ``reactive``: runs on what its inputs bring."""
    runtime: Runtime
    """Where it runs in production."""
    operator: Name
    """The plug-in that does the work."""
    outputs: int = Field(ge=1)
    """How many outputs the operator yields with this config."""
    description: str | None = None
    """One sentence for the Dagster UI."""
    inputs: tuple[InputSpec, ...] = ()
    """What a reactive job reads."""
    execution_strategy: Literal["PerPartition", "PerUpdate"] | None = None
    """Reactive: once for each upstream partition, or on new upstream rows."""
    update_strategy: Literal["append", "replace"] | None = None
    """How outputs are written: rows added by ``unique_key``, or a range swapped as a whole."""
    unique_key: (
        Annotated[
            Annotated[Columns, Tag("<list>")] | Annotated[Mapping[Name, Columns], Tag("<mapping>")],
            Discriminator(_which_unique_key),
        ]
        | None
    ) = None
    """Columns that make a row unique; a mapping names them for each output."""
    source: SourceSpec | None = None
    """What makes a source job fire."""
    bootstrap: Bootstrap | None = None
    config: Mapping[str, Any] = Field(default_factory=dict)
    """The operator's own settings."""
    scaling: Scaling = Field(default_factory=Scaling)
    timeout_seconds: Seconds | None = None
    """Limit of one attempt; none: no limit."""
    idle_timeout: int | None = Field(default=None, ge=0)
    """Seconds that a worker stays without work; 0: it ends with its batch."""
    heartbeat_timeout_seconds: Seconds | None = None
    """As in ``defaults``, for this job."""
    max_attempts: int | None = Field(default=None, ge=1, le=100)
    """As in ``defaults``, for this job."""
    secrets: tuple[Name, ...] = ()
    """Logical names of secrets, never values."""


class PublishSpec(_SpecModel):
    """A stable name for an output."""

    from_: FromJob = Field(alias="from")
    storage: Literal["s3", "postgres"] | None = None
    """Where readers find it."""


class DagSpec(_SpecModel):
    """A Trace DAG: one document, one file."""

    name: Name
    """Unique among all DAGs; asset group and Postgres schema."""
    description: str | None = None
    """One sentence for the Dagster UI."""
    owners: tuple[Owner, ...] = ()
    """Who answers for it: e-mail addresses or ``team:name``."""
    defaults: Defaults = Field(default_factory=Defaults)
    jobs: tuple[JobSpec, ...] = Field(min_length=1)
    publish: Mapping[Name, PublishSpec] = Field(default_factory=dict)
    """Published name: the output behind it."""
