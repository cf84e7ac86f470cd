"""Which decoder reads replies."""

from trace_dagster.chain.decoding.decoded import Decoder
from trace_dagster.chain.decoding.kernel import KernelDecoder, kernel_library
from trace_dagster.chain.decoding.pure import PureDecoder

__all__ = ["choose_decoder"]


def choose_decoder() -> Decoder:
    """Return the fastest decoder that there is here; all give the same."""
    library = kernel_library()
    return PureDecoder() if library is None else KernelDecoder(library)
