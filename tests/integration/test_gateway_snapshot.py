"""Snapshots: what is exact comes back, damage is left out, and a crash leaves one that is whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lix_cache import CacheConfig
from lix_cache.errors import LixCacheError
from lix_cache.gateway.settings import TenantSettings
from lix_cache.gateway.snapshot import load_snapshot, save_snapshot
from lix_cache.gateway.tenants import digest_of_key
from lix_cache.storage.files import Files
from tests.support import RedisServer
from tests.support.provider import Provider, RunningGateway
from tests.support.wire import chat_body, post

ANN, BOB = "ann-key-0123456789abcdef", "bob-key-0123456789abcdef"
TENANTS = tuple(TenantSettings(name, (digest_of_key(key),)) for name, key in (("ann", ANN), ("bob", BOB)))


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.mark.promise("isolation")
def test_answers_come_back_to_whom_they_belong(
    provider: Provider, redis_server: RedisServer, redis_config: CacheConfig, tmp_path: Path
) -> None:
    folder = str(tmp_path / "snapshot")
    with RunningGateway(provider, redis_config, tenants=TENANTS, snapshot=folder) as first:
        for number in range(5):
            post(first.url, chat_body(str(number)), authorization=ANN)
        post(first.url, chat_body("short"), authorization=ANN, x_lix_cache_ttl="1")
    for key in redis_server.client().scan_iter(f"{redis_config.redis_key_prefix}:*"):
        redis_server.client().delete(key)
    calls = len(provider.calls)
    elsewhere = redis_config.replace(redis_buckets=3)
    with RunningGateway(provider, elsewhere, tenants=TENANTS, snapshot=folder) as second:
        assert second.core.hydrated >= 5
        for number in range(5):
            assert post(second.url, chat_body(str(number)), authorization=ANN).reason == "redis"
        assert len(provider.calls) == calls
        assert post(second.url, chat_body("0"), authorization=BOB).state == "miss"
    for path in Path(folder).iterdir():
        assert ANN.encode() not in path.read_bytes()
        assert (path.stat().st_mode & 0o077) == 0


@pytest.mark.promise("bad-bytes")
def test_what_is_damaged_is_left_out(provider: Provider, redis_config: CacheConfig, tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    with RunningGateway(provider, redis_config, snapshot=str(folder)) as gateway:
        redis = gateway.core.redis
        assert redis is not None
        post(gateway.url, chat_body())
        gateway.settle()
        assert gateway.do(gateway.core.save()) == 1
        part = next(folder.glob("part-*"))
        manifest = folder / "manifest.json"
        good, named = part.read_bytes(), manifest.read_bytes()
        gateway.do(gateway.core.purge("local", None, None))
        for path, data in (
            (part, good[:-1]),
            (part, b""),
            (manifest, b"{"),
            (manifest, b"[]"),
            (manifest, named.replace(b"part-", b"../x-")),
        ):
            before = path.read_bytes()
            path.write_bytes(data)
            assert gateway.do(load_snapshot(redis, str(folder))) == 0
            path.write_bytes(before)
        assert gateway.do(load_snapshot(redis, str(folder))) == 1
        assert gateway.do(load_snapshot(redis, str(folder))) == 0, "what is there stays"
        assert gateway.do(load_snapshot(redis, str(tmp_path / "none"))) == 0


@pytest.mark.promise("no-loss")
def test_a_crash_at_any_step_leaves_one_that_is_whole(
    provider: Provider, redis_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "snapshot")
    with RunningGateway(provider, redis_config) as gateway:
        redis = gateway.core.redis
        assert redis is not None
        post(gateway.url, chat_body("old"))
        gateway.settle()
        assert gateway.do(save_snapshot(redis, folder, gateway.core.clock)) == 1
        post(gateway.url, chat_body("new"))
        gateway.settle()
        for step in ("write_synced", "rename", "sync_folder", "remove"):
            for call in (1, 2):
                with monkeypatch.context() as patch:
                    patch.setattr(Files, step, _failing(getattr(Files, step), call))
                    with contextlib.suppress(OSError):
                        gateway.do(save_snapshot(redis, folder, gateway.core.clock))
                gateway.do(redis.purge("local", lambda _: True))
                found = gateway.do(load_snapshot(redis, folder))
                assert found in (1, 2), (step, call)
                post(gateway.url, chat_body("old"), cache_control="no-cache")
                post(gateway.url, chat_body("new"), cache_control="no-cache")
                gateway.settle()
        assert gateway.do(save_snapshot(redis, folder, gateway.core.clock)) == 2
        assert sum(name.startswith("part-") for name in os.listdir(folder)) == 1


def _failing(real: object, at: int) -> object:
    calls = 0

    def step(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError("scripted")
        return real(*arguments)  # type: ignore[operator]

    return step


def test_without_all_of_redis_the_older_one_stays(provider: Provider, tmp_path: Path) -> None:
    folder = str(tmp_path / "snapshot")
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path)
        with RunningGateway(provider, config, snapshot=folder) as gateway:
            post(gateway.url, chat_body())
            gateway.settle()
            gateway.do(gateway.core.save())
            server.kill()
            with pytest.raises(LixCacheError):
                gateway.do(gateway.core.save())
            assert b'"entries":1' in (Path(folder) / "manifest.json").read_bytes()
