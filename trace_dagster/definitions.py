"""The Dagster code location: ``TRACE_DAG_SPECS`` compiled into ``defs``.

Importing this needs no network, no database and no RPC endpoint.
"""

from trace_dagster.build import build_definitions

__all__ = ["defs"]

defs = build_definitions()
