"""The sessions of a store, page by page, in both variants: one suite."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lix_cache import HybridConversationCache, InvalidInput, SessionKey, StoreAdmin
from lix_cache.admin import SessionInfo, SessionPage
from lix_cache.config import CacheConfig
from lix_cache.errors import ConfigError
from tests.support import RedisServer
from tests.support.redis_server import nowhere
from tests.support.twins import ManualClock, Twins


@pytest.fixture(params=[1, 3])
def config(redis_config: CacheConfig, request: pytest.FixtureRequest) -> CacheConfig:
    return redis_config.replace(evictor_enabled=False, redis_buckets=request.param)


@pytest.fixture
def admin(twins: Twins, config: CacheConfig) -> Any:
    return twins.make("StoreAdmin", config)


NAMES = ["a", "b 1", "../c", "漢", "%64", "e" * 300, "f", "g"]


def pages(admin: Any, limit: int) -> list[SessionInfo]:
    found: list[SessionInfo] = []
    cursor = None
    while True:
        page: SessionPage = admin.session_page(limit, cursor)
        assert len(page.sessions) <= limit
        found += page.sessions
        cursor = page.cursor
        if cursor is None:
            return found


def use(config: CacheConfig, names: list[str]) -> None:
    for number, name in enumerate(names):
        cache = HybridConversationCache(name, config)
        cache.add_message("user", "one")
        # Some are moved to disk, some are in both.
        if number % 3:
            cache.flush_to_disk()
        if number % 3 == 2:
            cache.add_message("user", "two")
        time.sleep(0.003)


@pytest.mark.parametrize("limit", [1, 2, 3, 8, 100])
def test_pages_list_each_session_once_the_last_used_first(
    admin: Any, config: CacheConfig, limit: int
) -> None:
    assert admin.session_page() == SessionPage((), None)
    use(config, NAMES)
    found = pages(admin, limit)
    assert [info.session_id for info in found] == NAMES[::-1]
    assert [(info.hot_messages, info.cold_messages) for info in reversed(found)] == (
        [(1, 0), (0, 1), (1, 1)] * 3
    )[: len(NAMES)]
    assert [info.last_use for info in found] == sorted((info.last_use for info in found), reverse=True)
    assert found == admin.sessions()
    assert found[:limit] == admin.sessions(limit)
    assert found[0] == admin.session(NAMES[-1])


def test_a_session_that_is_used_meanwhile_is_on_the_first_page(admin: Any, config: CacheConfig) -> None:
    use(config, NAMES)
    first = admin.session_page(3)
    HybridConversationCache(NAMES[0], config).add_message("user", "again")
    rest = admin.session_page(100, first.cursor)
    assert [info.session_id for info in rest.sessions] == NAMES[4:0:-1]
    assert admin.session_page(1).sessions[0].session_id == NAMES[0]


@pytest.mark.promise("no-loss")
def test_a_session_is_not_later_on_disk_where_its_ids_are_ahead_of_the_server(
    admin: Any, config: CacheConfig
) -> None:
    ahead = ManualClock(time.time() + 30)
    away = nowhere(config)
    HybridConversationCache("a", away, clock=ahead).add_message("user", "one")
    cache = HybridConversationCache("a", config)
    cache.add_messages([{"role": "user", "content": "two"}] * 2)
    hot = admin.session("a").last_use
    cache.flush_to_disk()
    assert admin.session("a").last_use == pytest.approx(hot, abs=1e-4)


def offload(config: CacheConfig, names: list[str]) -> None:
    done = StoreAdmin(config).offload(session_ids=names)
    assert done.failed == {}


def test_moving_to_disk_is_no_use(admin: Any, config: CacheConfig) -> None:
    for name in NAMES:
        HybridConversationCache(name, config).add_message("user", "one")
        time.sleep(0.003)
    before = pages(admin, 3)
    time.sleep(0.2)
    # The least lately used last, which would be the first of all if moving were a use.
    offload(config, NAMES[4::-1])
    after = pages(admin, 3)
    assert [info.session_id for info in after] == NAMES[::-1]
    assert [info.last_use for info in after] == pytest.approx([info.last_use for info in before], abs=0.1)
    assert after == admin.sessions()
    assert after[-1] == admin.session(NAMES[0])
    # Nor is it a use that the archive is compacted.
    StoreAdmin(config).compact(0)
    assert [info.session_id for info in pages(admin, 3)] == NAMES[::-1]


@pytest.mark.parametrize("again", [False, True], ids=["for the first time", "once more"])
@pytest.mark.parametrize("limit", [1, 3])
def test_no_session_is_on_no_page_because_it_moves_to_disk(
    admin: Any, config: CacheConfig, limit: int, again: bool
) -> None:
    names = [SessionKey("n", name) if number % 2 else name for number, name in enumerate(NAMES)]
    for name in names:
        cache = HybridConversationCache(name, config)
        cache.add_message("user", "one")
        if again:
            cache.flush_to_disk()
            cache.get_context()
        time.sleep(0.003)
    page = admin.session_page(limit)
    found = [info.session_id for info in page.sessions]
    left = list(names)
    while page.cursor is not None:
        time.sleep(0.003)
        offload(config, [left.pop(0)] if left else [])
        page = admin.session_page(limit, page.cursor)
        found += [info.session_id for info in page.sessions]
    assert set(found) == set(names)
    assert again or found == names[::-1]


def test_a_change_of_a_session_on_disk_is_a_use(admin: Any, config: CacheConfig) -> None:
    use(config, NAMES)
    offload(config, NAMES)
    session = HybridConversationCache(NAMES[1], config)
    time.sleep(0.003)
    session.edit(session.get_messages()[0].id, content="another")
    offload(config, [NAMES[1]])
    time.sleep(0.003)
    assert [info.session_id for info in pages(admin, 3)] == [NAMES[1], *NAMES[:1:-1], NAMES[0]]


def test_sessions_of_one_moment_are_all_listed(
    admin: Any, config: CacheConfig, redis_server: RedisServer
) -> None:
    use(config, NAMES)
    store = HybridConversationCache("a", config)._store
    with redis_server.client(db=config.session_redis_db) as client:
        for bucket in range(store.hot.keys.buckets):
            key = store.hot.keys.active(bucket)
            for name in client.zrange(key, 0, -1):
                client.zadd(key, {name: 1_700_000_000_000})
    for limit in (1, 2, 3):
        assert sorted(info.session_id for info in pages(admin, limit)) == sorted(NAMES)


def test_what_is_no_page_is_refused(admin: Any) -> None:
    for limit in (0, -1, 1001, "3", 1.5):
        with pytest.raises(ConfigError):
            admin.session_page(limit)
    for cursor in ("", "x", "1", "1.5 s", 7, "99999999999999999999 s"):
        with pytest.raises(InvalidInput):
            admin.session_page(10, cursor)
