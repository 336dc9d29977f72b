"""Sessions of two namespaces share nothing, whatever they are called; in both variants."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lix_cache import (
    ArchiveCorrupt,
    ConversationArchive,
    HuffmanCodec,
    HybridConversationCache,
    InvalidSessionId,
    SemanticCache,
    SessionKey,
    StoreAdmin,
)
from lix_cache._log import logger
from lix_cache.archive.names import file_stem
from lix_cache.config import CacheConfig
from lix_cache.messages.session_key import stored_id
from tests.support import RedisServer
from tests.support.meaning import Meanings, mix
from tests.support.redis_server import nowhere
from tests.support.sessions import said
from tests.support.twins import Twins

pytestmark = pytest.mark.promise("isolation")

Session = str | SessionKey

#: Made to be taken for one another: by separators, by case, by escapes, as globs, as paths.
COLLIDING: list[Session] = [
    "a",
    "b",
    "a\x1fb",
    "\x1fa\x1fb",
    "\x1f\x1fa\x1fb",
    "\x1f",
    "\x1f\x1f",
    "%1Fa%1Fb",
    "%1fa%1fb",
    "a:b",
    "a/b",
    SessionKey("a", "b"),
    SessionKey("a", "B"),
    SessionKey("A", "b"),
    SessionKey("a", "\x1fb"),
    SessionKey("a", "b\x1f"),
    SessionKey("a", "\x1fa\x1fb"),
    SessionKey("b", "a"),
    SessionKey("a:b", "c"),
    SessionKey("a", "b:c"),
    SessionKey("a/b", "c"),
    SessionKey("a", "b/c"),
    SessionKey("%1Fa", "b"),
    SessionKey("*", "b"),
    SessionKey("[a]", "b"),
    SessionKey("?", "b"),
    SessionKey("..", ".."),
    SessionKey("}:win:\x00a", "b"),
    SessionKey("a", "}:win:\x1fa\x1fb"),
    SessionKey("a" * 200, "b"),
    SessionKey("A" * 200, "b"),
    SessionKey("\u00e9", "b"),
    SessionKey("e\u0301", "b"),
]


@pytest.fixture
def config(redis_config: CacheConfig) -> CacheConfig:
    return redis_config.replace(hot_window_size=2, archive_batch_turns=2)


@pytest.fixture
def open_cache(twins: Twins, config: CacheConfig) -> Callable[[Session], Any]:
    return lambda session: twins.make("HybridConversationCache", session, config)


def marks_of(text: str) -> list[str]:
    """Return what a text shows of stored ids."""
    return [mark for mark in ("\x1f", "\\x1f", "\\u001f", "%1F") if mark in text]


@contextmanager
def caught_logs() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logger.add(lambda message: lines.append(str(message)), level="DEBUG")
    try:
        yield lines
    finally:
        logger.remove(handler)


# -- sessions ------------------------------------------------------------------------------


def test_sessions_that_are_made_to_collide_share_nothing(
    open_cache: Callable[[Session], Any], config: CacheConfig
) -> None:
    caches = [open_cache(session) for session in COLLIDING]
    for number, cache in enumerate(caches):
        cache.add_messages(
            [{"role": "user", "content": f"{number}: {i}"} for i in range(3)], keys=["k0", "k1", "k2"]
        )
    mine = [[f"{number}: {i}" for i in range(3)] for number in range(len(caches))]
    assert [said(cache.get_full()) for cache in caches] == mine
    assert [said(cache.get_context()) for cache in caches] == [texts[1:] for texts in mine]
    for cache in caches[::2]:
        cache.flush_to_disk()
    assert [said(cache.get_full()) for cache in caches] == mine
    # The keys of one are not those of another, nor are its ids.
    for number, cache in enumerate(caches):
        again = cache.add_messages([{"role": "user", "content": f"{number}: 0"}], keys=["k0"])
        assert again.added == 0
    assert {info.session_id for info in StoreAdmin(config).sessions()} == set(COLLIDING)
    assert set(StoreAdmin(config).session_ids()) == set(COLLIDING)
    for number, cache in enumerate(caches):
        assert cache.delete_session() is True
        assert [said(other.get_full()) for other in caches] == [
            [] if i <= number else texts for i, texts in enumerate(mine)
        ]


def test_a_cleared_session_leaves_its_namesakes_as_they_are(open_cache: Callable[[Session], Any]) -> None:
    sessions: list[Session] = ["x", SessionKey("acme", "x"), SessionKey("other", "x")]
    caches = [open_cache(session) for session in sessions]
    for cache in caches:
        cache.add_message("user", "hello")
    caches[1].clear()
    assert [said(cache.get_context()) for cache in caches] == [["hello"], [], ["hello"]]
    assert [said(cache.get_full()) for cache in caches] == [["hello"]] * 3


def test_what_a_cache_calls_its_session_leads_back_to_it(open_cache: Callable[[Session], Any]) -> None:
    for session in COLLIDING:
        cache = open_cache(session)
        assert cache.session_id == session
        cache.add_message("user", "mine")
        assert said(open_cache(cache.session_id).get_full()) == ["mine"]
    assert open_cache(SessionKey(None, "x")).session_id == "x"


def test_statistics_tell_id_and_namespace_apart(twins: Twins, config: CacheConfig) -> None:
    for kind in (
        "HybridConversationCache",
        "SessionContextWindow",
        "SemanticCacheRedis",
        "URLEmbeddingCache",
    ):
        plain = twins.make(kind, "x", config).get_stats()
        assert plain["session_id"] == "x"
        assert "namespace" not in plain
        stats = twins.make(kind, SessionKey("acme", "x"), config).get_stats()
        assert (stats["session_id"], stats["namespace"]) == ("x", "acme")
        assert not marks_of(json.dumps(stats))


@pytest.mark.parametrize("buckets", [1, 5])
def test_one_evictor_serves_all_namespaces(config: CacheConfig, buckets: int) -> None:
    config = config.replace(redis_buckets=buckets)
    caches = [HybridConversationCache(session, config, evict_after_minutes=0) for session in COLLIDING]
    for number, cache in enumerate(caches):
        cache.add_message("user", str(number))
    assert len({id(cache.evictor) for cache in caches}) == 1
    time.sleep(0.005)
    moved = caches[0].evictor.run_once()
    assert moved.sessions == len(COLLIDING)
    assert [said(cache.archive.load_all(cache.session_id)) for cache in caches] == [
        [str(number)] for number in range(len(caches))
    ]


def test_messages_of_an_outage_come_back_to_their_own_namespace(
    config: CacheConfig, redis_server: RedisServer
) -> None:
    away = nowhere(config, redis_retry_seconds=60)
    sessions: list[Session] = ["x", SessionKey("acme", "x"), SessionKey("other", "x"), "\x1facme\x1fx"]
    for number, session in enumerate(sessions):
        HybridConversationCache(session, away).add_message("user", f"outage {number}")
        HybridConversationCache(session, config).add_message("user", f"hot {number}")
    assert StoreAdmin(config).offload(0, namespace="acme").reconciled == 1
    assert StoreAdmin(config).offload(0).reconciled == 3
    for number, session in enumerate(sessions):
        found = said(HybridConversationCache(session, config).get_full())
        assert sorted(found) == [f"hot {number}", f"outage {number}"]


# -- the archive ---------------------------------------------------------------------------


@pytest.fixture
def archive(twins: Twins, tmp_path: Path) -> Any:
    return twins.make("ConversationArchive", tmp_path / "files")


def test_the_archive_keeps_colliding_sessions_apart_and_names_them_as_they_are_called(archive: Any) -> None:
    for number, session in enumerate(COLLIDING):
        archive.append_turns(session, [{"role": "user", "content": f"turn {number}"}])
    for number, session in enumerate(COLLIDING):
        assert said(archive.load_all(session)) == [f"turn {number}"]
        assert said(archive.load_recent(session, 5)) == [f"turn {number}"]
        assert said(archive.search_by_text(session, "turn")) == [f"turn {number}"]
        assert archive.get_metadata(session)["session_id"] == session
        assert archive.verify(session).session_id == session
        assert archive.verify(session).is_intact
    assert {meta["session_id"] for meta in archive.list_sessions()} == set(COLLIDING)
    assert set(archive.stamps()) == set(COLLIDING)
    assert {report.session_id for report in archive.verify_all()} == set(COLLIDING)
    assert archive.compact(COLLIDING, idle_seconds=0).files == len(COLLIDING)
    assert archive.compact(idle_seconds=0).failed == {}
    in_a = [session for session in COLLIDING if isinstance(session, SessionKey) and session.namespace == "a"]
    assert {meta["session_id"] for meta in archive.list_sessions("a")} == set(in_a)
    assert archive.delete_session(SessionKey("a", "b")) is True
    rest = [session for session in COLLIDING if session != SessionKey("a", "b")]
    assert {meta["session_id"] for meta in archive.list_sessions()} == set(rest)
    assert all(archive.session_exists(session) for session in rest)


def test_no_two_names_of_files_are_equal_where_case_is_ignored(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    keys = [session for session in COLLIDING if isinstance(session, SessionKey)]
    for session in [*keys, "a", "B"]:
        archive.append_turn(session, {"content": "x"})
    names = [path.name for path in tmp_path.glob("*.huff")]
    assert len({name.casefold() for name in names}) == len(keys) + 2


def test_expired_sessions_go_to_the_trash_and_come_back_under_their_own_names(
    twins: Twins, tmp_path: Path
) -> None:
    archive = twins.make("ConversationArchive", tmp_path / "files", 1e-9)
    for number, session in enumerate(COLLIDING):
        archive.append_turn(session, {"content": str(number)})
    time.sleep(0.01)
    assert set(archive.expired_sessions()) == set(COLLIDING)
    asked: list[Session] = []

    def keep(session: Session) -> bool:
        asked.append(session)
        return session == SessionKey("a", "b")

    assert archive.cleanup_expired(keep) == len(COLLIDING) - 1
    assert set(asked) == set(COLLIDING)
    gone = set(COLLIDING) - {SessionKey("a", "b")}
    assert {one["session_id"] for one in archive.trashed()} == gone
    assert {one["session_id"] for one in archive.trashed("a")} == {
        session for session in gone if isinstance(session, SessionKey) and session.namespace == "a"
    }
    assert archive.restore("\x1fa\x1fb") is True
    assert archive.restore(SessionKey("a", "b")) is False
    for session in gone - {"\x1fa\x1fb"}:
        assert archive.restore(session) is True
    for number, session in enumerate(COLLIDING):
        assert said(archive.load_all(session)) == [str(number)]


def test_a_hook_hears_sessions_by_the_names_they_are_called(archive: Any) -> None:
    heard: set[Session] = set()
    end = archive.on_change(heard.update)
    for session in COLLIDING:
        archive.append_turn(session, {"content": "x"})
    real = archive.target.sync if hasattr(archive, "target") else archive
    assert real.store.changes.wait(10)
    end()
    assert heard == set(COLLIDING)


def test_errors_and_logs_name_namespace_and_id_apart(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path, lock_timeout_seconds=0.001)
    key = SessionKey("acme", "x")
    archive.append_turn(key, {"content": "x"})
    errors = []
    with caught_logs() as lines, archive.store.lock(stored_id(key)):
        errors.append(_error_of(lambda: archive.append_turn(key, {"content": "y"})))
        archive.store.note_not_expired(stored_id(key), ArchiveCorrupt("for a test"))
    other = SessionKey("other", "y")
    (tmp_path / f"{file_stem(stored_id(other))}.huff").write_bytes(
        (tmp_path / f"{file_stem(stored_id(key))}.huff").read_bytes()
    )
    errors += [_error_of(lambda: archive.load_all(other)), *archive.verify(other).problems]  # type: ignore[union-attr]
    assert len(errors) == 3
    for text in [*errors, *lines]:
        assert "'x' of namespace 'acme'" in text
        assert "\x1f" not in text
        assert "\\x1f" not in text


def _error_of(call: Callable[[], Any]) -> str:
    with pytest.raises(Exception) as caught:
        call()
    return str(caught.value)


# -- what the old package left -------------------------------------------------------------


def version_1(text: str) -> bytes:
    head = struct.pack("<4sddI", b"CAv1", 1.5e9, 1.5e9, 1)
    return head + HuffmanCodec.encode(json.dumps([{"content": text}]).encode(), format=1)


@pytest.mark.parametrize(
    "session_id", ["\x1facme\x1fx", "%1Facme%1Fx", "\x1f\x1facme\x1fx", "\x1fweird", "\x1f"]
)
def test_a_file_of_the_old_package_is_of_no_namespace(archive: Any, session_id: str) -> None:
    folder = Path(archive.archive_dir)
    folder.mkdir()
    (folder / f"{session_id}.huff").write_bytes(version_1("old"))
    key = SessionKey("acme", "x")
    assert said(archive.load_all(session_id)) == ["old"]
    assert archive.load_all(key) is None
    assert [meta["session_id"] for meta in archive.list_sessions()] == [session_id]
    assert archive.list_sessions("acme") == []
    assert list(archive.stamps()) == [session_id]
    assert [report.session_id for report in archive.verify_all()] == [session_id]
    assert archive.delete_session(key) is False
    archive.append_turn(session_id, {"content": "new"})
    archive.append_turn(key, {"content": "mine"})
    assert said(archive.load_all(session_id)) == ["old", "new"]
    assert said(archive.load_all(key)) == ["mine"]
    assert {meta["session_id"] for meta in archive.list_sessions()} == {session_id, key}


def test_a_live_session_of_the_old_package_is_of_no_namespace(
    open_cache: Callable[[Session], Any], config: CacheConfig, redis_server: RedisServer
) -> None:
    start = config.redis_key_prefix
    ids = ["x", "\x1facme\x1fx", "\x1f\x1facme\x1fx", "\x1fweird"]
    with redis_server.client(db=config.session_redis_db) as client:
        for session_id in ids:
            message = {"role": "user", "content": f"old {session_id}", "timestamp": 1.7e9, "metadata": {}}
            client.set(f"{start}:session_context:{session_id}:1", json.dumps(message))
            client.lpush(f"{start}:session_order:{session_id}", 1)
    admin = StoreAdmin(config)
    assert set(admin.session_ids()) == set(ids)
    assert admin.session_ids(namespace="acme") == []
    assert admin.session(SessionKey("acme", "x")) is None
    key = open_cache(SessionKey("acme", "x"))
    assert key.get_full() == []
    key.add_message("user", "mine")
    key.flush_to_disk()
    assert said(key.get_full()) == ["mine"]
    assert key.delete_session() is True
    assert admin.migrate(dry_run=True).sessions == len(ids)
    for session_id in ids:
        assert said(open_cache(session_id).get_full()) == [f"old {session_id}"]
    assert admin.migrate().sessions == 0


# -- cached answers ------------------------------------------------------------------------

NAMESAKES: list[Session] = [
    "x",
    SessionKey("acme", "x"),
    SessionKey("other", "x"),
    SessionKey("ACME", "x"),
    "\x1facme\x1fx",
    SessionKey("acme", "y"),
]


def test_responses_by_url_are_not_shared_at_similarity_1(twins: Twins, config: CacheConfig) -> None:
    query = np.ones(4)
    caches = [twins.make("CacheCoordinator", session, config) for session in NAMESAKES]
    for number, cache in enumerate(caches):
        assert [one.get_semantic_response("http://u", query) for one in caches[number:]] == [None] * (
            len(caches) - number
        )
        cache.cache_semantic_response("http://u", query, {"answer": number})
    assert [cache.get_semantic_response("http://u", query) for cache in caches] == [
        {"answer": number} for number in range(len(caches))
    ]
    caches[1].clear_session_cache()
    assert [cache.get_semantic_response("http://u", query) is None for cache in caches] == [
        number == 1 for number in range(len(caches))
    ]


def test_answers_are_not_shared_for_the_very_same_question(twins: Twins, config: CacheConfig) -> None:
    embedder = Meanings({"the weather in Tokyo?": mix(a=1), "Tokyo weather": mix(a=1)})
    caches = [
        twins.make("CacheCoordinator", session, config, embedder=embedder).answers for session in NAMESAKES
    ]
    caches[0].store("the weather in Tokyo?", "of none")
    for cache in caches[1:]:
        assert not cache.lookup("the weather in Tokyo?").is_hit
        assert not cache.lookup("Tokyo weather", similarity_threshold=0.0).is_hit
    # Each begins a call of its own: none waits for another's.
    calls = [cache.begin("the weather in Tokyo?", lock_seconds=60) for cache in caches[1:]]
    for number, call in enumerate(calls, start=1):
        twins.run(call.complete(f"answer {number}"))
    caches[0].store("the weather in Tokyo?", "answer 0")
    for number, cache in enumerate(caches):
        assert cache.lookup("the weather in Tokyo?").response == f"answer {number}"
        assert cache.lookup("Tokyo weather", similarity_threshold=0.5).response == f"answer {number}"


@pytest.mark.parametrize("gone", range(len(NAMESAKES)))
def test_what_one_session_drops_its_namesakes_keep(twins: Twins, config: CacheConfig, gone: int) -> None:
    embedder = Meanings({"the weather in Tokyo?": mix(a=1)})
    caches = [twins.make("CacheCoordinator", session, config, embedder=embedder) for session in NAMESAKES]
    for cache in caches:
        cache.add_message_to_context("user", "hello")
        cache.answers.store("the weather in Tokyo?", "an answer")
    caches[gone].delete_session() if gone % 2 else caches[gone].clear_session_cache()
    assert [cache.answers.lookup("the weather in Tokyo?").is_hit for cache in caches] == [
        number != gone for number in range(len(caches))
    ]


# -- looking after a store -----------------------------------------------------------------


def test_the_administration_lists_by_namespace(config: CacheConfig) -> None:
    for number, session in enumerate(COLLIDING):
        cache = HybridConversationCache(session, config)
        cache.add_message("user", "hello")
        if number % 3 == 0:
            cache.flush_to_disk()
    admin = StoreAdmin(config)
    for namespace in {session.namespace for session in COLLIDING if isinstance(session, SessionKey)}:
        assert namespace is not None
        wanted = {s for s in COLLIDING if isinstance(s, SessionKey) and s.namespace == namespace}
        assert set(admin.session_ids(namespace=namespace)) == wanted
        assert {info.session_id for info in admin.sessions(namespace=namespace)} == wanted
    for session in COLLIDING:
        info = admin.session(session)
        assert info is not None
        assert info.session_id == session
        assert info.hot_messages + info.cold_messages == 1
    assert len(admin.sessions(3)) == 3
    assert [check.session_id for check in admin.verify(COLLIDING[0])] == [COLLIDING[0]]
    hot_in_a = sum(1 for info in admin.sessions(namespace="a") if info.hot_messages)
    assert admin.offload(0, namespace="a").sessions == hot_in_a
    assert {check.session_id for check in admin.verify()} >= {
        session for session in COLLIDING if isinstance(session, SessionKey) and session.namespace == "a"
    }
    assert all(check.is_intact for check in admin.verify())


@pytest.mark.parametrize("namespace", ["a", "A", "*", "[a]", "?", "a:b", "..", "}:win:\x00a", "A" * 200])
def test_a_namespace_is_deleted_wherever_its_sessions_are_and_nothing_else(
    config: CacheConfig, redis_server: RedisServer, namespace: str
) -> None:
    embedder = Meanings({"the weather in Tokyo?": mix(a=1)})
    twins = Twins("sync")
    mine: list[Session] = [
        SessionKey(namespace, name) for name in ("hot", "cold", "damaged", "trash", "away")
    ]
    others = [s for s in COLLIDING if not (isinstance(s, SessionKey) and s.namespace == namespace)]
    caches = {
        session: twins.make("CacheCoordinator", session, config, embedder=embedder)
        for session in [*mine, *others]
    }
    for cache in caches.values():
        cache.add_message_to_context("user", "hello")
        cache.cache_semantic_response("http://u", np.ones(4), "a response")
        cache.answers.store("the weather in Tokyo?", "an answer")
    for session in mine[1:]:
        caches[session].context_window.flush_to_disk()
    path = Path(config.archive_dir, file_stem(stored_id(mine[2])) + ".huff")
    path.write_bytes(bytes(40) + path.read_bytes()[40:60])
    archive = ConversationArchive(config.archive_dir, 1e-9)
    time.sleep(0.01)
    assert archive.cleanup_expired(keep=lambda session: session != mine[3]) == 1
    HybridConversationCache(mine[4], nowhere(config)).add_message("user", "while it was away")

    done = StoreAdmin(config).delete_namespace(namespace)
    is_digest = path.name.startswith("~")
    assert done.failed == {}
    assert done.sessions == (4 if is_digest else 5)
    assert done.answers == 5
    assert StoreAdmin(config).session_ids(namespace=namespace) == []
    assert StoreAdmin(config).trashed(namespace=namespace) == []
    left = [str(path) for path in Path(config.archive_dir).rglob("*") if path.is_file()]
    # What says nothing of its owner is named for the keeper.
    assert [name for name in left if file_stem(stored_id(mine[2])) in name] == (
        [str(path)] if is_digest else []
    )
    assert StoreAdmin(config).unreadable_files() == ([path.name] if is_digest else [])
    for session in mine:
        assert not any(file_stem(stored_id(session)) in name for name in left if name != str(path))
        assert not caches[session].answers.lookup("the weather in Tokyo?").is_hit
        if not (is_digest and session == mine[2]):
            assert caches[session].get_semantic_response("http://u", np.ones(4)) is None
            assert caches[session].context_window.get_full_history() == []
    with redis_server.client(db=config.session_redis_db) as client:
        for session in mine:
            assert not [key for key in client.scan_iter(count=1000) if stored_id(session).encode() in key]
    for session in others:
        assert said(caches[session].context_window.get_full_history()) == ["hello"]
        assert caches[session].get_semantic_response("http://u", np.ones(4)) == "a response"
        assert caches[session].answers.lookup("the weather in Tokyo?").is_hit
    own = SemanticCache(config=config, context={"namespace": namespace})
    own.store("the weather in Tokyo?", "an answer")
    done = StoreAdmin(config).delete_namespace(namespace)
    assert (done.sessions, done.answers) == (0, 1)


@pytest.mark.parametrize("namespace", ["", None, "a\x1fb", "\x1f", 5, "a\ud800", "x" * 256])
def test_what_is_no_namespace_deletes_and_lists_nothing(config: CacheConfig, namespace: Any) -> None:
    for session in ("x", SessionKey("a", "b")):
        HybridConversationCache(session, config).add_message("user", "hello")
    admin = StoreAdmin(config)
    with pytest.raises(InvalidSessionId):
        admin.delete_namespace(namespace)
    if namespace is not None:
        for call in (admin.session_ids, admin.sessions, admin.trashed):
            with pytest.raises(InvalidSessionId):
                call(namespace=namespace)
        with pytest.raises(InvalidSessionId):
            admin.offload(0, namespace=namespace)
    assert len(admin.session_ids()) == 2


def test_the_failure_of_one_session_keeps_no_other_from_being_deleted(config: CacheConfig) -> None:
    for name in ("x", "y"):
        HybridConversationCache(SessionKey("acme", name), config).add_message("user", "hello")
    key = SessionKey("acme", "x")
    admin = StoreAdmin(config.replace(archive_lock_timeout_seconds=0.001))
    archive = ConversationArchive(config.archive_dir)
    with archive.store.lock(stored_id(key)):
        done = admin.delete_namespace("acme")
    assert done.sessions == 1
    assert list(done.failed) == [key]
    assert done.failed[key].startswith("ArchiveBusy")
    assert admin.session_ids() == [key]
    assert admin.delete_namespace("acme").sessions == 1


@pytest.mark.parametrize("bad", ["", None, 5, b"x", ("acme", "x"), "a\ud800", "x" * 65_537])
def test_what_is_no_session_is_refused_at_every_door(twins: Twins, config: CacheConfig, bad: Any) -> None:
    for kind in (
        "CacheCoordinator",
        "HybridConversationCache",
        "SessionContextWindow",
        "SemanticCacheRedis",
        "URLEmbeddingCache",
    ):
        with pytest.raises(InvalidSessionId):
            twins.make(kind, bad, config)
    archive = twins.make("ConversationArchive", config.archive_dir)
    for call in (
        lambda: archive.append_turn(bad, {"content": "x"}),
        lambda: archive.load_all(bad),
        lambda: archive.load_recent(bad, 1),
        lambda: archive.search_by_text(bad, "x"),
        lambda: archive.search_by_embedding(bad, [1.0]),
        lambda: archive.delete_session(bad),
        lambda: archive.session_exists(bad),
        lambda: archive.get_metadata(bad),
        lambda: archive.restore(bad),
        lambda: archive.verify(bad),
        lambda: archive.compact([bad]),
        lambda: StoreAdmin(config).session(bad),
        lambda: StoreAdmin(config).restore(bad),
        lambda: StoreAdmin(config).offload(session_ids=[bad]),
        lambda: StoreAdmin(config).compact(session_ids=[bad]),
    ):
        with pytest.raises(InvalidSessionId):
            call()
