"""JSON-RPC: a client, and what must be kept secret about an endpoint."""

from trace_dagster.rpc.client import JsonRpcClient
from trace_dagster.rpc.connections import RpcConnections
from trace_dagster.rpc.failures import ReplyError

__all__ = ["JsonRpcClient", "ReplyError", "RpcConnections"]
