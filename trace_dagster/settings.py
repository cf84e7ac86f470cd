"""Environment variables, read once into one frozen model."""

import logging
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from trace_dagster.errors import ConfigurationError
from trace_dagster.suggest import nearest

__all__ = ["ENGINES", "EngineName", "RpcCaller", "RpcEndpoint", "Settings", "without_pools"]

EngineName = Literal["stub", "cryo", "native"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)

_POOL_VARIABLE = re.compile(r"TRACE_RPC_POOL_([A-Z0-9_]+)_URL")
_ANY_POOL_VARIABLE = re.compile(r"TRACE_RPC_POOL_(.+)_URL", re.IGNORECASE)
_WEBSOCKET_URL = re.compile(r"wss?://", re.IGNORECASE)
_OF_POOLS = frozenset({"rpc_pool_urls", "rpc_pool_ws_urls"})
_LIKE_A_VARIABLE = 0.85
_GATEWAY_VARIABLE = "TRACE_RPC_GATEWAY_URL"
_Priority = Literal["high", "normal", "low"]

_logger = logging.getLogger(__name__)


class RpcCaller(BaseModel):
    """On whose behalf requests are sent: what the gateway counts them under.

    Attributes:
        job: ``{dag}/{job}``.
        partition: the block range; empty for none.
        priority: a backfill must not starve a follower.
    """

    model_config = ConfigDict(frozen=True)

    job: str
    partition: str = ""
    priority: _Priority = "normal"


class RpcEndpoint(BaseModel):
    """Where a worker sends its JSON-RPC requests for one pool.

    Attributes:
        pool: the pool's name.
        url: the endpoint; secret, because development URLs often hold a provider's key.
        token: the gateway's bearer token, or None.
        variable: the environment variable to look at when it does not work.
        caller: who asks; told to the gateway alone, never to a provider.
        websocket_url: where new heads can be subscribed to, if that is known apart from ``url``; secret, too.
    """

    model_config = ConfigDict(frozen=True)

    pool: str
    url: SecretStr
    token: SecretStr | None = None
    variable: str
    caller: RpcCaller | None = None
    websocket_url: SecretStr | None = None

    @property
    def is_gateway(self) -> bool:
        """Whether it is the gateway that is asked."""
        return self.variable == _GATEWAY_VARIABLE

    def asked_by(self, job: str, partition: str = "", priority: _Priority = "normal") -> Self:
        """Return the endpoint as it is asked on behalf of a job; see ``RpcCaller``."""
        return self.model_copy(update={"caller": RpcCaller(job=job, partition=partition, priority=priority)})


class Settings(BaseModel):
    """All settings. Build it with ``Settings.from_environment``.

    Attributes:
        dag_specs: folder or glob of DAG YAML (``TRACE_DAG_SPECS``).
        home: where the embedded defaults keep their state (``TRACE_HOME``), absolute.
        postgres_url: Postgres for ledger and hot tables (``TRACE_POSTGRES_URL``); None: embedded.
        object_store_url: root of the object store (``TRACE_OBJECT_STORE_URL``).
        cryo_engine: default engine (``TRACE_CRYO_ENGINE``); None: chosen by ``default_engine``.
        cryo_binary: a ``cryo`` program to use instead of the Python wheel (``TRACE_CRYO_BINARY``).
        rpc_gateway_url: the RPC Egress Gateway (``TRACE_RPC_GATEWAY_URL``).
        rpc_gateway_token: its bearer token (``TRACE_RPC_GATEWAY_TOKEN``).
        rpc_pool_urls: development endpoints by pool (``TRACE_RPC_POOL_<NAME>_URL``), NAME upper-case.
        rpc_pool_ws_urls: where to subscribe to a pool's heads (``TRACE_RPC_POOL_<NAME>_WS_URL``), likewise.
        staging_dir: local scratch space (``TRACE_STAGING_DIR``).
        staging_max_age_hours: older staging directories are removed when a worker starts.
        staging_max_bytes: cap on one partition's staged bytes.
        staging_max_files: cap on one partition's staged files.
    """

    model_config = ConfigDict(frozen=True)

    dag_specs: str = "dag_specs/"
    home: Path
    postgres_url: SecretStr | None = None
    object_store_url: str
    cryo_engine: EngineName | None = None
    cryo_binary: str | None = None
    rpc_gateway_url: SecretStr | None = None
    rpc_gateway_token: SecretStr | None = None
    rpc_pool_urls: Mapping[str, SecretStr] = Field(default_factory=dict)
    rpc_pool_ws_urls: Mapping[str, SecretStr] = Field(default_factory=dict)
    staging_dir: Path
    staging_max_age_hours: float = Field(default=24, gt=0)
    staging_max_bytes: int = Field(default=20 * 2**30, gt=0)
    staging_max_files: int = Field(default=10_000, gt=0)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings; an empty variable counts as unset, one that looks misspelt is warned of.

        Raises:
            ConfigurationError: a variable's value cannot be used, names every such variable; or a pool's
                variable is misspelt.
        """
        _refuse_misspelt_pools(environment)
        fields = cls.model_fields.keys() - _OF_POOLS
        known = {f"TRACE_{field.upper()}" for field in fields}
        for name in environment.keys() - known:
            if _POOL_VARIABLE.fullmatch(name):
                continue
            meant = get_close_matches(name, known, n=1, cutoff=_LIKE_A_VARIABLE)
            if name.startswith("TRACE_") and meant:
                _logger.warning(
                    "environment variable %s is not known and does nothing; did you mean %s?", name, meant[0]
                )
        home = _folder("TRACE_HOME", environment.get("TRACE_HOME") or ".trace")
        values: dict[str, object] = {
            "home": home,
            "object_store_url": (home / "store").as_uri(),
            "staging_dir": home / "staging",
            **_pool_urls(environment),
        }
        for name in fields - {"home"}:
            value = environment.get(f"TRACE_{name.upper()}")
            if value:
                values[name] = value
        values["staging_dir"] = _folder("TRACE_STAGING_DIR", str(values["staging_dir"]))
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigurationError(_explain(error)) from None

    def default_engine(self) -> EngineName:
        """Return the engine of a job that names none.

        ``TRACE_CRYO_ENGINE``, else ``stub`` where nothing real is configured (no gateway, no pool URL, a
        local store), else ``cryo``.
        """
        if self.cryo_engine is not None:
            return self.cryo_engine
        real = self.rpc_gateway_url or self.rpc_pool_urls or not self.store_is_local
        return "cryo" if real else "stub"

    @property
    def store_is_local(self) -> bool:
        """Whether the object store is a folder of this machine."""
        return urlsplit(self.object_store_url).scheme == "file"

    def rpc_endpoint(self, pool: str) -> RpcEndpoint:
        """Return where requests for ``pool`` go.

        Raises:
            ConfigurationError: neither a gateway nor the pool's own URL is set.
        """
        name = _variable_part(pool)
        variable = f"TRACE_RPC_POOL_{name}_URL"
        if self.rpc_gateway_url is not None:
            root = self.rpc_gateway_url.get_secret_value().rstrip("/")
            return RpcEndpoint(
                pool=pool,
                url=SecretStr(f"{root}/v1/{pool}"),
                token=self.rpc_gateway_token,
                variable=_GATEWAY_VARIABLE,
            )
        url = self.rpc_pool_urls.get(name)
        if url is None:
            raise ConfigurationError(
                f"no endpoint for rpc_pool {pool!r}: set TRACE_RPC_GATEWAY_URL to the gateway, "
                f"or {variable} for local development"
            )
        return RpcEndpoint(
            pool=pool, url=url, variable=variable, websocket_url=self.rpc_pool_ws_urls.get(name)
        )


def without_pools(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` without the URLs of pools, of either kind: for those who ask a gateway."""
    return {name: value for name, value in environment.items() if not _POOL_VARIABLE.fullmatch(name)}


def _pool_urls(environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the URLs of pools, by field; a pool may be called ``x_ws``: the scheme tells what is meant."""
    urls: dict[str, str] = {}
    websocket_urls: dict[str, str] = {}
    for name, value in environment.items():
        match = _POOL_VARIABLE.fullmatch(name)
        if not match or not value:
            continue
        pool = match[1].removesuffix("_WS")
        if pool and pool != match[1] and _WEBSOCKET_URL.match(value):
            websocket_urls[pool] = value
        else:
            urls[match[1]] = value
    return {"rpc_pool_urls": urls, "rpc_pool_ws_urls": websocket_urls}


def _refuse_misspelt_pools(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        match = _ANY_POOL_VARIABLE.fullmatch(name)
        if match and value and not _POOL_VARIABLE.fullmatch(name):
            right = f"TRACE_RPC_POOL_{_variable_part(match[1])}_URL"
            raise ConfigurationError(
                f"environment variable {name} is not read: a pool's name is written in capitals, digits "
                f"and underscores there; name it {right}"
            )


def _variable_part(pool: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", pool.upper())


def _folder(variable: str, text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ConfigurationError(
            f"environment variable {variable} is {text!r}, and there is no such user's home; write a path"
        ) from None


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_url=False):
        name = f"TRACE_{str(item['loc'][0]).upper()}"
        if item["type"] == "literal_error":
            given = str(item["input"])
            lines.append(f"environment variable {name} is {given!r}; {nearest(given, ENGINES)}")
        else:
            lines.append(f"environment variable {name}: {item['msg']}")
    return "; ".join(lines)
