"""The exact tier merges encodings of one text, and nothing that could mean two things."""

from __future__ import annotations

import pytest

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
