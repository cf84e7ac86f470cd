"""Jobs that run on new rows: how far each has read, and which invalidations it has heeded.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.execute("""
        CREATE TABLE trace.consumers (
            consumer text PRIMARY KEY,
            first_block bigint NOT NULL,
            cursor_block bigint NOT NULL,
            seen jsonb NOT NULL,
            tables text[] NOT NULL,
            definition text NOT NULL,
            committed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            blocks bigint NOT NULL DEFAULT 0
        );
        COMMENT ON TABLE trace.consumers IS 'One row per PerUpdate job, {dag}/{job}: the last block committed';
        COMMENT ON COLUMN trace.consumers.seen IS
            'By job that it reads, {dag}/{job}: the last of its invalidations that was heeded';
        COMMENT ON COLUMN trace.consumers.tables IS 'The tables that it has made, without their schema';
        COMMENT ON COLUMN trace.consumers.definition IS
            'Hash of what decides its rows: operator, config, inputs, outputs';
    """)


def downgrade() -> None:
    """Remove it."""
    op.execute("DROP TABLE trace.consumers;")
