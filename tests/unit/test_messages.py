"""A message goes in checked, costs few bytes, and comes back as it was."""

from __future__ import annotations

import enum
import json
import math
import struct
import sys
from typing import Any

import numpy as np
import pytest

from lix_cache import InvalidMessage, InvalidSessionId, InvalidVector
from lix_cache.huffman_codec import _backend
from lix_cache.huffman_codec._backend import native_kernel
from lix_cache.messages.message import check_json, decode_json, encode_json, message_text
from lix_cache.messages.packing import pack_hot, unpack_hot, unpack_window
from lix_cache.messages.session_key import stored_id
from lix_cache.messages.turn import (
    FROM_ID,
    ZERO_ID,
    MessageId,
    Turn,
    from_turn,
    new_turn,
    once,
    parse_id,
    to_turn,
    with_id,
)
from lix_cache.vectors import Vector

ID = MessageId(1_700_000_000_123, 4)
USUAL = {"role": "user", "content": "Hi", "timestamp": 1_700_000_000.123, "metadata": {}}


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


# -- ids -------------------------------------------------------------------------------


def test_an_id_is_written_as_redis_writes_it() -> None:
    assert str(ID) == "1700000000123-4"
    assert parse_id("1700000000123-4") == parse_id(b"1700000000123-4") == ID
    assert parse_id("7") == MessageId(7, 0)
    assert ID.timestamp == 1_700_000_000.123


@pytest.mark.parametrize("message_id", [ZERO_ID, ID, MessageId(5, 2**64 - 1), MessageId(5, 2**64 - 2)])
def test_the_next_larger_id_has_nothing_between(message_id: MessageId) -> None:
    larger = message_id.successor()
    assert larger > message_id
    assert larger.predecessor() == message_id
    assert larger in (MessageId(message_id.ms, message_id.seq + 1), MessageId(message_id.ms + 1, 0))


# -- session ids -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "session_id",
    ["a", "../evil", "a/b\\c", "nul\0", "*?[x]", "\n", "会話", "x" * 65_536, " ", "%2F", "{tag}"],
)
def test_any_text_can_be_a_session_id(session_id: str) -> None:
    assert stored_id(session_id) == session_id


@pytest.mark.parametrize(
    ("session_id", "reason"),
    [
        ("", "must not be empty"),
        (None, "must be a str, got None"),
        (5, "must be a str, got an int"),
        (b"a", "must be a str, got bytes"),
        ("\ud800", "UTF-8"),
        ("x" * 65_537, "at most 65536 bytes of UTF-8, got 65537"),
        ("é" * 32_769, "65538"),
    ],
)
def test_what_cannot_name_a_session_is_refused_with_the_reason(session_id: Any, reason: str) -> None:
    with pytest.raises(InvalidSessionId, match=reason):
        stored_id(session_id)


# -- what JSON can carry -------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**70),
        0.1,
        -0.0,
        "",
        "\ud800",
        [],
        {},
        [[]],
        {"": {"a": [1, "x", None]}},
        nested(200),
    ],
)
def test_what_json_carries_comes_back(value: Any) -> None:
    check_json(value, "the value")
    assert decode_json(encode_json(value)) == value


def test_tuples_come_back_as_lists() -> None:
    check_json((1, (2,)), "the value")
    assert decode_json(encode_json((1, (2,)))) == [1, [2]]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, r"the value is nan"),
        ([1, {"a": math.inf}], r"the value\[1\]\[key number 1\] is inf"),
        ({"a": {1: 2}}, r"the value\[key number 1\] has a key of type int, key number 1"),
        ({None: 1}, r"has a key of type NoneType"),
        (b"x", r"the value is bytes"),
        ({"a": {1, 2}}, r"the value\[key number 1\] is a set"),
        (object(), r"is an object"),
        (np.float32(1), r"is a float32"),
        (nested(201), r"more than 200 levels"),
    ],
)
def test_what_json_would_lose_is_refused_with_its_place(value: Any, reason: str) -> None:
    with pytest.raises(InvalidMessage, match=reason):
        check_json(value, "the value")


def test_something_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidMessage, match="levels deep"):
        check_json(loop, "the value")


def test_the_error_can_be_of_another_kind() -> None:
    with pytest.raises(KeyError):
        check_json(b"", "the value", KeyError)


def test_an_integer_that_cannot_be_printed_is_refused() -> None:
    if not hasattr(sys, "get_int_max_str_digits"):
        pytest.skip("this Python prints integers of any length")
    with pytest.raises(InvalidMessage, match="cannot be written as JSON"):
        encode_json(10**5000)


@pytest.mark.parametrize("data", [b"", b"{", b"[1]x", b"\xff", b"nul", b"[" * 100_000, b'"' + b"\\ud8"])
def test_what_is_not_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_json(data)


def test_json_is_compact_and_not_escaped() -> None:
    assert encode_json({"a": [1, "é"]}) == '{"a":[1,"é"]}'.encode()
    assert decode_json(b' { "a" : 1 } ') == {"a": 1}


# -- turns -----------------------------------------------------------------------------


def test_a_message_without_a_vector_is_its_own_body() -> None:
    turn = to_turn(USUAL, ID)
    assert turn == Turn(ID, USUAL)
    assert from_turn(turn) == USUAL


def test_the_vector_is_kept_beside_the_text() -> None:
    turn = to_turn({**USUAL, "embedding": [0.5, 1.0]}, ID, b"nonce!")
    assert turn == Turn(ID, USUAL, Vector(0, struct.pack("<2f", 0.5, 1.0)), b"nonce!")
    assert from_turn(turn) == {**USUAL, "embedding": [0.5, 1.0]}


@pytest.mark.parametrize("embedding", [np.array([0.5, 1.0]), (0.5, 1.0), [1, 2], np.array([[1.0, 2.0]])])
def test_whatever_looks_like_a_vector_is_one(embedding: Any) -> None:
    assert to_turn({"embedding": embedding}, ID).vector is not None


@pytest.mark.parametrize("embedding", [None, [], "text", [True], ["a", 1.0], {"model": "x"}, [[1.0]]])
def test_an_embedding_that_is_no_vector_is_kept_as_it_is(embedding: Any) -> None:
    turn = to_turn({"embedding": embedding}, ID)
    assert turn.vector is None
    assert from_turn(turn) == {"embedding": embedding}


@pytest.mark.parametrize(
    "embedding", [[math.nan], [1.0, math.inf], [2**70], np.zeros((2, 2)), np.array(["a"])]
)
def test_a_vector_that_cannot_be_kept_is_refused(embedding: Any) -> None:
    with pytest.raises(InvalidVector):
        to_turn({"embedding": embedding}, ID)


@pytest.mark.parametrize("message", [None, "text", [], [("role", "user")], 5])
def test_a_turn_must_be_a_dict(message: Any) -> None:
    with pytest.raises(InvalidMessage, match="must be a dict"):
        to_turn(message, ID)


@pytest.mark.parametrize(
    "message", [{"content": math.nan}, {5: "x"}, {"a": {"b": {5: 1}}}, {"content": b"x"}]
)
def test_a_turn_must_be_json(message: Any) -> None:
    with pytest.raises(InvalidMessage, match="the message"):
        to_turn(message, ID)


def test_a_new_turn_has_the_usual_keys_and_waits_for_its_id() -> None:
    turn = new_turn("user", "Hi", None, None, None, b"nonce!")
    assert turn.body["timestamp"] is FROM_ID
    assert with_id(turn, ID) == Turn(ID, USUAL, None, b"nonce!")


def test_an_explicit_timestamp_is_kept() -> None:
    turn = with_id(new_turn("user", [1], {"a": 1}, [1.0], 5, b"nonce!"), ID)
    assert turn.body == {"role": "user", "content": [1], "timestamp": 5, "metadata": {"a": 1}}
    assert turn.vector == Vector(0, struct.pack("<f", 1.0))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"role": 5}, "the role must be a str, got an int"),
        ({"metadata": [1]}, "the metadata must be a dict or None, got a list"),
        ({"metadata": {"a": math.nan}}, r"the metadata\[key number 1\] is nan"),
        ({"content": {1: 2}}, "the content has a key of type int, key number 1"),
        ({"timestamp": math.inf}, "the timestamp is inf"),
        ({"timestamp": b"now"}, "the timestamp is bytes"),
    ],
)
def test_what_cannot_be_added_is_refused_with_its_place(change: dict[str, Any], reason: str) -> None:
    given: dict[str, Any] = {"role": "user", "content": "Hi", "metadata": None, "timestamp": None, **change}
    with pytest.raises(InvalidMessage, match=reason):
        new_turn(**given, embedding=None, nonce=b"nonce!")


@pytest.mark.promise("no-loss")
def test_two_messages_under_one_id_are_two() -> None:
    at = MessageId(5, 0)
    first, second = Turn(at, {"content": "x"}, None, b"nonce1"), Turn(at, {"content": "x"}, None, b"nonce2")
    unmarked, other = Turn(at, {"content": "x"}), Turn(at, {"content": "y"})
    assert once([first, second]) == [first, second]
    assert once([first, unmarked]) == [first]
    assert once([unmarked, second, other, other]) == [unmarked, other]


def test_a_message_that_is_there_twice_is_one() -> None:
    first, second, third = (MessageId(5, n) for n in range(3))
    turns = [
        Turn(third, {"content": "its copy"}, None, b"nonce1"),
        Turn(second, {"content": "kept"}),
        Turn(first, {"content": "original"}, None, b"nonce1"),
        Turn(second, {"content": "kept"}),
        Turn(MessageId(6, 0), {"content": "another"}, None, b"nonce2"),
    ]
    assert [turn.body["content"] for turn in once(turns)] == ["original", "kept", "another"]
    assert once([]) == []


# -- the bytes in Redis ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (Turn(ID, USUAL), b'\0["user","Hi"]'),
        (Turn(ID, {**USUAL, "timestamp": FROM_ID}), b'\0["user","Hi"]'),
        (Turn(ID, {**USUAL, "metadata": {"a": 1}}), b'\0["user","Hi",{"a":1}]'),
        (Turn(ID, {**USUAL, "timestamp": 5}), b'\0["user","Hi",{},5]'),
        (Turn(ID, USUAL, None, b"nonce!"), b'\x01nonce!["user","Hi"]'),
        (
            Turn(ID, USUAL, Vector(0, struct.pack("<f", 1.5)), b"nonce!"),
            b'\x03nonce!\0\x01\0\0\0\0\0\xc0\x3f["user","Hi"]',
        ),
        (
            Turn(ID, {"role": "user"}, Vector(1, bytes(8))),
            b"\x02\x01\x01\0\0\0" + bytes(8) + b'{"role":"user"}',
        ),
    ],
    ids=["usual", "new", "metadata", "timestamp", "nonce", "vector", "unusual"],
)
def test_a_turn_costs_the_bytes_that_its_id_does_not_say(turn: Turn, expected: bytes) -> None:
    assert pack_hot(turn) == expected
    assert unpack_hot(expected, ID) == with_id(turn, ID)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"content": "x"},
        {**USUAL, "extra": 1},
        {**USUAL, "role": None},
        {**USUAL, "content": {"tool_calls": [{"id": "1"}]}},
        {**USUAL, "content": "\ud800"},
        {**USUAL, "metadata": None},
        {**USUAL, "metadata": []},
        {**USUAL, "metadata": False},
        {**USUAL, "timestamp": None},
        {**USUAL, "timestamp": 1_700_000_000},
        {**USUAL, "timestamp": "today"},
        {**USUAL, "timestamp": 1_700_000_000.1231},
    ],
    ids=str,
)
def test_every_body_comes_back_from_redis(body: dict[str, Any]) -> None:
    turn = Turn(ID, body)
    back = unpack_hot(pack_hot(turn), ID)
    assert back == turn
    assert json.dumps(back.body, sort_keys=True) == json.dumps(body, sort_keys=True)


def test_text_of_an_own_kind_comes_back_as_text() -> None:
    class Role(str, enum.Enum):
        USER = "user"

    assert unpack_hot(pack_hot(to_turn({**USUAL, "role": Role.USER}, ID)), ID).body == USUAL


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\x04[]",
        b"\x10[]",
        b"\0[]",
        b'\0["user"]',
        b'\0"ab"',
        b"\x005",
        b"\0null",
        b"\x01non",
        b"\x02",
        b"\x02\0\x01\0\0",
        b"\x02\0\xff\xff\xff\xff" + bytes(8),
        b"\x02\x02\x01\0\0\0" + bytes(8) + b'["a","b"]',
        b"\0[" * 100_000,
        b"\0\xff",
    ],
    ids=repr,
)
def test_bytes_that_we_did_not_write_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidMessage, match="1700000000123-4 in Redis cannot be read"):
        unpack_hot(data, ID)


# -- code words instead of JSON ------------------------------------------------------------

LONG = "Could you please tell me how the weather will be in San Francisco tomorrow afternoon?"

needs_c = pytest.mark.skipif(native_kernel() is None, reason="the C extension is not built")


@pytest.fixture
def _native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend, "kernel", native_kernel())


CODED_BODIES: list[dict[str, Any]] = [
    *({**USUAL, "role": role, "content": LONG} for role in ("user", "assistant", "system", "tool", "critic")),
    {**USUAL, "content": LONG, "metadata": {"model": "m"}},
    {**USUAL, "content": LONG, "timestamp": 5},
    {**USUAL, "content": LONG * 100},
    {**USUAL, "content": LONG + "\ud800"},
    {**USUAL, "content": {"parts": [LONG, 1.5, None]}},
    {"text": LONG},
]


@needs_c
@pytest.mark.usefixtures("_native")
@pytest.mark.parametrize("body", CODED_BODIES, ids=lambda body: str(body)[:60])
def test_a_message_in_code_words_is_shorter_and_comes_back(body: dict[str, Any]) -> None:
    vector = Vector(0, struct.pack("<f", 1.5))
    for turn in (Turn(ID, body), Turn(ID, body, None, b"nonce!"), Turn(ID, body, vector, b"nonce!")):
        plain, coded = pack_hot(turn), pack_hot(turn, coded=True)
        assert coded[0] == plain[0] | 16
        assert len(coded) < len(plain)
        assert unpack_hot(coded, ID) == turn
        # The nonce stands where the script that looks for it looks.
        assert coded[1:7] == plain[1:7] or turn.nonce is None


@needs_c
@pytest.mark.usefixtures("_native")
@pytest.mark.parametrize("content", ["", "Hi", "q7#", "x" * 20_000, LONG * 200])
def test_what_code_words_make_no_shorter_or_is_long_stays_as_it_is(content: str) -> None:
    turn = Turn(ID, {**USUAL, "content": content}, None, b"nonce!")
    assert pack_hot(turn, coded=True) == pack_hot(turn)


@needs_c
def test_python_alone_reads_code_words_and_writes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = Turn(ID, {**USUAL, "content": LONG}, None, b"nonce!")
    monkeypatch.setattr(_backend, "kernel", native_kernel())
    coded = pack_hot(turn, coded=True)
    monkeypatch.setattr(_backend, "kernel", _backend.PURE)
    assert unpack_hot(coded, ID) == turn
    assert pack_hot(turn, coded=True) == pack_hot(turn)


@needs_c
@pytest.mark.usefixtures("_native")
def test_a_window_may_hold_both() -> None:
    bodies = [*CODED_BODIES, {**USUAL, "content": "Hi"}, *CODED_BODIES[:3]]
    turns = [Turn(MessageId(5, i), {**body}, None, b"nonc%02d" % i) for i, body in enumerate(bodies)]
    turns = [
        Turn(
            t.id,
            {**t.body, "timestamp": 0.005} if t.body.get("timestamp") == USUAL["timestamp"] else t.body,
            None,
            t.nonce,
        )
        for t in turns
    ]
    for pattern in (0b0101, 0b1111, 0b0000, 0b1000):
        rows = [(t.id, pack_hot(t, coded=bool(pattern >> i % 4 & 1))) for i, t in enumerate(turns)]
        assert unpack_window(rows) == turns


@needs_c
@pytest.mark.usefixtures("_native")
@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:7] + bytes((data[7] & 0xF0 | 9,)) + data[8:],  # a table of a later version
        lambda data: data[:7] + bytes((data[7] & 0x0F | 0x90,)) + data[8:],  # a role beyond
        lambda data: data[:7] + bytes((data[7] & 0x0F,)) + data[8:],  # JSON that is none
        lambda data: data[:8] + b"\x7f" + data[9:],  # more than the words say
        lambda data: data[:8] + b"\xff\xff" + data[9:],  # more than any caller writes
        lambda data: data[:8] + b"\xff",  # cut within the length
        lambda data: data[:8],
        lambda data: data[:7],
        lambda data: data[:-3],
        lambda data: data + b"x",
    ],
)
def test_code_words_that_we_did_not_write_are_refused(change: Any) -> None:
    coded = pack_hot(Turn(ID, {**USUAL, "content": LONG}, None, b"nonce!"), coded=True)
    assert unpack_hot(coded, ID).body == {**USUAL, "content": LONG}
    changed = change(coded)
    with pytest.raises(InvalidMessage, match="1700000000123-4 in Redis cannot be read"):
        unpack_hot(changed, ID)
    with pytest.raises(InvalidMessage, match="1700000000123-4 in Redis cannot be read"):
        unpack_window([(ID, changed)])


# -- text to search ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        (["a", {"type": "text", "text": "b"}, {"type": "image"}, {"text": 5}, 7], "a b"),
        ([{"type": "image", "url": "x"}], '[{"type":"image","url":"x"}]'),
        ({"tool": "search"}, '{"tool":"search"}'),
        ([], "[]"),
        (5, "5"),
        (None, ""),
        ([["\ud800"]], '[["???"]]'),
    ],
)
def test_the_readable_text_of_a_content(content: Any, text: str) -> None:
    assert message_text({"content": content}).replace("\ufffd", "?") == text
    assert message_text({}) == ""
