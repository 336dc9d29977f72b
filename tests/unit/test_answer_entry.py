"""Entries of the semantic cache as bytes: back as they were, and refused if not ours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lix_cache.errors import InvalidInput, RedisCommandError
from lix_cache.hot import entries
from lix_cache.hot.entries import EntryId, Tokens

TIMES = b"%015d%015d" % (2_000, 1_000)
texts = st.text(st.characters(), max_size=40)


@given(texts, st.booleans(), st.binary(min_size=8, max_size=8))
def test_a_record_comes_back_as_it_was(text: str, with_answer: bool, group: bytes) -> None:
    vector, answer = np.arange(4, dtype=np.float32), np.ones(4, np.float32)
    data = TIMES + entries.pack_record(
        nonce=b"t" * 8, group=group, text=text, vector=vector, answer=answer if with_answer else None
    )
    found = entries.unpack_record(b"7-0", data, 4)
    assert (found.number, found.expires_ms, found.nonce, found.group) == (b"7-0", 2000.0, b"t" * 8, group)
    assert found.text == text
    assert found.vector.tolist() == vector.tolist()
    assert (found.answer is not None) is with_answer


def test_a_record_without_a_vector_is_one() -> None:
    data = entries.pack_record(nonce=b"t" * 8, group=b"c" * 8, text="x", vector=np.empty(0, np.float32))
    assert entries.unpack_record(b"7-0", TIMES + data, 4).vector.size == 0


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused_as_a_record(data: bytes) -> None:
    with pytest.raises(RedisCommandError, match="foreign data"):
        entries.unpack_record(b"7-0", data, 4)


@given(st.integers(0, 109), st.integers(0, 255))
def test_a_record_with_a_changed_byte_is_read_or_refused(place: int, byte: int) -> None:
    vector = np.ones(8, np.float32)
    data = bytearray(
        TIMES + entries.pack_record(nonce=b"t" * 8, group=b"c" * 8, text="some text", vector=vector)
    )
    data[place % len(data)] = byte
    try:
        found = entries.unpack_record(b"7-0", bytes(data), 8)
    except RedisCommandError:
        return
    assert found.vector.size in (0, 8)


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_what_is_known_of_an_entry_comes_back_as_it_was(prompt: int, completion: int) -> None:
    fixed = entries.pack_fixed(
        response_key=b"r" * 16,
        text_digest=b"w" * 16,
        group=b"c" * 8,
        nonce=b"t" * 8,
        tokens=Tokens(prompt, completion),
        tags=entries.tag_words(["a", "b"]),
    )
    found = entries.unpack_meta(b"%015d%015d%015d" % (3, 1, 4) + fixed)
    assert (found.expires_ms, found.created_ms) == (3.0, 1.0)
    assert (found.response_key, found.group, found.nonce) == (b"r" * 16, b"c" * 8, b"t" * 8)
    most = 10**10 - 1
    assert found.tokens == Tokens(min(prompt, most), min(completion, most))


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused_as_an_entry(data: bytes) -> None:
    with pytest.raises(RedisCommandError, match="foreign data"):
        entries.unpack_meta(data)


def test_an_entrys_id_is_read_as_it_was_written() -> None:
    known = EntryId(b"12-3", b"\x00" * 7 + b"\xff")
    assert EntryId.parse(str(known)) == known


@pytest.mark.parametrize(
    "text",
    ["a.b", "1-0", "1-0.zz", "1-0." + "0" * 17, "x1-0." + "0" * 16],
)
def test_another_token_is_no_entry(text: str) -> None:
    assert EntryId.parse(text) is None


@pytest.mark.parametrize(
    "text",
    ["", "../evil", "what is it?", "1-0\n." + "0" * 16, "x" * 201, None, 3, b"x"],
)
def test_anything_else_is_not_an_entrys_id(text: object) -> None:
    with pytest.raises(InvalidInput, match="not the id of an entry"):
        EntryId.parse(text)


def test_tags_are_a_list_of_words() -> None:
    assert entries.tag_words([]) == b""
    assert entries.tag_words(["a", "b", "a"]) == entries.tag_words(("b", "a"))
    assert len(entries.tag_words({"a", "b"})) == 16
    with pytest.raises(InvalidInput, match="a list of str, got a str"):
        entries.tag_words("a")
    with pytest.raises(InvalidInput, match="must be a str, got an int"):
        entries.tag_words([3])  # type: ignore[list-item]


def test_tokens_are_two_whole_numbers() -> None:
    assert Tokens.of((3, 4)) == Tokens(3, 4)
    for wrong in ((1,), (1, 2, 3), (1, -1), (1.5, 2), (True, 2), "12", None):
        with pytest.raises(InvalidInput, match="two whole numbers"):
            Tokens.of(wrong)  # type: ignore[arg-type]
