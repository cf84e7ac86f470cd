"""Trace DAG YAML, compiled into a Dagster code location that ingests verified chain data."""
