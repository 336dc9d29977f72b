"""The providers' own SDKs read what the gateway says again as they read the provider."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lix_cache.gateway.answer import Answer
from tests.support.provider_wire import (
    ASKS_USAGE,
    CHAT,
    CHAT_BODIES,
    CHAT_STREAMS,
    CONTENTS,
    MESSAGES,
    OUTPUTS,
    RESPONSES,
    as_json,
    chat_stream,
    kept,
    message,
    message_events,
    recorded,
    response,
    response_events,
    sse,
    stop_of,
)

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")
httpx = pytest.importorskip("httpx2")

pytestmark = pytest.mark.promise("right-answer")


def bytes_of(protocol: Any, answer: Answer, stream: bool, request: Any) -> bytes:
    said: bytes = protocol.render(answer, stream=stream, request=request, new_id="new", created=1)
    return said


def client(kind: Any, says: bytes) -> Any:
    """Return a client whose server says always the same."""
    form = "application/json" if says.startswith(b"{") else "text/event-stream"
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"content-type": form}, content=says)
    )
    return kind(api_key="none", base_url="http://test", http_client=httpx.Client(transport=transport))


def plain(found: Any) -> Any:
    """Return an SDK's object without what differs by intention, and without what was told as null."""
    return _bare(json.loads(found.to_json(exclude_none=False)), ())


def _bare(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        left_out = {"created", "created_at"} | ({"id"} if not path else set())
        # Its own helpers add these where they put a stream together.
        left_out |= (
            {"parsed", "parsed_arguments", "parsed_output", "index"} if "tool_calls" in path else {"parsed"}
        )
        return {
            key: _bare(one, (*path, key))
            for key, one in value.items()
            if key not in left_out and one is not None
        }
    return [_bare(one, path) for one in value] if isinstance(value, list) else value


def chat_object(says: bytes) -> Any:
    asked = client(openai.OpenAI, says).chat.completions
    if says.startswith(b"{"):
        return plain(asked.create(model="m", messages=[]))
    with asked.stream(model="m", messages=[], stream_options={"include_usage": True}) as stream:
        stream.until_done()
        return plain(stream.get_final_completion())


@pytest.mark.parametrize("name", CHAT_STREAMS)
def test_a_recorded_chat_is_what_the_sdk_makes_of_the_providers_stream(name: str) -> None:
    stream = chat_stream(*CHAT_STREAMS[name])
    answer = kept(recorded(CHAT, stream, ASKS_USAGE))
    direct = chat_object(stream)
    assert chat_object(bytes_of(CHAT, answer, True, ASKS_USAGE)) == direct
    assert chat_object(bytes_of(CHAT, answer, False, {})) == direct


@pytest.mark.parametrize("name", CHAT_BODIES)
def test_a_chat_that_came_at_once_is_the_same_streamed(name: str) -> None:
    body = as_json(CHAT_BODIES[name])
    answer = kept(CHAT.read_body(body, {}))
    direct = chat_object(body)
    assert chat_object(bytes_of(CHAT, answer, False, {})) == direct
    assert chat_object(bytes_of(CHAT, answer, True, ASKS_USAGE)) == direct


def response_object(says: bytes) -> Any:
    asked = client(openai.OpenAI, says).responses
    if says.startswith(b"{"):
        return plain(asked.create(model="m", input="q"))
    with asked.stream(model="m", input="q") as stream:
        stream.until_done()
        return plain(stream.get_final_response())


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_recorded_response_is_what_the_sdk_makes_of_the_providers_stream(name: str) -> None:
    stream = sse(response_events(OUTPUTS[name]), named=True)
    answer = kept(recorded(RESPONSES, stream))
    direct = response_object(stream)
    assert response_object(bytes_of(RESPONSES, answer, True, {})) == direct
    assert response_object(bytes_of(RESPONSES, answer, False, {})) == direct


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_response_that_came_at_once_is_the_same_streamed(name: str) -> None:
    body = as_json(response(OUTPUTS[name]))
    answer = kept(RESPONSES.read_body(body, {}))
    direct = response_object(body)
    assert response_object(bytes_of(RESPONSES, answer, False, {})) == direct
    assert response_object(bytes_of(RESPONSES, answer, True, {})) == direct


def message_object(says: bytes) -> Any:
    asked = client(anthropic.Anthropic, says).messages
    if says.startswith(b"{"):
        return plain(asked.create(model="m", messages=[], max_tokens=9))
    with asked.stream(model="m", messages=[], max_tokens=9) as stream:
        stream.until_done()
        return plain(stream.get_final_message())


@pytest.mark.parametrize("name", CONTENTS)
def test_a_recorded_message_is_what_the_sdk_makes_of_the_providers_stream(name: str) -> None:
    stream = sse(message_events(CONTENTS[name], stop_of(name)), named=True)
    answer = kept(recorded(MESSAGES, stream))
    direct = message_object(stream)
    assert message_object(bytes_of(MESSAGES, answer, True, {})) == direct
    assert message_object(bytes_of(MESSAGES, answer, False, {})) == direct


@pytest.mark.parametrize("name", CONTENTS)
def test_a_message_that_came_at_once_is_the_same_streamed(name: str) -> None:
    body = as_json(message(CONTENTS[name], stop_of(name)))
    answer = kept(MESSAGES.read_body(body, {}))
    direct = message_object(body)
    assert message_object(bytes_of(MESSAGES, answer, False, {})) == direct
    assert message_object(bytes_of(MESSAGES, answer, True, {})) == direct


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (429, "RateLimitError"),
        (503, "InternalServerError"),
    ],
)
@pytest.mark.parametrize("protocol", [CHAT, RESPONSES, MESSAGES], ids=lambda one: one.name)
def test_errors_are_those_of_the_sdk(protocol: Any, status: int, error: str) -> None:
    sdk = anthropic if protocol is MESSAGES else openai
    body = protocol.error_body(status, "what is wrong")
    transport = httpx.MockTransport(lambda _: httpx.Response(status, json=json.loads(body)))
    kind = anthropic.Anthropic if protocol is MESSAGES else openai.OpenAI
    one = kind(
        api_key="none", base_url="http://test", max_retries=0, http_client=httpx.Client(transport=transport)
    )
    with pytest.raises(getattr(sdk, error), match="what is wrong"):
        if protocol is CHAT:
            one.chat.completions.create(model="m", messages=[])
        elif protocol is RESPONSES:
            one.responses.create(model="m", input="q")
        else:
            one.messages.create(model="m", messages=[], max_tokens=9)
