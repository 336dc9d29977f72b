"""Writing: the same words, written so that they say something else. Pure.

Many embedders see neither case nor white space, and few tell quotes apart: to them "sed s/  / /g"
is "sed s/ / /g", and "the US" is "the us". Looked at is what differs in its writing alone:

* white space, unless prose stands around it;
* quotes, marks that cannot be seen and wide forms, where a text may be code;
* case, in quotes, in code, in units (mW, MW), and of words that are others with a capital (Polish, US).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, pairwise

from lix_cache.matching.guards.lexicon.cased import ACRONYMS, BITS, CAPITALISED, MEASURED
from lix_cache.matching.guards.lexicon.function_words import FUNCTION_WORDS
from lix_cache.matching.guards.names import DOTTED, quoted
from lix_cache.matching.guards.reading import Memo, Reading, fold, only_in
from lix_cache.matching.text import may_be_code

__all__ = ["compare_writing"]

# One set of characters to begin with, and then what must stand around each of them.
_CODE = re.compile(
    r"""[{}\[\]<>=\\|^~_\t`(:;*\-/.$%&@\#\n] (?:
        (?<=[{}\[\]<>=\\|^~_\t]) | (?<=`)(?: `` | (?<!``)[^`\n]+`(?!`) )
      | (?<=\()(?: (?<=\w\() | \) ) | (?<=:): | (?<=-)(?: > | (?<!\S-)-?[A-Za-z] )
      | (?<=\n)\ +\S | (?<=;)\s*(?:\n|\Z) | (?<=\w[*;])\w
      | (?<=/)(?: (?<=[^\s\d]/)\S*/ | (?<!\S/)\w ) | (?<=\.)(?<!\S\.)[.~]*/\w
      | (?<=[$%&*@\#])[{('"] | (?<=[$%&*])(?<!\w.)[A-Za-z] )""",
    re.VERBOSE,
)
_WIDE_GAP = re.compile(r"(\s(?:(?<! )\s*|\s+))")
_NO_SPACE = re.compile(r"([\t-\r\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]\s*)")
_TABULAR = re.compile(r"[^\S \r\n\u00a0\u202f\u2009\u3000]|\n[^\S\n]")
_REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")
_QUOTES = str.maketrans(dict.fromkeys('"`´“”„‟«»‹›′″', "'") | dict.fromkeys("–—−‐‑", "-"))
#: What writing adds to code: without it two ways to write one thing are equal.
_WRITING = str.maketrans(dict.fromkeys(" \t\r\n\f\v;'" + "".join(map(chr, _QUOTES))))
_AROUND = ".,;:!?\"'“”‘’()"
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_MEASURE = re.compile(r"[\d.,]*([A-Za-z]{1,4})")
#: A name in a program. Brands put one small letter before a capital, or end in capitals: iPhone, macOS.
_CAMEL = re.compile(r"[a-z]{2,}[A-Z][a-z]")
_HOSTS = (".com", ".org", ".net", ".io", ".dev")
_AFTER_A_STOP = tuple(".,;:!?…)")


def compare_writing(a: Reading, b: Reading) -> str | None:
    """Return what is written in two ways, or None."""
    return _code(a, b) or _spacing(a, b) or _quotations(a, b) or _quotations(b, a) or _characters(a, b)


def _is_code(reading: Reading) -> bool:
    return _CODE.search(reading.text) is not None


# -- code ----------------------------------------------------------------------------------


def _code(a: Reading, b: Reading) -> str | None:
    """Return what is wrong where one may be code and both are the same but for their writing.

    Such texts are equal or they are not: what a program makes of a space, a quote or a semicolon is not
    to be known here. Neither is what it makes of a capital, in a block of several lines; in one line
    there is prose around most code, and _characters looks at the words one by one.
    """
    one, other = (reading.text.replace("\r\n", "\n") for reading in (a, b))
    if one == other:
        return None
    if a.once(_is_code) or b.once(_is_code):
        first, second = one.translate(_WRITING), other.translate(_WRITING)
        is_block = "\n" in one.strip() or "\n" in other.strip()
        if first == second or (is_block and first.lower() == second.lower()):
            return "code that is written in two ways"
    if "".join(one.split()) == "".join(other.split()) and any(
        map(may_be_code, (" ".join(one.split()), " ".join(other.split())))
    ):
        return "white space in what may be code"
    return None


# -- white space ---------------------------------------------------------------------------


def _spacing(a: Reading, b: Reading) -> str | None:
    mine, theirs = only_in(a, b), only_in(b, a)
    joined = "".join(mine)
    if joined and joined == "".join(theirs) and (a.once(_is_code) or b.once(_is_code)):
        return f"white space in {joined}"
    first, second = a.once(_gaps), b.once(_gaps)
    if first != second:
        found = _gap(first, second, a, b)
        if found is not None:
            return found
    return "white space around it" if a.once(_around) != b.once(_around) else None


_Pair = tuple[str, str]
_Gaps = dict[_Pair, frozenset[str]]
_SINGLE = frozenset(" ")


def _gap(first: _Gaps, second: _Gaps, a: Reading, b: Reading) -> str | None:
    for pair in (*first, *second):
        gaps, others = first.get(pair) or _plain(pair, a), second.get(pair) or _plain(pair, b)
        if gaps and others and gaps != others and _matters(pair, gaps | others, a, b):
            return f"white space between {pair[0]} and {pair[1]}"
    return None


def _gaps(reading: Reading) -> _Gaps:
    """Return what stands between two neighbours, where that is not one space."""
    # No program tells the two ends of lines apart.
    text = reading.text.strip().replace("\r\n", "\n")
    found: _Gaps = {}
    if " ".join(reading.chunks) == text:
        return found
    # To pass over single spaces takes a fraction of the time.
    parts = (_WIDE_GAP if "  " in text else _NO_SPACE).split(text)
    for before, gap, after in zip(parts[::2], parts[1::2], parts[2::2], strict=False):
        if before.endswith(" "):
            before, gap = before[:-1], " " + gap
        pair = before.rpartition(" ")[2], after.partition(" ")[0]
        found[pair] = found[pair] | {gap} if pair in found else frozenset((gap,))
    return found


def _plain(pair: _Pair, reading: Reading) -> frozenset[str]:
    return _SINGLE if pair in reading.once(_pairs) else frozenset()


def _pairs(reading: Reading) -> frozenset[_Pair]:
    return frozenset(pairwise(reading.chunks))


def _around(reading: Reading) -> tuple[str, str]:
    """Return the white space around a text that is not typed there without a reason."""
    text = reading.text.strip(" \r\n")
    bare = text.strip()
    first = reading.text[: reading.text.find(bare)].rpartition("\n")[2] if "\n" in bare else ""
    # The first line's indentation belongs to the shape of a block.
    return first + text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]


def _matters(pair: _Pair, gaps: frozenset[str], a: Reading, b: Reading) -> bool:
    """Whether the white space between two chunks may be what is asked about.

    In prose a wider gap is a slip after a stop or beside a word of grammar, and wherever words
    are not parted by spaces. Between two other words it may be a password, a name or a column.
    """
    if a.once(_is_code) or b.once(_is_code) or any(map(_TABULAR.search, gaps)):
        return True
    before, after = pair
    if before.endswith(_AFTER_A_STOP) and after[0] not in "\"'“”‘’«»„‹›":
        return False
    glue = FUNCTION_WORDS.get(a.language, frozenset())
    if any(len(word) > 1 and fold(word) in glue for word in pair):
        return False
    return not (a.unspaced and b.unspaced)


# -- quotations ----------------------------------------------------------------------------


def _quotations(here: Reading, there: Reading) -> str | None:
    """Return a quotation of one text that the other has in another case alone, quoted or not."""
    for shown in here.once(quoted):
        if shown not in there.text and shown.lower() in there.once(_lower):
            return f"case of {shown}"
    return None


def _lower(reading: Reading) -> str:
    return reading.text.lower()


# -- characters ----------------------------------------------------------------------------


def _characters(a: Reading, b: Reading) -> str | None:
    mine = {_form[chunk]: chunk for chunk in only_in(a, b)}
    for ours, theirs in chain(
        ((mine.get(_form[chunk]), chunk) for chunk in only_in(b, a)),
        # The small form of it may stand in both texts.
        ((chunk, _small(chunk, b)) for chunk in mine.values()),
        ((_small(chunk, a), chunk) for chunk in only_in(b, a)),
    ):
        if ours and theirs and _differ(ours, theirs, a, b):
            return f"{ours} / {theirs}"
    return None


def _small(chunk: str, other: Reading) -> str | None:
    small = chunk.lower()
    return small if small != chunk and small in other.chunk_set else None


_form: Memo[str] = Memo(lambda chunk: fold(chunk).translate(_QUOTES))


def _differ(one: str, other: str, a: Reading, b: Reading) -> bool:
    """Whether two chunks that differ in their writing alone may mean two things."""
    is_code = a.once(_is_code) or b.once(_is_code)
    if one.lower() != other.lower():
        if _REORDERING.search(one) or _REORDERING.search(other):
            return True
        # An apostrophe, an accent or a ligature in a word of prose is a matter of the keyboard.
        return is_code and not (_is_word(one) and _is_word(other))
    here, there = one.strip(_AROUND), other.strip(_AROUND)
    if _of_units(here, there, is_measure=one in a.once(_measures) and other in b.once(_measures)):
        return True
    if _WORD.fullmatch(here) is None:
        return is_code or any(_CODE.search(word) or _is_file(word) for word in (here, there))
    if _CAMEL.match(here) or _CAMEL.match(there):
        return True
    return is_code if len(here) == 1 else _are_two_words(here, there, a, b)


def _is_file(word: str) -> bool:
    """Whether a word is a path of attributes or a file: names of hosts have no case."""
    return DOTTED.fullmatch(word) is not None and not word.lower().endswith(_HOSTS)


def _is_word(chunk: str) -> bool:
    return _WORD.fullmatch(chunk.rstrip(".,;:!?")) is not None


def _measures(reading: Reading) -> frozenset[str]:
    """Return what stands behind a number."""
    return frozenset([after for before, after in pairwise(reading.chunks) if before[-1].isdigit()])


def _of_units(one: str, other: str, *, is_measure: bool) -> bool:
    """Whether a prefix (milli, mega) or bits and bytes make the difference: mW / MW, Mb / MB."""
    here, there = _MEASURE.fullmatch(one), _MEASURE.fullmatch(other)
    if here is None or there is None:
        return False
    mine, theirs = here.group(1), there.group(1)
    if mine[1:] == theirs[1:] and mine[0] + theirs[0] in {"mM", "Mm"} and mine[1:].lower() in MEASURED:
        # "Me" and "me" are no units.
        return is_measure or not one[0].isalpha() or (len(mine) > 1 and not mine[1:].islower())
    return len(mine) > 1 and mine[:-1] == theirs[:-1] and {mine[-1], theirs[-1]} == BITS


def _are_two_words(one: str, other: str, a: Reading, b: Reading) -> bool:
    if a.once(_tells_nothing) or b.once(_tells_nothing):
        return False
    word = one.lower()
    if word in a.once(_beside_code) and word in b.once(_beside_code):
        return (word in a.once(_capitalised)) != (word in b.once(_capitalised))
    if word in ACRONYMS and one.isupper() != other.isupper():
        return True
    if word in a.once(_beside_numbers) and word in b.once(_beside_numbers):
        return False  # a month in both, whatever its case
    return word in CAPITALISED and (word in a.once(_capitalised)) != (word in b.once(_capitalised))


def _beside_numbers(reading: Reading) -> frozenset[str]:
    sides = [*pairwise(reading.words), *pairwise(reading.words[::-1])]
    return frozenset([word for word, other in sides if other[0].isdigit()])


def _beside_code(reading: Reading) -> frozenset[str]:
    """Return the words, in small letters, beside a chunk of code: "Foo" in "x = Foo", "grep -v Foo"."""
    if not reading.once(_is_code):
        return frozenset()
    sides = (*pairwise(reading.chunks), *pairwise(reading.chunks[::-1]))
    return frozenset([word.strip(_AROUND).lower() for word, other in sides if _CODE.search(f" {other} ")])


def _tells_nothing(reading: Reading) -> bool:
    """Whether capitals mean nothing in a text: in shouting, and where most words have them."""
    words = [word for word in reading.chunks if word[0].isalpha()]
    large = sum([word[0].isupper() for word in words])
    return reading.text.isupper() or (large >= 3 and large * 10 > len(words) * 7)


def _capitalised(reading: Reading) -> frozenset[str]:
    """Return the words, in small letters, that have a capital and do not begin a sentence."""
    return frozenset(_inside(reading.chunks))


def _inside(chunks: tuple[str, ...]) -> Iterator[str]:
    begins = True
    for chunk in chunks:
        word = chunk.strip(_AROUND)
        if not begins and word[:1].isupper():
            yield word.lower()
        begins = chunk[-1] in ".!?:"
