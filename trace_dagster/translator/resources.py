"""The Dagster resources that ops and downstream assets use."""

from collections.abc import Callable, Iterator, Mapping

import dagster as dg

from trace_dagster.operators.services import Services
from trace_dagster.settings import Settings

__all__ = ["resources_of"]


def resources_of(settings: Settings, environment: Mapping[str, str]) -> dict[str, dg.ResourceDefinition]:
    """Return ``trace`` (what operators work with), and IO managers for downstream assets.

    ``trace_parquet`` loads committed Parquet; ``trace_postgres`` writes and loads hot tables.

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
        services: Services = context.resources.trace
        return _LazyIOManager(lambda: services.replace)

    @dg.io_manager(
        required_resource_keys={"trace"},
        description="Writes rows into a table of Postgres, by unique key or block range, and loads them.",
    )
    def trace_postgres(context: dg.InitResourceContext) -> dg.IOManager:
        services: Services = context.resources.trace
        return _LazyIOManager(lambda: services.append)

    return {"trace": trace, "trace_parquet": trace_parquet, "trace_postgres": trace_postgres}


class _LazyIOManager(dg.IOManager):
    """Opens store and ledger when they are needed, so that a failure is the op's, and retried."""

    def __init__(self, opened: Callable[[], dg.IOManager]) -> None:
        self._opened = opened

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        self._opened().handle_output(context, obj)

    def load_input(self, context: dg.InputContext) -> object:
        return self._opened().load_input(context)
