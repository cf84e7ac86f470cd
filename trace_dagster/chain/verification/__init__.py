"""Checks of decoded blocks against themselves and each other, before anything is made of them."""

from trace_dagster.chain.verification.flat import FlatBatch
from trace_dagster.chain.verification.verifier import PASSED, Verifier, not_checked, unlinked

__all__ = ["PASSED", "FlatBatch", "Verifier", "not_checked", "unlinked"]
