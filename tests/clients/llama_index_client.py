"""LlamaIndex with OpenAI."""

from __future__ import annotations

from functools import cache
from typing import Any

from drive import serve
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI


@cache
def model(url: str) -> Any:
    return OpenAI(model="gpt-4o-mini", api_key="sk-1", api_base=f"{url}/v1", max_retries=0, timeout=120)


serve(
    {
        "chat whole": lambda url, q: model(url).complete(q),
        "chat turns": lambda url, q: model(url).chat([ChatMessage(role="user", content=q)]),
        "chat stream": lambda url, q: list(model(url).stream_complete(q)),
    }
)
