"""LangChain with OpenAI and Anthropic."""

from __future__ import annotations

from functools import cache
from typing import Any

from drive import serve
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class City(BaseModel):
    """A place."""

    city: str


@tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"Sun in {city}"


@cache
def openai(url: str, **more: Any) -> Any:
    return ChatOpenAI(model="m-1", api_key="sk-1", base_url=f"{url}/v1", max_retries=0, **more)


@cache
def claude(url: str) -> Any:
    return ChatAnthropic(model="m-1", api_key="sk-1", base_url=url, max_retries=0, max_tokens=100)


def responses(url: str) -> Any:
    return openai(url, use_responses_api=True, store=False)


def cases_of(name: str, model: Any) -> dict[str, Any]:
    return {
        f"{name} whole": lambda url, q: model(url).invoke(q),
        f"{name} stream": lambda url, q: list(model(url).stream(q)),
        f"{name} tools": lambda url, q: model(url).bind_tools([weather]).invoke(q),
        f"{name} structured": lambda url, q: model(url).with_structured_output(City).invoke(q),
    }


@cache
def vectors(url: str) -> Any:
    return OpenAIEmbeddings(
        model="m-e", api_key="sk-1", base_url=f"{url}/v1", max_retries=0, check_embedding_ctx_length=False
    )


serve(
    {
        **cases_of("chat", openai),
        **cases_of("responses", responses),
        **cases_of("messages", claude),
        "embeddings": lambda url, q: vectors(url).embed_documents([q, "another"]),
    }
)
