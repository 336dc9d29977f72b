"""Streams of providers: cut anywhere, said again in either form, and of any content at all."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lix_cache.errors import CodecError
from lix_cache.gateway.answer import Answer, Incomplete
from lix_cache.gateway.protocols.embeddings import Embeddings
from lix_cache.gateway.protocols.repeating import Repeating
from lix_cache.gateway.sse import SseReader, read_events
from tests.support.provider_wire import (
    ASKS_USAGE,
    CHAT,
    CHAT_BODIES,
    CHAT_STREAMS,
    CHAT_USAGE,
    CONTENTS,
    MESSAGES,
    OUTPUTS,
    RESPONSES,
    as_json,
    chat_body,
    chat_stream,
    chunk,
    data_of,
    kept,
    message,
    message_events,
    message_item,
    output_text,
    piece,
    recorded,
    response,
    response_events,
    sse,
    stop_of,
)

EMBEDDINGS = Embeddings()
pytestmark = pytest.mark.promise("right-answer")

STREAMS: list[tuple[Any, bytes]] = [
    *((CHAT, chat_stream(*pieces)) for pieces in CHAT_STREAMS.values()),
    *((RESPONSES, sse(response_events(output), named=True)) for output in OUTPUTS.values()),
    *((MESSAGES, sse(message_events(said, stop_of(name)), named=True)) for name, said in CONTENTS.items()),
]
EVENTS: list[tuple[Any, list[Any]]] = [
    *((CHAT, [chunk([one], usage=None) for one in pieces]) for pieces in CHAT_STREAMS.values()),
    *((RESPONSES, response_events(output)) for output in OUTPUTS.values()),
    *((MESSAGES, message_events(said, stop_of(name))) for name, said in CONTENTS.items()),
]
BODIES: list[tuple[Any, Any]] = [
    *((CHAT, body) for body in CHAT_BODIES.values()),
    *((RESPONSES, response(output)) for output in OUTPUTS.values()),
    *((MESSAGES, message(said, stop_of(name))) for name, said in CONTENTS.items()),
]
WORDS = st.text(st.characters(codec="utf-8"), max_size=30)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def again(protocol: Any, answer: Answer, *, stream: bool, request: Any = ASKS_USAGE) -> bytes:
    said: bytes = protocol.render(answer, stream=stream, request=request, new_id="new", created=5)
    return said


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 1 << 20), max_size=40))
def test_a_stream_may_be_cut_anywhere(one: tuple[Any, bytes], places: list[int]) -> None:
    protocol, stream = one
    reader = protocol.reader(ASKS_USAGE)
    for part in cut(stream, places):
        reader.feed(part)
    assert reader.finish() == kept(recorded(protocol, stream, ASKS_USAGE))


LINES = [b"data: a", b"data:b", b": c", b"event: d", b"", "data: ü世".encode(), b"\xef\xbb\xbf"]
PIECES = [b"data: ", b"{", b"\n", b"\n\n", b"}"]


@given(
    st.lists(st.sampled_from(LINES)),
    st.lists(st.sampled_from([b"\n", b"\r", b"\r\n"]), min_size=1),
    st.lists(st.integers(0, 1 << 10), max_size=20),
)
def test_events_do_not_depend_on_where_the_bytes_are_cut(
    lines: list[bytes], ends: list[bytes], places: list[int]
) -> None:
    data = b"".join(line + ends[i % len(ends)] for i, line in enumerate(lines))
    whole = SseReader()
    expected = list(whole.feed(data))
    pieces = SseReader()
    assert [event for part in cut(data, places) for event in pieces.feed(part)] == expected
    rest = whole.finish()
    assert pieces.finish() == rest
    if rest is None:
        assert list(read_events(data)) == expected


@given(st.binary(max_size=300) | st.lists(st.sampled_from(PIECES)).map(b"".join))
def test_any_bytes_end_in_a_reason(data: bytes) -> None:
    for protocol in (CHAT, RESPONSES, MESSAGES):
        assert isinstance(recorded(protocol, data), Incomplete)
        assert isinstance(protocol.read_body(data, {}), Incomplete)
    with contextlib.suppress(CodecError):
        list(read_events(data))


@given(st.sampled_from(STREAMS))
def test_a_replay_is_read_as_the_answer_that_it_was_made_of(one: tuple[Any, bytes]) -> None:
    protocol, stream = one
    answer = kept(recorded(protocol, stream, ASKS_USAGE))
    twice = kept(recorded(protocol, again(protocol, answer, stream=True), ASKS_USAGE))
    assert (twice.body, twice.events, twice.envelope) == (answer.body, answer.events, answer.envelope)
    assert (twice.finish, twice.usage, twice.has_tool_calls) == (
        answer.finish,
        answer.usage,
        answer.has_tool_calls,
    )


@given(st.sampled_from(BODIES))
def test_a_body_said_in_events_comes_to_the_body(one: tuple[Any, Any]) -> None:
    protocol, body = one
    answer = kept(protocol.read_body(as_json(body), {}))
    direct = json.loads(again(protocol, answer, stream=False))
    streamed = kept(recorded(protocol, again(protocol, answer, stream=True), ASKS_USAGE))
    assert json.loads(again(protocol, streamed, stream=False)) == direct


CALLS = st.lists(
    st.fixed_dictionaries(
        {"name": st.text("abc", min_size=1), "arguments": st.dictionaries(WORDS, PLAIN, max_size=3)}
    ),
    max_size=3,
)


@given(WORDS.filter(str.strip), WORDS, CALLS, st.integers(1, 3))
def test_any_chat_in_both_forms(text: str, thought: str, calls: list[Any], choices: int) -> None:
    said: dict[str, Any] = {"content": text, "reasoning_content": thought}
    if calls:
        said["tool_calls"] = [
            {
                "id": f"call_{i}",
                "type": "function",
                "function": {"name": one["name"], "arguments": json.dumps(one["arguments"])},
            }
            for i, one in enumerate(calls)
        ]
    body = chat_body(said, "tool_calls" if calls else "stop")
    body["choices"] = [{**body["choices"][0], "index": index} for index in range(choices)]
    answer = kept(CHAT.read_body(as_json(body), {}))
    assert json.loads(again(CHAT, answer, stream=False)) == {**body, "id": "chatcmpl-new", "created": 5}
    streamed = kept(recorded(CHAT, again(CHAT, answer, stream=True), ASKS_USAGE))
    assert json.loads(again(CHAT, streamed, stream=False)) == {**body, "id": "chatcmpl-new", "created": 5}
    assert json.loads(again(CHAT, streamed, stream=False))["usage"] == CHAT_USAGE


@given(WORDS.filter(str.strip), WORDS, CALLS)
def test_any_message_and_response_in_both_forms(text: str, thought: str, calls: list[Any]) -> None:
    content = [
        {"type": "thinking", "thinking": thought, "signature": thought},
        {"type": "text", "text": text},
        *(
            {"type": "tool_use", "id": f"toolu_{i}", "name": one["name"], "input": one["arguments"]}
            for i, one in enumerate(calls)
        ),
    ]
    items = [
        {"id": "rs", "type": "reasoning", "summary": [{"type": "summary_text", "text": thought}]},
        message_item(output_text(text)),
        *(
            {
                "id": f"fc_{i}",
                "type": "function_call",
                "status": "completed",
                "call_id": f"call_{i}",
                "name": one["name"],
                "arguments": json.dumps(one["arguments"]),
            }
            for i, one in enumerate(calls)
        ),
    ]
    for protocol, body in ((MESSAGES, message(content)), (RESPONSES, response(items))):
        answer = kept(protocol.read_body(as_json(body), {}))
        direct = json.loads(again(protocol, answer, stream=False))
        body.pop("id")
        body.pop("created_at", None)
        assert {key: direct[key] for key in body} == body
        streamed = kept(recorded(protocol, again(protocol, answer, stream=True)))
        assert json.loads(again(protocol, streamed, stream=False)) == direct


# -- most events differ in one text alone, and are told by their bytes -----------------------

NASTY = st.sampled_from(
    [
        *('"content":', '{"content": "x"}', '"text":"y"', "content", "probe", "x", "", " "),
        *('"', "\\", '\\"', "\n", "é🌍", "\0i", ',"obfuscation":"x"}', '"obfuscation"'),
    ]
)
KEYS = st.sampled_from(["content", "reasoning_content"])
BLOCKS = st.tuples(st.sampled_from(["text", "thinking"]), st.lists(NASTY, max_size=8))
SPELLINGS = st.sampled_from([{}, {"separators": (",", ":")}, {"ensure_ascii": False}, {"indent": 1}])


def spelt(events: list[Any], spellings: list[dict[str, Any]], *, named: bool) -> bytes:
    """Return events as servers write them: JSON has many spellings."""
    frames = []
    for i, event in enumerate(events):
        name = f"event: {event['type']}\n" if named else ""
        lines = json.dumps(event, **spellings[i % len(spellings)]).split("\n")
        frames.append(name + "".join(f"data: {line}\n" for line in lines) + "\n")
    return "".join(frames).encode()


@given(
    st.lists(
        st.tuples(st.sampled_from(["content", "reasoning_content"]), st.integers(0, 1), NASTY), max_size=30
    ),
    st.lists(SPELLINGS, min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
)
def test_chunks_told_by_their_bytes_are_what_they_say(
    said: list[tuple[str, int, str]], spellings: list[dict[str, Any]], has_usage: bool, is_padded: bool
) -> None:
    usage = {"usage": None} if has_usage else {}
    pieces = [piece({"role": "assistant", "content": "a"}, index=index) for index in (0, 1)]
    pieces += [piece({key: text}, index=index) for key, index, text in said]
    pieces += [piece({}, "stop", index=index) for index in (0, 1)]
    chunks = [chunk([one], **usage) for one in pieces]
    if is_padded:
        chunks = [{**one, "obfuscation": "aB3" * (i % 4)} for i, one in enumerate(chunks)]
    stream = spelt(chunks, spellings, named=False) + b"data: [DONE]\n\n"
    answer = kept(recorded(CHAT, stream, ASKS_USAGE))
    shown = data_of(again(CHAT, answer, stream=True))
    assert [one["choices"][0] for one in shown[:-1]] == pieces
    assert {one["id"] for one in shown[:-1]} == {"chatcmpl-new"}
    for choice in json.loads(again(CHAT, answer, stream=False))["choices"]:
        texts = {"content": "a", "reasoning_content": None}
        for key, index, text in said:
            if index == choice["index"]:
                texts[key] = (texts[key] or "") + text
        assert {key: choice["message"].get(key) for key in texts} == texts


@given(
    st.lists(
        st.tuples(st.sampled_from(["text", "thinking"]), st.lists(NASTY, max_size=8)), min_size=1, max_size=4
    ),
    st.lists(SPELLINGS, min_size=1, max_size=3),
)
def test_deltas_told_by_their_bytes_are_what_they_say(
    blocks: list[tuple[str, list[str]]], spellings: list[dict[str, Any]]
) -> None:
    blocks = [*blocks, ("text", ["end"])]
    events = message_events([])[:1]
    for index, (kind, pieces) in enumerate(blocks):
        place = {"index": index}
        events.append({"type": "content_block_start", **place, "content_block": {"type": kind, kind: ""}})
        deltas = [{"type": f"{kind}_delta", kind: one} for one in pieces]
        events.extend({"type": "content_block_delta", **place, "delta": one} for one in deltas)
        events.append({"type": "content_block_stop", **place})
    events += message_events([])[-2:]
    answer = kept(recorded(MESSAGES, spelt(events, spellings, named=True)))
    shown = data_of(again(MESSAGES, answer, stream=True))
    assert shown[1:] == events[1:]
    found = json.loads(again(MESSAGES, answer, stream=False))["content"]
    assert found == [{"type": kind, kind: "".join(pieces)} for kind, pieces in blocks]


@pytest.mark.promise("right-answer")
@given(
    st.sampled_from([CHAT, MESSAGES]),
    st.lists(NASTY, min_size=2, max_size=12),
    SPELLINGS,
    st.lists(
        st.tuples(st.integers(0, 10_000), st.sampled_from([b"", b'"', b"\n", b"\\", b"}", b"\n\n", b"x"]))
    ),
)
def test_events_taken_together_are_what_they_are_one_by_one(
    protocol: Any, texts: list[str], spelling: dict[str, Any], spoils: list[tuple[int, bytes]]
) -> None:
    if protocol is CHAT:
        said = [piece({"role": "assistant", "content": "a"}), *(piece({"content": text}) for text in texts)]
        stream = spelt([chunk([one]) for one in (*said, piece({}, "stop"))], [spelling], named=False)
        stream += b"data: [DONE]\n\n"
    else:
        events = message_events([{"type": "text", "text": "ab"}])
        delta = next(one for one in events if one["type"] == "content_block_delta")
        place = events.index(delta)
        more = [{**delta, "delta": {**delta["delta"], "text": text}} for text in texts]
        stream = spelt([*events[:place], *more, *events[place:]], [spelling], named=True)
    for at, data in spoils:
        at %= len(stream)
        stream = stream[:at] + data + stream[at + len(data) :]
    together = recorded(protocol, stream)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Repeating, "run", lambda self, data, start: (start, [], []))
        assert recorded(protocol, stream) == together


# -- providers that send something else ----------------------------------------------------


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places_in(one, (*path, key)))]


def changed(value: Any, data: st.DataObject) -> Any:
    """Return a copy with something else, or nothing, at one place."""
    value = copy.deepcopy(value)
    path = data.draw(st.sampled_from(places_in(value)))
    if not path:
        return data.draw(PLAIN)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[path[-1]] = data.draw(PLAIN)
    else:
        del holder[path[-1]]
    return value


def check_any(protocol: Any, found: Answer | Incomplete) -> None:
    """An answer can be stored and said in both forms, and both can be read; or there is a reason."""
    if isinstance(found, Incomplete):
        assert found.reason
        return
    answer = kept(found)
    for request in ({}, ASKS_USAGE, {"store": False}):
        body = again(protocol, answer, stream=False, request=request)
        stream = again(protocol, answer, stream=True, request=request)
        assert b"\0" not in body + stream
        assert isinstance(json.loads(body), dict)
        assert list(read_events(stream))
    protocol.text(answer)


@settings(max_examples=300)
@given(st.sampled_from(EVENTS), st.data())
def test_a_changed_event_is_a_reason_or_can_be_said(one: tuple[Any, list[Any]], data: Any) -> None:
    protocol, events = one
    place = data.draw(st.integers(0, len(events) - 1))
    events = [*events[:place], changed(events[place], data), *events[place + 1 :]]
    check_any(protocol, recorded(protocol, sse(events, done=protocol is CHAT)))


@settings(max_examples=300)
@given(st.sampled_from(BODIES), st.data())
def test_a_changed_body_is_a_reason_or_can_be_said(one: tuple[Any, Any], data: Any) -> None:
    protocol, body = one
    check_any(protocol, protocol.read_body(as_json(changed(body, data)), {}))


@settings(max_examples=200)
@given(st.data())
def test_changed_embeddings_are_a_reason_or_can_be_said(data: Any) -> None:
    kinds = [[0.5, 0.1], "AAAAPw=="]
    vectors = [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(kinds)]
    body = {"object": "list", "data": vectors, "model": "m", "usage": {"prompt_tokens": 5, "total_tokens": 5}}
    found = EMBEDDINGS.read_body(as_json(changed(body, data)), {"model": "m", "input": ["a", "bc"]})
    if isinstance(found, Incomplete):
        assert found.reason
        return
    answers = [kept(one) for one in found]
    for encoding in ("float", "base64"):
        said = EMBEDDINGS.render(answers, request={"encoding_format": encoding}, new_id="new", created=5)
        assert len(json.loads(said)["data"]) == 2
