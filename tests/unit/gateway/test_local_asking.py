"""What a request asks of a local model, whichever protocol it comes in."""

from __future__ import annotations

from typing import Any

import pytest

from lix_cache.gateway.errors import Refused
from lix_cache.gateway.local.asking import asked_of

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
SAID = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "Rain."},
]


def test_the_same_conversation_is_the_same_in_every_protocol() -> None:
    chat = asked_of(
        "chat",
        {
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
                {"role": "user", "content": "Weather?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "Rain."},
            ],
            "tools": [CHAT_TOOL],
        },
    )
    messages = asked_of(
        "messages",
        {
            "system": [{"type": "text", "text": "Be brief."}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "x"},
                        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Bern"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "Rain."}],
                },
            ],
            "tools": [{"name": "weather", "input_schema": SCHEMA}],
        },
    )
    responses = asked_of(
        "responses",
        {
            "instructions": "Be brief.",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
                {"type": "reasoning", "summary": []},
                {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Bern"}'},
                {"type": "function_call_output", "call_id": "c1", "output": "Rain."},
            ],
            "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA}],
        },
    )
    assert chat.messages == messages.messages == responses.messages == SAID
    assert chat.tools == messages.tools == responses.tools
    assert chat.tools[0]["function"]["parameters"] == SCHEMA


@pytest.mark.parametrize(
    ("protocol", "given", "choice", "tool", "forced"),
    [
        ("chat", None, "auto", "", False),
        ("chat", "none", "none", "", False),
        ("chat", "required", "required", "", True),
        ("chat", {"type": "function", "function": {"name": "weather"}}, "required", "weather", True),
        ("messages", {"type": "any"}, "required", "", True),
        ("messages", {"type": "tool", "name": "weather"}, "required", "weather", True),
        ("messages", {"type": "none"}, "none", "", False),
        ("responses", {"type": "function", "name": "weather"}, "required", "weather", True),
    ],
)
def test_tool_choice(protocol: str, given: Any, choice: str, tool: str, forced: bool) -> None:
    said = {"input": "x"} if protocol == "responses" else {"messages": [{"role": "user", "content": "x"}]}
    tool_of = {"chat": CHAT_TOOL, "messages": {"name": "weather", "input_schema": SCHEMA}}
    own = tool_of.get(protocol, {"type": "function", "name": "weather"})
    asked = asked_of(protocol, {**said, "tools": [own], "tool_choice": given})
    assert (asked.choice, asked.tool, asked.is_forced) == (choice, tool, forced)
    assert bool(asked.offered) is (choice != "none")


def test_options() -> None:
    user = [{"role": "user", "content": "x"}]
    asked = asked_of(
        "chat",
        {
            "messages": user,
            "stop": ["a", ""],
            "max_tokens": 7,
            "temperature": 0,
            "seed": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
            "n": 1,
            "logprobs": False,
            "frequency_penalty": 0.0,
        },
    )
    assert (asked.stop, asked.max_tokens, asked.temperature, asked.seed) == (("a",), 7, 0, 3)
    assert asked.is_stream
    assert asked.wants_usage
    assert asked_of("messages", {"messages": user, "max_tokens": 9, "stop_sequences": ["b"]}).stop == ("b",)
    assert asked_of("responses", {"input": "x", "max_output_tokens": 5}).max_tokens == 5
    plain = asked_of("chat", {"messages": user})
    assert (plain.max_tokens, plain.temperature, plain.top_p, plain.seed) == (None, 1.0, 1.0, None)


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("protocol", "body", "said"),
    [
        ("chat", {"messages": [USER], "n": 2}, "n; leave it out"),
        ("chat", {"messages": [USER], "logprobs": True}, "logprobs"),
        ("chat", {"messages": [USER], "response_format": {"type": "json_object"}}, "response_format"),
        ("chat", {"messages": [USER], "presence_penalty": 1}, "presence_penalty"),
        ("responses", {"input": "x", "previous_response_id": "r"}, "previous_response_id"),
        ("responses", {"input": "x", "text": {"format": {"type": "json_schema"}}}, "text.format"),
        ("responses", {"input": [{"type": "web_search_call"}]}, "web_search_call"),
        ("chat", {}, "messages must be a list"),
        ("chat", {"messages": []}, "no message"),
        ("chat", {"messages": [{"role": "system", "content": "x"}]}, "no message"),
        ("chat", {"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ("chat", {"messages": ["x"]}, "list of objects"),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "image"),
        ("chat", {"messages": [USER], "max_tokens": 0}, "max_tokens must be"),
        ("chat", {"messages": [USER], "max_tokens": 1.5}, "whole number"),
        ("chat", {"messages": [USER], "temperature": 3}, "temperature must be from"),
        ("chat", {"messages": [USER], "temperature": "hot"}, "temperature must be a number"),
        ("chat", {"messages": [USER], "stop": 3}, "stop must be"),
        ("chat", {"messages": [USER], "stop": ["a"] * 17}, "16 stop texts"),
        ("chat", {"messages": [USER], "tool_choice": "required"}, "there are none"),
        ("chat", {"messages": [USER], "tool_choice": "sometimes"}, "tool_choice must be"),
        (
            "chat",
            {
                "messages": [USER],
                "tools": [CHAT_TOOL],
                "tool_choice": {"type": "function", "function": {"name": "x"}},
            },
            "not there",
        ),
        ("responses", {"input": "x", "tools": [{"type": "web_search"}]}, "web_search"),
        ("messages", {"messages": [USER], "tools": [{"type": "bash_20250124", "name": "bash"}]}, "bash_"),
        ("chat", {"messages": [USER], "tools": [{"type": "function", "function": {}}]}, "needs a name"),
        (
            "chat",
            {
                "messages": [
                    USER,
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
                ]
            },
            "arguments that are a JSON object",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(protocol: str, body: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused) as caught:
        asked_of(protocol, body)
    assert caught.value.status == 400
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", [{"role": "user", "content": "\ud800"}]),
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": {"maximum": 1 << 90}}}]),
        ("stop", ["\ud800"]),
    ],
)
def test_what_no_template_can_be_told_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(Refused, match=f"{field} holds") as raised:
        asked_of("chat", {"messages": [{"role": "user", "content": "x"}], field: value})
    assert raised.value.status == 400


def test_a_limit_is_refused_under_the_name_that_was_sent() -> None:
    with pytest.raises(Refused, match=r"^max_tokens must be from 1 to 2147483647"):
        asked_of("chat", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 0})
