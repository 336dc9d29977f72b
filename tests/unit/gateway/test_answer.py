"""The stored form of an answer, and its templates."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import pytest

from lix_cache.errors import CodecError
from lix_cache.gateway.answer import LARGEST_ANSWER, Answer, Usage, fill
from lix_cache.values.codec import encode_value

ANSWER = Answer(
    protocol="chat",
    id="chatcmpl-1",
    model="m",
    finish=("stop",),
    usage=Usage(3, 2, 1),
    has_tool_calls=False,
    lacks_usage=False,
    body=b'{"id":\0i,"created":\0t}',
    envelope=b'{"id":\0i,',
    events=b'data: \0e"choices":[]\0u}\n\n',
)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"events": None, "envelope": b""},
        {"usage": None, "lacks_usage": True},
        {"finish": ()},
        {"has_tool_calls": True, "finish": ("stop", "tool_calls")},
        {"body": b"{}" + b" " * 100_000},
    ],
)
def test_an_answer_comes_back(changed: dict[str, Any]) -> None:
    answer = dataclasses.replace(ANSWER, **changed)
    assert Answer.decode(answer.encode()) == answer


@pytest.mark.promise("bad-bytes")
def test_every_cut_and_every_changed_byte_is_refused() -> None:
    data = ANSWER.encode()
    for cut in range(len(data)):
        with pytest.raises(CodecError):
            Answer.decode(data[:cut])
    for place in range(len(data)):
        with pytest.raises(CodecError):
            Answer.decode(data[:place] + bytes([data[place] ^ 0x5A]) + data[place + 1 :])


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [True],
        [1],
        [2, "chat", "i", "m", ["stop"], None, False, False, b"", b"", None],
        [1, "chat", "i", "m", "stop", None, False, False, b"", b"", None],
        [1, "chat", "i", "m", ["stop"], [1, 2], False, False, b"", b"", None],
        [1, "chat", "i", "m", ["stop"], [1, 2, -3], False, False, b"", b"", None],
        [1, "chat", "i", "m", ["stop"], None, 0, False, b"", b"", None],
        [1, "chat", "i", "m", ["stop"], None, False, False, "", b"", None],
        [1, "chat", "i" * 5000, "m", ["stop"], None, False, False, b"", b"", None],
        [1, "chat", "i", "m", ["stop"], None, False, False, b"\0x", b"", None],
        [1, "chat", "i", "m", ["stop"], None, False, False, b"end\0", b"", None],
        [1, "chat", "i", "m", ["stop"], None, False, False, b"", b"", None, None],
    ],
)
def test_a_sound_value_that_is_no_answer_is_refused(value: Any) -> None:
    with pytest.raises(CodecError):
        Answer.decode(encode_value(value).head)


@pytest.mark.promise("bad-bytes")
def test_an_answer_cannot_claim_more_memory_than_an_answer_takes() -> None:
    large = [1, "chat", "i", "m", ["stop"], None, False, False, b" " * (3 * LARGEST_ANSWER), b"", None]
    head = encode_value(large, compress_from=1)
    with pytest.raises(CodecError):
        Answer.decode(head.head)
    bomb = zlib.compress(b"\0" * (1 << 26))
    with pytest.raises(CodecError):
        Answer.decode(b"\x01\x01\x80\x80\x80\x20" + bomb)


@pytest.mark.promise("no-leak")
def test_its_repr_tells_nothing_that_was_said() -> None:
    answer = dataclasses.replace(ANSWER, body=b"secret", events=b"secret", envelope=b"secret", id="secret")
    assert "secret" not in repr(answer)


def test_slots_are_filled_with_what_the_request_asked_for() -> None:
    template = b"\0e,\0i\0u}\0[asked \0t\0]\0{unasked\0}."
    values = {b"e": b"{", b"i": b'"x"', b"t": b"7"}
    assert fill(template, values) == b'{,"x"}unasked.'
    assert fill(template, {**values, b"u": b"!"}, asked=True) == b'{,"x"!}asked 7.'


def test_size_counts_all_that_it_holds() -> None:
    assert ANSWER.size >= len(ANSWER.body) + len(ANSWER.envelope) + len(ANSWER.events or b"")
