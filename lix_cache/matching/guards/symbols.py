"""Signs that are no words: operators, currencies, emoji, marks of code. Pure.

An embedder hardly sees them, and of texts that differ in nothing else they are the whole question:
``=`` and ``!=``, ``C++`` and ``C#``, ``chmod +x`` and ``chmod -x``, $ and €, a thumb up and one down.
Each sign is compared exactly, under one name where several are in use (``≠`` is ``!=``). Also
compared are words in capitals (AND and OR, JOIN and LEFT JOIN, MAX and MIN, BRCA and BRAF), and what
stands alone as a letter or a Roman numeral (hepatitis A and B, type I and II).

Signs of prose are none: hyphens, dashes, apostrophes, marks at the end of a sentence. Texts that share
less than half of their words are left alone: they say the same, or not, in other words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from itertools import pairwise

from lix_cache.matching.guards.reading import Memo, Reading

__all__ = ["compare_symbols"]

# Where an operator can begin: found first, because prose has few of them; a rule of hyphens is none.
_BEGINS = re.compile(r"[<>=!&|^~\\#@*$%+/:-](?:(?<![:-])|(?<=:)(?=[:=])|(?<=-)(?:(?!-)|(?<=\)-)))")
# Longest first. What one has and the other has not is a difference, either way.
_OPERATOR = re.compile(
    r"<=>|===|!==|\*\*=|//=|>>=|<<=|->>|=~|!~|::|:=|<>|<-|->|=>|==|!=|~=|<=|>=|&&|\|\||\+\+|\*\*|<<|>>"
    r"|\+=|-=|\*=|/=|%=|\|=|&=|\^=|[=<>|&^~\\#@*%]"
    # Plus and minus in front of a word or a number, or between two with or without spaces.
    r"|(?<![\w)\]])[+\-](?=[\w(.])|(?<=[\w)\]])\+(?=\s?[\w(])|(?<=[\w)\]]\s)\+(?=\s?[\w(])|(?<=\w)\+(?!\w)"
    r"|(?<=[\w)\]]\s)[-/](?=\s[\w(])|(?<=\b[A-Za-z])[-/](?=[A-Za-z]\b)|(?<=\))[-/]|[-/](?=\()"
    r"|!(?=\w)|(?<=\w)!(?=\s*[=)])"
)
_SAME = {
    "≠": "!=", "<>": "!=", "≤": "<=", "≥": ">=", "×": "*", "·": "*", "⋅": "*", "÷": "/",
    "−": "-", "–": "-", "→": "->", "⇒": "=>", "←": "<-", "¬": "!", "∧": "&&", "∨": "||", "＋": "+", "＝": "=",
}  # fmt: skip
_OTHER_SIGNS = re.compile(f"[{''.join(sign for sign in _SAME if len(sign) == 1)}]")
_CURRENCY_WORDS = {
    **dict.fromkeys(("dollar", "dollars", "usd", "$", "＄"), "$"),
    **dict.fromkeys(("euro", "euros", "eur", "€"), "€"),
    **dict.fromkeys(("gbp", "sterling", "£", "￡"), "£"),
    **dict.fromkeys(("yen", "jpy", "¥", "￥", "円"), "¥"),
    **dict.fromkeys(("rupee", "rupees", "inr", "₹"), "₹"),
    **dict.fromkeys(("chf", "franken", "francs"), "chf"),
    **dict.fromkeys(("won", "krw", "₩"), "₩"),
    **dict.fromkeys(("rubles", "roubles", "rub", "₽"), "₽"),
}
# Modifiers of an emoji's look, and the joiner; not what it says.
_LOOKS = frozenset("\ufe0e\ufe0f\u200d") | {chr(c) for c in range(0x1F3FB, 0x1F400)}
_CURRENCY = re.compile("[$＄€£￡¥￥円₹₩₽]")
_CAPITALS = re.compile(r"[A-Z](?<!\w[A-Z])[A-Z0-9]+(?:[ -][A-Z][A-Z0-9]+)*\b")
# A letter or a Roman numeral that names one of several things. "a" and "I" are words, "J." is a name's.
_LABEL = re.compile(
    r"[A-Z](?![a-z])(?<![A-Za-z][A-Z])(?:(?<![AI])(?![\w'&]|\s?\.\s*\S)|(?<=A)(?=[\s?.!,;:)]*\Z)|(?<=[IVX])[IVX]{1,4}(?![\w'&])"
    r"|(?<=[a-z]\ [IVX])(?=[\s?.!,;:)]*\Z))"
)
#: What may be a symbol by Unicode's categories: not most of ASCII, nor the commonest letters.
_PICTURE = re.compile(
    "[^\x00-*,-;?-{}\x7f\u0410-\u044f\u3041-\u3096\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3]"
)
_LETTERS = frozenset("bcfghjklpqvwxz")
_KINDS = frozenset({
    *("type", "hepatitis", "vitamin", "group", "class", "grade", "phase", "stage", "part", "plan", "option"),
    *("schedule", "war", "chapter", "section", "appendix", "category", "tier", "level", "form", "title"),
    *("article", "model", "version", "series", "mark", "step"),
})  # fmt: skip
_NUMERALS = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii")
_ROMAN = {numeral: str(number) for number, numeral in enumerate(_NUMERALS, 1)}


def compare_symbols(a: Reading, b: Reading) -> str | None:
    """Return the signs that only one text has, or None."""
    first, second = a.once(_signs), b.once(_signs)
    if first == second:
        return _logic(a, b)
    if not _much_alike(a, b):
        return None
    for kind in first.keys() | second.keys():
        mine, theirs = first.get(kind, _NONE), second.get(kind, _NONE)
        if mine == theirs:
            continue
        # What only one text says at all may be left out by the other; an operator may not.
        if kind not in _NEEDED and not (mine and theirs):
            continue
        only, others = mine - theirs, theirs - mine
        if kind in _NEEDED or (only and others):
            return f"{_shown(only)} / {_shown(others)}"
    return None


def _logic(a: Reading, b: Reading) -> str | None:
    """Compare "and" with "or" where all other words are the same."""
    if len(a.words) != len(b.words) or len(a.words) > 40:
        return None
    changed = {pair for pair in zip(a.words, b.words, strict=True) if pair[0] != pair[1]}
    return "and / or" if changed and changed <= _LOGIC else None


_LOGIC = frozenset(
    pair
    for ands, ors in (("and", "or"), ("und", "oder"), ("et", "ou"), ("y", "o"), ("e", "o"), ("и", "или"))
    for pair in ((ands, ors), (ors, ands))
)
_NONE: Counter[str] = Counter()
_NEEDED = frozenset({"operator"})
#: Signs that prose has as well, as bullets, dashes and the like: they count only against each other.
_MARKS = frozenset({"*", "-", "~", "/"})


def _shown(signs: Counter[str]) -> str:
    return " ".join(sorted(signs)[:5]) or "nothing"


def _much_alike(a: Reading, b: Reading) -> bool:
    mine, theirs = a.content_set, b.content_set
    if 2 * len(mine & theirs) >= min(len(mine), len(theirs)):
        return True
    # In a short question what differs may be all the content there is: "how is MAX used".
    return 3 * len(a.counts.keys() & b.counts.keys()) >= 2 * max(len(a.counts), len(b.counts))


def _signs(reading: Reading) -> dict[str, Counter[str]]:
    """Return the signs of a text by kind."""
    text = reading.text
    found: dict[str, Counter[str]] = {}
    signs = _operators(text)
    if signs:
        operators = Counter([sign for sign in signs if sign not in _MARKS])
        if operators:
            found["operator"] = operators
        marks = Counter([sign for sign in signs if sign in _MARKS])
        if marks:
            found["mark"] = marks
    written = {*_CURRENCY.findall(text), *(_CURRENCY_WORDS.keys() & reading.counts.keys())}
    if written:
        found["currency"] = Counter({_CURRENCY_WORDS[word] for word in written})
    if not text.isascii():
        pictures = Counter(_PICTURE.findall(text))
        for sign in [sign for sign in pictures if not _is_picture[sign]]:
            del pictures[sign]
        if pictures:
            found["picture"] = pictures
    if not text.isupper():
        capitals = {" ".join(run.split()) for run in _CAPITALS.findall(text)}
        if capitals:
            found["capitals"] = Counter(capitals)
    labels = Counter(
        {
            m.group().casefold()
            for m in _LABEL.finditer(text)
            if not _is_inside(text[max(0, m.start() - 1) : m.start()])
        }
    )
    labels.update(_LETTERS.intersection(reading.counts))
    if labels:
        found["label"] = labels
    named = _named(reading)
    if named:
        found["named"] = Counter(named)
    return found


def _named(reading: Reading) -> frozenset[str]:
    """Return what has a letter or a number for a name: "type ii" as "type 2"."""
    if _KINDS.isdisjoint(reading.counts):
        return frozenset()
    return frozenset(
        f"{word} {_number(name)}"
        for word, name in pairwise(reading.words)
        if word in _KINDS and (len(name) <= 2 or name in _ROMAN)
    )


_is_picture = Memo(
    lambda sign: sign not in _LOOKS and sign not in _SAME and unicodedata.category(sign) in ("So", "Sm")
)


def _is_inside(before: str) -> bool:
    return before.isalnum() or before in {"'", "&", ".", "_"}


def _number(written: str) -> str:
    return _ROMAN.get(written, written)


def _operators(text: str) -> list[str]:
    for sign in () if text.isascii() else _OTHER_SIGNS.findall(text):
        text = text.replace(sign, _SAME[sign])
    found, end = [], 0
    for begin in _BEGINS.finditer(text):
        start = begin.start()
        match = _OPERATOR.match(text, start) if start >= end else None
        if match is not None:
            end = match.end()
            if not _is_prose(text, match):
                found.append(_SAME.get(match.group(), match.group()))
    return found


def _is_prose(text: str, match: re.Match[str]) -> bool:
    """Whether a sign is one of prose: "50%", "#1", "a@b", a dash between words, bullets."""
    sign = match.group()
    before, after = text[max(0, match.start() - 2) : match.start()], text[match.end() : match.end() + 2]
    if sign == "%":
        return before[-1:].isdigit() or before[-2:-1].isdigit()  # numbers know percents
    if sign in "@#":
        return bool(after[:1].isalnum() and not before[-1:].isalnum()) or (
            sign == "@" and before[-1:].isalnum()
        )
    if sign in "-/" and before[-1:].isspace() and after[:1].isspace():
        # "a - b" is arithmetic between single letters and numbers, and a dash between words.
        left = text[max(0, match.start() - 20) : match.start()].split()[-1:]
        right = text[match.end() : match.end() + 20].split()[:1]
        return not (left and right and len(left[0]) <= 2 and len(right[0].rstrip("?.!,")) <= 2)
    if sign == "&":
        return before[-1:].isspace() and after[:1].isspace()
    if sign in ("-", "+"):
        return match.start() == 0 and after[:1].isspace()
    # A mark of emphasis or a bullet; a sign that ends a sentence is a slip of the finger.
    return (sign == "*" and match.start() == 0) or (
        sign in "<>=~^|\\" and not text[match.end() : match.end() + 20].strip()
    )
