"""The data version of an output that is nothing but its range."""

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.ledger import Invalidation

__all__ = ["range_version"]


def range_version(partition: BlockRange, invalidation: Invalidation | None = None) -> str:
    """Return a version that changes exactly when the range does, or its blocks do."""
    changed = f":{invalidation.token}" if invalidation else ""
    return f"range:{partition.key}{changed}"
