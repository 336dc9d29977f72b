"""Guards for any text at all: no errors, no objection to oneself, no sides, bounded time."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lix_cache.matching.guards import GUARDS, Objection, check, is_elliptical, reading
from lix_cache.matching.guards.reading import MAX_CHARS
from lix_cache.matching.text import normalise

_WORDS = """
the a an this not no never don't from to on off 5 50 1,000 1.000,5 3:30 5pm 2024-05-06 1/2 v1.2.3 $5 %
€3m may 6th Tokyo Paris PayPal foo_bar x.y.z --flag a@b.cc https://a.b/c `code` "q" ascending descending
and yes please two hundred thousand twenty-one 不 没有 二十五 第三个 5月6日
東京 から パリ まで 서울에서 부산까지
نعم İ ß ǆ ﬁ ² ٣
"""
_PIECES = st.sampled_from(_WORDS.split())
_ANY = st.one_of(
    st.text(max_size=200),
    st.lists(_PIECES, max_size=25).map(" ".join),
    st.lists(st.one_of(_PIECES, st.text(max_size=6)), max_size=25).map("".join),
    st.text(alphabet=st.characters(codec=None), max_size=60),  # lone surrogates too
)


@given(_ANY)
def test_no_text_is_objected_to_as_an_answer_to_itself(text: str) -> None:
    assert check(text, text) is None
    assert check(text, normalise(text)) is None


@given(_ANY, _ANY)
@settings(max_examples=400)
def test_it_does_not_matter_which_text_was_there_first(one: str, other: str) -> None:
    found = check(one, other)
    assert found == check(other, one)
    assert found is None or (
        isinstance(found, Objection) and found.guard in GUARDS and found.detail is not None
    )
    is_elliptical(one)


@given(_ANY)
def test_the_normal_form_is_a_fixed_point(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


_LONG = {
    "words": "alpha beta gamma ",
    "one word": "a",
    "digits": "1,234.567 ",
    "one number": "1.",
    "one integer": "1",
    "hundreds": "hundred ",
    "one number in Han": "九",
    "ten thousands in Han": "九万亿",
    "commas": "1,",
    "quotes": "\"a' `b ",
    "open quotes": "“«「",
    "paths": "/a.b/c-d",
    "mail": "a.b@c-d.",
    "dots": "a.b.",
    "han": "不是从东京到巴黎二十五",
    "kana": "トウキョウから",
    "hangul": "서울에서 부산까지 ",
    "negations": "don't not never ",
    "numbers in words": "twenty hundred and ",
    "months": "may march 5 ",
    "spaces": " " * 7 + "a",
    "accents": "e\u0301",
    "capitals": "Aa Bb ",
    "flags": "--a-",
    "yes": "yes ",
    "neutral": "do not know or not ",
    "tags": "don't you ? ",
    "more mail": "a.b+c-d@",
    "hyphens": "-",
    "brackets": "([{",
    "carriage returns": "\r",
    "lines": "a\n",
    "marks": "\u0301\u0323",
    "powers": "x²½ ",
    "backticks": "`",
    "punctuation": ".,;:!?'\"()-…—",
    "zero width": "\u200b\u200d\ufeff",
    "words with zero width": "a\u200bb ",
    "gaps": "a  b \n c",
    "symbols": "≠→👍🏽€",
    "letters of two languages": "éжß ",
    "jamo": "\u1112\u1161\u11ab",
    "opposites": "on off to from enable disable ",
    "similar names": "Aaaab Aaaac ",
    "slashes": "a/",
}


def _forget() -> None:
    for remembered in (reading._read_short, reading._read_long, reading.only_in, reading.words_only_in):
        remembered.cache_clear()


def _ask_all(one: str, other: str) -> None:
    """Ask each guard, also those behind the first that objects."""
    for guard in GUARDS:
        check(one, other, enabled=frozenset({guard}))
    is_elliptical(one)


def _pair(size: int, piece: str) -> tuple[str, str]:
    text = (piece * size)[:size]
    return text, "x" + text[5:] + "z"


def _calls(size: int, piece: str) -> int:
    """Return how many functions are called, of Python and of C, for all guards together."""
    text, other = _pair(size, piece)
    _ask_all(text, other)  # tables are made once
    called = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal called
        called += event in {"call", "c_call"}

    _forget()
    sys.setprofile(count)
    try:
        _ask_all(text, other)
    finally:
        sys.setprofile(None)
    return called


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize("name", _LONG)
def test_the_work_of_a_comparison_is_bounded_by_the_length(name: str) -> None:
    assert _calls(8_000, _LONG[name]) < 5 * _calls(2_000, _LONG[name]) + 500
    assert _calls(8_000, _LONG[name]) < 30 * 8_000


def _steps(one: str, other: str) -> int:
    """Return how many instructions of the interpreter all guards take: each token's visit is some."""
    steps = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        _ask_all(one, other)
    finally:
        sys.settrace(before)
    return steps


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize(
    "name",
    ["words", "punctuation", "han", "digits", "zero width", "words with zero width", "brackets", "gaps"],
)
def test_the_tokens_visited_are_bounded_by_the_length(name: str) -> None:
    few, many = _pair(2_000, _LONG[name]), _pair(8_000, _LONG[name])
    _ask_all(*many)  # tables are made once
    _forget()
    short = _steps(*few)
    assert _steps(*many) < 4.5 * short + 5_000


@pytest.mark.promise("no-stall")
def test_nested_brackets_are_read_as_fast_as_others() -> None:
    pairs = [("(" * n + ")" * n, "(" * n + "x" + ")" * (n - 1)) for n in (1_000, 3_999)]
    _ask_all(*pairs[1])  # tables are made once
    _forget()
    short, long = (_steps(*pair) for pair in pairs)
    assert long < 4.5 * short + 5_000


@pytest.mark.promise("no-stall")
def test_a_text_is_looked_through_once_whatever_it_is_compared_with() -> None:
    text = "Please send 500 euros from Ann to Bob on May 6, don't use `POST /v1/transfers`. " * 25
    others = [text.replace("500", "5,000", 1), text.replace("Ann", "Eve"), text + " Thanks!"]
    _forget()
    _ask_all(text, others[0])
    # What was found is kept as it is: nothing of it is made a second time.
    kept = dict(reading.read(text)._found)
    whole = _steps(text, others[1])
    for other in others:
        _ask_all(text, other)
    found = reading.read(text)._found
    assert kept
    assert all(found[look] is result for look, result in kept.items())
    assert all(_steps(text, other) < whole / 2 for other in others)


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize("size", [MAX_CHARS + 1, 100_000])
def test_texts_beyond_the_bound_are_objected_to_unread(size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lix_cache.matching.guards.read", None)
        found = check("a" * size, "b" * size)
    assert found is not None
    assert found.guard == "length"


@given(_ANY)
@settings(max_examples=400)
def test_characters_folded_one_by_one_are_folded_as_in_the_whole_text(text: str) -> None:
    assert reading.fold(text) == (text.lower() if text.isascii() else reading._fold(text))


@pytest.mark.promise("no-stall")
@given(st.text("\u0301\u0323\u0327", min_size=100, max_size=300))
def test_marks_are_folded_in_runs_that_a_letter_can_carry(marks: str) -> None:
    assert len(reading.fold("a" + marks)) <= 1 + 30


#: Signs of code around places where white space means something.
_CODE = st.sampled_from(["x = {}1", "f({})", "`a{}b`", "a[{}1]", "sed s/{}/x/", "<b>{}x</b>", "if a:\n{}b()"])


@pytest.mark.promise("right-answer")
@given(_CODE, st.text(" \t", min_size=1, max_size=4), st.text(" \t", min_size=1, max_size=4))
def test_white_space_in_code_is_a_difference(code: str, one: str, other: str) -> None:
    found = check("what does " + code.format(one), "what does " + code.format(other))
    assert (found is None) == (one == other)
