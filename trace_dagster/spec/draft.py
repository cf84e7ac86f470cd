"""A DAG file as far as it can be understood: valid parts as models, the rest as problems.

Rules that look across fields and jobs then run on what is valid, so that a file's errors are told at once.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from trace_dagster.spec.catalog import Catalog, OperatorConfig, OperatorType, OutputDeclaration
from trace_dagster.spec.document import Document
from trace_dagster.spec.explain import Explained, explain
from trace_dagster.spec.findings import Findings
from trace_dagster.spec.models import DagSpec, Defaults, JobSpec, PublishSpec, Scaling
from trace_dagster.spec.problems import Path

__all__ = ["DagDraft", "JobDraft", "draft_dag"]

Model = TypeVar("Model", bound=BaseModel)

_STAND_INS: Mapping[str, Any] = {
    "name": "unnamed",
    "activation": "reactive",
    "runtime": "dispatcher",
    "operator": "unnamed",
    "outputs": 1,
}


@dataclass(frozen=True)
class JobDraft:
    """One job.

    Attributes:
        index: its place in the file, from 0.
        spec: the model; fields in ``wrong`` hold stand-ins.
        wrong: names of fields that are missing or not valid.
        operator: None where it is unknown.
        config: None where it is not valid.
        outputs: None where they cannot be known.
    """

    index: int
    spec: JobSpec
    wrong: frozenset[str]
    operator: OperatorType | None = None
    config: OperatorConfig | None = None
    outputs: tuple[OutputDeclaration, ...] | None = None

    @property
    def path(self) -> Path:
        """The job's path in its document."""
        return ("jobs", self.index)

    def has(self, *fields: str) -> bool:
        """Whether all of these fields are valid, or left out where that is allowed."""
        return self.wrong.isdisjoint(fields)


@dataclass(frozen=True)
class DagDraft:
    """One file.

    Attributes:
        findings: what is wrong with it.
        name: the DAG's name; None where it is missing or not valid.
        spec: the model; None where anything is not valid.
        defaults: the file's, or the format's where they are not valid.
        jobs: every job that is a mapping.
        publish: every valid entry.
    """

    findings: Findings
    name: str | None = None
    spec: DagSpec | None = None
    defaults: Defaults = field(default_factory=Defaults)
    jobs: tuple[JobDraft, ...] = ()
    publish: Mapping[str, PublishSpec] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The file's name, as it was asked for."""
        return self.findings.document.file

    def job(self, name: str) -> JobDraft | None:
        """Return the first job of that name."""
        return next((job for job in self.jobs if job.has("name") and job.spec.name == name), None)


def draft_dag(document: Document, catalog: Catalog) -> DagDraft:
    """Return what ``document`` says, as far as it is valid."""
    findings = Findings(document)
    data = document.data
    if not isinstance(data, dict):
        if data is not None or findings.clean:
            findings.add((), "the file is not a mapping", "write name: and jobs: at its left edge")
        return DagDraft(findings)
    spec = _validate(DagSpec, data, (), findings, catalog)
    if spec is not None:
        jobs = tuple(JobDraft(index, job, frozenset()) for index, job in enumerate(spec.jobs))
        draft = DagDraft(findings, spec.name, spec, spec.defaults, jobs, spec.publish)
    else:
        draft = _salvage_dag(findings, data)
    return replace(draft, jobs=tuple(_with_operator(job, findings, catalog) for job in draft.jobs))


def _with_operator(job: JobDraft, findings: Findings, catalog: Catalog) -> JobDraft:
    """Add what the job's operator says of it, as far as operator and config are valid."""
    operator = catalog.operators.get(job.spec.operator) if job.has("operator") else None
    if operator is None or not job.has("config"):
        return replace(job, operator=operator)
    config = _validate(operator.config_model, dict(job.spec.config), (*job.path, "config"), findings, catalog)
    outputs = None if config is None else operator.outputs(config)
    return replace(job, operator=operator, config=config, outputs=outputs)


def _salvage_dag(findings: Findings, data: Mapping[str, Any]) -> DagDraft:
    salvaged, wrong = _salvage(DagSpec, {**data, "jobs": [{**_STAND_INS}], "publish": {}})
    name = salvaged.name if salvaged is not None and "name" not in wrong else None
    defaults = salvaged.defaults if salvaged is not None else Defaults()
    return DagDraft(findings, name, None, defaults, _salvage_jobs(data), _salvage_publish(data))


def _salvage_jobs(data: Mapping[str, Any]) -> tuple[JobDraft, ...]:
    raw = data.get("jobs")
    jobs = []
    for index, item in enumerate(raw if isinstance(raw, list) else ()):
        spec, wrong = _salvage(JobSpec, item if isinstance(item, dict) else {})
        if spec is not None:
            jobs.append(JobDraft(index, spec, wrong))
    return tuple(jobs)


def _salvage_publish(data: Mapping[str, Any]) -> Mapping[str, PublishSpec]:
    raw = data.get("publish")
    found = {}
    for name, item in raw.items() if isinstance(raw, dict) else ():
        spec, wrong = _salvage(PublishSpec, item if isinstance(item, dict) else {})
        if spec is not None and not wrong:
            found[name] = spec
    return found


def _salvage(model: type[Model], data: Mapping[str, Any]) -> tuple[Model | None, frozenset[str]]:
    """Return the model with stand-ins for what is missing or not valid, and the names of those fields."""
    try:
        return _parse(model, data), frozenset()
    except ValidationError as error:
        wrong = frozenset(str(detail["loc"][0]) for detail in error.errors() if detail["loc"])
    kept = {key: value for key, value in data.items() if key not in wrong}
    try:
        return _parse(model, {**{key: _STAND_INS[key] for key in wrong & _STAND_INS.keys()}, **kept}), wrong
    except ValidationError:
        return None, wrong


def _parse(model: type[Model], data: Any) -> Model:
    """Validate as JSON, where a list may become a tuple although nothing else is converted."""
    return model.model_validate_json(json.dumps(data))


def _validate(model: type[Model], data: Any, at: Path, findings: Findings, catalog: Catalog) -> Model | None:
    """Return the model, or None with its problems added to ``findings``."""
    try:
        return _parse(model, data)
    except ValidationError as error:
        for item in explain(model, data, error):
            mend = item.mend
            if item.unknown:
                mend = _where_it_belongs(item, at, findings.document, catalog) or mend
            findings.add((*at, *item.path), item.problem, mend, at_key=item.at_key)
        return None


def _where_it_belongs(item: Explained, at: Path, document: Document, catalog: Catalog) -> str | None:
    """Return where a key belongs that is unknown here but known elsewhere, None for a mere slip."""
    key, parent = str(item.path[-1]), (*at, *item.path[:-1])
    operator = catalog.operators.get(str(document.get((*parent[:2], "operator"))))
    is_job_field = key in JobSpec.model_fields
    match parent:
        case ("defaults",) if is_job_field:
            return "set it in each job"
        case ("jobs", int()) if key in Scaling.model_fields:
            return "move it under scaling"
        case ("jobs", int()) if operator is not None and key in operator.config_model.model_fields:
            return "move it under config"
        case ("jobs", int(), "config") if is_job_field:
            return "move it out of config, to the job itself"
        case ("jobs", int(), "config") if not item.mend.startswith("did you mean"):
            takers = [
                name for name, taker in catalog.operators.items() if key in taker.config_model.model_fields
            ]
            return f"move it to the {' or '.join(takers)} job" if takers else None
        case _:
            return None
