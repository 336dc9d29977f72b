"""Which breaker opens for which error, and which stay closed: driven by hand, with no server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lix_cache import HashingEmbedder, SemanticCache, URLEmbeddingCache
from lix_cache.config import CacheConfig
from lix_cache.effects import Compute, Flow, RedisBatch, RedisCall
from lix_cache.errors import RedisAuthError, RedisCommandError, RedisDatabaseError, RedisUnavailable
from lix_cache.hot import breaker as breaker_module
from lix_cache.hot.breaker import Breaker, new_breaker
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.scripts import Command, ScriptCall
from lix_cache.hot.slots import SLOTS, Nodes, Range, nodes_for, slot_of
from lix_cache.semantic import lookup
from lix_cache.session.base import ask
from lix_cache.session.store import SessionStore, open_store
from tests.support.twins import ManualClock

A, B = "10.0.0.1", "10.0.0.2"


def label(host: str) -> str:
    return f"redis://{host}:1 db 0"


def away(host: str = "", **more: Any) -> RedisUnavailable:
    error = RedisUnavailable("no answer", **more)
    error.server = label(host) if host else ""
    return error


@pytest.fixture(autouse=True)
def _own_breakers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker_module, "_breakers", {})


@pytest.fixture
def config(tmp_path: Path) -> CacheConfig:
    return CacheConfig(
        # A name of the test's own: what a process knows of servers it knows by their addresses.
        redis_url=f"redis+cluster://{tmp_path.name.replace('_', '-')}:1",
        archive_dir=tmp_path,
        on_cache_error="miss",
        evictor_enabled=False,
    )


@pytest.fixture
def nodes(config: CacheConfig) -> Nodes:
    """Both have half of the slots."""
    nodes = nodes_for(endpoint_for(config.redis, 0))
    nodes.take([Range(0, SLOTS // 2, A, 1), Range(SLOTS // 2 + 1, SLOTS - 1, B, 1)])
    return nodes


def all_to(nodes: Nodes, host: str) -> None:
    nodes.take([Range(0, SLOTS - 1, host, 1)])


def name_on(store: SessionStore, host: str) -> str:
    names = (f"s{n}" for n in range(100))
    return next(name for name in names if store.breaker_of(name).where == label(host))


def fails(flow: Flow[Any], *errors: RedisUnavailable) -> None:
    """Have the first commands of a flow fail."""
    assert isinstance(next(flow), (RedisCall, RedisBatch))
    with pytest.raises(RedisUnavailable):
        for error in errors:
            flow.throw(error)


def asked(flow: Flow[Any]) -> Command:
    """Run a flow up to the first command that it sends."""
    effect = next(flow)
    while isinstance(effect, Compute):
        effect = flow.send(effect.call())
    if isinstance(effect, RedisBatch):
        return effect.commands[-1]
    assert isinstance(effect, RedisCall)
    return effect.command


# -- one set of codes -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["redis://h:1", "redis+cluster://h:1", "redis+sentinel://h:1/main"])
@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (RedisUnavailable("no answer"), True),
        (RedisUnavailable("no answer", maybe_done=True, timed_out=True), True),
        *((RedisUnavailable(code, code=code), True) for code in ("LOADING", "CLUSTERDOWN", "BUSY")),
        *((RedisUnavailable(code, code=code), False) for code in ("OOM", "MISCONF", "NOREPLICAS")),
        *((RedisUnavailable(code, code=code), False) for code in ("READONLY", "MOVED", "ASK", "TRYAGAIN")),
        (RedisUnavailable("not now", was_asked=False), False),
        (RedisAuthError("who", code="WRONGPASS"), True),
        (RedisAuthError("not that", code="NOPERM"), False),
        (RedisDatabaseError("none"), True),
        (RedisCommandError("what", code="ERR"), False),
        (ValueError("ours"), False),
    ],
    ids=lambda case: getattr(case, "code", "") or type(case).__name__,
)
def test_a_breaker_opens_for_what_the_next_call_would_meet_too(
    kind: str, error: Exception, opens: bool
) -> None:
    endpoint = endpoint_for(CacheConfig(redis_url=kind).redis, 0)
    breaker = new_breaker(endpoint, 1.0, ManualClock()).of("key")
    breaker.met(error)
    assert breaker.is_open is opens


def test_it_closes_when_its_time_is_up() -> None:
    clock = ManualClock()
    breaker = Breaker(2.0, clock)
    breaker.met(away())
    clock.advance(1.5)
    assert breaker.is_open
    assert breaker.seconds_left == 0.5
    # A call that was refused without being sent does not prolong it.
    breaker.met(away(was_asked=False))
    clock.advance(0.5)
    assert not breaker.is_open


# -- which of several servers -----------------------------------------------------------------


@pytest.mark.parametrize("names_it", [True, False], ids=["the error names the server", "it names none"])
def test_a_late_error_leaves_the_server_alone_that_has_taken_over(
    config: CacheConfig, nodes: Nodes, names_it: bool
) -> None:
    store = open_store(config)
    name = name_on(store, A)
    dead = store.breaker_of(name)
    flow = ask(store, store.hot.length(name))
    next(flow)
    # Meanwhile another thread learns who has taken over.
    all_to(nodes, B)
    with pytest.raises(RedisUnavailable):
        flow.throw(away(A if names_it else "", maybe_done=True, timed_out=True))
    assert dead.is_open
    assert not store.breaker_of(name).is_open
    assert isinstance(next(ask(store, store.hot.length(name))), RedisCall)


def test_a_command_that_was_sent_on_opens_the_breaker_of_the_last_server(
    config: CacheConfig, nodes: Nodes
) -> None:
    store = open_store(config)
    name = name_on(store, A)
    fails(ask(store, store.hot.length(name)), away(B, timed_out=True, maybe_done=True))
    assert not store.breaker_of(name).is_open
    assert store.breaker_of(name_on(store, B)).is_open


def test_a_repetition_opens_a_breaker_for_the_same_errors_as_a_first_try(
    config: CacheConfig, nodes: Nodes
) -> None:
    store = open_store(config)
    name = name_on(store, A)
    broke = away(A, maybe_done=True)
    fails(ask(store, store.hot.length(name)), broke, RedisUnavailable("moving", code="TRYAGAIN"))
    assert not store.breaker_of(name).is_open
    fails(ask(store, store.hot.length(name)), broke, away(A, maybe_done=True))
    assert store.breaker_of(name).is_open


def test_what_needs_all_servers_is_not_asked_while_one_is_away(config: CacheConfig, nodes: Nodes) -> None:
    breaker = new_breaker(endpoint_for(config.redis, 0), 1.0, ManualClock())
    assert not breaker.of(None).is_open
    breaker.of(None).met(away(A))
    assert breaker.of(None).is_open
    open_of = {key: breaker.of(key).is_open for key in map(str, range(100))}
    assert open_of == {key: slot_of(key) <= SLOTS // 2 for key in open_of}


def test_a_map_that_cannot_be_read_is_not_asked_for_again_at_once(config: CacheConfig) -> None:
    breaker = new_breaker(endpoint_for(config.redis, 0), 1.0, ManualClock())
    breaker.of("key").met(away())
    assert breaker.of("other").is_open


# -- caches -----------------------------------------------------------------------------------


def test_a_full_node_of_a_cluster_can_be_read(config: CacheConfig, nodes: Nodes) -> None:
    cache: Any = URLEmbeddingCache("s", config)._cache
    setting = cache.set_many({"u": [1.0, 2.0], "v": [1.0, 2.0]})
    next(setting)
    with pytest.raises(StopIteration) as ended:
        setting.send([RedisUnavailable("full", code="OOM")] * 2)
    assert ended.value.value == {"u": False, "v": False}
    assert isinstance(next(cache.guarded(cache.get_many(["u", "v"]), dict)), RedisBatch)


@pytest.mark.parametrize("kind", ["redis://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/main"])
def test_one_server_that_is_away_is_not_asked_for_urls_again(config: CacheConfig, kind: str) -> None:
    config = config.replace(redis_url=kind)
    if "sentinel" in kind:
        nodes_for(endpoint_for(config.redis, 1)).take([Range(0, 0, A, 1)])
    cache: Any = URLEmbeddingCache("s", config)._cache
    flow = cache.guarded(cache.get("u"), lambda: None)
    next(flow)
    error = away(maybe_done=True, timed_out=True)
    error.server = f"redis://{A}:1 db 1" if "sentinel" in kind else ""
    with pytest.raises(StopIteration):
        flow.throw(error)
    for again in (cache.get("u"), cache.set_many({"u": [1.0], "v": [1.0]})):
        with pytest.raises(StopIteration) as ended:
            next(cache.guarded(again, lambda: "a miss"))
        assert ended.value.value == "a miss"
    assert cache.counters["degraded"] == 3


def test_a_lookup_that_failed_makes_nothing_else_a_miss_than_what_its_server_has(
    config: CacheConfig, nodes: Nodes
) -> None:
    cache = SemanticCache(HashingEmbedder(), config=config)
    urls: Any = URLEmbeddingCache("s", config)._cache
    core = cache._core
    assert core.redis.breaker is urls.breaker

    def looking(context: dict[str, Any]) -> Flow[Any]:
        return lookup.lookup(core, lookup.Query("a question", context=context))

    def place(context: dict[str, Any]) -> str:
        command = asked(looking(context))
        assert isinstance(command, ScriptCall)
        node = nodes.owner(command.keys[0])
        assert node is not None
        return node.endpoint.host

    contexts = [{"n": n} for n in range(20)]
    places = [place(context) for context in contexts]
    assert set(places) == {A, B}
    flow = looking(contexts[places.index(A)])
    asked(flow)
    with pytest.raises(StopIteration) as ended:
        flow.throw(away(A, maybe_done=True, timed_out=True))
    assert ended.value.value.reason == "redis"
    for context, host in zip(contexts, places, strict=True):
        flow = looking(context)
        if host == B:
            assert asked(flow)
            continue
        with pytest.raises(StopIteration) as ended:
            asked(flow)
        assert ended.value.value.reason == "redis"
    urls_asked = next(urls.guarded(urls.get_many([f"u{n}" for n in range(20)]), dict))
    assert isinstance(urls_asked, RedisBatch)
    assert {nodes.owner(command[1]) for command in urls_asked.commands} == {nodes.masters[1]}  # type: ignore[arg-type]
    assert cache.local_stats["degraded"] == 1 + places.count(A)
