"""What is found out of endpoints that answer in providers' words."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from trace_dagster.errors import RpcError, RpcUnavailable
from trace_dagster.rpc.client import BatchRefused, Call
from trace_dagster.rpc.failures import ReplyError, Unreachable
from trace_dagster.rpc.gateway.config import Capabilities
from trace_dagster.rpc.gateway.probe import MOST_BATCH, MOST_LOG_RANGE, Examination, examine, probe

Behaviour = Callable[[Sequence[Any]], Any]


def _error(method: str, code: int, text: str) -> ReplyError:
    return ReplyError(f"answered {method} with error {code}: {text}", method=method, code=code, text=text)


class Node:
    """An endpoint that does everything, but for what a test replaces."""

    def __init__(
        self, head: int = 20_000_000, log_range: int | None = None, batch: int | None = None
    ) -> None:
        self.head, self.log_range, self.batch = head, log_range, batch
        self.log_text = "query exceeds max block range {}"
        self.replaced: dict[str, Behaviour] = {}
        self.calls: Counter[str] = Counter()

    def fail(self, method: str, error: RpcError) -> None:
        """Answer ``method`` with an error."""

        def behaviour(_params: Sequence[Any]) -> Any:
            raise error

        self.replaced[method] = behaviour

    async def ask(self, method: str, params: Sequence[Any]) -> Any:
        """Answer one request."""
        self.calls[method] += 1
        if method in self.replaced:
            return self.replaced[method](params)
        match method:
            case "eth_blockNumber":
                return hex(self.head)
            case "eth_getBalance":
                return "0x0"
            case "eth_getLogs":
                span = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) + 1
                assert 0 <= int(params[0]["fromBlock"], 16) <= int(params[0]["toBlock"], 16) <= self.head
                if self.log_range is not None and span > self.log_range:
                    raise _error(method, -32005, self.log_text.format(self.log_range))
                return []
            case _:
                return []

    async def ask_batch(self, calls: Sequence[Call]) -> Sequence[Any]:
        """Answer a batch."""
        self.calls["batch"] += 1
        if self.batch is not None and len(calls) > self.batch:
            raise BatchRefused
        return ["0x1"] * len(calls)

    def examined(self, known: Capabilities | None = None) -> Examination:
        """Return what is found out of it."""
        return asyncio.run(examine(self.ask, ask_batch=self.ask_batch, known=known))


def test_node_that_does_everything() -> None:
    """A full archive node is known with one request for each capability, and one batch."""
    node = Node()
    found = node.examined()
    assert found.capabilities == Capabilities(
        archive=True, traces=True, debug=True, receipts=True, log_range=MOST_LOG_RANGE, batch=MOST_BATCH
    )
    assert found.head == 20_000_000
    assert (found.denied, found.unknown) == ({}, {})
    assert set(node.calls.values()) == {1}
    assert found.requests == 6 + MOST_BATCH


def test_probe_gives_the_capabilities_alone() -> None:
    """Without a way to send batches, their limit stays unknown."""
    found = asyncio.run(probe(Node().ask))
    assert (found.archive, found.batch) == (True, None)


def test_what_is_known_is_not_asked() -> None:
    """Capabilities that the configuration states are taken as they are."""
    node = Node()
    known = Capabilities(archive=False, traces=True, debug=False, receipts=True, log_range=7, batch=1)
    assert node.examined(known).capabilities == known
    assert node.calls == {"eth_blockNumber": 1}


@pytest.mark.parametrize(
    "error",
    [
        _error("trace_block", -32601, "the method trace_block does not exist/is not available"),
        _error(
            "trace_block", -32600, "trace_block is not available on the Free tier - upgrade to Pay As You Go"
        ),
        _error("trace_block", -32004, "Method not supported"),
        _error("trace_block", -32000, "Your plan does not include this method"),
        _error("trace_block", -32601, "Unsupported method: trace_block on ETH_MAINNET"),
        Unreachable("endpoint answered HTTP 403", status=403, transient=False),
        Unreachable("endpoint answered HTTP 402", status=402, transient=False),
    ],
    ids=str,
)
def test_method_that_is_not_there_or_not_in_the_plan(error: RpcError) -> None:
    """A method that an endpoint will never answer is denied, in its words."""
    node = Node()
    node.fail("trace_block", error)
    found = node.examined()
    assert found.capabilities.traces is False
    assert found.denied == {"traces": str(error)}
    assert found.capabilities.debug is True


@pytest.mark.parametrize(
    "error",
    [
        _error("trace_block", 429, "Too many requests; upgrade your plan"),
        _error("trace_block", -32005, "rate limit exceeded"),
        _error("trace_block", -32603, "Internal error"),
        _error("trace_block", -32000, "execution timeout"),
        _error("trace_block", -32000, "server overloaded, trace_block not available, try again later"),
        Unreachable("endpoint answered HTTP 503", status=503),
        Unreachable("endpoint answered HTTP 429", status=429),
        Unreachable("endpoint did not answer within 15 s"),
        RpcUnavailable("no connection"),
    ],
    ids=str,
)
def test_outage_is_no_denial(error: RpcError) -> None:
    """What may work in a minute leaves the capability unknown, and the others are still found out."""
    node = Node()
    node.fail("trace_block", error)
    found = node.examined()
    assert found.capabilities.traces is None
    assert found.unknown == {"traces": str(error)}
    assert found.denied == {}
    assert found.capabilities.receipts is True


def test_answer_of_another_kind_is_unknown() -> None:
    """Null in place of traces is neither yes nor no."""
    node = Node()
    node.replaced["debug_traceBlockByNumber"] = lambda _params: None
    found = node.examined()
    assert found.capabilities.debug is None
    assert "NoneType, not a list" in found.unknown["debug"]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (-32000, "missing trie node 5a1b (path ) state 0x5a1b is not available"),
        (-32000, "state at block #1 is pruned"),
        (4444, "pruned history unavailable"),
        (-32000, "required historical state unavailable (reexec=0)"),
        (-32000, "archive requests require a paid plan"),
        (-32000, "distance to target block exceeds maximum proof window"),
        (-32000, "header not found"),
    ],
)
def test_pruned_node_is_no_archive(code: int, text: str) -> None:
    """State that was pruned is known in the words of geth, erigon, reth and providers."""
    node = Node()
    node.fail("eth_getBalance", _error("eth_getBalance", code, text))
    found = node.examined()
    assert found.capabilities.archive is False
    assert node.calls["eth_getBalance"] == 3


def test_chain_that_began_anew_is_an_archive() -> None:
    """Where the first blocks came from another software, state since then is enough."""

    def balance(params: Sequence[Any]) -> str:
        if int(params[1], 16) < 12_000_000:
            raise _error("eth_getBalance", -32000, "header not found")
        return "0x0"

    node = Node()
    node.replaced["eth_getBalance"] = balance
    assert node.examined().capabilities.archive is True


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 64, 100, 800, 1024, 2000, 3000, 9999])
@pytest.mark.parametrize(
    "text",
    [
        "query exceeds max block range {}",
        "You can make eth_getLogs requests with up to a {} block range. This should work: [0x1, 0x2a]",
        "block range is too wide",
        "eth_getLogs is limited to 0 - 10,000 blocks range",
    ],
)
def test_log_range_is_found_within_few_requests(limit: int, text: str) -> None:
    """The limit is found exactly where the endpoint says it, else the size below it that is tried."""
    node = Node(log_range=limit)
    node.log_text = text
    found = node.examined().capabilities.log_range
    assert found is not None
    assert found <= limit
    assert found == limit if "{}" in text else found * 5 >= limit
    assert node.calls["eth_getLogs"] <= 7


def test_log_range_of_a_short_chain() -> None:
    """A chain that is shorter than what is tried gives no limit, and is not asked beyond its head."""
    assert Node(head=0).examined().capabilities.log_range is None
    assert Node(head=99).examined().capabilities.log_range is None
    assert Node(head=99, log_range=10).examined().capabilities.log_range == 10


def test_no_logs_at_all() -> None:
    """An endpoint without eth_getLogs has no range, and says why."""
    node = Node()
    node.fail("eth_getLogs", _error("eth_getLogs", -32601, "method eth_getLogs not found"))
    found = node.examined()
    assert found.capabilities.log_range is None
    assert "not found" in found.denied["log_range"]


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 2), (4, 3), (10, 10), (99, 50), (100, 100)])
def test_batch_limit(limit: int, expected: int) -> None:
    """The largest batch of those tried that is taken; 1 where none is."""
    node = Node(batch=limit)
    assert node.examined().capabilities.batch == expected
    assert node.calls["batch"] <= 5


def test_rate_limit_of_a_batch_is_no_limit_of_its_size() -> None:
    """A provider that asks for fewer requests says nothing of batches."""

    class Busy(Node):
        async def ask_batch(self, calls: Sequence[Call]) -> Sequence[Any]:
            raise _error(f"a batch of {len(calls)}", 429, "too many requests")

    found = Busy().examined()
    assert found.capabilities.batch is None
    assert "too many requests" in found.unknown["batch"]


def test_endpoint_that_is_down() -> None:
    """Without a head there is nothing to find out, and the failure is the caller's to tell."""
    node = Node()
    node.fail("eth_blockNumber", Unreachable("endpoint cannot be reached"))
    with pytest.raises(Unreachable, match="cannot be reached"):
        node.examined()
    node.replaced["eth_blockNumber"] = lambda _params: "many"
    with pytest.raises(RpcError, match="no hex number"):
        node.examined()
