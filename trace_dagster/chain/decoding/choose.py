"""Which decoder reads replies."""

from trace_dagster.chain.decoding.decoded import Decoder
from trace_dagster.chain.decoding.pure import PureDecoder

__all__ = ["choose_decoder"]


def choose_decoder() -> Decoder:
    """Return the fastest decoder that there is here; all give the same."""
    return PureDecoder()
