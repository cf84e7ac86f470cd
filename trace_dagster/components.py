"""Trace DAGs as a Dagster component, for projects that load their definitions with ``dg``."""

import re
from pathlib import Path

import dagster as dg

from trace_dagster.build import build_definitions
from trace_dagster.translator.translator import TraceTranslator

__all__ = ["TraceDagsComponent"]


class TraceDagsComponent(dg.Component, dg.Model, dg.Resolvable):
    """Compiles a folder of Trace DAG YAML into assets, jobs, schedules and sensors.

    A project may have several, as long as no two of their DAGs have a name, or a chain, dataset and blocks,
    in common: rules across DAGs are checked within one component only.

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
        place = Path(context.path).absolute()
        for folder in (context.defs_module_path, context.project_root):
            if place.is_relative_to(folder) and place != folder:
                place = place.relative_to(folder)
                break
        scope = re.sub(r"[^A-Za-z0-9_]", "_", "__".join(place.parts)).strip("_") + "__"
        return build_definitions(str(Path(context.path) / self.path), translator=self.translator, scope=scope)
