"""Files in ``tests/gateway_configs``: the invalid ones give exactly the messages beside them."""

import random
import re
from pathlib import Path

import pytest

from trace_dagster.rpc.gateway.config import DEFAULT_METHODS, GatewayConfig
from trace_dagster.rpc.gateway.load import InvalidConfig, load_config

CONFIGS = Path(__file__).parents[3] / "gateway_configs"
INVALID = sorted((CONFIGS / "invalid").glob("*.yaml"))
MESSAGE = re.compile(r"[\w.]+\.yaml:[1-9][0-9]*:[1-9][0-9]*: [^ ]+: [^;]+; .+")


def _load_text(tmp_path: Path, text: str) -> GatewayConfig:
    path = tmp_path / "rpc_pools.yaml"
    path.write_text(text)
    return load_config(path)


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_file_gives_its_messages(path: Path) -> None:
    """A file that is not valid gives every problem in it at once, each with its place and a mend."""
    with pytest.raises(InvalidConfig) as caught:
        load_config(path)
    messages = str(caught.value).replace(f"{path.parent}/", "").splitlines()
    assert messages == path.with_suffix(".txt").read_text().splitlines()
    assert all(MESSAGE.fullmatch(message) for message in messages), messages


def test_there_are_enough_examples() -> None:
    """No example got lost: a glob that matches nothing would pass silently."""
    assert len(INVALID) >= 12


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_messages_never_show_a_secret(path: Path) -> None:
    """What was found to be a secret does not get into logs by being reported."""
    with pytest.raises(InvalidConfig) as caught:
        load_config(path)
    assert "planted" not in str(caught.value)


def test_what_is_left_out_has_defaults(tmp_path: Path) -> None:
    """The smallest file names a pool with one endpoint; it listens on loopback and needs no token."""
    config = _load_text(tmp_path, "pools: {base: {chain_id: 8453, endpoints: [{name: one, url: env:URL}]}}")
    assert (config.listen.host, config.listen.port, config.tokens, config.cache) == (
        "127.0.0.1",
        8645,
        (),
        None,
    )
    endpoint = config.pools["base"].endpoints[0]
    assert (endpoint.keys, endpoint.tier, endpoint.limits.concurrency) == ((), 0, 16)


def test_whole_file(tmp_path: Path) -> None:
    """Lists, whole numbers for fractions, anchors and both forms of a token's pools are read."""
    config = _load_text(
        tmp_path,
        """
        listen: {host: "::1", port: 0}
        limits: {max_wait_seconds: 5, deadline_seconds: 5}
        tokens:
          - {name: a, token: env:A, pools: "*"}
          - {name: b, token: file:/run/secrets/b, pools: [base], methods: [eth_*], priority: high}
        costs: {table: {default: 10, eth_getLogs: 7.5}}
        cache: {path: .trace/cache}
        pools:
          base:
            chain_id: 8453
            endpoints:
              - {name: one, url: env:ONE, keys: [env:K, "secretsmanager:prod/rpc#k2"], costs: table,
                 limits: &limits {requests_per_second: 25, credits_per_second: 330.5}}
              - {name: two, url: "secretsmanager:arn:aws:secretsmanager:eu-west-1:123456789012:secret:a-AbC1",
                 costs: table, limits: *limits, capabilities: {archive: false, batch: 1}, tier: 1}
        """,
    )
    assert config.tokens[0].pools == "*"
    assert config.tokens[0].methods == DEFAULT_METHODS
    assert config.tokens[1].pools == ("base",)
    assert config.pools["base"].endpoints[1].limits.credits_per_second == 330.5
    assert config.file.endswith("rpc_pools.yaml")


def test_file_that_is_not_there(tmp_path: Path) -> None:
    """A path that leads nowhere is said as such, not as an error of YAML."""
    with pytest.raises(InvalidConfig, match=r"nowhere\.yaml:1:1: document: is no file; name a YAML file"):
        load_config(tmp_path / "nowhere.yaml")


def test_config_made_in_code_shows_no_value_in_errors() -> None:
    """A model made without a file refuses inline secrets, too, and pydantic's own text does not show them."""
    pool = {"chain_id": 1, "endpoints": [{"name": "one", "url": "https://planted.example.com/key"}]}
    with pytest.raises(ValueError, match="is no reference to a secret") as caught:
        GatewayConfig.model_validate({"pools": {"ethereum": pool}}, strict=False)
    assert "planted" not in str(caught.value)


def test_no_slip_of_the_pen_shows_a_secret(tmp_path: Path) -> None:
    """However a file with inline secrets is torn, no message shows one, and nothing else is raised."""
    whole = (CONFIGS / "invalid" / "inline_secrets.yaml").read_text()
    path = tmp_path / "rpc_pools.yaml"
    chance = random.Random(5)  # noqa: S311 - the same in every run
    for _ in range(500):
        text = list(whole)
        for _ in range(chance.choice((1, 2, 5))):
            at = chance.randrange(len(text))
            text[at : at + chance.choice((0, 1, 20))] = chance.choice("{}[]:,\"'#-&*!|>%@` \n\t\\x")
        path.write_text("".join(text))
        with pytest.raises(InvalidConfig) as caught:
            load_config(path)
        assert "planted" not in str(caught.value).replace(str(tmp_path), "")
