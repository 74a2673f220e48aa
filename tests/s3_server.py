"""A real S3 API on localhost, and folders put into its bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

BUCKET = "bucket"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Host and port; credentials are in the environment."""
    from moto.server import ThreadedMotoServer  # a second's import, for the few tests that need it

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


def uri(endpoint: str, path: str) -> str:
    """The URI of a path in the bucket."""
    return f"s3://{BUCKET}/{path}?scheme=http&endpoint_override={endpoint}"


def upload(endpoint: str, folder: Path, prefix: str) -> None:
    """Put every file below a folder into the bucket, which is made where it is missing."""
    import boto3

    client = boto3.client("s3", endpoint_url=f"http://{endpoint}")
    client.create_bucket(Bucket=BUCKET)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            client.upload_file(str(file), BUCKET, f"{prefix}/{file.relative_to(folder).as_posix()}")
