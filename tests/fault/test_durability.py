"""durability="disk": a message is on disk before it is acknowledged, or it is not kept at all."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from lix_cache import ConversationArchive
from lix_cache.config import CacheConfig
from lix_cache.errors import ArchiveBusy, ArchiveUnavailable
from lix_cache.hot.replies import Added
from lix_cache.messages.turn import MessageId
from lix_cache.session.add import _has_replica
from lix_cache.session.base import Session
from lix_cache.session.store import open_store
from lix_cache.storage.files import Files
from tests.support import RedisServer
from tests.support.lab import Process
from tests.support.redis_server import nowhere
from tests.support.sessions import said
from tests.support.twins import Twins

pytestmark = pytest.mark.promise("no-loss")


@pytest.fixture
def config(redis_config: CacheConfig) -> CacheConfig:
    return redis_config.replace(hot_window_size=4, archive_batch_turns=2, durability="disk")


class Watched(Files):
    """Real files that note what happens to them, and refuse when told to."""

    def __init__(self) -> None:
        #: Names of the operations that change something, in order.
        self.done: list[str] = []
        self.refusing: set[str] = set()

    def _note(self, name: str) -> None:
        if name in self.refusing:
            raise ArchiveUnavailable(errno.ENOSPC, "the disk is full")
        self.done.append(name)

    def append(self, path: str, offset: int, data: bytes) -> None:
        self._note("append")
        super().append(path, offset, data)

    def write_synced(self, path: str, data: bytes) -> None:
        self._note("write_synced")
        super().write_synced(path, data)

    def rename(self, source: str, target: str) -> None:
        self._note("rename")
        super().rename(source, target)

    def sync_folder(self, path: str) -> None:
        self._note("sync_folder")
        super().sync_folder(path)


def on_disk(config: CacheConfig) -> list[Any]:
    """What a process finds that has the folder and no Redis."""
    return said(ConversationArchive(config.archive_dir).load_all("s"))


def test_every_acknowledged_message_is_on_disk(twins: Twins, config: CacheConfig) -> None:
    cache = twins.make("HybridConversationCache", "s", config)
    texts = []
    for i in range(12):
        texts.append(f"message {i}")
        cache.add_message("user", texts[-1], {"number": i}, embedding=[float(i), 0.5])
        assert on_disk(config) == texts
        if i == 6:
            cache.evictor.run_once()
    assert said(cache.get_full()) == texts
    hot = cache.get_full()
    cache.flush_to_disk()
    # Its own copy is the one that was there before.
    assert cache.get_stats()["disk_turns"] == 12
    assert cache.get_full() == hot


def test_a_message_is_synced_before_it_is_acknowledged(twins: Twins, config: CacheConfig) -> None:
    files = Watched()
    cache = twins.make("HybridConversationCache", "s", config, files=files)
    cache.add_message("user", "first")
    # A new file: its bytes, its name, and the name made durable.
    assert files.done[-3:] == ["write_synced", "rename", "sync_folder"]
    files.done.clear()
    cache.add_message("user", "second")
    # The folder once more, as if another process had made the file and not come to it.
    assert files.done == ["append", "sync_folder"]
    files.done.clear()
    cache.add_message("user", "third")
    assert files.done == ["append"]


def test_a_server_that_lost_everything_costs_nothing(twins: Twins, tmp_path: Path) -> None:
    with RedisServer() as server:
        config = server.config(
            archive_dir=tmp_path / "archive",
            hot_window_size=4,
            archive_batch_turns=2,
            durability="disk",
            evictor_enabled=False,
            redis_retry_seconds=0,
        )
        cache = twins.make("HybridConversationCache", "s", config)
        texts = []
        for i in range(8):
            texts.append(f"message {i}")
            cache.add_message("user", texts[-1])
            if i % 3 == 2:
                server.kill()
                server.start()
            assert said(cache.get_full()) == texts
            assert said(cache.get_context()) == texts[-4:]


@pytest.mark.parametrize("refused", ["append", "write_synced", "rename", "sync_folder"])
def test_a_message_that_the_disk_refuses_is_not_kept_and_the_caller_is_told(
    twins: Twins, config: CacheConfig, refused: str
) -> None:
    files = Watched()
    cache = twins.make("HybridConversationCache", "s", config, files=files)
    if refused == "append":
        cache.add_message("user", "before")
    files.refusing = {refused}
    for _ in range(2):
        with pytest.raises(ArchiveUnavailable, match="the disk is full"):
            cache.add_message("user", "refused")
    assert Process(config).hot() == (1 if refused == "append" else 0)
    files.refusing = set()
    cache.add_message("user", "after")
    full = said(cache.get_full())
    # A file whose name could not be made durable is there all the same: at most once.
    assert full in (["before", "after"], ["after"], ["refused", "after"], ["refused", "refused", "after"])
    assert full[-1] == "after"
    if refused != "sync_folder":
        assert "refused" not in full
    assert on_disk(config) == full


def test_a_message_that_redis_lost_while_the_disk_refused_it_is_not_taken_for_moved(
    twins: Twins, config: CacheConfig, redis_server: RedisServer
) -> None:
    class Losing(Watched):
        def append(self, path: str, offset: int, data: bytes) -> None:
            if self.refusing:
                # As a FLUSHALL does, or a restart without files, just before.
                with redis_server.client(db=config.session_redis_db) as client:
                    client.delete(*client.keys(f"{config.redis_key_prefix}*"))
            super().append(path, offset, data)

    files = Losing()
    cache = twins.make("HybridConversationCache", "s", config, files=files)
    cache.add_message("user", "before")
    files.refusing = {"append"}
    with pytest.raises(ArchiveUnavailable, match="the disk is full"):
        cache.add_message("user", "refused")
    files.refusing = set()
    cache.add_message("user", "after")
    assert said(cache.get_full()) == on_disk(config) == ["before", "after"]


def test_a_session_whose_archive_is_locked_for_too_long_does_not_take_a_message(
    twins: Twins, config: CacheConfig
) -> None:
    cache = twins.make("HybridConversationCache", "s", config.replace(archive_lock_timeout_seconds=0.01))
    with Process(config).archive.lock("s"), pytest.raises(ArchiveBusy):
        cache.add_message("user", "refused")
    assert said(cache.get_full()) == []
    cache.add_message("user", "taken")
    assert said(cache.get_full()) == on_disk(config) == ["taken"]


def test_a_disk_that_refuses_fails_no_add_that_redis_can_keep(twins: Twins, config: CacheConfig) -> None:
    """With the usual durability a full disk delays the moving, and bounds nothing else."""
    files = Watched()
    cache = twins.make("HybridConversationCache", "s", config.replace(durability="redis"), files=files)
    texts = [f"message {i}" for i in range(20)]
    cache.add_message("user", texts[0])
    files.refusing = {"append", "write_synced"}
    for text in texts[1:]:
        cache.add_message("user", text)
    assert said(cache.get_full()) == texts
    assert cache.get_stats()["counters"]["spill_failures"] > 0
    with pytest.raises(ArchiveUnavailable):
        cache.flush_to_disk()
    assert said(cache.get_full()) == texts
    files.refusing = set()
    cache.flush_to_disk()
    assert on_disk(config) == said(cache.get_full()) == texts


def test_a_full_disk_and_no_redis_is_an_error_and_not_a_message_forgotten(
    twins: Twins, config: CacheConfig
) -> None:
    files = Watched()
    away = nowhere(config, durability="redis", redis_retry_seconds=0)
    cache = twins.make("HybridConversationCache", "s", away, files=files)
    cache.add_message("user", "kept")
    files.refusing = {"append"}
    with pytest.raises(ArchiveUnavailable):
        cache.add_message("user", "refused")
    files.refusing = set()
    assert said(cache.get_full()) == ["kept"]


def test_messages_that_several_add_at_once_are_all_on_disk(config: CacheConfig) -> None:
    """Their ids come from Redis in one order, and reach the disk in another."""
    processes = [Process(config) for _ in range(4)]
    texts = []
    for round_ in range(5):
        flows = []
        for i, process in enumerate(processes):
            texts.append(f"{round_}.{i}")
            running = process.adding(texts[-1])
            step = running.send(None)
            length = process.hot()
            while process.hot() == length:
                # In Redis after that, and not yet on disk.
                step = process.step(running, step)
            flows.append((process, running, step))
        for process, running, later in reversed(flows):
            step = later
            with pytest.raises(StopIteration):
                while True:
                    step = process.step(running, step)
        assert on_disk(config) == texts
    assert processes[0].full() == texts
    processes[0].flush()
    assert on_disk(config) == texts


def test_the_folder_may_be_new(twins: Twins, config: CacheConfig, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / uuid.uuid4().hex
    cache = twins.make("HybridConversationCache", "s", config.replace(archive_dir=os.fspath(folder)))
    cache.add_message("user", "x")
    assert said(ConversationArchive(folder).load_all("s")) == ["x"]


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("archived", [False, True])
def test_a_keyed_message_that_a_replica_has_is_known_to_be_there(
    twins: Twins, config: CacheConfig, monkeypatch: pytest.MonkeyPatch, archived: bool
) -> None:
    """The first keyed add of a session asks twice, and the second answer says how many replicas have it."""
    for driver in ("sync", "aio"):
        monkeypatch.setattr(f"lix_cache.drivers.{driver}.with_replicas", lambda answer, _: (answer, 1))
    config = config.replace(durability="replica", hot_window_size=50)
    cache = twins.make("HybridConversationCache", "s", config)
    if archived:
        cache.add_message("user", "before")
        cache.flush_to_disk()
    on_disk = cache.get_stats()["disk_turns"]
    for key in "ab":
        cache.add_messages([{"role": "user", "content": key}], keys=[key])
    stats = cache.get_stats()
    assert stats["disk_turns"] == on_disk
    assert "unreplicated_adds" not in stats["counters"]


def test_a_message_that_was_found_again_says_nothing_of_replicas(config: CacheConfig) -> None:
    store = open_store(config.replace(durability="replica"))
    session = Session(store, "s", 4)
    found = Added((MessageId(1, 0),), 1)
    assert not _has_replica(session, found)
    assert not store.breaker_of("s").replicas.is_open, "no replica was waited for"
    assert not _has_replica(session, found._replace(replicas=0))
    assert store.breaker_of("s").replicas.is_open
