"""Names, literals and identifiers that one text has and the other has not. Pure.

What is written as a literal (quotes, code, paths, URLs, addresses, flags, identifiers with
digits, underscores or inner capitals) must be in both texts. Capitalised words inside a
sentence are names; two texts disagree if each has a name that the other lacks. Case does not
matter for being found: "paypal" names PayPal.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain

from lix_cache.matching.guards.lexicon.function_words import FUNCTION_WORDS
from lix_cache.matching.guards.lexicon.number_words import MONTHS
from lix_cache.matching.guards.reading import Memo, Reading, fold, only_in, stem, stems

__all__ = ["DOTTED", "compare_literals", "compare_names", "quoted"]

# A mark of quotation stands outside of words and close to what it quotes; what is quoted is a
# name or a literal, not a sentence.
_QUOTED = re.compile(
    r"""`([^`\n]{1,120})`
      | (?<!\w)"(?=\S)([^"\n]{1,60})(?<=\S)"(?!\w) | “([^“”\n]{1,60})” | „([^„“”\n]{1,60})[“”]
      | «\s?([^«»\n]{1,60}?)\s?» | 「([^「」\n]{1,40})」 | 『([^『』\n]{1,40})』 | 《([^《》\n]{1,40})》
      | (?<![\w'])'(?=\S)([^'\n]{1,60})(?<=\S)'(?![\w'])""",
    re.VERBOSE,
)
_QUOTE = re.compile(r"""[`"“„«「『《'](?:(?<!')|(?<![\w']')(?=\S))""")
_DOUBLED = re.compile(r'"{2,}')
_LITERAL = re.compile(
    r"""
    (?P<url>\b(?:https?|ftp|s3|gs|file)://[^\s<>"'`]+ | \bwww\.[^\s<>"'`]+)
  | (?P<mail>(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+)
  | (?P<path>(?<![\w.])(?:~|\.{1,2})?/(?:[\w.@+-]+/?)+ | \b[A-Za-z]:\\[^\s"'`]+)
  | (?P<flag>(?<![\w-])--?[A-Za-z][\w-]*)
  | (?P<handle>(?<!\w)[@\#][A-Za-z]\w*)
  | (?P<word>[^\W_][\w]*(?:[.:/\\-][\w]+)*(?:\(\))?)
    """,
    re.VERBOSE,
)
# What has none of these is no literal.
_SIGNS = re.compile(r"""[\d_`"“„«「『《@#/\\]|\w[.:]\w|\(\)|[a-z][A-Z]|(?<!\w)['-]\w|::""")
_LETTER = re.compile(r"[^\W_]")
_INNER_CAPITAL = re.compile(r"[a-z0-9][A-Z]")
# "os.path.join", "a::b", "main.py"; but not "the end.Then", where a space is missing.
DOTTED = re.compile(
    r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*){2,}|\w+::\w+"
    r"|\w+\.(?:py|js|ts|java|c|h|cpp|rs|go|rb|sh|sql|json|ya?ml|toml|csv|txt|md|html?|css|xml|pdf|com|org|net|io|dev)"
)
_COUNTED = re.compile(r"[\d.,:/'-]+(?:st|nd|rd|th|er|e|h|s|am|pm|k|m|[a-z]{1,4})?|v?[\d.]+", re.IGNORECASE)
_SQUEEZE = re.compile(r"[\W_]+")
_SENTENCE_END = frozenset('.!?:;…。！？\n•|>("“«')
# Letters of the scripts that have capitals; a word of others may follow without a space.
_CASED = "A-Za-z\u00c0-\u024f\u0370-\u052f\u1e00-\u1fff"
_WORD = re.compile(rf"(?<![{_CASED}0-9_])[{_CASED}]+(?:['’][{_CASED}]+)*(?![{_CASED}0-9_])")
# The same, but no small letter of the commonest ones at the beginning.
_NAME = re.compile(
    rf"[^\W\d_a-z\u00df-\u00f6\u00f8-\u00ff\u0430-\u045f](?<=[{_CASED}])(?<![{_CASED}0-9_].)(?<![{_CASED}]['’].)"
    rf"[{_CASED}]*(?:['’][{_CASED}]+)*(?![{_CASED}0-9_])"
)
_UNCASED_TAIL = re.compile("[\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]+$")
_FAMILY_NAME = re.compile(r"(?:Mc|Mac|De|Di|La|Le|Van|Von|Fitz|O)[A-Z][a-z]+")
_NOT_NAMES = frozenset({"i", "i'm", "i'd", "i'll", "i've", "ok"})


def _squeezed(text: str) -> str:
    return _SQUEEZE.sub("", fold(text))


def _pieces(reading: Reading) -> set[str]:
    """Return the words of a text, and its pairs and triples of words written together."""
    words = reading.once(_squeezed_words)
    twos = map(str.__add__, words, words[1:])
    threes = [one + two + three for one, two, three in zip(words, words[1:], words[2:], strict=False)]
    return {*words, *twos, *threes}


_squeezed_word = Memo(lambda word: word if word.isalnum() else _SQUEEZE.sub("", word))


def _squeezed_words(reading: Reading) -> list[str]:
    return list(_squeezed_word.of(reading.words))


def _is_piece(squeezed: str, reading: Reading) -> bool:
    """Whether words of a text, written together, are what is looked for."""
    # Most literals are nowhere in the text, and to find that out takes a hundredth of the time.
    return squeezed in reading.once(_joined) and squeezed in reading.once(_pieces)


def _joined(reading: Reading) -> str:
    return "".join(reading.once(_squeezed_words))


def _whole(reading: Reading) -> str:
    return _SQUEEZE.sub("", reading.folded)


def literals(reading: Reading) -> dict[str, str]:
    """Return the literals of a text: squeezed form to what is written."""
    return _by_form(chain(reading.once(quoted), *[_literals_of[chunk] for chunk in reading.chunks]))


def _by_form(written: Iterable[str]) -> dict[str, str]:
    found = {_squeezed(shown): shown for shown in dict.fromkeys(written)}
    found.pop("", None)
    return found


def quoted(reading: Reading) -> tuple[str, ...]:
    """Return what stands in quotes."""
    if not _QUOTE.search(reading.text):
        return ()
    text = _DOUBLED.sub('"', reading.text) if '""' in reading.text else reading.text
    # As finditer would, but looking only where a quote may begin.
    found = []
    opening = _QUOTE.search(text)
    while opening is not None:
        match = _QUOTED.match(text, opening.start())
        if match is not None:
            found.append(next(group for group in match.groups() if group is not None))
        opening = _QUOTE.search(text, opening.end() if match is None else match.end())
    return tuple(found)


def _in_chunk(chunk: str) -> tuple[str, ...]:
    """Return the literals in what stands between two white spaces."""
    core = chunk.strip(".,;:!?")
    if core.isalpha() and (core[1:].islower() or core.isupper()):
        return ()
    # A literal without a letter or a digit has nothing to be compared by.
    if not _SIGNS.search(chunk) or not _LETTER.search(chunk):
        return ()
    found = []
    for match in _LITERAL.finditer(chunk):
        shown = match.group()
        if match.lastgroup != "word":
            found.append(shown.rstrip(".,;:!?)"))
            continue
        shown = _UNCASED_TAIL.sub("", shown)
        if _is_identifier(shown):
            found.append(shown)
    return tuple(found)


_literals_of = Memo(_in_chunk)


def _is_identifier(word: str) -> bool:
    if _FAMILY_NAME.fullmatch(word):
        return False
    if "_" in word or word.endswith("()") or _INNER_CAPITAL.search(word):
        return True
    if any(c.isdigit() for c in word) and any(c.isalpha() for c in word):
        return word.isascii() and not _COUNTED.fullmatch(word)
    return DOTTED.fullmatch(word) is not None


def compare_literals(a: Reading, b: Reading) -> str | None:
    """Return a literal that only one text has, or None."""
    for here, there in ((a, b), (b, a)):
        # What stands in a chunk that both texts have is no difference.
        differing = [_literals_of[chunk] for chunk in only_in(here, there)]
        written = _by_form(chain(here.once(quoted), *differing))
        for squeezed, shown in written.items():
            own = there.once(literals)
            if squeezed in own or _is_piece(squeezed, there):
                continue
            if len(squeezed) >= 8 and " " in shown and squeezed in there.once(_whole):
                continue  # a quotation whose words the other text has without quotes
            here_too = here.once(literals)
            other = next((s for key, s in own.items() if key not in here_too), "no such literal")
            return f"{shown} / {other}"
    return None


def names(reading: Reading) -> list[str]:
    """Return the capitalised words inside sentences, folded; none where capitals tell nothing."""
    text = reading.text
    if reading.language == "de" or text[1:].islower():
        return []
    glue = FUNCTION_WORDS.get(reading.language, frozenset())
    found = [
        name
        for match in _NAME.finditer(text)
        if match.group()[0].isupper() and (name := _inside(match, glue))
    ]
    # In a headline or in shouting every word is a name, so none is.
    if len(found) >= 3:
        most = len(found) * 10 // 7
        inside = 0
        for match in _WORD.finditer(text):
            inside += _inside(match, glue) is not None
            if inside > most:
                return found
        return found if inside * 7 >= len(found) * 10 else []
    return found


def _inside(match: re.Match[str], glue: frozenset[str]) -> str | None:
    """Return a word folded, if it stands inside a sentence and is neither glue nor a month."""
    start = match.start()
    before = match.string[max(0, start - 4) : start].rstrip()[-1:]
    if not before or before in _SENTENCE_END:
        return None
    folded = _folded[match.group()]
    return None if folded in glue or folded in _NOT_NAMES or folded in MONTHS else folded


def _fold_name(word: str) -> str:
    folded = fold(word)
    bare = folded.partition("'")[0]
    return bare if len(bare) > 2 else folded


_folded = Memo(_fold_name)


def compare_names(a: Reading, b: Reading) -> str | None:
    """Return two names, each of which the other text lacks, or None."""
    if a.language != b.language:
        return None  # names are translated too
    # A name in a chunk that both texts have is no difference.
    if not all(any(not chunk.islower() for chunk in only_in(*pair)) for pair in ((a, b), (b, a))):
        return None
    if not (_may_lack(a, b) and _may_lack(b, a)):
        return None
    first, second = a.once(names), b.once(names)
    if not first or not second:
        return None
    here, there = _lacking(first, b), _lacking(second, a)
    return f"{here} / {there}" if here and there else None


def _may_lack(here: Reading, there: Reading) -> bool:
    counts = there.counts
    return any(_folded[word] not in counts for word in here.once(_capitalised))


def _capitalised(reading: Reading) -> frozenset[str]:
    return frozenset(_NAME.findall(reading.text))


def _lacking(these: list[str], other: Reading) -> str | None:
    counts = other.counts
    for name in dict.fromkeys(these):
        if name in counts:
            continue
        squeezed = _squeezed_word[name]
        if stem(squeezed) in other.once(_stems) or _similar(squeezed, other):
            continue
        if not _is_piece(squeezed, other):
            return name
    return None


def _stems(reading: Reading) -> frozenset[str]:
    return frozenset(stems.of(reading.counts))


def _similar(name: str, other: Reading) -> bool:
    """Whether a word begins as the name does, up to its ending: inflections and slips."""
    length = len(name)
    if length < 4:
        return False
    start = max(4, length - 2)
    known = other.once(_beginnings)
    if length not in known:
        words = other.once(_by_length)
        known[length] = {word[:start] for n in range(max(start, length - 3), length + 4) for word in words[n]}
    return name[:start] in known[length]


def _by_length(reading: Reading) -> defaultdict[int, list[str]]:
    found: defaultdict[int, list[str]] = defaultdict(list)
    for word in reading.counts:
        found[len(word)].append(word)
    return found


def _beginnings(_reading: Reading) -> dict[int, set[str]]:
    """Return how names begin that are similar to a word, by their length: filled as they are asked for."""
    return {}
