"""Opening stores, and the few operations on a folder."""

from pathlib import Path

import pytest

from trace_dagster.errors import ConfigurationError, StoreUnavailable
from trace_dagster.settings import Settings
from trace_dagster.store import open_store

KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hunter2"}


@pytest.mark.parametrize(
    "url",
    [
        *("gs://bucket", "s3://", "file://elsewhere/x", "/just/a/path", "s3://k:hunter2@b", "file:relative"),
        *(
            "s3://b/../x",
            "s3://b//x//y",
            "s3://b/./x",
            "s3://b//x",
            "s3://b/x//",
            "s3://b/x?y",
            "s3://b/x#y",
            "s3://[b/x",
        ),
        *("file:///x?y", "file:///x%00y", "//x"),
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    """The message says which forms there are, and repeats no credential."""
    with pytest.raises(ConfigurationError, match=r"s3://bucket/prefix .* or file:///folder") as caught:
        open_store(url, {})
    assert "hunter2" not in str(caught.value)


def test_a_path_that_is_no_url_is_named() -> None:
    """A plain path is repeated in the message; it has no scheme to name."""
    with pytest.raises(ConfigurationError, match="TRACE_OBJECT_STORE_URL is '/data/lake', which is no URL; "):
        open_store("/data/lake", {})


@pytest.mark.parametrize(
    "endpoint",
    ["minio", "localhost:9000", "http://", "http://my host:1", "http://127.0.0.1:99999", "https://[::1"],
)
def test_an_endpoint_that_is_no_address_is_refused(endpoint: str) -> None:
    """The store's client would panic on it."""
    with pytest.raises(ConfigurationError, match=r"AWS_ENDPOINT_URL is .*, which is no address"):
        open_store("s3://bucket/cold", {**KEYS, "AWS_ENDPOINT_URL": endpoint})


def test_a_folder_may_be_written_with_one_slash(tmp_path: Path) -> None:
    """It is the same store as with three, here and in the settings."""
    url = f"file:{tmp_path}/x"
    assert open_store(url, {}).url == open_store(f"file://{tmp_path}/x", {}).url
    assert Settings.from_environment({"TRACE_OBJECT_STORE_URL": url}).store_is_local


def test_a_bucket_needs_no_request_to_open() -> None:
    """Opening reads the environment only; credentials show nowhere."""
    store = open_store("s3://bucket/cold/", {**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    assert store.url == "s3://bucket/cold"
    assert not store.is_local
    assert store.location("a/b") == "s3://bucket/cold/a/b"
    assert "hunter2" not in f"{store.s3!r} {vars(store)!r}"


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    """A file:// store exists once it is opened, with a path that needs quoting too."""
    store = open_store((tmp_path / "a b" / "ü").as_uri(), {})
    assert store.is_local
    assert store.put_new("x/y", b"1")
    assert Path(store.location("x/y")).read_bytes() == b"1"


def test_an_object_is_written_once(tmp_path: Path) -> None:
    """A second write of the same path changes nothing and says so."""
    store = open_store(tmp_path.as_uri(), {})
    assert store.put_new("x", b"first")
    assert not store.put_new("x", b"second")
    assert store.get("x") == b"first"
    assert store.get("missing") is None
    assert store.sha256("missing") is None
    assert store.folders("missing") == []


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    """A file where the folder should be is named with the mend."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="is a file, not a folder; set TRACE_OBJECT_STORE_URL"):
        open_store((tmp_path / "file" / "store").as_uri(), {})


def test_a_folder_that_vanishes_under_a_writer_is_explained(tmp_path: Path) -> None:
    """A file that takes the folder's place while the store is open gives one line, too."""
    store = open_store((tmp_path / "store").as_uri(), {})
    (tmp_path / "store").rmdir()
    (tmp_path / "store").touch()
    with pytest.raises(StoreUnavailable, match=r"object store file://.*; set TRACE_OBJECT_STORE_URL"):
        store.put_new("x/y", b"1")
