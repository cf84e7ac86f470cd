"""Rules within one job, across its fields."""

from collections.abc import Callable, Mapping
from typing import Final

from trace_dagster.spec.catalog import Catalog, OperatorType, OutputDeclaration
from trace_dagster.spec.draft import DagDraft, JobDraft
from trace_dagster.spec.findings import Findings
from trace_dagster.spec.naming import table_name
from trace_dagster.spec.problems import shown
from trace_dagster.suggest import nearest

__all__ = ["UNTRUSTED_RUNTIMES", "check_jobs"]

# Runtimes that run code which the platform does not vouch for; secrets never reach them.
UNTRUSTED_RUNTIMES: Final = frozenset({"lambda"})
_LONGEST_IDENTIFIER: Final = 63


def check_jobs(dag: DagDraft, catalog: Catalog) -> None:
    """Add everything that is wrong within the jobs of ``dag``."""
    _check_names(dag)
    for job in dag.jobs:
        _check_operator_name(job, dag.findings, catalog)
        for rule in _RULES:
            rule(job, dag.findings)
        if job.operator is not None:
            for operator_rule in _OPERATOR_RULES:
                operator_rule(job, job.operator, dag.findings)


def _check_names(dag: DagDraft) -> None:
    first: dict[str, int] = {}
    for job in dag.jobs:
        if job.has("name") and first.setdefault(job.spec.name, job.index) != job.index:
            line = dag.findings.document.mark(("jobs", first[job.spec.name], "name")).line
            problem = f"a job named {job.spec.name} exists already, on line {line}"
            dag.findings.add((*job.path, "name"), problem, "give it another name")


def _check_operator_name(job: JobDraft, findings: Findings, catalog: Catalog) -> None:
    name, at = job.spec.operator, (*job.path, "operator")
    if not job.has("operator"):
        return
    if name in catalog.operators:
        if not catalog.operators[name].runnable:
            findings.warn(at, f"{name} is declared, not run by this version", "its assets show without runs")
    elif name in catalog.reserved:
        findings.add(
            at,
            f"operator {name} is part of the format but not of this version",
            "remove the job, or install a package that offers this operator",
        )
    else:
        findings.add(at, f"unknown operator {shown(name)}", nearest(name, sorted(catalog.operators)))


def _check_source(job: JobDraft, findings: Findings) -> None:
    if not job.has("activation", "source") or job.spec.activation != "source":
        return
    if job.spec.source is None:
        findings.add(
            (*job.path, "source"),
            "is missing in a job with activation: source",
            "write source: {kind: manual}, or cron, always_on or threshold",
        )
    if job.spec.inputs:
        findings.add(
            (*job.path, "inputs"),
            "a source job has no inputs",
            "remove them, or write activation: reactive",
            at_key=True,
        )
    if job.spec.execution_strategy is not None:
        findings.add(
            (*job.path, "execution_strategy"),
            "is for reactive jobs; a source job fires by its source",
            "remove it",
            at_key=True,
        )


def _check_reactive(job: JobDraft, findings: Findings) -> None:
    if not job.has("activation") or job.spec.activation != "reactive":
        return
    if job.has("inputs") and not job.spec.inputs:
        findings.add(
            (*job.path, "inputs"),
            "is missing in a job with activation: reactive",
            "write inputs: [{from: {job: <name>, output: 0}}]",
        )
    if job.has("execution_strategy") and job.spec.execution_strategy is None:
        findings.add(
            (*job.path, "execution_strategy"),
            "is missing in a job with activation: reactive",
            "write execution_strategy: PerPartition, or PerUpdate",
        )
    if job.spec.source is not None:
        findings.add(
            (*job.path, "source"),
            "is for source jobs; a reactive job runs on its inputs",
            "remove it, or write activation: source",
            at_key=True,
        )


def _check_secrets(job: JobDraft, findings: Findings) -> None:
    if job.has("runtime", "secrets") and job.spec.secrets and job.spec.runtime in UNTRUSTED_RUNTIMES:
        findings.add(
            (*job.path, "secrets"),
            f"runtime {job.spec.runtime} is not trusted with secrets",
            "remove them, or write runtime: ecs_platform",
            at_key=True,
        )


def _check_effect(job: JobDraft, findings: Findings) -> None:
    """Warn of fields of the format that nothing in this version acts on."""
    for index, entry in enumerate(job.spec.inputs if job.has("inputs") else ()):
        if entry.where and job.spec.execution_strategy != "PerUpdate":
            at = (*job.path, "inputs", index, "where")
            findings.warn(at, "leaves no rows out: no operator that reads block ranges heeds it", "remove it")
    is_limited = job.has("scaling") and job.spec.scaling.max_concurrency is not None
    if is_limited and job.spec.execution_strategy == "PerUpdate" and job.spec.operator != "range_aggregator":
        at = (*job.path, "scaling", "max_concurrency")
        findings.warn(at, "changes nothing: a PerUpdate job has one run at a time", "remove it")
    asks_to_reset = job.has("bootstrap") and job.spec.bootstrap and job.spec.bootstrap.reset_outputs
    if asks_to_reset and not getattr(job.operator, "resets_outputs", False):
        at = (*job.path, "bootstrap", "reset_outputs")
        findings.warn(at, "wipes nothing of this operator", "remove it; config.revision ingests anew")
    if job.has("idle_timeout") and job.spec.idle_timeout:
        at = (*job.path, "idle_timeout")
        findings.warn(at, "is not waited for: a worker of this version ends with its run", "write 0")
    if job.has("secrets") and job.spec.secrets:
        findings.warn((*job.path, "secrets"), "no operator of this version takes secrets", "remove them")


def _check_unique_key(job: JobDraft, findings: Findings) -> None:
    if not job.has("update_strategy", "unique_key"):
        return
    can_append = job.operator is None or "append" in job.operator.update_strategies
    if job.spec.update_strategy == "append" and job.spec.unique_key is None and can_append:
        default = job.operator.default_unique_key if job.operator is not None else ()
        example = ", ".join(default) or "<column>, ..."
        findings.add(
            (*job.path, "unique_key"),
            "is missing; update_strategy append drops repeated rows by it",
            f"write unique_key: [{example}]",
        )
    if job.outputs is not None:
        _check_key_columns(job, job.outputs, findings)


def _check_key_columns(job: JobDraft, outputs: tuple[OutputDeclaration, ...], findings: Findings) -> None:
    key, at = job.spec.unique_key, (*job.path, "unique_key")
    by_name = {output.name: output for output in outputs}
    if isinstance(key, Mapping):
        for name, columns in key.items():
            if name not in by_name:
                findings.add((*at, name), f"no output is named {name}", nearest(name, by_name), at_key=True)
                continue
            for index, column in enumerate(columns):
                _check_column(column, [by_name[name]], (*at, name, index), findings)
        return
    for index, column in enumerate(key or ()):
        _check_column(column, outputs, (*at, index), findings)


def _check_column(
    column: str,
    outputs: tuple[OutputDeclaration, ...] | list[OutputDeclaration],
    at: tuple[str | int, ...],
    findings: Findings,
) -> None:
    for output in outputs:
        if output.columns is not None and column not in output.columns:
            problem = f"output {output.name} has no column {column}"
            findings.add(at, problem, nearest(column, output.columns))
            return


def _check_activation(job: JobDraft, operator: OperatorType, findings: Findings) -> None:
    if not job.has("activation", "source"):
        return
    activation, source = job.spec.activation, job.spec.source
    if activation not in operator.activations:
        allowed = " or ".join(sorted(operator.activations))
        findings.add(
            (*job.path, "activation"),
            f"operator {operator.name} cannot have activation {activation}",
            f"write activation: {allowed}",
        )
    elif activation == "source" and source is not None and source.kind not in operator.source_kinds:
        allowed = " or ".join(sorted(operator.source_kinds))
        findings.add(
            (*job.path, "source", "kind"),
            f"operator {operator.name} cannot have a source of kind {source.kind}",
            f"write kind: {allowed}",
        )


def _check_update_strategy(job: JobDraft, operator: OperatorType, findings: Findings) -> None:
    if not job.has("update_strategy"):
        return
    strategy, allowed = job.spec.update_strategy, operator.update_strategies
    wanted = f"write update_strategy: {' or '.join(sorted(allowed))}"
    at = (*job.path, "update_strategy")
    if strategy is None and allowed and any(output.place or output.kinds for output in job.outputs or ()):
        findings.add(at, "is missing, and this job writes", wanted)
    elif strategy is not None and allowed and strategy not in allowed:
        findings.add(at, f"operator {operator.name} cannot {strategy}", wanted)


def _check_outputs(job: JobDraft, operator: OperatorType, findings: Findings) -> None:
    outputs = job.outputs
    if outputs is None or not job.has("outputs"):
        return
    names = [output.name for output in outputs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        findings.add((*job.path, "config"), f"yields output {repeated[0]} twice", "name each output once")
    elif job.spec.outputs != len(outputs):
        findings.add(
            (*job.path, "outputs"),
            f"is {job.spec.outputs}, but {operator.name} yields {len(outputs)} with this config: "
            f"{', '.join(names)}",
            f"write outputs: {len(outputs)}",
        )


def _check_table_names(job: JobDraft, operator: OperatorType, findings: Findings) -> None:  # noqa: ARG001
    is_hot = job.spec.update_strategy == "append" or job.spec.execution_strategy == "PerUpdate"
    if not is_hot or not job.has("name"):
        return
    for output in job.outputs or ():
        table = table_name(job.spec.name, output.name)
        if len(table) > _LONGEST_IDENTIFIER:
            findings.add(
                (*job.path, "name"),
                f"the table {table} has {len(table)} characters, Postgres takes {_LONGEST_IDENTIFIER}",
                f"shorten the name by {len(table) - _LONGEST_IDENTIFIER}",
            )


_RULES: tuple[Callable[[JobDraft, Findings], None], ...] = (
    _check_source,
    _check_reactive,
    _check_secrets,
    _check_effect,
    _check_unique_key,
)
_OPERATOR_RULES: tuple[Callable[[JobDraft, OperatorType, Findings], None], ...] = (
    _check_activation,
    _check_update_strategy,
    _check_outputs,
    _check_table_names,
)
