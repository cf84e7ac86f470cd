"""The configuration with its secrets looked up: what the gateway runs on."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Final
from urllib.parse import quote

from pydantic import SecretStr

from trace_dagster.errors import ConfigurationError
from trace_dagster.rpc.gateway.addresses import KEY, key_problem, url_problem
from trace_dagster.rpc.gateway.config import EndpointConfig, GatewayConfig, PoolConfig, TokenConfig
from trace_dagster.rpc.gateway.load import InvalidConfig
from trace_dagster.rpc.gateway.secrets import resolve
from trace_dagster.rpc.secrets import secrets_of
from trace_dagster.settings import RpcEndpoint
from trace_dagster.spec.problems import Path, Problem, split_message
from trace_dagster.urls import redact

__all__ = ["Access", "ResolvedConfig", "ResolvedEndpoint", "ResolvedPool", "ResolvedToken", "resolve_config"]

_SHORTEST_TOKEN: Final = 16


@dataclass(frozen=True)
class Access:
    """One way to an endpoint: its URL with one of its keys.

    Attributes:
        number: of the key, from 0; 0, too, where the endpoint has none.
        url: with the key in it, percent-encoded; it must not be encoded again.
        header: header that carries the key, or None.
        value: that header's value, ``Bearer`` included; None without a header.
        key: the key alone; None where the endpoint has none.
    """

    number: int
    url: SecretStr
    header: str | None = None
    value: SecretStr | None = None
    key: SecretStr | None = None

    @property
    def account(self) -> str:
        """The secret by which the provider counts: the key, without one the URL."""
        return (self.key or self.url).get_secret_value()

    @property
    def identity(self) -> tuple[str, str | None]:
        """The secrets that are sent: equal where the same is asked in the same way."""
        return self.url.get_secret_value(), self.value.get_secret_value() if self.value else None

    @property
    def headers(self) -> dict[str, str]:
        """The headers to send."""
        return (
            {} if self.header is None or self.value is None else {self.header: self.value.get_secret_value()}
        )

    @property
    def shown(self) -> str:
        """The URL as it may be shown."""
        return redact(self.url.get_secret_value())

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every text that must be taken out of what is shown, longest first, for ``scrub``."""
        token = None
        if self.value is not None:
            token = SecretStr(self.value.get_secret_value().removeprefix("Bearer "))
        return secrets_of(RpcEndpoint(pool="", url=self.url, token=token, variable=""))


@dataclass(frozen=True)
class ResolvedEndpoint:
    """One provider.

    Attributes:
        config: as it was written.
        accesses: one for each key; one where there are no keys.
    """

    config: EndpointConfig
    accesses: tuple[Access, ...]

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self.config.name


@dataclass(frozen=True)
class ResolvedPool:
    """One pool.

    Attributes:
        name: its name.
        config: as it was written.
        endpoints: in the file's order.
    """

    name: str
    config: PoolConfig
    endpoints: tuple[ResolvedEndpoint, ...]


@dataclass(frozen=True)
class ResolvedToken:
    """One caller.

    Attributes:
        config: as it was written.
        digest: SHA-256 of the token, which itself is not kept.
    """

    config: TokenConfig
    digest: bytes = field(repr=False)


@dataclass(frozen=True)
class ResolvedConfig:
    """All of it.

    Attributes:
        config: as it was written.
        tokens: in the file's order.
        pools: by name.
        named_as_variables: whether a ``-`` in a pool's name is a ``_``, as in the names of variables.
    """

    config: GatewayConfig
    tokens: tuple[ResolvedToken, ...]
    pools: Mapping[str, ResolvedPool]
    named_as_variables: bool = False


def resolve_config(config: GatewayConfig, environment: Mapping[str, str] = os.environ) -> ResolvedConfig:
    """Look up every secret of ``config``. Blocks: files are read, and AWS is asked where it is named.

    A relative path of ``file:`` begins in the folder of the configuration's file.

    Raises:
        InvalidConfig: any of them is missing or cannot be used; one line for each, without its value.
    """
    resolver = _Resolver(config, environment)
    pools = {name: resolver.pool(name, pool) for name, pool in config.pools.items()}
    tokens = tuple(resolver.tokens())
    if resolver.problems:
        raise InvalidConfig(sorted(resolver.problems))
    return ResolvedConfig(config, tokens, pools)


class _Resolver:
    """Looks up each reference once, and collects what is wrong."""

    def __init__(self, config: GatewayConfig, environment: Mapping[str, str]) -> None:
        self._config, self._environment = config, environment
        self._found: dict[str, SecretStr | ConfigurationError] = {}
        self.problems: list[Problem] = []

    def pool(self, name: str, pool: PoolConfig) -> ResolvedPool:
        endpoints: list[ResolvedEndpoint] = []
        known: dict[str, str] = {}
        for at, endpoint in enumerate(pool.endpoints):
            path: Path = ("pools", name, "endpoints", at)
            accesses = self._accesses(path, endpoint)
            endpoints.append(ResolvedEndpoint(endpoint, accesses))
            for access in accesses:
                other = known.setdefault(access.url.get_secret_value(), endpoint.name)
                if other != endpoint.name:
                    mend = "name a provider once in a pool, with several keys"
                    self._add((*path, "url"), f"{endpoint.url} is the URL of {other}, too", mend)
        return ResolvedPool(name, pool, tuple(endpoints))

    def tokens(self) -> Iterator[ResolvedToken]:
        known: dict[bytes, str] = {}
        for at, token in enumerate(self._config.tokens):
            path: Path = ("tokens", at, "token")
            text = self._look_up(path, token.token, key_problem)
            if text is None:
                continue
            if len(text) < _SHORTEST_TOKEN:
                mend = f"make one of at least {_SHORTEST_TOKEN} characters, e.g. with openssl rand -hex 32"
                self._add(path, f"{token.token} is too short to be safe", mend)
            digest = hashlib.sha256(text.encode()).digest()
            if digest in known:
                self._add(
                    path, f"is the token of {known[digest]}, too", "give each caller a token of its own"
                )
            known[digest] = token.name
            yield ResolvedToken(token, digest)

    def _accesses(self, at: Path, endpoint: EndpointConfig) -> tuple[Access, ...]:
        def problem_of(url: str) -> str | None:
            return url_problem(url, has_keys=bool(endpoint.keys), key_header=endpoint.key_header)

        url = self._look_up((*at, "url"), endpoint.url, problem_of)
        keys = [
            self._look_up((*at, "keys", number), reference, key_problem)
            for number, reference in enumerate(endpoint.keys)
        ]
        repeated = next((number for number, key in enumerate(keys) if key and key in keys[:number]), None)
        if repeated is not None:
            problem = f"{endpoint.keys[repeated]} holds the same key as another of this endpoint"
            self._add((*at, "keys", repeated), problem, "name each key once: its limits would be exceeded")
        if url is None or None in keys:
            return ()
        if not keys:
            return (Access(0, SecretStr(url)),)
        return tuple(_access(number, url, endpoint.key_header, key or "") for number, key in enumerate(keys))

    def _look_up(self, path: Path, reference: str, problem_of: Callable[[str], str | None]) -> str | None:
        """Return the secret, or None after adding what is wrong with it."""
        if reference not in self._found:
            self._found[reference] = self._resolve(reference)
        found = self._found[reference]
        if isinstance(found, ConfigurationError):
            self._add(path, *split_message(str(found)))
            return None
        text = found.get_secret_value()
        problem = problem_of(text)
        if problem is not None:
            what, mend = split_message(problem)
            self._add(path, f"{reference} {what}", mend)
            return None
        return text

    def _resolve(self, reference: str) -> SecretStr | ConfigurationError:
        try:
            folder = FilePath(self._config.file).parent
            return resolve(reference, environment=self._environment, folder=folder)
        except ConfigurationError as error:
            return error

    def _add(self, path: Path, problem: str, mend: str) -> None:
        self.problems.append(self._config.problem(path, problem, mend))


def _access(number: int, url: str, header: str | None, key: str) -> Access:
    if header is None:
        return Access(number, SecretStr(url.replace(KEY, quote(key, safe=""))), key=SecretStr(key))
    value = f"Bearer {key}" if header.lower() == "authorization" else key
    return Access(number, SecretStr(url), header, SecretStr(value), SecretStr(key))
