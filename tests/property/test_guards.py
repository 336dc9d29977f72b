"""Guards for any text at all: no errors, no objection to oneself, no sides, bounded time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lix_cache.semantic.guards import GUARDS, Objection, check, is_elliptical
from lix_cache.semantic.text import normalise

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
}


def _seconds(size: int, piece: str) -> float:
    text = (piece * size)[:size]
    other = text[5:] + "z"
    times = []
    for _ in range(3):
        began = time.thread_time()
        check(text, other)
        is_elliptical(text)
        times.append(time.thread_time() - began)
    return min(times)


@pytest.mark.parametrize("name", _LONG)
def test_long_texts_take_time_in_proportion(name: str) -> None:
    # Four times the text takes four times as long; sixteen times, if it grew with the square.
    assert _seconds(20_000, _LONG[name]) < 10 * _seconds(5_000, _LONG[name]) + 0.1
