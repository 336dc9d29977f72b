"""What a local model says is read by the gateway's own readers: streamed and at once alike."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from lix_cache.gateway.answer import Answer, Incomplete
from lix_cache.gateway.local.answering import Begun
from lix_cache.gateway.local.asking import Asked
from lix_cache.gateway.local.calls import Call
from lix_cache.gateway.local.reports import kv_header, metric_lines
from lix_cache.gateway.local.saying import ChatWriter, Ended, MessagesWriter, Writer, merged_texts
from lix_cache.gateway.local.saying_responses import ResponsesWriter
from lix_cache.gateway.protocols import protocol_of
from lix_cache.kv.miss import Miss
from lix_cache.kv.reply import Usage

PATHS = {
    "/v1/chat/completions": ChatWriter,
    "/v1/messages": MessagesWriter,
    "/v1/responses": ResponsesWriter,
}
USAGE = Usage(10, 7, 5, "disk")
CALL = Call("weather", '{"city":"Bern"}')


def writer(path: str, **asked: Any) -> Writer:
    made: Any = PATHS[path]
    return made(Asked([], **asked), "m", "a" * 24, 1)  # type: ignore[no-any-return]


def streamed(path: str, said: list[str | Call], ended: Ended) -> bytes:
    one = writer(path, wants_usage=True)
    made = one.begin(USAGE)
    for part in said:
        made += one.call(part) if isinstance(part, Call) else one.text(part)
    return made + one.end(ended)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("said", [["Hel", "lo"], [CALL], ["I ", "look.", CALL, CALL]])
def test_both_forms_are_one_answer(path: str, said: list[str | Call]) -> None:
    protocol = protocol_of(path)
    assert protocol is not None
    ended = Ended("tool_calls" if CALL in said else "stop", None, USAGE)
    body = orjson.dumps(writer(path).body(merged_texts(said), ended))
    request = {"stream_options": {"include_usage": True}}
    whole = protocol.read_body(body, request)
    reader = protocol.reader(request)
    reader.feed(streamed(path, said, ended))
    stream = reader.finish()
    assert isinstance(whole, Answer)
    assert isinstance(stream, Answer)
    assert (
        protocol.text(whole) == protocol.text(stream) == "".join(one for one in said if isinstance(one, str))
    )
    assert whole.has_tool_calls is stream.has_tool_calls is (CALL in said)
    assert whole.usage == stream.usage
    assert whole.usage is not None
    assert (whole.usage.output, whole.usage.cached) == (5, 7)


@pytest.mark.parametrize("path", PATHS)
def test_a_cut_answer_is_not_kept(path: str) -> None:
    protocol = protocol_of(path)
    assert protocol is not None
    ended = Ended("length", None, USAGE)
    assert isinstance(protocol.read_body(orjson.dumps(writer(path).body(["x"], ended)), {}), Incomplete)
    reader = protocol.reader({})
    reader.feed(streamed(path, ["x"], ended))
    assert isinstance(reader.finish(), Incomplete)


def test_each_protocol_counts_what_was_cached_in_its_own_field() -> None:
    ended = Ended("stop", None, USAGE)
    chat = writer("/v1/chat/completions").body(["x"], ended)["usage"]
    assert (chat["prompt_tokens"], chat["prompt_tokens_details"]) == (10, {"cached_tokens": 7})
    message = writer("/v1/messages").body(["x"], ended)["usage"]
    assert (message["input_tokens"], message["cache_read_input_tokens"]) == (3, 7)
    response = writer("/v1/responses").body(["x"], ended)["usage"]
    assert (response["input_tokens"], response["input_tokens_details"]) == (10, {"cached_tokens": 7})


def test_a_stop_sequence_is_named() -> None:
    body = writer("/v1/messages").body(["x"], Ended("stop", "END", USAGE))
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "END")


@pytest.mark.promise("no-leak")
def test_the_header_says_where_and_not_what() -> None:
    assert kv_header(Begun(USAGE, None, "f")) == "cached=7/10; source=disk"
    miss = Miss(41, 'message 2 (us"er\r\nx: ü)', 3, 50, "secret-session")
    told = kv_header(Begun(USAGE, miss, "f"))
    assert told == 'cached=7/10; source=disk; differs="token 3 of message 2 (userx ?)"'


def test_metrics_have_a_line_for_each_model() -> None:
    stats = {"a": {"calls": 2, "live_bytes": 8, "load_seconds_per_token": None}, "b": {}}
    lines = list(metric_lines(stats, {"files": 3, "bytes": 4096}))
    assert 'lix_cache_kv_calls_total{upstream="a"} 2' in lines
    assert 'lix_cache_kv_calls_total{upstream="b"} 0' in lines
    assert "lix_cache_kv_stored_blocks 3" in lines
    assert not any(line.startswith("lix_cache_kv_load_seconds_per_token{") for line in lines)
    assert len(lines) == len(set(lines))
