"""Backfills as the UI launches them, through webserver, daemon and run workers, to committed Parquet.

Also a broken DAG file beside good ones.
"""
