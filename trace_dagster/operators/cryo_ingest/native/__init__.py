"""The engine ``native``: JSON-RPC to Arrow to Parquet, without staging."""

from trace_dagster.operators.cryo_ingest.native.engine import NativeEngine

__all__ = ["NativeEngine"]
