"""The Dagster resources that ops and downstream assets use."""

from collections.abc import Iterator, Mapping

import dagster as dg

from trace_dagster.operators.services import Services
from trace_dagster.settings import Settings

__all__ = ["resources_of"]


def resources_of(settings: Settings, environment: Mapping[str, str]) -> dict[str, dg.ResourceDefinition]:
    """Return ``trace`` (what operators work with) and ``trace_parquet`` (loads committed Parquet).

    Nothing is opened before a run uses it, so that importing definitions needs no network. Equal settings
    give the same objects: Dagster merges definitions of several components only if their resources are.
    """
    variables = dict(environment)
    for known, its_variables, resources in _MADE:
        if (known, its_variables) == (settings, variables):
            return resources
    made = _resources(settings, environment)
    _MADE.append((settings, variables, made))
    return made


_MADE: list[tuple[Settings, dict[str, str], dict[str, dg.ResourceDefinition]]] = []


def _resources(settings: Settings, environment: Mapping[str, str]) -> dict[str, dg.ResourceDefinition]:

    @dg.resource(description="Object store and ledger, from the TRACE_* environment variables.")
    def trace(_: dg.InitResourceContext) -> Iterator[Services]:
        with Services(settings, environment) as services:
            yield services

    @dg.io_manager(
        required_resource_keys={"trace"},
        description="Gives downstream assets the committed Parquet of a partition as a polars LazyFrame.",
    )
    def trace_parquet(context: dg.InitResourceContext) -> dg.IOManager:
        return _LazyIOManager(context.resources.trace)

    return {"trace": trace, "trace_parquet": trace_parquet}


class _LazyIOManager(dg.IOManager):
    """Opens store and ledger when they are needed, so that a failure is the op's, and retried."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        self._services.replace.handle_output(context, obj)

    def load_input(self, context: dg.InputContext) -> object:
        return self._services.replace.load_input(context)
