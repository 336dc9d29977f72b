"""What was deleted or purged at one process is served by no other."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from lix_cache import CacheConfig
from tests.support.http_server import Answer, HttpServer, Request
from tests.support.provider import Provider, RunningGateway
from tests.support.provider_wire import OUTPUTS, response
from tests.support.redis_server import wait_until
from tests.support.wire import ask, chat_body, post

pytestmark = pytest.mark.promise("right-answer")
PATH, BODY = "/v1/responses", {"model": "m-1", "input": "What is to be deleted?"}
KEY = {"authorization": "Bearer sk-one"}


class _Keeper:
    """A provider that keeps responses; ``status`` is what it says to the next DELETE."""

    def __init__(self) -> None:
        self.status, self._numbers = 200, count()

    def __call__(self, request: Request) -> Answer:
        json = {"content-type": "application/json"}
        if request.method == "DELETE":
            return Answer(self.status, {"deleted": True}, json)
        return Answer(200, {**response(OUTPUTS["text"]), "id": f"resp_{next(self._numbers)}"}, json)


@pytest.fixture
def keeper() -> _Keeper:
    return _Keeper()


@pytest.fixture
def url(keeper: _Keeper) -> Iterator[str]:
    with HttpServer(keeper) as server:
        yield server.url


def made(gateway: RunningGateway) -> str:
    """Have a response made and stored everywhere; return its id."""
    identity = post(gateway.url, BODY, PATH, **KEY).json["id"]
    gateway.settle()
    return str(identity)


def is_served(gateway: RunningGateway) -> bool:
    reply = post(gateway.url, BODY, PATH, cache_control="only-if-cached", **KEY)
    assert reply.status in (200, 504)
    return reply.status == 200


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
    path: str, headers: dict[str, str], status: int, keeper: _Keeper, url: str, redis_config: CacheConfig
) -> None:
    with RunningGateway(url, redis_config) as one, RunningGateway(url, redis_config) as other:
        identity = made(one)
        keeper.status = status
        assert ask(one.url, "DELETE", path.format(identity), headers=headers).status == status
        assert not is_served(one)
        assert not is_served(other), "out of Redis"
        assert made(one) != identity
        assert is_served(other), "the next one is kept"


def test_what_the_provider_refused_to_delete_is_still_there(
    keeper: _Keeper, url: str, redis_config: CacheConfig
) -> None:
    with RunningGateway(url, redis_config) as gateway:
        identity = made(gateway)
        for keeper.status in (401, 403, 429):
            ask(gateway.url, "DELETE", f"/v1/responses/{identity}", headers=KEY)
        assert is_served(gateway)


@pytest.mark.parametrize("step", ["put", "name_answer"])
def test_what_another_process_deletes_while_it_is_stored_is_not_kept(
    step: str, url: str, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunningGateway(url, redis_config) as one, RunningGateway(url, redis_config) as other:
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


def test_what_was_deleted_without_redis_goes_when_it_is_back(
    url: str, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunningGateway(url, redis_config) as one, RunningGateway(url, redis_config) as other:
        identity, tries = made(one), []

        async def silent(*_: Any) -> None:
            tries.append(1)

        with monkeypatch.context() as patch:
            patch.setattr(one.core.redis, "ask", silent)
            assert ask(one.url, "DELETE", f"/v1/responses/{identity}", headers=KEY).status == 200
            wait_until(lambda: len(tries) > 2, what="another try")
        wait_until(lambda: not one.core._tasks, what="the mark in Redis")
        assert not is_served(other)


def test_who_asks_after_another_process_has_purged_follows_no_call_from_before(
    provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config) as one, RunningGateway(provider, redis_config) as other:
        provider.gate.clear()
        with ThreadPoolExecutor() as pool:
            first = pool.submit(post, other.url, chat_body())
            wait_until(lambda: len(provider.calls) == 1 and other.core.flights, what="a call under way")
            one.do(one.core.purge("local", None, None))
            wait_until(lambda: not other.core.flights, what="a look at what was purged")
            second = pool.submit(post, other.url, chat_body())
            wait_until(lambda: len(provider.calls) == 2, what="a call of its own")
            provider.gate.set()
            assert [reply.result().state for reply in (first, second)] == ["miss", "miss"]
