"""The exact tier merges what never matters, and nothing that could mean two things."""

from __future__ import annotations

import unicodedata
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lix_cache.matching.text import LONGEST, normalise


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("what is this", "  what is this \r\n"),
        ("what is this?", "what is this?\n"),
        ("café", "cafe\u0301"),
        ("東京の天気は？", "東京の天気は？\n"),
        ("한국어 이름", unicodedata.normalize("NFD", "한국어 이름")),
        ("Tiếng Việt là gì", unicodedata.normalize("NFD", "Tiếng Việt là gì ")),
        ("don't do it (today), 5% of 1,000 wi-fi", " don't do it (today), 5% of 1,000 wi-fi"),
        ("हिन्दी में बताओ", "हिन्दी में बताओ\n"),
        (" \n", ""),
        ("\u2003", ""),
    ],
)
def test_what_never_matters_is_dropped(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


#: In each line, no two texts ask the same.
APART = [
    # Case: names, acronyms, units, identifiers.
    ["Polish history", "polish history", "POLISH history"],
    ["the US policy", "the us policy"],
    ["in March", "in march"],
    ["5 mW", "5 MW"],
    ["foo", "Foo", "FOO"],
    # White space: in code, in literals, in data, in what is quoted without quotes.
    ["sed s/  / /g file", "sed s/ / /g file", "sed s/\t/ /g file"],
    ["Is x  = 1 valid PEP 8?", "Is x = 1 valid PEP 8?", "Is x=1 valid PEP 8?"],
    ["split('a  b')", "split('a b')"],
    ['find "a  b"', 'find "a b"'],
    ["find „a  b“", "find „a b“"],
    ["find ‹a  b›", "find ‹a b›"],
    ["n=’a  b’", "n=’a b’"],
    ["`a  b`", "`a b`", "`a\tb`"],
    ["<b>a  b</b>", "<b>a b</b>"],
    ["f(a,  b)", "f(a, b)", "f(a,b)"],
    ["grep 5  6", "grep 5 6"],
    ["password is abc  def ok?", "password is abc def ok?"],
    ["col1\tcol2 split", "col1 col2 split", "col1  col2 split"],
    ["1\u00a0000 m", "1 000 m", "1\u202f000 m", "1\u2009000 m", "1000 m"],
    ["if a:\n    b\n    c", "if a:\n    b\nc", "if a:\n\tb\n\tc", "    if a:\n    b\n    c"],
    ["all:\n\tcc x.c", "all:\n    cc x.c", "all:\n        cc x.c"],
    ["a\nb", "a b", "a\r\nb", "a\rb", "a\n\nb", "a\u2028b", "a\x85b", "a\x0bb", "a\x0cb"],
    ["count the lines:\na\nb", "count the lines:\na\nb\n", "count the lines:\n\na\nb"],
    ["a b", "ab", "a  b"],
    ["grep a\\", "grep a\\ "],
    ["what key is \t", "what key is \u00a0", "what key is \u2003", "what key is"],
    # Quotes and punctuation.
    ["print('a')", 'print("a")', "print(‘a’)", "print(´a´)", "print(`a`)"],
    ["don't", "don’t", "dont"],
    ["a - b", "a – b", "a — b", "a − b"],
    ["let's eat, grandma", "let's eat grandma"],
    ["you did it?", "you did it!", "you did it.", "you did it"],
    ["wait...", "wait…"],
    # Compatibility and look-alikes.
    ["5²", "52", "5^2"],
    ["½ cup", "1/2 cup", "1⁄2 cup"],
    ["x²", "x2", "x₂"],
    ["５", "5", "٥", "५"],
    ["ﬁ", "fi"],
    ["Ａ", "A", "А", "Α", "𝐀"],
    ["5 K", "5 \u212a"],
    ["Ω", "\u2126"],
    ["Å", "\u212b"],
    ["a\u037eb", "a;b"],
    ["run \u1fefls\u1fef", "run `ls`"],
    ["豈", "\uf900"],
    ["I", "İ", "ı", "i"],
    ["Straße", "Strasse", "STRASSE"],
    ["resume", "résumé"],
    # What cannot be seen.
    ["ab", "a\u200bb", "a\u00adb", "a\u2060b", "a\u200db", "a\u200cb", "a\ufeffb", "a\u202eb", "a\u0000b"],
    ["hello", "\ufeffhello", "hello\u200e"],
    ["❤", "❤\ufe0f", "❤\ufe0e"],
    ["👩👧", "👩\u200d👧"],
    ["می\u200cخواهم", "میخواهم", "می خواهم"],
    # Code: not even the encoding of a letter, nor an end of line.
    ["len('é')", "len('e\u0301')"],
    ["open é.txt", "open e\u0301.txt"],
    ["x = 1\ny = 2", "x = 1\r\ny = 2", "x = 1\ny = 2\n"],
    ["echo $x", "echo $x\n", "echo $x "],
]


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("texts", APART)
def test_texts_that_could_differ_in_meaning_stay_apart(texts: list[str]) -> None:
    for one, other in combinations(texts, 2):
        assert normalise(one) != normalise(other), (one, other)


_PIECES = st.sampled_from(
    [
        *"ab1AÉé.,;:!?'\"`’-_=/\\(){}[]<>#$%&*|~^@",
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\u00a0",
        "\u200b",
        "\u0301",
        "\u212a",
        "the ",
        "is",
        "日本",
        "²",
        "\ud800",
    ]
)
_TEXTS = st.lists(_PIECES, max_size=12).map("".join) | st.text(max_size=20)


@given(_TEXTS)
def test_the_form_of_a_form_is_itself(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.promise("right-answer")
@given(_TEXTS)
def test_nothing_is_dropped_but_what_is_around_one_line(text: str) -> None:
    form = normalise(text)
    if form != text and form:
        inner = text.strip(" \r\n")
        assert "\n" not in inner
        assert unicodedata.normalize("NFC", inner) == form


@pytest.mark.promise("right-answer")
@given(_TEXTS, _TEXTS, st.sampled_from(list('`"{}[]<>=\\|_~^@#$*+&/\t')))
def test_nothing_is_dropped_from_what_looks_like_code(before: str, after: str, sign: str) -> None:
    text = before + sign + after
    assert normalise(text) in ({text} if text.strip() else {""})


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize(
    "text", ["a" * (LONGEST + 1), " " * (LONGEST + 1), "a" + "\u0301\u0323" * LONGEST, "\r" * 60_000 + "x"]
)
def test_a_text_that_is_too_long_is_not_looked_at(text: str) -> None:
    assert normalise(text) is text


@pytest.mark.promise("no-stall")
def test_marks_beyond_what_a_letter_carries_are_not_put_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = unicodedata.normalize

    def normalize(form: str, text: str) -> str:
        seen.append(len(text))
        return real(form, text)  # type: ignore[arg-type]

    monkeypatch.setattr("lix_cache.matching.text.unicodedata.normalize", normalize)
    text = "a" + "\u0301\u0323" * 9_000
    assert normalise(text) == text
    assert max(seen, default=0) <= 1
