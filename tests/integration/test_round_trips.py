"""What an operation costs in round trips: counted by a proxy before a real server, exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lix_cache import HybridConversationCache
from lix_cache.config import CacheConfig
from lix_cache.session import changes
from tests.support import CountingProxy, RedisServer
from tests.support.lab import Process
from tests.support.twins import Twins

pytestmark = pytest.mark.promise("one-trip")


@pytest.fixture
def cache(twins: Twins, proxy_config: CacheConfig) -> Any:
    """A cache of a session that is in use: connected, and its scripts known to the server."""
    made = twins.make("HybridConversationCache", "s", proxy_config)
    warm_up(made)
    return made


def warm_up(cache: Any) -> None:
    cache.add_message("user", "first")
    cache.get_context()
    cache.get_full()


@pytest.fixture
def counted(proxy: CountingProxy) -> Callable[[Callable[[], Any]], list[list[str]]]:
    """Runs something and returns the commands of each of its round trips."""

    def run(action: Callable[[], Any]) -> list[list[str]]:
        proxy.reset()
        action()
        return proxy.batches

    return run


Counted = Callable[[Callable[[], Any]], list[list[str]]]


def test_an_add_is_one_round_trip(cache: Any, counted: Counted) -> None:
    for text in ("a", "b" * 50_000, ""):
        assert counted(lambda text=text: cache.add_message("user", text)) == [["EVALSHA"]]  # type: ignore[misc]


def test_a_batch_is_one_round_trip_with_keys_and_without(cache: Any, counted: Counted) -> None:
    texts = [{"role": "user", "content": f"m{i}"} for i in range(12)]
    keys = [f"k{i}" for i in range(12)]
    assert counted(lambda: cache.add_messages(texts)) == [["EVALSHA"]]
    # Nothing is known of keys yet: it is refused, looked for in both tiers, and added.
    cache.add_messages(texts[:1], keys=["first"])
    assert counted(lambda: cache.add_messages(texts, keys=keys)) == [["EVALSHA"]]
    assert counted(lambda: cache.add_messages(texts, keys=keys)) == [["EVALSHA"]]


def test_the_first_keys_of_a_session_cost_two_more(cache: Any, counted: Counted) -> None:
    # So that the server knows the scripts.
    cache.add_messages([{"role": "user", "content": "a"}], keys=["a"])
    cache.delete_session()
    trips = counted(lambda: cache.add_messages([{"role": "user", "content": "b"}], keys=["b"]))
    assert trips == [["EVALSHA"]] * 3


def test_a_change_of_a_message_in_redis_is_two_round_trips(cache: Any, counted: Counted) -> None:
    added = cache.add_messages([{"role": "user", "content": f"m{i}"} for i in range(8)])
    cache.pop_last()
    assert counted(cache.pop_last) == [["EVALSHA"], ["EVALSHA"]]
    assert counted(lambda: cache.delete_message(added.ids[2])) == [["EVALSHA"], ["EVALSHA"]]
    assert counted(cache.get_context) == [["EVALSHA"]]
    assert counted(lambda: cache.add_message("user", "next")) == [["EVALSHA"]]
    assert counted(cache.get_revision) == [["EVALSHA"]]


def test_others_see_that_the_last_message_was_taken_off_in_one_round_trip(
    cache: Any, counted: Counted, proxy_config: CacheConfig
) -> None:
    # Another process, whose memory of the session is its own.
    other = Process(proxy_config)
    for text in ("one", "two", "three"):
        cache.add_message("user", text)
    cache.get_context()
    other.drive(changes.pop_last(other.session))
    # The server learns the script.
    cache.get_context()
    other.drive(changes.pop_last(other.session))
    # Once it asks whether Redis went back; from then on it knows.
    assert counted(cache.get_context) == [["EVALSHA"], ["EVALSHA"]]
    assert counted(cache.get_context) == [["EVALSHA"]]
    assert cache.get_stats()["counters"].get("rolled_back", 0) == 0


def test_pages_of_the_history_are_one_round_trip(cache: Any, counted: Counted) -> None:
    added = cache.add_messages([{"role": "user", "content": f"m{i}"} for i in range(30)])
    for action in (
        lambda: cache.get_last(3),
        lambda: cache.get_last(300),
        lambda: cache.get_messages(5, before=added.ids[20]),
        lambda: cache.get_messages(5, after=added.ids[20]),
    ):
        assert counted(action) == [["EVALSHA"]]


def test_a_look_at_the_context_is_one_round_trip(cache: Any, counted: Counted) -> None:
    for _ in range(30):
        cache.add_message("user", "x")
    assert counted(cache.get_context) == [["EVALSHA"]]
    assert counted(cache.get_formatted_context) == [["EVALSHA"]]
    assert counted(lambda: cache.smart_context("x")) == [["EVALSHA"]]


def test_a_context_shorter_than_the_window_is_one_round_trip_too(cache: Any, counted: Counted) -> None:
    assert counted(cache.get_context) == [["EVALSHA"]]
    cache.flush_to_disk()
    cache.add_message("user", "x")
    assert counted(cache.get_context) == [["EVALSHA"]]


def test_the_whole_history_is_one_round_trip(cache: Any, counted: Counted) -> None:
    for _ in range(45):
        cache.add_message("user", "x")
    assert counted(cache.get_full) == [["EVALSHA"]]
    cache.evictor.run_once()
    assert counted(cache.get_full) == [["EVALSHA"]]
    cache.flush_to_disk()
    assert counted(cache.get_full) == [["EVALSHA"]]


def test_the_stats_are_one_round_trip(cache: Any, counted: Counted) -> None:
    assert counted(cache.get_stats) == [["XLEN"]]


def test_message_20000_costs_what_message_20_did(
    twins: Twins, proxy_config: CacheConfig, redis_config: CacheConfig, counted: Counted
) -> None:
    """Most of a long session is on disk: its length adds no cost."""
    config = proxy_config.replace(archive_codec="stored")
    direct = HybridConversationCache("s", redis_config.replace(archive_codec="stored"))
    for start in range(0, 20_000, 1000):
        old = [{"role": "user", "content": f"old {i}"} for i in range(start, start + 1000)]
        direct.archive.append_turns("s", old)
    cache = twins.make("HybridConversationCache", "s", config)
    warm_up(cache)
    assert len(cache.get_full()) > 20_000
    assert counted(lambda: cache.add_message("user", "x")) == [["EVALSHA"]]
    assert counted(cache.get_context) == [["EVALSHA"]]
    assert counted(cache.get_full) == [["EVALSHA"]]


def test_a_long_window_that_is_not_moved_costs_no_more(cache: Any, counted: Counted) -> None:
    """Without a daemon the add that finds its window four batches too long moves it, and only that one."""
    size, batch = cache.hot_window_size, 10
    trips = [len(counted(lambda: cache.add_message("user", "x"))) for _ in range(2 * size + 4 * batch)]
    late = size + 4 * batch - 2
    assert trips[:late] == [1] * late
    # Look, and forget what is archived.
    assert trips[late] == 3
    assert set(trips[late + 1 :]) <= {1, 3}
    assert trips.count(3) <= len(trips) // (4 * batch) + 1


def test_durability_on_disk_costs_no_round_trip(
    twins: Twins, proxy_config: CacheConfig, counted: Counted
) -> None:
    cache = twins.make("HybridConversationCache", "s", proxy_config.replace(durability="disk"))
    warm_up(cache)
    assert counted(lambda: cache.add_message("user", "x")) == [["EVALSHA"]]


# -- first uses: what docs/redis-layout.md promises ------------------------------------------


def test_the_first_look_at_a_cold_session_is_two_round_trips(cache: Any, counted: Counted) -> None:
    cache.flush_to_disk()
    cache.get_context()
    cache.flush_to_disk()
    assert counted(cache.get_context) == [["EVALSHA"], ["EVALSHA"]]
    assert counted(cache.get_context) == [["EVALSHA"]]


def test_the_first_add_to_a_cold_session_is_one_round_trip(
    twins: Twins, proxy_config: CacheConfig, cache: Any, counted: Counted
) -> None:
    cache.flush_to_disk()
    fresh = twins.make("HybridConversationCache", "s", proxy_config)
    assert counted(lambda: fresh.add_message("user", "x")) == [["EVALSHA"]]


def test_the_first_add_after_redis_lost_its_memory_is_two_round_trips(
    cache: Any, proxy_config: CacheConfig, redis_server: RedisServer, counted: Counted
) -> None:
    cache.flush_to_disk()
    with redis_server.client(db=proxy_config.session_redis_db) as client:
        client.delete(f"{proxy_config.redis_key_prefix}:{{0}}:high")
    assert counted(lambda: cache.add_message("user", "x")) == [["EVALSHA"], ["EVALSHA"]]
    assert counted(lambda: cache.add_message("user", "x")) == [["EVALSHA"]]


def test_the_first_add_ever_is_one_round_trip(
    twins: Twins, proxy_config: CacheConfig, cache: Any, counted: Counted
) -> None:
    fresh = twins.make("HybridConversationCache", "another", proxy_config)
    assert counted(lambda: fresh.add_message("user", "x")) == [["EVALSHA"]]


def test_a_script_that_the_server_has_forgotten_is_sent_once_more(
    cache: Any, redis_server: RedisServer, counted: Counted
) -> None:
    with redis_server.client() as client:
        client.script_flush()
    assert counted(cache.get_context) == [["EVALSHA"], ["EVAL"]]
    assert counted(cache.get_context) == [["EVALSHA"]]


def test_a_read_on_a_connection_that_broke_is_repeated_once(
    cache: Any, proxy: CountingProxy, counted: Counted
) -> None:
    for when in ("before", "after"):
        proxy.cut(1, when)  # type: ignore[arg-type]
        commands = [name for trip in counted(cache.get_context) for name in trip]
        # Between the two: is what this process added last still there?
        assert commands.count("EVALSHA") == 3


def test_an_add_on_a_connection_that_broke_is_settled_in_two_or_three_more(
    cache: Any, proxy: CountingProxy, counted: Counted
) -> None:
    proxy.cut(1, "after")
    # The answer was lost: found in the window.
    commands = [name for trip in counted(lambda: cache.add_message("user", "x")) for name in trip]
    assert commands.count("EVALSHA") == 2
    proxy.cut(1, "before")
    # The request was lost: looked for, and sent again.
    commands = [name for trip in counted(lambda: cache.add_message("user", "y")) for name in trip]
    assert commands.count("EVALSHA") == 3
    assert [m["content"] for m in cache.get_full()] == ["first", "x", "y"]


# -- the daemon's --------------------------------------------------------------------------


def test_moving_many_sessions_shares_its_round_trips(
    twins: Twins, proxy_config: CacheConfig, cache: Any, counted: Counted
) -> None:
    idle = twins.make("HybridConversationCache", "s", proxy_config.replace(evict_after_minutes=0.0))
    idle.evictor.run_once()
    for i in range(32):
        twins.make("HybridConversationCache", f"s{i}", proxy_config).add_message("user", "x")
    # The layout; overflow; who is idle; lease and list; 32 reads in one; 32 trims in one; the list was full,
    # so again. Then it tells that it was here.
    one = ["EVALSHA"]
    moving = [one, one * 2, one * 32, one * 32, one * 2, one]
    assert counted(idle.evictor.run_once) == [["GET", "GET"], ["HRANDFIELD"], *moving]


def test_a_deletion_costs_the_same_however_long_the_session_is(cache: Any, counted: Counted) -> None:
    cache.delete_session()
    for _ in range(30):
        cache.add_message("user", "x")
    # Look how far the window goes, drop it, look for what the old package left.
    assert counted(cache.delete_session) == [["EVALSHA"], ["EVALSHA"], ["LRANGE"]]
    assert counted(cache.delete_session) == [["EVALSHA"], ["LRANGE"]]
