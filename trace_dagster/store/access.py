"""What is known of an object, and how a bucket is reached."""

from dataclasses import dataclass
from datetime import datetime

__all__ = ["S3Access", "StoredObject"]


@dataclass(frozen=True)
class StoredObject:
    """One object as the store lists it.

    Attributes:
        path: below the store's root.
        bytes: its size.
        last_modified: when it was written, by the store's clock.
    """

    path: str
    bytes: int
    last_modified: datetime


@dataclass(frozen=True)
class S3Access:
    """How a bucket is reached, for readers other than obstore.

    Attributes:
        bucket: the bucket.
        prefix: the root inside it, without slashes at its ends; may be empty.
        region: the region.
        endpoint: the endpoint of a server other than AWS, or None.
        key_id: access key id, or None where boto3's chain finds the credentials.
        secret: secret access key.
        token: session token.
    """

    bucket: str
    prefix: str
    region: str
    endpoint: str | None
    key_id: str | None
    secret: str | None
    token: str | None

    def __repr__(self) -> str:
        return f"S3Access(bucket={self.bucket!r}, prefix={self.prefix!r})"
