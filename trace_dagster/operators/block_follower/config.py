"""What a ``block_follower`` can be told."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from trace_dagster.chain.schemas import canonical_dataset
from trace_dagster.spec.catalog import OperatorConfig

__all__ = ["BlockFollowerConfig", "TipDataset"]

TipDataset = Literal["blocks", "transactions", "logs", "receipts", "traces"]


class BlockFollowerConfig(OperatorConfig):
    """What of the chain tip is followed.

    Attributes:
        chain_id: the EVM chain's id, compared with the endpoint's.
        rpc_pool: the RPC pool that is asked.
        start_block: where a cold start begins.
        datasets: what is written.
        confirmations: how many blocks the follower stays behind the head.
        finality: which blocks are taken for final: those so far behind the head, or up to the block that the
            node calls ``safe`` or ``finalized``. A reorganisation of finalized blocks stops the follower.
        max_reorg_depth: a deeper reorganisation stops the follower, for a person to look at.
        poll_seconds: how often the head is asked for, once a block is due.
        heads: how it hears of new blocks: by polling alone; or by a WebSocket subscription where the pool
            offers one, and by polling where not. ``websocket`` warns where it cannot be had.
        batch_blocks: most blocks of one commit.
        follow: ``stream``: one run goes on and on; ``tick``: a run for what is new whenever the sensor looks.
        max_lag_seconds: the asset check ``lag`` fails where the last committed block is older.
        run_seconds: after so long the run of ``stream`` ends, and the sensor asks for another.
        emit_strategy: when ``PerUpdate`` jobs that read it run: ``per_update``, on any new block; or
            ``threshold``, on each ``threshold_blocks`` new ones.
        threshold_blocks: of ``threshold``.
    """

    bytes_independent: ClassVar[frozenset[str]] = frozenset(
        {
            "rpc_pool",
            "poll_seconds",
            "heads",
            "batch_blocks",
            "follow",
            "run_seconds",
            "max_lag_seconds",
            "finality",
            "emit_strategy",
            "threshold_blocks",
        }
    )

    chain_id: int = Field(ge=1, le=2**63 - 1)
    rpc_pool: str = Field(min_length=1)
    start_block: int = Field(default=0, ge=0)
    datasets: tuple[TipDataset, ...] = Field(min_length=1)
    confirmations: int = Field(default=0, ge=0, le=100_000)
    finality: Annotated[int, Field(ge=0, le=100_000)] | Literal["safe", "finalized"] = 64
    max_reorg_depth: int = Field(default=256, ge=1, le=100_000)
    poll_seconds: float = Field(default=0.1, ge=0.01, le=3600)
    heads: Literal["auto", "poll", "websocket"] = "auto"
    batch_blocks: int = Field(default=100, ge=1, le=10_000)
    follow: Literal["stream", "tick"] = "stream"
    max_lag_seconds: float = Field(default=120, gt=0)
    run_seconds: float = Field(default=3600, ge=1)
    emit_strategy: Literal["per_update", "threshold"] = "per_update"
    threshold_blocks: int | None = Field(default=None, ge=1, le=1_000_000)

    @property
    def emitted_blocks(self) -> int:
        """How many new blocks there must be for a ``PerUpdate`` job to run."""
        return self.threshold_blocks or 1

    @model_validator(mode="after")
    def _threshold(self) -> "BlockFollowerConfig":
        if self.emit_strategy == "threshold" and self.threshold_blocks is None:
            raise ValueError("emit_strategy: threshold needs threshold_blocks; write how many blocks")
        if self.emit_strategy != "threshold" and self.threshold_blocks is not None:
            raise ValueError("threshold_blocks is for emit_strategy: threshold; write that, or remove it")
        return self

    @field_validator("datasets", mode="before")
    @classmethod
    def _canonical(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return tuple(canonical_dataset(name) if isinstance(name, str) else name for name in value)
