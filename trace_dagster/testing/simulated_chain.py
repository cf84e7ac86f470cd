"""A deterministic simulated EVM chain, for tests and for the engine ``stub``.

Every block is a pure function of ``(seed, chain_id, number)`` and costs the same wherever it lies, so that
ranges made apart, in any order and by any process, still link: parent hashes, nonces and positions agree.

>>> chain = SimulatedChain(chain_id=10143)
>>> chain.block(1000).parent_hash == chain.block(999).hash
True
>>> chain.table("logs", BlockRange(0, 99)).column_names[:4]
['block_number', 'block_hash', 'transaction_index', 'log_index']
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from trace_dagster.chain.headers import Header
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.testing.simulated_records import SimulatedBlock, SimulatedTransaction
from trace_dagster.testing.simulated_transactions import EMPTY_TRIE_ROOT, Accounts, make_transaction

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["GENESIS_TIMESTAMP", "LAST_BLOCK", "BlockRange", "SimulatedChain"]

GENESIS_TIMESTAMP: Final = 1_700_000_000
LAST_BLOCK: Final = 2_500_000_000
"""The last block: later timestamps would pass the 32 bits of Cryo's column."""

_PERIOD: Final = 16
_COUNTS: Final = (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 13)
"""Transactions of a period's blocks, in an order of its own; the fixed sum makes positions computable."""

_PER_PERIOD: Final = sum(_COUNTS)
_GAS_LIMIT: Final = 30_000_000
_EXTRA_DATA: Final = b"trace-dagster synthetic"


class SimulatedChain:
    """A chain of blocks with four transactions on average, all of it made up.

    What holds: parent hashes link; positions of transactions, logs and traces are dense; logs and traces
    belong to existing, successful or failed, transactions; gas adds up; nonces of every sender count up by
    one; the logs bloom and the addresses of created contracts are true. What does not: hashes are BLAKE2b
    of a position, roots are no roots, signatures are missing, balances are not carried on.

    Args:
        seed: another seed is another chain.
        chain_id: EIP-155 chain id; also makes another chain.

    Attributes:
        seed: as given.
        chain_id: as given.
        accounts: its senders and contracts.
    """

    def __init__(self, *, seed: int = 0, chain_id: int = 1) -> None:
        self.seed = seed
        self.chain_id = chain_id
        self._base = hashlib.blake2b(f"trace-dagster simulated chain {seed} {chain_id}".encode())
        self.accounts = Accounts(self.draw)
        self._period: tuple[int, tuple[int, ...], tuple[int, ...]] = (-1, (), ())

    def block_hash(self, number: int) -> bytes:
        """Return the hash of block ``number``, 32 bytes."""
        return self.draw(b"block", number)[:32]

    def block(self, number: int) -> SimulatedBlock:
        """Return block ``number`` with its transactions and logs.

        Raises:
            ValueError: ``number`` is negative or above ``LAST_BLOCK``.
        """
        if not 0 <= number <= LAST_BLOCK:
            raise ValueError(f"block {number} is not on the simulated chain: it has blocks 0 to {LAST_BLOCK}")
        roots, tries, rest = (self.draw(label, number) for label in (b"roots", b"tries", b"header"))
        base_fee = 10**9 + int.from_bytes(rest[:4], "big")
        transactions = self._transactions(number, base_fee)
        return SimulatedBlock(
            number=number,
            hash=self.block_hash(number),
            parent_hash=self.block_hash(number - 1) if number else bytes(32),
            author=self.accounts.account(int.from_bytes(rest[4:6], "big") % 16),
            state_root=roots[:32],
            transactions_root=tries[:32] if transactions else EMPTY_TRIE_ROOT,
            receipts_root=tries[32:] if transactions else EMPTY_TRIE_ROOT,
            gas_limit=_GAS_LIMIT,
            gas_used=transactions[-1].cumulative_gas_used if transactions else 0,
            base_fee_per_gas=base_fee,
            timestamp=GENESIS_TIMESTAMP + number,
            extra_data=_EXTRA_DATA,
            transactions=transactions,
        )

    def header(self, number: int) -> Header:
        """Return the header of block ``number``, as a node tells it; errors as ``block``."""
        return self.block(number).header

    def blocks(self, blocks: BlockRange) -> Iterator[SimulatedBlock]:
        """Yield the blocks of a range, both ends inclusive."""
        for number in range(blocks.start_block, blocks.end_block + 1):
            yield self.block(number)

    def transaction_count(self, number: int) -> int:
        """Return how many transactions block ``number`` has."""
        return self._positions(number)[1]

    def nonce(self, account: bytes, number: int) -> int:
        """Return the nonce of ``account`` after block ``number``; 0 for an address that never sends."""
        first, count = self._positions(number)
        return self.accounts.sent_before(account, first + count)

    def draw(self, label: bytes, index: int) -> bytes:
        """Return 64 bytes that depend on the chain, ``label`` and ``index`` only."""
        digest = self._base.copy()
        digest.update(label + index.to_bytes(8, "big"))
        return digest.digest()

    def tables(
        self,
        datasets: Iterable[str],
        blocks: BlockRange,
        filters: Mapping[str, Sequence[str]] | None = None,
    ) -> "dict[str, pa.Table]":
        """Return the rows of datasets for a range, both ends inclusive, in Cryo's order and columns.

        Args:
            datasets: canonical names of ``trace_dagster.chain.schemas.DATASETS``.
            blocks: the range; all of its rows are held in memory.
            filters: as in a job's config, e.g. ``{"address": ["0x.."]}``; each dataset heeds those that it
                takes. One about the state of accounts gives a few accounts of its own without an ``address``.

        Raises:
            ValueError: no such dataset, blocks that are not on the chain, or a filter that is not hex.
        """
        from trace_dagster.testing.simulated_datasets import rows_of  # noqa: PLC0415 (needs pyarrow)

        made = tuple(self.blocks(blocks))
        return {dataset: rows_of(self, dataset, made, filters or {}) for dataset in datasets}

    def table(
        self,
        dataset: str,
        blocks: BlockRange,
        filters: Mapping[str, Sequence[str]] | None = None,
    ) -> "pa.Table":
        """Return the rows of one dataset; see ``tables``."""
        return self.tables((dataset,), blocks, filters)[dataset]

    def _transactions(self, number: int, base_fee: int) -> tuple[SimulatedTransaction, ...]:
        first, count = self._positions(number)
        made: list[SimulatedTransaction] = []
        gas, log_index = 0, 0
        for index in range(count):
            position = first + index
            transaction = make_transaction(
                self.draw(b"transaction", position),
                self.accounts,
                position=position,
                transaction_index=index,
                base_fee=base_fee,
                gas_before=gas,
                log_index=log_index,
            )
            gas = transaction.cumulative_gas_used
            log_index += len(transaction.logs)
            made.append(transaction)
        return tuple(made)

    def _positions(self, number: int) -> tuple[int, int]:
        """Return the chain-wide position of the block's first transaction, and how many it has."""
        period, at = divmod(number, _PERIOD)
        known, counts, firsts = self._period
        if known != period:
            counts = self._counts(period)
            firsts = tuple(accumulate(counts, initial=period * _PER_PERIOD))
            self._period = (period, counts, firsts)
        return firsts[at], counts[at]

    def _counts(self, period: int) -> tuple[int, ...]:
        keys = self.draw(b"period", period)
        order = sorted(range(_PERIOD), key=lambda at: (keys[4 * at : 4 * at + 4], at))
        if period == 0:
            order.remove(0)
            order.insert(0, 0)  # block 0 is a genesis without transactions
        return tuple(_COUNTS[at] for at in order)
