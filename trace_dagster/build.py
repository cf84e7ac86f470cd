"""Settings and a folder of DAG YAML -> ``dagster.Definitions``: reads files, and nothing else."""

import logging
import os
from collections.abc import Mapping

import dagster as dg

from trace_dagster.operators.registry import catalog, operators
from trace_dagster.settings import Settings
from trace_dagster.spec.resolve import load_dags
from trace_dagster.translator.compile import compile_dags
from trace_dagster.translator.translator import TraceTranslator

__all__ = ["build_definitions"]

_logger = logging.getLogger(__name__)


def build_definitions(
    dag_specs: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    translator: TraceTranslator | None = None,
    scope: str = "",
) -> dg.Definitions:
    """Compile a folder, file or glob of DAG YAML.

    A file that does not load is logged and shown as an asset in the group ``invalid_dags``; the rest loads.

    Args:
        dag_specs: what to compile; ``TRACE_DAG_SPECS`` if None.
        environment: environment variables; the process's own if None.
        translator: makes the asset specs; ``TraceTranslator()`` if None.
        scope: put before the names of what is no DAG's own, where several folders are loaded into one code
            location.

    Raises:
        ConfigurationError: an environment variable's value cannot be used.
    """
    environment = os.environ if environment is None else environment
    settings = Settings.from_environment(environment)
    loaded = load_dags(dag_specs or settings.dag_specs, catalog())
    for file in loaded.broken:
        for problem in file.problems:
            _logger.error("%s", problem)
    return compile_dags(
        loaded=loaded,
        operators=operators(),
        settings=settings,
        environment=environment,
        translator=translator,
        scope=scope,
    )
