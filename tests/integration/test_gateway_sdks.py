"""The official SDKs, direct and through the gateway: equal but for id, time and headers."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import openai
import pytest

from tests.support import RedisServer
from tests.support.provider import Provider, RunningGateway

CHAT = {"model": "m-1", "messages": [{"role": "user", "content": "Where is the billing page?"}]}
MESSAGE = {**CHAT, "max_tokens": 100}
RESPONSE = {"model": "m-1", "input": "Where is the billing page?", "store": False}
CHAT_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
RESPONSE_TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
MESSAGE_TOOL = {"name": "weather", "input_schema": {"type": "object"}}

#: What makes two answers to one request different, wherever it stands.
_OWN = frozenset({"id", "created", "created_at", "item_id", "completed_at", "_request_id"})


def plain(value: Any) -> Any:
    """Return an object of an SDK as data, without ids and times."""
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items() if name not in _OWN}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def chat(url: str, **more: Any) -> Any:
    with openai.OpenAI(api_key="sk-1", base_url=f"{url}/v1", max_retries=0, timeout=120) as client:
        made = client.chat.completions.create(**{**CHAT, **more})
        return plain(list(made)) if more.get("stream") else plain(made)


def chat_async(url: str, **more: Any) -> Any:
    async def ask() -> Any:
        async with openai.AsyncOpenAI(
            api_key="sk-1", base_url=f"{url}/v1", max_retries=0, timeout=120
        ) as client:
            made = await client.chat.completions.create(**{**CHAT, **more})
            return plain([chunk async for chunk in made]) if more.get("stream") else plain(made)

    return asyncio.run(ask())


def response(url: str, **more: Any) -> Any:
    with openai.OpenAI(api_key="sk-1", base_url=f"{url}/v1", max_retries=0, timeout=120) as client:
        made = client.responses.create(**{**RESPONSE, **more})
        return plain(list(made)) if more.get("stream") else plain(made)


def message(url: str, **more: Any) -> Any:
    with anthropic.Anthropic(api_key="sk-1", base_url=url, max_retries=0, timeout=120) as client:
        made = client.messages.create(**{**MESSAGE, **more})
        return plain(list(made)) if more.get("stream") else plain(made)


def message_async(url: str, **more: Any) -> Any:
    async def ask() -> Any:
        async with anthropic.AsyncAnthropic(
            api_key="sk-1", base_url=url, max_retries=0, timeout=120
        ) as client:
            made = await client.messages.create(**{**MESSAGE, **more})
            return plain([event async for event in made]) if more.get("stream") else plain(made)

    return asyncio.run(ask())


CALLS = {
    "chat": (chat, {}),
    "chat, async": (chat_async, {}),
    "chat, a tool": (chat, {"tools": [CHAT_TOOL]}),
    "chat, two choices": (chat, {"n": 2}),
    "responses": (response, {}),
    "responses, a tool": (response, {"tools": [RESPONSE_TOOL]}),
    "messages": (message, {}),
    "messages, async": (message_async, {}),
    "messages, a tool": (message, {"tools": [MESSAGE_TOOL]}),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.promise("right-answer")
def test_an_answer_is_the_same_direct_missed_and_hit(
    name: str, stream: bool, provider: Provider, gateway: RunningGateway
) -> None:
    ask, more = CALLS[name]
    options = {**more, "stream": True} if stream else more
    direct = ask(provider.url, **options)
    provider.calls.clear()
    assert ask(gateway.url, **options) == direct, "a miss"
    assert ask(gateway.url, **options) == direct, "a hit in memory"
    gateway.forget()
    assert ask(gateway.url, **options) == direct, "a hit in Redis"
    assert len(provider.calls) == 1


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.promise("right-answer")
def test_no_cross_serving_of_streamed_and_not(name: str, provider: Provider, gateway: RunningGateway) -> None:
    """Each form is served from the other: the same words, the same end, in its own form."""
    ask, more = CALLS[name]
    usage = {"stream_options": {"include_usage": True}} if name.startswith("chat") else {}
    whole, streamed = ask(provider.url, **more), ask(provider.url, **more, stream=True, **usage)
    provider.calls.clear()
    ask(gateway.url, **more)
    from_whole = ask(gateway.url, **more, stream=True, **usage)
    assert len(provider.calls) == 1
    assert said(from_whole) == said(streamed)
    gateway.forget()
    gateway.core.redis = None
    ask(gateway.url, **more, stream=True, **usage)
    assert ask(gateway.url, **more) == whole
    assert len(provider.calls) == 2


def said(events: list[Any]) -> Any:
    """Return what a stream comes to: words, calls, ends and tokens, however they were cut."""
    words, calls, ends = "", "", []
    for event in events:
        for choice in event.get("choices") or ():
            words += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls") or ():
                calls += (call["function"].get("name") or "") + (call["function"].get("arguments") or "")
            ends.append(choice["finish_reason"])
        delta = event.get("delta")
        if isinstance(delta, dict):
            words += delta.get("text") or ""
            calls += delta.get("partial_json") or ""
            ends.append(delta.get("stop_reason"))
        elif isinstance(delta, str):
            words += delta
        ends.append(str(event.get("usage")) if event.get("usage") else None)
        if event.get("type") == "response.completed":
            ends.append(str(event["response"]["output"]))
    return words, calls.replace(" ", ""), [end for end in ends if end]


def test_typed_errors_are_those_of_the_provider(provider: Provider, gateway: RunningGateway) -> None:
    for act, kind in (
        ("400", openai.BadRequestError),
        ("429", openai.RateLimitError),
        ("500", openai.InternalServerError),
    ):
        provider.acts.clear()
        provider.do(act, act)
        with pytest.raises(kind) as caught:
            chat(gateway.url)
        assert "scripted" in str(caught.value)
    provider.acts.clear()
    provider.do("429", "429")
    with pytest.raises(anthropic.RateLimitError):
        message(gateway.url)
    provider.acts.clear()
    assert gateway.core.metrics.stored == 0


def test_paths_that_are_not_known_pass_through_untouched(provider: Provider, gateway: RunningGateway) -> None:
    with openai.OpenAI(api_key="sk-1", base_url=f"{gateway.url}/v1", max_retries=0, timeout=120) as client:
        assert client.get("/models?a=1", cast_to=dict) == {
            "path": "/v1/models?a=1",
            "method": "GET",
            "size": 0,
        }
        sent = client.post("/files", body={"x": 1}, cast_to=dict)
    assert sent["path"] == "/v1/files"
    assert provider.calls[-1].json == {"x": 1}
    assert provider.calls[-1].headers["Authorization"] == "Bearer sk-1"


def test_what_is_not_in_the_key_is_forwarded(provider: Provider, gateway: RunningGateway) -> None:
    chat(gateway.url, user="u-1", metadata={"a": "b"})
    assert provider.calls[-1].json["user"] == "u-1"
    chat(gateway.url, user="u-2")
    assert len(provider.calls) == 1


@pytest.mark.promise("right-answer")
def test_100_equal_requests_at_once_are_one_call(
    provider: Provider, gateway: RunningGateway, redis_server: RedisServer
) -> None:
    async def ask(stream: bool) -> list[Any]:
        async with openai.AsyncOpenAI(
            api_key="sk-1", base_url=f"{gateway.url}/v1", max_retries=0, timeout=120
        ) as client:

            async def one() -> Any:
                made = await client.chat.completions.create(
                    **CHAT, temperature=0.5 if stream else 0.4, stream=stream
                )
                return [chunk async for chunk in made] if stream else [made]

            return await asyncio.gather(*(one() for _ in range(100)))

    for stream in (False, True):
        provider.calls.clear()
        provider.gate.clear()
        loop_done = []

        async def both(stream: bool = stream, loop_done: list[Any] = loop_done) -> Any:
            task = asyncio.ensure_future(ask(stream))
            while gateway.core.metrics.open < 100 and not task.done():
                await asyncio.sleep(0.01)
            provider.gate.set()
            return await task

        answers = asyncio.run(both())
        assert len(provider.calls) == 1
        assert all(plain(answer) == plain(answers[0]) for answer in answers)
        assert len({answer[0].id for answer in answers}) == 100, "each has an id of its own"
        assert all(len({chunk.id for chunk in answer}) == 1 for answer in answers)
