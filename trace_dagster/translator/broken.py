"""DAG files that did not load, as assets that show their errors in the UI."""

import re
from collections.abc import Sequence

import dagster as dg

from trace_dagster import metadata
from trace_dagster.spec.resolve import BrokenFile

__all__ = ["BROKEN_GROUP", "broken_assets"]

BROKEN_GROUP = "invalid_dags"


def broken_assets(files: Sequence[BrokenFile]) -> list[dg.AssetSpec]:
    """Return one asset a broken file, not executable, in the group ``invalid_dags``.

    Its description lists the file's errors as ``trace validate`` prints them.
    """
    names: dict[str, int] = {}
    specs = []
    for file in files:
        stem = re.sub(r"[^A-Za-z0-9_]", "_", file.path.stem) or "file"
        names[stem] = count = names.get(stem, 0) + 1
        lines = [str(problem) for problem in file.problems]
        listing = "\n".join(f"- `{line}`" for line in lines)
        specs.append(
            dg.AssetSpec(
                key=[BROKEN_GROUP, stem if count == 1 else f"{stem}_{count}"],
                group_name=BROKEN_GROUP,
                description=(
                    f"**{file.path.name} did not load**; its jobs are missing till then.\n\n{listing}"
                ),
                kinds={"yaml"},
                tags={metadata.STATUS: "invalid"},
                metadata={
                    metadata.SPEC_FILE: file.path.name,
                    metadata.SPEC_ERRORS: dg.MetadataValue.md(listing),
                },
            )
        )
    return specs
