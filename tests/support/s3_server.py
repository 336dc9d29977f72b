"""A server of S3 for tests: moto, a mock with right conditional puts, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

import pytest

__all__ = ["S3", "moto_server"]


@dataclass(frozen=True)
class S3:
    """A server of S3.

    Attributes:
        endpoint: its URL.
        key, secret: to sign with.
    """

    endpoint: str
    key: str = "AK"
    secret: str = "SK"

    @property
    def environment(self) -> dict[str, str]:
        """Variables as an application has them."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def store(self, bucket: str) -> Any:
        """Return the store of obstore for a bucket."""
        module = pytest.importorskip("obstore.store")
        return module.S3Store(
            bucket,
            endpoint=self.endpoint,
            access_key_id=self.key,
            secret_access_key=self.secret,
            region="us-east-1",
            client_options={"allow_http": True},
        )

    def new_bucket(self) -> str:
        """Make a bucket, and return its name."""
        name = f"lix-{uuid.uuid4().hex[:16]}"
        urlopen(Request(f"{self.endpoint}/{name}", method="PUT"), timeout=30).close()
        return name

    def signed_bucket(self) -> str:
        """Make a bucket on a server that looks at signatures, and return its name."""
        boto3 = pytest.importorskip("boto3")
        name = f"lix-{uuid.uuid4().hex[:16]}"
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=name)
        return name


@contextmanager
def moto_server() -> Iterator[S3]:
    """Start a server, and stop it in the end. Skips where moto is not installed."""
    pytest.importorskip("moto.server", exc_type=ImportError)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            pytest.fail("moto did not start")
        yield S3(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()
