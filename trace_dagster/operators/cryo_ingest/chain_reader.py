"""Reads from the endpoint what extracted rows are checked against."""

from collections.abc import Sequence
from typing import Any, Final

from trace_dagster.chain.headers import Header, check_links, parse_header
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.chain.receipts import BlockReceipts, parse_receipts
from trace_dagster.errors import EngineFailed, WrongChain
from trace_dagster.rpc import JsonRpcClient, ReplyError, RpcConnections

__all__ = ["ChainReader", "check_endpoint"]

_BY_BLOCK: Final = "eth_getBlockReceipts"
_BY_TRANSACTION: Final = "eth_getTransactionReceipt"


def check_endpoint(rpc: JsonRpcClient, chain_id: int, blocks: BlockRange, pool: str) -> None:
    """Check that the endpoint serves the chain, and has the whole range.

    Raises:
        WrongChain: it serves another one.
        EngineFailed: the range ends beyond its head.
        RpcError: it does not answer.
    """
    actual = rpc.chain_id()
    if actual != chain_id:
        raise WrongChain(
            f"rpc_pool {pool!r} serves chain {actual}, but the job's chain_id is {chain_id}; "
            "correct chain_id or rpc_pool"
        )
    head = rpc.block_number()
    if head < blocks.end_block:
        raise EngineFailed(
            f"block {blocks.end_block} does not exist yet at rpc_pool {pool!r}, whose head is block {head}; "
            f"lower end_block to {head} or less, or wait for {blocks.end_block - head} more blocks"
        )


class ChainReader:
    """Reads consecutive runs of blocks, each linked to the one before it.

    Args:
        rpc: the endpoint.
        start_block: first block of the first run; its parent is read too.

    Attributes:
        no_receipts: why receipts cannot be read here; None as long as they can.
    """

    def __init__(self, rpc: RpcConnections, start_block: int) -> None:
        self.no_receipts: str | None = None
        self._rpc = rpc
        self._start_block = start_block
        self._last: Header | None = None
        self._receipts_by_block = True

    def headers(self, blocks: BlockRange) -> list[Header]:
        """Return the headers of the next run, whose parents are checked.

        Raises:
            DataMismatch: a block is null or unreadable, or does not link.
        """
        first = blocks.start_block
        if self._last is None and first > 0:
            self._last = self._fetch(BlockRange.of(first - 1, first - 1))[0]
        headers = self._fetch(blocks)
        check_links(headers, self._last)
        self._last = headers[-1]
        return headers

    def receipts(self, headers: Sequence[Header]) -> list[BlockReceipts] | None:
        """Return the receipts of the blocks; None where the endpoint has no method for them.

        Raises:
            DataMismatch: receipts are missing, repeated, or of another block.
        """
        if self.no_receipts is None and self._receipts_by_block:
            try:
                return self._by_block(headers)
            except ReplyError as error:
                self._unless_unsupported(error)
                self._receipts_by_block = False
        if self.no_receipts is None:
            try:
                return self._by_transaction(headers)
            except ReplyError as error:
                self._unless_unsupported(error)
                self.no_receipts = f"the endpoint has neither {_BY_BLOCK} nor {_BY_TRANSACTION}"
        return None

    def _fetch(self, blocks: BlockRange) -> list[Header]:
        numbers = range(blocks.start_block, blocks.end_block + 1)
        answers = self._rpc.batch([("eth_getBlockByNumber", [hex(number), False]) for number in numbers])
        return [parse_header(number, answer) for number, answer in zip(numbers, answers, strict=True)]

    def _by_block(self, headers: Sequence[Header]) -> list[BlockReceipts]:
        asked = [header for header in headers if header.transaction_hashes]
        answers = iter(self._rpc.batch([(_BY_BLOCK, [hex(header.number)]) for header in asked]))
        return [
            parse_receipts(header, next(answers) if header.transaction_hashes else []) for header in headers
        ]

    def _by_transaction(self, headers: Sequence[Header]) -> list[BlockReceipts]:
        calls: list[tuple[str, Sequence[Any]]] = [
            (_BY_TRANSACTION, [f"0x{transaction_hash.hex()}"])
            for header in headers
            for transaction_hash in header.transaction_hashes
        ]
        answers = iter(self._rpc.batch(calls))
        return [
            parse_receipts(header, [next(answers) for _ in header.transaction_hashes]) for header in headers
        ]

    def _unless_unsupported(self, error: ReplyError) -> None:
        if not error.unsupported:
            raise error
