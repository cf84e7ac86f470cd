"""The engine ``cryo``: the real Cryo extracts, and everything it gives is checked against the chain."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from trace_dagster.chain.datasets import filter_problem
from trace_dagster.errors import ConfigurationError, EngineFailed
from trace_dagster.operators.base import Progress
from trace_dagster.operators.cryo_ingest.chain_reader import ChainReader, check_endpoint
from trace_dagster.operators.cryo_ingest.cryo_assembly import Assembly
from trace_dagster.operators.cryo_ingest.cryo_collect import (
    BLOCKS_PER_SEGMENT,
    Collected,
    CryoPass,
    collect,
    plan_passes,
    planned_requests,
)
from trace_dagster.operators.cryo_ingest.engines import Extraction, ExtractionResult
from trace_dagster.operators.cryo_ingest.throttle import Throttled
from trace_dagster.rpc import RpcConnections
from trace_dagster.settings import RpcEndpoint

__all__ = ["CryoEngine"]

_LAST_BLOCK: Final = 2**32 - 1
"""Cryo's block numbers are 32 bits wide."""

_HINTS: Final = {
    "could not determine status": "Cryo cannot read receipts that have no status, as before the Byzantium "
    "fork (block 4370000 of Ethereum mainnet); leave transactions out, or start after it",
    "panicked at": "a value on this chain does not fit Cryo's own types (a gas price or base fee of 2^64, a "
    "timestamp or trace gas of 2^32 or more); leave the dataset out",
}
"""What Cryo says, and what it means."""


class CryoEngine:
    """Runs Cryo 0.3.2 in a subprocess, and verifies its rows with requests of its own.

    Args:
        binary: a ``cryo`` program to run instead of the Python wheel.

    Attributes:
        name: ``cryo``.
        format_version: raised whenever the same chain may give other bytes.
        synthetic: never.
        needs_endpoint: always.
        streams: never; Cryo writes files.
    """

    name = "cryo"
    format_version = 1
    synthetic = False
    needs_endpoint = True
    streams = False

    def __init__(self, binary: str | None = None) -> None:
        self._binary = binary

    def extract(self, work: Extraction, progress: Progress) -> ExtractionResult:
        """Extract ``work.range``; nothing is returned that disagrees with the chain.

        ``rpc_requests`` counts the requests of the checks and those that Cryo plans; where its plan is not
        known, for filters and less usual datasets, it is None.

        Raises:
            ConfigurationError: Cryo is not installed, or a filter cannot be used.
            WrongChain: the endpoint serves another chain than ``work.chain_id``.
            DataMismatch: Cryo's rows disagree with the chain, or the endpoint with itself.
            DeadlineExceeded: ``work.deadline`` has passed.
            StagingFull: the limits of staging or its disk are used up.
            EngineFailed: Cryo gave up, or the range ends beyond the head.
            RpcError: the endpoint does not answer as it should.
        """
        endpoint = _check_work(work)
        binary = self._program()
        said = Throttled(progress)
        with RpcConnections(endpoint, deadline=work.deadline) as rpc:
            check_endpoint(rpc.first, work.chain_id, work.range, endpoint.pool)
            planned: list[CryoPass] = []
            with Assembly(work, rpc, said) as assembly:
                for segment in work.range.split(BLOCKS_PER_SEGMENT):
                    passes = plan_passes(work, segment, work.scratch / "raw")
                    planned += passes
                    assembly.expect(passes)
                    for one in passes:
                        collected = collect(
                            one, work, endpoint, binary=binary, progress=said, meanwhile=assembly.take_next
                        )
                        if collected.missing:
                            _explain_missing(one, collected, rpc, binary)
                    assembly.take_all()
                    shutil.rmtree(work.scratch / "raw")
                outputs = assembly.finish()
            requests = planned_requests(planned)
            return ExtractionResult(outputs, None if requests is None else requests + rpc.requests)

    def _program(self) -> str | None:
        if self._binary is None:
            if find_spec("cryo") is None:
                raise ConfigurationError(
                    "engine cryo needs Cryo's Python wheel: run `pip install trace-dagster[cryo]` on Python "
                    "3.11 or 3.12 (later ones have none), or set TRACE_CRYO_BINARY to a cryo program"
                )
            return None
        found = shutil.which(self._binary)
        if found is None:
            raise ConfigurationError(
                f"TRACE_CRYO_BINARY is {self._binary!r}, which is no program; correct it, or unset it to use "
                "Cryo's Python wheel"
            )
        return str(Path(found).absolute())


def _check_work(work: Extraction) -> RpcEndpoint:
    if work.endpoint is None:
        raise ConfigurationError("engine cryo needs an endpoint; write rpc_pool into the job's config")
    if work.range.end_block > _LAST_BLOCK:
        raise ConfigurationError(
            f"Cryo has no blocks after {_LAST_BLOCK}; end_block is {work.range.end_block}"
        )
    for name, values in work.filters.items():
        for value in values:
            if problem := filter_problem(name, value):
                raise ConfigurationError(problem)
        if name == "js_tracer" and len(values) != 1:
            raise ConfigurationError(f"filters.js_tracer has {len(values)} values; Cryo takes exactly one")
    return work.endpoint


def _explain_missing(one: CryoPass, collected: Collected, rpc: RpcConnections, binary: str | None) -> None:
    """Raise why a chunk is missing: what is wrong at the endpoint, else Cryo's own words."""
    chunk = collected.missing[0]
    reader = ChainReader(rpc, chunk.start_block)
    headers = reader.headers(chunk)
    if "transactions" in one.datasets or "logs" in one.datasets:
        reader.receipts(headers)
    outcome = collected.outcome
    said = outcome.said or "it does not say why"
    hint = next((hint for words, hint in _HINTS.items() if words in said), "try again")
    if binary is not None and len(collected.missing) == len(one.chunks):
        hint = "is that program Cryo 0.3.2?"
    program = "Cryo" if binary is None else f"TRACE_CRYO_BINARY ({binary})"
    raise EngineFailed(
        f"{program} gave up on {len(collected.missing)} of {len(one.chunks)} chunks of "
        f"{', '.join(one.datasets)}, the first being blocks {chunk.start_block} to "
        f"{chunk.end_block} ({outcome.status}): {said}; {hint}"
    )
