"""Dagster IO managers: commit and load datasets."""
