"""The config of a ``cryo_ingest`` job."""

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic.config import JsonDict

from trace_dagster.chain.datasets import (
    ALIASES,
    ALLOWED_FILTERS,
    DATASETS,
    FILTERS,
    NATIVE_DATASETS,
    NATIVE_ONLY,
    REQUIRED_FILTERS,
    canonical_dataset,
    filter_problem,
    listed,
)
from trace_dagster.settings import EngineName
from trace_dagster.spec.catalog import OperatorConfig, nearest

__all__ = ["CryoIngestConfig"]

# A filter may be written as one text, too.
_TEXT: JsonDict = {"type": "string"}
_TEXTS: JsonDict = {"type": "array", "items": _TEXT}


def _canonical(name: str) -> str:
    try:
        return canonical_dataset(name)
    except ValueError as error:
        raise ValueError(f"{error}; {nearest(name, (*DATASETS, *NATIVE_ONLY, *ALIASES))}") from None


DatasetName = Annotated[str, AfterValidator(_canonical)]


class CryoIngestConfig(OperatorConfig):
    """What to ingest.

    Attributes:
        chain_id: the EVM chain's id, compared with the endpoint's before anything is written.
        datasets: Cryo's dataset names; ``txs`` and Cryo's other short names are accepted.
        rpc_pool: the RPC pool that is asked; required unless the engine is ``stub``.
        engine: ``stub``, ``cryo`` or ``native``; left out: ``TRACE_CRYO_ENGINE``.
        filters: rows to keep, by Cryo's names, e.g. ``{address: ["0x..."]}``.
        revision: raise it to ingest the same ranges anew under new dataset versions, e.g. after a provider
            turned out to have served wrong data.
        max_concurrent_requests: most HTTP requests in flight for one partition (engine native).
        max_memory_bytes: about how much of a partition is in memory at once (engine native).
    """

    bytes_independent: ClassVar[frozenset[str]] = frozenset(
        {"rpc_pool", "max_concurrent_requests", "max_memory_bytes"}
    )

    chain_id: int = Field(ge=1, le=2**63 - 1)
    datasets: tuple[DatasetName, ...] = Field(min_length=1)
    rpc_pool: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    engine: EngineName | None = None
    filters: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, json_schema_extra={"additionalProperties": {"anyOf": [_TEXT, _TEXTS]}}
    )
    revision: int = Field(default=0, ge=0)
    max_concurrent_requests: int = Field(default=16, ge=1, le=256)
    max_memory_bytes: int = Field(default=192 * 2**20, ge=16 * 2**20)

    @field_validator("datasets")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for at, name in enumerate(value) if name in value[:at]]
        if twice:
            raise ValueError(f"{twice[0]!r} is listed twice; name each dataset once")
        return value

    @field_validator("filters", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        texts = {name: [item] if isinstance(item, str) else item for name, item in value.items()}
        return {name: tuple(item) if isinstance(item, list) else item for name, item in texts.items()}

    @model_validator(mode="after")
    def _consistent(self) -> "CryoIngestConfig":
        if self.rpc_pool is None and self.engine != "stub":
            raise ValueError(
                "rpc_pool is missing; name a pool of the RPC Egress Gateway, or write engine: stub"
            )
        for name, values in self.filters.items():
            if name not in FILTERS:
                raise ValueError(f"filters.{name} is no filter of Cryo; {nearest(name, FILTERS)}")
            takers = [dataset for dataset in self.datasets if name in ALLOWED_FILTERS[dataset]]
            if not takers:
                raise ValueError(f"filters.{name} does not apply to {listed(self.datasets)}; remove it")
            wrong = next(filter(None, (filter_problem(name, value) for value in values)), None)
            if wrong is not None:
                raise ValueError(wrong)
        self._fit_engine()
        for dataset in self.datasets:
            missing = REQUIRED_FILTERS.get(dataset, frozenset()) - self.filters.keys()
            if missing:
                names = " and ".join(f"filters.{name}" for name in sorted(missing))
                raise ValueError(f"dataset {dataset} needs {names}; add them")
        return self

    def _fit_engine(self) -> None:
        only_native = [dataset for dataset in self.datasets if dataset in NATIVE_ONLY]
        if only_native and self.engine not in (None, "native"):
            raise ValueError(
                f"engine {self.engine} has no dataset {listed(only_native)}; write engine: native"
            )
        if self.engine == "native":
            lacking = [dataset for dataset in self.datasets if dataset not in NATIVE_DATASETS]
            if lacking:
                raise ValueError(
                    f"engine native has no dataset {listed(lacking)}; write engine: cryo for it, in a job "
                    "of its own"
                )
