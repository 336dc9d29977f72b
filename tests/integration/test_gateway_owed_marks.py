"""A response that was deleted is in no later start, whenever the process that deleted it was killed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lix_cache import CacheConfig
from lix_cache.errors import ArchiveUnavailable
from lix_cache.gateway import hydration, keeping
from lix_cache.storage.objects import FolderBucket
from tests.support import RedisServer
from tests.support.dropping import Keeper, drop, is_served, made
from tests.support.provider import RunningGateway
from tests.support.redis_server import wait_until

pytestmark = pytest.mark.promise("right-answer")


@pytest.fixture(autouse=True)
def _hurries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hydration, "_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(keeping, "_MARKED_SECONDS", 0.1)


def away(_: FolderBucket, name: str, __: bytes) -> None:
    raise ArchiveUnavailable(f"scripted: {name}")


def forgotten(server: RedisServer, config: CacheConfig, *, but: str = "") -> None:
    """Have Redis lose what it has; but what has a part in its key."""
    client = server.client()
    for key in client.scan_iter(f"{config.redis_key_prefix}:*"):
        if not but or but.encode() not in key:
            client.delete(key)


def killed_before_it_marked(
    keeper: Keeper, config: CacheConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have a response deleted by a gateway that is cut off from the snapshot's place until its end."""
    with monkeypatch.context() as patch, RunningGateway(keeper.url, config, snapshot=str(folder)) as gateway:
        identity = made(gateway)
        assert gateway.do(gateway.core.snapshot.save()) == 1
        patch.setattr(FolderBucket, "put", away)
        drop(gateway, identity)
    assert not list(folder.glob("dropped-*"))


def test_a_delete_is_answered_when_the_snapshots_place_knows_of_it(
    keeper: Keeper, redis_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_MARKED_SECONDS", 60.0)
    put, began, goes_on = FolderBucket.put, threading.Event(), threading.Event()

    def slow(objects: FolderBucket, name: str, data: bytes) -> None:
        began.set()
        goes_on.wait(60)
        put(objects, name, data)

    with RunningGateway(keeper.url, redis_config, snapshot=str(tmp_path)) as gateway:
        identity = made(gateway)
        with monkeypatch.context() as patch, ThreadPoolExecutor() as pool:
            patch.setattr(FolderBucket, "put", slow)
            try:
                deleting = [pool.submit(drop, gateway, identity) for _ in range(3)]
                assert began.wait(60)
                wait_until(lambda: not gateway.core.undone and gateway.core.metrics.open == 3)
                assert not any(one.done() for one in deleting)
            finally:
                goes_on.set()
            for one in deleting:
                one.result()
                assert list(tmp_path.glob("dropped-*"))
        owed = gateway.core.snapshot._owed
        assert owed is not None
        gateway.settle()
        assert gateway.do(owed.tenants()) == []


def test_a_place_that_does_not_answer_holds_up_no_delete_for_long(
    keeper: Keeper, redis_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    with RunningGateway(keeper.url, redis_config, snapshot=str(tmp_path)) as gateway:
        identity = made(gateway)
        with monkeypatch.context() as patch:
            patch.setattr(FolderBucket, "put", lambda *_: goes_on.wait(60))
            try:
                drop(gateway, identity)
                assert not is_served(gateway)
            finally:
                goes_on.set()


def test_the_next_process_puts_the_mark_that_a_killed_one_owed(
    keeper: Keeper,
    redis_server: RedisServer,
    redis_config: CacheConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed_before_it_marked(keeper, redis_config, tmp_path, monkeypatch)
    with (
        monkeypatch.context() as patch,
        RunningGateway(keeper.url, redis_config, snapshot=str(tmp_path)) as gateway,
    ):
        assert list(tmp_path.glob("dropped-*"))
        owed = gateway.core.snapshot._owed
        assert owed is not None
        assert gateway.do(owed.tenants()) == []
        patch.setattr(gateway.core.snapshot, "save_at_end", _nothing)  # it is killed as well
    forgotten(redis_server, redis_config)
    with RunningGateway(keeper.url, redis_config, snapshot=str(tmp_path)) as gateway:
        assert gateway.core.snapshot.state == "ok"
        assert gateway.core.snapshot.hydrated == 0
        assert not is_served(gateway)


async def _nothing() -> None:
    pass


@pytest.mark.parametrize("knows", [True, False], ids=["Redis tells of whom", "Redis does not tell"])
def test_nothing_is_put_back_of_whom_a_mark_is_owed(
    knows: bool,
    keeper: Keeper,
    redis_server: RedisServer,
    redis_config: CacheConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed_before_it_marked(keeper, redis_config, tmp_path, monkeypatch)
    forgotten(redis_server, redis_config, but=":gw:owed:")
    with monkeypatch.context() as patch:
        patch.setattr(FolderBucket, "put", away)
        if not knows:
            patch.setattr(hydration.OwedMarks, "tenants", _unknown)
        with RunningGateway(keeper.url, redis_config, snapshot=str(tmp_path)) as gateway:
            assert gateway.core.snapshot.hydrated == 0
            assert ("not tell" in gateway.core.snapshot.state) is not knows
            assert not is_served(gateway)
            patch.undo()
            if knows:
                wait_until(
                    lambda: list(tmp_path.glob("dropped-*")), what="the mark, now that its place is back"
                )


async def _unknown(_: object) -> None:
    return None


def test_what_is_dropped_while_a_mark_is_put_is_owed_still(
    keeper: Keeper, redis_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunningGateway(keeper.url, redis_config, snapshot=str(tmp_path)) as gateway:
        snapshot, put = gateway.core.snapshot, FolderBucket.put
        owed = snapshot._owed
        assert owed is not None

        def meanwhile(objects: FolderBucket, name: str, data: bytes) -> None:
            put(objects, name, data)
            gateway.do(owed.add("local"))

        gateway.do(owed.add("local"))
        with monkeypatch.context() as patch:
            patch.setattr(FolderBucket, "put", meanwhile)
            gateway.do(snapshot.mark("local"))
        assert gateway.do(owed.tenants()) == ["local"]
        gateway.do(snapshot.mark("local"))
        assert gateway.do(owed.tenants()) == []
