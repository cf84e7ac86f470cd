"""Trace DAGs as a Dagster component, for projects that load their definitions with ``dg``."""

from pathlib import Path

import dagster as dg

from trace_dagster.build import build_definitions
from trace_dagster.translator.translator import TraceTranslator

__all__ = ["TraceDagsComponent"]


class TraceDagsComponent(dg.Component, dg.Model, dg.Resolvable):
    """Compiles a folder of Trace DAG YAML into assets, jobs, schedules and sensors.

    Attributes:
        path: folder, file or glob of DAG YAML, relative to ``defs.yaml``.
    """

    path: str = "."

    @property
    def translator(self) -> TraceTranslator:
        """What makes the asset specs; override it in a subclass."""
        return TraceTranslator()

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Compile the DAGs."""
        return build_definitions(str(Path(context.path) / self.path), translator=self.translator)
