"""Which methods of Ethereum's JSON-RPC speak of a block, and where in their parameters."""

from collections.abc import Mapping
from typing import Final

__all__ = ["BLOCK_AT", "BY_BLOCK_HASH"]

BLOCK_AT: Final[Mapping[str, int]] = {
    "debug_traceBlockByNumber": 0,
    "debug_traceCall": 1,
    "eth_call": 1,
    "eth_createAccessList": 1,
    "eth_estimateGas": 1,
    "eth_feeHistory": 1,
    "eth_getBalance": 1,
    "eth_getBlockByNumber": 0,
    "eth_getBlockReceipts": 0,
    "eth_getBlockTransactionCountByNumber": 0,
    "eth_getCode": 1,
    "eth_getProof": 2,
    "eth_getStorageAt": 2,
    "eth_getTransactionByBlockNumberAndIndex": 0,
    "eth_getTransactionCount": 1,
    "eth_getUncleByBlockNumberAndIndex": 0,
    "eth_getUncleCountByBlockNumber": 0,
    "eth_simulateV1": 1,
    "trace_block": 0,
    "trace_call": 2,
    "trace_replayBlockTransactions": 0,
}
"""Position, among the parameters, of a block: its number, a tag, or an object of EIP-1898."""

BY_BLOCK_HASH: Final = frozenset(
    {
        "debug_traceBlockByHash",
        "eth_getBlockByHash",
        "eth_getBlockTransactionCountByHash",
        "eth_getTransactionByBlockHashAndIndex",
        "eth_getUncleByBlockHashAndIndex",
        "eth_getUncleCountByBlockHash",
    }
)
"""The first parameter is a block's hash."""
