"""The layouts of the JSON-RPC results that chain data comes from.

Sources: the Ethereum execution API specification; EIP-1474, 1559, 2930, 4399, 4788, 4844, 4895, 7685, 7702;
OP stack specification (deposits, L1 cost fields); Arbitrum Nitro's RPC types; OpenEthereum's trace module.
"""

from typing import Final

from trace_dagster.chain.decoding.layout import Field, Group, Kind, Layout, Leaves, Rows, Shape

__all__ = ["BLOCK", "FRAMES", "LOGS", "RECEIPT", "RECEIPTS", "TRACES"]

_ADDRESS, _HASH, _BLOOM = 20, 32, 256
_QUANTITY, _WORD, _AMOUNT, _DATA, _FLAG, _TEXT = (
    Kind.QUANTITY,
    Kind.WORD,
    Kind.AMOUNT,
    Kind.DATA,
    Kind.FLAG,
    Kind.TEXT,
)

_ACCESS: Final = Layout(
    "access list entry",
    (
        Field("address", "address", _DATA, _ADDRESS, required=True),
        Leaves("storageKeys", "storage_keys", _DATA, _HASH),
    ),
)

_AUTHORIZATION: Final = Layout(
    "authorization",
    (
        Field("chainId", "chain_id", _WORD, required=True),
        Field("address", "address", _DATA, _ADDRESS, required=True),
        Field("nonce", "nonce", _QUANTITY, required=True),
        Field("yParity", "y_parity", _QUANTITY),
        Field("r", "r", _WORD),
        Field("s", "s", _WORD),
    ),
    ignored=frozenset({"v"}),
)

_TRANSACTION: Final = Layout(
    "transaction",
    (
        Field("hash", "transaction_hash", _DATA, _HASH, required=True),
        Field("transactionIndex", "transaction_index", _QUANTITY),
        Field("blockHash", "block_hash", _DATA, _HASH),
        Field("nonce", "nonce", _QUANTITY),
        Field("from", "from_address", _DATA, _ADDRESS),
        Field("to", "to_address", _DATA, _ADDRESS),
        Field("value", "value", _AMOUNT),
        Field("input", "input", _DATA),
        Field("gas", "gas_limit", _QUANTITY),
        Field("gasPrice", "gas_price", _QUANTITY),
        Field("type", "transaction_type", _QUANTITY),
        Field("maxPriorityFeePerGas", "max_priority_fee_per_gas", _QUANTITY),
        Field("maxFeePerGas", "max_fee_per_gas", _QUANTITY),
        Field("chainId", "transaction_chain_id", _QUANTITY),
        Field("v", "v", _QUANTITY),
        Field("r", "r", _WORD),
        Field("s", "s", _WORD),
        Field("yParity", "y_parity", _QUANTITY),
        Rows("accessList", "access_list", _ACCESS),
        Field("maxFeePerBlobGas", "max_fee_per_blob_gas", _QUANTITY),
        Leaves("blobVersionedHashes", "blob_versioned_hashes", _DATA, _HASH),
        Rows("authorizationList", "authorization_list", _AUTHORIZATION),
        # OP stack deposits (0x7e)
        Field("sourceHash", "source_hash", _DATA, _HASH),
        Field("mint", "mint", _WORD),
        Field("isSystemTx", "is_system_transaction", _FLAG),
        # Arbitrum (0x64 to 0x6a)
        Field("requestId", "request_id", _DATA, _HASH),
        Field("ticketId", "ticket_id", _DATA, _HASH),
        Field("refundTo", "refund_to", _DATA, _ADDRESS),
        Field("maxRefund", "max_refund", _WORD),
        Field("submissionFeeRefund", "submission_fee_refund", _WORD),
        Field("l1BaseFee", "l1_base_fee", _WORD),
        Field("depositValue", "deposit_value", _WORD),
        Field("retryTo", "retry_to", _DATA, _ADDRESS),
        Field("retryValue", "retry_value", _WORD),
        Field("retryData", "retry_data", _DATA),
        Field("beneficiary", "beneficiary", _DATA, _ADDRESS),
        Field("maxSubmissionFee", "max_submission_fee", _WORD),
    ),
    ignored=frozenset({"blockNumber", "blockTimestamp"}),
)

_WITHDRAWAL: Final = Layout(
    "withdrawal",
    (
        Field("index", "withdrawal_index", _QUANTITY, required=True),
        Field("validatorIndex", "validator_index", _QUANTITY, required=True),
        Field("address", "address", _DATA, _ADDRESS, required=True),
        Field("amount", "amount", _QUANTITY, required=True),
    ),
)

BLOCK: Final = Shape(
    "block",
    Layout(
        "block",
        (
            Field("number", "block_number", _QUANTITY, required=True),
            Field("hash", "block_hash", _DATA, _HASH, required=True),
            Field("parentHash", "parent_hash", _DATA, _HASH, required=True),
            Field("miner", "author", _DATA, _ADDRESS),
            Field("stateRoot", "state_root", _DATA, _HASH),
            Field("transactionsRoot", "transactions_root", _DATA, _HASH),
            Field("receiptsRoot", "receipts_root", _DATA, _HASH),
            Field("gasUsed", "gas_used", _QUANTITY, required=True),
            Field("extraData", "extra_data", _DATA),
            Field("logsBloom", "logs_bloom", _DATA, _BLOOM),
            Field("timestamp", "timestamp", _QUANTITY, required=True),
            Field("totalDifficulty", "total_difficulty", _AMOUNT),
            Field("size", "size", _QUANTITY),
            Field("baseFeePerGas", "base_fee_per_gas", _QUANTITY),
            Field("gasLimit", "gas_limit", _QUANTITY),
            Field("difficulty", "difficulty", _AMOUNT),
            Field("mixHash", "mix_hash", _DATA, _HASH),
            Field("nonce", "nonce", _DATA),
            Field("sha3Uncles", "uncles_hash", _DATA, _HASH),
            Leaves("uncles", "uncles", _DATA, _HASH),
            Field("withdrawalsRoot", "withdrawals_root", _DATA, _HASH),
            Field("blobGasUsed", "blob_gas_used", _QUANTITY),
            Field("excessBlobGas", "excess_blob_gas", _QUANTITY),
            Field("parentBeaconBlockRoot", "parent_beacon_block_root", _DATA, _HASH),
            Field("requestsHash", "requests_hash", _DATA, _HASH),
            # Proof of authority (AuRa)
            Leaves("sealFields", "seal_fields", _DATA),
            # Arbitrum
            Field("l1BlockNumber", "l1_block_number", _QUANTITY),
            Field("sendCount", "send_count", _QUANTITY),
            Field("sendRoot", "send_root", _DATA, _HASH),
            Rows("withdrawals", "withdrawals", _WITHDRAWAL),
            Rows(
                "transactions",
                "transactions",
                _TRANSACTION,
                bare=Field("hash", "transaction_hash", _DATA, _HASH),
                required=True,
            ),
        ),
    ),
    is_list=False,
)
"""``eth_getBlockByNumber``, with full transactions or their hashes."""

_LOG: Final = Layout(
    "log",
    (
        Field("blockNumber", "block_number", _QUANTITY, required=True),
        Field("blockHash", "block_hash", _DATA, _HASH, required=True),
        Field("transactionIndex", "transaction_index", _QUANTITY, required=True),
        Field("logIndex", "log_index", _QUANTITY, required=True),
        Field("transactionHash", "transaction_hash", _DATA, _HASH, required=True),
        Field("address", "address", _DATA, _ADDRESS, required=True),
        Field("topics", "topic", Kind.TOPICS, required=True),
        Field("data", "data", _DATA, required=True),
        Field("removed", "removed", _FLAG),
    ),
    ignored=frozenset({"blockTimestamp"}),
)

RECEIPT: Final = Shape(
    "receipt",
    Layout(
        "receipt",
        (
            Field("transactionHash", "transaction_hash", _DATA, _HASH, required=True),
            Field("transactionIndex", "transaction_index", _QUANTITY, required=True),
            Field("blockHash", "block_hash", _DATA, _HASH, required=True),
            Field("blockNumber", "block_number", _QUANTITY, required=True),
            Field("from", "from_address", _DATA, _ADDRESS),
            Field("to", "to_address", _DATA, _ADDRESS),
            Field("contractAddress", "contract_address", _DATA, _ADDRESS),
            Field("gasUsed", "gas_used", _QUANTITY, required=True),
            Field("cumulativeGasUsed", "cumulative_gas_used", _QUANTITY),
            Field("effectiveGasPrice", "effective_gas_price", _QUANTITY),
            Field("status", "success", _FLAG),
            Field("root", "root", _DATA),
            Field("type", "transaction_type", _QUANTITY),
            Field("logsBloom", "logs_bloom", _DATA, _BLOOM),
            Field("blobGasUsed", "blob_gas_used", _QUANTITY),
            Field("blobGasPrice", "blob_gas_price", _QUANTITY),
            # OP stack
            Field("depositNonce", "deposit_nonce", _QUANTITY),
            Field("depositReceiptVersion", "deposit_receipt_version", _QUANTITY),
            Field("l1Fee", "l1_fee", _WORD),
            Field("l1GasPrice", "l1_gas_price", _WORD),
            Field("l1GasUsed", "l1_gas_used", _QUANTITY),
            Field("l1FeeScalar", "l1_fee_scalar", _TEXT),
            Field("l1BaseFeeScalar", "l1_base_fee_scalar", _QUANTITY),
            Field("l1BlobBaseFee", "l1_blob_base_fee", _WORD),
            Field("l1BlobBaseFeeScalar", "l1_blob_base_fee_scalar", _QUANTITY),
            Field("operatorFeeScalar", "operator_fee_scalar", _QUANTITY),
            Field("operatorFeeConstant", "operator_fee_constant", _QUANTITY),
            # Arbitrum
            Field("gasUsedForL1", "gas_used_for_l1", _QUANTITY),
            Field("l1BlockNumber", "l1_block_number", _QUANTITY),
            Field("timeboosted", "timeboosted", _FLAG),
            Rows("logs", "logs", _LOG, required=True),
        ),
        ignored=frozenset({"blockTimestamp"}),
    ),
    is_list=False,
)
"""``eth_getTransactionReceipt``."""

RECEIPTS: Final = Shape("receipts", RECEIPT.layout, is_list=True)
"""``eth_getBlockReceipts``."""

LOGS: Final = Shape("logs", _LOG, is_list=True)
"""``eth_getLogs``."""

TRACES: Final = Shape(
    "traces",
    Layout(
        "trace",
        (
            Group(
                "action",
                (
                    Field("from", "action_from", _DATA, _ADDRESS),
                    Field("to", "action_to", _DATA, _ADDRESS),
                    Field("value", "action_value", _AMOUNT),
                    Field("gas", "action_gas", _QUANTITY),
                    Field("input", "action_input", _DATA),
                    Field("callType", "action_call_type", _TEXT),
                    Field("init", "action_init", _DATA),
                    Field("rewardType", "action_reward_type", _TEXT),
                    Field("author", "action_author", _DATA, _ADDRESS),
                    Field("address", "action_address", _DATA, _ADDRESS),
                    Field("refundAddress", "action_refund_address", _DATA, _ADDRESS),
                    Field("balance", "action_balance", _AMOUNT),
                ),
            ),
            Field("type", "action_type", _TEXT, required=True),
            Group(
                "result",
                (
                    Field("gasUsed", "result_gas_used", _QUANTITY),
                    Field("output", "result_output", _DATA),
                    Field("code", "result_code", _DATA),
                    Field("address", "result_address", _DATA, _ADDRESS),
                ),
            ),
            Leaves("traceAddress", "trace_address", _QUANTITY),
            Field("subtraces", "subtraces", _QUANTITY),
            Field("transactionPosition", "transaction_index", _QUANTITY),
            Field("transactionHash", "transaction_hash", _DATA, _HASH),
            Field("blockNumber", "block_number", _QUANTITY, required=True),
            Field("blockHash", "block_hash", _DATA, _HASH, required=True),
            Field("error", "error", _TEXT),
        ),
    ),
    is_list=True,
)
"""``trace_block``."""

FRAMES: Final = Shape(
    "call frames",
    Layout(
        "frame",
        (
            Field("transactionIndex", "transaction_index", _QUANTITY, required=True),
            Field("transactionHash", "transaction_hash", _DATA, _HASH),
            Field("traceAddress", "trace_address", _TEXT, required=True),
            Field("type", "type", _TEXT, required=True),
            Field("from", "from_address", _DATA, _ADDRESS),
            Field("to", "to_address", _DATA, _ADDRESS),
            Field("value", "value", _AMOUNT),
            Field("gas", "gas", _QUANTITY),
            Field("gasUsed", "gas_used", _QUANTITY),
            Field("input", "input", _DATA),
            Field("output", "output", _DATA),
            Field("error", "error", _TEXT),
            Field("revertReason", "revert_reason", _TEXT),
        ),
        ignored=frozenset({"calls", "logs"}),
    ),
    is_list=True,
)
"""``debug_traceBlockByNumber`` with the callTracer, each transaction's tree of frames laid out in a row.

``transactionIndex``, ``transactionHash`` and ``traceAddress`` are not the node's: see ``call_frames``.
"""
