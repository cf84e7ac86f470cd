"""Aggregators of ranges: a sensor that asks for runs of each full range as the follower reaches it.

A reorganisation of blocks that were taken for final changes ranges that were given already: the sensor makes
them stale in Dagster, tells the ledger which jobs' blocks are of a branch that is no more, and asks for their
runs.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from trace_dagster import metadata
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import TraceError
from trace_dagster.ledger import FollowerState, Invalidation, Ledger
from trace_dagster.operators.range_aggregator import (
    RangeAggregatorConfig,
    full_ranges,
    last_final_block,
    ranges_with,
)
from trace_dagster.operators.range_versions import range_version
from trace_dagster.spec.catalog import MAX_PARTITIONS
from trace_dagster.spec.naming import aggregator_sensor_name
from trace_dagster.spec.resolve import ResolvedDag, ResolvedJob
from trace_dagster.translator.asking import MOST_ASKED, Asked, look_after
from trace_dagster.translator.partitions import lane_name
from trace_dagster.translator.requests import readers_of
from trace_dagster.translator.translator import asset_key

__all__ = ["aggregator_sensor", "is_aggregator"]

_SECONDS_BETWEEN_LOOKS: Final = 10
_RANGES_PER_LOOK: Final = 20


def is_aggregator(job: ResolvedJob) -> bool:
    """Whether a job makes ranges of a follower's progress."""
    return isinstance(job.config, RangeAggregatorConfig)


def aggregator_sensor(dag: ResolvedDag, job: ResolvedJob) -> dg.SensorDefinition:
    """Return the sensor, running by default, that registers full ranges and asks for their runs.

    One run does a range in every job that reads it. The sensor's cursor is the last block asked for, and each
    run has a key: a daemon that died between the two asks again, and Dagster knows what it has. Runs that
    failed are asked for again.
    """
    readers = [one for one in readers_of(dag, job) if one.operator.runnable and one.plan is not None]
    keys = [asset_key(dag.name, one.name, output.name) for one in readers for output in one.outputs]
    config = job.config
    if not isinstance(config, RangeAggregatorConfig):
        raise TypeError(f"{dag.name}/{job.name} is no range_aggregator")
    lane = lane_name(dag.name, job.name)
    partitions = dg.DynamicPartitionsDefinition(name=lane)
    follower = f"{job.inputs[0].dag}/{job.inputs[0].job}"

    @dg.sensor(
        name=aggregator_sensor_name(dag.name, job.name),
        minimum_interval_seconds=_SECONDS_BETWEEN_LOOKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.assets(*keys),
        required_resource_keys={"trace"},
        description=f"Asks for each full range of {config.range_size} final blocks of {follower}.",
    )
    def aggregate(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        ledger: Ledger = context.resources.trace.ledger
        try:
            state = ledger.follower(follower)
            if state is None or state.cursor_block is None or state.first_block is None:
                return dg.SkipReason(f"{follower} has committed nothing yet")
            place = _Place.parse(context.cursor)
            if place.block is not None and (place.block + 1) % config.range_size:
                raise dg.Failure(
                    f"{dag.name}/{job.name} has given ranges up to block {place.block}, of another "
                    f"range_size than {config.range_size}; write a job of another name for the new one"
                )
            room = min(_RANGES_PER_LOOK, MOST_ASKED - len(place.asked))
            changed, place, waits = _changed_ranges(ledger, config, state, place, room)
            place = place if waits else place.begun_at(state.first_block)
            for invalidation, one in changed:
                ledger.hand_on(invalidation, dag.name, [reader.name for reader in readers], one)
        except TraceError as error:
            raise dg.Failure(str(error)) from None
        again, others = look_after(context.instance, place.asked)
        # New ranges wait for the next look, where those before them are made again.
        ranges = _new_ranges(config, state, place, 0 if changed else room)
        if not ranges and not changed and not again:
            context.update_cursor(replace(place, asked=others).text)
            reason = "the next range is not full" if room else f"{len(others)} runs have not ended well yet"
            return dg.SkipReason(f"{follower} is at block {state.cursor_block}; {reason}")
        known = len(context.instance.get_dynamic_partitions(lane))
        if known + len(ranges) > MAX_PARTITIONS:
            raise dg.Failure(
                f"{known} ranges are there already, and one asset can have {MAX_PARTITIONS}; write a larger "
                "range_size in a job of another name"
            )
        new = [
            *(
                Asked(one.key, f"{lane}:{one.key}:{invalidation.invalidation_id}")
                for invalidation, one in changed
            ),
            *(Asked(one.key, f"{lane}:{one.key}") for one in ranges),
        ]
        stale = {one.key for _, one in changed}
        older = [one for one in (*others, *again) if one.partition not in stale]
        return dg.SensorResult(
            dynamic_partitions_requests=[partitions.build_add_request([one.key for one in ranges])],
            asset_events=[
                dg.AssetMaterialization(
                    asset_key=asset_key(dag.name, job.name, "ranges"),
                    partition=one.key,
                    tags={DATA_VERSION_TAG: range_version(one, invalidation)},
                    metadata={metadata.INVALIDATED: invalidation.reason},
                )
                for invalidation, one in changed
            ],
            run_requests=[one.request(keys) for one in (*new, *again) if one in new or one in older],
            cursor=replace(
                place, block=ranges[-1].end_block if ranges else place.block, asked=(*older, *new)
            ).text,
        )

    return aggregate


@dataclass(frozen=True)
class _Place:
    """The sensor's cursor.

    Attributes:
        block: the last block of the ranges asked for; None for none.
        invalidation: id of the last of the follower's invalidations that was dealt with.
        again: of the invalidation behind that one, the last block of the ranges that were asked for again.
        first: where the follower began; another block after it was reset.
        asked: runs asked for that have not ended well yet.
    """

    block: int | None = None
    invalidation: int = 0
    again: int = -1
    first: int | None = None
    asked: Sequence[Asked] = ()

    @classmethod
    def parse(cls, text: str | None) -> Self:
        found = json.loads(text) if text else None
        if not isinstance(found, dict):
            return cls(found)  # it was the block alone, once
        return cls(**{**found, "asked": tuple(Asked(*one) for one in found.get("asked", ()))})

    @property
    def text(self) -> str:
        return json.dumps({**vars(self), "asked": [list(vars(one).values()) for one in self.asked]})

    def begun_at(self, first: int) -> "_Place":
        """Return the place of a follower that begins there: anew, where it began elsewhere before.

        Ranges that were asked for already have run keys that Dagster knows.
        """
        if self.first in (None, first):
            return replace(self, first=first)
        return replace(self, first=first, block=None)


def _new_ranges(
    config: RangeAggregatorConfig, state: FollowerState, place: _Place, most: int
) -> list[BlockRange]:
    return full_ranges(config, state.first_block or 0, _last(config, state), place.block, max(0, most))


def _last(config: RangeAggregatorConfig, state: FollowerState) -> int:
    return last_final_block(config, state.cursor_block or 0, state.final_block)


def _changed_ranges(
    ledger: Ledger, config: RangeAggregatorConfig, state: FollowerState, place: _Place, most: int
) -> tuple[list[tuple[Invalidation, BlockRange]], _Place, bool]:
    """Return ranges that were given and have changed since, each once; how far that is; whether more wait.

    An invalidation waits until all of its ranges are full and final on the new branch.
    """
    dag, _, job = state.follower.partition("/")
    waits, first = False, max(state.first_block or 0, place.first or 0)
    changed: dict[BlockRange, Invalidation] = {}
    for one in ledger.invalidations(dag, job, place.invalidation):
        blocks = BlockRange(one.start_block, one.end_block)
        ranges = []
        if place.block is not None:
            ranges = ranges_with(config, first, blocks, place.block)
        if ranges and ranges[-1].end_block > _last(config, state):
            waits = True
            break
        left = [blocks for blocks in ranges if blocks.end_block > place.again and blocks not in changed]
        taken = left[: max(0, most - len(changed))]
        changed |= dict.fromkeys(taken, one)
        if len(taken) < len(left):
            waits = True
            place = replace(place, again=taken[-1].end_block if taken else place.again)
            break
        place = replace(place, invalidation=one.invalidation_id, again=-1)
    return [(changed[one], one) for one in sorted(changed)], place, waits
