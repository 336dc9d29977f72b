"""What wins where two things meet: a purge over a store, a client over the cache, the page over idling."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache import CacheConfig, HashingEmbedder
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.headers import read_control, returned
from lix_cache.gateway.settings import TenantSettings, read_settings
from lix_cache.gateway.settings_file import SettingsError
from lix_cache.gateway.tenants import digest_of_key
from lix_cache.messages.session_key import SessionKey
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import wait_until
from tests.support.wire import Reply, ask, chat_body, post


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def _asked_meanwhile(provider: Provider, gateway: RunningGateway, work: threading.Thread) -> None:
    """Begin a request, do something while its answer is under way, and let it end."""
    provider.gate.clear()
    calls = len(provider.calls)
    asking = threading.Thread(target=post, args=(gateway.url, chat_body()))
    try:
        asking.start()
        wait_until(lambda: len(provider.calls) > calls, what="the provider to be asked")
        work.start()
        work.join(30)
    finally:
        provider.gate.set()
    asking.join(30)
    gateway.settle()


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("what", ["all", "model", "tag of none"])
def test_an_answer_asked_for_before_a_purge_is_not_stored_after_it(
    where: str, what: str, provider: Provider, redis_config: CacheConfig
) -> None:
    """Elsewhere: by another worker, which knows nothing of the request."""
    model, tag = ("m-1" if what == "model" else None), ("none" if what == "tag of none" else None)
    config = dataclasses.replace(redis_config, redis_buckets=3)
    embedder = HashingEmbedder()
    with (
        RunningGateway(provider, config, embedder=embedder) as one,
        RunningGateway(provider, config, embedder=embedder) as other,
    ):
        purging = one if where == "here" else other
        work = threading.Thread(target=lambda: purging.do(purging.core.purge("local", model, None, tag)))
        _asked_meanwhile(provider, one, work)
        if what != "tag of none":
            for gateway in (one, other):
                assert post(gateway.url, chat_body(), cache_control="only-if-cached").status == 504
            assert post(one.url, chat_body()).state == "miss"
        else:
            post(one.url, chat_body())
        one.settle()
        assert post(one.url, chat_body()).state == "hit-l1-exact", "what was asked for afterwards is kept"


@pytest.mark.promise("right-answer")
def test_a_request_after_a_purge_does_not_follow_one_from_before(
    provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config) as gateway:
        calls = len(provider.calls)

        def purge_and_ask() -> None:
            gateway.do(gateway.core.purge("local", None, None))
            later.start()
            wait_until(lambda: len(provider.calls) == calls + 2, what="a call of its own")

        later = threading.Thread(target=post, args=(gateway.url, chat_body()))
        _asked_meanwhile(provider, gateway, threading.Thread(target=purge_and_ask))
        later.join(30)
        gateway.settle()
        assert len(provider.calls) == calls + 2
        assert post(gateway.url, chat_body()).state == "hit-l1-exact", "the later one is kept"


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    ("reads", "path", "body"),
    [
        ("get", "/v1/chat/completions", chat_body("Read meanwhile?")),
        ("get_many", "/v1/embeddings", {"model": "m-e", "input": ["read", "meanwhile"]}),
    ],
)
def test_a_purge_wins_over_a_read_of_redis_that_began_before_it(
    reads: str,
    path: str,
    body: dict[str, Any],
    provider: Provider,
    redis_config: CacheConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with RunningGateway(provider, redis_config) as gateway:
        core = gateway.core
        post(gateway.url, body, path)
        gateway.forget()
        read = getattr(core.redis, reads)

        async def purged_meanwhile(*of: Any, **options: Any) -> Any:
            found = await read(*of, **options)
            await core.purge("local", None, None)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(core.redis, reads, purged_meanwhile)
            assert post(gateway.url, body, path, cache_control="only-if-cached").status == 504
        assert len(core.memory) == 0
        assert post(gateway.url, body, path).state == "miss"


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("step", ["put", "name_answer"])
def test_a_response_that_is_deleted_while_it_is_stored_is_not_kept(
    step: str, provider: Provider, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, body = "/v1/responses", {"model": "m-1", "input": f"Deleted before {step}?"}
    with RunningGateway(provider, redis_config) as gateway:
        core, tenant = gateway.core, gateway.core.tenants.find({})
        real = getattr(core.redis, step)
        deleted: list[str] = []

        async def deleted_meanwhile(*of: Any) -> Any:
            (entry,) = core.memory._entries.values()
            deleted.append(entry.answer.id)
            await core.forget_response(tenant, entry.answer.id)
            return await real(*of)

        with monkeypatch.context() as patch:
            patch.setattr(core.redis, step, deleted_meanwhile)
            first = post(gateway.url, body, path).json["id"]
            gateway.settle()
        assert deleted == [first]
        assert post(gateway.url, body, path, cache_control="only-if-cached").status == 504
        assert post(gateway.url, body, path).state == "miss"
        gateway.settle()
        assert post(gateway.url, body, path).state == "hit-l1-exact", "the next one is kept"


def test_an_answer_to_a_delete_is_let_go_where_forgetting_fails(
    provider: Provider, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunningGateway(provider, redis_config) as gateway:
        upstream, closed = gateway.core.routes.routes[0].upstream, []
        send = upstream.send

        async def sent(request: Any) -> Any:
            incoming = await send(request)
            close = incoming.close

            def closing() -> None:
                closed.append(1)
                close()

            monkeypatch.setattr(incoming, "close", closing)
            return incoming

        async def fails(*_: Any) -> None:
            raise RuntimeError("scripted")

        monkeypatch.setattr(upstream, "send", sent)
        monkeypatch.setattr(gateway.core, "forget_response", fails)
        made = post(gateway.url, {"model": "m-1", "input": "Made"}, "/v1/responses").json["id"]
        gateway.settle()
        closed.clear()
        assert ask(gateway.url, "DELETE", f"/v1/responses/{made}").status == 500
        assert closed == [1]


def test_min_fresh_and_pragma_are_heeded(provider: Provider, redis_config: CacheConfig) -> None:
    embedder = HashingEmbedder()
    with RunningGateway(provider, redis_config, embedder=embedder, ttl_seconds=1000) as gateway:
        for _ in range(2):  # out of memory, then out of Redis
            post(gateway.url, chat_body())
            gateway.settle()
            assert post(gateway.url, chat_body(), cache_control="min-fresh=10").state == "hit-l1-exact"
            assert post(gateway.url, chat_body(), cache_control="min-fresh=2000").state == "miss"
            assert post(gateway.url, chat_body(), cache_control="min-fresh=soon").state == "miss"
            gateway.forget()
        assert post(gateway.url, chat_body(), pragma="No-Cache").reason == "no_cache"


def test_control_words_of_http_are_read() -> None:
    assert read_control({"cache-control": "min-fresh=3, min-fresh=5"}).min_fresh == 5.0
    assert read_control({"pragma": "no-cache"}).no_cache
    assert read_control({"pragma": "x, no-cache", "cache-control": "max-age=5"}).no_cache
    assert not read_control({"pragma": "x-no-cache"}).no_cache
    with pytest.raises(Refused):
        read_control({"x-lix-cache-ttl": "0", "pragma": "no-cache"})


@pytest.mark.parametrize(
    ("kind", "is_inert"),
    [
        (b"application/json", True),
        (b"application/json; charset=utf-8", True),
        (b"text/event-stream", True),
        (b"text/html", False),
        (b"image/svg+xml", False),
        (b"application/xhtml+xml", False),
        (b"text/javascript", False),
        (b"", False),
        (None, False),
    ],
)
@pytest.mark.promise("isolation")
def test_a_providers_page_has_no_part_in_the_gateways_origin(kind: bytes | None, is_inert: bool) -> None:
    pairs = [] if kind is None else [(b"Content-Type", kind)]
    found = returned([*pairs, (b"Content-Security-Policy", b"default-src *")])
    policies = [value for name, value in found if name == b"content-security-policy"]
    assert policies == [b"default-src *", *([] if is_inert else [b"sandbox"])], "a browser heeds all of them"
    assert ((b"x-content-type-options", b"nosniff") in found) is not is_inert


def test_two_kinds_are_none() -> None:
    kinds = [(b"content-type", b"application/json"), (b"content-type", b"text/html")]
    assert (b"content-security-policy", b"sandbox") in returned(kinds)


def test_all_mistakes_of_one_entry_are_said_at_once() -> None:
    tenant = {"name": "../a", "keys": ["plain"], "scopes": ["all"], "requests_per_minute": -1, "modles": []}
    upstream = {"name": "", "url": "ftp://x"}
    with pytest.raises(SettingsError) as info:
        read_settings(None, {}, tenants=[tenant], upstreams=[upstream, {"name": 1, "url": "http://a:x"}])
    said = "; ".join(info.value.problems)
    words = ["name of a tenant", "needs keys", "scopes of", "requests_per_minute", "tenants[0].'modles'"]
    words += ["name of an upstream", "begin with http", "upstreams[1].name must be str", "be an address"]
    for one in words:
        assert said.count(one) == 1, (one, info.value.problems)
    assert len(info.value.problems) == len(words)


@pytest.mark.promise("no-loss")
def test_a_turn_and_its_answer_are_kept_together_or_not_at_all(
    provider: Provider, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from lix_cache.coordinator import AsyncCacheCoordinator

    added = []
    real = AsyncCacheCoordinator.add_messages_to_context

    async def noted(self: AsyncCacheCoordinator, messages: list[dict[str, Any]]) -> object:
        added.append(len(messages))
        return await real(self, messages)

    monkeypatch.setattr(AsyncCacheCoordinator, "add_messages_to_context", noted)
    config = redis_config.replace(archive_dir=str(tmp_path))
    with RunningGateway(provider, config, sessions=True) as gateway:
        assert post(gateway.url, chat_body(), x_session_id="s").status == 200
        gateway.settle()
        assert added == [2]
        assert gateway.core.sessions is not None
        window = gateway.do(gateway.core.sessions.window(SessionKey("local", "s")))
        assert [one["role"] for one in window] == ["user", "assistant"]


def test_the_page_is_heard_of(provider: Provider) -> None:
    with RunningGateway(provider, None, admin_key="sha256:" + "0" * 64) as gateway:
        before = gateway.app.last_page
        assert ask(gateway.url, "GET", "/ui/mark.svg").status == 200
        assert gateway.app.last_page > before
        seen = gateway.app.last_page
        ask(gateway.url, "GET", "/healthz")
        assert gateway.app.last_page == seen, "a probe is no page"


ANN, BOB = "ann-key-0123456789abcdef", "bob-key-0123456789abcdef"
TENANTS = tuple(TenantSettings(name, (digest_of_key(key),)) for name, key in (("ann", ANN), ("bob", BOB)))


@pytest.mark.promise("isolation")
def test_a_purge_empties_the_memory_of_one_tenant_alone(
    provider: Provider, redis_config: CacheConfig
) -> None:
    def held(gateway: RunningGateway) -> list[tuple[str, str]]:
        return sorted((entry.tenant, entry.model) for entry in gateway.core.memory._entries.values())

    other = {**chat_body(), "model": "m-2"}
    with (
        RunningGateway(provider, redis_config, tenants=TENANTS) as here,
        RunningGateway(provider, redis_config, tenants=TENANTS) as there,
    ):
        for gateway in (here, there):
            for key in (ANN, BOB):
                post(gateway.url, chat_body(), authorization=key)
                post(gateway.url, other, authorization=key)
                gateway.settle()
        all_of_them = [(name, model) for name in ("ann", "bob") for model in ("m-1", "m-2")]
        assert held(here) == held(there) == all_of_them
        here.do(here.core.purge("ann", "m-1", None))
        wait_until(lambda: ("ann", "m-1") not in held(there), what="the word of it")
        assert held(here) == held(there) == all_of_them[1:], "another tenant's stay, and another model's"
        there.do(there.core.purge("bob", None, None))
        wait_until(lambda: ("bob", "m-1") not in held(here), what="the word of it")
        assert held(here) == held(there) == [("ann", "m-2")]


@pytest.mark.promise("isolation")
def test_a_purge_lets_the_requests_of_another_tenant_go_on_together(provider: Provider) -> None:
    with RunningGateway(provider, None, tenants=TENANTS) as gateway:
        provider.gate.clear()
        calls = len(provider.calls)
        replies: list[Reply] = []

        def asking() -> threading.Thread:
            thread = threading.Thread(
                target=lambda: replies.append(post(gateway.url, chat_body(), authorization=ANN))
            )
            thread.start()
            return thread

        threads = [asking()]
        wait_until(lambda: len(provider.calls) == calls + 1, what="the first request")
        gateway.do(gateway.core.purge("bob", None, None))
        threads.append(asking())
        (flight,) = gateway.core.flights.values()
        wait_until(lambda: len(flight._readers) == 2, what="the second one")
        gateway.do(gateway.core.purge("ann", None, None))
        assert not gateway.core.flights, "what comes from here on is asked again"
        provider.gate.set()
        for thread in threads:
            thread.join(60)
        assert [reply.status for reply in replies] == [200, 200]
        assert len(provider.calls) == calls + 1
