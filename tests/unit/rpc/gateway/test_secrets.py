"""References to secrets and what is said where there is none."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import boto3
import pytest

from tests.support.s3 import running_s3
from trace_dagster.errors import ConfigurationError
from trace_dagster.rpc.gateway.secrets import MAX_SECRET_BYTES, resolve


@pytest.fixture(scope="module")
def aws() -> Iterator[Mapping[str, str]]:
    """A server of AWS's with a few secrets, and the variables that lead there."""
    with running_s3() as environment:
        client = boto3.client(
            "secretsmanager",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="test",
            aws_secret_access_key="test-secret",
            region_name="us-east-1",
        )
        client.create_secret(Name="prod/plain", SecretString="planted-plain")
        client.create_secret(Name="prod/json", SecretString='{"key": "planted-field", "number": 7}')
        client.create_secret(Name="prod/binary", SecretBinary=b"planted-binary")
        yield environment


def _refusal(reference: str, environment: Mapping[str, str], folder: Path | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        resolve(reference, environment=environment, folder=folder)
    message = str(caught.value)
    assert "planted" not in message
    assert "; " in message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


def test_environment_variable() -> None:
    """``env:`` gives the variable's text and does not show it."""
    secret = resolve("env:RPC_KEY", environment={"RPC_KEY": "planted"})
    assert secret.get_secret_value() == "planted"
    assert "planted" not in repr(secret)


@pytest.mark.parametrize(
    ("environment", "said"), [({}, "is not set"), ({"K": ""}, "is empty"), ({"K": " \n"}, "is empty")]
)
def test_variable_that_is_missing_or_empty(environment: Mapping[str, str], said: str) -> None:
    """A variable that is not set or empty is said by its name."""
    assert f"env:K {said}" in _refusal("env:K", environment)


def test_file(tmp_path: Path) -> None:
    """``file:`` gives the file's text without the line break at its end, from the folder that is said."""
    (tmp_path / "key").write_bytes(b"planted\n")
    assert resolve(f"file:{tmp_path}/key").get_secret_value() == "planted"
    assert resolve("file:key", folder=tmp_path).get_secret_value() == "planted"
    (tmp_path / "key").write_bytes(b"two\nlines\r\n")
    assert resolve("file:key", folder=tmp_path).get_secret_value() == "two\nlines"


def test_file_that_cannot_be_used(tmp_path: Path) -> None:
    """A file that is missing, a folder, empty, too long or no text is said by its name."""
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "long").write_bytes(b"planted" * MAX_SECRET_BYTES)
    (tmp_path / "bytes").write_bytes(b"planted\xff")
    for name, said in {
        "missing": "file:missing: there is no such file",
        ".": "file:. cannot be read: Is a directory",
        "empty": "file:empty is empty",
        "long": "file:long has more than 65536 bytes",
        "bytes": "file:bytes is not UTF-8",
    }.items():
        assert said in _refusal(f"file:{name}", {}, tmp_path)


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "planted",
        "https://planted",
        "env:",
        "env:pl anted",
        "file:",
        "ENV:planted",
        "secretsmanager:#planted",
    ],
)
def test_what_is_no_reference_is_not_quoted(reference: str) -> None:
    """A secret written in a reference's place is refused without being shown."""
    _refusal(reference, os.environ)


def test_secrets_manager(aws: Mapping[str, str]) -> None:
    """A secret is read by name, by ARN and by a field of its JSON."""
    assert resolve("secretsmanager:prod/plain", environment=aws).get_secret_value() == "planted-plain"
    assert resolve("secretsmanager:prod/json#key", environment=aws).get_secret_value() == "planted-field"
    client = boto3.client(
        "secretsmanager",
        endpoint_url=aws["AWS_ENDPOINT_URL"],
        aws_access_key_id="test",
        aws_secret_access_key="test-secret",
        region_name="us-east-1",
    )
    arn = client.describe_secret(SecretId="prod/json")["ARN"]
    without_region = {name: value for name, value in aws.items() if "REGION" not in name}
    assert (
        resolve(f"secretsmanager:{arn}#key", environment=without_region).get_secret_value() == "planted-field"
    )


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("secretsmanager:prod/none", "answered ResourceNotFoundException"),
        ("secretsmanager:prod/json#other", "has no field other"),
        ("secretsmanager:prod/json#number", "has no text number"),
        ("secretsmanager:prod/plain#key", "is not a JSON object"),
        ("secretsmanager:prod/binary", "is binary"),
    ],
)
def test_secret_that_cannot_be_used(aws: Mapping[str, str], reference: str, said: str) -> None:
    """What is wrong with a secret of AWS is said by its name and field."""
    message = _refusal(reference, aws)
    assert reference in message
    assert said in message


def test_aws_address_that_is_none() -> None:
    """An address without https:// is said as such, and not quoted."""
    told = _refusal("secretsmanager:x", {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": "planted:4566"})
    assert "AWS_ENDPOINT_URL" in told


def test_aws_that_cannot_be_asked(aws: Mapping[str, str]) -> None:
    """A server that does not answer and a missing region are said as such."""
    gone = {**aws, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    assert "cannot be asked: EndpointConnectionError" in _refusal("secretsmanager:prod/plain", gone)
    nowhere = {name: value for name, value in aws.items() if "REGION" not in name}
    assert "set AWS_REGION" in _refusal("secretsmanager:prod/plain", nowhere)
