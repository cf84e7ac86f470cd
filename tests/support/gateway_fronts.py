"""Endpoints on loopback with a chain of a few made-up blocks."""

from typing import Any

from tests.support.fault_proxy import FaultProxy

HEAD = 100


def block_hash(number: int, branch: str = "a") -> str:
    """The hash of a block of the fronts' chain."""
    return "0x" + f"{branch}{number:x}".rjust(64, "0")


def block(params: list[Any]) -> Any:
    """What the fronts answer to eth_getBlockByNumber."""
    number = HEAD if params[0] == "latest" else int(params[0], 16)
    return {"number": hex(number), "hash": block_hash(number)} if number <= HEAD else None


def front(name: str) -> FaultProxy:
    """An endpoint that says in web3_clientVersion who it is."""
    proxy = FaultProxy()
    proxy.results = {
        "eth_chainId": "0x7a69",
        "eth_blockNumber": hex(HEAD),
        "eth_getBlockByNumber": block,
        "eth_getBalance": "0x1",
        "eth_getCode": "0x00",
        "web3_clientVersion": name,
    }
    return proxy
