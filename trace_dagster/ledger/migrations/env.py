"""Alembic's entry: runs the migrations on the connection that ``trace_dagster.ledger.schema`` opened."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table_schema="trace")
with context.begin_transaction():
    context.run_migrations()
