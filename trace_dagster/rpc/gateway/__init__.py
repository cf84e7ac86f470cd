"""The RPC Egress Gateway: the one process that knows providers and their keys."""
