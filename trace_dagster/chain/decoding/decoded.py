"""What a decoder gives, and how it fails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

from trace_dagster.chain.decoding.layout import Shape
from trace_dagster.errors import DataMismatch

__all__ = ["DecodeError", "Decoded", "Decoder", "GarbledAnswer", "Refusal"]


class DecodeError(DataMismatch):
    """A result is not what its layout says: names the shape, the path in it and the value."""


class GarbledAnswer(DataMismatch):
    """The bytes are no JSON-RPC answer to what was asked: truncated, not JSON, ids missing or repeated."""


@dataclass(frozen=True)
class Refusal:
    """A JSON-RPC error.

    Attributes:
        code: its code, where it is a number.
        message: its message; not free of credentials yet.
    """

    code: int | None
    message: str


@dataclass(frozen=True)
class Decoded:
    """The answers to the calls of one HTTP exchange.

    Attributes:
        results: for each shape asked for, one entry per call of that shape, in the order of the calls: a
            ``StructArray`` of the shape's ``arrow_type``, or a ``LargeListArray`` of such structs where the
            shape is a list. Null where the result is null, or the call was refused.
        refusals: the calls that were answered with an error, by their number.
        refused: the error that was given for the whole batch; then there are no results.
    """

    results: "Mapping[Shape, pa.Array]" = field(default_factory=dict)
    refusals: Mapping[int, Refusal] = field(default_factory=dict)
    refused: Refusal | None = None


class Decoder(Protocol):
    """Reads replies; safe to use from several threads at once.

    Attributes:
        name: ``kernel`` or ``pure``; for metadata.
    """

    name: str

    def decode(self, reply: bytes | bytearray | memoryview, calls: Sequence[Shape]) -> Decoded:
        """Read the reply to ``calls``, whose JSON-RPC ids are 0, 1, 2...

        One call is sent as an object and answered with one; several are sent as a list, and may be answered
        in any order. One object in place of a list, or too few answers that are all errors, refuse the
        batch as a whole.

        Raises:
            GarbledAnswer: the reply is no JSON, or does not answer every call once.
            DecodeError: a result does not fit its shape.
        """
        ...
