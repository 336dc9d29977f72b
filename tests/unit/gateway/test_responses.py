"""OpenAI's responses: what is kept, and what it is said again as."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lix_cache.gateway.answer import Answer, Incomplete, Usage
from tests.support.provider_wire import (
    OUTPUTS,
    RESPONSES,
    as_json,
    data_of,
    kept,
    message_item,
    output_text,
    recorded,
    response,
    response_events,
    sse,
)

pytestmark = pytest.mark.promise("right-answer")


def rule(found: Answer | Incomplete) -> str:
    assert isinstance(found, Incomplete), found
    return found.rule


def stream(output: list[dict[str, Any]], **more: Any) -> bytes:
    return sse(response_events(output, **more), named=True)


def said(answer: Answer, request: dict[str, Any] | None = None) -> list[Any]:
    return data_of(RESPONSES.render(answer, stream=True, request=request or {}, new_id="new", created=5))


def body(answer: Answer, request: dict[str, Any] | None = None) -> Any:
    return json.loads(RESPONSES.render(answer, stream=False, request=request or {}, new_id="new", created=5))


def without_padding(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    shown = [{key: value for key, value in one.items() if key != "obfuscation"} for one in events]
    for one in shown:
        if "response" in one:
            one["response"] = {**one["response"], "created_at": 5}
    return shown


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_recorded_stream_is_said_again_event_by_event(name: str) -> None:
    events = response_events(OUTPUTS[name])
    assert said(kept(recorded(RESPONSES, sse(events, named=True)))) == without_padding(events)


@pytest.mark.parametrize("name", OUTPUTS)
def test_no_cross_serving_of_streamed_and_not(name: str) -> None:
    whole = {**response(OUTPUTS[name]), "created_at": 5}
    streamed = kept(recorded(RESPONSES, stream(OUTPUTS[name])))
    at_once = kept(RESPONSES.read_body(as_json(response(OUTPUTS[name])), {}))
    for answer in (streamed, at_once):
        assert body(answer) == whole
        events = said(answer)
        assert events[-1] == {
            "type": "response.completed",
            "response": whole,
            "sequence_number": len(events) - 1,
        }
        assert [one["sequence_number"] for one in events] == list(range(len(events)))
        assert answer.usage == Usage(11, 7, 4)
        assert answer.has_tool_calls is (name == "calls")


def test_the_events_of_what_came_at_once_are_those_of_the_provider() -> None:
    for output in OUTPUTS.values():
        kinds = [one["type"] for one in response_events(output)]
        made = [one["type"] for one in said(kept(RESPONSES.read_body(as_json(response(output)), {})))]
        # One delta says what the provider says in two.
        assert list(dict.fromkeys(made)) == list(dict.fromkeys(kinds))


def test_an_id_that_later_requests_may_refer_to_is_kept() -> None:
    """A new ``resp_`` id is unknown to the provider: ``previous_response_id`` would fail."""
    answer = kept(recorded(RESPONSES, stream(OUTPUTS["text"])))
    assert body(answer)["id"] == "resp_orig"
    assert body(answer, {"store": True})["id"] == "resp_orig"
    assert {one["response"]["id"] for one in said(answer) if "response" in one} == {"resp_orig"}
    assert answer.id == "resp_orig", "to find it when the provider deletes it"


def test_the_same_id_is_not_replayed_where_nothing_refers_to_it() -> None:
    answer = kept(recorded(RESPONSES, stream(OUTPUTS["text"], store=False)))
    assert body(answer, {"store": False})["id"] == "resp_new"
    shown = said(answer, {"store": False})
    assert {one["response"]["id"] for one in shown if "response" in one} == {"resp_new"}
    assert [one["item_id"] for one in shown if "item_id" in one].count("msg_1") > 0, "ids of items stay"


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("is_stream", [True, False])
def test_what_a_response_repeats_of_its_request_is_this_requests(is_stream: bool) -> None:
    """None of these is in the key, so another's words would be told."""
    first = {
        "metadata": {"customer": "first"},
        "user": "first",
        "prompt_cache_key": "first",
        "safety_identifier": "first",
    }
    answers = [
        kept(recorded(RESPONSES, stream(OUTPUTS["text"], **first), first)),
        kept(RESPONSES.read_body(as_json(response(OUTPUTS["text"], **first)), first)),
    ]
    second = {"metadata": {"customer": "second"}, "user": None, "prompt_cache_key": "second"}
    for answer in answers:
        says = RESPONSES.render(answer, stream=is_stream, request=second, new_id="n", created=1)
        assert b"first" not in says
        found = data_of(says) if is_stream else [{"response": json.loads(says)}]
        for event in found:
            if "response" in event:
                one = event["response"]
                assert (one["metadata"], one["user"]) == ({"customer": "second"}, None)
                assert (one["prompt_cache_key"], one["safety_identifier"]) == ("second", None)
        assert b"first" not in answer.body + answer.envelope + (answer.events or b"")


def test_instructions_that_a_rule_made_equal_are_this_requests() -> None:
    request = {"instructions": "Today is Monday. Be brief."}
    answer = kept(recorded(RESPONSES, stream(OUTPUTS["text"], **request), request))
    assert body(answer, {"instructions": "Today is Tuesday. Be brief."})["instructions"] == (
        "Today is Tuesday. Be brief."
    )
    # What the provider made of them is the provider's.
    other = kept(recorded(RESPONSES, stream(OUTPUTS["text"], instructions="filled in"), request))
    assert body(other, request)["instructions"] == "filled in"


def test_the_tools_of_an_agent_are_stored_once() -> None:
    tools = [{"type": "function", "name": "f" * 10_000, "parameters": {}, "strict": True}]
    answer = kept(recorded(RESPONSES, stream(OUTPUTS["text"], tools=tools)))
    assert answer.size < 20_000
    assert said(answer)[0]["response"]["tools"] == tools
    assert body(answer)["tools"] == tools


def test_servers_that_end_without_an_output() -> None:
    """The items were told before: so do servers that do not keep the response."""
    events = response_events(OUTPUTS["reasoning"])
    events[-1] = {**events[-1], "response": {**events[-1]["response"], "output": []}}
    answer = kept(recorded(RESPONSES, sse(events, named=True)))
    assert body(answer)["output"] == OUTPUTS["reasoning"]


def test_events_without_a_name_and_a_last_line_of_chat() -> None:
    answer = kept(recorded(RESPONSES, sse(response_events(OUTPUTS["text"]), done=True)))
    assert body(answer)["output"] == OUTPUTS["text"]


# -- what is not kept ----------------------------------------------------------------------


def test_a_stream_without_its_last_event_is_not_cached() -> None:
    events = response_events(OUTPUTS["text"])
    for cut in range(len(events)):
        assert rule(recorded(RESPONSES, sse(events[:cut], named=True))) == "truncated"
    assert rule(recorded(RESPONSES, stream(OUTPUTS["text"])[:-3])) == "malformed"


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        ("response.incomplete", "incomplete", "truncated"),
        ("response.failed", "failed", "error"),
        ("response.completed", "incomplete", "truncated"),
        ("response.completed", "in_progress", "truncated"),
    ],
)
def test_truncated_and_failed_answers_are_not_cached(kind: str, status: str, expected: str) -> None:
    events = response_events(OUTPUTS["text"])
    ended = {**response(OUTPUTS["text"]), "status": status}
    events[-1] = {"type": kind, "response": ended}
    assert rule(recorded(RESPONSES, sse(events, named=True))) == expected
    assert rule(RESPONSES.read_body(as_json(ended), {})) in ("truncated", "error")


def test_an_error_event_inside_a_200_stream_is_not_cached() -> None:
    events: list[Any] = response_events(OUTPUTS["text"])
    events.insert(3, {"type": "error", "code": "server_error", "message": "x"})
    assert rule(recorded(RESPONSES, sse(events, named=True))) == "error"


@pytest.mark.parametrize("kind", ["response.web_search_call.searching", "response.new.delta", None, 7])
def test_unknown_deltas_store_nothing(kind: Any) -> None:
    events: list[Any] = response_events(OUTPUTS["text"])
    events.insert(3, {"type": kind, "output_index": 0})
    assert rule(recorded(RESPONSES, sse(events))) == "unknown"


@pytest.mark.parametrize("kind", ["web_search_call", "mcp_call", "image_generation_call", "program", None])
def test_items_of_tools_that_the_provider_runs_are_not_kept(kind: Any) -> None:
    item = {"id": "x", "type": kind, "status": "completed"}
    output = [item, *OUTPUTS["text"]]
    assert rule(RESPONSES.read_body(as_json(response(output)), {})) == "unknown"


def test_a_part_of_an_unknown_kind_is_not_kept() -> None:
    output = [message_item({"type": "output_audio", "data": "x"})]
    assert rule(RESPONSES.read_body(as_json(response(output)), {})) == "unknown"


def test_events_that_do_not_come_to_the_response_are_not_kept() -> None:
    events = response_events(OUTPUTS["text"])
    other = [message_item(output_text("something else"))]
    events[-1] = {"type": "response.completed", "response": response(other)}
    assert rule(recorded(RESPONSES, sse(events, named=True))) == "inconsistent"
    events = response_events(OUTPUTS["calls"])
    events[-1] = {"type": "response.completed", "response": response(OUTPUTS["calls"][:1])}
    assert rule(recorded(RESPONSES, sse(events, named=True))) == "inconsistent"
    events[-1] = {"type": "response.completed", "response": response(OUTPUTS["calls"][::-1])}
    assert rule(recorded(RESPONSES, sse(events, named=True))) == "inconsistent"


@pytest.mark.parametrize(
    "output", [[], [message_item()], [message_item(output_text(" "))], OUTPUTS["reasoning"][:1]]
)
def test_empty_answers_are_not_cached(output: list[Any]) -> None:
    assert rule(RESPONSES.read_body(as_json(response(output)), {})) == "empty"


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.completed"},
        {"type": "response.completed", "response": []},
        {"type": "response.created", "response": None},
        {"type": "response.output_item.done"},
        {"type": "response.output_item.done", "item": 1, "output_index": 0},
        {"type": "response.output_text.delta", "delta": 1, "output_index": 0},
        {"type": "response.output_text.delta", "delta": "x", "output_index": 0, "content_index": "0"},
        {"type": "response.output_text.delta", "delta": "x", "output_index": 99, "content_index": 0},
        {"type": "response.output_text.delta", "delta": "x", "output_index": 0, "content_index": 99},
        {"type": "response.output_text.delta", "delta": "x", "output_index": -9, "content_index": 0},
        {"type": "response.output_text.delta", "delta": "x", "output_index": 0, "content_index": -9},
        {"type": "response.output_item.done", "item": message_item(output_text("x")), "output_index": -9},
    ],
)
def test_events_without_their_parts(event: Any) -> None:
    events: list[Any] = response_events(OUTPUTS["text"])
    events.insert(4, event)
    assert rule(recorded(RESPONSES, sse(events))) in ("malformed", "inconsistent", "unknown")


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("name", [b"\0i", b"\0[", b"\xff", b"other"])
def test_the_name_of_an_event_is_its_type(name: bytes) -> None:
    """It would be said again: a name may hold bytes that look like a slot."""
    said = stream(OUTPUTS["text"])
    place = said.index(b"event: ") + len(b"event: ")
    assert rule(recorded(RESPONSES, said[:place] + name + said[said.index(b"\n", place) :])) == "malformed"


def test_the_words_of_an_answer() -> None:
    assert (
        RESPONSES.text(kept(recorded(RESPONSES, stream(OUTPUTS["annotations"])))) == "see there\n\nand here"
    )
    assert RESPONSES.text(kept(recorded(RESPONSES, stream(OUTPUTS["reasoning"])))) == "Yes."


DIED = {"code": "server_error", "message": "x"}


@pytest.mark.parametrize("where", ["response", "item", "part"])
def test_an_error_beside_a_completed_status_is_not_cached(where: str) -> None:
    whole = json.loads(as_json(response(OUTPUTS["text"])))
    item = whole["output"][0]
    {"response": whole, "item": item, "part": item["content"][0]}[where]["error"] = DIED
    assert rule(RESPONSES.read_body(as_json(whole), {})) == "error"


@pytest.mark.parametrize("kind", ["response.created", "response.output_item.done", "response.completed"])
def test_an_error_in_an_event_is_not_cached(kind: str) -> None:
    events = response_events(json.loads(as_json(OUTPUTS["text"])))
    for event in events:
        if event["type"] == kind:
            event["response" if "response" in event else "item"] = {
                **event.get("response", event.get("item", {})),
                "error": DIED,
            }
    assert rule(recorded(RESPONSES, sse(events, named=True))) == "error"


def test_an_item_that_was_cut_is_not_cached() -> None:
    whole = json.loads(as_json(response(OUTPUTS["text"])))
    whole["output"][0]["incomplete_details"] = {"reason": "max_output_tokens"}
    assert rule(RESPONSES.read_body(as_json(whole), {})) == "truncated"
