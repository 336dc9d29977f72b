"""Credentials: which headers hold them, and who gets them."""

from __future__ import annotations

import json

import pytest

from lix_cache import CacheConfig
from lix_cache.gateway.settings import TenantSettings, UpstreamSettings
from lix_cache.gateway.tenants import digest_of_key
from tests.support.provider import Provider, RunningGateway
from tests.support.wire import CHAT, ask, chat_body, post

KEY = "ann-key-0123456789abcdef"


@pytest.mark.promise("no-leak")
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files"])
def test_a_key_of_the_gateway_goes_to_no_provider_in_any_header(
    path: str, provider: Provider, redis_config: CacheConfig
) -> None:
    provider.calls.clear()
    tenants = (TenantSettings("ann", (digest_of_key(KEY),)),)
    with RunningGateway(provider, redis_config, tenants=tenants) as gateway:
        for shown in ({"x_lix_key": KEY}, {"authorization": f"Bearer {KEY}"}, {"x_api_key": KEY}):
            more = dict.fromkeys(("cookie", "x_goog_api_key", "x_any", "authorization"), f"a {KEY}; b")
            assert post(gateway.url, chat_body(str(shown)), path, **{**more, **shown}).status == 200
    assert len(provider.calls) == 3
    assert not [call.headers for call in provider.calls if KEY in str(call.headers)]


OTHER_KEY = "ann-key-that-comes-after-it"
TWO_KEYS = (TenantSettings("ann", (digest_of_key(KEY), digest_of_key(OTHER_KEY))),)


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "x-lix-key"])
def test_all_keys_of_a_tenant_share_answers_where_its_provider_asks_for_none(
    name: str, provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(
        provider, redis_config, tenants=TWO_KEYS, admin_key=digest_of_key("admin-key-01234567")
    ) as gateway:
        said = {"authorization": "Bearer " + KEY} if name == "authorization" else {name: KEY}
        data = json.dumps(chat_body()).encode()
        assert ask(gateway.url, "POST", CHAT, data, said).state == "miss"
        for more in (
            {name: OTHER_KEY},
            {"x-lix-key": OTHER_KEY},
            {"x-lix-key": KEY, "authorization": f"Bearer {OTHER_KEY}"},
            {"x-api-key": OTHER_KEY, "x-goog-api-key": OTHER_KEY},
        ):
            assert ask(gateway.url, "POST", CHAT, data, more).state == "hit-l1-exact", more
        assert len(provider.calls) == 1
        for shown in ({}, said):
            asked = {"tenant": "ann", "path": CHAT, "headers": shown, "body": chat_body()}
            admin = {"authorization": "Bearer admin-key-01234567"}
            found = ask(gateway.url, "POST", "/admin/explain", json.dumps(asked).encode(), admin).json
            assert found["cache"] == "hit-l1-exact"


@pytest.mark.promise("isolation")
def test_a_providers_key_beside_one_of_the_gateway_keeps_its_answers_to_itself(
    provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config, tenants=TWO_KEYS) as gateway:
        data = json.dumps(chat_body()).encode()
        asked: list[dict[str, str]] = [
            {},
            {"authorization": "Bearer sk-one"},
            {"authorization": "Bearer sk-two"},
            {"x-api-key": "sk-one"},
            {"api-key": "sk-one"},
            {"x-goog-api-key": "sk-one"},
            {"x-goog-api-key": OTHER_KEY},  # it goes on, for it is not the one that is shown
            {"openai-organization": "one"},
            {"authorization": f"Bearer {OTHER_KEY}, Bearer sk-one"},
            {"authorization": f"Bearer {KEY}, Bearer sk-one"},
        ]
        for state in ("miss", "hit-l1-exact"):
            for more in asked:
                reply = ask(gateway.url, "POST", CHAT, data, {"x-lix-key": KEY, **more})
                assert reply.state == state, more
            gateway.settle()
        assert len(provider.calls) == len(asked)


NAMES = (
    *(
        "cookie",
        "apikey",
        "x-apikey",
        "x-key",
        "x-access-key",
        "x-auth-key",
        "token",
        "x-token",
        "x-api-token",
    ),
    *("x-session-token", "x-id-token", "x-amz-security-token", "cf-access-client-secret", "private-token"),
    *("x-portkey-virtual-key", "x-portkey-config", "x-goog-api-key", "openai-organization", "openai-project"),
    *(
        "helicone-auth",
        "cf-aig-authorization",
        "x-any",
        "x-user",
        "authorization-2",
        "x-forwarded-access-token",
    ),
)


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("own", ["", "sk-own"])
def test_any_header_that_goes_on_may_name_an_account(
    own: str, provider: Provider, redis_config: CacheConfig
) -> None:
    upstreams = (UpstreamSettings("default", provider.url, api_key=own),)
    with RunningGateway(provider, redis_config, upstreams=upstreams) as gateway:
        for name in NAMES:
            for value in ("one", "other"):
                asked = ask(gateway.url, "POST", CHAT, json.dumps(chat_body()).encode(), {name: value})
                assert asked.state == "miss", (name, value)
            gateway.settle()
            again = ask(gateway.url, "POST", CHAT, json.dumps(chat_body()).encode(), {name: "one"})
            assert again.state == "hit-l1-exact"


def test_who_asks_by_what_program_is_no_account(provider: Provider, redis_config: CacheConfig) -> None:
    with RunningGateway(provider, redis_config) as gateway:
        post(gateway.url, chat_body())
        for name in (
            *(
                "user_agent",
                "accept",
                "accept_language",
                "x_stainless_retry_count",
                "traceparent",
                "x_request_id",
            ),
            *(
                "x_session_id",
                "x_claude_code_session_id",
                "session_id",
                "x_forwarded_for",
                "priority",
            ),
        ):
            assert post(gateway.url, chat_body(), **{name: "x"}).state == "hit-l1-exact", name
        assert post(gateway.url, chat_body(), origin="http://localhost").state == "hit-l1-exact"
        assert post(gateway.url, chat_body(), cookie="__cf_bm=1; _cfuvid=2").state == "hit-l1-exact"
        assert post(gateway.url, chat_body(), cookie="__cf_bm=1; user=2").state == "miss"


@pytest.mark.promise("right-answer")
def test_a_header_that_the_connection_names_is_not_in_the_answer(
    provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config) as gateway:
        beta = {"openai_beta": "x=1"}
        assert post(gateway.url, chat_body(), **beta, connection="openai-beta").state == "miss"
        assert post(gateway.url, chat_body(), **beta).state == "miss"
        assert post(gateway.url, chat_body(), **beta, connection="close").state == "hit-l1-exact"


SECRETS = {
    "authorization": "Bearer sk-client",
    "x-goog-api-key": "sk-client",
    "cookie": "s=sk-client",
    "openai-organization": "sk-client",
    "x-any": "sk-client",
}


@pytest.mark.promise("no-leak")
@pytest.mark.parametrize("case", ["own key", "no key", "client keys", "open breaker", "nothing to hide"])
def test_another_provider_never_gets_the_clients_credentials(
    case: str, provider: Provider, redis_config: CacheConfig
) -> None:
    own = "sk-own" if case in ("own key", "open breaker") else ""
    with Provider() as other:
        upstreams = (
            UpstreamSettings("a", provider.url),
            UpstreamSettings("b", other.url, api_key=own, client_keys=case == "client keys"),
        )
        with RunningGateway("", redis_config, upstreams=upstreams, retries=1) as gateway:
            if case == "open breaker":
                gateway.core.routes.routes[0].breaker.trip()
            else:
                provider.do("429", "429")
            headers = {} if case == "nothing to hide" else SECRETS
            provider.retry_after = "0"
            data = json.dumps(chat_body(case)).encode()
            reply = ask(gateway.url, "POST", CHAT, data, {"anthropic-beta": "b", **headers})
        provider.acts.clear()
        if case == "no key":
            assert (reply.status, len(other.calls)) == (429, 0)
            return
        assert (reply.status, len(other.calls)) == (200, 1)
        got = other.calls[0].headers
        assert ("sk-client" in str(got)) is (case == "client keys")
        assert "anthropic-beta" in {name.lower() for name in got}
        if own:
            assert "Bearer sk-own" in got.values()
