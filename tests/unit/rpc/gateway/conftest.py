"""Fixtures of the gateway's unit tests."""

from collections.abc import Iterator

import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.gateway_fronts import front


@pytest.fixture
def fronts() -> Iterator[dict[str, FaultProxy]]:
    """Three honest endpoints."""
    made = {name: front(name) for name in ("one", "two", "three")}
    yield made
    for proxy in made.values():
        proxy.close()
