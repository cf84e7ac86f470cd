"""DAG files that did not load, as assets that show their errors in the UI."""

import re
from collections.abc import Iterator, Sequence
from itertools import count

import dagster as dg

from trace_dagster import metadata
from trace_dagster.spec.resolve import BrokenFile

__all__ = ["BROKEN_GROUP", "broken_assets"]

BROKEN_GROUP = "invalid_dags"


def broken_assets(files: Sequence[BrokenFile], scope: str = "") -> list[dg.AssetSpec]:
    """Return one asset a broken file, not executable, in the group ``invalid_dags``.

    Its description lists the file's errors as ``trace validate`` prints them.

    Args:
        files: the files.
        scope: put before their names, where several folders are loaded into one code location.
    """
    names: set[str] = set()
    specs = []
    for file in files:
        stem = re.sub(r"[^A-Za-z0-9_]", "_", scope + file.path.stem) or "file"
        name = next(name for name in _numbered(stem) if name not in names)
        names.add(name)
        lines = [str(problem) for problem in file.problems]
        listing = "\n".join(f"- `{line}`" for line in lines)
        specs.append(
            dg.AssetSpec(
                key=[BROKEN_GROUP, name],
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


def _numbered(stem: str) -> Iterator[str]:
    """Yield ``stem``, ``stem_2``, ``stem_3``..."""
    yield stem
    yield from (f"{stem}_{number}" for number in count(2))
