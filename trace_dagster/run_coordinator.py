"""A run queue that gives every run the ECS size of its runtime and jobs, however it was launched.

Tags of ops and jobs reach neither runs of asset backfills nor those of ``Materialize`` in the UI, so the size
of a run worker cannot stand there. All runs pass the queue: here they get it. See ``deploy/dagster.yaml``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import dagster as dg
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._serdes import ConfigurableClassData

from trace_dagster import metadata

__all__ = ["SizedRunCoordinator", "tags_of_all"]

_TAGS = dg.Field({str: {str: str}}, is_required=False, default_value={})


class SizedRunCoordinator(QueuedRunCoordinator):
    """Dagster's ``QueuedRunCoordinator``, which first adds the tags of a run's runtimes and jobs to it.

    Its config takes two more fields:

    - ``runtime_tags``: for a runtime of the DAG YAML (``ecs_platform``, ``lambda``, ``dispatcher``), the tags
      of the runs of its jobs, such as ``ecs/cpu`` and ``ecs/memory``.
    - ``job_tags``: the same for one job, named ``{dag}/{job}`` as its pool is; they go before the runtime's.

    A run of several jobs gets the largest of their values where all are whole numbers, else the first job's.
    A tag that the launch itself set stays as it is.
    """

    def __init__(
        self,
        runtime_tags: Mapping[str, Mapping[str, str]] | None = None,
        job_tags: Mapping[str, Mapping[str, str]] | None = None,
        inst_data: ConfigurableClassData | None = None,
        **queue: Any,
    ) -> None:
        super().__init__(inst_data=inst_data, **queue)
        self._runtime_tags = runtime_tags or {}
        self._job_tags = job_tags or {}

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return the fields of the queue's config and this class's two."""
        own = {"runtime_tags": _TAGS, "job_tags": _TAGS}
        return {**cast("dict[str, Any]", super().config_type()), **own}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        """Return the coordinator that the instance file asks for."""
        return cls(inst_data=inst_data, **config_value)

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        """Add the run's tags, and queue it."""
        run = context.dagster_run
        tags = self._tags_of(context)
        missing = {name: value for name, value in tags.items() if name not in run.tags}
        if missing:
            self._instance.add_run_tags(run.run_id, missing)
        return super().submit_run(context)

    def _tags_of(self, context: SubmitRunContext) -> Mapping[str, str]:
        graph = context.workspace.asset_graph
        jobs: dict[str, Mapping[str, str]] = {}
        for key in sorted(context.dagster_run.asset_selection or (), key=lambda key: key.path):
            if not graph.has(key):
                continue
            runtime = graph.get(key).tags.get(metadata.RUNTIME)
            if runtime is not None:
                job = "/".join(key.path[:-1])
                jobs[job] = {**self._runtime_tags.get(runtime, {}), **self._job_tags.get(job, {})}
        return tags_of_all(list(jobs.values()))


def tags_of_all(jobs: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """Return the tags of a run of several jobs: the largest of whole numbers, else the first job's value."""
    merged: dict[str, str] = {}
    for name in dict.fromkeys(name for tags in jobs for name in tags):
        values = [tags[name] for tags in jobs if name in tags]
        merged[name] = max(values, key=int) if all(value.isdecimal() for value in values) else values[0]
    return merged
