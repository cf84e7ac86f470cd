"""Holds requests at a FaultProxy for as long as a test wants, so that no test depends on time."""

import threading

from tests.support.fault_proxy import Exchange, Reply


class Gate:
    """An intercept that holds every request about one block until it is opened.

    Attributes:
        reached: set once a request is held.
    """

    def __init__(self, block: int) -> None:
        self.reached = threading.Event()
        self._block = hex(block)
        self._opened = threading.Event()

    def __call__(self, exchange: Exchange) -> Reply | None:
        """Hold the request if it is about the block."""
        if any(self._block in call.get("params", []) for call in exchange.calls):
            self.reached.set()
            self._opened.wait()
        return None

    def open(self) -> None:
        """Let all requests pass, those that are held too."""
        self._opened.set()
