"""Servers of S3 for tests, each in a process of its own: moto, a mock, and Ceph's gateway."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

__all__ = ["S3", "moto_server", "radosgw_server"]

_SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "radosgw.sh"


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
    port = _free_port()
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


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def radosgw_server(unpacked: str, data: Path) -> Iterator[S3]:
    """Start Ceph's gateway, and stop it in the end.

    Args:
        unpacked: the folder of ``scripts/radosgw.sh unpack``.
        data: an empty folder. Its path must be short enough for the names of sockets in it.
    """
    command = ["bash", str(_SCRIPT), "run", unpacked, str(data), str(_free_port())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("ready: "):
            pytest.fail(f"Ceph's gateway did not start; {data / 'log'} says why")
        yield S3(line.removeprefix("ready: ").strip())
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
