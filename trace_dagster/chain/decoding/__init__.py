"""From the bytes of a JSON-RPC reply to Arrow, by declared layouts."""

from trace_dagster.chain.decoding.decoded import Decoded, DecodeError, Decoder, GarbledAnswer, Refusal
from trace_dagster.chain.decoding.layout import Layout, Shape
from trace_dagster.chain.decoding.layouts import BLOCK, LOGS, RECEIPT, RECEIPTS, TRACES

__all__ = [
    "BLOCK",
    "LOGS",
    "RECEIPT",
    "RECEIPTS",
    "TRACES",
    "DecodeError",
    "Decoded",
    "Decoder",
    "GarbledAnswer",
    "Layout",
    "Refusal",
    "Shape",
]
