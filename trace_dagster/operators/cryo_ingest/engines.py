"""The Protocol of extraction engines, and the frozen data that goes in and comes out.

An engine turns a block range into Parquet files, in a staging directory or on their way into the object
store. What becomes visible there, and when, is not its concern: committing is the operator's work.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.chain.verification import PASSED, not_checked
from trace_dagster.operators.base import Deadline, MetadataValue, Progress
from trace_dagster.operators.cryo_ingest.destinations import Destination, StagingFiles
from trace_dagster.operators.cryo_ingest.staging import StagingLimits
from trace_dagster.settings import RpcEndpoint

if TYPE_CHECKING:
    from trace_dagster.store import Content

__all__ = [
    "PASSED",
    "Engine",
    "Extracted",
    "Extraction",
    "ExtractionResult",
    "RangeFacts",
    "not_checked",
]


@dataclass(frozen=True)
class RangeFacts:
    """Hashes at the ends of a range, each ``0x`` and 64 hex digits; None where the engine cannot know.

    Attributes:
        first_block_hash: hash of ``range.start_block``.
        last_block_hash: hash of ``range.end_block``.
        first_parent_hash: parent hash of ``range.start_block``.
    """

    first_block_hash: str | None = None
    last_block_hash: str | None = None
    first_parent_hash: str | None = None


@dataclass(frozen=True)
class Extraction:
    """One range to extract, once.

    Attributes:
        chain_id: the chain that the DAG names; an engine with an endpoint compares it before it writes.
        datasets: canonical names of ``trace_dagster.chain.schemas.DATASETS``, in the job's order, each once.
        range: the blocks, both ends inclusive.
        staging: an existing empty directory, 0700; everything is written below it, and whoever made it
            deletes it. None for an engine that ``streams``.
        deadline: when to stop; engines check it between batches and before every write.
        endpoint: where JSON-RPC goes; None for an engine that needs none.
        filters: the job's filters, e.g. ``{"address": ("0x..",)}``; empty for all rows.
        limits: caps on what may lie in ``staging``.
        uploads: where each dataset's files go instead, for an engine that ``streams``.
        fetched: called once nothing more is asked of the endpoint, so that the next range may be begun.
    """

    chain_id: int
    datasets: tuple[str, ...]
    range: BlockRange
    staging: Path | None
    deadline: Deadline
    endpoint: RpcEndpoint | None = None
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    limits: StagingLimits = field(default_factory=StagingLimits)
    uploads: Mapping[str, Destination] = field(default_factory=dict)
    fetched: Callable[[], None] = lambda: None

    @property
    def scratch(self) -> Path:
        """The staging directory.

        Raises:
            ValueError: there is none.
        """
        if self.staging is None:
            raise ValueError("this work has no staging directory")
        return self.staging

    def files_of(self, dataset: str) -> Destination:
        """Return where the files of ``dataset`` go."""
        if dataset in self.uploads:
            return self.uploads[dataset]
        return StagingFiles(self.scratch, f"{dataset}_{self.range.key}", self.limits)


@dataclass(frozen=True)
class Extracted:
    """One dataset of one range, complete, in staging.

    Attributes:
        dataset: its canonical name.
        files: the Parquet files in row order, at least one.
        schema: the Arrow schema of every file.
        facts: hashes at the ends of the range.
        checks: name of a check to ``PASSED`` or ``not_checked(why)``. The same for the same rows: it goes
            into the manifest. A failed check is a ``DataMismatch``, never an entry here.
    """

    dataset: str
    files: "tuple[Content, ...]"
    schema: pa.Schema
    facts: RangeFacts = field(default_factory=RangeFacts)
    checks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ExtractionResult:
    """Everything that one ``Extraction`` asked for.

    Attributes:
        outputs: one for each of ``Extraction.datasets``, in that order.
        rpc_requests: JSON-RPC requests made, batch items counted one by one; None where it is not known.
        metadata: what else is worth telling of the attempt, by keys of ``trace_dagster.metadata``.
    """

    outputs: tuple[Extracted, ...]
    rpc_requests: int | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)


class Engine(Protocol):
    """A way to extract chain data.

    Attributes:
        name: its name in ``config.engine``.
        format_version: raised by one whenever the same input may give other bytes.
        synthetic: whether its rows are made up.
        needs_endpoint: whether ``Extraction.endpoint`` must be given.
        streams: whether it writes to ``Extraction.uploads`` and needs no staging directory.
    """

    name: str
    format_version: int
    synthetic: bool
    needs_endpoint: bool
    streams: bool

    def extract(self, work: Extraction, progress: Progress) -> ExtractionResult:
        """Extract all of ``work.range``, or raise an error.

        Raises:
            ConfigurationError: the engine cannot do this work here, e.g. its program is missing.
            WrongChain: the endpoint serves another chain.
            DataMismatch: the rows disagree with themselves or with the chain.
            DeadlineExceeded: ``work.deadline`` has passed.
            StagingFull: ``work.limits`` or the disk are used up.
            EngineFailed: anything else that stopped it.
            RpcError: the endpoint does not answer, or not as it should.
        """
        ...
