"""Reads the tip of a chain: headers, and whole blocks that follow each other."""

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from trace_dagster.chain.decoding.choose import choose_decoder
from trace_dagster.chain.headers import Header, parse_header
from trace_dagster.chain.profiles import profile_of
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import DataMismatch, WrongChain
from trace_dagster.operators.base import Deadline
from trace_dagster.operators.block_follower.config import BlockFollowerConfig
from trace_dagster.operators.cryo_ingest.native.fetch import Fetcher, FetchLimits
from trace_dagster.operators.cryo_ingest.native.making import Made, Wanted, make
from trace_dagster.operators.cryo_ingest.native.plan import plan_of
from trace_dagster.operators.cryo_ingest.native.reader import Abilities, BlockReader
from trace_dagster.rpc import JsonRpcClient
from trace_dagster.settings import RpcEndpoint

__all__ = ["ChainTip"]

_FEW_BLOCKS: Final = 8
"""So many are asked for over the one open connection; more, over several at once."""


class ChainTip:
    """One endpoint, over one connection that stays open; a context manager.

    Args:
        endpoint: of the pool.
        config: what is followed.
        deadline: when to give up.
    """

    def __init__(self, endpoint: RpcEndpoint, config: BlockFollowerConfig, deadline: Deadline) -> None:
        self._endpoint, self._config, self._deadline = endpoint, config, deadline
        self._plan = plan_of(config.datasets, {})
        self._decoder = choose_decoder()
        self._abilities = Abilities()
        self._open = ExitStack()
        self._client = self._open.enter_context(JsonRpcClient(endpoint, deadline=deadline))
        self._reader = BlockReader(self._client, self._plan, self._decoder, self._abilities)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def check_chain(self) -> None:
        """Do nothing where the endpoint serves the config's chain.

        Raises:
            WrongChain: it serves another.
        """
        found = self._client.chain_id()
        if found != self._config.chain_id:
            raise WrongChain(
                f"rpc_pool {self._config.rpc_pool!r} serves chain {found}, but config.chain_id is "
                f"{self._config.chain_id}; correct one of them"
            )

    def head(self) -> Header:
        """Return the newest block that the endpoint has."""
        return parse_header(None, self._client.call("eth_getBlockByNumber", ["latest", False]))

    def final_block(self, head: Header) -> int | None:
        """Return the last block that ``config.finality`` takes for final; None where there is none yet.

        Raises:
            ReplyError: the node does not know the tag.
        """
        finality = self._config.finality
        if isinstance(finality, int):
            return head.number - finality if head.number >= finality else None
        found = self._client.call("eth_getBlockByNumber", [finality, False])
        return None if found is None else parse_header(None, found).number

    def headers(self, numbers: Sequence[int]) -> list[Header]:
        """Return the headers of blocks that are not above the head.

        Raises:
            DataMismatch: one of them is null: the head is lower now, or another backend answers.
        """
        calls = [("eth_getBlockByNumber", [hex(number), False]) for number in numbers]
        found = self._client.batch(calls)
        return [parse_header(number, one) for number, one in zip(numbers, found, strict=True)]

    def blocks(self, wanted: BlockRange, parent_hash: bytes | None) -> list[Made]:
        """Return checked tables of blocks that follow the one of ``parent_hash``.

        Raises:
            DataMismatch: the answers disagree, or do not follow it.
            RpcError: the endpoint does not answer.
        """
        if wanted.blocks <= _FEW_BLOCKS:
            return [make(self._wanted(wanted), self._reader.read(wanted), parent_hash)]
        with Fetcher(
            self._endpoint, self._wanted(wanted), self._decoder, FetchLimits(), self._deadline
        ) as fetcher:
            made = list(fetcher)
        if parent_hash is not None and made[0].first_parent_hash != parent_hash:
            raise DataMismatch(
                f"block {wanted.start_block} has the parent 0x{made[0].first_parent_hash.hex()}, but block "
                f"{wanted.start_block - 1} is 0x{parent_hash.hex()}"
            )
        return made

    def _wanted(self, blocks: BlockRange) -> Wanted:
        config = self._config
        datasets = config.datasets if "blocks" in config.datasets else ("blocks", *config.datasets)
        return Wanted(
            chain_id=config.chain_id,
            profile=profile_of(config.chain_id),
            datasets=datasets,
            filters={},
            plan=self._plan,
            range=blocks,
        )
