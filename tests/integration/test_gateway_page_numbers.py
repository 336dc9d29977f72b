"""What the page of the gateway asks for: behind the admin key, each tenant apart, of all workers, as text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from lix_cache import CacheConfig, HashingEmbedder
from lix_cache.gateway.prices import PriceSettings
from lix_cache.gateway.settings import TenantSettings
from lix_cache.gateway.tenants import digest_of_key
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import RedisServer
from tests.support.wire import Reply, ask, chat_body, post

ANN, BOB, ADMIN = "ann-key-0123456789abcdef", "bob-key-0123456789abcdef", "admin-key-0123456789abcdef"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def start(provider: Provider, config: CacheConfig | None, **settings: Any) -> RunningGateway:
    tenants = tuple(
        TenantSettings(name, (digest_of_key(key),), sessions=True)
        for name, key in (("ann", ANN), ("bob", BOB))
    )
    defaults: dict[str, Any] = {"tenants": tenants, "admin_key": digest_of_key(ADMIN)}
    embedder = None if config is None else HashingEmbedder()
    return RunningGateway(provider, config, embedder=embedder, **{**defaults, **settings})


@pytest.fixture
def gateway(provider: Provider, redis_config: CacheConfig) -> Iterator[RunningGateway]:
    with start(provider, redis_config) as running:
        yield running


def view(gateway: RunningGateway, path: str, body: Any = None, key: str = ADMIN) -> Reply:
    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return ask(gateway.url, "GET" if body is None else "POST", f"/admin/{path}", data, headers)


@pytest.mark.promise("isolation")
def test_no_number_is_told_without_the_admin_key(gateway: RunningGateway) -> None:
    paths = ["overview", "tenants", "sessions", "transcript?tenant=ann&id=s", "places"]
    for key in ("", ANN, "wrong", digest_of_key(ADMIN)):
        for path in paths:
            assert view(gateway, f"view/{path}", key=key).status == 401, path
        assert view(gateway, "view/explain", {"question": "x", "place": "y"}, key).status == 401
    assert view(gateway, "view/overview").status == 200


@pytest.mark.promise("no-leak")
def test_the_page_needs_no_key_and_trusts_nothing_but_its_own_files(gateway: RunningGateway) -> None:
    assert ask(gateway.url, "GET", "/ui").headers["location"] == "/ui/"
    for name in ("", "main.js", "style.css", "mark.svg"):
        reply = ask(gateway.url, "GET", f"/ui/{name}")
        assert reply.status == 200
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert ADMIN.encode() not in reply.body
    page = ask(gateway.url, "GET", "/ui/").body
    assert page.count(b"<script") == page.count(b'<script type="module" src=') == 1
    assert b"style=" not in page
    assert b"http" not in page, "nothing comes from elsewhere"
    for name in ("../page.py", "..%2fpage.py", "%2e%2e/page.py", "none.js", "a/b", "index.html/x"):
        assert ask(gateway.url, "GET", f"/ui/{name}").status in (400, 404), name
    assert ask(gateway.url, "POST", "/ui/", b"x").status == 405


def test_without_an_admin_key_there_is_no_page(provider: Provider, redis_config: CacheConfig) -> None:
    with RunningGateway(provider, redis_config) as plain:
        found = ask(plain.url, "GET", "/ui/")
        assert (found.status, "admin_key" in found.json["error"]["message"]) == (404, True)


@pytest.mark.promise("isolation")
def test_counts_are_of_the_tenant_that_is_asked_for(gateway: RunningGateway) -> None:
    for _ in range(3):
        post(gateway.url, chat_body(), authorization=ANN)
    post(gateway.url, chat_body("Where is the exit?"), authorization=BOB)
    post(gateway.url, chat_body(), authorization="a stranger's")
    everyone = view(gateway, "view/overview?minutes=15").json
    assert sum(one["requests"] for one in everyone["bins"]) == 5
    ann = view(gateway, "view/overview?minutes=15&tenant=ann").json
    assert [(row["state"], row["reason"], row["count"]) for row in ann["reasons"]] == [
        ("hit-l1-exact", "memory", 2),
        ("miss", "empty", 1),
    ]
    assert ann["durations"] is None, "they are not counted apart"
    assert ann["tokens"]["saved_prompt"] == 2 * ann["tokens"]["spent_prompt"] > 0
    bob = view(gateway, "view/overview?minutes=15&tenant=bob").json
    assert bob["tokens"]["saved_prompt"] == 0
    rows = view(gateway, "view/tenants?minutes=15").json
    assert [(row["name"], row["requests"], row["hits"]) for row in rows["tenants"]] == [
        ("ann", 3, 2),
        ("bob", 1, 0),
    ]
    assert rows["refused"] == 1
    assert digest_of_key(ANN) not in json.dumps(rows)
    assert [row["state"] for row in everyone["durations"]] == ["bypass", "hit-l1-exact", "miss"]
    assert view(gateway, "view/overview?minutes=7").status == 400


def test_money_is_counted_with_the_prices_that_are_set_and_no_others(
    provider: Provider, redis_config: CacheConfig
) -> None:
    prices = (PriceSettings(("m-1",), prompt=1e6, completion=2e6, currency="CHF"),)
    with start(provider, redis_config, prices=prices) as gateway:
        replies = [
            post(gateway.url, {**chat_body(), "model": model}, authorization=ANN).json["usage"]
            for model in ("m-1", "m-1", "m-2", "m-2")
        ]
        found = view(gateway, "view/overview").json
    usage = replies[0]
    cost = usage["prompt_tokens"] + 2 * usage["completion_tokens"]
    assert found["money"]["currency"] == "CHF"
    assert (found["money"]["saved"], found["money"]["spent"]) == (cost, cost)
    assert found["money"]["unpriced_tokens"] == 2 * replies[2]["total_tokens"]
    with start(provider, redis_config) as gateway:
        assert view(gateway, "view/overview").json["money"] is None


def test_workers_see_each_others_counts_once(provider: Provider, redis_config: CacheConfig) -> None:
    with start(provider, redis_config) as first, start(provider, redis_config) as second:
        post(first.url, chat_body(), authorization=ANN)
        post(second.url, chat_body("Where is the exit?"), authorization=ANN)
        for _ in range(3):  # told again and again: written whole, never added
            for one in (first, second):
                one.core.timeline.minutes.changed |= set(one.core.timeline.minutes.between(0, 1 << 40))
                one.do(one.core.timeline.tell())
        for one in (first, second):
            found = view(one, "view/overview").json
            assert sum(part["requests"] for part in found["bins"]) == 2
            assert len(found["workers"]) == 2
            assert found["is_whole"]
    # Both have ended: a new one knows what they did.
    with start(provider, redis_config) as third:
        found = view(third, "view/overview").json
        assert sum(part["requests"] for part in found["bins"]) == 2


@pytest.mark.promise("bad-bytes")
def test_foreign_bytes_among_the_counts_are_left_out(
    gateway: RunningGateway, redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    post(gateway.url, chat_body(), authorization=ANN)
    gateway.do(gateway.core.timeline.tell())
    client = redis_server.client(db=redis_config.semantic_redis_db)
    names = [name for name in client.keys(f"{redis_config.redis_key_prefix}:*") if b":gw:minutes:" in name]
    assert names
    (minute,) = {field.split(b":")[0] for field in client.hkeys(names[0]) if field[:1].isdigit()}
    junk = [b"", b"[]", b"null", b"\xff" * 100, b'{"r":[[1,2,3,4]],"t":[],"a":{},"w":{}}', b"[" * 5000]
    junk += [b'{"r":[["a","b","c",-5]],"t":[],"a":{},"w":{}}', b'{"r":[],"t":[],"a":{"x":[[999,1]]},"w":{}}']
    for name in names:
        for number, data in enumerate(junk):
            client.hset(name, minute + b":other%d" % number, data)
            client.hset(name, b"places:other%d" % number, data)
        client.hset(name, b"x:other", b"{}")
    found = view(gateway, "view/overview").json
    assert sum(one["requests"] for one in found["bins"]) == 1
    assert len(view(gateway, "view/places").json["places"]) == 1


def test_without_redis_the_worker_says_that_the_counts_are_its_own(provider: Provider) -> None:
    with start(provider, None) as gateway:
        post(gateway.url, chat_body(), authorization=ANN)
        found = view(gateway, "view/overview").json
        assert sum(one["requests"] for one in found["bins"]) == 1
        assert (found["is_whole"], found["redis"], found["workers"]) == (False, False, [found["worker"]])
        assert view(gateway, "view/sessions").json["is_on"] is False
        assert view(gateway, "view/transcript?tenant=ann&id=s").status == 404
        assert view(gateway, "view/places").json == {"is_on": False, "places": []}


def test_a_question_is_explained_with_its_neighbours_and_leaves_no_trace(
    gateway: RunningGateway, provider: Provider
) -> None:
    for text in ("How do I reset my password?", "How do I turn on the lights in the kitchen?"):
        post(gateway.url, chat_body(text), authorization=ANN)
    gateway.settle()
    calls, before = len(provider.calls), view(gateway, "view/overview").json["reasons"]
    (place,) = view(gateway, "view/places").json["places"]
    assert (place["tenant"], place["protocol"], place["model"], place["count"]) == ("ann", "chat", "m-1", 2)

    def why(question: str) -> Any:
        return view(gateway, "view/explain", {"place": place["id"], "question": question}).json

    hit = why("how do I reset my password please")
    assert (hit["cache"], hit["reason"], hit["entries"]) == ("hit-l2-semantic", "semantic", 2)
    assert hit["similarity"] >= hit["thresholds"]["threshold"]
    assert [one["answer"] for one in hit["neighbours"]] == [0, 1]
    assert (
        hit["neighbours"][0]["text"] == "how do i reset my password?" or hit["neighbours"][0]["guard"] == ""
    )
    other = why("How do I turn off the lights in the kitchen?")
    assert (other["cache"], other["reason"]) == ("miss", "guard")
    assert other["neighbours"][0]["guard"] == "direction"
    assert other["votes"] == 1
    assert why("How do I reset my password?")["reason"] == "exact"
    assert why("Is it raining in Bern?")["reason"] == "below_threshold"
    assert why(HOSTILE)["cache"] == "miss"
    assert len(provider.calls) == calls
    assert view(gateway, "view/overview").json["reasons"] == before
    assert view(gateway, "view/places").json["places"][0]["count"] == 2
    for body in (
        {"question": "x", "place": "none"},
        {"place": place["id"], "question": 7},
        {"question": ""},
        [1],
    ):
        assert view(gateway, "view/explain", body).status in (400, 404)
    too_long = {"place": place["id"], "question": "x" * 8001}
    assert view(gateway, "view/explain", too_long).status == 400


@pytest.mark.promise("isolation")
def test_an_explanation_stays_in_the_place_that_it_names(gateway: RunningGateway) -> None:
    post(gateway.url, chat_body("How do I reset my password?"), authorization=ANN)
    post(gateway.url, chat_body("Where is the exit?"), authorization=BOB)
    gateway.settle()
    places = {one["tenant"]: one["id"] for one in view(gateway, "view/places").json["places"]}
    found = view(
        gateway, "view/explain", {"place": places["bob"], "question": "How do I reset my password?"}
    ).json
    assert found["cache"] == "miss"
    assert [one["text"].lower() for one in found["neighbours"]] == ["where is the exit?"]


@pytest.mark.promise("isolation")
def test_sessions_are_shown_by_tenant_and_what_they_hold_stays_text(
    gateway: RunningGateway, redis_config: CacheConfig
) -> None:
    from lix_cache import CacheCoordinator

    CacheCoordinator("an application's own", redis_config).add_message_to_context("user", "not the gateway's")
    for key, name, text in ((ANN, HOSTILE.replace("/", ""), HOSTILE), (ANN, "s", "one"), (BOB, "s", "two")):
        post(gateway.url, chat_body(text), authorization=key, x_session_id=name)
        gateway.settle()
    found = view(gateway, "view/sessions").json["sessions"]
    assert [(one["tenant"], one["id"]) for one in found] == [
        ("bob", "s"),
        ("ann", "s"),
        ("ann", HOSTILE.replace("/", "")),
    ]
    assert {one["tenant"] for one in view(gateway, "view/sessions?tenant=ann").json["sessions"]} == {"ann"}
    assert view(gateway, "view/sessions?tenant=none").json["sessions"] == []

    def said(tenant: str, name: str) -> Any:
        return view(gateway, f"view/transcript?tenant={quote(tenant)}&id={quote(name, safe='')}")

    shown = said("ann", HOSTILE.replace("/", ""))
    assert [one["role"] for one in shown.json["messages"]] == ["user", "assistant"]
    assert shown.json["messages"][0]["content"] == HOSTILE
    assert shown.headers["content-type"] == "application/json"
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert said("bob", "s").json["messages"][0]["content"] == "two"
    assert said("ann", "none").status == 404
    for tenant, name in (
        ("ann/s", "x"),
        ("..", "s"),
        ("", "s"),
        ("ann", "../bob/s"),
        ("ann", "a/b"),
        ("ann", ""),
    ):
        assert said(tenant, name).status in (400, 404), (tenant, name)
    assert view(gateway, "view/transcript?tenant=ann&id=s&before=junk").status == 400
    assert view(gateway, "view/sessions?cursor=junk").status == 400


def test_a_long_transcript_comes_in_pages(gateway: RunningGateway, redis_config: CacheConfig) -> None:
    from lix_cache import CacheCoordinator, SessionKey

    session = CacheCoordinator(SessionKey("ann", "long"), redis_config)
    session.add_messages_to_context([{"role": "user", "content": f"m{i}"} for i in range(120)])
    seen: list[str] = []
    before = ""
    while True:
        found = view(
            gateway,
            f"view/transcript?tenant=ann&id=long&before={before}"
            if before
            else "view/transcript?tenant=ann&id=long",
        ).json
        seen[:0] = [one["content"] for one in found["messages"]]
        before = found["before"] or ""
        if not before:
            break
    assert seen == [f"m{i}" for i in range(120)]
