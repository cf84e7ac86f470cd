"""What a store's errors are turned into."""

import errno

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from trace_dagster.store.failures import explain


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            GenericError("Generic LocalFileSystem error: No space left on device (os error 28)"),
            "disk is full",
        ),
        (GenericError("Unable to copy data to file: Disk quota exceeded (os error 122)"), "quota is used up"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only"),
        (PermissionDeniedError("Operation not permitted: Permission denied (os error 13)"), "permission is"),
        (PermissionDeniedError("status code: 403 Forbidden: "), r"denied \(403\); check AWS_ACCESS_KEY_ID"),
        (
            PermissionDeniedError("status code: 403: <Code>SignatureDoesNotMatch</Code>"),
            "secret key is wrong",
        ),
        (GenericError("status code: 301: <Code>PermanentRedirect</Code>"), "set AWS_REGION"),
        (GenericError("status code: 503: <Code>SlowDown</Code>"), "fewer requests"),
        (GenericError("status code: 500 oh"), "answers 500; try again"),
        (GenericError("in 2s, after 5 retries - HTTP error: error sending request"), "no answer in 6 tries"),
        (GenericError("something\nDebug source: secret"), "something$"),
    ],
)
def test_each_cause_is_one_line_with_its_mend(error: Exception, said: str) -> None:
    """The message names the store, the cause and what to do, and no debugging text."""
    explained = explain(error, "s3://bucket")
    assert explained.args[0].startswith("object store s3://bucket: ")
    assert "\n" not in str(explained)
    with pytest.raises(type(explained), match=said):
        raise explained
