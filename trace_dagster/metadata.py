"""Every metadata and tag key that this project writes into Dagster, once."""

from typing import Final

PREFIX: Final = "trace/"

# On asset definitions.
DAG: Final = "trace/dag"
JOB: Final = "trace/job"
OUTPUT: Final = "trace/output"
OPERATOR: Final = "trace/operator"
RUNTIME: Final = "trace/runtime"
PUBLISHED_AS: Final = "trace/published_as"
SPEC_FILE: Final = "trace/spec_file"
SPEC_ERRORS: Final = "trace/spec_errors"
STATUS: Final = "trace/status"
POOL_LIMIT: Final = "trace/pool_limit"
TIMEOUT_SECONDS: Final = "trace/timeout_seconds"
MAX_ATTEMPTS: Final = "trace/max_attempts"
CHAIN_ID: Final = "trace/chain_id"
DATASET: Final = "trace/dataset"
UNIQUE_KEY: Final = "trace/unique_key"
UPDATE_STRATEGY: Final = "trace/update_strategy"

# On materializations.
RANGE: Final = "trace/block_range"
BLOCKS: Final = "trace/blocks"
ROWS: Final = "dagster/partition_row_count"
BYTES: Final = "trace/bytes"
OBJECTS: Final = "trace/objects"
BLOCKS_PER_SECOND: Final = "trace/blocks_per_second"
RPC_REQUESTS: Final = "trace/rpc_requests"
DATASET_VERSION: Final = "trace/dataset_version"
STORAGE_PREFIX: Final = "trace/storage_prefix"
FIRST_BLOCK_HASH: Final = "trace/first_block_hash"
LAST_BLOCK_HASH: Final = "trace/last_block_hash"
ENGINE: Final = "trace/engine"
SYNTHETIC: Final = "trace/synthetic"
ALREADY_COMMITTED: Final = "trace/already_committed"
ATTEMPT: Final = "trace/attempt"
CHECKS: Final = "trace/checks"
UNJOINED: Final = "trace/unjoined_ranges"
HTTP_REQUESTS: Final = "trace/http_requests"
RECEIVED_BYTES: Final = "trace/received_bytes"
DECODER: Final = "trace/decoder"
CHAIN_PROFILE: Final = "trace/chain_profile"
FALLBACKS: Final = "trace/fallbacks"
REPEATED: Final = "trace/repeated"
UNMODELLED: Final = "trace/unmodelled_fields"
INVALIDATED: Final = "trace/invalidated"

# On materializations of followers, beside the range.
HEAD: Final = "trace/head"
CURSOR: Final = "trace/cursor"
FINAL: Final = "trace/final_block"
LAG_BLOCKS: Final = "trace/lag_blocks"
LAG_SECONDS: Final = "trace/lag_seconds"
REORGS: Final = "trace/reorgs"
DEEPEST_REORG: Final = "trace/deepest_reorg"
FOLLOWER_ERRORS: Final = "trace/follower_errors"

# Of hot tables that assets and operators write.
TABLE: Final = "trace/table"
ROWS_ADDED: Final = "trace/rows_added"

# Run tags.
FOLLOWER_TAG: Final = "trace/follower"
REQUESTED_RANGE_TAG: Final = "trace/requested_range"
