"""What a gateway reads at its start it reads beside the requests; for what its snapshot needs none waits."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lix_cache import CacheConfig
from lix_cache.clock import SYSTEM_CLOCK
from lix_cache.embedders.hashing import HashingEmbedder
from lix_cache.errors import ArchiveCorrupt, ArchiveUnavailable
from lix_cache.gateway.settings import GatewaySettings, TenantSettings
from lix_cache.gateway.snapshot import check_snapshot, load_snapshot, save_snapshot
from lix_cache.gateway.tenants import digest_of_key
from lix_cache.hot.keys import digest
from lix_cache.storage.objects import FolderBucket
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import wait_until
from tests.support.wire import Reply, ask, chat_body, post

ANN, BOB, ADMIN = "ann-key-0123456789abcdef", "bob-key-0123456789abcdef", "admin-key-0123456789abcdef"
TENANTS = tuple(TenantSettings(name, (digest_of_key(key),)) for name, key in (("ann", ANN), ("bob", BOB)))


class Objects(FolderBucket):
    """A folder whose calls may be held, made to fail, or seen."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.opened = threading.Event()
        self.opened.set()
        self.is_away = False
        self.waiting = 0
        self.seen: Callable[[str, str], None] = lambda step, name: None

    def _pass(self, step: str, name: str) -> None:
        self.waiting += 1
        self.opened.wait(60)
        self.waiting -= 1
        if self.is_away:
            raise ArchiveUnavailable("the object store does not answer (scripted)")

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes | None:
        self._pass("get", name)
        data = super().get(name, start, length)
        self.seen("get", name)
        return data

    def put(self, name: str, data: bytes) -> None:
        self._pass("put", name)
        super().put(name, data)
        self.seen("put", name)


@pytest.fixture
def full(provider: Provider, redis_config: CacheConfig, tmp_path: Path) -> tuple[Path, CacheConfig]:
    """A snapshot with an answer, and an empty Redis."""
    folder = tmp_path / "snapshot"
    with RunningGateway(provider, redis_config, snapshot=str(folder)) as gateway:
        post(gateway.url, chat_body())
    return folder, redis_config.replace(redis_key_prefix=redis_config.redis_key_prefix + "2")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Objects:
    """What the next gateways find their snapshot in, held until it is opened."""
    objects = Objects(tmp_path / "snapshot")
    objects.opened.clear()
    monkeypatch.setattr("lix_cache.gateway.hydration.bucket_at", lambda _: objects)
    return objects


def as_admin(gateway: RunningGateway, path: str, body: Any = None) -> Reply:
    data = json.dumps(body or {}).encode()
    return ask(gateway.url, "POST", f"/admin/{path}", data, {"authorization": f"Bearer {ADMIN}"})


@pytest.mark.promise("no-stall")
def test_it_serves_while_the_snapshot_is_read_and_loses_none_of_it_by_a_reload(
    full: tuple[Path, CacheConfig], held: Objects, provider: Provider
) -> None:
    folder, empty = full
    with RunningGateway(
        provider, empty, snapshot=str(folder), admin_key=digest_of_key(ADMIN), waits=False
    ) as gateway:
        ready = ask(gateway.url, "GET", "/ready")
        assert (ready.status, ready.json["status"], ready.json["hydration"]) == (200, "degraded", "loading")
        assert post(gateway.url, chat_body("another")).status == 200
        gateway.app._reread = lambda: GatewaySettings(**{**vars(gateway.settings), "ttl_seconds": 60.0})
        assert as_admin(gateway, "reload").json == {"reloaded": True}
        held.opened.set()
        wait_until(gateway.has_read, what="the snapshot")
        ready = ask(gateway.url, "GET", "/ready").json
        assert (ready["status"], ready["hydration"], ready["hydrated"]) == ("ok", "ok", 1)
        gateway.forget()
        assert post(gateway.url, chat_body()).reason == "redis"
    assert json.loads((folder / "manifest.json").read_bytes())["entries"] == 2, "it writes one at its end"


@pytest.mark.promise("no-loss")
def test_one_that_ends_before_the_snapshot_is_read_replaces_none(
    full: tuple[Path, CacheConfig], held: Objects, provider: Provider
) -> None:
    folder, empty = full
    before = (folder / "manifest.json").read_bytes()
    with RunningGateway(provider, empty, snapshot=str(folder), waits=False) as gateway:
        post(gateway.url, chat_body("another"))
        gateway.settle()
    held.opened.set()
    assert (folder / "manifest.json").read_bytes() == before


class SlowEmbedder(HashingEmbedder):
    """One that loads until it is told to have loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = threading.Event()

    def embed(self, texts: Any) -> Any:
        self.loaded.wait(60)
        return super().embed(texts)


@pytest.mark.promise("no-stall")
def test_it_serves_while_a_model_loads_and_asks_none_until_then(
    provider: Provider, redis_config: CacheConfig
) -> None:
    embedder = SlowEmbedder()
    with RunningGateway(provider, redis_config, embedder=embedder, waits=False) as gateway:
        ready = ask(gateway.url, "GET", "/ready").json
        assert (ready["status"], ready["embedder"]) == ("degraded", "loading")
        assert post(gateway.url, chat_body("Where is the billing page?")).state == "miss"
        embedder.loaded.set()
        wait_until(gateway.has_read, what="the model")
        post(gateway.url, chat_body("How do I close my account?"))
        gateway.settle()
        assert post(gateway.url, chat_body("how do I close my account")).state == "hit-l2-semantic"
        assert ask(gateway.url, "GET", "/ready").json["embedder"] == "ok"


@pytest.mark.promise("no-stall")
def test_a_place_that_is_away_keeps_no_answer_to_a_delete(
    held: Objects, provider: Provider, redis_config: CacheConfig, tmp_path: Path
) -> None:
    held.opened.set()
    with RunningGateway(provider, redis_config, tenants=TENANTS, snapshot="x") as gateway:
        held.opened.clear()
        replies = {}
        for name, key in (("ann", ANN), ("bob", BOB)):
            for _ in range(3):
                replies[name] = ask(gateway.url, "DELETE", "/v1/responses/r", headers={"authorization": key})
        assert {reply.status for reply in replies.values()} == {200}
        assert all(reply.json["method"] == "DELETE" for reply in replies.values()), "as the provider said it"
        wait_until(lambda: held.waiting == 2, what="one mark of each tenant, beside the other's")
        held.is_away = True
        held.opened.set()
        assert not list((tmp_path / "snapshot").glob("dropped-*"))
        held.is_away = False
        places = [tmp_path / "snapshot" / f"dropped-{digest(name)}" for name in replies]
        wait_until(lambda: all(place.exists() for place in places), what="the marks")


@pytest.mark.promise("right-answer")
def test_a_purge_says_that_the_snapshot_was_not_told(
    held: Objects, provider: Provider, redis_config: CacheConfig, tmp_path: Path
) -> None:
    held.opened.set()
    with RunningGateway(provider, redis_config, snapshot="x", admin_key=digest_of_key(ADMIN)) as gateway:
        held.is_away = True
        assert as_admin(gateway, "purge", {"tenant": "local"}).status == 503
        held.is_away = False
        assert as_admin(gateway, "purge", {"tenant": "local"}).status == 200
        assert (tmp_path / "snapshot" / f"dropped-{digest('local')}").exists()


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_snapshot_that_is_replaced_while_it_is_read_is_read_again(
    times: int, full: tuple[Path, CacheConfig], provider: Provider
) -> None:
    """After its manifest, between its parts, and when all of it was found whole."""
    folder, empty = full
    with RunningGateway(provider, empty) as gateway:
        redis = gateway.core.redis
        assert redis is not None
        post(gateway.url, chat_body("of another gateway"))
        gateway.settle()
        objects, gets = Objects(folder), 0

        def seen(step: str, name: str) -> None:
            nonlocal gets
            gets += 1
            if gets == times:
                gateway.do(save_snapshot(redis, FolderBucket(str(folder)), SYSTEM_CLOCK))

        objects.seen = seen

        def load() -> int:
            return gateway.do(load_snapshot(redis, objects, {digest("local")}))

        # The reader's thread waits for the save, the loop goes on: as two gateways do.
        assert load() == 0, "what the newer one has is there"
        gateway.do(redis.purge("local", lambda _: True))
        assert load() == 1
        check_snapshot(str(folder), SYSTEM_CLOCK)


@pytest.mark.promise("bad-bytes")
def test_a_part_that_is_damaged_is_not_read_again_and_again(
    full: tuple[Path, CacheConfig], provider: Provider
) -> None:
    folder, empty = full
    next(folder.glob("part-*")).write_bytes(b"?")
    objects, gets = Objects(folder), []
    objects.seen = lambda step, name: gets.append(name)
    with RunningGateway(provider, empty) as gateway:
        redis = gateway.core.redis
        assert redis is not None
        with pytest.raises(ArchiveCorrupt):
            gateway.do(load_snapshot(redis, objects, {digest("local")}))
    assert [name[:5] for name in gets] == ["manif", "part-", "manif"]
