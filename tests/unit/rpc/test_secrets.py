"""What is secret of an endpoint, and text without it."""

import base64
import html
import json
import string
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from trace_dagster.rpc.secrets import holds_secret, scrub, secrets_of
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


KEY = "ab/cd+ef==ghijkl"


def entities(text: str) -> str:
    """As some pages write it."""
    return "".join(one if one.isalnum() else f"&#x{ord(one):X};" for one in text)


def javascript(text: str) -> str:
    """As serializers of Gson and .NET write it."""
    return "".join(one if one.isalnum() else f"\\u{ord(one):04X}" for one in text)


def in_base64(text: str) -> str:
    """As in the header of Basic, after a user."""
    return base64.b64encode(f"user:{text}".encode()).decode()


ENCODINGS: list[Callable[[str], str]] = [
    lambda text: text,
    str.upper,
    str.swapcase,
    lambda text: json.dumps(text)[1:-1],
    lambda text: text.replace("/", "\\/"),
    lambda text: quote(text, safe=""),
    quote,
    lambda text: quote(text, safe="").lower(),
    lambda text: text.replace("+", " "),
    html.escape,
    entities,
    javascript,
    in_base64,
    lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
]


@pytest.mark.parametrize("before", ["", "bad key ", "key\\n", "100%", "https:\\/\\/host.example\\/"])
@pytest.mark.parametrize("encode", ENCODINGS)
def test_a_key_is_found_however_it_is_written(encode: Callable[[str], str], before: str) -> None:
    """Neither the key nor what it was written as stays in the text."""
    for secrets in (
        secrets_of(endpoint("https://host.example/", KEY)),
        secrets_of(endpoint(f"https://host.example/v2/{quote(KEY, safe='')}")),
    ):
        text = f"{before}{encode(KEY)} is not known"
        assert holds_secret(text, secrets)
        shown = scrub(text, secrets)
        assert encode(KEY) not in shown
        assert "cd" not in shown
        assert shown.endswith("*** is not known")


@given(
    st.text(string.ascii_letters + string.digits + string.punctuation, min_size=8, max_size=40),
    st.lists(st.sampled_from(ENCODINGS), max_size=3),
)
def test_a_key_is_found_in_encodings_of_encodings(key: str, encodings: list[Callable[[str], str]]) -> None:
    """Whatever a key is made of, and however often it was escaped before it became base64."""
    text = key
    for encode in sorted(encodings, key=ENCODINGS.index):
        if ENCODINGS.index(encode) < ENCODINGS.index(in_base64) or text == key:
            text = encode(text)
    assert holds_secret(f"the key [{text}]", [key])


@given(st.text(max_size=200))
def test_other_text_stays(text: str) -> None:
    """What holds no secret is not touched, escapes included."""
    assert scrub(text, [KEY], limit=1_000) == scrub(text, [], limit=1_000)


def test_a_part_that_is_found_first_does_not_leave_the_rest() -> None:
    """Of secrets within secrets the longest goes, whichever of them needs no unescaping."""
    assert scrub("key abcdef\\/ghijkl.", ["abcdef", "abcdef/ghijkl"]) == "key ***."
