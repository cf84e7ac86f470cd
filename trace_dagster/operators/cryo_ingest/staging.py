"""Local scratch space of one attempt, and its limits."""

from dataclasses import dataclass

__all__ = ["StagingLimits"]


@dataclass(frozen=True)
class StagingLimits:
    """Caps on one partition's staging directory.

    Attributes:
        max_files: most files that may lie in it at once.
        max_bytes: most bytes of all of them together.
    """

    max_files: int = 10_000
    max_bytes: int = 20 * 2**30
