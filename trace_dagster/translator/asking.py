"""Runs that a sensor has asked for, and asks for again where they failed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import dagster as dg
from dagster._core.storage.tags import RUN_KEY_TAG

__all__ = ["MOST_ASKED", "Asked", "look_after"]

MOST_ASKED: Final = 100
"""So many runs may be under way or failed; what is new waits."""

_FIRST_PAUSE_SECONDS: Final = 60.0
_LONGEST_PAUSE_SECONDS: Final = 3600.0
_UNKNOWN_SECONDS: Final = 600.0
"""Longer than Dagster takes to make a run that was asked for."""


@dataclass(frozen=True)
class Asked:
    """A run of one partition.

    Attributes:
        partition: its key.
        name: of the request, unique for what is asked.
        again: how often it was asked for again.
        at: when it was last asked for, in seconds since 1970.
    """

    partition: str
    name: str
    again: int = 0
    at: float = field(default_factory=lambda: round(time.time()), compare=False)

    @property
    def run_key(self) -> str:
        """By which Dagster knows the request, and does nothing the second time."""
        return f"{self.name}:again{self.again}" if self.again else self.name

    def request(self, keys: Sequence[dg.AssetKey]) -> dg.RunRequest:
        """Return the request of a run of these assets."""
        return dg.RunRequest(run_key=self.run_key, asset_selection=list(keys), partition_key=self.partition)


def look_after(
    instance: dg.DagsterInstance, asked: Sequence[Asked]
) -> tuple[tuple[Asked, ...], tuple[Asked, ...]]:
    """Return which runs are to be asked for again now, and which others have not ended well yet.

    A run that failed is asked for again after a minute, then two, and so on, at last every hour. So is one
    that Dagster does not know, ten minutes after it was asked for: somebody has deleted it. One that was
    canceled is left to who did that.
    """
    runs = _newest_runs(instance, asked)
    again, others = [], []
    for one in asked:
        record = runs.get(one.run_key)
        if record is not None and not record.dagster_run.is_finished:
            others.append(one)
            continue
        if record is None:
            since, pause = one.at, _UNKNOWN_SECONDS
        elif record.dagster_run.status is dg.DagsterRunStatus.FAILURE:
            since = record.end_time or record.update_timestamp.timestamp()
            pause = min(_FIRST_PAUSE_SECONDS * 2 ** min(one.again, 10), _LONGEST_PAUSE_SECONDS)
        else:
            continue
        if time.time() - since < pause:
            others.append(one)
        else:
            again.append(Asked(one.partition, one.name, one.again + 1))
    return tuple(again), tuple(others)


def _newest_runs(instance: dg.DagsterInstance, asked: Sequence[Asked]) -> Mapping[str, dg.RunRecord]:
    if not asked:
        return {}
    wanted = dg.RunsFilter(tags={RUN_KEY_TAG: [one.run_key for one in asked]})
    found: dict[str, dg.RunRecord] = {}
    for record in instance.get_run_records(wanted):  # the newest first
        found.setdefault(record.dagster_run.tags[RUN_KEY_TAG], record)
    return found
