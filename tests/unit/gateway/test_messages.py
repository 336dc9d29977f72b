"""Anthropic's messages: what is kept, and what it is said again as."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lix_cache.gateway.answer import Answer, Incomplete, Usage
from tests.support.provider_wire import (
    CITATION,
    CONTENTS,
    MESSAGES,
    as_json,
    data_of,
    kept,
    message,
    message_events,
    recorded,
    sse,
    stop_of,
)

pytestmark = pytest.mark.promise("right-answer")


def rule(found: Answer | Incomplete) -> str:
    assert isinstance(found, Incomplete), found
    return found.rule


def stream(name: str) -> bytes:
    return sse(message_events(CONTENTS[name], stop_of(name)), named=True)


def streamed_again(answer: Answer) -> bytes:
    return MESSAGES.render(answer, stream=True, request={}, new_id="new", created=5)


def said(answer: Answer) -> list[Any]:
    return data_of(streamed_again(answer))


def body(answer: Answer) -> Any:
    return json.loads(MESSAGES.render(answer, stream=False, request={}, new_id="new", created=5))


@pytest.mark.parametrize("name", CONTENTS)
def test_a_recorded_stream_is_said_again_event_by_event(name: str) -> None:
    events = [one for one in message_events(CONTENTS[name], stop_of(name)) if one["type"] != "ping"]
    events[0]["message"]["id"] = "msg_new"
    assert said(kept(recorded(MESSAGES, stream(name)))) == events


@pytest.mark.parametrize("name", CONTENTS)
def test_no_cross_serving_of_streamed_and_not(name: str) -> None:
    whole = {**message(CONTENTS[name], stop_of(name)), "id": "msg_new"}
    streamed = kept(recorded(MESSAGES, stream(name)))
    at_once = kept(MESSAGES.read_body(as_json(message(CONTENTS[name], stop_of(name))), {}))
    for answer in (streamed, at_once):
        assert body(answer) == whole
        again = kept(
            recorded(MESSAGES, MESSAGES.render(answer, stream=True, request={}, new_id="x", created=1))
        )
        assert body(again) == whole
        assert answer.usage == Usage(11, 7, 4)
        assert answer.has_tool_calls is (name == "calls")
        assert answer.finish == (stop_of(name),)


def test_the_same_id_is_not_replayed() -> None:
    answer = kept(recorded(MESSAGES, stream("text")))
    assert body(answer)["id"] == "msg_new"
    assert said(answer)[0]["message"]["id"] == "msg_new"
    assert b"orig" not in answer.body + (answer.events or b"")


def test_fragments_of_input_json_come_to_the_input() -> None:
    """Wherever they are cut: inside an escape, a number, a word."""
    arguments = {"path": 'a"\\ü🌍', "lines": [1, -2.5e3, True, None], "deep": {"er": {}}}
    text = json.dumps(arguments)
    block = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    for size in (1, 2, 3, 7, len(text)):
        fragments = [text[i : i + size] for i in range(0, len(text), size)]
        events = message_events([block], "tool_use")
        place = next(i for i, one in enumerate(events) if one["type"] == "content_block_stop")
        events[place:place] = [
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "input_json_delta", "partial_json": one},
            }
            for one in fragments
        ]
        answer = kept(recorded(MESSAGES, sse(events, named=True)))
        assert body(answer)["content"][0]["input"] == arguments
        at_once = kept(MESSAGES.read_body(as_json(body(answer)), {}))
        fragments = [
            one["delta"]["partial_json"] for one in said(at_once) if one["type"] == "content_block_delta"
        ]
        assert json.loads("".join(fragments)) == arguments


def test_a_call_whose_input_was_cut_is_not_kept() -> None:
    block = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    events = message_events([block], "tool_use")
    place = next(i for i, one in enumerate(events) if one["type"] == "content_block_stop")
    delta = {"type": "input_json_delta", "partial_json": '{"a": "b'}
    events.insert(place, {"type": "content_block_delta", "index": 0, "delta": delta})
    assert rule(recorded(MESSAGES, sse(events, named=True))) == "malformed"


def test_signatures_of_thinking_stay_as_they_are() -> None:
    for answer in (
        kept(recorded(MESSAGES, stream("thinking"))),
        kept(MESSAGES.read_body(as_json(message(CONTENTS["thinking"])), {})),
    ):
        assert body(answer)["content"][:2] == CONTENTS["thinking"][:2]
        deltas = [one["delta"] for one in said(answer) if one["type"] == "content_block_delta"]
        signatures = [one["signature"] for one in deltas if one["type"] == "signature_delta"]
        assert signatures == ["EqQBCgIYAhIM"]


def test_usage_is_the_last_that_was_told() -> None:
    events = message_events(CONTENTS["text"])
    events[-2]["usage"] = {"input_tokens": 6, "output_tokens": 9, "cache_read_input_tokens": None}
    answer = kept(recorded(MESSAGES, sse(events, named=True)))
    assert body(answer)["usage"] == {
        "input_tokens": 6,
        "cache_creation_input_tokens": 2,
        "cache_read_input_tokens": 4,
        "output_tokens": 9,
        "service_tier": "standard",
    }


def test_what_is_told_with_the_stop_reason_is_in_the_body() -> None:
    events = message_events(CONTENTS["text"], "stop_sequence")
    events[-2]["delta"].update(stop_sequence="END", container=None)
    events[-2]["context_management"] = {"applied_edits": []}
    answer = kept(recorded(MESSAGES, sse(events, named=True)))
    found = body(answer)
    assert (found["stop_sequence"], found["stop_reason"]) == ("END", "stop_sequence")
    assert found["context_management"] == {"applied_edits": []}
    at_once = kept(MESSAGES.read_body(as_json(found), {}))
    assert (
        body(
            kept(
                recorded(MESSAGES, MESSAGES.render(at_once, stream=True, request={}, new_id="new", created=1))
            )
        )
        == found
    )


# -- what is not kept ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "stop", ["max_tokens", "pause_turn", "refusal", "model_context_window_exceeded", "", "new", None]
)
def test_truncated_answers_are_not_cached(stop: Any) -> None:
    assert rule(MESSAGES.read_body(as_json(message(CONTENTS["text"], stop)), {})) == "truncated"
    assert rule(recorded(MESSAGES, sse(message_events(CONTENTS["text"], stop), named=True))) == "truncated"


def test_a_stream_without_message_stop_is_not_cached() -> None:
    events = message_events(CONTENTS["calls"], "tool_use")
    for cut in range(len(events)):
        assert rule(recorded(MESSAGES, sse(events[:cut], named=True))) == "truncated"
    assert rule(recorded(MESSAGES, stream("text")[:-1])) == "malformed"


def test_an_event_that_is_missing_or_twice_is_noticed() -> None:
    events = [one for one in message_events(CONTENTS["calls"], "tool_use") if one["type"] != "ping"]
    for place, one in enumerate(events):
        if one["type"] == "content_block_delta":
            continue  # texts have no length: what is in them cannot be known
        without = events[:place] + events[place + 1 :]
        assert rule(recorded(MESSAGES, sse(without, named=True))) in ("malformed", "truncated")
        twice = [*events[: place + 1], *events[place:]]
        if one["type"] != "message_delta":
            assert rule(recorded(MESSAGES, sse(twice, named=True))) == "malformed"


def test_an_error_event_inside_a_200_stream_is_not_cached() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    events: list[Any] = message_events(CONTENTS["text"])
    for place in range(len(events) + 1):
        shown = [*events[:place], error, *events[place:]]
        assert rule(recorded(MESSAGES, sse(shown, named=True))) == "error"
    assert rule(MESSAGES.read_body(as_json(error), {})) == "error"


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ({"type": "new_delta", "text": "x"}, "unknown"),
        ({"text": "x"}, "unknown"),
        ("x", "unknown"),
        (None, "unknown"),
        ({"type": "thinking_delta", "thinking": "x"}, "malformed"),
        ({"type": "text_delta", "text": 1}, "malformed"),
        ({"type": "citations_delta", "citation": "x"}, "malformed"),
    ],
)
def test_unknown_deltas_store_nothing(delta: Any, expected: str) -> None:
    events: list[Any] = message_events(CONTENTS["text"])
    events.insert(3, {"type": "content_block_delta", "index": 0, "delta": delta})
    assert rule(recorded(MESSAGES, sse(events, named=True))) == expected


@pytest.mark.parametrize("kind", ["content_block_new", None, 5])
def test_unknown_events_store_nothing(kind: Any) -> None:
    events: list[Any] = [*message_events(CONTENTS["text"])]
    events.insert(3, {"type": kind})
    assert rule(recorded(MESSAGES, sse(events))) == "unknown"


@pytest.mark.parametrize("kind", ["server_tool_use", "web_search_tool_result", "mcp_tool_use", "new", None])
def test_blocks_of_tools_that_the_provider_runs_are_not_kept(kind: Any) -> None:
    content = [{"type": kind, "id": "x", "name": "web_search", "input": {}}, *CONTENTS["text"]]
    assert rule(MESSAGES.read_body(as_json(message(content)), {})) == "unknown"


def test_two_signatures_of_one_block_are_not_put_together() -> None:
    events = message_events(CONTENTS["thinking"])
    place = next(i for i, one in enumerate(events) if one.get("delta", {}).get("type") == "signature_delta")
    events.insert(place, events[place])
    assert rule(recorded(MESSAGES, sse(events, named=True))) == "inconsistent"


@pytest.mark.parametrize(
    "content", [[], [{"type": "text", "text": ""}], [{"type": "text", "text": " "}], CONTENTS["thinking"][:2]]
)
def test_empty_answers_are_not_cached(content: list[Any]) -> None:
    assert rule(MESSAGES.read_body(as_json(message(content)), {})) == "empty"
    assert rule(recorded(MESSAGES, sse(message_events(content), named=True))) == "empty"


def test_errors_have_anthropics_form() -> None:
    found = json.loads(MESSAGES.error_body(429, "slow down"))
    assert found == {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}
    assert json.loads(MESSAGES.error_body(418, "x", "teapot"))["error"]["type"] == "teapot"


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("name", [b"\0i", b"\0[", b"\xff", b"other"])
def test_the_name_of_an_event_is_its_type(name: bytes) -> None:
    """It would be said again: a name may hold bytes that look like a slot."""
    said = stream("text")
    place = said.index(b"event: ") + len(b"event: ")
    assert rule(recorded(MESSAGES, said[:place] + name + said[said.index(b"\n", place) :])) == "malformed"


def test_the_words_of_an_answer() -> None:
    assert MESSAGES.text(kept(recorded(MESSAGES, stream("thinking")))) == "Yes."
    assert CITATION["cited_text"] == "see"


DIED = {"type": "overloaded_error", "message": "x"}


@pytest.mark.parametrize("where", ["message", "block"])
def test_an_error_beside_a_stop_reason_is_not_cached(where: str) -> None:
    whole = json.loads(as_json(message(CONTENTS["text"])))
    (whole if where == "message" else whole["content"][0])["error"] = DIED
    assert rule(MESSAGES.read_body(as_json(whole), {})) == "error"


@pytest.mark.parametrize("name", ["message", "content_block", "delta"])
def test_an_error_in_an_event_is_not_cached(name: str) -> None:
    events = json.loads(as_json(message_events(CONTENTS["text"])))
    next(one for one in events if name in one)[name]["error"] = DIED
    assert rule(recorded(MESSAGES, sse(events, named=True))) == "error"


def test_what_a_call_is_given_may_have_an_error_in_it() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "report", "input": {"error": "the disk is full"}}
    kept(MESSAGES.read_body(as_json(message([call], "tool_use")), {}))
