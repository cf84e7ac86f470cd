"""Tasks with their leases, attempts, dataset versions, published names.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.execute("""
        CREATE TABLE trace.tasks (
            task_key text PRIMARY KEY,
            number integer NOT NULL,
            token uuid NOT NULL,
            state text NOT NULL CHECK (state IN ('running', 'succeeded', 'failed')),
            run_id text NOT NULL,
            lease_expires_at timestamptz NOT NULL,
            storage_root text,
            prefixes text[] NOT NULL DEFAULT '{}'
        );
        COMMENT ON TABLE trace.tasks IS 'One row per partition of a job: who holds it, or how it last ended';
        CREATE INDEX tasks_running ON trace.tasks (storage_root) WHERE state = 'running';

        CREATE TABLE trace.attempts (
            task_key text NOT NULL,
            number integer NOT NULL,
            state text NOT NULL CHECK (state IN ('running', 'succeeded', 'failed', 'lost')),
            run_id text NOT NULL,
            started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            finished_at timestamptz,
            error text,
            PRIMARY KEY (task_key, number)
        );
        COMMENT ON TABLE trace.attempts IS 'Every try of every task';

        CREATE SEQUENCE trace.commit_sequence;
        CREATE TABLE trace.dataset_versions (
            storage_root text NOT NULL,
            dataset_version uuid NOT NULL,
            sequence bigint NOT NULL DEFAULT nextval('trace.commit_sequence'),
            chain_id numeric(78, 0) NOT NULL,
            dataset text NOT NULL,
            start_block bigint NOT NULL,
            end_block bigint NOT NULL,
            config_hash text NOT NULL,
            prefix text NOT NULL,
            rows bigint NOT NULL,
            bytes bigint NOT NULL,
            engine text NOT NULL,
            synthetic boolean NOT NULL,
            task_key text,
            attempt integer,
            run_id text,
            committed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (storage_root, dataset_version)
        );
        COMMENT ON COLUMN trace.dataset_versions.sequence IS 'Of two versions that share blocks, the higher is current';
        CREATE INDEX dataset_versions_range
            ON trace.dataset_versions (storage_root, chain_id, dataset, start_block);
        CREATE INDEX dataset_versions_end
            ON trace.dataset_versions (storage_root, chain_id, dataset, end_block);

        CREATE TABLE trace.published_datasets (
            name text PRIMARY KEY,
            dag text NOT NULL,
            job text NOT NULL,
            output text NOT NULL,
            updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
        );
        COMMENT ON TABLE trace.published_datasets IS 'The registry of names that DAGs publish outputs under';
    """)


def downgrade() -> None:
    """Remove the tables."""
    op.execute("""
        DROP TABLE trace.published_datasets, trace.dataset_versions, trace.attempts, trace.tasks;
        DROP SEQUENCE trace.commit_sequence;
    """)
