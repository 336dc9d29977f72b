"""OpenAI's chat: what is kept, and what it is said again as."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lix_cache.gateway.answer import Answer, Incomplete, Usage
from tests.support.provider_wire import (
    ASKS_USAGE,
    CALL_PIECES,
    CHAT,
    CHAT_BODIES,
    CHAT_STREAMS,
    CHAT_USAGE,
    TEXT_PIECES,
    as_json,
    chat_body,
    chat_stream,
    chunk,
    data_of,
    kept,
    piece,
    recorded,
    sse,
)

pytestmark = pytest.mark.promise("right-answer")
STREAMED: dict[str, Any] = {"stream": True}


def rule(found: Answer | Incomplete) -> str:
    assert isinstance(found, Incomplete), found
    return found.rule


def said(answer: Answer, request: dict[str, Any] = STREAMED) -> list[Any]:
    return data_of(CHAT.render(answer, stream=True, request=request, new_id="new", created=5))


def body(answer: Answer, request: dict[str, Any] | None = None) -> Any:
    return json.loads(CHAT.render(answer, stream=False, request=request or {}, new_id="new", created=5))


def test_a_recorded_stream_is_said_again_with_a_new_id_and_time() -> None:
    answer = kept(recorded(CHAT, chat_stream(*TEXT_PIECES), ASKS_USAGE))
    events = said(answer, ASKS_USAGE)
    assert events[-1] == "[DONE]"
    assert [event["choices"][0]["delta"] for event in events[:4]] == [one["delta"] for one in TEXT_PIECES]
    assert {event["id"] for event in events[:-1]} == {"chatcmpl-new"}
    assert {event["created"] for event in events[:-1]} == {5}
    assert answer.usage == Usage(11, 7, 4)
    assert b"orig" not in answer.body + answer.envelope + (answer.events or b"")


def test_no_cross_serving_of_streamed_and_not() -> None:
    """litellm and others hand a stream to who asked for a body, or the other way round."""
    streamed = kept(recorded(CHAT, chat_stream(*TEXT_PIECES), ASKS_USAGE))
    at_once = kept(CHAT.read_body(as_json(CHAT_BODIES["text"]), {}))
    for answer in (streamed, at_once):
        assert body(answer)["object"] == "chat.completion"
        assert body(answer)["choices"][0]["message"]["content"] == "Grüße, 世界 🌍"
        chunks = said(answer)[:-1]
        assert {one["object"] for one in chunks} == {"chat.completion.chunk"}
        text = "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks)
        assert text == "Grüße, 世界 🌍"


def test_the_same_id_is_not_replayed() -> None:
    answer = kept(CHAT.read_body(as_json(CHAT_BODIES["text"]), {}))
    assert body(answer)["id"] == "chatcmpl-new"


def test_ids_of_calls_stay_or_the_next_request_would_be_another() -> None:
    answer = kept(recorded(CHAT, chat_stream(*CALL_PIECES), ASKS_USAGE))
    assert answer.has_tool_calls
    calls = body(answer)["choices"][0]["message"]["tool_calls"]
    assert [(one["id"], one["function"]["arguments"]) for one in calls] == [
        ("call_1", '{"a":1}'),
        ("call_2", "{}"),
    ]


def test_tokens_are_told_in_one_last_chunk_and_only_if_asked_for() -> None:
    answer = kept(recorded(CHAT, chat_stream(*TEXT_PIECES), ASKS_USAGE))
    asked = said(answer, ASKS_USAGE)
    assert [one["usage"] for one in asked[:-1]] == [None] * 4 + [CHAT_USAGE]
    assert asked[-2]["choices"] == []
    assert all("usage" not in one for one in said(answer)[:-1])
    assert all(one["choices"] for one in said(answer)[:-1])


def test_a_usage_chunk_with_choices_loses_no_tokens() -> None:
    """OmniRoute#9750: the last chunk has ``choices: [{"delta": {}}]`` and the tokens."""
    chunks = [chunk([one]) for one in TEXT_PIECES]
    last = chunk([{"index": 0, "delta": {}}], usage=CHAT_USAGE)
    answer = kept(recorded(CHAT, sse([*chunks, last], done=True), ASKS_USAGE))
    assert answer.usage == Usage(11, 7, 4)
    asked = said(answer, ASKS_USAGE)
    assert [one["usage"] for one in asked[:-1] if one["usage"]] == [CHAT_USAGE]
    assert asked[-2]["choices"] == []


def test_tokens_told_unasked_stay_where_the_provider_told_them() -> None:
    chunks = [chunk([one]) for one in TEXT_PIECES[:-1]]
    last = chunk([TEXT_PIECES[-1]], usage=CHAT_USAGE)
    answer = kept(recorded(CHAT, sse([*chunks, last], done=True), STREAMED))
    unasked = said(answer)
    assert [one.get("usage") for one in unasked[:-1]] == [None, None, None, CHAT_USAGE]
    assert unasked[-2]["choices"] == [TEXT_PIECES[-1]]
    asked = said(answer, ASKS_USAGE)
    assert [one["usage"] for one in asked[:-1]] == [None, None, None, None, CHAT_USAGE]
    assert CHAT.lacks(answer, stream=False, request={}) is None


def test_an_answer_without_tokens_is_a_miss_for_who_needs_them() -> None:
    answer = kept(recorded(CHAT, chat_stream(*TEXT_PIECES, usage=None), STREAMED))
    assert CHAT.lacks(answer, stream=True, request=STREAMED) is None
    assert CHAT.lacks(answer, stream=True, request=ASKS_USAGE) == "usage"
    assert CHAT.lacks(answer, stream=False, request={}) == "usage"
    # A provider that tells none though it was asked would otherwise be asked for ever.
    asked = kept(recorded(CHAT, chat_stream(*TEXT_PIECES, usage=None), ASKS_USAGE))
    assert CHAT.lacks(asked, stream=False, request={}) is None
    assert said(asked, ASKS_USAGE)[-2]["choices"] == [TEXT_PIECES[-1]]


def test_reasoning_is_not_lost_on_streamed_hits() -> None:
    """litellm#32068."""
    at_once = kept(CHAT.read_body(as_json(CHAT_BODIES["reasoning"]), {}))
    streamed = kept(recorded(CHAT, chat_stream(*CHAT_STREAMS["reasoning"]), ASKS_USAGE))
    for answer in (at_once, streamed):
        deltas = [one["choices"][0]["delta"] for one in said(answer)[:-1]]
        assert "".join(one.get("reasoning_content") or "" for one in deltas) == "Let me see."
        places = [key for one in deltas for key in ("reasoning_content", "content") if one.get(key)]
        assert places == sorted(places, reverse=True), "it is said before the answer"
        assert body(answer)["choices"][0]["message"]["reasoning_content"] == "Let me see."


def test_padding_is_not_kept() -> None:
    padded = [chunk([one], obfuscation="aXk3") for one in TEXT_PIECES]
    answer = kept(recorded(CHAT, sse(padded, done=True), STREAMED))
    assert b"obfuscation" not in (answer.events or b"")


def test_what_all_chunks_repeat_is_stored_once() -> None:
    pieces = [TEXT_PIECES[0], *[piece({"content": "x"})] * 100, TEXT_PIECES[-1]]
    answer = kept(recorded(CHAT, chat_stream(*pieces), ASKS_USAGE))
    assert (answer.events or b"").count(b"gpt-5-mini") == 0
    assert {one["model"] for one in said(answer)[:-1]} == {"gpt-5-mini"}


def test_a_first_chunk_of_another_kind_stays() -> None:
    """Azure begins with the filter's findings: no choices, no id, no time."""
    first = {
        "choices": [],
        "created": 0,
        "id": "",
        "model": "",
        "object": "",
        "prompt_filter_results": [{"prompt_index": 0}],
    }
    chunks = [chunk([{**one, "content_filter_results": {}}]) for one in TEXT_PIECES]
    answer = kept(recorded(CHAT, sse([first, *chunks], done=True), STREAMED))
    assert said(answer)[0] == first
    assert body(answer)["id"] == "chatcmpl-new"
    assert body(answer)["prompt_filter_results"] == [{"prompt_index": 0}]


def test_servers_that_give_each_chunk_a_time() -> None:
    chunks = [{**chunk([one]), "created": at} for at, one in enumerate(TEXT_PIECES, 1)]
    answer = kept(recorded(CHAT, sse(chunks, done=True), STREAMED))
    assert {one["created"] for one in said(answer)[:-1]} == {5}


def test_words_that_look_like_slots_are_words() -> None:
    text = "\0i \\u0000t \0e \0u \0[x\0]"
    for answer in (
        kept(CHAT.read_body(as_json(chat_body({"content": text})), {})),
        kept(recorded(CHAT, chat_stream(piece({"content": text}), piece({}, "stop")), ASKS_USAGE)),
    ):
        assert body(answer)["choices"][0]["message"]["content"] == text
        deltas = [one["choices"][0]["delta"] for one in said(answer)[:-1]]
        assert "".join(one.get("content") or "" for one in deltas) == text


def test_numbers_of_more_than_64_bits_stay_what_they_are() -> None:
    large = 123456789012345678901234567890
    answer = kept(CHAT.read_body(as_json({**CHAT_BODIES["text"], "system_fingerprint": large}), {}))
    assert body(answer)["system_fingerprint"] == large


# -- what is not kept ----------------------------------------------------------------------


@pytest.mark.parametrize("finish", ["length", "content_filter", "function_call", "", "something_new", None])
def test_truncated_answers_are_not_cached(finish: str | None) -> None:
    """OmniRoute#12885."""
    cut = chat_body({"content": "half an ans"}, "stop")
    cut["choices"][0]["finish_reason"] = finish
    assert rule(CHAT.read_body(as_json(cut), {})) == "truncated"
    if finish is not None:
        stream = chat_stream(piece({"content": "half"}), piece({}, finish))
        assert rule(recorded(CHAT, stream)) == "truncated"


def test_one_choice_of_several_was_cut() -> None:
    several = chat_body({"content": "whole"})
    several["choices"].append({**several["choices"][0], "index": 1, "finish_reason": "length"})
    assert rule(CHAT.read_body(as_json(several), {})) == "truncated"
    calls = chat_body(
        {"tool_calls": CHAT_BODIES["calls"]["choices"][0]["message"]["tool_calls"]}, "tool_calls"
    )
    calls["choices"].append({**several["choices"][0], "index": 1, "finish_reason": "length"})
    assert rule(CHAT.read_body(as_json(calls), {})) == "truncated"


def test_a_stream_without_done_is_not_cached() -> None:
    stream = chat_stream(*TEXT_PIECES)
    assert rule(recorded(CHAT, stream.removesuffix(b"data: [DONE]\n\n"))) == "truncated"
    assert isinstance(recorded(CHAT, stream.removesuffix(b"\n\n")), Answer), "its empty line may be missing"
    assert rule(recorded(CHAT, stream[:-20])) in ("malformed", "truncated")
    assert rule(recorded(CHAT, b"")) == "truncated"


@pytest.mark.parametrize("error", [{"error": {"message": "overloaded"}}, {"error": "x"}, {"type": "error"}])
def test_an_error_event_inside_a_200_stream_is_not_cached(error: dict[str, Any]) -> None:
    assert rule(recorded(CHAT, chat_stream(*TEXT_PIECES[:2]) + sse([error], done=True))) in (
        "error",
        "malformed",
    )
    events = [*(chunk([one]) for one in TEXT_PIECES[:2]), error]
    assert rule(recorded(CHAT, sse(events, done=True))) == "error"
    assert rule(CHAT.read_body(as_json(error), {})) == "error"


def test_a_named_error_event_is_an_error() -> None:
    stream = b"event: error\ndata: {}\n\n" + chat_stream(*TEXT_PIECES)
    assert rule(recorded(CHAT, stream)) == "error"


@pytest.mark.parametrize(
    "delta",
    [
        {"audio": {"data": "UklG"}},
        {"function_call": {"name": "f"}},
        {"something_new": "x"},
        {"content": [{"type": "thinking"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "x"}]},
        {"tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": "{}"}}]},
    ],
)
def test_unknown_deltas_store_nothing(delta: dict[str, Any]) -> None:
    stream = chat_stream(piece({"role": "assistant", "content": "x"}), piece(delta), piece({}, "stop"))
    assert rule(recorded(CHAT, stream)) == "unknown"


@pytest.mark.parametrize(
    "calls",
    [
        [{"index": 0, "id": "a", "function": {"name": "f"}}, {"index": 0, "function": {"name": "f"}}],
        [{"index": 0, "id": "a", "function": {"name": "f"}}, {"index": 0, "id": "b"}],
    ],
)
def test_calls_that_clients_put_together_in_different_ways_are_not_kept(calls: list[Any]) -> None:
    pieces = [piece({"tool_calls": [one]}) for one in calls]
    assert rule(recorded(CHAT, chat_stream(*pieces, piece({}, "tool_calls")))) in ("unknown", "inconsistent")


def test_a_call_whose_arguments_were_cut_is_not_kept() -> None:
    pieces = [*CALL_PIECES[:2], CALL_PIECES[-1]]
    assert rule(recorded(CHAT, chat_stream(*pieces))) == "truncated"
    cut = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"a": '}}]
    assert rule(CHAT.read_body(as_json(chat_body({"tool_calls": cut}, "tool_calls")), {})) == "truncated"


@pytest.mark.parametrize(
    "message",
    [{"content": ""}, {"content": None}, {"content": " \n"}, {"content": "", "reasoning_content": "hm"}],
)
def test_empty_answers_are_not_cached(message: dict[str, Any]) -> None:
    assert rule(CHAT.read_body(as_json(chat_body(message)), {})) == "empty"
    stream = chat_stream(piece({"role": "assistant", **message}), piece({}, "stop"))
    assert rule(recorded(CHAT, stream)) == "empty"


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'"text"',
        b"\xff\xfe",
        b'{"choices": NaN}',
        b"<html>502</html>",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"choices":[{"message":{"content":"\\ud83d"},"finish_reason":"stop"}]}',
        b'{"id":"x","choices":[1]}',
        b'{"choices":{}}',
        b'{"choices":[{"finish_reason":"stop","message":"x"}]}',
        b'{"choices":[{"finish_reason":"stop","message":{"content":"x","tool_calls":{}}}],"big":'
        + b"9" * 5000
        + b"}",
    ],
)
def test_what_is_no_answer_is_told_so(data: bytes) -> None:
    assert isinstance(CHAT.read_body(data, {}), Incomplete)
    assert isinstance(recorded(CHAT, b"data: " + data + b"\n\ndata: [DONE]\n\n"), Incomplete)


@pytest.mark.promise("bad-bytes")
def test_a_stream_that_is_too_large_goes_on_and_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lix_cache.gateway.protocols.protocol.LARGEST_ANSWER", 100)
    reader = CHAT.reader({})
    for _ in range(1000):
        reader.feed(b"x" * 90)
    assert reader._chunks == []
    assert rule(reader.finish()) == "too_large"


@pytest.mark.promise("no-leak")
def test_a_reason_quotes_no_content() -> None:
    named = chat_stream(piece({"a secret sentence": "x"}), piece({}, "stop"))
    found = recorded(CHAT, named)
    assert isinstance(found, Incomplete)
    assert "secret" not in found.reason
    assert "secret" not in CHAT.read_body(b'{"secret', {}).reason  # type: ignore[union-attr]


def test_the_words_of_an_answer() -> None:
    assert CHAT.text(kept(CHAT.read_body(as_json(CHAT_BODIES["reasoning"]), {}))) == "Yes."
    assert CHAT.text(kept(recorded(CHAT, chat_stream(*CHAT_STREAMS["choices"])))) == "zero\n\none"
    assert CHAT.text(kept(CHAT.read_body(as_json(CHAT_BODIES["calls"]), {}))) == ""


DIED = {"code": 502, "message": "the provider died"}


@pytest.mark.parametrize("where", ["choice", "message", "call", "second choice"])
def test_an_error_in_a_part_of_an_answer_is_not_cached(where: str) -> None:
    """OpenRouter tells so of a provider that died; the finish reason beside it may be ``stop``."""
    whole = json.loads(as_json(CHAT_BODIES["calls" if where == "call" else "choices"]))
    assert isinstance(CHAT.read_body(as_json(whole), {}), Answer)
    choice = whole["choices"][1 if where == "second choice" else 0]
    parts = {"message": choice["message"], "call": (choice["message"].get("tool_calls") or [{}])[0]}
    parts.get(where, choice)["error"] = DIED
    assert rule(CHAT.read_body(as_json(whole), {})) == "error"


@pytest.mark.parametrize("at", range(len(TEXT_PIECES)))
def test_an_error_in_a_streamed_choice_is_not_cached(at: int) -> None:
    pieces = [{**one, "error": DIED} if place == at else one for place, one in enumerate(TEXT_PIECES)]
    assert rule(recorded(CHAT, chat_stream(*pieces), STREAMED)) == "error"
    nothing = [{**one, "error": None} for one in TEXT_PIECES]
    assert isinstance(recorded(CHAT, chat_stream(*nothing), STREAMED), Answer)


def test_an_end_that_the_router_made_better_is_not_cached() -> None:
    whole = chat_body({"content": "half an ans"})
    whole["choices"][0]["native_finish_reason"] = "MAX_TOKENS"
    assert rule(CHAT.read_body(as_json(whole), {})) == "truncated"


@pytest.mark.parametrize("asked", [3, 3.0, "2", True, []])
def test_fewer_choices_than_asked_for_are_not_cached(asked: Any) -> None:
    request = {"n": asked}
    assert rule(CHAT.read_body(as_json(CHAT_BODIES["choices"]), request)) == "truncated"
    assert rule(recorded(CHAT, chat_stream(*TEXT_PIECES), {**STREAMED, **request})) == "truncated"
    for enough in ({"n": 2}, {"n": 2.0}, {"n": None}, {}):
        assert isinstance(CHAT.read_body(as_json(CHAT_BODIES["choices"]), enough), Answer)


@pytest.mark.parametrize("index", [0, None, "1", True, 1.0])
def test_two_choices_in_one_place_are_not_cached(index: Any) -> None:
    whole = json.loads(as_json(CHAT_BODIES["choices"]))
    whole["choices"][1]["index"] = index
    assert rule(CHAT.read_body(as_json(whole), {"n": 2})) == "inconsistent"
    twice = [chunk([piece({"content": "a"}, "stop"), piece({"content": "b"}, "stop")])]
    assert rule(recorded(CHAT, sse(twice, done=True), STREAMED)) == "inconsistent"
