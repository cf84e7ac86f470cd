"""Environment variables: what is misspelt is said."""

import logging

import pytest

from trace_dagster.errors import ConfigurationError
from trace_dagster.settings import Settings


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("TRACE_RPC_POOL_local_URL", "TRACE_RPC_POOL_LOCAL_URL"),
        ("trace_rpc_pool_local_url", "TRACE_RPC_POOL_LOCAL_URL"),
        ("TRACE_RPC_POOL_my-node_URL", "TRACE_RPC_POOL_MY_NODE_URL"),
    ],
)
def test_a_pool_whose_variable_would_not_be_read_is_refused(name: str, right: str) -> None:
    """It would mean made-up data, where nothing else real is configured."""
    with pytest.raises(ConfigurationError, match=f"{name} is not read.*name it {right}"):
        Settings.from_environment({name: "http://127.0.0.1:8545"})


def test_a_misspelt_variable_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """What only looks like one of ours, and what is one, is not."""
    caplog.set_level(logging.WARNING)
    Settings.from_environment(
        {
            "TRACE_OBJCT_STORE_URL": "s3://bucket",
            "TRACE_RPC_POOL_TEST_URL": "http://127.0.0.1:8545",
            "TRACE_LEVEL": "debug",
            "TRACE_CRYO_ENGINE": "",
        }
    )
    assert [record.getMessage() for record in caplog.records] == [
        (
            "environment variable TRACE_OBJCT_STORE_URL is not known and does nothing; "
            "did you mean TRACE_OBJECT_STORE_URL?"
        )
    ]


@pytest.mark.parametrize("variable", ["TRACE_HOME", "TRACE_STAGING_DIR"])
def test_a_home_of_nobody_is_refused(variable: str) -> None:
    """The variable is named."""
    with pytest.raises(ConfigurationError, match=f"{variable} is '~nobody-here/x', and there is no such"):
        Settings.from_environment({variable: "~nobody-here/x"})


def test_an_unknown_engine_is_named_with_the_mend() -> None:
    """Value, near miss, or the names to choose from."""
    with pytest.raises(ConfigurationError, match="TRACE_CRYO_ENGINE is 'cyro'; did you mean 'cryo'"):
        Settings.from_environment({"TRACE_CRYO_ENGINE": "cyro"})
    with pytest.raises(ConfigurationError, match="write one of stub, cryo, native"):
        Settings.from_environment({"TRACE_CRYO_ENGINE": "x"})


def test_where_to_subscribe_is_told_by_the_scheme() -> None:
    """A pool may be called ``x_ws``, too; a subscription alone is no endpoint, and nothing of it is shown."""
    settings = Settings.from_environment(
        {
            "TRACE_RPC_POOL_TIP_URL": "https://one/planted-key",
            "TRACE_RPC_POOL_TIP_WS_URL": "WSS://two/planted-key",
            "TRACE_RPC_POOL_OTHER_WS_URL": "https://three/planted-key",
        }
    )
    endpoint = settings.rpc_endpoint("tip")
    assert endpoint.websocket_url is not None
    assert endpoint.websocket_url.get_secret_value() == "WSS://two/planted-key"
    assert settings.rpc_endpoint("other-ws").websocket_url is None
    assert "planted-key" not in f"{settings!r} {endpoint!r}"
    with pytest.raises(ConfigurationError, match="set TRACE_RPC_GATEWAY_URL"):
        Settings.from_environment({"TRACE_RPC_POOL_TIP_WS_URL": "ws://two"}).rpc_endpoint("tip")
    with pytest.raises(ConfigurationError, match="name it TRACE_RPC_POOL_TIP_WS_URL"):
        Settings.from_environment({"TRACE_RPC_POOL_tip_WS_URL": "ws://two"})
