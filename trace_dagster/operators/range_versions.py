"""The data version of an output that is nothing but its range."""

from trace_dagster.chain.ranges import BlockRange

__all__ = ["range_version"]


def range_version(partition: BlockRange) -> str:
    """Return a version that changes exactly when the range does."""
    return f"range:{partition.key}"
