"""Which methods of Ethereum's JSON-RPC speak of a block, and where in their parameters."""

from collections.abc import Mapping
from typing import Final

__all__ = ["BLOCK_AT", "BY_BLOCK_HASH", "EXECUTES", "MAY_BE_NULL", "READS"]

BLOCK_AT: Final[Mapping[str, int]] = {
    "alchemy_getTransactionReceipts": 0,
    "debug_getRawBlock": 0,
    "debug_getRawHeader": 0,
    "debug_getRawReceipts": 0,
    "debug_storageRangeAt": 0,
    "debug_traceBlockByNumber": 0,
    "debug_traceCall": 1,
    "erigon_getHeaderByNumber": 0,
    "eth_call": 1,
    "eth_callMany": 1,
    "eth_createAccessList": 1,
    "eth_estimateGas": 1,
    "eth_feeHistory": 1,
    "eth_getAccount": 1,
    "eth_getBalance": 1,
    "eth_getBlockAccessListByBlockNumber": 0,
    "eth_getBlockByNumber": 0,
    "eth_getBlockReceipts": 0,
    "eth_getBlockTransactionCountByNumber": 0,
    "eth_getCode": 1,
    "eth_getHeaderByNumber": 0,
    "eth_getProof": 2,
    "eth_getStorageAt": 2,
    "eth_getTransactionByBlockNumberAndIndex": 0,
    "eth_getTransactionCount": 1,
    "eth_getTransactionReceiptsByBlock": 0,
    "eth_getUncleByBlockNumberAndIndex": 0,
    "eth_getUncleCountByBlockNumber": 0,
    "eth_simulateV1": 1,
    "ots_getBlockDetails": 0,
    "ots_getBlockTransactions": 0,
    "ots_hasCode": 1,
    "trace_block": 0,
    "trace_call": 2,
    "trace_callMany": 1,
    "trace_replayBlockTransactions": 0,
}
"""Position, among the parameters, of a block: its number, a tag, or an object of EIP-1898."""

BY_BLOCK_HASH: Final = frozenset(
    {
        "debug_traceBlockByHash",
        "erigon_getBlockReceiptsByBlockHash",
        "erigon_getHeaderByHash",
        "eth_getBlockAccessListByBlockHash",
        "eth_getBlockByHash",
        "eth_getBlockTransactionCountByHash",
        "eth_getHeaderByHash",
        "eth_getTransactionByBlockHashAndIndex",
        "eth_getUncleByBlockHashAndIndex",
        "eth_getUncleCountByBlockHash",
        "ots_getBlockDetailsByHash",
    }
)
"""The first parameter is a block's hash."""

EXECUTES: Final = frozenset(
    {
        "debug_traceCall",
        "eth_call",
        "eth_callMany",
        "eth_createAccessList",
        "eth_estimateGas",
        "eth_simulateV1",
        "trace_call",
        "trace_callMany",
        "trace_rawTransaction",
    }
)
"""What these are asked to execute may fail, which is the answer, in words that may be a contract's."""

MAY_BE_NULL: Final = frozenset(
    {"eth_getTransactionByBlockNumberAndIndex", "eth_getUncleByBlockNumberAndIndex"}
)
"""Of the methods that name a block by its number, those whose answer is null where the index is too high."""

READS: Final = frozenset(
    {
        *BLOCK_AT,
        *BY_BLOCK_HASH,
        "alchemy_getAssetTransfers",
        "debug_getRawTransaction",
        "debug_traceTransaction",
        "erigon_getBlockByTimestamp",
        "erigon_getLatestLogs",
        "erigon_getLogs",
        "eth_accounts",
        "eth_blobBaseFee",
        "eth_blockNumber",
        "eth_chainId",
        "eth_config",
        "eth_gasPrice",
        "eth_getLogs",
        "eth_getRawTransactionByHash",
        "eth_getTransactionByHash",
        "eth_getTransactionBySenderAndNonce",
        "eth_getTransactionReceipt",
        "eth_maxPriorityFeePerGas",
        "eth_protocolVersion",
        "eth_syncing",
        "net_listening",
        "net_peerCount",
        "net_version",
        "ots_getApiLevel",
        "ots_getContractCreator",
        "ots_getInternalOperations",
        "ots_getTransactionBySenderAndNonce",
        "ots_getTransactionError",
        "ots_searchTransactionsAfter",
        "ots_searchTransactionsBefore",
        "ots_traceTransaction",
        "rpc_modules",
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
