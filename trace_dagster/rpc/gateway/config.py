"""What ``rpc_pools.yaml`` says, as frozen models."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
)

from trace_dagster.rpc.gateway.secrets import reference_problem
from trace_dagster.spec.document import Document
from trace_dagster.spec.problems import Path, Problem, dotted, shown

__all__ = [
    "DEFAULT_COST",
    "DEFAULT_METHODS",
    "OWN_NAME",
    "CacheConfig",
    "Capabilities",
    "EndpointConfig",
    "EndpointLimits",
    "GatewayConfig",
    "ListenConfig",
    "PoolConfig",
    "RequestLimits",
    "TokenConfig",
    "is_name",
]

_NAME: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_LIKE_A_NAME: Final = r"[\w !-]{1,40}"
_METHOD_NAME: Final = r"^[a-zA-Z][a-zA-Z0-9_]*$"
_METHOD: Final = r"^[a-zA-Z][a-zA-Z0-9_]*\*?$"
DEFAULT_COST: Final = "default"
"""In a table of costs: what a method costs that the table does not name."""
OWN_NAME: Final = "gateway"
"""In the place of a token's name: the gateway itself."""


def is_name(text: str) -> bool:
    """Whether ``text`` may name a pool, an endpoint, a token or a table of costs."""
    return re.fullmatch(_NAME, text) is not None


def _check_name(text: str) -> str:
    if is_name(text):
        return text
    mend = "write lower-case letters, digits, - and _, at most 63 in all"
    if re.fullmatch(_LIKE_A_NAME, text) is None:  # it may be an address or a key, and is not shown
        raise ValueError(f"is no name; {mend}")
    plain = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")
    example = f", e.g. {plain}" if re.fullmatch(_NAME, plain) else ""
    raise ValueError(f"{shown(text)} is no name; {mend}{example}")


def _check_method(text: str) -> str:
    if re.fullmatch(_METHOD, text) is None:
        raise ValueError(
            f"{shown(text)} is no method; write a method's name, or its beginning and a *, e.g. eth_get*"
        )
    return text


def _check_method_name(text: str) -> str:
    if re.fullmatch(_METHOD_NAME, text) is None:
        raise ValueError(
            f"{shown(text)} is no method; write a method's whole name, or {DEFAULT_COST} for all others"
        )
    return text


def _check_reference(text: str) -> str:
    problem = reference_problem(text)
    if problem is not None:
        raise ValueError(problem)
    return text


def _which_pools(value: Any) -> str:
    return "<all>" if value == "*" else "<list>"


Name = Annotated[str, AfterValidator(_check_name), Field(json_schema_extra={"pattern": _NAME})]
"""Of a pool, an endpoint, a token: safe in a URL, a metric's label and a log line."""

SecretReference = Annotated[str, AfterValidator(_check_reference)]
"""Where a secret is: ``env:NAME``, ``file:PATH`` or ``secretsmanager:ID`` (``ID#field`` of a JSON secret)."""

Priority = Literal["high", "normal", "low"]
Method = Annotated[str, AfterValidator(_check_method), Field(json_schema_extra={"pattern": _METHOD})]
MethodName = Annotated[
    str, AfterValidator(_check_method_name), Field(json_schema_extra={"pattern": _METHOD_NAME})
]
Credits = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
PerSecond = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]

DEFAULT_METHODS: Final[tuple[Method, ...]] = (
    "eth_blockNumber",
    "eth_call",
    "eth_chainId",
    "eth_estimateGas",
    "eth_feeHistory",
    "eth_gasPrice",
    "eth_getAccount*",
    "eth_getBalance",
    "eth_getBlobSidecars",
    "eth_getBlock*",
    "eth_getCode",
    "eth_getHeader*",
    "eth_getLogs",
    "eth_getProof",
    "eth_getRaw*",
    "eth_getStorage*",
    "eth_getTransaction*",
    "eth_getUncle*",
    "eth_maxPriorityFeePerGas",
    "eth_syncing",
    "net_version",
    "trace_*",
    "debug_traceBlock",
    "debug_traceBlockBy*",
    "debug_traceCall*",
    "debug_traceTransaction",
    "web3_clientVersion",
)
"""Reading only: nothing is sent to a chain, no node is managed, and nothing hangs on what one node keeps for
its caller (filters, work)."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class ListenConfig(_Model):
    """Where the gateway listens; flags of ``trace gateway`` come first.

    Attributes:
        host: address; only loopback unless it is said.
        port: TCP port.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8645, ge=0, le=65535)


class RequestLimits(_Model):
    """What one caller may send, and how long it may wait.

    Attributes:
        max_body_bytes: longest request, decompressed.
        max_batch_items: JSON-RPC requests in one body.
        max_reply_bytes: longest reply of a provider, decompressed.
        max_reply_bytes_at_once: of all replies that are held, until callers have taken what was asked.
        max_waiting: items that may wait for a pool, of all callers together.
        max_wait_seconds: so long an item may wait for its turn; then 429.
        deadline_seconds: so long an item may take in all.
    """

    max_body_bytes: int = Field(default=2 * 2**20, ge=1024)
    max_batch_items: int = Field(default=1000, ge=1)
    max_reply_bytes: int = Field(default=256 * 2**20, ge=1024)
    max_reply_bytes_at_once: int = Field(default=2**30, ge=1024)
    max_waiting: int = Field(default=20_000, ge=1)
    max_wait_seconds: Seconds = 30
    deadline_seconds: Seconds = 60


class TokenConfig(_Model):
    """Who may ask for what.

    Attributes:
        name: shown in metrics and logs, in the place of the token.
        token: where the token is.
        pools: names of pools, or ``*``.
        methods: names, or prefixes that end in ``*``; left out: ``DEFAULT_METHODS``.
        priority: the highest that its requests may ask for, and what they have where they ask for none.
    """

    name: Name
    token: SecretReference
    pools: Annotated[
        Annotated[Annotated[tuple[Name, ...], Field(min_length=1)], Tag("<list>")]
        | Annotated[Literal["*"], Tag("<all>")],
        Discriminator(_which_pools),
    ] = "*"
    methods: tuple[Method, ...] = Field(default=DEFAULT_METHODS, min_length=1)
    priority: Priority = "normal"


class EndpointLimits(_Model):
    """Of each key of an endpoint.

    Attributes:
        requests_per_second: JSON-RPC items; None: no limit.
        credits_per_second: the provider's credits, by the endpoint's ``costs``; None: no limit.
        concurrency: HTTP exchanges under way.
    """

    requests_per_second: PerSecond | None = None
    credits_per_second: PerSecond | None = None
    concurrency: int = Field(default=16, ge=1)


class Capabilities(_Model):
    """What an endpoint can do; what is not said is probed.

    Attributes:
        archive: state of old blocks.
        traces: ``trace_*``.
        debug: ``debug_trace*``.
        receipts: ``eth_getBlockReceipts``.
        log_range: most blocks in one ``eth_getLogs``.
        batch: most items in one batch; 1: none.
    """

    archive: bool | None = None
    traces: bool | None = None
    debug: bool | None = None
    receipts: bool | None = None
    log_range: int | None = Field(default=None, ge=1)
    batch: int | None = Field(default=None, ge=1)


class EndpointConfig(_Model):
    """One provider of a pool.

    Attributes:
        name: shown in metrics, logs and replies.
        url: where the URL is; ``{key}`` in it stands for the key.
        keys: where the keys are; none: the URL needs none.
        key_header: header that carries the key, ``Authorization`` after ``Bearer``; None: the URL carries it.
        limits: of each key.
        costs: name of a table of ``GatewayConfig.costs``.
        capabilities: what is known.
        tier: endpoints of a lower tier are asked first; the others where those fail.
    """

    name: Name
    url: SecretReference
    keys: tuple[SecretReference, ...] = ()
    key_header: str | None = None
    limits: EndpointLimits = EndpointLimits()
    costs: str | None = None
    capabilities: Capabilities = Capabilities()
    tier: int = Field(default=0, ge=0)


class PoolConfig(_Model):
    """A pool: a chain, and who serves it.

    Attributes:
        chain_id: EIP-155; every endpoint is asked for it before it is used.
        finality_blocks: so far behind the head endpoints must agree on hashes, and answers stay as they are.
        hedge_after_seconds: a read that takes longer is asked of a second endpoint too; None: by what is
            usual; 0: never.
        endpoints: at least one.
    """

    chain_id: int = Field(ge=1)
    finality_blocks: int = Field(default=64, ge=0)
    hedge_after_seconds: float | None = Field(default=None, ge=0, le=86_400, allow_inf_nan=False)
    endpoints: tuple[EndpointConfig, ...] = Field(min_length=1)


class CacheConfig(_Model):
    """Answers that cannot change, on disk.

    Attributes:
        path: folder.
        max_bytes: the oldest answers go beyond this.
    """

    path: str = Field(min_length=1)
    max_bytes: int = Field(default=2**30, ge=2**20)


class GatewayConfig(_Model):
    """The whole file.

    Attributes:
        listen: address.
        limits: of requests.
        tokens: callers; none: only loopback may ask, and needs no token.
        costs: by name, credits by method; ``default`` for all others.
        cache: None: no cache.
        pools: by name.
    """

    listen: ListenConfig = ListenConfig()
    limits: RequestLimits = RequestLimits()
    tokens: tuple[TokenConfig, ...] = ()
    costs: Mapping[Name, Mapping[MethodName, Credits]] = Field(default_factory=dict)
    cache: CacheConfig | None = None
    pools: Mapping[Name, PoolConfig] = Field(min_length=1)

    _document: Document = PrivateAttr(default_factory=lambda: Document("<config>"))

    @property
    def file(self) -> str:
        """The file that it was read from, as it was asked for."""
        return self._document.file

    def read_from(self, document: Document) -> Self:
        """Return a copy that knows where in ``document`` its values stand."""
        copy = self.model_copy()
        copy._document = document  # noqa: SLF001 - its own
        return copy

    def problem(self, path: Path, problem: str, mend: str) -> Problem:
        """Return what is wrong with the value at ``path``, with its line and column."""
        return Problem(self.file, *self._document.mark(path), dotted(path), problem, mend)
