"""What is secret of an endpoint, and text without it."""

import base64

from pydantic import SecretStr

from trace_dagster.rpc.secrets import scrub, secrets_of
from trace_dagster.settings import RpcEndpoint


def endpoint(url: str, token: str | None = None) -> RpcEndpoint:
    """An endpoint."""
    return RpcEndpoint(pool="p", url=SecretStr(url), token=SecretStr(token) if token else None, variable="V")


def test_every_part_that_may_be_a_credential_is_found() -> None:
    """Path, its parts, query values, userinfo and token count, also percent-encoded; short words do not."""
    found = secrets_of(
        endpoint("https://someone:pass%2Fword@host/v2/key-of-mine?auth=query-key&x=1", "tok/en=1")
    )
    for secret in (
        "someone",
        "pass/word",
        "pass%2Fword",
        "key-of-mine",
        "query-key",
        "tok/en=1",
        "tok%2Fen%3D1",
        base64.b64encode(b"someone:pass/word").decode(),
    ):
        assert secret in found
    assert not {"v2", "1", "host", ""} & set(found)


def test_the_name_of_the_pool_is_none() -> None:
    """It is in the YAML, and messages about the gateway would say nothing without it."""
    asked = endpoint("http://gateway.example/v1/ethereum").model_copy(update={"pool": "ethereum"})
    assert (
        scrub("there is no pool ethereum; /v1/ethereum", secrets_of(asked))
        == "there is no pool ethereum; ***"
    )


def test_an_unreadable_url_is_secret_as_a_whole() -> None:
    """A URL that cannot be taken apart is taken out whole."""
    assert secrets_of(endpoint("http://[planted")) == ("http://[planted",)


def test_text_is_scrubbed_cut_and_put_on_one_line() -> None:
    """Secrets and the paths of all URLs go; the rest stays readable."""
    secrets = secrets_of(endpoint("https://host.example/key-of-mine"))
    text = "key-of-mine is wrong,\n see https://other.example/a/b?c or\twss://host.example:1/key-of-mine"
    assert scrub(text, secrets) == ("*** is wrong, see https://other.example/... or wss://host.example:1/...")
    assert scrub("x" * 50, secrets, limit=10) == "xxxxxxx..."
