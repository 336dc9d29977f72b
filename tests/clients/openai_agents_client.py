"""The OpenAI Agents SDK, by both of OpenAI's protocols: each run is a loop of calls, a tool among them."""

from __future__ import annotations

from functools import cache
from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from drive import serve, wait
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)  # it would call home


class City(BaseModel):
    city: str


@function_tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"Sun in {city}"


@cache
def client_at(url: str) -> Any:
    return AsyncOpenAI(api_key="sk-1", base_url=f"{url}/v1", max_retries=0, timeout=120)


def agent(kind: Any, url: str, **more: Any) -> Any:
    settings = ModelSettings(store=False) if kind is OpenAIResponsesModel else ModelSettings()
    return Agent(name="a", model=kind("m-1", client_at(url)), model_settings=settings, **more)


def told(result: Any) -> Any:
    used = result.context_wrapper.usage
    return [result.final_output, used.requests, used.input_tokens, used.output_tokens]


async def run(kind: Any, url: str, text: str, **more: Any) -> Any:
    return told(await Runner.run(agent(kind, url, **more), text))


async def streamed(kind: Any, url: str, text: str, **more: Any) -> Any:
    result = Runner.run_streamed(agent(kind, url, **more), text)
    kinds = [event.type async for event in result.stream_events()]
    return [kinds, *told(result)]


def cases_of(name: str, kind: Any) -> dict[str, Any]:
    return {
        f"{name} whole": lambda url, q: wait(run(kind, url, q)),
        f"{name} tools": lambda url, q: wait(run(kind, url, q, tools=[weather])),
        f"{name} structured": lambda url, q: wait(run(kind, url, q, output_type=City)),
        f"{name} stream": lambda url, q: wait(streamed(kind, url, q)),
        f"{name} tools stream": lambda url, q: wait(streamed(kind, url, q, tools=[weather])),
    }


serve({**cases_of("chat", OpenAIChatCompletionsModel), **cases_of("responses", OpenAIResponsesModel)})
