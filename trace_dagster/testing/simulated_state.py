"""Rows of the datasets about state: diffs, reads, and values of accounts and contracts at a block.

Nonces are true to the chain. Balances, storage and supplies are made up for each row: a difference has the
right size, but values are not carried from one transaction to the next.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from eth_hash.backends.pycryptodome import keccak256

from trace_dagster.testing.simulated_records import SimulatedBlock, SimulatedTrace, SimulatedTransaction
from trace_dagster.testing.simulated_rows import Blocks, Filters, Row, frame_row
from trace_dagster.testing.simulated_transactions import CODE, traces_of

if TYPE_CHECKING:
    from trace_dagster.testing.simulated_chain import SimulatedChain

__all__ = [
    "balance_diffs",
    "balance_reads",
    "balances",
    "code_diffs",
    "code_reads",
    "codes",
    "erc20_balances",
    "erc20_metadata",
    "erc20_supplies",
    "erc721_metadata",
    "eth_calls",
    "nonce_diffs",
    "nonce_reads",
    "nonces",
    "slots",
    "storage_diffs",
    "storage_reads",
    "trace_calls",
]

_ETHER: Final = 10**18
_SUPPLY: Final = 10**9 * _ETHER
_TOTAL_SUPPLY_CALL: Final = bytes.fromhex("18160ddd")


def _transactions(of: Blocks) -> Iterator[tuple[Row, SimulatedBlock, SimulatedTransaction]]:
    for block in of:
        for made in block.transactions:
            yield (block.number, made.transaction_index, made.hash), block, made


def _balance(chain: "SimulatedChain", address: bytes, number: int) -> int:
    """Return a balance between 10^6 and 10^6 + 18 ether that depends on address and number only."""
    return 10**6 * _ETHER + int.from_bytes(chain.draw(address, number)[:8], "big")


def balance_diffs(chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield what each transaction took from its sender, gave its recipient, and paid the block's author."""
    for place, block, made in _transactions(of):
        fee = made.gas_used * made.gas_price
        changes = {made.from_address: -fee}
        tip = made.gas_used * (made.gas_price - block.base_fee_per_gas)
        moved = made.value if made.success else 0
        recipient = made.to_address or made.contract_address or made.from_address
        for address, change in ((made.from_address, -moved), (recipient, moved), (block.author, tip)):
            changes[address] = changes.get(address, 0) + change
        for address, change in sorted(changes.items()):
            before = _balance(chain, address, made.position)
            if change:
                yield *place, address, before, before + change


def balance_reads(chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield the balances that each transaction looks at: of its sender and its recipient."""
    for place, _, made in _transactions(of):
        for address in sorted({made.from_address, made.to_address or made.from_address}):
            yield *place, address, _balance(chain, address, made.position)


def nonce_diffs(_chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield the nonces that each transaction raises: of its sender, and of a contract it creates."""
    for place, _, made in _transactions(of):
        raised = {made.from_address: made.nonce}
        if made.contract_address is not None:
            raised[made.contract_address] = 0
        for address, nonce in sorted(raised.items()):
            yield *place, address, nonce, nonce + 1


def nonce_reads(_chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield the nonce of each transaction's sender before it."""
    for place, _, made in _transactions(of):
        yield *place, made.from_address, made.nonce


def code_diffs(_chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield the code of each created contract, empty before."""
    for place, _, made in _transactions(of):
        if made.contract_address is not None:
            yield *place, made.contract_address, b"", CODE


def code_reads(_chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield the code of each contract that a transaction calls, directly or not."""
    for place, _, made in _transactions(of):
        called = {frame.to_address for frame in traces_of(made) if frame.to_address and frame.input}
        for address in sorted(called):
            yield *place, address, CODE


def _slots_of(made: SimulatedTransaction) -> Iterator[tuple[bytes, bytes]]:
    """Yield contract and slot of the two balances that each token transfer changes."""
    for log in made.logs:
        for holder in log.topics[1:3]:
            yield log.address, bytes(keccak256(holder + bytes(32)))


def _slot_value(chain: "SimulatedChain", address: bytes, slot: bytes, number: int) -> bytes:
    return bytes(16) + chain.draw(address + slot, number)[:16]


def storage_diffs(chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield the storage slots that each transaction changes."""
    for place, _, made in _transactions(of):
        for address, slot in sorted(set(_slots_of(made))):
            before, after = (_slot_value(chain, address, slot, made.position + at) for at in (0, 1))
            yield *place, address, slot, before, after


def storage_reads(chain: "SimulatedChain", of: Blocks, _filters: Filters) -> Iterator[Row]:
    """Yield the storage slots that each transaction reads."""
    for place, _, made in _transactions(of):
        for address, slot in sorted(set(_slots_of(made))):
            yield *place, address, slot, _slot_value(chain, address, slot, made.position)


def _at_blocks(
    of: Blocks, filters: Filters, name: str, otherwise: Sequence[bytes]
) -> Iterator[tuple[int, bytes]]:
    """Yield every block with every address that a filter asks for, or with a few of the chain's own."""
    addresses = sorted(set(filters.get(name) or otherwise))
    for block in of:
        for address in addresses:
            yield block.number, address


def _some_accounts(chain: "SimulatedChain") -> list[bytes]:
    return [chain.accounts.account(index) for index in range(2)]


def balances(chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield the balance of each address after each block."""
    for number, address in _at_blocks(of, filters, "address", _some_accounts(chain)):
        yield number, address, _balance(chain, address, number)


def nonces(chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield the nonce of each address after each block."""
    for number, address in _at_blocks(of, filters, "address", _some_accounts(chain)):
        yield number, address, chain.nonce(address, number)


def codes(chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield the code at each address; accounts that send have none."""
    for number, address in _at_blocks(of, filters, "address", chain.accounts.tokens[:2]):
        yield number, address, b"" if chain.accounts.knows(address) else CODE


def slots(chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield each storage slot of each address."""
    wanted = sorted({slot.rjust(32, b"\0") for slot in filters.get("slot") or (bytes(32),)})
    for number, address in _at_blocks(of, filters, "address", chain.accounts.tokens[:2]):
        for slot in wanted:
            yield number, address, slot, _slot_value(chain, address, slot, number)


def erc20_balances(chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield what each address holds of each token after each block."""
    holders = sorted(set(filters.get("address") or _some_accounts(chain)))
    for number, token in _at_blocks(of, filters, "contract", chain.accounts.tokens[:2]):
        for address in holders:
            yield number, token, address, _balance(chain, token + address, number)


def erc20_supplies(chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield the total supply of each token after each block."""
    for number, token in _at_blocks(of, filters, "address", chain.accounts.tokens[:2]):
        yield number, token, _SUPPLY


def erc20_metadata(chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield name, symbol and decimals of each token."""
    for number, token in _at_blocks(of, filters, "address", chain.accounts.tokens[:2]):
        yield number, token, f"Synthetic Token {token[:2].hex()}", f"S{token[:2].hex().upper()}", 18


def erc721_metadata(chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield name and symbol of each collection."""
    for number, nft in _at_blocks(of, filters, "address", chain.accounts.nfts[:2]):
        yield number, nft, f"Synthetic Collection {nft[:2].hex()}", f"N{nft[:2].hex().upper()}"


def _calls(chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[tuple[int, bytes, bytes]]:
    wanted = sorted(set(filters.get("call_data") or (_TOTAL_SUPPLY_CALL,)))
    for number, contract in _at_blocks(of, filters, "contract", chain.accounts.tokens[:2]):
        for data in wanted:
            yield number, contract, data


def eth_calls(chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield the outcome of each call of each contract at each block: always the total supply."""
    output = _SUPPLY.to_bytes(32, "big")
    output_hash = bytes(keccak256(output))
    for number, contract, data in _calls(chain, of, filters):
        yield number, contract, data, bytes(keccak256(data)), output, output_hash


def trace_calls(chain: "SimulatedChain", of: Blocks, filters: Filters) -> Iterator[Row]:
    """Yield the single frame of each call of each contract at each block."""
    for number, contract, data in _calls(chain, of, filters):
        yield number, 0, *frame_row(_frame(contract, data)), None, contract, data


def _frame(contract: bytes, data: bytes) -> SimulatedTrace:
    return SimulatedTrace(
        action_type="call",
        call_type="call",
        from_address=bytes(20),
        to_address=contract,
        value=0,
        gas=30_000_000,
        gas_used=2_600,
        input=data,
        output=_SUPPLY.to_bytes(32, "big"),
        created_address=None,
    )
