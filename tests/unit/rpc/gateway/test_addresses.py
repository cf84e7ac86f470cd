"""Which URLs and headers an endpoint may have."""

import pytest

from trace_dagster.rpc.gateway.addresses import (
    header_problem,
    is_forbidden_address,
    key_problem,
    url_problem,
)


@pytest.mark.parametrize(
    "url",
    [
        "https://rpc.example.com/v2/secret",
        "http://127.0.0.1:8545",
        "http://10.0.0.5:8545/",
        "http://[::1]:8545/x?y=z",
        "http://erigon:8545",
        "https://user:password@rpc.example.com",
        "https://rpc_node.example.com./",
    ],
)
def test_usable_urls(url: str) -> None:
    """Providers, nodes of one's own on private addresses and loopback are allowed."""
    assert url_problem(url, has_keys=False, key_header=None) is None


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://rpc.example.com", "no http or https URL"),
        ("file:///etc/passwd", "no http or https URL"),
        ("rpc.example.com", "no http or https URL"),
        ("https://", "names no host"),
        ("https:///planted", "names no host"),
        ("https://planted:8545:1/", "is no URL"),
        ("https://[planted/", "is no URL"),
        ("https://host:99999/", "is no URL"),
        ("https://@planted.example.com/", "without a user"),
        ("https://:@planted.example.com/", "without a user"),
        ("https://-planted-.example.com/", "names no host"),
        ("https://pla%6eted.example.com/", "names no host"),
        ("https://good.example.com\\@planted.example.com/", "names no host"),
        ("https://rpc.example.com/a b", "a space"),
        ("https://rpc.example.com/\r\nHost: planted", "a space"),
        ("https://rpc.example.com/ \n", "a space"),
        ("https://rpc.exämple.com/", "not ASCII"),
        ("https://rpc.example.com/#planted", "never sent"),
        ("http://169.254.169.254/latest/meta-data/planted", "metadata"),
        ("http://[fd00:ec2::254]/planted", "metadata"),
        ("http://metadata.google.internal/planted", "metadata"),
    ],
)
def test_refused_urls(url: str, problem: str) -> None:
    """What cannot be asked, hides where it leads, or leads to metadata is refused, and not quoted."""
    found = url_problem(url, has_keys=False, key_header=None)
    assert found is not None
    assert problem in found
    assert "; " in found
    assert "planted" not in found


@pytest.mark.parametrize(
    ("url", "has_keys", "key_header", "problem"),
    [
        ("https://a.example/{key}", False, None, "has no keys"),
        ("https://a.example/v2", True, None, "no key_header"),
        ("https://a.example/{key}", True, "x-api-key", "remove one"),
        ("https://{key}.a.example/", True, None, "in its host"),
        ("https://a.example/%7Bkey%7D", True, None, "percent-encoded"),
    ],
)
def test_key_and_its_place_belong_together(
    url: str, has_keys: bool, key_header: str | None, problem: str
) -> None:
    """Keys have exactly one place: ``{key}`` in the path or query, or a header."""
    assert problem in (url_problem(url, has_keys=has_keys, key_header=key_header) or "")
    assert url_problem("https://a.example/{key}?k={key}", has_keys=True, key_header=None) is None
    assert url_problem("https://a.example/", has_keys=True, key_header="x-api-key") is None


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.0.1",
        "2852039166",
        "0xA9FEA9FE",
        "0251.0376.0251.0376",
        "169.16689662",
        "::ffff:169.254.169.254",
        "[::ffff:a9fe:a9fe]",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fe80::1",
        "fe80::1%eth0",
        "FEBF::1",
        "fd00:ec2::254",
        "Metadata.Google.Internal.",
        "metadata",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",  # noqa: S104 - is refused
        "::",
        "224.0.0.1",
        "255.255.255.255",
        "ff02::1",
    ],
)
def test_forbidden_addresses(host: str) -> None:
    """Link-local, metadata and multicast addresses are known in every form that a resolver takes."""
    assert is_forbidden_address(host)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "fd00::1", "1.1.1.1", "rpc.example"]
)
def test_allowed_addresses(host: str) -> None:
    """Loopback, private and public addresses are allowed, and names are for the resolver to judge."""
    assert not is_forbidden_address(host)


@pytest.mark.parametrize(
    "name", ["", "x api", "x:y", "x\r\nhost", "ä", "Host", "content-length", "TE", "Connection"]
)
def test_refused_headers(name: str) -> None:
    """A key's header is a legal name, and none that the exchange itself needs."""
    assert header_problem(name) is not None


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "X_Token"])
def test_allowed_headers(name: str) -> None:
    """Headers in which providers take keys are allowed."""
    assert header_problem(name) is None


def test_keys_cannot_inject_headers() -> None:
    """A key with a line break, a space or beyond ASCII is refused and not quoted."""
    for key in ("planted\r\nHost: x", "planted key", "plantedé", "planted\x00"):
        assert "planted" not in (key_problem(key) or "planted")
    assert key_problem("abc-_+/=.~") is None
