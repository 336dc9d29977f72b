"""On a cluster: every script declares its keys, and no command has keys in two slots."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from redis.exceptions import ResponseError

from lix_cache import (
    DEFAULT_THRESHOLDS,
    CacheConfig,
    CacheCoordinator,
    HybridConversationCache,
    Reason,
    SemanticCache,
    SemanticCacheRedis,
    SessionKey,
    StoreAdmin,
    Thresholds,
    URLEmbeddingCache,
)
from lix_cache.effects import RedisCall
from lix_cache.hot import answers, flight_scripts, old_keys, scripts
from lix_cache.hot.scripts import Script
from lix_cache.messages.turn import MessageId
from lix_cache.session.evictor import Evictor
from tests.support import RedisServer
from tests.support.lab import Process
from tests.support.meaning import ANYTHING, Meanings, mix
from tests.support.monitor import Command, Monitor
from tests.support.semantic import apart, with_settings
from tests.support.sessions import batch, said
from tests.support.twins import Twins

SCRIPTS = {
    value.sha: value.name
    for module in (answers, flight_scripts, old_keys, scripts)
    for value in vars(module).values()
    if isinstance(value, Script)
}
#: An embedder whose thresholds are calibrated by what responses mean.
LEARNS = "all-MiniLM-L6-v2"
#: Only a server with vector sets runs these.
VECTOR_SETS = {"answers/lookup_large", "answers/nearest", "answers/fill"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    with RedisServer(cluster=True) as server:
        yield server


@pytest.fixture
def config(cluster: RedisServer, tmp_path: Path) -> CacheConfig:
    # A cluster has one database.
    return cluster.config(
        archive_dir=tmp_path,
        redis_key_prefix=tmp_path.name,
        redis_buckets=3,
        session_redis_db=0,
        semantic_redis_db=0,
        url_cache_redis_db=0,
        hot_window_size=4,
        archive_batch_turns=2,
        evictor_enabled=False,
    )


def use_sessions(config: CacheConfig) -> None:
    for name in ("a", "b", "c", SessionKey("acme", "a")):
        cache = HybridConversationCache(name, config)
        for i in range(12):
            cache.add_message("user", f"m{i}")
        cache.add_messages(batch("k1", "k2"), keys=["1", "2"])
        cache.add_messages(batch("k1", "k2"), keys=["1", "2"])
        found = cache.get_last(3)
        assert said(found) == ["m11", "k1", "k2"]
        cache.get_messages(limit=5, after=found[0].id)
        assert said([cache.pop_last()]) == ["k2"]
        assert cache.delete_message(found[0].id)
        cache.edit(found[1].id, "edited")
        assert said(cache.get_context())[-1] == "edited"
        cache.flush_to_disk()
        cache.get_context()
        assert len(cache.get_full()) == 12
        cache.smart_context("m3")
        cache.get_stats()
        cache.health_check()
    cache.replace_all(batch("x", "y"))
    cache.clear()
    HybridConversationCache("b", config).delete_session()


def use_what_is_rare(config: CacheConfig) -> None:
    """What answers to trouble alone: an add that is sent again, taken back, or went astray."""
    process = Process(config, "rare")
    turn = process.turn("once")
    process.add("first")
    hot = process.store.hot
    for command in (
        hot.find("rare", [turn.nonce or b""]),
        hot.take_back("rare", [MessageId(1, 1)]),
        hot.doubt_keys("rare"),
        hot.refuse("rare", {b"sixsix": MessageId(1, 1)}),
        hot.given("rare"),
    ):
        process.drive._perform(RedisCall(command))


def look_after(config: CacheConfig) -> None:
    Evictor(Process(config).store).run_once()
    admin = StoreAdmin(config)
    admin.stats()
    admin.sessions()
    admin.session_page(limit=2)
    admin.offload(0)
    admin.compact()
    admin.doctor()
    admin.delete_namespace("acme")
    admin.migrate()
    admin.migrate_buckets()


def use_answers(config: CacheConfig, name: str = LEARNS) -> None:
    table = {f"q{i}": mix(a=1, b=i / 100) for i in range(6)} | {"q4 again": mix(a=1, b=0.04)}
    settings = with_settings(
        guards=False,
        policy=ANYTHING,
        eviction="lru",
        sliding_seconds=60,
        max_entries=4,
        thresholds=DEFAULT_THRESHOLDS if name == LEARNS else Thresholds(threshold=0.9, margin=0.05),
    )
    first = SemanticCache(Meanings(table, name=name), config, context={"tenant": "acme"}, **settings)
    other = apart(SemanticCache(Meanings(table, name=name), config, context={"tenant": "acme"}, **settings))
    for i in range(6):
        first.store(
            f"q{i}", f"Choose a new password there, {i}." if name == LEARNS else "the answer", tags=["t"]
        )
    found = other.lookup("q5")
    assert found.reason == Reason.EXACT
    other.lookup("q1")
    other.lookup("q4 again")
    flight = first.begin("q9")
    flight.complete("nine")
    first.begin("another").fail()
    other.report_wrong(found.entry_id, "q5")
    first.cached()(lambda prompt: "made")("q7")
    for cache in (first, other):
        cache.settle()
        cache.get_stats()
        cache.health_check()
    first.invalidate(tags=["t"])
    first.cleanup_expired()
    first.invalidate(context={})
    if name == LEARNS:
        use_answers(config, "meanings-1")


def use_old_surface(config: CacheConfig) -> None:
    coordinator = CacheCoordinator("a", config)
    coordinator.cache_semantic_response("u", np.ones(4), {"answer": 1})
    assert coordinator.get_semantic_response("u", np.ones(4)) == {"answer": 1}
    coordinator.get_stats()
    coordinator.clear_session_cache()
    cache = SemanticCacheRedis("b", config)
    cache.set("u", np.ones(4), {"answer": 1})
    cache.clear_session()
    urls = URLEmbeddingCache("a", config)
    urls.batch_set({f"https://{i}": np.ones(4) for i in range(5)})
    urls.batch_get([f"https://{i}" for i in range(5)])
    urls.get("https://1")


USES: list[Callable[[CacheConfig], None]] = [
    use_sessions,
    use_what_is_rare,
    look_after,
    use_answers,
    use_old_surface,
]


def keys_of(server: RedisServer, words: list[bytes]) -> list[bytes]:
    with server.client() as client:
        try:
            return list(client.execute_command("COMMAND GETKEYS", *words))
        except ResponseError:
            return []  # it has none


def name_of(command: Command) -> str:
    word = command.words[1]
    return SCRIPTS.get(word.decode("latin-1")) or SCRIPTS[hashlib.sha1(word).hexdigest()]


def check(server: RedisServer, commands: list[Command]) -> set[str]:
    """Return the names of the scripts that ran."""
    ran = set()
    for command in commands:
        if not command.is_script:
            continue
        name = name_of(command)
        ran.add(name)
        declared = set(keys_of(server, command.words))
        for inside in command.inside:
            touched = set(keys_of(server, inside))
            assert touched <= declared, (name, inside[0], touched - declared)
    return ran


def test_every_script_touches_only_keys_that_it_declares_and_no_command_two_slots(
    cluster: RedisServer, config: CacheConfig
) -> None:
    with Monitor(cluster) as monitor:
        for use in USES:
            use(config)
    commands = monitor.commands
    assert check(cluster, commands) == set(SCRIPTS.values()) - VECTOR_SETS - {"old/read", "old/trim"}
    # What looks for the old package's list as well is refused, once for each process.
    with cluster.client() as client:
        client.config_resetstat()
        cache = HybridConversationCache("another", config)
        cache.add_message("user", "x")
        assert said(cache.get_context()) == said(cache.get_full()) == ["x"]
        assert client.info("errorstats").keys() <= {"errorstat_NOSCRIPT"}


def test_what_moves_sessions_of_the_old_package_declares_its_keys_as_well(
    redis_server: RedisServer, redis_config: CacheConfig
) -> None:
    prefix, db = redis_config.redis_key_prefix, redis_config.session_redis_db

    def leave(session: str) -> None:
        with redis_server.client(db=db) as client:
            for number in range(3):
                client.lpush(f"{prefix}:session_order:{session}", number)
                message = json.dumps({"role": "user", "content": f"m{number}"})
                client.set(f"{prefix}:session_context:{session}:{number}", message)

    with Monitor(redis_server) as monitor:
        for session, use in {
            "read": lambda cache: cache.get_context(),
            "add": lambda cache: cache.add_message("user", "x"),
            "keyed": lambda cache: cache.add_messages(batch("x"), keys=["1"]),
            "full": lambda cache: cache.get_full(),
            "gone": lambda cache: cache.delete_session(),
        }.items():
            leave(session)
            cache = HybridConversationCache(session, redis_config)
            use(cache)
            assert said(cache.get_full())[:3] == ([] if session == "gone" else ["m0", "m1", "m2"])
    assert {"old/read", "old/trim", "session/add"} <= check(redis_server, monitor.commands)


def test_a_user_who_may_not_use_the_old_keys_can_do_everything_else(
    redis_server: RedisServer, redis_config: CacheConfig, twins: Twins
) -> None:
    name = f"u{redis_config.redis_key_prefix}"
    with redis_server.client() as client:
        client.execute_command(
            "ACL SETUSER", name, "on", ">secret", f"~{redis_config.redis_key_prefix}:{{*", "+@all"
        )
        try:
            limited = redis_config.replace(redis_username=name, redis_password="secret")
            cache = twins.make("HybridConversationCache", "s", limited)
            cache.delete_session()
            cache.add_message("user", "a")
            cache.flush_to_disk()
            cache.edit(cache.get_last(1)[0].id, "b")
            assert said(cache.get_context()) == ["b"]
            cache.clear()
            assert cache.delete_session() is True
        finally:
            client.execute_command("ACL DELUSER", name)
