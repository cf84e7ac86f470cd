"""Block ranges of every job, from the entry points down."""

from collections.abc import Mapping, Sequence
from itertools import pairwise, zip_longest

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.spec.catalog import MAX_PARTITIONS, OperatorType, RangePlan, RangeProblem
from trace_dagster.spec.draft import DagDraft, JobDraft
from trace_dagster.spec.links import JobId, Link, Links
from trace_dagster.spec.models import CronSource

__all__ = ["Plans", "plan_dags"]

Plans = Mapping[JobId, RangePlan | None]
"""The ranges of each job, None where it has none; a job whose ranges cannot be known is left out."""


def plan_dags(dags: Sequence[DagDraft], links: Links) -> Plans:
    """Return the plan of every job, adding to the files' findings what does not fit."""
    plans: dict[JobId, RangePlan | None] = {}
    for at in links.order:
        job, inputs = dags[at.dag].jobs[at.job], links.inputs[at]
        if (
            not _can_be_planned(job)
            or at in links.unresolved
            or any(link.source not in plans for link in inputs)
        ):
            continue
        try:
            plan = _plan_job(dags, at, inputs, plans)
            _check_cron(job, plan)
            _check_plan(plan, [plans[link.source] for link in inputs])
        except RangeProblem as error:
            dags[at.dag].findings.add((*job.path, *error.at), error.problem, error.mend)
        else:
            plans[at] = plan
    _check_lanes(dags, links, plans)
    return plans


def _can_be_planned(job: JobDraft) -> bool:
    if job.config is None or job.operator is None or not job.has("name", "activation", "execution_strategy"):
        return False
    if job.spec.activation not in job.operator.activations:
        return False
    is_complete = bool(job.spec.inputs) and job.spec.execution_strategy is not None
    return job.spec.activation == "source" or is_complete


def _plan_job(dags: Sequence[DagDraft], at: JobId, inputs: Sequence[Link], plans: Plans) -> RangePlan | None:
    job = dags[at.dag].jobs[at.job]
    if job.operator is None:
        return None
    _check_reads(dags, job.operator, inputs)
    if job.spec.execution_strategy == "PerUpdate":
        plan = _plan_per_update(job, job.operator, [plans[link.source] for link in inputs])
        if plan is None and job.operator.runnable:
            _check_rows_in_tables(dags, inputs, plans)
        return plan
    upstream = _common_plan(dags, at, inputs, plans) if inputs else None
    plan = job.operator.plan_ranges(job.spec.name, job.config, upstream)
    if plan is None and job.spec.execution_strategy == "PerPartition":
        raise RangeProblem(
            ("execution_strategy",),
            f"operator {job.operator.name} has no block ranges to run by",
            "write execution_strategy: PerUpdate",
        )
    return plan


def _check_reads(dags: Sequence[DagDraft], operator: OperatorType, inputs: Sequence[Link]) -> None:
    """Raise where an operator that reads only certain others has an input of another one."""
    wanted: frozenset[str] = getattr(operator, "reads", frozenset())
    for link in inputs:
        source = dags[link.source.dag].jobs[link.source.job]
        if wanted and source.operator is not None and source.operator.name not in wanted:
            raise RangeProblem(
                ("inputs", link.path[-1]),
                f"operator {operator.name} cannot read {source.spec.name}, a {source.operator.name}",
                f"read from a {' or '.join(sorted(wanted))}",
            )


def _check_rows_in_tables(dags: Sequence[DagDraft], inputs: Sequence[Link], plans: Plans) -> None:
    """Raise where a job that runs on new rows reads what has no table with a cursor."""
    for link in inputs:
        source = dags[link.source.dag].jobs[link.source.job]
        follows = source.operator is not None and source.operator.name == "block_follower"
        if not follows and (source.spec.execution_strategy != "PerUpdate" or plans[link.source] is not None):
            raise RangeProblem(
                ("inputs", link.path[-1]),
                f"is read by its new rows, but {source.spec.name} writes block ranges",
                "read from a block_follower or a PerUpdate job, or write execution_strategy: PerPartition",
            )


def _plan_per_update(
    job: JobDraft, operator: OperatorType, above: Sequence[RangePlan | None]
) -> RangePlan | None:
    """Return the plan of a job that runs on new rows, whatever ranges they came from."""
    try:
        return operator.plan_ranges(job.spec.name, job.config, None)
    except RangeProblem:
        if not any(above):
            raise
        raise RangeProblem(
            ("execution_strategy",),
            f"is PerUpdate, but operator {operator.name} runs once for each block range",
            "write execution_strategy: PerPartition",
        ) from None


def _common_plan(dags: Sequence[DagDraft], at: JobId, inputs: Sequence[Link], plans: Plans) -> RangePlan:
    ranged = [(link, plan) for link in inputs if (plan := plans[link.source]) is not None]
    if not ranged:
        names = ", ".join(dags[link.source.dag].jobs[link.source.job].spec.name for link in inputs)
        raise RangeProblem(
            ("inputs",),
            f"PerPartition runs once for each block range, but {names} has none",
            "read from a range_request or a range_splitter, or write execution_strategy: PerUpdate",
        )
    for link, plan in ranged:
        if plan.ranges is None and link.source.dag != at.dag:
            raise RangeProblem(
                ("inputs", link.path[-1]),
                f"the ranges of {dags[link.source.dag].name}/{plan.lane} are asked for at run time, "
                "and stay within their DAG",
                "give this DAG a range_request of its own",
            )
    first_link, first = ranged[0]
    for link, plan in ranged[1:]:
        _check_alike(first_link, first, link, plan)
    return first


def _check_alike(first_link: Link, first: RangePlan, link: Link, plan: RangePlan) -> None:
    """Raise where two inputs of a job do not have the same ranges."""
    if plan.ranges is first.ranges and plan == first:
        return
    at = ("inputs", link.path[-1])
    here, there = f"input {link.path[-1]}", f"input {first_link.path[-1]}"
    mend = "let both inputs come from the same range_splitter"
    if plan.ranges is None or first.ranges is None:
        if plan != first:
            raise RangeProblem(at, f"{here} and {there} have ranges of different kinds or entry points", mend)
        return
    for mine, other in zip_longest(plan.ranges, first.ranges):
        if mine != other:
            kind = "an overlap" if mine and other and mine.overlaps(other) else "a gap"
            raise RangeProblem(at, f"{here} has {_key(mine)} where {there} has {_key(other)}: {kind}", mend)


def _key(block_range: BlockRange | None) -> str:
    return "no range" if block_range is None else block_range.key


def _check_cron(job: JobDraft, plan: RangePlan | None) -> None:
    """Raise where a schedule fires a job that must be told its range."""
    if isinstance(job.spec.source, CronSource) and plan is not None and plan.ranges is None:
        raise RangeProblem(
            ("source",),
            "is a cron, which cannot say the block range, and config has none",
            "write start_block and end_block into config, or source: {kind: manual}",
        )


def _check_plan(plan: RangePlan | None, upstream: Sequence[RangePlan | None]) -> None:
    if plan is None or plan.ranges is None:
        return
    if any(above is not None and above.ranges is plan.ranges for above in upstream):
        return
    if len(plan.ranges) > MAX_PARTITIONS:
        raise RangeProblem(
            ("config",),
            f"makes {len(plan.ranges)} partitions, more than the {MAX_PARTITIONS} that one asset can have",
            "make the ranges larger",
        )
    for before, after in pairwise(plan.ranges):
        if after.start_block != before.end_block + 1:
            kind = "a gap" if after.start_block > before.end_block else "an overlap"
            raise RangeProblem(
                ("config",),
                f"range {after.key} follows {before.key}: {kind}",
                f"start it at block {before.end_block + 1}",
            )


def _check_lanes(dags: Sequence[DagDraft], links: Links, plans: Plans) -> None:
    """Report run-time ranges that are cut in more than one way."""
    cut_by: dict[tuple[int, str], tuple[int | None, str]] = {}
    for at, plan in plans.items():
        job = dags[at.dag].jobs[at.job]
        if plan is None or plan.ranges is not None or plan.lane is None or plan.lane == job.spec.name:
            continue
        first = cut_by.setdefault((at.dag, plan.lane), (plan.chunk_size, job.spec.name))
        if first[0] != plan.chunk_size and _is_cut_here(dags, links.inputs[at], plans, plan):
            _report_lane(dags[at.dag], job, plan, first)


def _is_cut_here(dags: Sequence[DagDraft], inputs: Sequence[Link], plans: Plans, plan: RangePlan) -> bool:
    """Whether the job chose its chunk size, or reads the entry point itself."""
    return any(
        (above := plans[link.source]) is not None
        and (above != plan or dags[link.source.dag].jobs[link.source.job].spec.name == plan.lane)
        for link in inputs
    )


def _report_lane(dag: DagDraft, job: JobDraft, plan: RangePlan, first: tuple[int | None, str]) -> None:
    at = (*job.path, "config", "chunk_size")
    path = at if dag.findings.document.get(at) is not None else (*job.path, "inputs")
    dag.findings.add(
        path,
        f"the run-time ranges of {plan.lane} are {_cut(plan.chunk_size)} here, and {_cut(first[0])} "
        f"in {first[1]}; they can be cut in one way only",
        "give each its own range_request",
    )


def _cut(chunk_size: int | None) -> str:
    return "not cut" if chunk_size is None else f"cut into {chunk_size} blocks"
