"""What a gateway says that requests cost at the providers."""

import math
from typing import Final, Self

from pydantic import SecretStr

from trace_dagster.chain.decoding.safe_json import loads
from trace_dagster.errors import RpcError
from trace_dagster.rpc.transport import Transport
from trace_dagster.settings import RpcEndpoint

__all__ = ["SpendingWatch"]

_TIMEOUT_SECONDS: Final = 5.0
_MAX_REPLY_BYTES: Final = 2**16


class SpendingWatch:
    """The credits that the caller of an endpoint spends, in this process or another, from now on.

    The gateway keeps one sum for a job's partition; what earlier attempts added to it does not count. Nothing
    is known where no gateway is asked, or one that does not tell: that costs one request, and never fails.

    Args:
        endpoint: what is asked, with its caller.
    """

    def __init__(self, endpoint: RpcEndpoint) -> None:
        self._endpoint = endpoint
        self._before = _credits(endpoint) if endpoint.is_gateway and endpoint.caller is not None else None

    @classmethod
    def of(cls, endpoint: RpcEndpoint | None) -> Self | None:
        """Return a watch, where there is an endpoint."""
        return None if endpoint is None else cls(endpoint)

    def spent(self) -> float | None:
        """Return the credits spent since then; None where they are not known."""
        if self._before is None:
            return None
        now = _credits(self._endpoint)
        if now is None:
            return None
        return now - self._before if now >= self._before else now  # less: the gateway began anew meanwhile


def _credits(endpoint: RpcEndpoint) -> float | None:
    asked = endpoint.model_copy(update={"url": SecretStr(f"{endpoint.url.get_secret_value()}/usage")})
    transport = Transport(asked, max_reply_bytes=_MAX_REPLY_BYTES)
    try:
        told = loads(str(transport.exchange(None, _TIMEOUT_SECONDS), "utf-8"))
    except (RpcError, ValueError):
        return None
    finally:
        transport.close()
    found = told.get("credits") if isinstance(told, dict) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < math.inf:
        return None
    return float(found)
