"""The few private parts of Dagster 1.13 that this project leans on, each with its reason.

``pyproject.toml`` bounds dagster below 1.14 because of this file; ``tests/acceptance`` shows that each works.
"""

from collections.abc import Mapping

import click
import dagster as dg
from dagster._core.definitions.metadata.metadata_value import MetadataValue
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.execution.plan.execute_step import (
    _build_data_version_tags,
    _get_code_version,
    _get_input_provenance_data,
)

__all__ = ["SILENT_OUTPUT_METADATA", "launched_for_partition_range", "provenance_tags"]

# An output with this key is stored without a materialization event. A run of many partitions has told its
# materializations one by one already, yet must give its outputs, or Dagster skips what reads them.
SILENT_OUTPUT_METADATA: Mapping[str, MetadataValue] = {
    SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: dg.MetadataValue.bool(True)
}


def provenance_tags(
    context: dg.AssetExecutionContext, key: dg.AssetKey, data_version: str
) -> Mapping[str, str]:
    """Return the tags that Dagster puts on a materialization of its own: versions of code, data and inputs.

    Without them, a materialization yielded by hand would show as stale for ever.
    """
    step = context.op_execution_context.get_step_execution_context()
    return _build_data_version_tags(
        dg.DataVersion(data_version),
        _get_code_version(key, step),
        _get_input_provenance_data(key, step),
        True,  # noqa: FBT003
    )


def launched_for_partition_range() -> bool:
    """Whether this process is ``dagster asset materialize --partition-range``.

    That command takes only assets with a single-run backfill policy. It runs all partitions in its own
    process, so for it, and only there, that is the policy.
    """
    context = click.get_current_context(silent=True)
    return bool(context and context.params.get("partition_range"))
