"""What a user reads when the object store does not serve."""

import socket
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.datasets import dataset_id, stage
from trace_dagster.errors import StoreUnavailable
from trace_dagster.store import ObjectStore, open_store, publish, read_manifest, resolve

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_REGION": "us-east-1"}


def message(store: ObjectStore, folder: Path) -> str:
    """Return what a commit and a read say: the same cause, one line each, no credential."""
    with pytest.raises(StoreUnavailable) as writing:
        publish(store, stage(folder, dataset_id()), lambda: None)
    with pytest.raises(StoreUnavailable) as reading:
        resolve(store, 1, "blocks")
    for caught in (writing, reading):
        assert "\n" not in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert "AKIAEXAMPLE" not in str(caught.value)
    assert str(writing.value) == str(reading.value)
    return str(writing.value)


class Refusing(BaseHTTPRequestHandler):
    """An S3 server that knows the caller, and refuses everything."""

    def _refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"<Error><Code>AccessDenied</Code><AWSAccessKeyId>AKIAEXAMPLE</AWSAccessKeyId></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = _refuse  # noqa: N815 - the names that http.server calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay quiet."""


@pytest.fixture
def refusing() -> Iterator[str]:
    """The URL of a server that refuses."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_bucket_that_does_not_exist(s3_environment: Mapping[str, str], tmp_path: Path) -> None:
    """A missing bucket is not an empty one: also a look for a manifest says so."""
    store = open_store("s3://nowhere-bucket/cold", s3_environment)
    text = message(store, tmp_path)
    assert text.startswith("object store s3://nowhere-bucket/cold at http://127.0.0.1:")
    assert "the bucket does not exist; create it, or correct TRACE_OBJECT_STORE_URL" in text
    with pytest.raises(StoreUnavailable, match="the bucket does not exist"):
        read_manifest(store, dataset_id())


def test_a_bucket_that_is_forbidden(refusing: str, tmp_path: Path) -> None:
    """The message says which variables and which rights to look at."""
    text = message(open_store("s3://bucket/cold", {**KEYS, "AWS_ENDPOINT_URL": refusing}), tmp_path)
    assert "access is denied; check AWS_ACCESS_KEY_ID" in text
    assert "s3:PutObject" in text


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    """The message says how often it was tried, and where."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        store = open_store("s3://bucket/cold", {**KEYS, "AWS_ENDPOINT_URL": endpoint})
        with pytest.raises(StoreUnavailable, match="no answer in 6 tries; check AWS_ENDPOINT_URL") as caught:
            publish(store, stage(tmp_path, dataset_id()), lambda: None)
    assert endpoint in str(caught.value)
