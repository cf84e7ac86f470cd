"""Whose work the gateway counts requests for, and what it remembers of it."""

import base64

import pytest

from trace_dagster.rpc.gateway.auth import Grant
from trace_dagster.rpc.gateway.records import Caller, Usage
from trace_dagster.rpc.gateway.spending import Spending, Spent

GRANT = Grant("worker", None, ("eth_*",), "normal")


def basic(user: str, password: str = "the-token-of-a-worker") -> dict[bytes, bytes]:  # noqa: S107
    """The header of HTTP Basic."""
    return {b"authorization": b"Basic " + base64.b64encode(f"{user}:{password}".encode())}


@pytest.mark.parametrize(
    ("user", "job", "partition"),
    [
        ("dag/job/0_99", "dag/job", "0_99"),
        ("dag%2Fjob%2F0_99", "dag/job", "0_99"),
        ("dag/job/", "dag/job", ""),
        ("trace", "", ""),
        ("", "", ""),
        ("dag/job", "", ""),
        ("dag/job/0_99/more", "", ""),
        ("dag/job/latest", "", ""),
        ("dag/job/0_99\r\nX-Trace-Job", "", ""),
        ("dag/j{b}/0_99", "", ""),
        (f"dag/{'j' * 64}/0_99", "", ""),
        (f"dag/job/{'1' * 21}_99", "", ""),
        ("d" * 100_000, "", ""),
        ("%ff/%00/0_99", "", ""),
    ],
)
def test_the_user_of_basic_says_job_and_partition(user: str, job: str, partition: str) -> None:
    """Where it has the form that our side gives Cryo; any other is fine, and means no job."""
    assert GRANT.caller(basic(user)) == Caller("worker", job, "normal", partition)


def test_a_token_in_the_place_of_the_user_is_no_job() -> None:
    """``http://TOKEN@host`` works, and the token never becomes a label."""
    assert GRANT.caller(basic("token/of/0_1", "")) == Caller("worker")


def test_headers_go_before_the_user() -> None:
    """A client that can say it in headers is taken by these words alone."""
    headers = {b"x-trace-job": b"a/b", b"x-trace-partition": b"5_9"}
    assert GRANT.caller({**basic("dag/job/0_99"), **headers}) == Caller("worker", "a/b", "normal", "5_9")
    del headers[b"x-trace-partition"]
    assert GRANT.caller({**basic("dag/job/0_99"), **headers}) == Caller("worker", "a/b")
    headers = {b"x-trace-job": b"a/b", b"x-trace-partition": b"5 9"}
    assert GRANT.caller(headers) == Caller("worker", "a/b")


def test_sums_are_kept_apart_and_bounded() -> None:
    """By pool, token, job and partition; those that were not added to for longest go first."""
    spending = Spending(max_remembered=2)
    first, second, third = (Caller("worker", "dag/job", "low", f"{at}_{at}") for at in range(3))
    spending.add("pool", first, Usage(requests=2, credits=2.5, retries=1))
    spending.add("pool", second, Usage(requests=1, credits=9.0))
    spending.add("pool", first, Usage(requests=1, credits=0.25, cache_hits=4))
    assert spending.of("pool", first) == Spent(3, 2.75, 1, 4)
    assert spending.of("other", first) == Spent()
    assert spending.of("pool", Caller("another", "dag/job", "low", "0_0")) == Spent()
    assert spending.of("pool", Caller("worker", "dag/job", "high", "0_0")) == Spent(3, 2.75, 1, 4)
    spending.add("pool", third, Usage(requests=1))
    assert spending.of("pool", second) == Spent()
    assert spending.of("pool", first) == Spent(3, 2.75, 1, 4)
