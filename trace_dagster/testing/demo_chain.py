"""A small, real EVM chain on anvil with a bit of everything that chain data holds."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, cast

from web3 import HTTPProvider, Web3
from web3.types import TxParams

__all__ = ["ANVIL_ARGUMENTS", "DemoChain", "build_demo_chain"]

ANVIL_ARGUMENTS: Final = (
    *("--no-mining", "--order", "fifo", "--hardfork", "prague", "--accounts", "12"),
    *("--timestamp", "1700000000"),
)
"""How anvil must be started for ``build_demo_chain``; add ``--chain-id``."""

_GWEI: Final = 10**9
_BLOB_BYTES: Final = 4096 * 32
_NO_POINT: Final = b"\xc0" + bytes(47)
"""The point at infinity: KZG commitment and proof of a blob of zeros (EIP-4844)."""
_SELECTORS: Final = {
    # First four bytes of the keccak of each signature in token.vy.
    "transfer": "a9059cbb",
    "approve": "095ea7b3",
    "route": "73c1b64f",
    "boom": "b443a085",
}


@dataclass(frozen=True)
class DemoChain:
    """What was built.

    Attributes:
        chain_id: the node's chain id.
        head: the last block.
        transactions: how many transactions there are, by type (0 to 4).
        kinds: how many transactions there are, by what they do: ``deploy``, ``transfer``, ``token``,
            ``route`` (calls between contracts, many logs), ``revert``, ``blob``, ``delegate``.
    """

    chain_id: int
    head: int
    transactions: Mapping[int, int]
    kinds: Mapping[str, int]


def build_demo_chain(url: str, *, blocks: int = 100, seed: int = 7) -> DemoChain:
    """Mine until block ``blocks - 1`` on a fresh node and return what is on the chain.

    The same seed gives the same transactions. Some blocks stay empty, as on real chains.

    Args:
        url: JSON-RPC endpoint of an anvil started with ``ANVIL_ARGUMENTS``.
        blocks: number of blocks, with the genesis block; at least 10.
        seed: of the random choice of transactions.

    Raises:
        ValueError: ``blocks`` is below 10, or the node has blocks already.
    """
    if blocks < 10:
        raise ValueError(f"blocks is {blocks}; it must be at least 10")
    web3 = Web3(HTTPProvider(url, request_kwargs={"timeout": 120}), middleware=[])
    if web3.eth.block_number:
        raise ValueError(f"the node is at block {web3.eth.block_number}; a fresh one is needed")
    builder = _Builder(web3, random.Random(seed))  # noqa: S311 - repeatable on purpose
    builder.mine([builder.deploy, builder.fund_signer])
    builder.mine([builder.deploy])
    while web3.eth.block_number < blocks - 1:
        builder.mine(builder.choose(web3.eth.block_number))
    return DemoChain(
        chain_id=web3.eth.chain_id,
        head=web3.eth.block_number,
        transactions=dict(sorted(builder.types.items())),
        kinds=dict(sorted(builder.kinds.items())),
    )


class _Builder:
    """Sends transactions of several kinds and mines them in order.

    Attributes:
        types: transactions by type.
        kinds: transactions by kind.
    """

    def __init__(self, web3: Web3, rng: random.Random) -> None:
        self._web3 = web3
        self._rng = rng
        self._accounts = list(web3.eth.accounts)
        self._strangers = ["0x" + rng.randbytes(20).hex() for _ in range(20)]
        self._signer = web3.eth.account.from_key(b"trace-dagster demo chain signer!")
        self._signer_nonce = 0
        self._bytecode = files("trace_dagster.testing").joinpath("token.hex").read_text().strip()
        self._contracts: list[str] = []
        self._pending: dict[bytes, int] = {}
        self.types: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()

    def choose(self, block: int) -> list[Callable[[], None]]:
        """Return the transactions of the next block: none to six, blobs and delegations now and then."""
        common = [self.transfer, self.token, self.token, self.approve, self.route, self.revert]
        chosen = [self._rng.choice(common) for _ in range(self._rng.choice([0, 1, 2, 3, 4, 6]))]
        if block % 10 == 4:
            chosen.append(self.delegate)
        if block % 10 == 7:
            chosen.append(self.blob)
        if block % 25 == 9:
            chosen.append(self.deploy)
        return chosen

    def mine(self, transactions: list[Callable[[], None]]) -> None:
        """Send the transactions and mine one block with all of them, 12 seconds after the one before.

        Raises:
            RuntimeError: one is not in the block, or ended with another status than it was made for.
        """
        for send in transactions:
            send()
        self._call("anvil_mine", "0x1", "0xc")
        receipts = self._web3.eth.get_block_receipts("latest")
        if len(receipts) != len(self._pending):
            raise RuntimeError(f"a block holds {len(receipts)} transactions, {len(self._pending)} were sent")
        for receipt in receipts:
            digest = bytes(receipt["transactionHash"])
            if receipt["status"] != self._pending[digest]:
                raise RuntimeError(
                    f"transaction 0x{digest.hex()} has status {receipt['status']}, "
                    f"expected {self._pending[digest]}"
                )
            if receipt["contractAddress"]:
                self._contracts.append(receipt["contractAddress"])
        self._pending.clear()

    def deploy(self) -> None:
        """Deploy the token contract, pointed at the newest one before it."""
        peer = self._contracts[-1] if self._contracts else "0x" + "00" * 20
        self._send("deploy", {"data": self._bytecode + _address(peer), "gas": 3_000_000})

    def fund_signer(self) -> None:
        """Give the account that signs blobs and delegations something to spend."""
        self._send("transfer", {"to": self._signer.address, "value": 10**20, "gas": 21_000}, type_=0)

    def transfer(self) -> None:
        """Send ether to somebody."""
        value = self._rng.randrange(10 ** self._rng.randrange(6, 19))
        self._send("transfer", {"to": self._stranger(), "value": value, "gas": 60_000})

    def token(self) -> None:
        """Send tokens: one log."""
        self._call_token("transfer", _address(self._stranger()) + _number(self._rng.randrange(10**24)))

    def approve(self) -> None:
        """Approve the largest amount there is: one log."""
        self._call_token("approve", _address(self._stranger()) + _number(2**256 - 1))

    def route(self) -> None:
        """Have one contract call another a few times, with a payload of mostly zeros."""
        payload = self._rng.randbytes(self._rng.randrange(0, 96)).hex()
        size = len(payload) // 2
        amount = _number(self._rng.randrange(10**20))
        data = _number(self._rng.randrange(4)) + _address(self._stranger()) + amount
        data += _number(128) + _number(size) + payload + "00" * (-size % 32)
        self._call_token("route", data, kind="route", gas=1_200_000, value=self._rng.randrange(10**12))

    def revert(self) -> None:
        """Call what always reverts: a transaction with status 0 and no logs."""
        self._call_token("boom", _number(1), kind="revert")

    def blob(self) -> None:
        """Send a type 3 transaction with one blob of zeros."""
        fields = {
            "to": self._stranger(),
            "value": 1,
            "gas": 100_000,
            "maxFeePerBlobGas": 10 * _GWEI,
            "type": 3,
        }
        fields |= {
            "blobVersionedHashes": [b"\x01" + hashlib.sha256(_NO_POINT).digest()[1:]],
            "accessList": [],
        }
        sidecar = [_rlp_list(_rlp_bytes(part)) for part in (bytes(_BLOB_BYTES), _NO_POINT, _NO_POINT)]
        self._send_signed("blob", fields, lambda raw: b"\x03" + _rlp_list(raw[1:] + b"".join(sidecar)))

    def delegate(self) -> None:
        """Send a type 4 transaction: the signer's account gets the token's code."""
        authorization = self._signer.sign_authorization(
            {
                "chainId": self._web3.eth.chain_id,
                "address": self._contracts[0],
                "nonce": self._signer_nonce + 1,
            }
        )
        fields = {
            "to": self._stranger(),
            "value": 1,
            "gas": 150_000,
            "authorizationList": [authorization],
            "type": 4,
        }
        self._send_signed("delegate", fields)
        self._signer_nonce += 1  # the authorization takes a nonce of its own

    def _call_token(
        self, function: str, data: str, *, kind: str = "token", gas: int = 100_000, value: int = 0
    ) -> None:
        target = self._rng.choice(self._contracts[1:] or self._contracts)
        self._send(
            kind, {"to": target, "data": "0x" + _SELECTORS[function] + data, "gas": gas, "value": value}
        )

    def _send(self, kind: str, fields: dict[str, Any], *, type_: int | None = None) -> None:
        chosen = self._rng.choices([0, 1, 2], [3, 1, 6])[0] if type_ is None else type_
        fees: dict[str, Any] = {"gasPrice": 3 * _GWEI + self._rng.randrange(_GWEI)}
        if chosen == 1:
            fees["accessList"] = [{"address": self._stranger(), "storageKeys": ["0x" + _number(5)]}]
        if chosen == 2:
            fees = {"maxFeePerGas": 10 * _GWEI, "maxPriorityFeePerGas": self._rng.randrange(_GWEI)}
        fields |= {"from": self._rng.choice(self._accounts), "type": hex(chosen), **fees}
        self._sent(kind, chosen, self._web3.eth.send_transaction(cast("TxParams", fields)))

    def _send_signed(
        self, kind: str, fields: dict[str, Any], pack: Callable[[bytes], bytes] = lambda raw: raw
    ) -> None:
        fields |= {
            "chainId": self._web3.eth.chain_id,
            "nonce": self._signer_nonce,
            "maxFeePerGas": 10 * _GWEI,
            "maxPriorityFeePerGas": _GWEI,
        }
        signed = self._signer.sign_transaction(cast("TxParams", fields))
        self._signer_nonce += 1
        self._sent(kind, fields["type"], self._web3.eth.send_raw_transaction(pack(signed.raw_transaction)))

    def _sent(self, kind: str, type_: int, digest: bytes) -> None:
        self._pending[bytes(digest)] = 0 if kind == "revert" else 1
        self.types[type_] += 1
        self.kinds[kind] += 1

    def _stranger(self) -> str:
        return Web3.to_checksum_address(self._rng.choice(self._strangers))

    def _call(self, method: str, *params: Any) -> Any:
        return self._web3.manager.request_blocking(cast("Any", method), list(params))


def _number(value: int) -> str:
    return format(value, "064x")


def _address(address: str) -> str:
    return address.removeprefix("0x").lower().rjust(64, "0")


def _rlp_bytes(value: bytes) -> bytes:
    """Encode a byte string of at least two bytes."""
    return _rlp_head(len(value), 0x80) + value


def _rlp_list(encoded: bytes) -> bytes:
    """Encode a list whose items are encoded already."""
    return _rlp_head(len(encoded), 0xC0) + encoded


def _rlp_head(size: int, offset: int) -> bytes:
    if size < 56:
        return bytes([offset + size])
    digits = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([offset + 55 + len(digits)]) + digits
