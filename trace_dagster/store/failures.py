"""What an object store's errors mean, in one line each, with the mend."""

import re

import obstore.exceptions

from trace_dagster.errors import StoreUnavailable, TraceError

__all__ = ["STORE_ERRORS", "explain"]

# What obstore raises: its own tree, and the built-in errors that it maps some cases to.
STORE_ERRORS = (obstore.exceptions.BaseError, OSError)

_CODE = re.compile(r"<Code>([A-Za-z0-9]+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_TRIES = re.compile(r"after (\d+) retries")

_CREDENTIALS = (
    "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the role), and that the policy allows "
    "s3:GetObject, s3:PutObject and s3:ListBucket there"
)
_BY_CODE = {
    "NoSuchBucket": "the bucket does not exist; create it, or correct TRACE_OBJECT_STORE_URL",
    "AccessDenied": f"access is denied; {_CREDENTIALS}",
    "InvalidAccessKeyId": "the access key is unknown there; correct AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong; correct AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired; renew AWS_SESSION_TOKEN",
    "InvalidToken": "the session token is not valid; correct AWS_SESSION_TOKEN",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION to the bucket's",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set AWS_REGION to the bucket's",
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it",
    "SlowDown": "the store asks for fewer requests; lower scaling.max_concurrency",
}
_BY_ERRNO = {
    2: "the folder cannot be made there; set TRACE_OBJECT_STORE_URL to another",
    13: "permission is denied; give this user the folder, or set TRACE_OBJECT_STORE_URL to another",
    17: "there is a file where a folder must be; set TRACE_OBJECT_STORE_URL to another",
    20: "a part of the path is a file, not a folder; set TRACE_OBJECT_STORE_URL to another",
    28: "the disk is full (no space left on device); free some, or set TRACE_OBJECT_STORE_URL to another",
    30: "the file system is read-only; set TRACE_OBJECT_STORE_URL to another",
    122: "the disk quota is used up; free some, or set TRACE_OBJECT_STORE_URL to another",
}


def explain(error: Exception, where: str) -> TraceError:
    """Return the error to raise for what obstore raised.

    The store's own text is not repeated where a cause is known: it is long, and can hold key ids.

    Args:
        error: one of ``STORE_ERRORS``.
        where: the store and, if any, the endpoint, without credentials.
    """
    text = str(error)
    code, status = _find(_CODE, text), _find(_STATUS, text)
    number = getattr(error, "errno", None) or _find(re.compile(r"os error (\d+)"), text)
    if code in _BY_CODE:
        cause = f"{_BY_CODE[code]} ({status} {code})" if status else _BY_CODE[code]
    elif number is not None and int(number) in _BY_ERRNO:
        cause = _BY_ERRNO[int(number)]
    elif status in ("401", "403") or isinstance(error, obstore.exceptions.PermissionDeniedError):
        cause = f"access is denied ({status or 403}); {_CREDENTIALS}"
    elif status is not None:
        cause = f"the store answers {status} {code or ''}".rstrip() + "; try again, or look at the store"
    elif "error sending request" in text or "timed out" in text or "timeout" in text.lower():
        tries = int(_find(_TRIES, text) or 0) + 1
        cause = f"no answer in {tries} tries; check AWS_ENDPOINT_URL and the network"
    else:
        cause = text.partition("\n")[0][:200]
    return StoreUnavailable(f"object store {where}: {cause}")


def _find(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return match[1] if match else None
