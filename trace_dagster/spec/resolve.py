"""DAG YAML files -> everything the translator needs, with every reference resolved."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trace_dagster.spec.catalog import Catalog, OperatorConfig, OperatorType, OutputDeclaration, RangePlan
from trace_dagster.spec.document import read_document
from trace_dagster.spec.draft import DagDraft, JobDraft, draft_dag
from trace_dagster.spec.files import find_files, read_file, show_path
from trace_dagster.spec.job_rules import check_jobs
from trace_dagster.spec.links import Link, Links, link_dags, tell_broken
from trace_dagster.spec.models import DagSpec, JobSpec
from trace_dagster.spec.places import check_dag_names, check_job_names, check_places
from trace_dagster.spec.planning import Plans, plan_dags
from trace_dagster.spec.problems import Problem

__all__ = ["BrokenFile", "LoadResult", "ResolvedDag", "ResolvedInput", "ResolvedJob", "load_dags"]


@dataclass(frozen=True)
class ResolvedInput:
    """One input of a job.

    Attributes:
        dag: name of the DAG that makes it.
        job: name of the job that makes it.
        output: name of the output.
        where: column: value; only rows where all are equal.
    """

    dag: str
    job: str
    output: str
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ResolvedJob:
    """One job, valid, with defaults applied.

    Attributes:
        spec: as it was written.
        operator: the operator's declaration.
        config: the operator's validated config.
        outputs: what it yields, in order.
        inputs: what it reads, in order.
        plan: its block ranges; None where it has none.
        timeout_seconds: limit of one attempt; None for none.
        heartbeat_timeout_seconds: an attempt without a heartbeat for so long may be taken over.
        max_attempts: tries of a partition, the first included.
        max_concurrency: partitions in flight; None for no limit.
    """

    spec: JobSpec
    operator: OperatorType
    config: OperatorConfig
    outputs: tuple[OutputDeclaration, ...]
    inputs: tuple[ResolvedInput, ...]
    plan: RangePlan | None
    timeout_seconds: int | None
    heartbeat_timeout_seconds: int
    max_attempts: int
    max_concurrency: int | None

    @property
    def name(self) -> str:
        """The job's name."""
        return self.spec.name

    @property
    def is_per_update(self) -> bool:
        """Whether it runs on new rows, behind a cursor."""
        return self.spec.execution_strategy == "PerUpdate" and self.plan is None and self.operator.runnable


@dataclass(frozen=True)
class ResolvedDag:
    """One DAG, valid.

    Attributes:
        name: its name.
        path: its file, as it was asked for.
        spec: as it was written.
        jobs: every job, after those that it reads.
        publish: published name: the job and the output behind it.
    """

    name: str
    path: Path
    spec: DagSpec
    jobs: tuple[ResolvedJob, ...]
    publish: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class BrokenFile:
    """A file that holds no valid DAG.

    Attributes:
        path: the file, as it was asked for.
        name: the DAG's name, where that much is valid.
        problems: everything that is wrong with it, by line.
    """

    path: Path
    name: str | None
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class LoadResult:
    """Every DAG of the files asked for.

    Attributes:
        dags: the valid ones, in the files' order.
        broken: the other files.
        warnings: what an author should know, of all files.
    """

    dags: tuple[ResolvedDag, ...]
    broken: tuple[BrokenFile, ...]
    warnings: tuple[Problem, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every problem of every broken file."""
        return tuple(problem for broken in self.broken for problem in broken.problems)


def load_dags(specs: str | Path | Iterable[str | Path], catalog: Catalog) -> LoadResult:
    """Load DAG files; one that is broken takes no other down, except those that read from it.

    Args:
        specs: a folder, a file, a glob, or several of them.
        catalog: the operators.
    """
    paths, missing = find_files(specs)
    contents = [(path, read_file(path)) for path in paths]
    read = [(path, content) for path, content in contents if isinstance(content, bytes)]
    unreadable = [(path, content) for path, content in contents if isinstance(content, Problem)]
    drafts = [draft_dag(read_document(show_path(path), content), catalog) for path, content in read]
    resolved = _resolve(drafts, [path for path, _ in read], catalog)
    return LoadResult(
        dags=resolved,
        broken=(
            *(BrokenFile(Path(problem.file), None, (problem,)) for problem in missing),
            *(BrokenFile(path, None, (problem,)) for path, problem in unreadable),
            *(
                BrokenFile(path, draft.name, draft.findings.problems())
                for draft, (path, _) in zip(drafts, read, strict=True)
                if not draft.findings.clean
            ),
        ),
        warnings=tuple(warning for draft in drafts for warning in draft.findings.warnings()),
    )


def _resolve(drafts: Sequence[DagDraft], paths: Sequence[Path], catalog: Catalog) -> tuple[ResolvedDag, ...]:
    for draft in drafts:
        check_jobs(draft, catalog)
    # A name or place that two files claim goes to one without problems of its own, else to the first.
    claims = sorted(range(len(drafts)), key=lambda index: (not drafts[index].findings.clean, index))
    repeated = check_dag_names([drafts[index] for index in claims])
    kept = [claim for place, claim in enumerate(claims) if place not in repeated]
    dags = [drafts[index] for index in kept]
    links = link_dags(dags)
    plans = plan_dags(dags, links)
    check_job_names(dags)
    check_places(dags, plans)
    _spread_breakage(dags, links)
    resolved = {
        kept[index]: _resolve_dag(dags, index, paths[kept[index]], links, plans)
        for index, dag in enumerate(dags)
        if dag.findings.clean
    }
    return tuple(resolved[index] for index in sorted(resolved))


def _spread_breakage(dags: Sequence[DagDraft], links: Links) -> None:
    """Break DAGs that read from broken ones."""
    spreading = True
    while spreading:
        spreading = False
        for at, inputs in links.inputs.items():
            for link in inputs:
                if dags[at.dag].findings.clean and not dags[link.source.dag].findings.clean:
                    tell_broken(dags, at.dag, link.source.dag, (*link.path, "from"))
                    spreading = True


def _resolve_dag(dags: Sequence[DagDraft], index: int, path: Path, links: Links, plans: Plans) -> ResolvedDag:
    draft = dags[index]
    if draft.spec is None:
        raise ValueError(f"{draft.file} has neither a model nor a problem")
    jobs = [
        _resolve_job(dags, draft.jobs[at.job], draft, links.inputs[at], plans[at])
        for at in links.order
        if at.dag == index
    ]
    outputs = {job.name: [output.name for output in job.outputs] for job in jobs}
    publish = {
        name: (entry.from_.job, outputs[entry.from_.job][entry.from_.output])
        for name, entry in draft.spec.publish.items()
    }
    return ResolvedDag(draft.spec.name, path, draft.spec, tuple(jobs), publish)


def _resolve_job(
    dags: Sequence[DagDraft], job: JobDraft, dag: DagDraft, inputs: Sequence[Link], plan: RangePlan | None
) -> ResolvedJob:
    if job.operator is None or job.config is None or job.outputs is None:
        raise ValueError(f"{dag.file}: job {job.spec.name} has neither an operator nor a problem")
    spec = job.spec
    return ResolvedJob(
        spec=spec,
        operator=job.operator,
        config=job.config,
        outputs=job.outputs,
        inputs=tuple(
            _resolve_input(dags, link, entry.where) for link, entry in zip(inputs, spec.inputs, strict=True)
        ),
        plan=plan,
        timeout_seconds=spec.timeout_seconds,
        heartbeat_timeout_seconds=spec.heartbeat_timeout_seconds or dag.defaults.heartbeat_timeout_seconds,
        max_attempts=spec.max_attempts or dag.defaults.max_attempts,
        max_concurrency=spec.scaling.max_concurrency,
    )


def _resolve_input(dags: Sequence[DagDraft], link: Link, where: Mapping[str, Any]) -> ResolvedInput:
    dag = dags[link.source.dag]
    job = dag.jobs[link.source.job]
    if dag.name is None or job.outputs is None:
        raise ValueError(f"{dag.file}: job {job.spec.name} is read although it is not valid")
    return ResolvedInput(dag.name, job.spec.name, job.outputs[link.output].name, where)
