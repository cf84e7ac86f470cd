"""Partitions one after another, the next one begun while the one before is still written and committed."""

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import TraceError
from trace_dagster.operators.base import OutputResult

__all__ = ["Done", "Work", "in_turn"]

_SECONDS_BETWEEN_LOOKS = 0.2
"""How long an interrupt may go unnoticed while another thread works."""


@dataclass(frozen=True)
class Work:
    """One partition to do.

    Attributes:
        partition: which.
        fetched: to be called once nothing more is read for it: then the next one may begin.
        is_stopped: whether the run is over, and the work is to be given up.
    """

    partition: BlockRange
    fetched: Callable[[], None]
    is_stopped: Callable[[], bool]


@dataclass(frozen=True)
class Done:
    """What came of one partition.

    Attributes:
        partition: which.
        outcome: its committed outputs, or why there are none.
    """

    partition: BlockRange
    outcome: Sequence[OutputResult] | TraceError


def in_turn(
    partitions: Sequence[BlockRange], do: Callable[[Work], Sequence[OutputResult]]
) -> Generator[Done, None, None]:
    """Do ``partitions`` and give what came of each, in their order.

    The first is done in the caller's thread, and so is every one that the one before it did not announce.
    Where one calls ``fetched``, the next begins in a thread of its own; never more than two are in work.
    Close it: then no thread works on afterwards, however the iteration ended.
    """
    with closing(_Pipeline(partitions, do)) as pipeline:
        for number in range(len(partitions)):
            yield pipeline.result(number)


class _Pipeline:
    def __init__(
        self, partitions: Sequence[BlockRange], do: Callable[[Work], Sequence[OutputResult]]
    ) -> None:
        self._partitions, self._do = partitions, do
        self._stopped = threading.Event()
        self._guard = threading.Lock()
        self._awaited = 0
        self._fetched: set[int] = set()
        self._ahead: dict[int, _Thread] = {}

    def result(self, number: int) -> Done:
        """Do partition ``number``, or wait until it is done, and return what came of it."""
        with self._guard:
            self._awaited = number
            ahead = self._ahead.pop(number, None)
        self._begin_next()
        try:
            return self._work(number) if ahead is None else ahead.wait()
        except BaseException:
            if ahead is not None:
                with self._guard:
                    self._ahead[number] = ahead  # for close() to wait for
            raise

    def close(self) -> None:
        """Stop what is in work, and wait for its end."""
        with self._guard:  # nothing is begun afterwards
            self._stopped.set()
            threads = list(self._ahead.values())
        for thread in threads:
            thread.join()

    def _work(self, number: int) -> Done:
        def fetched() -> None:
            with self._guard:
                self._fetched.add(number)
            self._begin_next()

        partition = self._partitions[number]
        try:
            return Done(partition, self._do(Work(partition, fetched, self._stopped.is_set)))
        except TraceError as error:
            return Done(partition, error)

    def _begin_next(self) -> None:
        """Begin the partition after the one that is awaited, if that one has read all it needs."""
        with self._guard:
            number = self._awaited + 1
            is_due = self._awaited in self._fetched and number < len(self._partitions)
            if is_due and number not in self._ahead and not self._stopped.is_set():
                self._ahead[number] = _Thread(lambda: self._work(number))


class _Thread:
    """One partition in a thread."""

    def __init__(self, work: Callable[[], Done]) -> None:
        self._work = work
        self._done: Done | None = None
        self._failure: BaseException | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def wait(self) -> Done:
        """Return what came of it; an interrupt of the waiting thread is noticed meanwhile."""
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS):
            pass
        if self._failure is not None:
            raise self._failure
        if self._done is None:
            raise RuntimeError("the partition's thread ended without a result")
        return self._done

    def join(self) -> None:
        """Wait for its end."""
        self._ended.wait()

    def _run(self) -> None:
        try:
            self._done = self._work()
        except BaseException as failure:  # noqa: BLE001 - it is raised in the thread that waits
            self._failure = failure
        finally:
            self._ended.set()
