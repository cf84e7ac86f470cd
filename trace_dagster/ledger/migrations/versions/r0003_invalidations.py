"""Invalidations that are handed on: what they changed to, and which one they come from; final blocks.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.execute("""
        ALTER TABLE trace.invalidations ADD COLUMN branch_hash bytea,
            ADD COLUMN source_id bigint REFERENCES trace.invalidations (invalidation_id);
        COMMENT ON COLUMN trace.invalidations.branch_hash IS
            'Hash of the last block that the new branch had when it was seen';
        COMMENT ON COLUMN trace.invalidations.source_id IS
            'For a job that was told: the invalidation of the job that it reads';
        CREATE UNIQUE INDEX invalidations_source ON trace.invalidations (source_id, dag, job, start_block);
        ALTER TABLE trace.follower_heads ADD COLUMN final_block bigint;
        CREATE TABLE trace.follower_resets (
            follower text PRIMARY KEY,
            reset_at timestamptz NOT NULL DEFAULT clock_timestamp()
        );
        COMMENT ON TABLE trace.follower_resets IS
            'Followers whose DAG says bootstrap.reset_outputs, and that have begun anew for it';
        COMMENT ON COLUMN trace.follower_heads.final_block IS 'The last block that is taken for final';
    """)


def downgrade() -> None:
    """Remove them, and the rows that are nothing without them."""
    op.execute("""
        DELETE FROM trace.invalidations WHERE source_id IS NOT NULL;
        ALTER TABLE trace.invalidations DROP COLUMN source_id, DROP COLUMN branch_hash;
        ALTER TABLE trace.follower_heads DROP COLUMN final_block;
        DROP TABLE trace.follower_resets;
    """)
