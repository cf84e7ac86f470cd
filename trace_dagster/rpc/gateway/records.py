"""What the gateway keeps of a caller and of a request while it is answered."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from trace_dagster.rpc.gateway.config import OWN_NAME, Priority
from trace_dagster.rpc.gateway.endpoint import Endpoint
from trace_dagster.rpc.gateway.jsonrpc import Answer, Call
from trace_dagster.rpc.gateway.judging import Claim
from trace_dagster.rpc.gateway.replies import Held
from trace_dagster.rpc.gateway.routing import Route

__all__ = ["GATEWAY", "MAX_PARTS", "MAX_PASSES", "Caller", "Parts", "Usage", "Work"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        token: name of its token.
        job: what it works on, by its own word.
        priority: its class in the queue.
        partition: of the job, by its own word, too.
    """

    token: str
    job: str = ""
    priority: Priority = "normal"
    partition: str = ""

    @property
    def name(self) -> str:
        """Who shares turns evenly with others."""
        return f"{self.token}/{self.job}"


MAX_PASSES: Final = 5
"""So often all endpoints are tried, with pauses, before a request fails."""

MAX_PARTS: Final = 10_000
"""Of so many requests at most the answer to one for a range of logs is put together."""

GATEWAY = Caller(OWN_NAME, "", "high")
"""The gateway itself, where it looks at heads and hashes."""


@dataclass(slots=True)
class Usage:
    """What answering one HTTP request took.

    Attributes:
        requests: JSON-RPC requests sent to endpoints.
        credits: what they cost.
        retries: those of them that were sent because another failed.
        cache_hits: answers from the cache.
        endpoints: names of those that were asked.
        held: what is held of their replies; None: nothing once they are read.
    """

    requests: int = 0
    credits: float = 0.0
    retries: int = 0
    cache_hits: int = 0
    endpoints: set[str] = field(default_factory=set)
    held: Held | None = None


@dataclass(slots=True)
class Parts:
    """How many parts of a range of logs, and parts of these, may still be asked for."""

    left: int = MAX_PARTS
    is_first: bool = True
    """Whether none was asked for yet."""

    def take(self, count: int) -> bool:
        """Return whether ``count`` more may be asked for, and count them."""
        if count > self.left:
            return False
        self.left -= count
        return True


class Work:
    """One request while it is answered.

    Attributes:
        call: what is asked.
        route: what that needs.
        begun: moment at which it came.
        answer: None until there is one.
        source: the endpoint whose answer waits to be confirmed, with ``candidate``.
        candidate: that answer.
        tried: endpoints that failed in this pass.
        nulls: endpoints that answered null.
        doubted: endpoints that answered with an error which others may not give.
        claims: what that says of blocks.
        error: the last error that an endpoint gave, to be passed on where no other does better.
        is_flaky: whether an endpoint failed in this pass, so that another pass may help.
        sent: how often it was sent.
        limited: how often an endpoint answered that fewer requests should be sent.
        passes: how often all endpoints were tried.
        parts: into how many it may be split, shared with those.
        too_many_logs: whether the range is to be split.
    """

    __slots__ = (
        "_followers",
        "answer",
        "begun",
        "call",
        "candidate",
        "claims",
        "doubted",
        "error",
        "is_flaky",
        "limited",
        "nulls",
        "parts",
        "passes",
        "route",
        "sent",
        "source",
        "too_many_logs",
        "tried",
    )

    def __init__(self, call: Call, route: Route, parts: Parts | None = None) -> None:
        self.call, self.route = call, route
        self.parts = parts or Parts()
        self.begun = asyncio.get_running_loop().time()
        self.answer: Answer | None = None
        self.candidate: Answer | None = None
        self.source: Endpoint | None = None
        self.error: Answer | None = None
        self.tried: frozenset[Endpoint] = frozenset()
        self.nulls: frozenset[Endpoint] = frozenset()
        self.doubted: frozenset[Endpoint] = frozenset()
        self.sent = self.passes = self.limited = 0
        self.too_many_logs = self.is_flaky = False
        self.claims: Sequence[Claim] = ()
        self._followers: list[asyncio.Future[Answer | None]] = []

    @property
    def may_try_again(self) -> bool:
        """Whether another pass is allowed, and may help."""
        return self.is_flaky and self.passes < MAX_PASSES

    def followed(self) -> "asyncio.Future[Answer | None]":
        """Return a future of the answer, for another request for the same."""
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._followers.append(future)
        return future

    def tell_followers(self) -> None:
        """Give the answer, or that there is none, to all that wait for it."""
        for future in self._followers:
            if not future.done():
                future.set_result(self.answer)
