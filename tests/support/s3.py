"""An S3 server for tests."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer


@contextmanager
def running_s3() -> Iterator[Mapping[str, str]]:
    """Run a server on a free port and give the AWS_* variables that lead there."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.stop()


def new_bucket(environment: Mapping[str, str]) -> str:
    """Make a bucket and return its name."""
    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_REGION"],
    )
    bucket = f"trace-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=bucket)
    return bucket


def new_bucket_url(environment: Mapping[str, str]) -> str:
    """Make a bucket and return the s3:// URL of a folder in it."""
    return f"s3://{new_bucket(environment)}/cold"
