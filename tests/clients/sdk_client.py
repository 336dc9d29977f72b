"""The official Python SDKs: sync and async, streamed and not, tools, structured output, errors."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import anthropic
import openai
from drive import serve, wait
from pydantic import BaseModel

CHAT_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
RESPONSE_TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
MESSAGE_TOOL = {"name": "weather", "input_schema": {"type": "object"}}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


class City(BaseModel):
    city: str


def turns(text: str) -> Any:
    return [{"role": "user", "content": text}]


@cache
def open_ai_at(url: str) -> Any:
    return openai.OpenAI(api_key="sk-1", base_url=f"{url}/v1", max_retries=0, timeout=120)


@cache
def open_ai_async_at(url: str) -> Any:
    return openai.AsyncOpenAI(api_key="sk-1", base_url=f"{url}/v1", max_retries=0, timeout=120)


@cache
def claude_at(url: str) -> Any:
    return anthropic.Anthropic(api_key="sk-1", base_url=url, max_retries=0, timeout=120)


@cache
def claude_async_at(url: str) -> Any:
    return anthropic.AsyncAnthropic(api_key="sk-1", base_url=url, max_retries=0, timeout=120)


def sync(client_at: Any, call: Any) -> Any:
    def ask(url: str, text: str) -> Any:
        made = call(client_at(url), text)
        return list(made) if isinstance(made, (openai.Stream, anthropic.Stream)) else made

    return ask


def awaited(client_at: Any, call: Any) -> Any:
    async def asked(url: str, text: str) -> Any:
        made = await call(client_at(url), text)
        is_stream = isinstance(made, (openai.AsyncStream, anthropic.AsyncStream))
        return [one async for one in made] if is_stream else made

    return lambda url, text: wait(asked(url, text))


open_ai = partial(sync, open_ai_at)
open_ai_async = partial(awaited, open_ai_async_at)
claude = partial(sync, claude_at)
claude_async = partial(awaited, claude_async_at)


def chat(client: Any, text: str, **more: Any) -> Any:
    return client.chat.completions.create(model="m-1", messages=turns(text), **more)


def response(client: Any, text: str, **more: Any) -> Any:
    return client.responses.create(model="m-1", input=text, store=False, **more)


def message(client: Any, text: str, **more: Any) -> Any:
    return client.messages.create(model="m-1", max_tokens=100, messages=turns(text), **more)


def chat_helper(client: Any, text: str) -> Any:
    with client.chat.completions.stream(model="m-1", messages=turns(text)) as stream:
        return [[event.type for event in stream], stream.get_final_completion()]


def response_helper(client: Any, text: str) -> Any:
    with client.responses.stream(model="m-1", input=text, store=False) as stream:
        return [[event.type for event in stream], stream.get_final_response()]


def message_helper(client: Any, text: str) -> Any:
    with client.messages.stream(model="m-1", max_tokens=100, messages=turns(text)) as stream:
        return ["".join(stream.text_stream), stream.get_final_message()]


def parsed_chat(client: Any, text: str) -> Any:
    made = client.chat.completions.parse(model="m-1", messages=turns(text), response_format=City)
    assert isinstance(made.choices[0].message.parsed, City)
    return made


def parsed_response(client: Any, text: str) -> Any:
    made = client.responses.parse(model="m-1", input=text, store=False, text_format=City)
    assert isinstance(made.output_parsed, City)
    return made


def parsed_message(client: Any, text: str) -> Any:
    made = client.messages.parse(model="m-1", max_tokens=100, messages=turns(text), output_format=City)
    assert isinstance(made.parsed_output, City)
    return made


serve(
    {
        "chat whole": open_ai(chat),
        "chat stream": open_ai(lambda c, q: chat(c, q, stream=True)),
        "chat stream with usage": open_ai(lambda c, q: chat(c, q, **USAGE)),
        "chat async": open_ai_async(chat),
        "chat async stream": open_ai_async(lambda c, q: chat(c, q, stream=True)),
        "chat tools": open_ai(lambda c, q: chat(c, q, tools=[CHAT_TOOL])),
        "chat tools stream": open_ai(lambda c, q: chat(c, q, tools=[CHAT_TOOL], stream=True)),
        "chat choices": open_ai(lambda c, q: chat(c, q, n=3)),
        "chat structured": open_ai(parsed_chat),
        "chat helper": open_ai(chat_helper),
        "responses whole": open_ai(response),
        "responses stream": open_ai(lambda c, q: response(c, q, stream=True)),
        "responses async": open_ai_async(response),
        "responses async stream": open_ai_async(lambda c, q: response(c, q, stream=True)),
        "responses tools": open_ai(lambda c, q: response(c, q, tools=[RESPONSE_TOOL])),
        "responses tools stream": open_ai(lambda c, q: response(c, q, tools=[RESPONSE_TOOL], stream=True)),
        "responses structured": open_ai(parsed_response),
        "responses helper": open_ai(response_helper),
        "embeddings": open_ai(lambda c, q: c.embeddings.create(model="m-e", input=[q, "another"])),
        "embeddings floats": open_ai(
            lambda c, q: c.embeddings.create(model="m-e", input=q, encoding_format="float")
        ),
        "messages whole": claude(message),
        "messages stream": claude(lambda c, q: message(c, q, stream=True)),
        "messages async": claude_async(message),
        "messages async stream": claude_async(lambda c, q: message(c, q, stream=True)),
        "messages tools": claude(lambda c, q: message(c, q, tools=[MESSAGE_TOOL])),
        "messages tools stream": claude(lambda c, q: message(c, q, tools=[MESSAGE_TOOL], stream=True)),
        "messages structured": claude(parsed_message),
        "messages helper": claude(message_helper),
        "messages count": claude(lambda c, q: c.messages.count_tokens(model="m-1", messages=turns(q))),
    }
)
