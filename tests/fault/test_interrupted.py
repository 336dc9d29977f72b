"""An exception out of a signal handler, at any line of a sync call, leaves nothing half done behind."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import redis

from lix_cache import (
    CacheConfig,
    ConversationArchive,
    HashingEmbedder,
    HybridConversationCache,
    SemanticCache,
)
from lix_cache.drivers.sync import SyncDriver
from lix_cache.effects import DiskCall, Flow, LockCall
from lix_cache.hot.clients import lazy_client
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.pools import Pool
from lix_cache.hot.wire import pack
from lix_cache.session import add as add_flow
from lix_cache.storage import locks
from lix_cache.storage.files import Files
from tests.support import RedisServer
from tests.support.interrupts import Interrupt, interrupt_at, lines_of, under_signals
from tests.support.lab import Process
from tests.support.sampling import Part, in_parts

pytestmark = pytest.mark.promise("no-loss")

DB = 5
PLACES = 2


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisServer]:
    """A server whose greeting has two steps: a password and a database."""
    with RedisServer(requirepass="right") as server:
        yield server


@pytest.fixture
def config(guarded: RedisServer, tmp_path: Path) -> CacheConfig:
    return guarded.config(
        redis_key_prefix=f"i{os.urandom(6).hex()}",
        archive_dir=tmp_path / "archive",
        session_redis_db=DB,
        redis_pool_size=PLACES,
        redis_socket_timeout=2,
        hot_window_size=4,
        archive_batch_turns=3,
        archive_lock_timeout_seconds=0.5,
        redis_retry_seconds=0.01,
        evictor_enabled=False,
    )


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


#: Locks of flows that other tests of this process have stopped half-way, and hold on to.
_ELSEWHERE: weakref.WeakSet[Any] = weakref.WeakSet()


@pytest.fixture(autouse=True)
def _locks_of_other_tests() -> None:
    _ELSEWHERE.update(lock for ref in list(locks._open) if (lock := ref()) is not None)


def held_locks() -> list[Any]:
    found = [lock for ref in list(locks._open) if (lock := ref()) is not None and lock.is_held]
    return [lock for lock in found if not any(lock is other for other in _ELSEWHERE)]


class Watched:
    """A cache that is interrupted, and what must be right after each interruption."""

    def __init__(self, config: CacheConfig, server: RedisServer) -> None:
        self.config = config
        self.server = server
        self.cache = HybridConversationCache("s", config)
        self.pool: Any = lazy_client(endpoint_for(config.redis, DB)).connection_pool
        self.acknowledged: list[str] = []
        self.add()
        self.opened = descriptors()

    def add(self) -> None:
        text = f"message {len(self.acknowledged)} {os.urandom(4).hex()}"
        self.cache.add_message("user", text)
        self.acknowledged.append(text)

    @cached_property
    def answers(self) -> SemanticCache:
        config = self.config.replace(semantic_redis_db=DB + 1)
        self.opened += PLACES
        return SemanticCache(embedder=HashingEmbedder(dim=32), config=config)

    @cached_property
    def ask(self) -> Callable[..., Any]:
        """A cached function, what it makes, and what it is asked with, of a kind of their own."""

        @self.answers.cached(ttl_seconds=60, query_param="prompt", identify={"how": lambda how: how.name})
        def ask(prompt: str, how: Any) -> Any:
            return [prompt, how]

        return ask

    @cached_property
    def stream(self) -> Callable[..., Any]:
        @self.answers.cached(ttl_seconds=60)
        def stream(prompt: str) -> Any:
            yield [prompt]
            yield "end"

        return stream

    def question(self) -> str:
        return f"what is {os.urandom(8).hex()}?"

    def reconnect(self) -> None:
        self.pool.disconnect()

    def check_idle(self) -> None:
        """Assert that nothing is held, nothing is half open, and every place can be taken."""
        assert held_locks() == []
        places = self.pool._places
        assert len(places._live) == len(places._ready)
        assert len(set(map(id, places._ready))) == len(places._ready)
        assert not any(one.greeted and one.can_read() for one in places._ready)
        loans = [self.pool.get_connection() for _ in range(PLACES)]
        for loan in loans:
            loan.send_command("ECHO", "mine")
            assert loan.read_response() == b"mine"
            self.pool.release(loan)
        # One for each place; no more, though any number was interrupted.
        if descriptors() > self.opened + PLACES:
            gc.collect()
        assert descriptors() <= self.opened + PLACES

    def check_all(self) -> None:
        """Assert that every acknowledged message is there once, and none in another database."""
        said = Counter(str(m["content"]) for m in HybridConversationCache("s", self.config).get_full())
        assert set(self.acknowledged) <= set(said)
        assert set(said.values()) == {1}
        with self.server.client(db=0) as other:
            assert other.keys(f"{self.config.redis_key_prefix}*") == []


@pytest.fixture
def watched(config: CacheConfig, guarded: RedisServer) -> Watched:
    return Watched(config, guarded)


def _moved(watched: Watched) -> None:
    watched.cache.flush_to_disk()


def _has_much(watched: Watched) -> None:
    for _ in range(3):
        watched.add()


def _stored(watched: Watched) -> None:
    watched.answers.store("what is it?", {"text": "it"})


class _How:
    name = "briefly"


#: What is interrupted, and what is done before each time, uninterrupted.
CALLS: dict[str, tuple[Callable[[Watched], Any], Callable[[Watched], Any], int]] = {
    "add": (lambda w: None, lambda w: w.add(), 1),
    "add over a new connection": (Watched.reconnect, lambda w: w.add(), 3),
    "get_context": (lambda w: None, lambda w: w.cache.get_context(), 2),
    "get_context of a cold session": (_moved, lambda w: w.cache.get_context(), 5),
    "get_full": (lambda w: None, lambda w: w.cache.get_full(), 3),
    "flush_to_disk": (lambda w: w.add(), lambda w: w.cache.flush_to_disk(), 5),
    "a late spill": (_has_much, lambda w: w.cache._drive(add_flow._spill_late(w.cache._session)), 4),
    "smart_context": (lambda w: None, lambda w: w.cache.smart_context("message"), 11),
    "smart_context of a cold session": (_moved, lambda w: w.cache.smart_context("message"), 11),
    "clear": (lambda w: w.add(), lambda w: w.cache.clear(), 7),
    "lookup, a hit": (_stored, lambda w: w.answers.lookup("what is it?"), 3),
    "lookup, a miss": (_stored, lambda w: w.answers.lookup(w.question()), 5),
    "store": (lambda w: None, lambda w: w.answers.store(w.question(), {"text": "it"}), 5),
    "a health check": (_stored, lambda w: w.answers.health_check(), 5),
    "cached, a hit": (lambda w: w.ask("what is it?", _How()), lambda w: w.ask("what is it?", _How()), 5),
    "cached, a miss": (lambda w: None, lambda w: w.ask(w.question(), _How()), 9),
    "cached, a stream": (lambda w: None, lambda w: list(w.stream(w.question())), 17),
    "cached, a stream again": (
        lambda w: list(w.stream("what is it?")),
        lambda w: list(w.stream("what is it?")),
        7,
    ),
    "a call in flight": (lambda w: None, lambda w: w.answers.begin(w.question()).complete({"text": "it"}), 9),
    "get_stats": (lambda w: None, lambda w: w.cache.get_stats(), 3),
    "append to the archive": (
        lambda w: None,
        lambda w: w.cache.archive.append_turn("t", {"role": "user", "content": "x"}),
        5,
    ),
    "a command of redis-py": (lambda w: None, lambda w: redis.Redis(connection_pool=w.pool).ping(), 2),
    "a command of redis-py over a new connection": (
        Watched.reconnect,
        lambda w: redis.Redis(connection_pool=w.pool).ping(),
        7,
    ),
    "a transaction of redis-py": (
        lambda w: None,
        lambda w: redis.Redis(connection_pool=w.pool).pipeline().get("a").get("b").execute(),
        1,
    ),
}


@in_parts(5)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_interrupted_at_any_line_leaves_nothing_half_done(
    watched: Watched, name: str, part: Part
) -> None:
    before, call, stride = CALLS[name]
    before(watched)
    call(watched)  # imports and first folders are no part of it
    before(watched)
    interrupted = 0
    for step in part.of(range(1, lines_of(lambda: call(watched)) + 1, stride), len(name)):
        before(watched)
        if interrupt_at(lambda: call(watched), step) is not None:
            interrupted += 1
            watched.check_idle()
    assert interrupted * stride * (part.every if part.is_sample else 1) > 40
    watched.check_all()


def test_a_lock_is_let_go_also_while_the_error_that_interrupted_it_is_kept(watched: Watched) -> None:
    kept = []
    watched.add()
    for step in range(1, lines_of(watched.cache.flush_to_disk) + 200, 4):
        watched.add()
        error = interrupt_at(watched.cache.flush_to_disk, step)
        if error is None:
            break
        kept.append(error)
        assert held_locks() == [], error
    assert len(kept) > 20
    watched.check_all()


def test_an_interruption_comes_out_though_a_daemon_has_put_the_message_on_disk(config: CacheConfig) -> None:
    process, daemon = Process(config.replace(durability="disk")), Process(config)
    adding = process.adding("x")
    step = adding.send(None)
    while process.hot() == 0 or not isinstance(step, LockCall):
        step = process.step(adding, step)
    daemon.flush()
    with pytest.raises(Interrupt):
        adding.throw(Interrupt())
    assert daemon.full() == ["x"]


def test_a_flow_that_is_interrupted_between_two_effects_is_closed(config: CacheConfig) -> None:
    driver = SyncDriver(endpoint_for(config.redis, DB))

    def flow(happened: list[str]) -> Flow[str]:
        try:
            for _ in range(3):
                yield DiskCall(lambda: None)
        finally:
            happened.append("let go")
        return "done"

    step, ended = 0, False
    while not ended:
        step += 1
        happened: list[str] = []
        ended = interrupt_at(lambda happened=happened: driver(flow(happened)), step) is None
        # Where it was interrupted before its first step, there was nothing to let go.
        assert happened == ["let go"] or step < 10
    assert step > 20


def test_a_lock_that_its_flow_did_not_keep_is_let_go_at_the_flows_end(
    config: CacheConfig, tmp_path: Path
) -> None:
    path = str(tmp_path / "lock")
    kept: list[Any] = []

    def flow() -> Flow[None]:
        kept.append((yield LockCall(lambda: Files().try_lock(path))))
        raise Interrupt

    with pytest.raises(Interrupt):
        SyncDriver(endpoint_for(config.redis, DB))(flow())
    assert not kept[0].is_held
    assert Files().try_lock(path) is not None


def test_an_archive_alone_lets_its_locks_go(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path, lock_timeout_seconds=0.2)
    archive.append_turn("s", {"role": "user", "content": "first"})

    def append() -> None:
        archive.append_turn("s", {"role": "user", "content": "x"})

    for step in range(1, lines_of(append) + 1, 3):
        interrupt_at(append, step)
        assert held_locks() == []
        archive.append_turn("s", {"role": "user", "content": "after"})


# -- pools ---------------------------------------------------------------------------------


def test_a_connection_that_is_dropped_frees_its_place_at_once(config: CacheConfig) -> None:
    pool: Any = lazy_client(endpoint_for(config.redis, DB)).connection_pool
    gc.collect()
    gc.disable()
    try:
        for _ in range(3 * PLACES):
            loan = pool.get_connection()
            alive = weakref.ref(loan.held[0])
            del loan  # as an interruption does between taking it and keeping it
            assert alive() is None
    finally:
        gc.enable()
    assert pool.ask(pack(("ECHO", "x"))) == [b"x"]


def test_what_was_given_back_twice_is_lent_once(config: CacheConfig) -> None:
    pool: Any = lazy_client(endpoint_for(config.redis, DB)).connection_pool
    first = pool.get_connection()
    pool.release(first)
    second = pool.get_connection()
    # What is left of an interrupted pipeline tidies up, when it dies, what it believes is its own.
    pool.release(first)
    first.disconnect()
    with pytest.raises(redis.ConnectionError, match="given back"):
        first.send_command("UNWATCH")
    third = pool.get_connection()
    assert second.held[0] is not third.held[0]
    second.send_command("ECHO", "mine")
    assert second.read_response() == b"mine"


def test_a_connection_that_is_owed_an_answer_is_not_lent_again(config: CacheConfig) -> None:
    pool: Any = lazy_client(endpoint_for(config.redis, DB)).connection_pool
    for send in (
        lambda loan: loan.send_command("ECHO", "lost"),
        lambda loan: loan.send_packed_command(loan.pack_commands([("ECHO", "lost"), ("ECHO", "lost")])),
        lambda loan: loan.send_packed_command(loan.pack_command("ECHO", "lost")),
    ):
        loan = pool.get_connection()
        send(loan)
        pool.release(loan)
        assert pool.ask(pack(("ECHO", "next"))) == [b"next"]


def test_a_pool_never_opens_more_than_its_places(config: CacheConfig, guarded: RedisServer) -> None:
    pool: Any = lazy_client(endpoint_for(config.replace(redis_socket_timeout=30).redis, DB)).connection_pool
    most: list[int] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(40):
                loan = pool.get_connection()
                most.append(sum(one._sock is not None for one in pool._places.all()))
                if number % 7:
                    pool.release(loan)
                else:
                    loan.disconnect()
                    pool.release(loan)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert max(most) <= PLACES
    assert len(pool._places.all()) <= PLACES


def test_no_number_reaches_the_packer_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    from lix_cache.hot import wire

    seen: list[Any] = []

    def packer(words: tuple[Any, ...]) -> bytes:
        seen.extend(words)
        return b""

    monkeypatch.setattr(wire, "_pack_bytes", packer)
    wire.pack(("EVALSHA", "a" * 40, 2, 1.5, b"x", bytearray(b"y"), memoryview(b"z"), "ü"))
    wire.Packer.pack("CONFIG GET", "a", 3)
    assert {type(word) for word in seen} == {bytes}
    assert seen[-4:] == [b"CONFIG", b"GET", b"a", b"3"]
    assert isinstance(_packer_of_a_connection(), type)


def _packer_of_a_connection() -> Any:
    pool = Pool(timeout=1, max_connections=1)
    return pool._new_connection()._command_packer


def test_words_that_are_no_words_are_refused() -> None:
    for word in (None, True, object(), ["x"]):
        with pytest.raises(redis.DataError, match="Invalid input of type"):
            pack(("SET", "key", word))


# -- real signals ----------------------------------------------------------------------------

WORKER = """
import random, signal, sys
from lix_cache import CacheConfig, HybridConversationCache, LixCacheError

class Soft(Exception):
    pass

def fire(*_):
    raise Soft

config = CacheConfig(**eval(sys.argv[1]))
caches = {name: HybridConversationCache(name, config) for name in "AB"}
random.seed(int(sys.argv[2]))
signal.signal(signal.SIGALRM, fire)
tries, said = 0, []
while tries < int(sys.argv[3]):
    tries += 1
    name = random.choice("AB")
    text = f"{name}|{tries}"
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00005, 0.3 if tries % 5 == 0 else 0.004))
        try:
            if random.random() < 0.7:
                caches[name].add_message("user", text)
                said.append(text)
            elif random.random() < 0.6:
                for message in caches[name].get_context():
                    assert message["content"].startswith(name + "|"), "another session's message"
            else:
                caches[name].flush_to_disk()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Soft:
        pass
from lix_cache.storage import locks
held = [ref for ref in locks._open if ref() is not None and ref().is_held]
assert held == [], held
caches["A"].flush_to_disk()
print(*said, "ended", sep="\\n")
"""


@pytest.mark.parametrize("durability", ["redis", "disk"])
def test_signals_at_random_moments_lose_nothing(
    config: CacheConfig, guarded: RedisServer, durability: str
) -> None:
    settings = {
        name: getattr(config, name)
        for name in ("redis_host", "redis_port", "redis_password", "redis_key_prefix", "archive_dir")
    }
    settings |= {"session_redis_db": DB, "redis_pool_size": PLACES, "durability": durability}
    settings |= {"hot_window_size": 5, "archive_batch_turns": 5, "evictor_enabled": False}
    settings |= {"redis_socket_timeout": 10, "archive_lock_timeout_seconds": 10}
    *said, end = under_signals(WORKER, repr(settings), "7", "400").split()
    assert end == "ended"
    assert len(said) > 20
    for name in "AB":
        found = Counter(str(m["content"]) for m in HybridConversationCache(name, config).get_full())
        assert {text for text in said if text.startswith(name)} <= set(found)
        assert set(found.values()) == {1}
        assert all(text.startswith(name) for text in found)
    with guarded.client(db=0) as other:
        assert other.keys(f"{config.redis_key_prefix}*") == []
