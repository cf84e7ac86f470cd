"""References to secrets -> their values; a value is never in a message."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from trace_dagster.errors import ConfigurationError

__all__ = ["MAX_SECRET_BYTES", "reference_problem", "resolve"]

MAX_SECRET_BYTES: Final = 64 * 1024
"""Longest secret: what AWS Secrets Manager takes. A file that is longer is none."""

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_ID: Final = re.compile(r"[A-Za-z0-9/_+=.@:-]{1,2048}")
_FORMS: Final = "env:NAME, file:PATH or secretsmanager:ID"


def reference_problem(reference: str) -> str | None:
    """Return what is wrong with the form of ``reference`` and what to write, None where it is right.

    Nothing of the reference is quoted: it may be a secret that was written in its place.
    """
    kind, _, place = reference.partition(":")
    match kind:
        case "env" if not _VARIABLE.fullmatch(place):
            return "names no environment variable; write env: and a name of letters, digits and _"
        case "file" if not place.strip() or "\x00" in place or not place.isprintable():
            return "names no file; write file: and a path"
        case "secretsmanager":
            secret, sharp, field = place.partition("#")
            if not _SECRET_ID.fullmatch(secret):
                return "names no secret; write secretsmanager: and its name or ARN"
            if sharp and not (field and field.isprintable()):
                return "names no field after #; write secretsmanager:ID#field, or leave # out"
        case "env" | "file":
            pass
        case _:
            return f"is no reference to a secret; write {_FORMS}"
    return None


def resolve(
    reference: str, *, environment: Mapping[str, str] = os.environ, folder: Path | None = None
) -> SecretStr:
    """Return the secret that ``reference`` names. Blocks: a file is read, or AWS is asked.

    Args:
        reference: ``env:NAME``, ``file:PATH``, ``secretsmanager:ID`` or, for a JSON secret,
            ``secretsmanager:ID#field``.
        environment: the environment variables; ``AWS_*`` among them say how AWS is reached.
        folder: where a relative path begins; None: the working directory.

    Raises:
        ConfigurationError: there is no such secret, it cannot be read, or it is empty. Names the reference.
    """
    problem = reference_problem(reference)
    if problem is not None:
        raise ConfigurationError(f"a reference {problem}")
    kind, _, place = reference.partition(":")
    match kind:
        case "env":
            value = _from_environment(reference, place, environment)
        case "file":
            value = _from_file(reference, (folder or Path()) / Path(place).expanduser())
        case _:
            value = _from_secrets_manager(reference, place, environment)
    if not value.strip():
        raise ConfigurationError(f"{reference} is empty; put the secret there")
    return SecretStr(value)


def _from_environment(reference: str, name: str, environment: Mapping[str, str]) -> str:
    value = environment.get(name)
    if value is None:
        raise ConfigurationError(f"{reference} is not set; set the environment variable {name}")
    return value


def _from_file(reference: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
    except FileNotFoundError:
        raise ConfigurationError(f"{reference}: there is no such file; make it, or mend the path") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"{reference} cannot be read: {reason}; mend its permissions") from None
    if len(content) > MAX_SECRET_BYTES:
        raise ConfigurationError(
            f"{reference} has more than {MAX_SECRET_BYTES} bytes; name a file that holds the secret alone"
        )
    try:
        text = content.decode()
    except UnicodeDecodeError:
        pass
    else:
        return text.removesuffix("\n").removesuffix("\r")
    raise ConfigurationError(f"{reference} is not UTF-8; save the secret as text")


def _from_secrets_manager(reference: str, place: str, environment: Mapping[str, str]) -> str:
    secret, _, field = place.partition("#")
    text = _ask_secrets_manager(reference, secret, environment)
    if not field:
        return text
    try:
        fields = json.loads(text)
    except ValueError:  # its text and its `doc` quote the secret
        fields = None
    if not isinstance(fields, dict):
        raise ConfigurationError(f"{reference}: the secret is not a JSON object; leave #{field} out")
    value = fields.get(field)
    if not isinstance(value, str):
        what = "has no text" if field in fields else "has no field"
        raise ConfigurationError(f"{reference}: the secret {what} {field}; mend the field's name")
    return value


def _ask_secrets_manager(reference: str, secret: str, environment: Mapping[str, str]) -> str:
    import boto3  # type: ignore[import-untyped] # noqa: PLC0415 - slow to import, and seldom needed
    from botocore.config import Config  # type: ignore[import-untyped] # noqa: PLC0415
    from botocore.exceptions import (  # type: ignore[import-untyped] # noqa: PLC0415
        BotoCoreError,
        ClientError,
        NoRegionError,
    )

    try:
        session = boto3.Session(
            aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID") or None,
            aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY") or None,
            aws_session_token=environment.get("AWS_SESSION_TOKEN") or None,
            region_name=_region(secret, environment),
            profile_name=environment.get("AWS_PROFILE") or None,
        )
        client = session.client(
            "secretsmanager",
            endpoint_url=environment.get("AWS_ENDPOINT_URL_SECRETS_MANAGER")
            or environment.get("AWS_ENDPOINT_URL")
            or None,
            config=Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 3}),
        )
        answer = client.get_secret_value(SecretId=secret)
    except NoRegionError:
        problem = "AWS needs a region; set AWS_REGION"
    except ClientError as error:
        problem = f"AWS Secrets Manager answered {_code(error)}; mend the name, or the role's permissions"
    except BotoCoreError as error:
        problem = f"AWS Secrets Manager cannot be asked: {type(error).__name__}; mend AWS_* or the network"
    except ValueError:  # botocore's, of an address; its text quotes it
        problem = "AWS Secrets Manager's address is none; begin AWS_ENDPOINT_URL with http:// or https://"
    else:
        text = answer.get("SecretString")
        if isinstance(text, str):
            return text
        problem = "the secret is binary; store it as text"
    raise ConfigurationError(f"{reference}: {problem}")


def _region(secret: str, environment: Mapping[str, str]) -> str | None:
    """Return the region of an ARN, else that of the environment."""
    parts = secret.split(":")
    if len(parts) > 3 and parts[0] == "arn":
        return parts[3]
    return environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or None


def _code(error: Exception) -> str:
    response = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", type(error).__name__))
