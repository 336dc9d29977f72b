"""What may be answered from which tier, and what may be stored. Pure.

A bypass is not looked up and not stored: its answer depends on something that the request does not say,
such as a state at the provider or what a tool finds there today.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from lix_cache.gateway.plain_json import canonical
from lix_cache.gateway.request import EXCLUDED

__all__ = ["Question", "bypass_reason", "is_kept", "question_of", "wants_zero_temperature"]

#: Fields that refer to a state at the provider, or ask for work of which the answer is not the result.
_STATEFUL = {
    "chat": ("audio", "previous_response_id", "assistant_id", "thread_id", "agent_id", "prompt"),
    "responses": ("previous_response_id", "conversation", "background", "prompt"),
    "messages": ("mcp_servers", "container"),
    "embeddings": (),
}
#: Under these names providers and routers take searches, tools of their own and states, in any protocol.
_ANYWHERE = (
    *("web_search_options", "web_search", "search_parameters", "search_settings", "enable_search", "search"),
    *(
        "search_mode",
        "search_recency_filter",
        "search_domain_filter",
        "plugins",
        "data_sources",
        "mcp_servers",
    ),
    *("conversation_id", "session_id", "chat_id", "compound_custom", "tool_resources", "vector_store_ids"),
    *("file_ids", "use_rag", "retrieval"),
)
#: Fields of a request for embeddings that concern each text by itself, as providers document them. With any
#: other, such as Jina's ``late_chunking``, a text's vector may depend on those around it.
_OF_EACH_TEXT = EXCLUDED | {
    *("model", "input", "encoding_format", "dimensions", "output_dimension", "input_type", "task"),
    *("truncate", "truncation", "truncate_prompt_tokens", "add_special_tokens", "prompt_name"),
    *("normalize", "normalized", "priority", "provider"),
}
#: In which form the numbers come; in any other than this one they could not be said again.
_FORMS = frozenset({"embedding_type", "encoding_type", "output_dtype"})
_PLAIN_FORM = "float"
#: Models that search, or carry tools out, whatever the request says.
_SEARCHING = re.compile(
    r"-search(?:-|$)|:online(?:$|:)|(?:^|[/:])(?:compound|sonar)(?:$|[-:])|deep-research", re.IGNORECASE
)
#: Kinds of tools that the client carries out; of any other the provider may.
_CLIENT_TOOLS = {
    "chat": ("function", "custom"),
    "responses": ("function", "custom", "local_shell", "shell", "apply_patch", "namespace"),
    "messages": ("custom", "bash_", "text_editor_", "computer_", "memory_"),
}
_TEXT_PARTS = frozenset({"text", "input_text"})
#: Fields with which a request is no single question in words.
_NOT_SEMANTIC = ("tools", "functions", "tool_choice", "function_call", "modalities")
_LONGEST_QUESTION = 8_000


@dataclass(frozen=True)
class Question:
    """A request that may be answered by meaning.

    Attributes:
        text: the user's one turn.
        scope: digest of all else in the body that may change the answer.
    """

    text: str
    scope: str


def bypass_reason(protocol: str, body: Mapping[str, Any]) -> str:
    """Return why a request is not for the cache, a word; "" if it is."""
    names: tuple[str, ...] = _STATEFUL[protocol]
    for name in names if protocol == "embeddings" else (*names, *_ANYWHERE):
        given = body.get(name)
        # OpenAI's own example switches the search on with an empty object.
        if given or isinstance(given, dict):
            return name
    if body.get("stream") is not None and not isinstance(body["stream"], bool):
        return "stream"  # no part of the key; the provider is to say what is wrong with it
    if protocol == "chat" and body.get("store"):
        return "store"  # the provider is asked to keep it
    if not isinstance(body.get("model"), str) or not body["model"]:
        return "no_model"
    if protocol == "embeddings":
        return "" if all(_is_of_each_text(*pair) for pair in body.items()) else "field"
    if _SEARCHING.search(body["model"]):
        return "server_tool"
    tools = body.get("tools")
    if tools and not (isinstance(tools, list) and all(_is_clients(protocol, tool) for tool in tools)):
        return "server_tool"
    return ""


def _is_of_each_text(name: str, given: Any) -> bool:
    return given is None or name in _OF_EACH_TEXT or (name in _FORMS and given == _PLAIN_FORM)


def is_kept(protocol: str, body: Mapping[str, Any]) -> bool:
    """Whether the provider keeps its answer under an id that later requests refer to, until it is deleted."""
    return protocol == "responses" and body.get("store") is not False


def _is_clients(protocol: str, tool: Any) -> bool:
    if not isinstance(tool, Mapping):
        return False
    kind = tool.get("type")
    if protocol == "responses" and kind == "web_search" and tool.get("external_web_access") is False:
        # Codex offers it in each request. An answer that used it is not stored: protocols/responses.py.
        return True
    if protocol == "messages":
        # A tool of the client's own need not say its type.
        return kind is None or (isinstance(kind, str) and kind.startswith(_CLIENT_TOOLS[protocol]))
    return kind in _CLIENT_TOOLS[protocol]


def question_of(protocol: str, body: Mapping[str, Any]) -> Question | str:
    """Return the question of a request, or why it is none, a word.

    One turn of the user in words, without tools, images or earlier answers.

    Args:
        protocol: such as ``chat``.
        body: without what changes no answer (:func:`lix_cache.gateway.request.stripped`).
    """
    if protocol not in ("chat", "responses", "messages"):
        return "protocol"
    if is_kept(protocol, body):
        return "store"  # its id is of this request alone
    for name in _NOT_SEMANTIC:
        if body.get(name):
            return name
    turns = "input" if protocol == "responses" else "messages"
    asked = body.get(turns)
    before: list[Any] = []
    if isinstance(asked, str) and protocol != "responses":
        return "turns"
    if isinstance(asked, list):
        before = [m for m in asked if isinstance(m, Mapping) and m.get("role") in ("system", "developer")]
        rest = [m for m in asked if not (isinstance(m, Mapping) and m.get("role") in ("system", "developer"))]
        if len(rest) != 1 or asked[-1] is not rest[0]:
            return "turns"
        if not isinstance(rest[0], Mapping) or rest[0].get("role") != "user":
            return "turns"
        before.append({name: item for name, item in rest[0].items() if name != "content"})
        asked = rest[0].get("content")
    text = _only_text(asked)
    if text is None:
        return "content"
    if not text.strip() or len(text) > _LONGEST_QUESTION:
        return "length"
    around = {**{name: item for name, item in body.items() if name != turns}, turns: before}
    return Question(text, hashlib.sha256(orjson.dumps(canonical(around))).hexdigest()[:40])


def _only_text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or len(content) != 1 or not isinstance(content[0], Mapping):
        return None
    part = content[0]
    text = part.get("text")
    is_plain = part.get("type") in _TEXT_PARTS and part.keys() <= {"type", "text"}
    return text if is_plain and isinstance(text, str) else None


def wants_zero_temperature(body: Mapping[str, Any]) -> bool:
    """Whether a request asks for the likeliest answer."""
    temperature = body.get("temperature")
    return isinstance(temperature, (int, float)) and not isinstance(temperature, bool) and temperature == 0
