"""The runs of Cryo that a partition takes, and the files that they must leave."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

from trace_dagster.chain.datasets import GROUPS, filters_of
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import EngineFailed
from trace_dagster.operators.base import Progress
from trace_dagster.operators.cryo_ingest.cryo_process import CryoJob, CryoOutcome, run_cryo
from trace_dagster.operators.cryo_ingest.engines import Extraction
from trace_dagster.operators.cryo_ingest.staging import disk_errors_explained
from trace_dagster.rpc.secrets import secrets_of
from trace_dagster.settings import RpcEndpoint

__all__ = [
    "BLOCKS_PER_CHUNK",
    "BLOCKS_PER_SEGMENT",
    "Collected",
    "CryoPass",
    "collect",
    "plan_passes",
    "planned_requests",
]

# Memory is bounded by these: Cryo holds whole chunks, of which so many are in the making at once.
BLOCKS_PER_CHUNK: Final = 50
_CONCURRENT_CHUNKS: Final = 2
# Files and disk are bounded by this: so many blocks' chunks lie there at once.
BLOCKS_PER_SEGMENT: Final = 5_000
_CONCURRENT_REQUESTS: Final = 40
_NETWORK: Final = "chain"

# Cryo asks again only where it is told to slow down; one failed request costs it a chunk, so it is run again
# for what it did not finish.
_ROUNDS: Final = 3
_FIRST_PAUSE_SECONDS: Final = 0.5
_STALLED_AFTER_SECONDS: Final = 1200.0
_CALLS_PER_LOOK: Final = 5
_BASIC_USER: Final = "trace"


@dataclass(frozen=True)
class CryoPass:
    """One run of Cryo, for datasets that take the same filters.

    Attributes:
        datasets: what it collects.
        filters: applied to all of them.
        range: the blocks.
        directory: where its files go, and nothing else.
    """

    datasets: tuple[str, ...]
    filters: Mapping[str, tuple[str, ...]]
    range: BlockRange
    directory: Path

    @property
    def chunks(self) -> tuple[BlockRange, ...]:
        """The runs of blocks that become one file a dataset."""
        return tuple(self.range.split(BLOCKS_PER_CHUNK))

    def file(self, dataset: str, chunk: BlockRange) -> Path:
        """Return the file of one dataset and chunk; Cryo pads both numbers to eight digits."""
        name = f"{_NETWORK}__{dataset}__{chunk.start_block:08}_to_{chunk.end_block:08}.parquet"
        return self.directory / name

    def missing(self) -> list[BlockRange]:
        """Return the chunks that lack a file.

        Cryo makes a file under another name and renames it, so what is there is whole; on a further run it
        leaves out the chunks whose files are there, be they empty.
        """
        there = {path.name for path in self.directory.iterdir()}
        return [
            chunk
            for chunk in self.chunks
            if not all(self.file(dataset, chunk).name in there for dataset in self.datasets)
        ]

    def arguments(self) -> dict[str, Any]:
        """Return Cryo's arguments, but for the endpoint."""
        arguments: dict[str, Any] = {name: list(values) for name, values in self.filters.items()}
        if "js_tracer" in arguments:
            arguments["js_tracer"] = self.filters["js_tracer"][0]
        return arguments | {
            "blocks": [f"{self.range.start_block}:{self.range.end_block + 1}"],
            "include_columns": ["all"],
            "sort": ["none"],  # its own is not stable; unsorted, a block's rows are in the node's order
            "network_name": _NETWORK,
            "chunk_size": BLOCKS_PER_CHUNK,
            "max_concurrent_chunks": _CONCURRENT_CHUNKS,
            "max_concurrent_requests": _CONCURRENT_REQUESTS,
            "output_dir": str(self.directory),
            "no_report": True,  # a report holds the URL
        }


def plan_passes(work: Extraction, segment: BlockRange, directory: Path) -> tuple[CryoPass, ...]:
    """Return the runs that ``segment`` of ``work`` takes: as few as Cryo can do right.

    Filtered datasets go alone. So do those that are some but not all of a group of Cryo's, which it would
    collect together: then it fails, or gives up on every chunk. All others go together.
    """
    filters = {dataset: filters_of(dataset, work.filters) for dataset in work.datasets}
    unfiltered = {dataset for dataset, held in filters.items() if not held}
    alone = {dataset for dataset, held in filters.items() if held}
    for members in map(set, GROUPS.values()):
        some = members & unfiltered
        if 1 < len(some) < len(members):
            alone |= some
    together = tuple(dataset for dataset in work.datasets if dataset not in alone)
    passes = [CryoPass(together, {}, segment, directory / "together")] if together else []
    passes += [
        CryoPass((dataset,), filters[dataset], segment, directory / dataset)
        for dataset in work.datasets
        if dataset in alone
    ]
    return tuple(passes)


def planned_requests(passes: Iterable[CryoPass]) -> int | None:
    """Return how many requests Cryo makes, beside repetitions; None where its plan is not known."""
    total = 0
    for one in passes:
        asked = set(one.datasets)
        if one.filters or not asked <= {"blocks", "transactions", "logs", "traces"}:
            return None
        each = len(asked - {"blocks", "transactions"}) + bool(asked & {"blocks", "transactions"})
        total += 1 + (each + ("transactions" in asked)) * one.range.blocks
    return total


@dataclass(frozen=True)
class Collected:
    """What is there after the last run of a pass.

    Attributes:
        missing: chunks that lack a file; none where all is well.
        outcome: how the last run ended.
    """

    missing: list[BlockRange]
    outcome: CryoOutcome


def collect(
    one: CryoPass,
    work: Extraction,
    endpoint: RpcEndpoint,
    *,
    binary: str | None,
    progress: Progress,
    meanwhile: Callable[[], object],
) -> Collected:
    """Run Cryo until every chunk has its files, at most three times.

    Args:
        one: what to collect.
        work: the work that it is part of.
        endpoint: what to ask.
        binary: a program to run instead of the wheel, or None.
        progress: where to report.
        meanwhile: called several times a second while Cryo works; may take its time.

    Raises:
        DeadlineExceeded: ``work.deadline`` has passed.
        StagingFull: the limits of staging or its disk are used up.
        EngineFailed: Cryo cannot be started, stalls, or left a report.
    """
    with disk_errors_explained(work.scratch):
        one.directory.mkdir(mode=0o700, parents=True)
    job = CryoJob(
        url=_url_for_cryo(endpoint),
        secrets=secrets_of(endpoint),
        datasets=one.datasets,
        arguments=one.arguments(),
        directory=one.directory,
        binary=binary,
    )
    for repetition in range(_ROUNDS):
        if repetition:
            _pause(_FIRST_PAUSE_SECONDS * 2 ** (repetition - 1), work)
        collected = _run(job, work, _Watch(one, work, progress, meanwhile))
        if not collected.missing or collected.outcome.panicked:
            break
        progress(
            "Cryo gave up on chunks",
            chunks=len(collected.missing),
            run=repetition + 1,
            said=collected.outcome.said,
        )
    return collected


def _run(job: CryoJob, work: Extraction, watch: "_Watch") -> Collected:
    work.limits.check(work.scratch)
    outcome = run_cryo(job, watch)
    if watch.collecting.missing():
        work.limits.check(work.scratch)  # Cryo does not say that the disk is full
    if "No space left on device" in outcome.said:
        with disk_errors_explained(work.scratch):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    reports = job.directory / ".cryo"
    if reports.exists():
        shutil.rmtree(reports)
        raise EngineFailed(
            "Cryo wrote its report files, which hold the endpoint's URL, although it was told not to; they "
            "were deleted. Use Cryo 0.3.2"
        )
    missing = watch.collecting.missing()
    if outcome.errored_chunks and not missing:
        raise EngineFailed(f"Cryo gave up on {outcome.errored_chunks} chunks: {outcome.said}")
    return Collected(missing, outcome)


class _Watch:
    """Called many times a second while Cryo runs: holds the limits, reports progress, lets others work."""

    def __init__(
        self, one: CryoPass, work: Extraction, progress: Progress, meanwhile: Callable[[], object]
    ) -> None:
        self.collecting = one
        self._work, self._progress, self._meanwhile = work, progress, meanwhile
        self._chunks = len(one.chunks)
        self._done = self._calls = 0
        self._last_progress = time.monotonic()

    def __call__(self) -> None:
        self._work.deadline.check()
        self._calls += 1
        if self._calls % _CALLS_PER_LOOK == 0:
            self._work.limits.check(self._work.scratch)
            self._look()
            self._meanwhile()

    def _look(self) -> None:
        done = self._chunks - len(self.collecting.missing())
        now = time.monotonic()
        if done > self._done:
            self._done, self._last_progress = done, now
            blocks = self.collecting.range
            self._progress(
                "Cryo collects",
                datasets=",".join(self.collecting.datasets),
                blocks=min(done * BLOCKS_PER_CHUNK, blocks.blocks),
                of=blocks.blocks,
            )
        if now - self._last_progress > _STALLED_AFTER_SECONDS:
            raise EngineFailed(
                f"Cryo finished none of its chunks of {BLOCKS_PER_CHUNK} blocks within "
                f"{_STALLED_AFTER_SECONDS:g} s, after {done} of {self._chunks}; is the endpoint answering?"
            )


def _pause(seconds: float, work: Extraction) -> None:
    time.sleep(min(seconds, work.deadline.remaining_seconds))
    work.deadline.check()


def _url_for_cryo(endpoint: RpcEndpoint) -> str:
    """Return the endpoint's URL, with what Cryo cannot send as headers as user and password."""
    url = endpoint.url.get_secret_value()
    if endpoint.token is None:
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    token = quote(endpoint.token.get_secret_value(), safe="")
    caller = endpoint.caller
    user = _BASIC_USER if caller is None else quote(f"{caller.job}/{caller.partition}", safe="")
    return urlunsplit(parts._replace(netloc=f"{user}:{token}@{host}"))
