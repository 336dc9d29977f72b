"""The exact tier merges encodings of one text, and nothing that could mean two things."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lix_cache.semantic.text import normalise


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("what is  this", " what is this\n"),
        ("caf\u00e9", "cafe\u0301"),
        ("a\u00a0b", "a b"),
        ("東京\u3000天気", "東京 天気"),
        ("don't   do it", "don't do it"),
        ("x = 1\r\ny = 2", "x = 1\ny = 2\n"),
        ("\n\n  first\n    second  ", "  first\n    second"),
    ],
)
def test_encodings_of_one_text_are_one(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Polish history", "polish history"),
        ("5² apples", "52 apples"),
        ("if a:\n    b\n    c", "if a:\n    b\nc"),
        ("split('a  b')", "split('a b')"),
        ('find "a  b"', 'find "a b"'),
        ("`a  b`", "`a b`"),
        ("let's eat, grandma", "let's eat grandma"),
        ("resume", "résumé"),
        ("a b", "ab"),
        ("a\nb", "a b"),
        ("ﬁ", "fi"),
    ],
)
def test_texts_that_could_differ_in_meaning_stay_apart(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@given(st.text(string.printable[:94] + "  \t\n", max_size=30))
def test_the_short_way_of_plain_queries_gives_what_the_long_one_does(text: str) -> None:
    # A no-break space beyond the ASCII at the end is white space, and takes the long way.
    assert normalise(text) == normalise(text + "\u00a0")
