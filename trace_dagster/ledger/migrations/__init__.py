"""Migrations of the ledger's tables; run by ``trace_dagster.ledger.schema``."""
