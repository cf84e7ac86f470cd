"""Run an engine as the operator does, and read what it left."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.small_chain import CHAIN_ID
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.chain.schemas import cryo_columns_of
from trace_dagster.operators.base import Deadline
from trace_dagster.operators.cryo_ingest.cryo import CryoEngine
from trace_dagster.operators.cryo_ingest.engines import Engine, Extraction, ExtractionResult
from trace_dagster.operators.cryo_ingest.staging import StagingLimits
from trace_dagster.settings import RpcEndpoint


class Reports:
    """A Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Mapping[str, object]]] = []

    def __call__(self, message: str, **fields: object) -> None:
        """Keep the report."""
        self.said.append((message, fields))


def extract(
    directory: Path,
    endpoint: RpcEndpoint,
    datasets: str,
    blocks: tuple[int, int],
    *,
    deadline: Deadline | None = None,
    chain_id: int = CHAIN_ID,
    engine: Engine | None = None,
    progress: Reports | None = None,
    limits: StagingLimits | None = None,
    **filters: tuple[str, ...],
) -> ExtractionResult:
    """Extract, with the engine ``cryo`` unless another is given, into a new folder of ``directory``."""
    work = Extraction(
        chain_id=chain_id,
        datasets=tuple(datasets.split(",")),
        range=BlockRange.of(*blocks),
        staging=Path(tempfile.mkdtemp(dir=directory)),
        deadline=deadline or Deadline.after(120),
        endpoint=endpoint,
        filters=filters,
        limits=limits or StagingLimits(),
    )
    return (engine or CryoEngine()).extract(work, progress or Reports())


def table_of(result: ExtractionResult, dataset: str) -> pa.Table:
    """Return all rows of one dataset."""
    files = next(one.files for one in result.outputs if one.dataset == dataset)
    return pa.concat_tables([pq.read_table(file.path) for file in files])


def rows_of(result: ExtractionResult, dataset: str) -> list[dict[str, Any]]:
    """Return all rows of one dataset as dicts."""
    return table_of(result, dataset).to_pylist()


def cryo_rows_of(result: ExtractionResult, dataset: str) -> list[dict[str, Any]]:
    """Return all rows of one dataset as dicts, without the columns that Cryo does not have."""
    table = table_of(result, dataset)
    return table.select(list(cryo_columns_of(dataset) or table.schema.names)).to_pylist()
