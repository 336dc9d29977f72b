"""The admin's routes: behind a key of their own; purges and explanations stay with one tenant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lix_cache import CacheConfig, HashingEmbedder
from lix_cache.gateway.settings import TenantSettings
from lix_cache.gateway.tenants import digest_of_key
from tests.support.provider import Provider, RunningGateway
from tests.support.wire import CHAT, Reply, ask, chat_body, post

ANN, BOB, ADMIN = "ann-key-0123456789abcdef", "bob-key-0123456789abcdef", "admin-key-0123456789abcdef"


@pytest.fixture
def gateway(provider: Provider, redis_config: CacheConfig) -> Iterator[RunningGateway]:
    tenants = tuple(TenantSettings(name, (digest_of_key(key),)) for name, key in (("ann", ANN), ("bob", BOB)))
    with RunningGateway(
        provider, redis_config, embedder=HashingEmbedder(), tenants=tenants, admin_key=digest_of_key(ADMIN)
    ) as running:
        yield running


def admin(gateway: RunningGateway, path: str, body: Any = None, key: str = ADMIN) -> Reply:
    method = "GET" if body is None else "POST"
    data = None if body is None else json.dumps(body).encode()
    return ask(gateway.url, method, f"/admin/{path}", data, {"authorization": f"Bearer {key}"})


def test_without_its_key_there_is_no_admin(
    gateway: RunningGateway, provider: Provider, redis_config: CacheConfig
) -> None:
    for key in ("", ANN, "wrong"):
        assert admin(gateway, "stats", key=key).status == 401
        assert admin(gateway, "purge", {"tenant": "ann"}, key).status == 401
    assert ask(gateway.url, "GET", "/metrics", headers={"authorization": f"Bearer {ADMIN}"}).status == 200


OWN = (
    "/admin/reload",
    "/admin",
    "//admin/reload",
    "/%61dmin/reload",
    "/./admin/reload",
    "/Admin/reload",
    "/admin;x/reload",
    "/\\admin/reload",
    "/ui",
    "/ui/",
    "/ui/main.js",
    "/metrics/",
    "/ready/x",
    "/healthz/",
)


@pytest.mark.promise("no-leak")
@pytest.mark.parametrize("has_key", [True, False])
def test_the_gateways_own_paths_never_reach_a_provider(
    provider: Provider, redis_config: CacheConfig, has_key: bool
) -> None:
    with RunningGateway(provider, redis_config, admin_key=digest_of_key(ADMIN) if has_key else "") as gateway:
        for path in OWN:
            for method in ("GET", "POST"):
                found = ask(gateway.url, method, path, b"{}", {"authorization": "Bearer secret"})
                if has_key:
                    # Every answer that came from a provider, or was refused, says how it was answered.
                    assert "x-lix-cache" not in {name.lower() for name in found.headers}, path
                    continue
                assert found.status == 404, path
                error = found.json["error"]
                assert "admin_key" in error["message"]
                assert "lix-cache serve --hash-key" in error["message"]
                assert found.headers["x-lix-cache-reason"] == "no_admin_key"


@pytest.mark.promise("isolation")
def test_a_purge_stays_with_one_tenant(gateway: RunningGateway) -> None:
    other = {**chat_body("How do I pay?"), "model": "m-2"}
    for key in (ANN, BOB):
        post(gateway.url, chat_body(), authorization=key)
        post(gateway.url, other, authorization=key)
    gateway.settle()
    assert admin(gateway, "purge", {"tenant": "ann", "model": "m-1"}).json == {
        "memory": 1,
        "redis": 1,
        "by_meaning": 1,
    }
    assert post(gateway.url, other, authorization=ANN).state == "hit-l1-exact"
    assert post(gateway.url, chat_body(), authorization=ANN).state == "miss"
    gateway.settle()
    assert admin(gateway, "purge", {"tenant": "ann", "older_than_seconds": 1000}).json["redis"] == 0
    assert admin(gateway, "purge", {"tenant": "ann"}).json["redis"] == 2
    for body in (chat_body(), other):
        assert post(gateway.url, body, authorization=BOB).state == "hit-l1-exact"
    gateway.forget()
    assert post(gateway.url, other, authorization=BOB).reason == "redis"
    assert admin(gateway, "purge", {}).status == 400


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("age", [-1, -1e9, -0.001, 1e11, 1e308])
def test_a_purge_of_an_age_that_makes_no_sense_drops_nothing_and_stores_go_on(
    age: float, gateway: RunningGateway
) -> None:
    post(gateway.url, chat_body(), authorization=ANN)
    refused = admin(gateway, "purge", {"tenant": "ann", "older_than_seconds": age})
    assert (refused.status, refused.json["error"]["type"]) == (400, "invalid_input")
    gateway.forget()
    assert post(gateway.url, chat_body(), authorization=ANN).reason == "redis"
    later = chat_body("What comes later?")
    post(gateway.url, later, authorization=ANN)
    gateway.forget()
    assert post(gateway.url, later, authorization=ANN).reason == "redis"


@pytest.mark.promise("isolation")
def test_answers_are_purged_by_the_tags_that_clients_gave(gateway: RunningGateway) -> None:
    asked = [("How do I pay?", "docs, prices"), ("Where is it?", "docs"), ("Who are you?", "")]
    for key in (ANN, BOB):
        for text, tags in asked:
            extra = {"x_lix_cache_tags": tags} if tags else {}
            assert post(gateway.url, chat_body(text), authorization=key, **extra).state == "miss"
    gateway.settle()
    both = {"tenant": "ann", "tag": "prices"}
    assert admin(gateway, "purge", both).json == {"memory": 1, "redis": 1, "by_meaning": 1}
    gateway.forget()
    states = [post(gateway.url, chat_body(text), authorization=ANN).reason for text, _ in asked]
    assert states[1:] == ["redis", "redis"]
    assert states[0] != "redis"
    gateway.settle()
    assert admin(gateway, "purge", {"tenant": "ann", "tag": "docs"}).json["redis"] == 1
    assert admin(gateway, "purge", {"tenant": "ann", "tag": "id-1"}).json["redis"] == 0
    assert post(gateway.url, chat_body("How do I pay?"), authorization=BOB).state == "hit-l1-exact"
    for tags in ("a b", "x" * 65, "../x", ",".join(f"t{n}" for n in range(17))):
        assert post(gateway.url, chat_body(), authorization=ANN, x_lix_cache_tags=tags).status == 400


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("settings", [{}, {"semantic": False}], ids=["semantic", "exact"])
@pytest.mark.parametrize("near", [False, True], ids=["same", "near"])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"x-lix-cache-mode": "exact"},
        {"x-lix-cache-mode": "semantic"},
        {"x-lix-cache-threshold": "0.9999"},
        {"cache-control": "no-cache"},
        {"cache-control": "min-fresh=9999999"},
    ],
    ids=["plain", "exact", "semantic", "threshold", "no-cache", "min-fresh"],
)
def test_an_explanation_says_what_the_request_would_get(
    extra: dict[str, str],
    near: bool,
    settings: dict[str, Any],
    provider: Provider,
    redis_config: CacheConfig,
) -> None:
    everyone = {"embedder": HashingEmbedder(), "admin_key": digest_of_key(ADMIN)}
    with RunningGateway(provider, redis_config, **everyone, **settings) as gateway:
        key = {"authorization": "Bearer a-key-of-a-provider"}
        post(gateway.url, chat_body("How do I reset my password?"), **key, x_lix_cache_mode="semantic")
        gateway.settle()
        body = chat_body("how do I reset my password please" if near else "How do I reset my password?")
        asked = {"path": CHAT, "headers": {**key, **extra}, "body": body}
        said = admin(gateway, "explain", asked).json["cache"]
        assert said == post(gateway.url, body, **key, **extra).state


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("text", ["How do I reset my password?", "how do I reset my password please"])
@pytest.mark.parametrize(
    ("path", "other"),
    [
        (f"{CHAT}/", ""),
        (f"/{CHAT}", ""),
        (CHAT.replace("chat", "%63hat"), ""),
        (f"{CHAT}?api-version=2024-10-21", f"{CHAT}?api-version=2025-01-01"),
        (f"{CHAT}/?beta=true", f"{CHAT}/?beta=false"),
    ],
)
def test_a_path_is_explained_as_it_is_served(
    path: str, other: str, text: str, provider: Provider, redis_config: CacheConfig
) -> None:
    """In every spelling; the query is a part of the question."""
    everyone = {"embedder": HashingEmbedder(), "admin_key": digest_of_key(ADMIN)}
    with RunningGateway(provider, redis_config, **everyone) as gateway:
        key = {"authorization": "Bearer a-key-of-a-provider"}
        post(gateway.url, chat_body("How do I reset my password?"), path, **key)
        gateway.settle()
        for one in filter(None, (path, other)):
            asked = {"path": one, "headers": key, "body": chat_body(text)}
            said = admin(gateway, "explain", asked).json["cache"]
            assert said.startswith("hit" if one == path else "miss")
            assert said == post(gateway.url, chat_body(text), one, **key).state


def test_a_path_that_is_not_served_from_the_cache_is_not_explained(gateway: RunningGateway) -> None:
    for path, status in (("/v1/embeddings/", 422), ("/v1/a/../chat/completions", 400), ("", 400)):
        assert admin(gateway, "explain", {"path": path, "body": chat_body()}).status == status


@pytest.mark.promise("right-answer")
def test_an_answer_that_does_not_suit_is_explained_as_a_miss(gateway: RunningGateway) -> None:
    # Whoever asks for a stream without its tokens leaves an answer without them.
    post(gateway.url, chat_body(stream=True), authorization=ANN)
    gateway.settle()
    asked = {"tenant": "ann", "path": CHAT, "headers": {"authorization": ANN}, "body": chat_body()}
    found = admin(gateway, "explain", asked).json
    assert (found["cache"], found["reason"]) == ("miss", "unsuited")
    streamed = {**asked, "body": chat_body(stream=True)}
    assert admin(gateway, "explain", streamed).json["cache"] == "hit-l1-exact"
    asked["path"] = "/v1/embeddings"
    assert admin(gateway, "explain", asked).status == 422


@pytest.mark.promise("right-answer")
def test_who_is_no_tenant_is_explained_no_miss(
    gateway: RunningGateway, provider: Provider, redis_config: CacheConfig
) -> None:
    asked = {"path": CHAT, "body": chat_body()}
    for tenant, status in ((None, 400), ("", 400), ("local", 404), ("anne", 404)):
        more = {} if tenant is None else {"tenant": tenant}
        reply = admin(gateway, "explain", {**asked, **more})
        assert (reply.status, reply.json["error"]["type"]) == (status, "unknown_tenant")
    with RunningGateway(provider, redis_config, admin_key=digest_of_key(ADMIN)) as alone:
        for more in ({}, {"tenant": "local"}):
            assert admin(alone, "explain", {**asked, **more}).json["cache"] == "miss"
        assert admin(alone, "explain", {**asked, "tenant": "ann"}).status == 404


def test_a_purge_of_no_tenant_says_so_and_drops_what_a_former_one_left(
    gateway: RunningGateway, provider: Provider, redis_config: CacheConfig
) -> None:
    post(gateway.url, chat_body(), authorization=ANN)
    gateway.settle()
    assert admin(gateway, "purge", {"tenant": "anne"}).json["known"] is False
    with RunningGateway(provider, redis_config, admin_key=digest_of_key(ADMIN)) as without:
        found = admin(without, "purge", {"tenant": "ann"}).json
        assert (found["redis"], found["known"]) == (1, False)
        assert "known" not in admin(without, "purge", {"tenant": "local"}).json


def test_an_explanation_leaves_no_trace(gateway: RunningGateway, provider: Provider) -> None:
    headers = {"authorization": f"Bearer {ANN}"}

    def why(body: Any, **more: Any) -> Any:
        return admin(
            gateway, "explain", {"tenant": "ann", "path": CHAT, "headers": headers, "body": body, **more}
        ).json

    body = chat_body("How do I reset my password?")
    assert why(body)["cache"] == "miss"
    post(gateway.url, body, **headers)
    gateway.settle()
    calls = len(provider.calls)
    assert (why(body)["cache"], why(body)["reason"]) == ("hit-l1-exact", "memory")
    gateway.forget()
    for _ in range(2):
        assert (why(body)["cache"], why(body)["reason"]) == ("hit-l1-exact", "redis")
    near = why(chat_body("how do I reset my password please"))
    assert (near["cache"], near["by_meaning"]["reason"]) == ("hit-l2-semantic", "semantic")
    assert why(chat_body("How do I reset my passport?"))["cache"] == "miss"
    assert why(body, tenant="bob")["cache"] == "miss"
    assert why({**body, "tools": [{"type": "mcp"}]}) == {"cache": "bypass", "reason": "server_tool"}
    assert why(body, path="/v1/other")["reason"] == "path"
    assert len(provider.calls) == calls
    stats = admin(gateway, "stats").json
    assert stats["stored"] == 1
    assert {row["tenant"] for row in stats["requests"]} == {"ann"}
