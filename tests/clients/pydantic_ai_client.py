"""pydantic-ai with OpenAI and Anthropic: each run is a loop of calls, tools among them."""

from __future__ import annotations

from functools import cache
from typing import Any

from drive import serve, wait
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class City(BaseModel):
    city: str


@cache
def chat(url: str) -> Any:
    return OpenAIChatModel("m-1", provider=OpenAIProvider(base_url=f"{url}/v1", api_key="sk-1"))


@cache
def responses(url: str) -> Any:
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="sk-1")
    return OpenAIResponsesModel("m-1", provider=provider, settings={"openai_store": False})


@cache
def claude(url: str) -> Any:
    return AnthropicModel("m-1", provider=AnthropicProvider(base_url=url, api_key="sk-1"))


def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"Sun in {city}"


async def run(agent: Agent[Any, Any], text: str) -> Any:
    result = await agent.run(text)
    used = result.usage
    return [result.output, used.input_tokens, used.output_tokens, used.requests]


async def streamed(agent: Agent[Any, Any], text: str) -> Any:
    async with agent.run_stream(text) as result:
        return [[piece async for piece in result.stream_text(delta=True, debounce_by=None)]]


def cases_of(name: str, model: Any) -> dict[str, Any]:
    return {
        f"{name} whole": lambda url, q: wait(run(Agent(model(url)), q)),
        f"{name} stream": lambda url, q: wait(streamed(Agent(model(url)), q)),
        f"{name} tools": lambda url, q: wait(run(Agent(model(url), tools=[weather]), q)),
        f"{name} structured": lambda url, q: wait(run(Agent(model(url), output_type=City), q)),
    }


serve({**cases_of("chat", chat), **cases_of("responses", responses), **cases_of("messages", claude)})
