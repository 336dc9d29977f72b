"""Sessions that lix-open-cache 0.1.0 left in Redis are there after the change of import, once.

The old package runs for real, on the same server and in the same folder.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lix_cache import HybridConversationCache, StoreAdmin
from lix_cache.config import CacheConfig
from lix_cache.effects import Effect, RedisCall
from lix_cache.errors import ArchiveUnavailable, RedisCommandError
from lix_cache.hot.connections import NewConnection
from lix_cache.session import old_sessions, reconcile
from lix_cache.session import read as read_flow
from lix_cache.session import rounds as rounds_flow
from lix_cache.session.evictor import Evictor
from tests.integration.test_cli import run_cli
from tests.support import CountingProxy, RedisServer
from tests.support.forks import Child, Report
from tests.support.lab import Process
from tests.support.sessions import said
from tests.support.twins import Twins

pytestmark = [
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
    pytest.mark.promise("no-loss"),
]

OLD = "lix_open_cache"


class Ticking:
    """The old package's clock: each look is a millisecond and a few microseconds later."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.000_123

    def time(self) -> float:
        self.now += 0.001_001
        return self.now


@pytest.fixture
def old_clock() -> Ticking:
    return Ticking()


@pytest.fixture
def old(old_clock: Ticking, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The old package, kept quiet and without its eviction thread, which cannot be stopped."""
    package = pytest.importorskip(OLD, reason="lix-open-cache is not installed")
    from loguru import logger

    logger.disable(OLD)
    module = sys.modules[f"{OLD}.hybrid_cache"]
    monkeypatch.setattr(module, "_eviction_thread_started", True)
    monkeypatch.setattr(module, "time", types.SimpleNamespace(time=lambda: old_clock.time()))
    return package


@pytest.fixture
def config(redis_config: CacheConfig) -> CacheConfig:
    return redis_config.replace(hot_window_size=20, archive_batch_turns=5)


@pytest.fixture
def open_old(old: Any, config: CacheConfig) -> Callable[..., Any]:
    """Makes caches of the old package, in the same store."""
    settings = old.CacheConfig(
        redis_host="127.0.0.1",
        redis_port=config.redis_port,
        redis_key_prefix=config.redis_key_prefix,
        archive_dir=str(config.archive_dir),
    )

    def make(session_id: str = "s", **changes: Any) -> Any:
        return old.HybridConversationCache(session_id, config=settings, **changes)

    return make


@pytest.fixture
def open_new(twins: Twins, config: CacheConfig) -> Callable[..., Any]:
    def make(session_id: str = "s", **changes: Any) -> Any:
        return twins.make("HybridConversationCache", session_id, config.replace(**changes))

    return make


@pytest.fixture
def old_keys(redis_server: RedisServer, config: CacheConfig) -> Callable[[], list[bytes]]:
    """Lists what is left of the old package's keys."""

    def look() -> list[bytes]:
        with redis_server.client(db=config.session_redis_db) as client:
            return sorted(client.keys(f"{config.redis_key_prefix}:session_*"))

    return look


@pytest.fixture
def client(redis_server: RedisServer, config: CacheConfig) -> Iterator[Any]:
    with redis_server.client(db=config.session_redis_db) as made:
        yield made


def say(cache: Any, *texts: Any) -> None:
    for text in texts:
        cache.add_message("user", text)


def numbered(count: int, name: str = "m") -> list[str]:
    return [f"{name}{i}" for i in range(count)]


FIRST_TOUCHES: dict[str, Callable[[Any], list[Any]]] = {
    "get_context": lambda cache: said(cache.get_context()),
    "get_full": lambda cache: said(cache.get_full()),
    "smart_context": lambda cache: said(cache.smart_context("x", recent_k=20)["recent"]),
    "formatted": lambda cache: [line[6:] for line in cache.get_formatted_context().split("\n")],
}


# -- seen, whatever comes first --------------------------------------------------------------


@pytest.mark.parametrize("touch", FIRST_TOUCHES)
def test_an_old_live_session_is_seen_by_the_first_read(
    open_old: Callable[..., Any],
    open_new: Callable[..., Any],
    old_keys: Callable[[], list[bytes]],
    touch: str,
) -> None:
    texts = numbered(12)
    say(open_old(), *texts)
    cache = open_new()
    assert FIRST_TOUCHES[touch](cache) == texts
    assert old_keys() == []
    assert said(cache.get_full()) == said(cache.get_context()) == texts
    assert said(open_new().get_full()) == texts


def test_an_add_to_an_old_live_session_goes_on_where_it_ended(
    open_old: Callable[..., Any], open_new: Callable[..., Any], old_keys: Callable[[], list[bytes]]
) -> None:
    texts = numbered(12)
    say(open_old(), *texts)
    cache = open_new()
    assert cache.add_message("user", "new") == 13
    assert said(cache.get_context()) == said(cache.get_full()) == [*texts, "new"]
    assert old_keys() == []
    cache.flush_to_disk()
    assert said(cache.get_full()) == said(open_new().get_context()) == [*texts, "new"]


@pytest.mark.parametrize("kind", ["SessionContextWindow", "CacheCoordinator"])
def test_it_is_seen_through_every_class(
    twins: Twins, open_old: Callable[..., Any], config: CacheConfig, kind: str
) -> None:
    texts = numbered(3)
    say(open_old(), *texts)
    cache = twins.make(kind, "s", config)
    read = cache.get_context if kind == "SessionContextWindow" else cache.get_context_messages
    assert said(read()) == texts


MESSAGES: list[tuple[str, Any, Any, Any]] = [
    ("user", "plain", None, None),
    ("assistant", "天気 🙂 and a lone \ud800", {"lang": "ja", "n": [1, 2.5, None]}, None),
    ("assistant", None, {"tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]}, None),
    ("tool", "12:00", {"tool_call_id": "c1"}, None),
    ("user", [{"type": "text", "text": "what is it?"}, {"type": "image_url"}], {}, [0.1, 0.2, 0.3]),
    ("user", {"any": "json"}, None, None),
    ("user", "", None, None),
    ("user", 10**40, {"nan": "no"}, [1.0, 0.0, 0.5]),
]


def test_roles_contents_metadata_embeddings_and_times_are_kept(
    open_old: Callable[..., Any], open_new: Callable[..., Any]
) -> None:
    before = open_old()
    for role, content, metadata, embedding in MESSAGES:
        before.add_message(role, content, metadata, embedding)
    expected = before.get_context()
    assert len(expected) == len(MESSAGES)

    def plain(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v if k != "embedding" else list(v) for k, v in m.items()} for m in messages]

    cache = open_new()
    assert plain(cache.get_context()) == expected
    assert plain(cache.get_full()) == expected
    cache.flush_to_disk()
    assert plain(open_new().get_context()) == expected


def test_what_the_old_package_had_in_both_places_comes_back_once(
    open_old: Callable[..., Any], open_new: Callable[..., Any]
) -> None:
    before = open_old()
    for i in range(31):
        before.add_message("user", f"m{i}", {"i": i}, [float(i), 0.1])
    # Eleven are in its archive. This writes the other twenty there as well, and leaves them in Redis.
    assert len(before.get_full()) == 31
    cache = open_new()
    assert said(cache.get_full()) == numbered(31)
    assert said(cache.get_context()) == numbered(31)[-20:]
    assert cache.get_stats()["disk_turns"] == 31


def test_a_session_that_the_old_package_brought_back_from_disk_comes_back_once(
    open_old: Callable[..., Any], open_new: Callable[..., Any]
) -> None:
    before = open_old()
    say(before, *numbered(25))
    before.archive.append_turns("s", before.get_context())
    before.clear()
    assert len(before.get_context()) == 25
    cache = open_new()
    say(cache, "new")
    assert said(cache.get_full()) == [*numbered(25), "new"]


def lose_one(before: Any, old_clock: Ticking) -> None:
    """Say three things, the last two in one millisecond: the old package keeps the later one."""
    say(before, "first")
    old_clock.time()
    old_clock.time = lambda: old_clock.now  # type: ignore[method-assign]
    say(before, "lost", "second")


def test_messages_of_one_millisecond_come_back_as_far_as_they_are_there(
    open_old: Callable[..., Any], open_new: Callable[..., Any], old_clock: Ticking, old: Any
) -> None:
    before = open_old()
    lose_one(before, old_clock)
    # The old package itself shows the survivor twice.
    assert said(before.get_context()) == ["first", "second", "second"]
    cache = open_new()
    assert said(cache.get_context()) == said(cache.get_full()) == ["first", "second"]


def test_a_dry_run_says_at_most_how_many_messages_move(
    open_old: Callable[..., Any], config: CacheConfig, old_clock: Ticking
) -> None:
    lose_one(open_old(), old_clock)
    admin = StoreAdmin(config)
    assert (admin.migrate(dry_run=True).messages, admin.migrate().messages) == (3, 2)


def test_the_order_is_that_of_the_old_list_where_a_clock_went_back(
    open_old: Callable[..., Any], open_new: Callable[..., Any], old_clock: Ticking
) -> None:
    before = open_old()
    for text in numbered(6):
        say(before, text)
        old_clock.now -= 40
    times = [message["timestamp"] for message in before.get_context()]
    assert times == sorted(times, reverse=True)
    cache = open_new()
    say(cache, "new")
    assert said(cache.get_full()) == said(cache.get_context()) == [*numbered(6), "new"]
    assert [message["timestamp"] for message in cache.get_full()][:6] == times


def test_old_messages_from_a_clock_that_was_ahead_stay_before_new_ones(
    open_old: Callable[..., Any], open_new: Callable[..., Any], old_clock: Ticking
) -> None:
    old_clock.now = 4_000_000_000.0
    say(open_old(), *numbered(3))
    cache = open_new()
    say(cache, "n1", "n2")
    assert said(cache.get_full()) == said(cache.get_context()) == [*numbered(3), "n1", "n2"]


SESSIONS = ["a:b", "a:b:1", "1", "glob*?[a-z]", "ünï 漢字", "{0}:win:s", "line\nbreak", "x" * 3000, "a b"]


@pytest.mark.promise("isolation")
def test_no_session_takes_the_messages_of_another(
    open_old: Callable[..., Any], open_new: Callable[..., Any], old_keys: Callable[[], list[bytes]]
) -> None:
    # Where the old package can have an archive file of that name; the others live in Redis alone.
    for session in SESSIONS:
        say(open_old(session), f"of {session[:9]}", "more")
    for session in SESSIONS:
        assert said(open_new(session).get_full()) == [f"of {session[:9]}", "more"]
    assert old_keys() == []


def test_a_long_old_session_moves_in_pieces(
    open_old: Callable[..., Any], open_new: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_sessions, "CHUNK", 7)
    texts = numbered(45)
    say(open_old(hot_window_size=100), *texts)
    cache = open_new()
    assert said(cache.get_context()) == texts[-20:]
    assert said(cache.get_full()) == texts


# -- old processes that go on ----------------------------------------------------------------


def test_what_an_old_process_adds_later_is_found_by_the_next_read_or_add(
    open_old: Callable[..., Any], open_new: Callable[..., Any]
) -> None:
    before, cache = open_old(), open_new()
    before_clock_is_now(before)
    said_so_far: list[str] = []
    for i in range(12):
        text = f"m{i}"
        say((before, cache)[i % 2 if i < 8 else i % 3 == 0], text)
        said_so_far.append(text)
        if i % 4 == 1:
            assert said(cache.get_context()) == said_so_far
        if i % 4 == 3:
            assert said(cache.get_full()) == said_so_far
    for i in range(12, 40):
        text = f"m{i}"
        say(cache if i % 5 else before, text)
        said_so_far.append(text)
    # In a window that is full as well, and in the order of their times.
    assert said(cache.get_context()) == said_so_far[-20:]
    assert said(cache.get_full()) == said_so_far


def before_clock_is_now(before: Any) -> None:
    def now() -> float:
        time.sleep(0.0015)  # so that no two are of one millisecond
        try:
            return time.time()
        finally:
            time.sleep(0.0015)

    sys.modules[f"{OLD}.hybrid_cache"].time = types.SimpleNamespace(time=now)  # type: ignore[attr-defined]


def test_a_message_put_into_the_place_of_one_that_was_read_is_not_forgotten_with_it(
    open_old: Callable[..., Any], config: CacheConfig, old_clock: Ticking
) -> None:
    before = open_old()
    say(before, "one", "two")
    process = Process(config)
    running = reconcile.take_over(process.session)
    step: Effect = running.send(None)
    while not is_trim(step):
        step = process.step(running, step)
    # Of the same millisecond as the last: it takes its key.
    old_clock.now -= 0.001_001
    say(before, "three")
    finish(process, running, step)
    assert process.full() == ["one", "two", "three"]


def is_trim(step: Effect) -> bool:
    return (
        isinstance(step, RedisCall)
        and hasattr(step.command, "script")
        and "sha1hex" in step.command.script.source
    )


def finish(process: Process, running: Any, step: Effect) -> Any:
    try:
        while True:
            step = process.step(running, step)
    except StopIteration as stop:
        return stop.value


# -- stopped anywhere ------------------------------------------------------------------------


class Crash(BaseException):
    """The process is stopped here."""


@pytest.mark.sampled(5)
@pytest.mark.parametrize("touch", ["add", "context", "full"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("situation", ["hot", "with archive", "with a window"])
def test_a_move_that_is_stopped_at_any_step_loses_and_doubles_nothing(
    open_old: Callable[..., Any],
    config: CacheConfig,
    monkeypatch: pytest.MonkeyPatch,
    touch: str,
    after: bool,
    situation: str,
) -> None:
    monkeypatch.setattr(old_sessions, "CHUNK", 3)
    for stop in range(60):
        session = f"{situation}-{stop}"
        expected = []
        if situation == "with a window":
            process = Process(config, session)
            process.add("w")
            expected.append("w")
        # Where it has an archive: two messages there alone, and the others in both places.
        before = open_old(session, hot_window_size=4 if situation == "with archive" else 20)
        texts = numbered(6)
        say(before, *texts)
        if situation == "with archive":
            before.get_full()
        expected = [*texts, *expected]
        if not stopped(Process(config, session), touch, stop, after):
            break
        found = Process(config, session).full()
        assert [text for text in found if text != "new"] == expected, stop
        assert found.count("new") <= 1
        assert Process(config, session).context() == found[-20:]
    assert stop > 8


def stopped(process: Process, touch: str, stop: int, after: bool) -> bool:
    running: Any = {
        "add": lambda: process.adding("new"),
        "context": lambda: read_flow.get_context(process.session),
        "full": lambda: read_flow.get_full(process.session),
    }[touch]()
    step = running.send(None)
    try:
        for _ in range(stop):
            step = process.step(running, step)
    except StopIteration:
        return False
    if after:
        with contextlib.suppress(NewConnection):
            process.drive._perform(step)
    with pytest.raises(Crash):
        running.throw(Crash())
    return True


def read_at(config: CacheConfig, session: str, moment: float, report: Report) -> None:
    cache = HybridConversationCache(session, config)
    while time.time() < moment:
        pass
    for _ in range(2):
        assert said(cache.get_full()) == numbered(20)


def test_processes_that_meet_an_old_session_at_once_move_it_once(
    open_old: Callable[..., Any], config: CacheConfig
) -> None:
    for round_number in range(4):
        session = f"s{round_number}"
        say(open_old(session), *numbered(20))
        work = partial(read_at, config, session, time.time() + 0.1)
        with ExitStack() as stack:
            children = [stack.enter_context(Child(work)) for _ in range(3)]
            assert [child.wait() for child in children] == [0, 0, 0]
        assert Process(config, session).archived() == numbered(20)


def test_threads_that_add_to_an_old_session_at_once_lose_nothing(
    open_old: Callable[..., Any], open_new: Callable[..., Any], twins: Twins, config: CacheConfig
) -> None:
    if twins.variant == "async":
        pytest.skip("one loop belongs to one thread")
    say(open_old(), *numbered(20))
    caches = [open_new() for _ in range(4)]
    threads = [
        threading.Thread(target=say, args=(cache, f"t{i}a", f"t{i}b")) for i, cache in enumerate(caches)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = said(open_new().get_full())
    assert found[:20] == numbered(20)
    assert sorted(found[20:]) == sorted(f"t{i}{x}" for i in range(4) for x in "ab")


# -- trouble ---------------------------------------------------------------------------------


@pytest.mark.promise("no-false-empty")
def test_where_the_disk_refuses_a_read_is_an_error_and_an_add_is_stored(
    open_old: Callable[..., Any], config: CacheConfig, tmp_path: Path, twins: Twins
) -> None:
    say(open_old(), *numbered(5))
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    cache = twins.make("HybridConversationCache", "s", config.replace(archive_dir=blocked))
    for read in (cache.get_context, cache.get_full, lambda: cache.smart_context("m1")):
        with pytest.raises(ArchiveUnavailable):
            read()
    fine = twins.make("HybridConversationCache", "s", config)
    assert said(fine.get_full()) == numbered(5)


def test_what_is_no_message_is_passed_over_and_stays_where_it_is(
    open_old: Callable[..., Any], open_new: Callable[..., Any], client: Any, config: CacheConfig
) -> None:
    say(open_old(), "one", "two", "three")
    numbers = client.lrange(f"{config.redis_key_prefix}:session_order:s", 0, -1)
    broken = f"{config.redis_key_prefix}:session_context:s:{numbers[1].decode()}"
    client.set(broken, b"\xff no JSON")
    cache = open_new()
    assert said(cache.get_context()) == said(cache.get_full()) == ["one", "three"]
    assert client.get(broken) == b"\xff no JSON"
    assert cache.get_stats()["counters"]["old_unreadable"] == 1


def test_old_messages_whose_life_has_ended_are_no_obstacle(
    open_old: Callable[..., Any], open_new: Callable[..., Any], client: Any, config: CacheConfig
) -> None:
    say(open_old(), *numbered(6))
    for number in client.lrange(f"{config.redis_key_prefix}:session_order:s", 3, -1):
        client.delete(f"{config.redis_key_prefix}:session_context:s:{number.decode()}")
    assert said(open_new().get_full()) == numbered(6)[3:]


@pytest.mark.promise("no-false-empty")
def test_a_key_of_another_kind_under_the_old_name_is_an_error(
    open_new: Callable[..., Any], client: Any, config: CacheConfig
) -> None:
    client.set(f"{config.redis_key_prefix}:session_order:s", "not a list")
    cache = open_new()
    for read in (cache.get_context, cache.get_full):
        with pytest.raises(RedisCommandError):
            read()
    assert cache.add_message("user", "kept all the same") == 1
    client.delete(f"{config.redis_key_prefix}:session_order:s")
    assert said(cache.get_full()) == ["kept all the same"]


@pytest.mark.promise("isolation")
def test_a_user_who_may_not_read_the_old_keys_works_without_them(
    redis_server: RedisServer, twins: Twins, config: CacheConfig, client: Any
) -> None:
    name = f"u{config.redis_key_prefix}"
    client.acl_setuser(
        name,
        enabled=True,
        passwords=["+secret"],
        keys=[f"{config.redis_key_prefix}:{{*"],
        categories=["+@all"],
    )
    try:
        cache = twins.make(
            "HybridConversationCache",
            "s",
            config.replace(redis_username=name, redis_password="secret", redis_port=redis_server.port),
        )
        say(cache, "a")
        assert said(cache.get_context()) == said(cache.get_full()) == ["a"]
    finally:
        client.acl_deluser(name)


def test_a_flush_and_an_offload_by_name_reach_it_too(
    open_old: Callable[..., Any],
    open_new: Callable[..., Any],
    config: CacheConfig,
    old_keys: Callable[[], list[bytes]],
) -> None:
    for session in ("a", "b"):
        say(open_old(session), *numbered(4))
    cache = open_new("a")
    assert cache.flush_to_disk() is True
    assert cache.get_stats()["disk_turns"] == 4
    assert StoreAdmin(config).offload(session_ids=["b"]).messages == 4
    assert old_keys() == []
    assert said(cache.get_context()) == said(open_new("b").get_full()) == numbered(4)


def test_looking_at_a_session_changes_nothing(
    open_old: Callable[..., Any], open_new: Callable[..., Any], config: CacheConfig, client: Any, twins: Twins
) -> None:
    both = open_old("both")
    say(both, *numbered(30))
    both.flush_to_disk()  # which leaves them in Redis as well
    say(both, *numbered(3, "late"))
    say(open_old("left"), *numbered(4))
    mixed = open_new("mixed")
    say(mixed, *numbered(3))
    mixed.flush_to_disk()
    say(mixed, "hot")

    def state() -> tuple[Any, ...]:
        keys = sorted(client.keys(f"{config.redis_key_prefix}*"))
        files = {
            path.name: path.read_bytes() for path in Path(config.archive_dir).iterdir() if path.is_file()
        }
        return [(key, client.dump(key)) for key in keys], files

    before = state()
    admin = twins.make("StoreAdmin", config)
    looked = {name: admin.messages(name) for name in ("both", "left", "mixed", "none")}
    for command in (["show", "both"], ["show", "left", "--recent", "2"], ["export"]):
        assert run_cli(config, *command).code == 0
    assert state() == before
    assert said(looked["left"]) == numbered(4)
    assert said(looked["mixed"]) == [*numbered(3), "hot"]
    assert looked["none"] == []
    for name, found in looked.items():
        if name != "none":
            assert found == open_new(name).get_full()


def test_clearing_and_deleting_reach_what_the_old_package_left(
    open_old: Callable[..., Any], open_new: Callable[..., Any], old_keys: Callable[[], list[bytes]]
) -> None:
    say(open_old(), *numbered(4))
    cache = open_new()
    cache.clear()
    assert cache.get_context() == []
    assert old_keys() == []
    say(cache, "new")
    assert said(cache.get_context()) == ["new"]
    say(open_old("d"), *numbered(4))
    assert open_new("d").delete_session() is True
    assert open_new("d").get_full() == []
    assert old_keys() == []


# -- the price -------------------------------------------------------------------------------


@pytest.mark.promise("one-trip")
def test_after_the_move_every_operation_is_one_round_trip_again(
    open_old: Callable[..., Any], twins: Twins, proxy: CountingProxy, config: CacheConfig
) -> None:
    say(open_old(), *numbered(12))
    cache = twins.make("HybridConversationCache", "s", config.replace(redis_port=proxy.port))
    say(cache, "new")
    for action in (
        cache.get_context,
        cache.get_full,
        lambda: cache.smart_context("x"),
        lambda: cache.add_message("user", "x"),
    ):
        action()
        proxy.reset()
        action()
        assert proxy.batches == [["EVALSHA"]]


# -- all of them -----------------------------------------------------------------------------


def test_the_admin_moves_every_session_once_and_says_how_many(
    open_old: Callable[..., Any],
    open_new: Callable[..., Any],
    config: CacheConfig,
    old_keys: Callable[[], list[bytes]],
) -> None:
    for number in range(30):
        say(open_old(f"s{number}"), *numbered(number % 4 + 1))
    admin = StoreAdmin(config)
    seen: list[tuple[int, int]] = []
    would_be = admin.migrate(dry_run=True)
    assert (would_be.sessions, would_be.messages) == (30, sum(n % 4 + 1 for n in range(30)))
    assert len(old_keys()) == 30 + would_be.messages
    done = admin.migrate(on_progress=lambda *numbers: seen.append(numbers))
    assert (done.sessions, done.messages, done.failed) == (30, would_be.messages, {})
    assert seen[0] == (0, 30)
    assert seen[-1] == (30, 30)
    assert old_keys() == []
    again = admin.migrate()
    assert (again.sessions, again.messages) == (0, 0)
    for number in range(30):
        assert said(open_new(f"s{number}").get_context()) == numbered(number % 4 + 1)


@pytest.mark.promise("no-false-empty")
def test_the_admin_lists_and_finds_what_has_not_moved_yet(
    open_old: Callable[..., Any], open_new: Callable[..., Any], config: CacheConfig, old_clock: Ticking
) -> None:
    say(open_new("ours"), "a")
    say(open_new("both"), "b")
    say(open_old("both"), "c")
    say(open_old("theirs"), *numbered(3))
    admin = StoreAdmin(config)
    assert admin.session_ids() == ["both", "ours", "theirs"]
    found = {info.session_id: info.hot_messages for info in admin.sessions()}
    assert found == {"ours": 1, "both": 2, "theirs": 3}
    theirs = admin.session("theirs")
    assert theirs is not None
    assert (theirs.hot_messages, theirs.cold_messages) == (3, 0)
    assert theirs.last_use == pytest.approx(old_clock.now, abs=0.01)
    assert admin.session("nobody's") is None
    # Looking was no use of them.
    assert admin.migrate().sessions == 2
    assert {info.session_id: info.cold_messages for info in admin.sessions()}["theirs"] == 3


def test_the_admin_leaves_other_stores_alone_and_says_what_it_cannot_move(
    open_old: Callable[..., Any], config: CacheConfig, client: Any, redis_server: RedisServer
) -> None:
    say(open_old("fine"), "a")
    prefix = config.redis_key_prefix
    client.lpush(f"{prefix}:session_order:", b"1")
    client.lpush(f"{prefix}2:session_order:other", b"1")
    client.lpush(f"{prefix}:session_order:\udcff".encode("utf-8", "surrogateescape"), b"1")
    done = StoreAdmin(config).migrate()
    assert (done.sessions, done.messages) == (1, 1)
    assert len(done.failed) == 2
    assert client.exists(f"{prefix}2:session_order:other")
    client.delete(f"{prefix}2:session_order:other")


def test_json_of_the_old_package_is_read_as_it_wrote_it(
    open_old: Callable[..., Any], open_new: Callable[..., Any], client: Any, config: CacheConfig
) -> None:
    before = open_old()
    before.add_message("user", "x", {"not a number": float("nan"), "deep": json.loads("[" * 60 + "]" * 60)})
    (message,) = open_new().get_full()
    assert (message["content"], message["metadata"]["not a number"]) == ("x", "NaN")


# -- sessions that are not used ---------------------------------------------------------------


def test_the_daemon_moves_an_old_session_before_its_life_ends(
    open_old: Callable[..., Any], client: Any, config: CacheConfig, old_keys: Callable[[], list[bytes]]
) -> None:
    for name in ("ending", "young", "*[a-z]?"):
        say(open_old(name), "first", "second")
    for name in ("ending", "*[a-z]?"):
        client.pexpire(f"{config.redis_key_prefix}:session_order:{name}", 3_600_000)
    process = Process(config)
    daemon = Evictor(process.store)
    daemon.run_once()
    for name in ("ending", "*[a-z]?"):
        assert [turn.body["content"] for turn in process.archive.turns(name)] == ["first", "second"]
        assert said(HybridConversationCache(name, config).get_full()) == ["first", "second"]
    # A process of the old package that still runs may use this one.
    assert not process.archive.exists("young")
    assert any(b":young" in key for key in old_keys())
    assert daemon._old == old_sessions.Pass(None, 3)
    # Nothing is left to look for when a whole look met none.
    client.delete(*old_keys())
    for _ in range(2):
        daemon._last_clean_up -= 4000
        daemon.run_once()
    assert daemon._old == old_sessions.Pass(None, 0)


def test_one_round_of_the_daemon_looks_at_a_bounded_number_of_keys(client: Any, config: CacheConfig) -> None:
    with client.pipeline() as pipe:
        for number in range(30_000):
            pipe.set(f"other:{number}", "")
        pipe.execute()
    try:
        process = Process(config)
        sent: list[Any] = []
        done = old_sessions.Pass()
        rounds = 0
        while done.cursor is not None:
            made = rounds_flow.rescue_old(process.store, done)
            step = next(made)
            sent.clear()
            try:
                while True:
                    sent.append(step)
                    step = made.send(process.drive(one_effect(step)))
            except StopIteration as end:
                done = end.value
            assert len(sent) <= old_sessions._STEPS
            rounds += 1
        assert rounds > 1
    finally:
        client.flushdb()


def one_effect(effect: Effect) -> Any:
    return (yield effect)


def test_a_user_who_may_not_scan_has_a_daemon_all_the_same(
    redis_server: RedisServer, client: Any, config: CacheConfig
) -> None:
    client.execute_command("ACL", "SETUSER", "narrow", "on", ">pw", "~*", "+@all", "-scan")
    try:
        daemon = Evictor(Process(config.replace(redis_username="narrow", redis_password="pw")).store)
        daemon.run_once()
        assert daemon._old.cursor is None
    finally:
        client.execute_command("ACL", "DELUSER", "narrow")


def test_a_disk_that_refuses_leaves_an_old_session_for_the_next_look(
    open_old: Callable[..., Any], client: Any, config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(open_old("ending"), "first")
    client.pexpire(f"{config.redis_key_prefix}:session_order:ending", 3_600_000)
    process = Process(config)
    with monkeypatch.context() as patch:

        def refuse(*_: Any, **__: Any) -> None:
            raise ArchiveUnavailable(28, "cannot write")

        patch.setattr(process.archive, "append_locked", refuse)
        process.drive(rounds_flow.rescue_old(process.store, old_sessions.Pass()))
    assert process.store.counters["old_session_failures"] == 1
    process.drive(rounds_flow.rescue_old(process.store, old_sessions.Pass()))
    assert [turn.body["content"] for turn in process.archive.turns("ending")] == ["first"]


def test_an_old_process_that_goes_on_is_said_and_counted(
    open_old: Callable[..., Any], config: CacheConfig
) -> None:
    old = open_old("s")
    say(old, "first")
    new = HybridConversationCache("s", config)
    assert said(new.get_full()) == ["first"]
    assert "old_writers" not in new._store.counters
    say(old, "second")
    assert said(new.get_full()) == ["first", "second"]
    assert new._store.counters["old_writers"] == 1
