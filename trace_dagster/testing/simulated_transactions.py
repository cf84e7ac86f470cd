"""How the transactions of a simulated chain are made: senders, kinds, logs and traces."""

from collections.abc import Callable
from typing import Final, NamedTuple

from eth_hash.backends.pycryptodome import keccak256

from trace_dagster.testing.simulated_records import (
    SimulatedLog,
    SimulatedTrace,
    SimulatedTransaction,
)

__all__ = ["CODE", "EMPTY_TRIE_ROOT", "TRANSFER_TOPIC", "Accounts", "make_transaction", "traces_of"]

EMPTY_TRIE_ROOT: Final = bytes.fromhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421")
TRANSFER_TOPIC: Final = bytes.fromhex("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef")
_SWAP_TOPIC: Final = bytes.fromhex("d78ad95fa46c994b6551d0da85fc275fe613ce37657fb8d5e3d130840159d822")
_TRANSFER: Final = bytes.fromhex("a9059cbb")
_TRANSFER_FROM: Final = bytes.fromhex("23b872dd")
_BALANCE_OF: Final = bytes.fromhex("70a08231")
_SWAP: Final = bytes.fromhex("022c0d9f")

_ACCOUNTS: Final = 1009  # a prime, so that every multiplier below it visits every account once
_TOKENS, _NFTS, _POOLS = 32, 8, 8
_NFT_IDS: Final = 1024
_TRUE: Final = (1).to_bytes(32, "big")
CODE: Final = bytes.fromhex("6080604052600080fd00")
_INIT_CODE: Final = bytes.fromhex("600a600c600039600a6000f3") + CODE
_KINDS: Final = (
    *("transfer",) * 6,
    *("token",) * 5,
    "nft",
    *("swap",) * 2,
    "failed",
    "creation",
)
_INTRINSIC_GAS: Final = 21_000  # without what call data costs
_TYPES: Final = (0, 0, 1, 2, 2, 2, 2, 2)


class Accounts:
    """The accounts and contracts of a chain, and whose turn it is to send.

    In every epoch of as many transactions as there are accounts, each account sends once, in an order of
    the epoch's own; so the epoch is the nonce.

    Args:
        draw: returns 64 bytes for a label and an index.
    """

    def __init__(self, draw: Callable[[bytes, int], bytes]) -> None:
        self._draw = draw
        self._addresses = [draw(b"account", index)[:20] for index in range(_ACCOUNTS)]
        self._indices = {address: index for index, address in enumerate(self._addresses)}
        self.tokens = [draw(b"token", index)[:20] for index in range(_TOKENS)]
        self.nfts = [draw(b"nft", index)[:20] for index in range(_NFTS)]
        self.pools = [draw(b"pool", index)[:20] for index in range(_POOLS)]
        self._order: tuple[int, int, int] = (-1, 0, 0)

    def account(self, index: int) -> bytes:
        """Return the address of account ``index``, taken modulo the number of accounts."""
        return self._addresses[index % _ACCOUNTS]

    def knows(self, address: bytes) -> bool:
        """Whether ``address`` is one of the accounts, which have no code."""
        return address in self._indices

    def sender(self, position: int) -> tuple[bytes, int]:
        """Return sender and nonce of the transaction at ``position`` of the chain."""
        epoch, turn = divmod(position, _ACCOUNTS)
        multiplier, offset = self._epoch(epoch)
        return self._addresses[(turn * multiplier + offset) % _ACCOUNTS], epoch

    def sent_before(self, address: bytes, number: int) -> int:
        """Return how many of the first ``number`` transactions of the chain ``address`` sent."""
        index = self._indices.get(address)
        if index is None:
            return 0
        epoch, turns = divmod(number, _ACCOUNTS)
        multiplier, offset = self._epoch(epoch)
        turn = (index - offset) * pow(multiplier, -1, _ACCOUNTS) % _ACCOUNTS
        return epoch + (turn < turns)

    def _epoch(self, epoch: int) -> tuple[int, int]:
        known, multiplier, offset = self._order
        if known != epoch:
            drawn = self._draw(b"epoch", epoch)
            multiplier = int.from_bytes(drawn[:8], "big") % (_ACCOUNTS - 1) + 1
            offset = int.from_bytes(drawn[8:16], "big") % _ACCOUNTS
            self._order = (epoch, multiplier, offset)
        return multiplier, offset


class _Action(NamedTuple):
    to_address: bytes | None
    value: int
    input: bytes
    gas_used: int
    events: tuple[tuple[bytes, tuple[bytes, ...], bytes], ...] = ()


def make_transaction(
    drawn: bytes,
    accounts: Accounts,
    *,
    position: int,
    transaction_index: int,
    base_fee: int,
    gas_before: int,
    log_index: int,
) -> SimulatedTransaction:
    """Return the transaction at ``position`` of the chain.

    Args:
        drawn: 64 random bytes of its own.
        accounts: who can send and what can be called.
        position: place on the whole chain.
        transaction_index: position in its block.
        base_fee: of its block, wei.
        gas_before: gas used by the block's earlier transactions.
        log_index: index of its first log.
    """
    sender, nonce = accounts.sender(position)
    kind = _KINDS[drawn[32] & 15]
    action = _ACTIONS[kind](drawn, accounts, sender)
    kind_of_fee = _TYPES[drawn[33] & 7]
    tip = 10**6 * drawn[34]
    dynamic = kind_of_fee == 2
    return SimulatedTransaction(
        transaction_index=transaction_index,
        position=position,
        kind=kind,
        hash=drawn[:32],
        nonce=nonce,
        from_address=sender,
        to_address=action.to_address,
        value=action.value,
        input=action.input,
        gas_limit=action.gas_used if kind == "transfer" else action.gas_used * 5 // 4,
        gas_used=action.gas_used,
        cumulative_gas_used=gas_before + action.gas_used,
        gas_price=base_fee + tip,
        transaction_type=kind_of_fee,
        max_priority_fee_per_gas=tip if dynamic else None,
        max_fee_per_gas=2 * base_fee + tip if dynamic else None,
        success=kind != "failed",
        contract_address=_created_address(sender, nonce) if kind == "creation" else None,
        logs=tuple(SimulatedLog(log_index + at, *event) for at, event in enumerate(action.events)),
    )


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _padded(address: bytes) -> bytes:
    return bytes(12) + address


def _number(drawn: bytes, at: int, size: int) -> int:
    return int.from_bytes(drawn[at : at + size], "big")


def _transfer(drawn: bytes, accounts: Accounts, _sender: bytes) -> _Action:
    # Up to 2^70 wei, so that values above 64 bits are common.
    return _Action(accounts.account(_number(drawn, 35, 2)), _number(drawn, 37, 9) >> 2, b"", 21_000)


def _token(drawn: bytes, accounts: Accounts, sender: bytes) -> _Action:
    token, recipient = accounts.tokens[drawn[35] % _TOKENS], accounts.account(_number(drawn, 36, 2))
    amount = _word(_number(drawn, 38, 10))
    event = (token, (TRANSFER_TOPIC, _padded(sender), _padded(recipient)), amount)
    return _Action(token, 0, _TRANSFER + _padded(recipient) + amount, 46_000 + drawn[48] * 16, (event,))


def _nft(drawn: bytes, accounts: Accounts, sender: bytes) -> _Action:
    nft, recipient = accounts.nfts[drawn[35] % _NFTS], accounts.account(_number(drawn, 36, 2))
    topics = (_padded(sender), _padded(recipient), _word(_number(drawn, 38, 2) % _NFT_IDS))
    data = _TRANSFER_FROM + b"".join(topics)
    return _Action(nft, 0, data, 61_000 + drawn[48] * 16, ((nft, (TRANSFER_TOPIC, *topics), b""),))


def _swap(drawn: bytes, accounts: Accounts, sender: bytes) -> _Action:
    pool = accounts.pools[drawn[35] % _POOLS]
    sold, bought = _swapped(drawn, accounts)
    paid, got = _word(_number(drawn, 38, 9)), _word(_number(drawn, 47, 9))
    events: tuple[tuple[bytes, tuple[bytes, ...], bytes], ...] = (
        (sold, (TRANSFER_TOPIC, _padded(sender), _padded(pool)), paid),
        (bought, (TRANSFER_TOPIC, _padded(pool), _padded(sender)), got),
        (pool, (_SWAP_TOPIC, _padded(sender), _padded(sender)), paid + bytes(64) + got),
    )
    if drawn[56] < 64:
        events += ((pool, (), drawn[57:]),)  # an anonymous event has no topic
    return _Action(
        pool, drawn[57] * 10**15, _SWAP + paid + got + _padded(sender), 110_000 + drawn[48] * 64, events
    )


def _swapped(drawn: bytes, accounts: Accounts) -> tuple[bytes, bytes]:
    sold = drawn[36] % _TOKENS
    return accounts.tokens[sold], accounts.tokens[(sold + 1 + drawn[37] % (_TOKENS - 1)) % _TOKENS]


def _failed(drawn: bytes, accounts: Accounts, sender: bytes) -> _Action:
    return _token(drawn, accounts, sender)._replace(gas_used=30_000 + drawn[48] * 16, events=())


def _creation(drawn: bytes, _accounts: Accounts, _sender: bytes) -> _Action:
    return _Action(None, 0, _INIT_CODE + drawn[48:], 60_000 + 200 * len(CODE))


def _created_address(sender: bytes, nonce: int) -> bytes:
    """Return the true address of the contract that transaction ``nonce`` of ``sender`` creates."""
    # RLP of [sender, nonce]: a list of a 20-byte string and an integer without leading zeros.
    number = nonce.to_bytes((nonce.bit_length() + 7) // 8, "big")
    item = number if len(number) == 1 and nonce < 0x80 else bytes([0x80 + len(number)]) + number
    body = b"\x94" + sender + item
    return bytes(keccak256(bytes([0xC0 + len(body)]) + body)[12:])


_ACTIONS: Final[dict[str, Callable[[bytes, Accounts, bytes], _Action]]] = {
    "transfer": _transfer,
    "token": _token,
    "nft": _nft,
    "swap": _swap,
    "failed": _failed,
    "creation": _creation,
}


def traces_of(transaction: SimulatedTransaction) -> tuple[SimulatedTrace, ...]:
    """Return the call frames of ``transaction``, depth first, the root first."""
    children = _children(transaction)
    created = transaction.contract_address
    failed = not transaction.success
    root = SimulatedTrace(
        action_type="create" if created else "call",
        call_type=None if created else "call",
        from_address=transaction.from_address,
        to_address=transaction.to_address,
        value=transaction.value,
        gas=transaction.gas_limit - _INTRINSIC_GAS,
        gas_used=None if failed else transaction.gas_used - _INTRINSIC_GAS,
        input=transaction.input,
        output=None if failed else _output(transaction.kind),
        created_address=created,
        subtraces=len(children),
        error="Reverted" if failed else None,
    )
    return (root, *children)


def _output(kind: str) -> bytes:
    return {"token": _TRUE, "creation": CODE}.get(kind, b"")


def _children(transaction: SimulatedTransaction) -> tuple[SimulatedTrace, ...]:
    contract = transaction.to_address
    if contract is None or transaction.kind not in ("swap", "failed"):
        return ()
    if transaction.kind == "failed":
        call = _BALANCE_OF + _padded(transaction.from_address)
        return (_call("staticcall", contract, contract, call, output=bytes(32), at=0),)
    paid, got = transaction.logs[0], transaction.logs[1]
    sender = _padded(transaction.from_address)
    take = _TRANSFER_FROM + sender + paid.topics[2] + paid.data
    look = _BALANCE_OF + _padded(contract)
    give = _TRANSFER + sender + got.data
    return (
        _call("call", contract, paid.address, take, output=_TRUE, at=0),
        _call("staticcall", contract, paid.address, look, output=paid.data, at=1),
        _call("call", contract, got.address, give, output=_TRUE, at=2),
    )


def _call(
    call_type: str, caller: bytes, callee: bytes, data: bytes, *, output: bytes, at: int
) -> SimulatedTrace:
    gas_used = 2_600 if call_type == "staticcall" else 28_000
    return SimulatedTrace(
        action_type="call",
        call_type=call_type,
        from_address=caller,
        to_address=callee,
        value=0,
        gas=gas_used + 2_300,
        gas_used=gas_used,
        input=data,
        output=output,
        created_address=None,
        trace_address=(at,),
    )
