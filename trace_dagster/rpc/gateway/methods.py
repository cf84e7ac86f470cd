"""Which methods of Ethereum's JSON-RPC speak of a block, and where in their parameters."""

from collections.abc import Mapping
from typing import Final

__all__ = ["BLOCK_AT", "BY_BLOCK_HASH", "NEVER_NULL", "READS"]

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

NEVER_NULL: Final = frozenset(
    {
        "eth_call",
        "eth_estimateGas",
        "eth_getBalance",
        "eth_getCode",
        "eth_getLogs",
        "eth_getProof",
        "eth_getStorageAt",
        "eth_getTransactionCount",
    }
)
"""Null is no answer to these: what is not there is zero or empty."""

READS: Final = frozenset(
    {
        *BLOCK_AT,
        *BY_BLOCK_HASH,
        "alchemy_getAssetTransfers",
        "alchemy_getTransactionReceipts",
        "debug_getRawBlock",
        "debug_getRawHeader",
        "debug_getRawReceipts",
        "debug_getRawTransaction",
        "debug_storageRangeAt",
        "debug_traceTransaction",
        "erigon_getBlockByTimestamp",
        "erigon_getBlockReceiptsByBlockHash",
        "erigon_getHeaderByHash",
        "erigon_getHeaderByNumber",
        "erigon_getLatestLogs",
        "erigon_getLogs",
        "eth_accounts",
        "eth_blobBaseFee",
        "eth_blockNumber",
        "eth_callMany",
        "eth_chainId",
        "eth_config",
        "eth_gasPrice",
        "eth_getAccount",
        "eth_getBlockAccessListByBlockHash",
        "eth_getBlockAccessListByBlockNumber",
        "eth_getHeaderByHash",
        "eth_getHeaderByNumber",
        "eth_getLogs",
        "eth_getRawTransactionByHash",
        "eth_getTransactionByHash",
        "eth_getTransactionBySenderAndNonce",
        "eth_getTransactionReceipt",
        "eth_getTransactionReceiptsByBlock",
        "eth_maxPriorityFeePerGas",
        "eth_protocolVersion",
        "eth_syncing",
        "net_listening",
        "net_peerCount",
        "net_version",
        "ots_getApiLevel",
        "ots_getBlockDetails",
        "ots_getBlockDetailsByHash",
        "ots_getBlockTransactions",
        "ots_getContractCreator",
        "ots_getInternalOperations",
        "ots_getTransactionBySenderAndNonce",
        "ots_getTransactionError",
        "ots_hasCode",
        "ots_searchTransactionsAfter",
        "ots_searchTransactionsBefore",
        "ots_traceTransaction",
        "rpc_modules",
        "trace_callMany",
        "trace_filter",
        "trace_get",
        "trace_rawTransaction",
        "trace_replayTransaction",
        "trace_transaction",
        "txpool_content",
        "txpool_inspect",
        "txpool_status",
        "web3_clientVersion",
        "web3_sha3",
    }
)
"""Methods that change nothing: they may be asked of several endpoints, again, and for many callers."""
