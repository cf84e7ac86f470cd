"""The gateway's configuration from the variables of pools."""

import pytest

from trace_dagster.errors import ConfigurationError
from trace_dagster.rpc.gateway.environment import environment_config
from trace_dagster.rpc.gateway.heads import ANY_CHAIN

URL = "https://rpc.example/v2/planted-key"


def test_each_url_is_a_pool() -> None:
    """Names are in small letters; a URL of a WebSocket is none of a pool's, and an empty one is not set."""
    resolved = environment_config(
        {
            "TRACE_RPC_POOL_MY_POOL_URL": URL,
            "TRACE_RPC_POOL_MY_POOL_WS_URL": "wss://rpc.example/planted-key",
            "TRACE_RPC_POOL_NEWS_WS_URL": "http://127.0.0.1:8545",
            "TRACE_RPC_POOL_UNSET_URL": "",
        }
    )
    urls = {
        name: [access.url.get_secret_value() for endpoint in pool.endpoints for access in endpoint.accesses]
        for name, pool in resolved.pools.items()
    }
    assert urls == {"my_pool": [URL], "news_ws": ["http://127.0.0.1:8545"]}
    assert {pool.config.chain_id for pool in resolved.pools.values()} == {ANY_CHAIN}
    assert resolved.tokens == ()
    assert "planted" not in repr(resolved)


def test_a_token_is_asked_for_where_it_is_set() -> None:
    """Whoever starts it may keep others of this machine out."""
    resolved = environment_config(
        {"TRACE_RPC_POOL_A_URL": URL, "TRACE_RPC_GATEWAY_TOKEN": "planted-token-0123456789"}
    )
    assert [(token.config.name, token.config.priority) for token in resolved.tokens] == [("local", "high")]
    assert "planted" not in repr(resolved)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "no pool is set: give the URL of each as TRACE_RPC_POOL_<NAME>_URL"),
        ({"TRACE_RPC_POOL_my_URL": URL}, "name it TRACE_RPC_POOL_MY_URL"),
        ({"TRACE_RPC_POOL__MY_URL": URL}, "TRACE_RPC_POOL__MY_URL names no pool"),
        (
            {"TRACE_RPC_POOL_MY_URL": "htp://rpc.example/planted-key"},
            "TRACE_RPC_POOL_MY_URL is no http or https URL; write https://host/path",
        ),
        (
            {"TRACE_RPC_POOL_A_URL": "http://169.254.169.254/planted", "TRACE_RPC_POOL_B_URL": "planted"},
            "metadata or multicast address; name a provider's host\nTRACE_RPC_POOL_B_URL is no http or https",
        ),
        (
            {"TRACE_RPC_POOL_A_URL": URL, "TRACE_RPC_GATEWAY_TOKEN": "planted"},
            "TRACE_RPC_GATEWAY_TOKEN is too short to be safe",
        ),
    ],
)
def test_what_cannot_be_used_is_said(environment: dict[str, str], said: str) -> None:
    """By the variable's name, without its value."""
    with pytest.raises(ConfigurationError) as caught:
        environment_config(environment)
    assert said in str(caught.value)
    assert "planted" not in str(caught.value)
