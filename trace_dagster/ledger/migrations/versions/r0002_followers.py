"""Followers of the chain tip: cursors, the blocks that they rest on, reorganisations.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.execute("""
        CREATE TABLE trace.followers (
            follower text PRIMARY KEY,
            chain_id numeric(78, 0) NOT NULL,
            first_block bigint NOT NULL,
            datasets text[] NOT NULL,
            cursor_block bigint NOT NULL,
            cursor_hash bytea NOT NULL,
            cursor_time timestamptz NOT NULL,
            committed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            blocks bigint NOT NULL DEFAULT 0,
            reorgs bigint NOT NULL DEFAULT 0,
            deepest_reorg bigint NOT NULL DEFAULT 0,
            last_reorg_at timestamptz
        );
        COMMENT ON TABLE trace.followers IS 'One row per block_follower, {dag}/{job}: the last block committed';

        CREATE TABLE trace.follower_heads (
            follower text PRIMARY KEY,
            head_block bigint NOT NULL,
            seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            errors bigint NOT NULL DEFAULT 0,
            last_error text,
            last_error_at timestamptz
        );
        COMMENT ON TABLE trace.follower_heads IS 'What each follower last saw of its provider';

        CREATE TABLE trace.followed_blocks (
            follower text NOT NULL,
            block_number bigint NOT NULL,
            block_hash bytea NOT NULL,
            PRIMARY KEY (follower, block_number)
        );
        COMMENT ON TABLE trace.followed_blocks IS 'The newest blocks that each follower has committed';

        CREATE TABLE trace.reorgs (
            reorg_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            follower text NOT NULL,
            ancestor_block bigint NOT NULL,
            old_cursor_block bigint NOT NULL,
            new_cursor_block bigint NOT NULL,
            depth bigint NOT NULL,
            seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
        );
        CREATE INDEX reorgs_follower ON trace.reorgs (follower, reorg_id);

        CREATE TABLE trace.orphaned_blocks (
            reorg_id bigint NOT NULL REFERENCES trace.reorgs (reorg_id),
            follower text NOT NULL,
            block_number bigint NOT NULL,
            block_hash bytea NOT NULL,
            replaced_by bytea,
            PRIMARY KEY (reorg_id, block_number)
        );
        COMMENT ON COLUMN trace.orphaned_blocks.replaced_by IS 'Null where the new branch was shorter when it was seen';

        CREATE TABLE trace.invalidations (
            invalidation_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            dag text NOT NULL,
            job text NOT NULL,
            start_block bigint NOT NULL,
            end_block bigint NOT NULL,
            reason text NOT NULL,
            made_at timestamptz NOT NULL DEFAULT clock_timestamp()
        );
        COMMENT ON TABLE trace.invalidations IS 'Block ranges of a job whose rows have changed: what used them is stale';
        CREATE INDEX invalidations_job ON trace.invalidations (dag, job, invalidation_id);
    """)


def downgrade() -> None:
    """Remove the tables."""
    op.execute("""
        DROP TABLE trace.invalidations, trace.orphaned_blocks, trace.reorgs, trace.followed_blocks,
            trace.follower_heads, trace.followers;
    """)
