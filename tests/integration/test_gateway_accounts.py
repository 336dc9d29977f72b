"""Credentials: which headers hold them, and who gets them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lix_cache import CacheConfig
from lix_cache.gateway.settings import TenantSettings
from lix_cache.gateway.tenants import digest_of_key
from tests.support.provider import Provider, RunningGateway
from tests.support.wire import chat_body, post

KEY = "ann-key-0123456789abcdef"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


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
