"""Snapshots: what is exact comes back, a damaged one is refused, and a crash leaves one that is whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from lix_cache import CacheConfig
from lix_cache.errors import ArchiveCorrupt, ArchiveUnavailable, LixCacheError
from lix_cache.gateway import hydration
from lix_cache.gateway.checking import checked
from lix_cache.gateway.settings import GatewaySettings, TenantSettings, UpstreamSettings
from lix_cache.gateway.snapshot import _FORM, _sealed, load_snapshot, save_snapshot
from lix_cache.gateway.tenants import digest_of_key
from lix_cache.hot.keys import digest
from lix_cache.storage.files import Files
from lix_cache.storage.objects import FolderBucket
from tests.support import RedisServer
from tests.support.dropping import Keeper, drop, is_served, made
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import free_port, wait_until
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
        assert second.core.snapshot.hydrated >= 5
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
        assert gateway.do(gateway.core.snapshot.save()) == 2
        one, other = sorted(folder.glob("part-*"))
        manifest = folder / "manifest.json"
        named = manifest.read_bytes()
        gateway.forget()
        for name in ("ann", "bob"):
            gateway.do(redis.purge(name, lambda _: True))

        def load() -> int:
            known = {digest("ann"), digest("bob")}
            return gateway.do(load_snapshot(redis, FolderBucket(str(folder)), known))

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
            (manifest, _sealed({"form": 3, "parts": [{"name": "../x"}]})),
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
        nothing = FolderBucket(str(tmp_path / "none"))
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
        assert alone.core.snapshot.hydrated == 1, "bob is not known here any more"
        ready = ask(alone.url, "GET", "/ready").json
        assert (ready["hydration"], ready["hydrated"]) == ("ok", 1)
    (next((tmp_path / "snapshot").glob("part-*"))).write_bytes(b"x")
    third = redis_config.replace(redis_key_prefix=redis_config.redis_key_prefix + "3")
    with RunningGateway(provider, third, tenants=TENANTS, snapshot=folder) as damaged:
        ready = ask(damaged.url, "GET", "/ready").json
        assert (ready["status"], damaged.core.snapshot.hydrated) == ("degraded", 0)
        assert "damaged" in ready["hydration"]
        assert post(damaged.url, chat_body(), authorization=ANN).state == "miss"


@pytest.mark.promise("no-loss")
def test_a_crash_at_any_step_leaves_one_that_is_whole(
    provider: Provider, redis_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "snapshot")
    objects = FolderBucket(folder)
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
            gateway.do(gateway.core.snapshot.save())
            server.kill()
            with pytest.raises(LixCacheError):
                gateway.do(gateway.core.snapshot.save())
            assert b'"entries":1' in (Path(folder) / "manifest.json").read_bytes()


@pytest.mark.promise("no-loss")
def test_what_was_not_read_is_not_replaced_at_the_end(
    provider: Provider, redis_config: CacheConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "snapshot"
    with RunningGateway(provider, redis_config, snapshot=str(folder)) as gateway:
        post(gateway.url, chat_body())
    manifest, (part,) = folder / "manifest.json", folder.glob("part-*")
    said, answers = manifest.read_bytes(), part.read_bytes()
    empty = redis_config.replace(redis_key_prefix=redis_config.redis_key_prefix + "2")
    settings = GatewaySettings(upstreams=(UpstreamSettings("a", provider.url),), snapshot=str(folder))
    assert checked(settings, empty)["parts"]["redis"] == "ok"
    assert (manifest.read_bytes(), part.read_bytes()) == (said, answers), "a check changes nothing"
    part.rename(part.with_suffix(".away"))
    with RunningGateway(provider, empty, snapshot=str(folder)) as gateway:
        assert "missing" in gateway.core.snapshot.state
        post(gateway.url, chat_body("another"))
    assert manifest.read_bytes() == said
    part.with_suffix(".away").rename(part)
    away = redis_config.replace(redis_port=free_port())
    with RunningGateway(provider, away, snapshot=str(folder)) as gateway:
        assert "nothing was put back" in gateway.core.snapshot.state
    with RunningGateway(provider, empty, snapshot=str(folder)) as gateway:
        assert (gateway.core.snapshot.state, gateway.core.snapshot.hydrated) == ("ok", 1)
        assert post(gateway.url, chat_body()).reason == "redis"
    assert json.loads(manifest.read_bytes())["entries"] == 2, "what was read is"


def test_a_written_one_is_replaced_at_the_end(
    provider: Provider, redis_config: CacheConfig, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_bytes(b"damaged")
    with RunningGateway(provider, redis_config, snapshot=str(tmp_path)) as gateway:
        post(gateway.url, chat_body())
        gateway.settle()
        assert gateway.do(gateway.core.snapshot.save()) == 1
        post(gateway.url, chat_body("another"))
    assert json.loads((tmp_path / "manifest.json").read_bytes())["entries"] == 2


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("has_lost", [False, True], ids=["the same Redis", "an empty one"])
def test_what_was_dropped_does_not_come_back_out_of_an_older_one(
    has_lost: bool, provider: Provider, redis_config: CacheConfig, redis_server: RedisServer, tmp_path: Path
) -> None:
    asked = {"model": "m-1", "input": "Where?"}
    with RunningGateway(provider, redis_config, tenants=TENANTS, snapshot=str(tmp_path)) as gateway:
        redis, objects = gateway.core.redis, gateway.core.snapshot.objects
        assert redis is not None
        assert objects is not None
        for key in (ANN, BOB):
            made = post(gateway.url, asked, "/v1/responses", authorization=key).json["id"]
        gateway.settle()
        assert gateway.do(gateway.core.snapshot.save()) == 2
        gateway.do(gateway.core.purge("ann", None, None))
        deleted = ask(gateway.url, "DELETE", f"/v1/responses/{made}", headers={"authorization": BOB})
        assert deleted.status == 200
        gateway.settle()  # a DELETE does not wait for the snapshot's place
        if has_lost:
            for key in redis_server.client().scan_iter(f"{redis_config.redis_key_prefix}:*"):
                redis_server.client().delete(key)
        else:
            for path in tmp_path.glob("dropped-*"):
                path.unlink()  # Redis alone knows it as well
        everyone = {digest("ann"), digest("bob")}
        assert gateway.do(load_snapshot(redis, objects, everyone)) == 0
        for key in (ANN, BOB):
            assert post(gateway.url, asked, "/v1/responses", authorization=key).state == "miss"
        gateway.settle()
        assert gateway.do(gateway.core.snapshot.save()) == 2, "what came after it is in the next one"
        for name in ("ann", "bob"):
            gateway.do(redis.purge(name, lambda _: True))
        assert gateway.do(load_snapshot(redis, objects, everyone)) == 2


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("is_told", [True, False], ids=["deleted in Redis too", "Redis was away"])
def test_what_was_deleted_just_before_the_end_is_not_in_the_next_start(
    is_told: bool, keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hydration, "_AGAIN_SECONDS", 0.1)
    errors = Mock()
    monkeypatch.setattr(hydration.logger, "error", errors)
    folder = str(tmp_path / "snapshot")
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path)
        with RunningGateway(keeper.url, config, snapshot=folder) as gateway:
            identity = made(gateway)
            assert gateway.do(gateway.core.snapshot.save()) == 1
            objects = gateway.core.snapshot.objects
            assert objects is not None
            put, fails = objects.put, iter([ArchiveUnavailable("scripted"), RuntimeError("scripted")])

            def failing(name: str, data: bytes) -> None:
                if not name.startswith("dropped-"):
                    raise ArchiveUnavailable("no other snapshot takes the place of this one")
                for error in fails:
                    raise error
                put(name, data)

            monkeypatch.setattr(objects, "put", failing)
            if not is_told:
                server.kill()
            drop(gateway, identity)
    assert not [call for call in errors.mock_calls if "does not know" in call.args[0]]
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path)
        with RunningGateway(keeper.url, config, snapshot=folder) as gateway:
            assert gateway.core.snapshot.state == "ok"
            assert gateway.core.snapshot.hydrated == 0
            assert not is_served(gateway)


@pytest.mark.promise("right-answer")
def test_an_end_before_the_place_knows_what_was_deleted_is_an_error_of_the_log(
    keeper: Keeper, redis_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hydration, "_AGAIN_SECONDS", 0.1)
    errors, puts = Mock(), list[str]()
    monkeypatch.setattr(hydration.logger, "error", errors)

    def away(name: str, _: bytes) -> None:
        puts.append(name)
        raise ArchiveUnavailable("scripted")

    with RunningGateway(keeper.url, redis_config, snapshot=str(tmp_path)) as gateway:
        identity = made(gateway)
        assert gateway.do(gateway.core.snapshot.save()) == 1
        monkeypatch.setattr(gateway.core.snapshot.objects, "put", away)
        drop(gateway, identity)
        wait_until(lambda: len(puts) > 2, what="more than one try")
    (said,) = [call.args for call in errors.mock_calls if "does not know" in call.args[0]]
    assert said[1] == 1
    assert not [task for task in gateway.core._tasks if not task.done()]


@pytest.mark.promise("right-answer")
def test_a_damaged_mark_of_what_was_dropped_keeps_a_tenant_out(
    provider: Provider, redis_config: CacheConfig, tmp_path: Path
) -> None:
    with RunningGateway(provider, redis_config, tenants=TENANTS, snapshot=str(tmp_path)) as gateway:
        for key in (ANN, BOB):
            post(gateway.url, chat_body(), authorization=key)
    (tmp_path / f"dropped-{digest('ann')}").write_bytes(b"?")
    empty = redis_config.replace(redis_key_prefix=redis_config.redis_key_prefix + "2")
    with RunningGateway(provider, empty, tenants=TENANTS, snapshot=str(tmp_path)) as gateway:
        assert gateway.core.snapshot.hydrated == 1
        assert post(gateway.url, chat_body(), authorization=BOB).reason == "redis"


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
        *({"parts": [], "begun": value} for value in [None, True, "1", [], {}]),
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
        assert gateway.core.snapshot.hydrated == 0
        assert "snapshot" in gateway.core.snapshot.state
        assert post(gateway.url, chat_body()).status == 200
