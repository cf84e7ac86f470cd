"""Which requests have answers that cannot change, and the keys of these in the cache."""

import hashlib
import json
import re
from typing import Any, Final

from trace_dagster.chain.decoding.safe_json import loads
from trace_dagster.rpc.gateway.methods import BLOCK_AT, BY_BLOCK_HASH

__all__ = ["cache_key", "is_immutable"]

_VERSION: Final = 1
_MAX_PARAMS_BYTES: Final = 64 * 1024

# Their answers follow the node's own mind too, such as what it takes for a fair price.
_NEVER: Final = frozenset(
    {"debug_traceCall", "eth_createAccessList", "eth_estimateGas", "eth_feeHistory", "eth_simulateV1"}
)
# Of a transaction, by its hash: the answer says in which block it is.
_BY_TRANSACTION: Final = frozenset(
    {"eth_getTransactionByHash", "eth_getTransactionReceipt", "trace_transaction"}
)

_HASH: Final = re.compile(r"0x[0-9a-fA-F]{64}")
_QUANTITY: Final = re.compile(r"0x[0-9a-fA-F]{1,16}")
_BLOCK_NUMBER: Final = re.compile(rb'"blockNumber"\s*:\s*(?:"(0x[0-9a-fA-F]{1,16})"|(\d{1,19}))')
# What a backend that lacks a block answers in place of its content.
_EMPTY: Final = frozenset({b"null", b"[]", b"", b"{}"})


def cache_key(pool: str, chain_id: int, method: str, params: bytes, final_block: int | None) -> bytes | None:
    """Return the key of a request's answer, None where the answer may change.

    The answer may be looked up by it. It may be stored only if ``is_immutable`` says so, too.

    Args:
        pool: the pool's name.
        chain_id: its chain.
        method: the method.
        params: the parameters as JSON.
        final_block: the last block that is final; None: none is known to be.
    """
    if len(params) > _MAX_PARAMS_BYTES or not _may_be_cached(method):
        return None
    try:
        given = loads(params.decode())
    except ValueError:
        return None
    if not isinstance(given, list) or not _names_what_is_fixed(method, given, final_block):
        return None
    canonical = json.dumps(
        [_VERSION, pool, chain_id, method, _plain(given)], sort_keys=True, separators=(",", ":")
    )
    return hashlib.blake2b(canonical.encode(), digest_size=32).digest()


def is_immutable(method: str, result: bytes, final_block: int | None) -> bool:
    """Whether a result, as JSON, of a request that has a key may be stored.

    Never null or an empty list, which a backend that lacks the block answers, too; of a transaction only
    once its block is final.
    """
    if result.strip() in _EMPTY:
        return False
    if method not in _BY_TRANSACTION:
        return True
    found = _BLOCK_NUMBER.search(result)
    if found is None or final_block is None:
        return False
    number = int(found[1], 16) if found[1] else int(found[2])
    return number <= final_block


def _may_be_cached(method: str) -> bool:
    is_of_block = (method in BLOCK_AT and method not in _NEVER) or method in BY_BLOCK_HASH
    return is_of_block or method in _BY_TRANSACTION or method == "eth_getLogs"


def _names_what_is_fixed(method: str, params: list[Any], final_block: int | None) -> bool:
    if method == "eth_getLogs":
        return len(params) == 1 and _is_fixed_filter(params[0], final_block)
    if method in BY_BLOCK_HASH or method in _BY_TRANSACTION:
        return bool(params) and _is_hash(params[0])
    position = BLOCK_AT[method]
    return len(params) > position and _is_fixed_block(params[position], final_block)


def _is_fixed_filter(given: Any, final_block: int | None) -> bool:
    """Whether a filter of logs names a block by hash, or a range that is final."""
    if not isinstance(given, dict):
        return False
    ends = [given.get("fromBlock"), given.get("toBlock")]
    if "blockHash" in given:
        return _is_hash(given["blockHash"]) and ends == [None, None]
    first, last = (_number(end) for end in ends)
    return first is not None and last is not None and final_block is not None and first <= last <= final_block


def _is_fixed_block(given: Any, final_block: int | None) -> bool:
    if isinstance(given, dict):
        if "blockHash" in given:
            # Whether the block is canonical may change.
            return _is_hash(given["blockHash"]) and given.get("requireCanonical") in (None, False)
        given = given.get("blockNumber")
    if _is_hash(given):
        return True
    number = _number(given)
    return number is not None and final_block is not None and number <= final_block


def _is_hash(given: Any) -> bool:
    return isinstance(given, str) and _HASH.fullmatch(given) is not None


def _number(given: Any) -> int | None:
    """Return a block's number; None for tags such as ``latest``."""
    return int(given, 16) if isinstance(given, str) and _QUANTITY.fullmatch(given) else None


def _plain(value: Any) -> Any:
    """Return parameters with hex in small letters, which means the same."""
    if isinstance(value, str):
        return value.lower() if value.startswith("0x") else value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
