"""Snapshots in an object store: a folder behind its interface, and S3's own protocol."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lix_cache import CacheConfig
from lix_cache.errors import ArchiveUnavailable, ConfigError
from lix_cache.storage.objects import Bucket, FolderBucket, ObjectBucket, bucket_at
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import free_port, wait_until
from tests.support.wire import ask, chat_body, post

pytest.importorskip("obstore", reason="the extra object-store is not installed")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    pytest.importorskip("moto", reason="moto's server stands in for S3")
    pytest.importorskip("flask", reason="moto's server stands in for S3")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        assert process.poll() is None
        try:
            urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
        except OSError:
            return False
        return True

    try:
        wait_until(is_up, 60, "moto's server")
        request = urllib.request.Request(f"{url}/snapshots", method="PUT")  # a bucket
        urllib.request.urlopen(request, timeout=20).close()
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "file":
        (tmp_path / "store").mkdir()
        return f"file://{tmp_path}/store"
    url = request.getfixturevalue("s3")
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "k"),
        ("AWS_SECRET_ACCESS_KEY", "hidden-secret"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", url),
        ("AWS_ALLOW_HTTP", "true"),
    ):
        monkeypatch.setenv(name, value)
    return f"s3://snapshots/{tmp_path.name}"


def names(bucket: Bucket) -> list[str]:
    return sorted(one.name for one in bucket.names(""))


def test_objects_are_put_whole_listed_and_removed(place: str, tmp_path: Path) -> None:
    for bucket in (bucket_at(place), bucket_at(str(tmp_path / "folder"))):
        assert names(bucket) == []
        assert bucket.get("one") is None
        bucket.put("one", b"a" * 100_000)
        bucket.put("two", b"")
        bucket.put("one", b"new")
        assert not bucket.create("one", b"newer")
        assert (bucket.get("one"), bucket.get("two")) == (b"new", b"")
        assert bucket.get("one", 1, 9) == b"ew"
        assert names(bucket) == ["one", "two"]
        bucket.remove("one")
        bucket.remove("one")
        assert names(bucket) == ["two"]


def test_a_folder_lists_and_keeps_nothing_of_a_put_that_was_killed(tmp_path: Path) -> None:
    bucket = bucket_at(str(tmp_path / "folder"))
    bucket.put("one", b"x")
    old, young = (tmp_path / "folder" / f".{name}.tmp" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    assert names(bucket) == ["one"]
    assert (old.exists(), young.exists()) == (False, True), "the writer of the young one may live"


def test_a_snapshot_in_a_store_fills_an_empty_redis(place: str, redis_config: CacheConfig) -> None:
    empty = redis_config.replace(redis_key_prefix=redis_config.redis_key_prefix + "2")
    with Provider() as provider:
        with RunningGateway(provider, redis_config, snapshot=place) as first:
            for number in range(3):
                post(first.url, chat_body(str(number)))
        with RunningGateway(provider, empty, snapshot=place) as second:
            assert ask(second.url, "GET", "/ready").json["hydration"] == "ok"
            assert [post(second.url, chat_body(str(n))).reason for n in range(3)] == ["redis"] * 3


@pytest.mark.promise("no-leak")
def test_a_store_that_does_not_answer_is_said_without_its_secrets(
    redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "k"),
        ("AWS_SECRET_ACCESS_KEY", "hidden-secret"),
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}"),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("lix_cache.storage.objects._RETRY_SECONDS", 1)
    objects = bucket_at("s3://snapshots/x")
    for work in (
        lambda: objects.get("a"),
        lambda: objects.put("a", b""),
        lambda: objects.create("a", b""),
        lambda: objects.modified("a"),
        lambda: names(objects),
        lambda: objects.remove("a"),
    ):
        with pytest.raises(ArchiveUnavailable, match="object store") as caught:
            work()
        assert "hidden" not in str(caught.value)
    with Provider() as provider, RunningGateway(provider, redis_config, snapshot="s3://snapshots/x") as one:
        assert post(one.url, chat_body()).status == 200, "the gateway starts all the same"
        assert "object store" in ask(one.url, "GET", "/ready").json["hydration"]


def test_a_place_is_a_folder_or_a_known_url() -> None:
    assert isinstance(bucket_at("~/x"), FolderBucket)
    assert isinstance(bucket_at("s3://bucket/x"), ObjectBucket)
    for url in ("ftp://x/y", "s3a://bucket"):
        with pytest.raises(ConfigError, match="s3://"):
            bucket_at(url)
