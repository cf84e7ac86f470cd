"""Multipart uploads that were begun in a bucket and never ended, which obstore can neither list nor abort."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from trace_dagster.errors import StoreUnavailable
from trace_dagster.store.access import S3Access, StoredObject

if TYPE_CHECKING:
    from botocore.client import BaseClient  # type: ignore[import-untyped]

__all__ = ["abort", "unfinished"]


def unfinished(access: S3Access, where: str, prefix: str) -> Iterator[StoredObject]:
    """Give the unfinished uploads below ``prefix``, once each key, as objects of no size.

    Args:
        access: the bucket.
        where: the store, for messages.
        prefix: below the store's root.

    Raises:
        StoreUnavailable: the store cannot be reached, or refuses.
    """
    root = f"{access.prefix}/" if access.prefix else ""
    seen = set()
    for item in _list(access, where, f"{root}{prefix}"):
        path = item["Key"].removeprefix(root)
        if path not in seen:
            seen.add(path)
            yield StoredObject(path, 0, item["Initiated"])


def abort(access: S3Access, where: str, path: str) -> None:
    """Abort every unfinished upload to ``path``. Raises as ``unfinished``."""
    key = f"{access.prefix}/{path}" if access.prefix else path
    client = _client(access)
    for item in _list(access, where, key):
        if item["Key"] == key:
            with _explained(where):
                client.abort_multipart_upload(Bucket=access.bucket, Key=key, UploadId=item["UploadId"])


def _list(access: S3Access, where: str, prefix: str) -> list[dict[str, Any]]:
    with _explained(where):
        pages = _client(access).get_paginator("list_multipart_uploads")
        return [
            item
            for page in pages.paginate(Bucket=access.bucket, Prefix=prefix)
            for item in page.get("Uploads", ())
        ]


@cache
def _client(access: S3Access) -> "BaseClient":
    import boto3  # type: ignore[import-untyped] # noqa: PLC0415 - slow to import, and seldom needed

    return boto3.client(
        "s3",
        region_name=access.region,
        endpoint_url=access.endpoint,
        aws_access_key_id=access.key_id,
        aws_secret_access_key=access.secret,
        aws_session_token=access.token,
    )


@contextmanager
def _explained(where: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped] # noqa: PLC0415

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        failure = (
            f"its multipart uploads may not be listed or aborted ({code}); allow "
            "s3:ListBucketMultipartUploads and s3:AbortMultipartUpload there"
        )
    except BotoCoreError as error:
        failure = f"multipart uploads cannot be listed: {type(error).__name__}"
    else:
        return
    raise StoreUnavailable(f"object store {where}: {failure}")
