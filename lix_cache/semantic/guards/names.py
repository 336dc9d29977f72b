"""Names, literals and identifiers that one text has and the other has not. Pure.

What is written as a literal (quotes, code, paths, URLs, addresses, flags, identifiers with
digits, underscores or inner capitals) must be in both texts. Capitalised words inside a
sentence are names; two texts disagree if each has a name that the other lacks. Case does not
matter for being found: "paypal" names PayPal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lix_cache.semantic.guards.lexicon.function_words import FUNCTION_WORDS
from lix_cache.semantic.guards.lexicon.number_words import MONTHS
from lix_cache.semantic.guards.reading import Reading, fold, stem

__all__ = ["compare_literals", "compare_names"]

# A mark of quotation stands outside of words and close to what it quotes; what is quoted is a
# name or a literal, not a sentence.
_QUOTED = re.compile(
    r"""`([^`\n]{1,120})`
      | (?<!\w)"(?=\S)([^"\n]{1,60})(?<=\S)"(?!\w) | “([^“”\n]{1,60})” | „([^„“”\n]{1,60})[“”]
      | «\s?([^«»\n]{1,60}?)\s?» | 「([^「」\n]{1,40})」 | 『([^『』\n]{1,40})』 | 《([^《》\n]{1,40})》
      | (?<![\w'])'(?=\S)([^'\n]{1,60})(?<=\S)'(?![\w'])""",
    re.VERBOSE,
)
_DOUBLED = re.compile(r'"{2,}')
_LITERAL = re.compile(
    r"""
    (?P<url>\b(?:https?|ftp|s3|gs|file)://[^\s<>"'`]+ | \bwww\.[^\s<>"'`]+)
  | (?P<mail>[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+)
  | (?P<path>(?<![\w.])(?:~|\.{1,2})?/(?:[\w.@+-]+/?)+ | \b[A-Za-z]:\\[^\s"'`]+)
  | (?P<flag>(?<![\w-])--?[A-Za-z][\w-]*)
  | (?P<handle>(?<!\w)[@\#][A-Za-z]\w*)
  | (?P<word>[^\W_][\w]*(?:[.:/\\-][\w]+)*(?:\(\))?)
    """,
    re.VERBOSE,
)
# A text without any of these has no literal; most have none.
_SIGNS = re.compile(r"""[\d_`"“„«「『《@#/\\]|\w[.:]\w|\(\)|[a-z][A-Z]|(?<!\w)['-]\w|::""")
_INNER_CAPITAL = re.compile(r"[a-z0-9][A-Z]")
# "os.path.join", "a::b", "main.py"; but not "the end.Then" of somebody who saves a space.
_DOTTED = re.compile(
    r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*){2,}|\w+::\w+"
    r"|\w+\.(?:py|js|ts|java|c|h|cpp|rs|go|rb|sh|sql|json|ya?ml|toml|csv|txt|md|html?|css|xml|pdf|com|org|net|io|dev)"
)
_COUNTED = re.compile(r"[\d.,:/'-]+(?:st|nd|rd|th|er|e|h|s|am|pm|k|m|[a-z]{1,4})?|v?[\d.]+", re.IGNORECASE)
_SQUEEZE = re.compile(r"[\W_]+")
_SENTENCE_END = frozenset('.!?:;…。！？\n•|>("“«')
# Letters of the scripts that have capitals; a word of others may follow without a space.
_CASED = "A-Za-z\u00c0-\u024f\u0370-\u052f\u1e00-\u1fff"
_WORD = re.compile(rf"(?<![{_CASED}0-9_])[{_CASED}]+(?:['’][{_CASED}]+)*(?![{_CASED}0-9_])")
_UNCASED_TAIL = re.compile("[\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]+$")
_FAMILY_NAME = re.compile(r"(?:Mc|Mac|De|Di|La|Le|Van|Von|Fitz|O)[A-Z][a-z]+")
_NOT_NAMES = frozenset({"i", "i'm", "i'd", "i'll", "i've", "ok"})


def _squeezed(text: str) -> str:
    return _SQUEEZE.sub("", fold(text))


def _pieces(reading: Reading) -> set[str]:
    """Return the words of a text, and its pairs and triples of words written together."""
    words = [_SQUEEZE.sub("", word) for word in reading.words]
    pieces = set(words)
    for size in (2, 3):
        pieces.update("".join(words[i : i + size]) for i in range(len(words) - size + 1))
    return pieces


def literals(reading: Reading) -> dict[str, str]:
    """Return the literals of a text: squeezed form to what is written."""
    if not _SIGNS.search(reading.text):
        return {}
    found = {_squeezed(shown): shown for shown in _written(reading.text)}
    found.pop("", None)
    return found


def _written(text: str) -> Iterator[str]:
    for match in _QUOTED.finditer(_DOUBLED.sub('"', text)):
        yield next(group for group in match.groups() if group is not None)
    for match in _LITERAL.finditer(text):
        shown = match.group()
        if match.lastgroup != "word":
            yield shown.rstrip(".,;:!?)")
            continue
        shown = _UNCASED_TAIL.sub("", shown)
        if _is_identifier(shown):
            yield shown


def _is_identifier(word: str) -> bool:
    if _FAMILY_NAME.fullmatch(word):
        return False
    if "_" in word or word.endswith("()") or _INNER_CAPITAL.search(word):
        return True
    if any(c.isdigit() for c in word) and any(c.isalpha() for c in word):
        return word.isascii() and not _COUNTED.fullmatch(word)
    return _DOTTED.fullmatch(word) is not None


def compare_literals(a: Reading, b: Reading) -> str | None:
    """Return a literal that only one text has, or None."""
    for here, there in ((a, b), (b, a)):
        written = here.once(literals)
        if not written:
            continue
        pieces, own = there.once(_pieces), there.once(literals)
        whole = _squeezed(there.text)
        for squeezed, shown in written.items():
            spoken = len(squeezed) >= 8 and " " in shown and squeezed in whole
            if squeezed not in own and squeezed not in pieces and not spoken:
                other = next((s for key, s in own.items() if key not in written), "no such literal")
                return f"{shown} / {other}"
    return None


def names(reading: Reading) -> list[str]:
    """Return the capitalised words inside sentences, folded; none where capitals tell nothing."""
    text = reading.text
    if reading.language == "de" or text[1:].islower():
        return []
    glue = FUNCTION_WORDS.get(reading.language, frozenset())
    found, inside, capitals = [], 0, 0
    for match in _WORD.finditer(text):
        word = match.group()
        before = text[max(0, match.start() - 4) : match.start()].rstrip()[-1:]
        if not before or before in _SENTENCE_END:
            continue
        before_suffix, _, _ = fold(word).partition("'")
        folded = before_suffix if len(before_suffix) > 2 else fold(word)
        if folded in glue or folded in _NOT_NAMES or folded in MONTHS:
            continue
        inside += 1
        if word[0].isupper():
            capitals += 1
            found.append(folded)
    # In a headline or in shouting every word is a name, so none is.
    return [] if inside >= 3 and capitals * 10 > inside * 7 and capitals >= 3 else found


def compare_names(a: Reading, b: Reading) -> str | None:
    """Return two names, each of which the other text lacks, or None."""
    if a.language != b.language:
        return None  # names are translated too
    first, second = a.once(names), b.once(names)
    if not first or not second:
        return None
    here, there = _lacking(first, b), _lacking(second, a)
    return f"{here} / {there}" if here and there else None


def _lacking(these: list[str], other: Reading) -> str | None:
    pieces = other.once(_pieces)
    stems = {stem(word) for word in other.counts}
    for name in these:
        squeezed = _SQUEEZE.sub("", name)
        if squeezed not in pieces and stem(squeezed) not in stems and not _similar(squeezed, other):
            return name
    return None


def _similar(name: str, other: Reading) -> bool:
    """Whether a word begins as the name does, up to its ending: inflections and slips."""
    if len(name) < 4:
        return False
    start = name[: max(4, len(name) - 2)]
    return any(word.startswith(start) and abs(len(word) - len(name)) <= 3 for word in other.counts)
