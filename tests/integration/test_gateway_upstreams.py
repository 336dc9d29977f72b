"""Several providers: by model, retries that honour retry-after, failover, deadlines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lix_cache import CacheConfig
from lix_cache.gateway.settings import UpstreamSettings
from lix_cache.gateway.upstream import address_of
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import free_port
from tests.support.wire import chat_body, post


@pytest.fixture
def two() -> Iterator[tuple[Provider, Provider]]:
    with Provider() as one, Provider() as other:
        yield one, other


def test_providers_are_chosen_by_the_model(two: tuple[Provider, Provider], redis_config: CacheConfig) -> None:
    upstreams = (
        UpstreamSettings("a", two[0].url + "/v1", ("m-*",)),
        UpstreamSettings("b", two[1].url, ("n-?",), api_key="sk-b"),
    )
    with RunningGateway("", redis_config, upstreams=upstreams) as gateway:
        for model, counts in (("m-1", (1, 0)), ("n-1", (1, 1)), ("m-2", (2, 1))):
            assert (
                post(gateway.url, {**chat_body(), "model": model}, authorization="Bearer own").status == 200
            )
            assert (len(two[0].calls), len(two[1].calls)) == counts
        assert two[0].calls[0].path == "/v1/chat/completions"
        assert [call.headers["Authorization"] for call in (two[0].calls[0], two[1].calls[0])] == [
            "Bearer own",
            "Bearer sk-b",
        ]
        assert post(gateway.url, {**chat_body(), "model": "unknown"}).status == 404


def test_a_failed_request_is_sent_again_before_its_first_byte(
    two: tuple[Provider, Provider], redis_config: CacheConfig
) -> None:
    with RunningGateway(two[0], redis_config, retries=2) as gateway:
        for acts, calls in ((["429"], 2), (["503", "reset"], 3), (["cut"], 1), (["400"], 1), (["500"], 1)):
            two[0].calls.clear()
            two[0].do(*acts)
            reply = post(gateway.url, chat_body(" ".join(acts)))
            assert len(two[0].calls) == calls, acts
            assert (reply.status, reply.is_whole) == (
                int(acts[-1]) if calls == 1 and acts != ["cut"] else 200,
                acts != ["cut"],
            )


def test_a_provider_that_asks_for_a_long_wait_is_passed_on(
    two: tuple[Provider, Provider], redis_config: CacheConfig
) -> None:
    two[0].retry_after = "30"
    with RunningGateway(two[0], redis_config, retries=3) as gateway:
        two[0].do("429")
        reply = post(gateway.url, chat_body())
        assert (reply.status, reply.headers["retry-after"]) == (429, "30")
        assert len(two[0].calls) == 1


@pytest.mark.promise("right-answer")
def test_another_provider_answers_and_is_not_kept_under_the_first_ones_key(
    two: tuple[Provider, Provider], redis_config: CacheConfig
) -> None:
    """Trap: thinking signatures across providers."""
    upstreams = (UpstreamSettings("a", two[0].url), UpstreamSettings("b", two[1].url))
    with RunningGateway("", redis_config, upstreams=upstreams) as gateway:
        two[0].do("503")
        assert post(gateway.url, chat_body()).status == 200
        assert (len(two[0].calls), len(two[1].calls)) == (1, 1)
        gateway.settle()
        assert post(gateway.url, chat_body()).state == "miss"
        assert post(gateway.url, chat_body()).state == "hit-l1-exact"


def test_a_provider_that_fails_again_and_again_is_asked_last(
    two: tuple[Provider, Provider], redis_config: CacheConfig
) -> None:
    upstreams = (UpstreamSettings("a", f"http://127.0.0.1:{free_port()}"), UpstreamSettings("b", two[1].url))
    with RunningGateway("", redis_config, upstreams=upstreams) as gateway:
        for number in range(8):
            assert post(gateway.url, chat_body(str(number))).status == 200
        assert gateway.core.routes.retries == 5, "then its breaker opened"


@pytest.mark.promise("right-answer")
def test_an_answer_is_kept_under_its_own_providers_key_whatever_the_breakers_say(
    two: tuple[Provider, Provider], redis_config: CacheConfig
) -> None:
    upstreams = (UpstreamSettings("a", f"http://127.0.0.1:{free_port()}"), UpstreamSettings("b", two[1].url))
    with RunningGateway("", redis_config, upstreams=upstreams) as gateway:
        for number in range(6):
            post(gateway.url, chat_body(str(number)))
        assert gateway.core.routes.routes[0].breaker.is_open
        for _ in range(2):
            assert post(gateway.url, chat_body("b's own")).state == "miss", "its key is that of the first"
            gateway.settle()
        assert gateway.core.metrics.not_stored["failover"] == 8


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("act", ["cut", "short", "malformed", "error_event"])
def test_nothing_is_sent_again_after_the_first_byte(
    two: tuple[Provider, Provider], redis_config: CacheConfig, act: str, stream: bool
) -> None:
    if act == "short" and not stream:
        pytest.skip("only of streams")
    upstreams = (UpstreamSettings("a", two[0].url), UpstreamSettings("b", two[1].url))
    with RunningGateway("", redis_config, upstreams=upstreams, retries=3) as gateway:
        two[0].do(act)
        reply = post(gateway.url, chat_body(stream=stream))
        assert reply.status == 200
        assert reply.is_whole is (act != "cut")
        assert (len(two[0].calls), len(two[1].calls)) == (1, 0)
        gateway.settle()
        assert post(gateway.url, chat_body(stream=stream)).state == "miss", "and nothing of it is stored"


@pytest.mark.parametrize("stream", [False, True])
def test_another_provider_is_asked_at_once_whatever_the_first_wants(
    two: tuple[Provider, Provider], redis_config: CacheConfig, stream: bool
) -> None:
    upstreams = (UpstreamSettings("a", two[0].url), UpstreamSettings("b", two[1].url))
    with RunningGateway("", redis_config, upstreams=upstreams, retries=3) as gateway:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        gateway.core.routes._sleep = sleep
        for wait in ("2", "30"):
            two[0].retry_after = wait
            two[0].do("429")
            assert post(gateway.url, chat_body(wait, stream=stream)).status == 200
        assert not slept
        # Both pass: the first is asked again after what it asked for, the other one not at all.
        two[0].retry_after, two[1].retry_after = "1", "30"
        for provider in two:
            provider.calls.clear()
        two[0].do("503")
        two[1].do("529")
        assert post(gateway.url, chat_body("both", stream=stream)).status == 200
        assert (len(two[0].calls), len(two[1].calls)) == (2, 1)
        assert len(slept) == 1
        assert 0.5 < slept[0] <= 1
        # All want too long: the last answer is passed on.
        two[0].retry_after = "60"
        two[0].do("429")
        two[1].do("529")
        reply = post(gateway.url, chat_body("none", stream=stream))
        assert (reply.status, reply.headers["retry-after"]) == (529, "30")


@pytest.mark.parametrize(
    "wait", ["30", "999999999999", "1e9", "1e400", "inf", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"]
)
def test_who_wants_a_wait_without_end_is_not_asked_again(
    wait: str, provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config, retries=3) as gateway:
        provider.retry_after = wait
        provider.do("429")
        reply = post(gateway.url, chat_body())
        assert (reply.status, reply.headers["retry-after"], len(provider.calls)) == (429, wait, 1)


def test_a_provider_that_is_late_is_not_asked_twice_and_another_one_is(
    two: tuple[Provider, Provider], redis_config: CacheConfig
) -> None:
    """What was sent may be worked on, and paid for, still."""
    both = (UpstreamSettings("a", two[0].url), UpstreamSettings("b", two[1].url))
    with RunningGateway("", redis_config, upstreams=both, retries=3, read_seconds=0.5) as gateway:
        two[0].do("hang")
        assert post(gateway.url, chat_body()).status == 200
        assert (len(two[0].calls), len(two[1].calls)) == (1, 1)
    with RunningGateway(two[0], redis_config, retries=3, read_seconds=0.5) as gateway:
        two[0].calls.clear()
        two[0].do("hang")
        reply = post(gateway.url, chat_body("late"))
        assert (reply.status, len(two[0].calls)) == (504, 1)
        two[0].gate.clear()
        reply = post(gateway.url, chat_body("silent in the middle", stream=True))
        assert (reply.status, reply.is_whole) == (200, False)
        two[0].gate.set()
        assert len(two[0].calls) == 2


def test_a_provider_that_does_well_again_is_asked_first_again(
    two: tuple[Provider, Provider], redis_config: CacheConfig
) -> None:
    upstreams = (UpstreamSettings("a", two[0].url), UpstreamSettings("b", two[1].url))
    with RunningGateway("", redis_config, upstreams=upstreams) as gateway:
        two[0].do(*["502"] * 5)
        for number in range(7):
            assert post(gateway.url, chat_body(str(number))).status == 200
        assert (len(two[0].calls), len(two[1].calls)) == (5, 7)
        gateway.core.routes.routes[0].breaker.reset()
        assert post(gateway.url, chat_body("again")).status == 200
        assert (len(two[0].calls), len(two[1].calls)) == (6, 7)
        assert gateway.core.routes.routes[0].failures == 0


def test_the_address_of_a_path() -> None:
    assert (
        address_of("https://a/v1", "/v1/chat") == address_of("https://a", "/v1/chat") == "https://a/v1/chat"
    )
    assert address_of("https://a/x/v1", "/v1?b=1") == "https://a/x/v1?b=1"
    assert address_of("https://a/v1", "/v1x") == "https://a/v1/v1x"
