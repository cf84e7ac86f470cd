"""References between jobs and between files: who reads what, and in which order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trace_dagster.spec.catalog import OutputDeclaration
from trace_dagster.spec.draft import DagDraft, JobDraft
from trace_dagster.spec.models import FromDataset, FromJob, InputSpec, ThresholdSource
from trace_dagster.spec.problems import Path, shown
from trace_dagster.suggest import closest, nearest

__all__ = ["JobId", "Link", "Links", "Published", "link_dags", "tell_broken"]


class JobId(NamedTuple):
    """A job: indexes of its DAG among the files, and of the job in its file."""

    dag: int
    job: int


class Published(NamedTuple):
    """What a published name stands for."""

    job: JobId
    output: int


Names = Mapping[str, tuple[int, Published | None]]
"""Published name: index of the publishing DAG, and the output; None where that is not valid."""


@dataclass(frozen=True)
class Link:
    """One resolved input.

    Attributes:
        source: the job that is read.
        output: index of its output.
        path: where the input stands.
    """

    source: JobId
    output: int
    path: Path


@dataclass(frozen=True)
class Links:
    """What every job reads.

    Attributes:
        inputs: resolved inputs of each job, in their order.
        unresolved: jobs with an input that could not be resolved.
        order: every job once, after what it reads; jobs on or behind a cycle are left out.
    """

    inputs: Mapping[JobId, tuple[Link, ...]]
    unresolved: frozenset[JobId]
    order: tuple[JobId, ...]


def link_dags(dags: Sequence[DagDraft]) -> Links:
    """Resolve every reference, adding to the files' findings those that cannot be."""
    published = _publish(dags)
    inputs: dict[JobId, tuple[Link, ...]] = {}
    unresolved = set()
    for at, job in _jobs(dags):
        is_source = job.has("activation") and job.spec.activation == "source"
        indexes = () if is_source else range(len(job.spec.inputs))
        found = [_resolve_input(dags, published, at, job, index) for index in indexes]
        inputs[at] = tuple(link for link in found if link is not None)
        if None in found or not job.has("inputs"):
            unresolved.add(at)
        _check_threshold(dags, published, at, job)
    return Links(inputs, frozenset(unresolved), _order(dags, inputs))


def _jobs(dags: Sequence[DagDraft]) -> Iterator[tuple[JobId, JobDraft]]:
    for dag_index, dag in enumerate(dags):
        for job_index, job in enumerate(dag.jobs):
            yield JobId(dag_index, job_index), job


def _publish(dags: Sequence[DagDraft]) -> Names:
    names: dict[str, tuple[int, Published | None]] = {}
    for index, dag in enumerate(dags):
        for name, entry in dag.publish.items():
            path = ("publish", name)
            if name in names:
                problem = f"the name {name} is published already, in {dags[names[name][0]].file}"
                dag.findings.add(path, problem, "choose another name", at_key=True)
                continue
            target = _resolve_job(dags, index, entry.from_, (*path, "from"))
            names[name] = (index, target)
            if target is not None:
                _check_storage(dags, dag, target, name)
    return names


def _check_storage(dags: Sequence[DagDraft], dag: DagDraft, target: Published, name: str) -> None:
    storage = dag.publish[name].storage
    declared = _declaration(dags, target)
    kinds = {"parquet": "s3", "postgres": "postgres"}
    found = [kinds[kind] for kind in (declared.kinds if declared else ()) if kind in kinds]
    if storage is not None and declared is not None and found and storage not in found:
        problem = f"output {declared.name} is written to {found[0]}, not to {storage}"
        dag.findings.add(("publish", name, "storage"), problem, f"write storage: {found[0]}")


def _declaration(dags: Sequence[DagDraft], target: Published) -> OutputDeclaration | None:
    outputs = dags[target.job.dag].jobs[target.job.job].outputs
    return outputs[target.output] if outputs is not None and target.output < len(outputs) else None


def _resolve_input(
    dags: Sequence[DagDraft], published: Names, at: JobId, job: JobDraft, index: int
) -> Link | None:
    entry: InputSpec = job.spec.inputs[index]
    path = (*job.path, "inputs", index)
    target = _resolve(dags, published, at.dag, entry.from_, (*path, "from"))
    if target is None:
        return None
    declared = _declaration(dags, target)
    columns = None if declared is None else declared.columns
    for column in entry.where:
        if columns is not None and column not in columns:
            problem = f"the output that is read has no column {column}"
            mend = nearest(column, columns)
            dags[at.dag].findings.add((*path, "where", column), problem, mend, at_key=True)
    return Link(target.job, target.output, path)


def _check_threshold(dags: Sequence[DagDraft], published: Names, at: JobId, job: JobDraft) -> None:
    if isinstance(job.spec.source, ThresholdSource):
        _resolve(dags, published, at.dag, job.spec.source.of, (*job.path, "source", "of"))


def _resolve(
    dags: Sequence[DagDraft],
    published: Names,
    dag_index: int,
    reference: FromJob | FromDataset,
    path: Path,
) -> Published | None:
    if isinstance(reference, FromJob):
        return _resolve_job(dags, dag_index, reference, path)
    if reference.dataset not in published:
        problem = f"no DAG publishes {shown(reference.dataset)}"
        mend = nearest(reference.dataset, sorted(published)) if published else "publish it where it is made"
        dags[dag_index].findings.add((*path, "dataset"), problem, mend)
        return None
    publisher, target = published[reference.dataset]
    if target is None and publisher != dag_index:
        tell_broken(dags, dag_index, publisher, path)
    return target


def tell_broken(dags: Sequence[DagDraft], reader: int, publisher: int, path: Path) -> None:
    """Say at ``path`` of one DAG that what it reads is in a file with problems of its own."""
    problem = f"reads from {dags[publisher].file}, which has problems of its own"
    dags[reader].findings.add(path, problem, "mend that file first")


def _resolve_job(
    dags: Sequence[DagDraft], dag_index: int, reference: FromJob, path: Path
) -> Published | None:
    dag = dags[dag_index]
    job = dag.job(reference.job)
    if job is None:
        names = [other.spec.name for other in dag.jobs if other.has("name")]
        if len(names) == len(dag.jobs) or closest(reference.job, names) is not None:
            problem = f"no job is named {shown(reference.job)}"
            dag.findings.add((*path, "job"), problem, nearest(reference.job, names))
        return None
    if job.outputs is None and not job.has("outputs"):
        return None
    count = job.spec.outputs if job.outputs is None else len(job.outputs)
    if reference.output >= count:
        known = ", ".join(f"{index} ({output.name})" for index, output in enumerate(job.outputs or ()))
        outputs = f"{count} output{'s' if count > 1 else ''}"
        problem = f"job {reference.job} has {outputs}, so none has index {reference.output}"
        dag.findings.add((*path, "output"), problem, f"write {known or f'0 to {count - 1}'}")
        return None
    return Published(JobId(dag_index, dag.jobs.index(job)), reference.output)


def _order(dags: Sequence[DagDraft], inputs: Mapping[JobId, tuple[Link, ...]]) -> tuple[JobId, ...]:
    """Return every job after those that it reads, in the files' order where that leaves a choice."""
    done: dict[JobId, None] = {}
    waiting = list(inputs)
    while waiting:
        for at in waiting:
            if all(link.source in done for link in inputs[at]):
                done[at] = None
        left = [at for at in waiting if at not in done]
        if len(left) == len(waiting):
            _report_cycles(dags, inputs, left)
            break
        waiting = left
    return tuple(done)


def _report_cycles(
    dags: Sequence[DagDraft], inputs: Mapping[JobId, tuple[Link, ...]], waiting: Sequence[JobId]
) -> None:
    """Report each cycle once, at the input that closes it in the first of its jobs."""
    told: set[JobId] = set()
    for start in waiting:
        cycle = _cycle_from(inputs, start, set(waiting))
        if start in cycle and told.isdisjoint(cycle):
            told |= set(cycle)
            names = " reads ".join(_name(dags, at, start.dag) for at in (*cycle, start))
            link = next(link for link in inputs[start] if link.source == cycle[1 % len(cycle)])
            dags[start.dag].findings.add(link.path, f"a cycle: {names}", "remove one of these inputs")


def _cycle_from(
    inputs: Mapping[JobId, tuple[Link, ...]], start: JobId, among: set[JobId]
) -> tuple[JobId, ...]:
    """Return a shortest way from ``start`` over what it reads back to itself; empty if there is none."""
    ways: list[tuple[JobId, ...]] = [(start,)]
    seen: set[JobId] = set()
    for way in ways:
        for link in inputs[way[-1]]:
            if link.source == start:
                return way
            if link.source in among and link.source not in seen:
                seen.add(link.source)
                ways.append((*way, link.source))
    return ()


def _name(dags: Sequence[DagDraft], at: JobId, home: int) -> str:
    dag = dags[at.dag]
    name = dag.jobs[at.job].spec.name
    return name if at.dag == home else f"{dag.name}/{name}"
