"""The object store: a folder or an S3 bucket, and the few things this project does with it."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, S3Store

from trace_dagster.errors import ConfigurationError
from trace_dagster.store import multipart
from trace_dagster.store.access import S3Access, StoredObject
from trace_dagster.store.failures import STORE_ERRORS, explain
from trace_dagster.urls import redact

if TYPE_CHECKING:
    from obstore import WritableFile
    from obstore.auth.boto3 import Boto3CredentialProvider

__all__ = ["ObjectStore", "S3Access", "StoreWriter", "StoredObject", "open_store"]

# The one layer of retries: obstore's own. One request carries at most one Parquet object (256 MiB).
_CLIENT: Final = {"connect_timeout": "5s", "timeout": "120s"}
_RETRY: Final = {
    "max_retries": 5,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=5),
        "base": 2,
    },
}

_PARTS_AT_ONCE: Final = 2

# In the name of a file that obstore is still writing, before its number.
_UNFINISHED: Final = "#"

_Result = TypeVar("_Result")


class ObjectStore:
    """Objects below one root. Make one with ``open_store``. Safe to use from several threads.

    Attributes:
        url: the root, without credentials and without a slash at its end.
        s3: how the bucket is reached; None for a folder.
    """

    def __init__(self, url: str, backend: S3Store | LocalStore, s3: S3Access | None, where: str) -> None:
        self.url = url
        self.s3 = s3
        self._backend = backend
        self._where = where

    @property
    def is_local(self) -> bool:
        """Whether the store is a folder of this machine."""
        return self.s3 is None

    @property
    def folder(self) -> Path:
        """The folder of a local store."""
        return Path(unquote(urlsplit(self.url).path))

    def location(self, path: str) -> str:
        """Return the address of an object as polars, pyarrow and DuckDB take it."""
        return str(self.folder / path) if self.is_local else f"{self.url}/{path}"

    def put_new(self, path: str, content: bytes) -> bool:
        """Write an object that does not exist yet, whole or not at all; return False where it exists."""
        try:
            self._try(obstore.put, path, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def open_writer(self, path: str, part_bytes: int) -> "StoreWriter":
        """Begin an object at ``path``, which exists once the writer is closed; overwrites what is there."""
        return StoreWriter(self, path, part_bytes)

    def rename_new(self, path: str, to: str) -> bool:
        """Rename an object inside the store; return False, and leave it, where ``to`` exists."""
        try:
            self._try(obstore.rename, path, to, overwrite=False)
        except AlreadyExistsError:
            return False
        return True

    def get(self, path: str) -> bytes | None:
        """Return an object's content, or None where it does not exist."""
        try:
            return bytes(self._try(obstore.get, path).bytes())
        except FileNotFoundError:
            return None

    def sha256(self, path: str) -> str | None:
        """Return the SHA-256, in hex, of an object's content, or None where it does not exist."""
        digest = hashlib.sha256()
        try:
            for chunk in self._try(obstore.get, path):
                digest.update(chunk)
        except FileNotFoundError:
            return None
        except STORE_ERRORS as error:
            raise explain(error, self._where) from None
        return digest.hexdigest()

    def walk(self, prefix: str) -> Iterator[StoredObject]:
        """Give every object below the folder ``prefix``; nothing where there is none."""
        try:
            for page in obstore.list(self._backend, prefix + "/", chunk_size=1000):
                for item in page:
                    yield StoredObject(item["path"], item["size"], item["last_modified"])
        except STORE_ERRORS as error:
            raise explain(error, self._where) from None

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly in the folder ``prefix``."""
        try:
            found = obstore.list_with_delimiter(self._backend, prefix + "/")
        except FileNotFoundError:
            return []
        except STORE_ERRORS as error:
            raise explain(error, self._where) from None
        return [path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]]

    def leftovers(self, prefix: str) -> Iterator[StoredObject]:
        """Give the unfinished files of killed writers below ``prefix``: a folder has some, a bucket none."""
        if not self.is_local:
            return
        for file in self.folder.glob(f"{prefix}/**/*{_UNFINISHED}*"):
            with suppress(FileNotFoundError):
                found = file.stat()
                path = file.relative_to(self.folder).as_posix()
                yield StoredObject(path, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects; those that do not exist are passed over."""
        for path in paths:
            with suppress(FileNotFoundError):
                if _UNFINISHED in path:
                    (self.folder / path).unlink()
                else:
                    self._try(obstore.delete, path)

    def uploads(self, prefix: str) -> Iterator[StoredObject]:
        """Give the multipart uploads below ``prefix`` that nobody ended; their size as 0."""
        if self.s3 is not None:
            yield from multipart.unfinished(self.s3, self._where, prefix)

    def abort_uploads(self, paths: Iterable[str]) -> None:
        """Give up the multipart uploads to ``paths``: their parts are removed."""
        if self.s3 is not None:
            for path in paths:
                multipart.abort(self.s3, self._where, path)

    def _try(self, do: Callable[..., _Result], path: str, *args: object, **options: object) -> _Result:
        try:
            return do(self._backend, path, *args, **options)
        except AlreadyExistsError:
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise explain(error, self._where) from None
            raise
        except STORE_ERRORS as error:
            raise explain(error, self._where) from None


class StoreWriter:
    """An object being written in parts. Make one with ``ObjectStore.open_writer``."""

    def __init__(self, store: ObjectStore, path: str, part_bytes: int) -> None:
        self._store, self._path = store, path
        self._writer: WritableFile | None = self._explained(
            lambda: obstore.open_writer(
                store._backend,  # noqa: SLF001 - one module's two classes
                path,
                buffer_size=part_bytes,
                max_concurrency=_PARTS_AT_ONCE,
            )
        )

    def write(self, data: bytes) -> None:
        """Add ``data``; waits while parts before it are being sent."""
        writer = self._open()
        self._explained(lambda: writer.write(data))

    def close(self) -> None:
        """Complete the object."""
        writer = self._open()
        self._explained(writer.close)
        self._writer = None

    def abort(self) -> None:
        """Drop the object and the parts that were sent of it."""
        self._writer = None
        self._store.abort_uploads([self._path])

    def _open(self) -> "WritableFile":
        if self._writer is None:
            raise ValueError(f"the writer of {self._path} is closed")
        return self._writer

    def _explained(self, do: Callable[[], _Result]) -> _Result:
        try:
            return do()
        except STORE_ERRORS as error:
            raise explain(error, self._store._where) from None  # noqa: SLF001


def open_store(
    url: str, environment: Mapping[str, str], *, setting: str = "TRACE_OBJECT_STORE_URL"
) -> ObjectStore:
    """Open the object store at ``url``; no request is made yet.

    A commit survives killed processes in both kinds of store. A folder is not flushed to disk with each
    object, so it is for one machine and not for what must outlive a power failure. A server other than AWS
    must honour ``If-None-Match: *`` on PUT.

    Args:
        url: ``s3://bucket/prefix`` or ``file:///folder``; the folder is made where it is missing.
        environment: ``AWS_*`` variables; ``AWS_ENDPOINT_URL`` names a server other than AWS.
        setting: where the URL was written, for messages.

    Raises:
        ConfigurationError: the URL has another form.
        StoreUnavailable: the folder cannot be made.
    """

    def refuse(what: str) -> NoReturn:
        raise ConfigurationError(
            f"{setting} is {what}; write s3://bucket/prefix (credentials in AWS_*) or file:///folder"
        )

    try:
        parts = urlsplit(url)
    except ValueError:
        refuse("an address that cannot be read")
    if "@" in parts.netloc:
        refuse("a URL with credentials")
    if not parts.scheme:
        refuse(f"{url!r}, which is no URL")
    path = unquote(parts.path) if parts.scheme == "file" else parts.path
    if "?" in url or "#" in url or "\0" in path:
        refuse(f"{url!r}, with a character that cannot stand there")
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and path.startswith("/"):
        return _open_folder(Path(path))
    if parts.scheme != "s3" or not parts.hostname:
        refuse(repr(url))
    prefix = path.removeprefix("/").removesuffix("/")
    if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
        refuse(f"{url!r}, with an empty, '.' or '..' part in its path")
    return _open_bucket(parts.netloc, prefix, environment)


def _open_folder(folder: Path) -> ObjectStore:
    url = folder.as_uri()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        backend = LocalStore(folder, mkdir=True, automatic_cleanup=True)
    except STORE_ERRORS as error:
        raise explain(error, url) from None
    return ObjectStore(url, backend, None, url)


def _open_bucket(bucket: str, prefix: str, environment: Mapping[str, str]) -> ObjectStore:
    key_id = environment.get("AWS_ACCESS_KEY_ID", "").strip()
    secret = environment.get("AWS_SECRET_ACCESS_KEY", "").strip()
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    options: dict[str, Any] = {
        "client_options": _CLIENT,
        "retry_config": _RETRY,
        "copy_if_not_exists": "multipart",
    }
    token = environment.get("AWS_SESSION_TOKEN") or None
    if key_id and secret:
        options |= {"access_key_id": key_id, "secret_access_key": secret, "session_token": token}
    else:
        provider = _boto3_credentials(environment.get("AWS_PROFILE"))
        region = region or provider.config.get("region")
        options["credential_provider"] = provider
    access = S3Access(
        bucket=bucket,
        prefix=prefix,
        region=region or "us-east-1",
        endpoint=environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or None,
        key_id=key_id or None,
        secret=secret or None,
        token=token,
    )
    if access.endpoint:
        _check_endpoint(access.endpoint)
    url = f"s3://{bucket}/{prefix}".rstrip("/")
    options |= {"prefix": prefix or None, "region": access.region}
    where = url
    if access.endpoint:
        where = f"{url} at {redact(access.endpoint)}"
        plain = access.endpoint.startswith("http://")
        options |= {
            "endpoint": access.endpoint.rstrip("/"),
            "client_options": {**_CLIENT, "allow_http": plain},
        }
    backend = S3Store(bucket, **{name: value for name, value in options.items() if value is not None})
    return ObjectStore(url, backend, access, where)


def _check_endpoint(endpoint: str) -> None:
    """Refuse what the store's client would not survive."""
    try:
        parts = urlsplit(endpoint)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or any(character.isspace() for character in endpoint):
        raise ConfigurationError(
            f"AWS_ENDPOINT_URL is {redact(endpoint)!r}, which is no address; write http://host:port or https://host"
        )


def _boto3_credentials(profile: str | None) -> "Boto3CredentialProvider":
    import boto3  # type: ignore[import-untyped] # noqa: PLC0415 - slow to import, and not needed where keys are in the environment
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped] # noqa: PLC0415
    from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415

    try:
        return Boto3CredentialProvider(boto3.Session(profile_name=profile or None))
    except (BotoCoreError, ValueError):
        raise ConfigurationError(
            "no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
            "or run with a role"
        ) from None
