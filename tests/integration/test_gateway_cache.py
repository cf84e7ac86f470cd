"""Pools of the gateway that keep answers on disk, in front of a real node."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.gateway_pools import AskedPool, with_pool
from trace_dagster.errors import ConfigurationError
from trace_dagster.testing.anvil import Anvil, running_anvil

KNOWN = {
    "capabilities": {"archive": True, "traces": True, "debug": True, "receipts": True, "log_range": 1000}
}


@pytest.fixture(scope="module")
def anvil() -> Iterator[Anvil]:
    """A node with 200 blocks, a transaction in block 201, and a hundred more."""
    with running_anvil() as node:
        node.call("anvil_mine", hex(200))
        account = node.call("eth_accounts")[0]
        node.call("eth_sendTransaction", {"from": account, "to": account, "value": "0x1"})
        node.call("anvil_mine", hex(100))
        yield node


@pytest.fixture
def front(anvil: Anvil) -> Iterator[FaultProxy]:
    """A front that counts what is asked."""
    proxy = FaultProxy(anvil.url)
    yield proxy
    proxy.close()


def _with_pool(front: FaultProxy, folder: Path, use: Callable[[AskedPool], Awaitable[None]]) -> None:
    """Let ``use`` ask a pool whose answers are kept in ``folder``."""
    cache = {"path": str(folder), "max_bytes": 2**22}
    with_pool(use, {"front": front.url()}, endpoint=KNOWN, cache=cache)


def test_final_blocks_are_asked_for_once(anvil: Anvil, front: FaultProxy, tmp_path: Path) -> None:
    """Blocks far enough below the head come from disk the second time, those near it do not."""
    calls = [("eth_getBlockByNumber", [hex(number), False]) for number in (5, 100, 290)]
    expected = anvil.batch(calls)

    async def use(pool: AskedPool) -> None:
        first, usage = await pool.ask(*calls)
        assert (first, usage.cache_hits, usage.requests) == (expected, 0, 3)
        second, usage = await pool.ask(*calls)
        assert (second, usage.cache_hits, usage.requests) == (expected, 2, 1)

    _with_pool(front, tmp_path, use)
    assert front.calls["eth_getBlockByNumber"] == 4

    async def after_a_restart(pool: AskedPool) -> None:
        again, usage = await pool.ask(*calls[:2])
        assert (again, usage.cache_hits, usage.requests) == (expected[:2], 2, 0)

    _with_pool(front, tmp_path, after_a_restart)
    assert front.calls["eth_getBlockByNumber"] == 4


def test_by_hash_and_by_transaction(anvil: Anvil, front: FaultProxy, tmp_path: Path) -> None:
    """A block by its hash, and a receipt of a final block, are kept; errors, null and the tip are not."""
    block = anvil.call("eth_getBlockByNumber", *("0xc9", False))
    receipt = anvil.call("eth_getTransactionReceipt", block["transactions"][0])
    kept = [
        ("eth_getBlockByHash", [block["hash"], False]),
        ("eth_getTransactionReceipt", [block["transactions"][0]]),
    ]
    other = [
        ("eth_getTransactionReceipt", ["0x" + "1" * 64]),
        ("eth_blockNumber", []),
        ("eth_getBlockByNumber", ["latest", False]),
        ("eth_call", [{"to": "0x" + "0" * 40}, "0xffffff"]),
    ]

    async def use(pool: AskedPool) -> None:
        first, _ = await pool.ask(*kept, *other)
        assert first[:3] == [block, receipt, None]
        again, usage = await pool.ask(*other, *kept)
        assert (again[-2:], usage.cache_hits) == ([block, receipt], 2)

    _with_pool(front, tmp_path, use)
    assert front.calls["eth_getBlockByHash"] == 1
    assert front.calls["eth_getTransactionReceipt"] == 3


def test_folder_that_cannot_be_used(front: FaultProxy, tmp_path: Path) -> None:
    """The gateway does not start with a cache that it cannot write."""
    (tmp_path / "file").write_text("")

    async def use(_pool: AskedPool) -> None:
        raise AssertionError

    with pytest.raises(ConfigurationError, match=r"cache\.path"):
        _with_pool(front, tmp_path / "file", use)


@pytest.fixture
def second(anvil: Anvil) -> Iterator[FaultProxy]:
    """Another front of the same node."""
    proxy = FaultProxy(anvil.url)
    yield proxy
    proxy.close()


def _with_two(
    front: FaultProxy, second: FaultProxy, folder: Path, use: Callable[[AskedPool], Awaitable[None]]
) -> None:
    cache = {"path": str(folder), "max_bytes": 2**22}
    urls = {"front": front.url(), "second": second.url()}
    with_pool(use, urls, endpoint=KNOWN, cache=cache)


def test_a_wrong_head_makes_nothing_final(front: FaultProxy, second: FaultProxy, tmp_path: Path) -> None:
    """One endpoint that is ahead does not let the newest blocks of the other be kept."""
    second.results["eth_blockNumber"] = hex(500)

    async def use(pool: AskedPool) -> None:
        for _ in range(2):
            found, usage = await pool.ask(("eth_getBlockByNumber", ["0x12c", False]))
            assert (found[0]["number"], usage.cache_hits) == ("0x12c", 0)
        for hits in (0, 1):
            found, usage = await pool.ask(("eth_getBlockByNumber", ["0x5", False]))
            assert (found[0]["number"], usage.cache_hits) == ("0x5", hits)

    _with_two(front, second, tmp_path, use)


def test_what_is_in_doubt_is_forgotten(front: FaultProxy, second: FaultProxy, tmp_path: Path) -> None:
    """Once endpoints disagree below finality, what was kept is asked for again; kept once it is decided."""
    balance = ("eth_getBalance", ["0x" + "0" * 40, "0x5"])

    def other_hash(_: list[object], true: dict[str, object]) -> dict[str, object]:
        return {**true, "hash": "0x" + "f" * 64}

    async def use(pool: AskedPool) -> None:
        for hits in (0, 1):
            _, usage = await pool.ask(balance)
            assert usage.cache_hits == hits
        second.rewrite["eth_getBlockByNumber"] = other_hash
        await pool.ask(("eth_getBlockByNumber", ["0x5", False]))
        assert list(pool.pool.agreement.alarms) == [5]
        for _ in range(2):
            _, usage = await pool.ask(balance)
            assert usage.cache_hits == 0
        del second.rewrite["eth_getBlockByNumber"]
        found, _ = await pool.ask(("eth_getBlockByNumber", ["0x5", False]))
        assert found[0]["number"] == "0x5"
        for hits in (0, 1):
            _, usage = await pool.ask(balance)
            assert usage.cache_hits == hits

    _with_two(front, second, tmp_path, use)
