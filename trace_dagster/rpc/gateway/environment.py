"""The gateway's configuration from ``TRACE_RPC_POOL_<NAME>_URL``: for development, on this machine only."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pydantic import Field

from trace_dagster.errors import ConfigurationError
from trace_dagster.rpc.gateway.config import (
    EndpointConfig,
    EndpointLimits,
    GatewayConfig,
    ListenConfig,
    PoolConfig,
    TokenConfig,
)
from trace_dagster.rpc.gateway.heads import ANY_CHAIN
from trace_dagster.rpc.gateway.load import InvalidConfig
from trace_dagster.rpc.gateway.resolved import ResolvedConfig, resolve_config
from trace_dagster.settings import Settings

__all__ = ["environment_config"]

_POOL: Final = re.compile(r"[A-Z0-9][A-Z0-9_]{0,62}")
_ENDPOINT: Final = "url"
_TOKEN: Final = "TRACE_RPC_GATEWAY_TOKEN"  # noqa: S105 - the variable's name
_TOKEN_NAME: Final = "local"  # noqa: S105 - its name in metrics
# As many as Cryo has under way: without a gateway nothing else would hold them back.
_LIMITS: Final = EndpointLimits(concurrency=40)


class _PoolOfAnyChain(PoolConfig):
    """A pool whose one endpoint says itself which chain it serves."""

    chain_id: int = Field(default=ANY_CHAIN, ge=ANY_CHAIN)


def environment_config(environment: Mapping[str, str]) -> ResolvedConfig:
    """Return a pool for each pool's URL in ``environment``, named in small letters.

    Where ``TRACE_RPC_GATEWAY_TOKEN`` is set, it is asked for; else whoever is on this machine may ask.

    Raises:
        ConfigurationError: there is none, or one cannot be used; its value is not repeated.
    """
    pools = {
        name.lower(): _pool(name) for name in sorted(Settings.from_environment(environment).rpc_pool_urls)
    }
    if not pools:
        raise ConfigurationError(
            "no pool is set: give the URL of each as TRACE_RPC_POOL_<NAME>_URL, or a file with --config"
        )
    token = TokenConfig(name=_TOKEN_NAME, token=f"env:{_TOKEN}", priority="high")
    config = GatewayConfig(
        listen=ListenConfig(port=0), tokens=(token,) if environment.get(_TOKEN) else (), pools=pools
    )
    try:
        return replace(resolve_config(config, environment), named_as_variables=True)
    except InvalidConfig as error:
        told = "\n".join(f"{one.problem.removeprefix('env:')}; {one.mend}" for one in error.problems)
        raise ConfigurationError(told) from None


def _pool(name: str) -> PoolConfig:
    variable = f"TRACE_RPC_POOL_{name}_URL"
    if _POOL.fullmatch(name) is None:
        raise ConfigurationError(
            f"environment variable {variable} names no pool: a name begins with a letter or digit and has at "
            "most 63 characters"
        )
    endpoint = EndpointConfig(name=_ENDPOINT, url=f"env:{variable}", limits=_LIMITS)
    return _PoolOfAnyChain(endpoints=(endpoint,))
