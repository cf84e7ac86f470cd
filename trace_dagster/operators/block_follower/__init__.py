"""``block_follower``: the chain tip in Postgres hot tables."""

from trace_dagster.operators.block_follower.operator import BlockFollower

__all__ = ["BlockFollower"]
