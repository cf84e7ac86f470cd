"""Real blocks, as data beside the checkout, served as a node would serve them.

They are not part of the project; ``TRACE_CHAIN_FIXTURES`` names their folder, else ``../shared/fixtures``.
"""

import gzip
import json
import os
from pathlib import Path
from typing import Any

from tests.support.fault_proxy import FaultProxy

ROOT = Path(os.environ.get("TRACE_CHAIN_FIXTURES", "../shared/fixtures"))


def real_sets() -> list[str]:
    """Return the names of the sets that are there."""
    return sorted(path.parent.name for path in ROOT.glob("*/meta.json"))


class RealBlocks:
    """The blocks of one set.

    Attributes:
        chain_id: their chain.
        blocks: number to ``{"block": ..., "receipts": ...}``.
    """

    def __init__(self, name: str) -> None:
        self.chain_id: int = json.loads((ROOT / name / "meta.json").read_text())["chain_id"]
        self.blocks: dict[int, dict[str, Any]] = {}
        for path in (ROOT / name / "rpc").iterdir():
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            answers = json.loads(data)
            self.blocks[int(answers["block"]["number"], 16)] = answers
        self.first, self.last = min(self.blocks), max(self.blocks)

    def serve(self, proxy: FaultProxy) -> None:
        """Make ``proxy`` answer for these blocks, and for the one before them as far as it is known."""
        proxy.results = {
            "eth_chainId": hex(self.chain_id),
            "eth_blockNumber": hex(self.last),
            "eth_getBlockByNumber": self._block,
            "eth_getBlockReceipts": lambda params: self.blocks[int(params[0], 16)]["receipts"],
            "eth_getTransactionReceipt": self._receipt,
            "eth_getLogs": self._logs,
        }

    def _block(self, params: list[Any]) -> Any:
        number, full = int(params[0], 16), params[1]
        if number == self.first - 1:
            first = self.blocks[self.first]["block"]
            return {**first, "number": hex(number), "hash": first["parentHash"], "transactions": []}
        block = self.blocks[number]["block"]
        transactions = block["transactions"]
        return block if full else {**block, "transactions": [_hash(one) for one in transactions]}

    def _receipt(self, params: list[Any]) -> Any:
        return next(
            (
                receipt
                for answers in self.blocks.values()
                for receipt in answers["receipts"] or []
                if receipt["transactionHash"] == params[0]
            ),
            None,
        )

    def _logs(self, params: list[Any]) -> Any:
        receipts = self.blocks[int(params[0]["fromBlock"], 16)]["receipts"] or []
        return [log for receipt in receipts for log in receipt["logs"]]


def _hash(transaction: Any) -> str:
    return transaction if isinstance(transaction, str) else transaction["hash"]
