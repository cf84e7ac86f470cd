"""Partitions in turn, and overlapped where they say so."""

import threading
from collections.abc import Sequence
from contextlib import closing

import pytest

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import EngineFailed, Interrupted
from trace_dagster.operators.base import Deadline, OutputResult
from trace_dagster.translator.pipeline import Work, in_turn

PARTITIONS = [BlockRange.of(start, start + 9) for start in (0, 10, 20, 30)]
WAIT = 60


def result(work: Work) -> list[OutputResult]:
    """Return an outcome that names the partition."""
    return [OutputResult("blocks", work.partition.key)]


def test_without_announcements_all_is_done_in_the_callers_thread() -> None:
    """Each partition is done when it is asked for, one after the other."""
    seen: list[tuple[str, int]] = []

    def do(work: Work) -> Sequence[OutputResult]:
        seen.append((work.partition.key, threading.get_ident()))
        return result(work)

    with closing(in_turn(PARTITIONS, do)) as pipeline:
        for number, done in enumerate(pipeline):
            assert done.partition == PARTITIONS[number]
            assert done.outcome == result(Work(PARTITIONS[number], print, bool))
            assert len(seen) == number + 1
    assert {thread for _, thread in seen} == {threading.get_ident()}


def test_the_next_partition_begins_once_the_one_before_has_read_all() -> None:
    """Each ends only after the next has begun; order is kept, and never more than two are in work."""
    begun = [threading.Event() for _ in PARTITIONS]
    in_work, most = 0, 0
    guard = threading.Lock()

    def do(work: Work) -> Sequence[OutputResult]:
        nonlocal in_work, most
        number = PARTITIONS.index(work.partition)
        with guard:
            in_work += 1
            most = max(most, in_work)
        begun[number].set()
        work.fetched()
        if number + 1 < len(PARTITIONS):
            assert begun[number + 1].wait(WAIT)
        with guard:
            in_work -= 1
        return result(work)

    with closing(in_turn(PARTITIONS, do)) as pipeline:
        assert [done.partition for done in pipeline] == PARTITIONS
    assert most == 2


def test_a_failure_is_an_outcome_and_the_others_go_on() -> None:
    """A partition that failed, in whichever thread, is given in its turn."""

    def do(work: Work) -> Sequence[OutputResult]:
        work.fetched()
        if work.partition in PARTITIONS[:2]:
            raise EngineFailed(f"no {work.partition.key}")
        return result(work)

    with closing(in_turn(PARTITIONS, do)) as pipeline:
        outcomes = [done.outcome for done in pipeline]
    assert [str(outcome) for outcome in outcomes[:2]] == ["no 0_9", "no 10_19"]
    assert outcomes[2:] == [[OutputResult("blocks", "20_29")], [OutputResult("blocks", "30_39")]]


def test_closing_stops_what_was_begun() -> None:
    """The partition that was begun ahead gives up at its next look at the deadline, before close returns."""
    ended = threading.Event()

    def do(work: Work) -> Sequence[OutputResult]:
        if work.partition == PARTITIONS[0]:
            work.fetched()
            return result(work)
        deadline = Deadline.after(WAIT, work.is_stopped)
        pause = threading.Event()
        try:
            while deadline.remaining_seconds:
                pause.wait(0.01)
            deadline.check()
        except Interrupted:
            ended.set()
            raise
        return result(work)

    with closing(in_turn(PARTITIONS, do)) as pipeline:
        assert next(pipeline).partition == PARTITIONS[0]
        assert not ended.is_set()
    assert ended.is_set()


def test_what_is_no_failure_of_the_work_is_raised() -> None:
    """A defect in the thread of a later partition reaches the caller."""

    def do(work: Work) -> Sequence[OutputResult]:
        work.fetched()
        if work.partition == PARTITIONS[1]:
            raise ZeroDivisionError
        return result(work)

    with closing(in_turn(PARTITIONS, do)) as pipeline:
        next(pipeline)
        with pytest.raises(ZeroDivisionError):
            next(pipeline)
