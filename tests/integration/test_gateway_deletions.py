"""What was deleted at one process is served by no other."""

from __future__ import annotations

from typing import Any

import pytest

from lix_cache import CacheConfig
from tests.support.dropping import KEY, Keeper, is_served, made
from tests.support.provider import RunningGateway
from tests.support.wire import ask

pytestmark = pytest.mark.promise("right-answer")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/responses/{}", KEY, 200),
        ("/v1/responses/{}", {"authorization": "Bearer sk-another-of-the-account"}, 200),
        ("/v1/responses/{}", {**KEY, "openai-project": "p1"}, 200),
        ("/v1/responses/{}/", KEY, 200),
        ("/v1//responses/{}", KEY, 200),
        ("/v1/./responses//{}/.", KEY, 200),
        ("/v1/responses/{}?a=b", KEY, 200),
        ("/v1/responses/{}", KEY, 404),
        ("/v1/responses/{}", KEY, 410),
        ("/v1/responses/{}", KEY, 500),
    ],
)
def test_no_process_serves_what_was_deleted(
    path: str, headers: dict[str, str], status: int, keeper: Keeper, redis_config: CacheConfig
) -> None:
    with RunningGateway(keeper.url, redis_config) as one, RunningGateway(keeper.url, redis_config) as other:
        identity = made(one)
        keeper.status = status
        assert ask(one.url, "DELETE", path.format(identity), headers=headers).status == status
        assert not is_served(one)
        assert not is_served(other), "out of Redis"
        assert made(one) != identity
        assert is_served(other), "the next one is kept"


def test_what_the_provider_refused_to_delete_is_still_there(
    keeper: Keeper, redis_config: CacheConfig
) -> None:
    with RunningGateway(keeper.url, redis_config) as gateway:
        identity = made(gateway)
        for keeper.status in (401, 403, 429):
            ask(gateway.url, "DELETE", f"/v1/responses/{identity}", headers=KEY)
        assert is_served(gateway)


@pytest.mark.parametrize("step", ["put", "name_answer"])
def test_what_another_process_deletes_while_it_is_stored_is_not_kept(
    step: str, keeper: Keeper, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunningGateway(keeper.url, redis_config) as one, RunningGateway(keeper.url, redis_config) as other:
        real = getattr(one.core.redis, step)

        async def deleted_meanwhile(*of: Any) -> Any:
            (entry,) = one.core.memory._entries.values()
            ask(other.url, "DELETE", f"/v1/responses/{entry.answer.id}", headers=KEY)
            return await real(*of)

        with monkeypatch.context() as patch:
            patch.setattr(one.core.redis, step, deleted_meanwhile)
            made(one)
        assert not is_served(one)
        assert not is_served(other)


@pytest.mark.parametrize(
    "path",
    ["/responses/{}", "/v1/responses/{}", "//responses/./{}/", "/v1/Responses/{}", "/v1/openai/responses/{}"],
)
def test_a_deletion_is_seen_wherever_the_version_stands(
    path: str, keeper: Keeper, redis_config: CacheConfig
) -> None:
    with RunningGateway(f"{keeper.url}/v1", redis_config) as gateway:
        identity = made(gateway)
        assert ask(gateway.url, "DELETE", path.format(identity), headers=KEY).status == 200
        assert not is_served(gateway)
