"""A configuration with its secrets looked up."""

import hashlib
from pathlib import Path

import pytest

from trace_dagster.rpc.gateway.config import GatewayConfig
from trace_dagster.rpc.gateway.load import InvalidConfig, load_config
from trace_dagster.rpc.gateway.resolved import resolve_config

TEXT = """\
tokens:
  - { name: follower, token: env:FOLLOWER }
  - { name: backfill, token: file:backfill.token }
pools:
  ethereum:
    chain_id: 1
    endpoints:
      - { name: path, url: env:PATH_URL, keys: [env:KEY_A, env:KEY_B] }
      - { name: header, url: env:HEADER_URL, keys: [env:KEY_A], key_header: x-api-key }
      - { name: bearer, url: env:BEARER_URL, keys: [env:KEY_A], key_header: authorization }
      - { name: plain, url: env:PLAIN_URL }
"""
ENVIRONMENT = {
    "FOLLOWER": "planted-follower-token",
    "PATH_URL": "https://path.example/v2/{key}",
    "HEADER_URL": "https://header.example/v1",
    "BEARER_URL": "https://bearer.example/v1",
    "PLAIN_URL": "http://127.0.0.1:8545",
    "KEY_A": "planted/key+a",
    "KEY_B": "planted-key-b",
}


@pytest.fixture
def config(tmp_path: Path) -> GatewayConfig:
    """A file with every way of carrying a key, and a token in a file beside it."""
    (tmp_path / "backfill.token").write_text("planted-backfill-token\n")
    path = tmp_path / "rpc_pools.yaml"
    path.write_text(TEXT)
    return load_config(path)


def _problems(config: GatewayConfig, environment: dict[str, str]) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        resolve_config(config, environment)
    assert "planted" not in str(caught.value)
    return [
        f"{one.line}:{one.column}: {one.path.removeprefix('pools.ethereum.')}: {one.problem}; {one.mend}"
        for one in caught.value.problems
    ]


def test_each_key_is_an_access(config: GatewayConfig) -> None:
    """Keys go into the URL, percent-encoded, or into a header, with Bearer where that is Authorization."""
    path, header, bearer, plain = resolve_config(config, ENVIRONMENT).pools["ethereum"].endpoints
    assert [one.url.get_secret_value() for one in path.accesses] == [
        "https://path.example/v2/planted%2Fkey%2Ba",
        "https://path.example/v2/planted-key-b",
    ]
    assert [one.number for one in path.accesses] == [0, 1]
    assert header.accesses[0].headers == {"x-api-key": "planted/key+a"}
    assert bearer.accesses[0].headers == {"authorization": "Bearer planted/key+a"}
    assert plain.accesses[0].headers == {}
    assert path.accesses[0].shown == "https://path.example/..."


def test_tokens_are_kept_as_digests(config: GatewayConfig) -> None:
    """The gateway holds no token, only its SHA-256; a file's path begins beside the configuration."""
    follower, backfill = resolve_config(config, ENVIRONMENT).tokens
    assert follower.digest == hashlib.sha256(b"planted-follower-token").digest()
    assert backfill.digest == hashlib.sha256(b"planted-backfill-token").digest()


def test_nothing_secret_in_repr(config: GatewayConfig) -> None:
    """The resolved configuration can be printed, and each access says what to take out of texts."""
    resolved = resolve_config(config, ENVIRONMENT)
    assert "planted" not in repr(resolved)
    assert resolved.tokens[0].digest.hex() not in repr(resolved)
    for endpoint in resolved.pools["ethereum"].endpoints[:3]:
        assert {"planted/key+a", "planted%2Fkey%2Ba"} <= set(endpoint.accesses[0].secrets)


def test_everything_missing_is_told_at_once(config: GatewayConfig, tmp_path: Path) -> None:
    """Each secret that is missing is told with the place that names it."""
    (tmp_path / "backfill.token").unlink()
    assert _problems(config, {"KEY_A": "x", "KEY_B": ""}) == [
        "2:30: tokens[0].token: env:FOLLOWER is not set; set the environment variable FOLLOWER",
        "3:30: tokens[1].token: file:backfill.token: there is no such file; make it, or mend the path",
        "8:28: endpoints[0].url: env:PATH_URL is not set; set the environment variable PATH_URL",
        "8:60: endpoints[0].keys[1]: env:KEY_B is empty; put the secret there",
        "9:30: endpoints[1].url: env:HEADER_URL is not set; set the environment variable HEADER_URL",
        "10:30: endpoints[2].url: env:BEARER_URL is not set; set the environment variable BEARER_URL",
        "11:29: endpoints[3].url: env:PLAIN_URL is not set; set the environment variable PLAIN_URL",
    ]


def test_secrets_that_cannot_be_used(config: GatewayConfig, tmp_path: Path) -> None:
    """Values that would break an exchange, lead astray or weaken a limit are told without being shown."""
    (tmp_path / "backfill.token").write_text("planted-follower-token")
    found = _problems(
        config,
        {
            **ENVIRONMENT,
            "PATH_URL": "https://planted.example/v2",
            "HEADER_URL": "http://169.254.169.254/planted",
            "BEARER_URL": "http://127.0.0.1:8545",
            "KEY_B": "planted key",
        },
    )
    assert [problem.split("; ")[0] for problem in found] == [
        "3:30: tokens[1].token: is the token of follower, too",
        "8:28: endpoints[0].url: env:PATH_URL has no {key} in it, and there is no key_header",
        "8:60: endpoints[0].keys[1]: env:KEY_B holds a space, a line break or a character that is not ASCII",
        "9:30: endpoints[1].url: env:HEADER_URL leads to a link-local, metadata or multicast address",
        "11:29: endpoints[3].url: env:PLAIN_URL is the URL of bearer, too",
    ]


def test_weak_token_and_repeated_key(config: GatewayConfig) -> None:
    """A token that can be guessed and one key under two names are refused."""
    found = _problems(config, {**ENVIRONMENT, "FOLLOWER": "short", "KEY_B": ENVIRONMENT["KEY_A"]})
    assert [problem.split("; ")[0] for problem in found] == [
        "2:30: tokens[0].token: env:FOLLOWER is too short to be safe",
        "8:60: endpoints[0].keys[1]: env:KEY_B holds the same key as another of this endpoint",
    ]
