"""Names and places that only one DAG, or one job, may have."""

import re
from collections.abc import Iterator, Sequence

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.spec.catalog import RangePlan
from trace_dagster.spec.draft import DagDraft, JobDraft
from trace_dagster.spec.links import JobId
from trace_dagster.spec.naming import request_job_name, table_name
from trace_dagster.spec.planning import Plans

__all__ = ["check_dag_names", "check_job_names", "check_places"]

# The DAG's name is its Postgres schema: these are Postgres's own, or the ledger's.
_TAKEN_SCHEMA = re.compile(r"pg_.*|information_schema|public|trace")


def check_dag_names(dags: Sequence[DagDraft]) -> frozenset[int]:
    """Report names that are taken; return the indexes of DAGs whose name an earlier file has."""
    first: dict[str, str] = {}
    repeated = set()
    for index, dag in enumerate(dags):
        if dag.name is None:
            continue
        if _TAKEN_SCHEMA.fullmatch(dag.name):
            problem = f"{dag.name} cannot be the name of a DAG: it is a Postgres schema of another use"
            dag.findings.add(("name",), problem, "choose another name")
        if first.setdefault(dag.name, dag.file) != dag.file:
            repeated.add(index)
            problem = f"a DAG named {dag.name} exists already, in {first[dag.name]}"
            dag.findings.add(("name",), problem, "give it another name, or remove one of the files")
    return frozenset(repeated)


def check_job_names(dags: Sequence[DagDraft]) -> None:
    """Report jobs of different DAGs that would have one name in Dagster, as a__b and a, b__c can."""
    first: dict[str, DagDraft] = {}
    for dag in dags:
        for job in dag.jobs if dag.name is not None else ():
            name = request_job_name(dag.name or "", job.spec.name)
            other = first.setdefault(name, dag)
            if job.has("name") and other is not dag:
                problem = f"job {name} of Dagster would stand for a job of {other.file} too"
                dag.findings.add((*job.path, "name"), problem, "give it another name")


def check_places(dags: Sequence[DagDraft], plans: Plans) -> None:
    """Report jobs that write where another job writes, unless their block ranges are known and apart."""
    writers: dict[str, list[JobId]] = {}
    for dag_index, dag in enumerate(dags):
        for job_index, job in enumerate(dag.jobs):
            at = JobId(dag_index, job_index)
            clashes = [
                (place, other)
                for place in _places(dag, job)
                for other in writers.get(place, ())
                if not _are_apart(plans.get(at), plans.get(other))
            ]
            if clashes:
                _report_clash(dags, at, clashes)
            for place in _places(dag, job):
                writers.setdefault(place, []).append(at)


def _places(dag: DagDraft, job: JobDraft) -> Iterator[str]:
    for output in job.outputs or ():
        if output.place is not None:
            yield output.place
        is_hot = job.spec.update_strategy == "append" or job.spec.execution_strategy == "PerUpdate"
        if is_hot and job.has("name", "update_strategy", "execution_strategy"):
            yield f"table {dag.name}.{table_name(job.spec.name, output.name)}"


def _are_apart(one: RangePlan | None, other: RangePlan | None) -> bool:
    mine, theirs = _extent(one), _extent(other)
    return mine is not None and theirs is not None and not mine.overlaps(theirs)


def _extent(plan: RangePlan | None) -> BlockRange | None:
    """Return the blocks of a plan, which has no gaps; None where they are not known."""
    return BlockRange(plan.ranges[0].start_block, plan.ranges[-1].end_block) if plan and plan.ranges else None


def _report_clash(dags: Sequence[DagDraft], at: JobId, clashes: Sequence[tuple[str, JobId]]) -> None:
    dag, job = dags[at.dag], dags[at.dag].jobs[at.job]
    first = clashes[0][1]
    places = ", ".join(dict.fromkeys(place for place, other in clashes if other == first))
    name = dags[first.dag].jobs[first.job].spec.name
    writer = name if first.dag == at.dag else f"{dags[first.dag].name}/{name} in {dags[first.dag].file}"
    dag.findings.add(
        job.path,
        f"writes {places}, which {writer} writes too",
        "remove one of them, or give both block ranges that do not overlap",
    )
