"""Snapshots: what is exact comes back, a damaged one is refused, and a crash leaves one that is whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

import pytest

from lix_cache import CacheConfig
from lix_cache.errors import ArchiveCorrupt, LixCacheError
from lix_cache.gateway.settings import TenantSettings
from lix_cache.gateway.snapshot import _FORM, _sealed, load_snapshot, save_snapshot
from lix_cache.gateway.tenants import digest_of_key
from lix_cache.hot.keys import digest
from lix_cache.storage.files import Files
from lix_cache.storage.objects import FolderObjects
from tests.support import RedisServer
from tests.support.provider import Provider, RunningGateway
from tests.support.wire import ask, chat_body, post

ANN, BOB = "ann-key-0123456789abcdef", "bob-key-0123456789abcdef"
TENANTS = tuple(TenantSettings(name, (digest_of_key(key),)) for name, key in (("ann", ANN), ("bob", BOB)))


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
def test_a_damaged_one_is_refused_whole(
    provider: Provider, redis_config: CacheConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "snapshot"
    with RunningGateway(provider, redis_config, tenants=TENANTS, snapshot=str(folder)) as gateway:
        redis = gateway.core.redis
        assert redis is not None
        for key in (ANN, BOB):
            post(gateway.url, chat_body(), authorization=key)
        gateway.settle()
        assert gateway.do(gateway.core.save()) == 2
        one, other = sorted(folder.glob("part-*"))
        manifest = folder / "manifest.json"
        named = manifest.read_bytes()
        for name in ("ann", "bob"):
            gateway.do(gateway.core.purge(name, None, None))

        def load() -> int:
            known = {digest("ann"), digest("bob")}
            return gateway.do(load_snapshot(redis, FolderObjects(str(folder)), known))

        half = json.loads(named)
        half["parts"].pop()
        swapped = json.loads(named)
        swapped["parts"][0]["tenant"] = swapped["parts"][1]["tenant"]
        for path, data in (
            (one, one.read_bytes()[:-1]),
            (other, b""),
            (other, None),
            (manifest, b"{"),
            (manifest, b"[]"),
            (manifest, named.replace(b"part-", b"../x-")),
            (manifest, json.dumps(half).encode()),
            (manifest, json.dumps(swapped).encode()),
            (manifest, _sealed({"form": 2, "parts": [{"name": "../x"}]})),
        ):
            before = path.read_bytes()
            path.write_bytes(data) if data is not None else path.unlink()
            with pytest.raises(ArchiveCorrupt, match="snapshot"):
                load()
            for key in (ANN, BOB):
                reply = post(gateway.url, chat_body(), authorization=key, cache_control="only-if-cached")
                assert reply.status == 504, "nothing of it was put back"
            path.write_bytes(before)
        assert load() == 2
        assert load() == 0, "what is there stays"
        nothing = FolderObjects(str(tmp_path / "none"))
        assert gateway.do(load_snapshot(redis, nothing, {digest("ann")})) == 0


@pytest.mark.promise("isolation")
def test_each_part_is_of_one_tenant_and_those_of_others_stay_away(
    provider: Provider, redis_config: CacheConfig, tmp_path: Path
) -> None:
    folder = str(tmp_path / "snapshot")
    with RunningGateway(provider, redis_config, tenants=TENANTS, snapshot=folder) as gateway:
        for key in (ANN, BOB):
            post(gateway.url, chat_body(), authorization=key)
    parts = json.loads((tmp_path / "snapshot" / "manifest.json").read_bytes())["parts"]
    assert sorted(part["tenant"] for part in parts) == sorted(map(digest, ("ann", "bob")))
    elsewhere = redis_config.replace(redis_key_prefix=redis_config.redis_key_prefix + "2")
    with RunningGateway(provider, elsewhere, tenants=TENANTS[:1], snapshot=folder) as alone:
        assert alone.core.hydrated == 1, "bob is not known here any more"
        ready = ask(alone.url, "GET", "/ready").json
        assert (ready["hydration"], ready["hydrated"]) == ("ok", 1)
    (next((tmp_path / "snapshot").glob("part-*"))).write_bytes(b"x")
    third = redis_config.replace(redis_key_prefix=redis_config.redis_key_prefix + "3")
    with RunningGateway(provider, third, tenants=TENANTS, snapshot=folder) as damaged:
        ready = ask(damaged.url, "GET", "/ready").json
        assert (ready["status"], damaged.core.hydrated) == ("degraded", 0)
        assert "damaged" in ready["hydration"]
        assert post(damaged.url, chat_body(), authorization=ANN).state == "miss"


@pytest.mark.promise("no-loss")
def test_a_crash_at_any_step_leaves_one_that_is_whole(
    provider: Provider, redis_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "snapshot")
    objects = FolderObjects(folder)
    with RunningGateway(provider, redis_config) as gateway:
        redis, clock = gateway.core.redis, gateway.core.clock
        assert redis is not None

        def save() -> int:
            return gateway.do(save_snapshot(redis, objects, clock))

        post(gateway.url, chat_body("old"))
        gateway.settle()
        assert save() == 1
        post(gateway.url, chat_body("new"))
        gateway.settle()
        for step in ("write_synced", "rename", "sync_folder", "remove"):
            for call in (1, 2):
                with monkeypatch.context() as patch:
                    patch.setattr(Files, step, _failing(getattr(Files, step), call))
                    with contextlib.suppress(OSError):
                        save()
                gateway.do(redis.purge("local", lambda _: True))
                found = gateway.do(load_snapshot(redis, objects, {digest("local")}))
                assert found in (1, 2), (step, call)
                post(gateway.url, chat_body("old"), cache_control="no-cache")
                post(gateway.url, chat_body("new"), cache_control="no-cache")
                gateway.settle()
        assert save() == 2
        with monkeypatch.context() as patch:
            tomorrow = clock.time() + 86_400
            patch.setattr(type(clock), "time", lambda self: tomorrow)
            assert save() == 2
        parts = [name for name in os.listdir(folder) if name.startswith("part-")]
        assert len(parts) == 1, "no crash leaves a part for ever"


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


def _without(name: str) -> dict[str, object]:
    return {key: value for key, value in _PART.items() if key != name}


_DATA = b"abc"
_WRONG: list[object] = [None, True, 1.5, [], {}]
_PART: dict[str, object] = {
    "name": "part-1-0123456789abcdef-0.lxs",
    "tenant": digest("local"),
    "sha256": hashlib.sha256(_DATA).hexdigest(),
    "bytes": len(_DATA),
}


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"parts": None},
        {"parts": 5},
        {"parts": {"name": "x"}},
        {"parts": "part"},
        {"parts": [5]},
        {"parts": [[]]},
        *({"parts": [_without(name)]} for name in _PART),
        *({"parts": [{**_PART, name: value}]} for name in _PART for value in _WRONG),
        *({"parts": [{**_PART, name: 5}]} for name in ("name", "tenant", "sha256")),
        {"parts": [{**_PART, "bytes": "3"}]},
        {"parts": [{**_PART, "tenant": "€"}]},
        {"parts": [_PART]},  # sealed, and its part of three bytes is no record
        {"parts": [_PART, _without("sha256")]},
    ],
)
def test_a_gateway_starts_without_a_snapshot_that_makes_no_sense(
    said: dict[str, object], redis_config: CacheConfig, tmp_path: Path, provider: Provider
) -> None:
    (tmp_path / "manifest.json").write_bytes(
        _sealed({"form": _FORM, "created": 1.0, "begun": 1.0, "entries": 0, **said})
    )
    (tmp_path / str(_PART["name"])).write_bytes(_DATA)
    with RunningGateway(provider, redis_config, snapshot=str(tmp_path)) as gateway:
        assert gateway.core.hydrated == 0
        assert "snapshot" in gateway.core.hydration
        assert post(gateway.url, chat_body()).status == 200
