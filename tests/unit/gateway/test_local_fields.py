"""Which fields of a request pass before a local model: all others are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lix_cache.gateway.errors import Refused
from lix_cache.gateway.local.asking import Asked, asked_of
from lix_cache.gateway.local.fields import LEFT_OUT

USER = {"role": "user", "content": "x"}
BASE: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [USER]},
    "messages": {"model": "m", "max_tokens": 9, "messages": [USER]},
    "responses": {"model": "m", "input": "x"},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "schema": SCHEMA}
EVERYWHERE = {
    "top_k": 1,
    "min_p": 0.9,
    "repetition_penalty": 2.0,
    "n": 2,
    "best_of": 2,
    "logprobs": True,
    "top_logprobs": 3,
    "logit_bias": {"5": 1},
    "presence_penalty": 1,
    "frequency_penalty": 0.5,
    "min_tokens": 12,
    "ignore_eos": True,
    "echo": True,
    "guided_json": SCHEMA,
    "guided_choice": ["a"],
    "structured_outputs": {"choice": ["a"]},
    "grammar": 'root ::= "a"',
    "json_schema": SCHEMA,
    "unheard_of": 1,
    "stream": "yes",
}
REFUSED: dict[str, dict[str, Any]] = {
    "chat": {
        "response_format": FORMAT,
        "functions": [{"name": "f", "parameters": SCHEMA}],
        "function_call": {"name": "f"},
        "audio": {"voice": "x"},
        "modalities": ["text", "audio"],
        "prediction": {"type": "content", "content": "x"},
        "web_search_options": {},
        "store": True,
        "service_tier": "flex",
        "stop_sequences": ["a"],
        "stream_options": {"include_more": True},
        "moderation": {"model": "x"},
        "parallel_tool_calls": 0,
    },
    "messages": {
        "output_config": {"format": FORMAT},
        "output_format": FORMAT,
        "thinking": {"type": "between_tools"},
        "container": "c1",
        "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
        "mcp_servers": [{"type": "url", "url": "https://x", "name": "x"}],
        "stop": ["a"],
        "service_tier": "priority",
        "speed": "fast",
        "inference_geo": "eu",
    },
    "responses": {
        "include": ["message.output_text.logprobs"],
        "max_tool_calls": 1,
        "store": True,
        "truncation": "auto",
        "text": {"format": FORMAT},
        "previous_response_id": "r",
        "conversation": "c",
        "background": True,
        "prompt": {"id": "p"},
        "max_tokens": 9,
        "reasoning": {"unheard_of": 1},
        "context_management": [{"type": "compaction"}],
    },
}
NEUTRAL = {
    "top_k": 0,
    "min_p": 0,
    "repetition_penalty": 1.0,
    "n": 1,
    "best_of": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "functions": [],
    "mcp_servers": [],
    "tools": [],
    "background": False,
    "unheard_of": None,
    "stream": False,
}
PASSING: dict[str, dict[str, Any]] = {
    "chat": {
        "user": "u",
        "safety_identifier": "s",
        "metadata": {"a": "b"},
        "client_metadata": {"a": "b"},
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {},
        "reasoning_effort": "high",
        "verbosity": "low",
        "service_tier": "auto",
        "store": False,
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "parallel_tool_calls": True,
        "max_completion_tokens": 5,
    },
    "messages": {
        # What Claude Code sends.
        "thinking": {"type": "enabled", "budget_tokens": 31999, "display": "omitted"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "metadata": {"user_id": "u"},
        "output_config": {"effort": "high", "format": None},
        "cache_control": {"type": "ephemeral"},
        "service_tier": "standard_only",
        "speed": "standard",
        "stop_sequences": ["a"],
    },
    "responses": {
        # What Codex sends.
        "client_metadata": {"x-codex-turn-metadata": "{}"},
        "include": ["reasoning.encrypted_content"],
        "parallel_tool_calls": True,
        "prompt_cache_key": "k",
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "text": {"verbosity": "low", "format": {"type": "text"}},
        "user": "u",
        "safety_identifier": "s",
        "metadata": {},
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {},
        "service_tier": "default",
        "truncation": "disabled",
        "stream_options": {"include_obfuscation": False},
    },
}
ALL_REFUSED = [
    (protocol, name, value)
    for protocol, fields in REFUSED.items()
    for name, value in {**EVERYWHERE, **fields}.items()
]
ALL_PASSING = [
    (protocol, name, value)
    for protocol, fields in PASSING.items()
    for name, value in {**NEUTRAL, **fields}.items()
]


def asked(protocol: str, **more: Any) -> Asked:
    return asked_of(protocol, {**BASE[protocol], **more})


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(("protocol", "name", "value"), ALL_REFUSED)
def test_what_is_not_carried_out_is_refused_by_name(protocol: str, name: str, value: Any) -> None:
    with pytest.raises(Refused, match=f"does not do {name}") as caught:
        asked(protocol, **{name: value})
    assert caught.value.status == 400


@pytest.mark.parametrize(("protocol", "name", "value"), ALL_PASSING)
def test_what_asks_for_nothing_and_what_is_documented_passes(protocol: str, name: str, value: Any) -> None:
    asked(protocol, **{name: value})
    asked(protocol, **{name: None})


@pytest.mark.parametrize("protocol", LEFT_OUT)
def test_what_is_left_out_is_named_in_the_documentation(protocol: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "local-models.md").read_text()
    table = page.partition("| left out |")[2].partition("\n\n")[0]
    for name, fields in LEFT_OUT[protocol].items():
        assert f"`{name}" in table or f"`{name}." in table, name
        assert name in PASSING[protocol], "and has a case here"
        assert callable(fields) or fields


def test_the_refusal_tells_what_to_send_instead() -> None:
    for protocol, name, instead in (
        ("chat", "functions", "send tools"),
        ("messages", "stop", "send stop_sequences"),
        ("responses", "max_tokens", "send max_output_tokens"),
        ("messages", "top_k", "leave it out"),
    ):
        with pytest.raises(Refused, match=f"does not do {name}; {instead}"):
            asked(protocol, **{name: [1]})
    with pytest.raises(Refused, match=r"output_config\.format"):
        asked("messages", output_config={"effort": "low", "format": FORMAT})


CALL = {"name": "f", "arguments": "{}"}


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    ("message", "named"),
    [
        (
            {"role": "assistant", "content": None, "function_call": CALL},
            "messages.function_call; send tool_calls",
        ),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "messages.audio"),
        ({"role": "user", "content": "x", "name": "Bob"}, "messages.name"),
        ({"role": "user", "content": "x", "tool_calls": [{"function": CALL}]}, "messages.tool_calls"),
        ({"role": "system", "content": "x", "unheard_of": 1}, "messages.unheard_of"),
    ],
)
def test_what_of_a_message_no_template_is_told_is_refused(message: Any, named: str) -> None:
    with pytest.raises(Refused, match=named):
        asked("chat", messages=[USER, message, USER])


@pytest.mark.parametrize(
    ("protocol", "turn"),
    [
        ("messages", {"role": "assistant", "content": "x", "tool_calls": [{"function": CALL}]}),
        ("messages", {"role": "user", "content": "x", "name": "Bob"}),
        ("responses", {"role": "user", "content": "x", "name": "Bob"}),
        ("responses", {"type": "function_call", "call_id": "c", **CALL, "namespace": "n"}),
        ("responses", {"type": "function_call_output", "call_id": "c", "output": "x", "unheard_of": 1}),
    ],
)
def test_what_of_a_turn_in_the_other_shapes_is_not_told_is_refused(protocol: str, turn: Any) -> None:
    within = "input" if protocol == "responses" else "messages"
    with pytest.raises(Refused, match=rf"does not do {within}\.{list(turn)[-1]}"):
        asked(protocol, **{within: [USER, turn, USER]})


def test_items_pass_as_an_answer_had_them() -> None:
    text = {"type": "output_text", "text": "Hm.", "annotations": [], "logprobs": []}
    place = {"id": "i", "status": "completed"}
    items = [
        USER,
        {**place, "type": "message", "role": "assistant", "phase": "commentary", "content": [text]},
        {**place, "type": "function_call", "call_id": "c", **CALL, "caller": None, "namespace": None},
        {**place, "type": "function_call_output", "call_id": "c", "output": "x"},
    ]
    assert len(asked("responses", input=items).messages) == 4


def test_a_message_as_the_sdks_and_agents_repeat_it_passes() -> None:
    said: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "refusal": "No.",
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
        "name": "agent",
        "reasoning_content": "hm",
    }
    assert asked("chat", messages=[USER, said, USER]).messages[1] == {"role": "assistant", "content": "No."}


@pytest.mark.parametrize(
    ("protocol", "tool", "named"),
    [
        ("messages", {"name": "f", "input_schema": SCHEMA, "input_examples": [{"a": 1}]}, "input_examples"),
        (
            "messages",
            {"name": "f", "input_schema": SCHEMA, "allowed_callers": ["code_execution"]},
            "allowed_callers",
        ),
        ("chat", {"type": "function", "function": {"name": "f", "examples": [1]}}, r"function\.examples"),
        ("responses", {"type": "function", "name": "f", "examples": [1]}, "examples"),
    ],
)
def test_what_of_a_tool_the_model_is_not_told_is_refused(protocol: str, tool: Any, named: str) -> None:
    with pytest.raises(Refused, match=rf"does not do tools\.{named}"):
        asked(protocol, tools=[tool])


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("protocol", BASE)
def test_an_answer_that_is_begun_is_refused_and_counted(protocol: str) -> None:
    turns = [USER, {"role": "assistant", "content": "Okay, a small"}]
    body = {**BASE[protocol], "input" if protocol == "responses" else "messages": turns}
    with pytest.raises(Refused, match="end with a message of the user") as caught:
        asked_of(protocol, body)
    assert caught.value.status == 400
    assert len(asked_of(protocol, body, is_counted=True).messages) == 2


def test_one_call_is_the_most_where_it_is_said() -> None:
    assert asked("chat", parallel_tool_calls=False).is_single
    assert asked("responses", parallel_tool_calls=False).is_single
    assert asked("messages", tool_choice={"type": "auto", "disable_parallel_tool_use": True}).is_single
    assert not any(asked(protocol).is_single for protocol in BASE)


def test_a_limit_that_is_null_hides_no_other() -> None:
    assert asked("chat", max_completion_tokens=None, max_tokens=7).max_tokens == 7
