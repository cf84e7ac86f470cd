"""Public helpers for tests: a deterministic simulated chain."""

from trace_dagster.testing.simulated_chain import SimulatedChain

__all__ = ["SimulatedChain"]
