"""What a simulated chain holds: blocks, transactions, logs and traces, as plain records."""

from typing import NamedTuple

from trace_dagster.chain.bloom import BLOOM_BYTES, bloom_of
from trace_dagster.chain.headers import Header

__all__ = ["SimulatedBlock", "SimulatedLog", "SimulatedTrace", "SimulatedTransaction"]


class SimulatedLog(NamedTuple):
    """One event.

    Attributes:
        log_index: position in its block, dense from 0.
        address: the emitting contract, 20 bytes.
        topics: 0 to 4 topics of 32 bytes each.
        data: ABI-encoded rest.
    """

    log_index: int
    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


class SimulatedTrace(NamedTuple):
    """One call frame of a transaction, in Parity's terms.

    Attributes:
        action_type: ``call`` or ``create``.
        call_type: ``call`` or ``staticcall``; None for a creation.
        from_address: the caller, 20 bytes.
        to_address: the callee, 20 bytes; None for a creation.
        value: wei.
        gas: gas given to the frame.
        gas_used: gas used by it; None where it failed.
        input: call data; for a creation the init code.
        output: returned bytes, for a creation the new code; None where it failed.
        created_address: the new contract; None for a call and for a failure.
        trace_address: path from the root frame, which is ``()``.
        subtraces: number of direct child frames.
        error: ``Reverted``, or None.
    """

    action_type: str
    call_type: str | None
    from_address: bytes
    to_address: bytes | None
    value: int
    gas: int
    gas_used: int | None
    input: bytes
    output: bytes | None
    created_address: bytes | None
    trace_address: tuple[int, ...] = ()
    subtraces: int = 0
    error: str | None = None


class SimulatedTransaction(NamedTuple):
    """One transaction with its receipt. Amounts are wei, gas prices wei per gas.

    Attributes:
        transaction_index: position in its block, dense from 0.
        position: place on the whole chain, dense from 0.
        kind: what it does: ``transfer``, ``token``, ``nft``, ``swap``, ``failed`` or ``creation``.
        hash: 32 bytes.
        nonce: transactions of the same sender before this one.
        from_address: the sender, 20 bytes.
        to_address: 20 bytes, or None for a contract creation.
        value: wei sent.
        input: call data or init code.
        gas_limit: gas allowed.
        gas_used: gas used.
        cumulative_gas_used: gas used by this and the earlier transactions of the block.
        gas_price: the effective price.
        transaction_type: 0 (legacy), 1 (access list) or 2 (dynamic fee).
        max_priority_fee_per_gas: for type 2, else None.
        max_fee_per_gas: for type 2, else None.
        success: receipt status.
        contract_address: the created contract, or None.
        logs: its events; empty where it failed.
    """

    transaction_index: int
    position: int
    kind: str
    hash: bytes
    nonce: int
    from_address: bytes
    to_address: bytes | None
    value: int
    input: bytes
    gas_limit: int
    gas_used: int
    cumulative_gas_used: int
    gas_price: int
    transaction_type: int
    max_priority_fee_per_gas: int | None
    max_fee_per_gas: int | None
    success: bool
    contract_address: bytes | None
    logs: tuple[SimulatedLog, ...]

    @property
    def rlp_bytes(self) -> int:
        """About the length of the encoded transaction."""
        return (110, 117, 122)[self.transaction_type] + len(self.input)


class SimulatedBlock(NamedTuple):
    """One block. Hashes and roots are 32 bytes.

    Attributes:
        number: its height.
        hash: a pure function of seed, chain and number; not the hash of an encoded header.
        parent_hash: ``hash`` of the block before; 32 zero bytes for block 0.
        author: 20 bytes.
        state_root: made up.
        transactions_root: made up, or the root of an empty trie where there are no transactions.
        receipts_root: likewise.
        gas_limit: 30,000,000.
        gas_used: of all its transactions.
        base_fee_per_gas: wei; does not follow EIP-1559 from block to block.
        timestamp: seconds since 1970; one block a second.
        extra_data: says that the block is synthetic.
        transactions: in order.
    """

    number: int
    hash: bytes
    parent_hash: bytes
    author: bytes
    state_root: bytes
    transactions_root: bytes
    receipts_root: bytes
    gas_limit: int
    gas_used: int
    base_fee_per_gas: int
    timestamp: int
    extra_data: bytes
    transactions: tuple[SimulatedTransaction, ...]

    @property
    def size(self) -> int:
        """About the length of the encoded block, in bytes."""
        return 540 + sum(transaction.rlp_bytes for transaction in self.transactions)

    @property
    def logs(self) -> tuple[SimulatedLog, ...]:
        """The logs of all transactions, in order."""
        return tuple(log for transaction in self.transactions for log in transaction.logs)

    @property
    def logs_bloom(self) -> bytes:
        """The true bloom filter of its logs, 256 bytes."""
        values = (value for log in self.logs for value in (log.address, *log.topics))
        return bloom_of(values).to_bytes(BLOOM_BYTES, "big")

    @property
    def header(self) -> Header:
        """The block as a node's header tells it."""
        return Header(
            number=self.number,
            hash=self.hash,
            parent_hash=self.parent_hash,
            timestamp=self.timestamp,
            author=self.author,
            state_root=self.state_root,
            transactions_root=self.transactions_root,
            receipts_root=self.receipts_root,
            gas_used=self.gas_used,
            extra_data=self.extra_data,
            logs_bloom=self.logs_bloom,
            size=self.size,
            base_fee_per_gas=self.base_fee_per_gas,
            transaction_hashes=tuple(made.hash for made in self.transactions),
        )
