"""A text as the guards see it: words, each with its place, and the language's guess. Pure.

A comparison may stand between a question and its answer on an event loop, so all that looks at
each word or each character is one call of something written in C, or a look into a table of
words seen before.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, compress, filterfalse
from typing import Any, TypeVar

from lix_cache._cached_property import cached_property
from lix_cache.matching.guards.lexicon.function_words import FUNCTION_WORDS
from lix_cache.matching.guards.lexicon.negations import NEGATIONS
from lix_cache.matching.text import LONGEST, MOST_MARKS

__all__ = ["MAX_CHARS", "Memo", "Reading", "fold", "only_in", "read", "stem", "stems", "words_only_in"]

T = TypeVar("T")

#: Longer texts are not compared. Embedders read the beginning of such a text at best, so the
#: vectors say little about it, and a guard looks at questions, not at documents.
MAX_CHARS = 8_000

_MOST_REMEMBERED = 16_384
_LONGEST_REMEMBERED = 40

# Every pattern that looks through a whole text begins with one set of characters, not repeated: the
# engine then passes over all others several times faster.
# All but the breve of й and ў, which makes letters of their own.
_ACCENTS = re.compile("[\u0300-\u036f](?:(?<!\u0306)|(?<![\u0438\u0443]\u0306))")
_NOT_ASCII = re.compile("[^\x00-\x7f][^\x00-\x7f]*")
#: So many different characters of a text are folded one by one.
_FEW = 24
_JAMO = re.compile("[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]")
_INVISIBLE = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
_TRANSLATED = re.compile(f"[’‘ʼ＇²³¹⁰⁴-⁹₀-₉¼-¾⅐-⅞{_INVISIBLE}]")
# NFKD would read 5² as 52 and 1½ as 11/2. Of a unit (m², cm³) the power is part of its name.
_POWER = re.compile("(?<=[0-9)])[²³¹⁰⁴-⁹]|(?<=\\b[a-ln-zA-LN-Z])[²³¹⁰⁴-⁹]")
_TOO_MANY_MARKS = re.compile(rf"([^\w\x00-\x7f]{{{MOST_MARKS}}})[^\w\x00-\x7f]+")
_UNSPACED_CLASS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
)
_UNSPACED = re.compile(f"[{_UNSPACED_CLASS}]")
_WORD = re.compile(r"\w+(?:'\w+)*")
# In scripts that are written without spaces, a character, or a run of katakana, is a word.
_PIECE = re.compile(
    rf"[\u4e00-\u9fef]+|[\u30a1-\u30fa\u30fc]+|(?=\w)[{_UNSPACED_CLASS}]|[^\W{_UNSPACED_CLASS}]+(?:'[^\W{_UNSPACED_CLASS}]+)*"
)
_HAN = frozenset(map(chr, range(0x4E00, 0x9FF0)))
_KANA = re.compile("[\u3040-\u30ff]")
_HANGUL = re.compile("[\uac00-\ud7a3\u1100-\u11ff]")
_EAST_ASIAN = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff]")
_CYRILLIC = re.compile("[\u0400-\u04ff]")
_ARABIC = re.compile("[\u0600-\u06ff]")
_LATIN = tuple(lang for lang in FUNCTION_WORDS if lang not in {"ru", "kk"})
_LAST_OF_ENDINGS = frozenset("sdg")
_ENGLISH_ENDINGS = (("'s", ""), ("ies", "y"), ("ied", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""))


class Memo(dict[str, T]):
    """What a pure function says of a word, kept for the next time. Bounded; safe between threads.

    ``memo[word]`` costs a look-up where the word was seen before.
    """

    def __init__(self, make: Callable[[str], T]) -> None:
        super().__init__()
        self._make = make

    def of(self, words: Iterable[str]) -> Iterator[T]:
        """Return what it says of each word: no loop of Python runs where all were seen before."""
        return map(self.__getitem__, words)

    def known(self, words: Iterable[str]) -> list[str]:
        """Return the words of which it says something that is not empty."""
        words = list(words)
        return [*compress(words, self.of(words))]

    def __missing__(self, word: str) -> T:
        made = self._make(word)
        if len(word) <= _LONGEST_REMEMBERED:
            if len(self) >= _MOST_REMEMBERED:
                self.clear()
            self[word] = made
        return made


def fold(text: str) -> str:
    """Return the text in lower case, in compatibility form, without accents, curly apostrophes and
    marks that cannot be seen. Powers and fractions keep apart from the digits before them.
    """
    if text.isascii():
        return text.lower()
    runs = _NOT_ASCII.findall(text)
    longest = len(max(runs, key=len))
    if longest <= MOST_MARKS:
        odd = set("".join(runs))
        # A text of one of the languages of Europe has a few letters of its own, and curly quotes.
        if len(odd) <= _FEW and None not in (alone := {char: _alone[char] for char in odd}).values():
            for char, folded in alone.items():
                text = text.replace(char, folded or "")
            return text.lower()
    return _fold(text, many_marks=longest > MOST_MARKS)


def _fold(text: str, *, many_marks: bool = True) -> str:
    if _TRANSLATED.search(text):
        text = _POWER.sub(_raised, text).translate(_translation())
    # Putting n marks of one letter in order takes n² steps.
    if many_marks:
        text = _TOO_MANY_MARKS.sub(r"\1", text)
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", _ACCENTS.sub("", decomposed))


def _fold_alone(char: str) -> str | None:
    """Return a character folded; None if what stands before or behind it may matter."""
    folded = _fold(char)
    is_known = folded == folded.lower() == _fold(folded) and not _JAMO.search(folded)
    if not is_known or _POWER.search("1" + char) or unicodedata.category(char)[0] == "M":
        return None
    return None if unicodedata.category(folded[:1] or " ")[0] == "M" else folded


def _raised(match: re.Match[str]) -> str:
    return "^" + match.group()


@lru_cache(maxsize=1)
def _translation() -> dict[int, str | None]:
    """Return what becomes of characters that NFKD or a reader would take for something else."""
    table: dict[int, str | None] = dict.fromkeys(map(ord, "’‘ʼ＇"), "'")
    for code in range(0x2070):
        if re.match(f"[{_INVISIBLE}]", chr(code)):
            table[code] = None
    table.update(dict.fromkeys((*range(0xFE00, 0xFE10), 0xFEFF)))
    for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F)):
        table[code] = " " + unicodedata.normalize("NFKD", chr(code)).replace("\u2044", "/")
    return table


def stem(word: str) -> str:
    """Return a folded word without its commonest ending: rough, for comparing two texts."""
    if word[-1:] in _LAST_OF_ENDINGS:
        for ending, instead in _ENGLISH_ENDINGS:
            if word.endswith(ending) and len(word) >= len(ending) + 3:
                word = word[: len(word) - len(ending)] + instead
                break
    if len(word) > 3:
        if word[-1] == word[-2]:
            word = word[:-1]
        if word[-1] == "e" and len(word) > 3:
            return word[:-1]
    return word


#: The same, of words seen before.
stems = Memo(stem)
_alone: Memo[str | None] = Memo(_fold_alone)


@dataclass(frozen=True)
class Reading:
    """One text, read once.

    Attributes:
        text: as it was given, up to 20,000 characters.
    """

    text: str

    def once(self, look: Callable[[Reading], T]) -> T:
        """Return what a function of the guards finds in this text, looked for only once."""
        found = self._found
        if look not in found:
            found[look] = look(self)
        result: T = found[look]
        return result

    @cached_property
    def _found(self) -> dict[Callable[[Reading], Any], Any]:
        return {}

    @cached_property
    def folded(self) -> str:
        return fold(self.text)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Folded words in order; of scripts without spaces, single characters."""
        if not self.text.isascii() and _UNSPACED.search(self.text):
            return tuple(_pieces(self.folded))
        # No word goes over white space, and most chunks were seen before.
        return tuple(chain.from_iterable(_words_of.of(self.chunks)))

    @cached_property
    def chunks(self) -> tuple[str, ...]:
        """What white space separates, as it is written."""
        return tuple(self.text.split())

    @cached_property
    def chunk_set(self) -> frozenset[str]:
        return frozenset(self.chunks)

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter(self.words)

    @cached_property
    def language(self) -> str:
        """The likeliest language, by script and function words; ``en`` where nothing tells."""
        return _language(self.text, self.counts)

    @cached_property
    def content_set(self) -> frozenset[str]:
        """Stems of the words that are not glue."""
        glue = FUNCTION_WORDS.get(self.language, frozenset())
        return frozenset(stems.of(filterfalse(glue.__contains__, self.counts)))

    @cached_property
    def is_spaced(self) -> bool:
        """Whether no word is written in a script whose words are looked for anywhere in the text."""
        return self.text.isascii() or not _EAST_ASIAN.search(self.folded)

    @cached_property
    def unspaced(self) -> bool:
        """Whether most of it is written without spaces between words."""
        return self.language in {"zh", "ja", "th"}


def _pieces(folded: str) -> Iterable[str]:
    if folded.isascii() or not _UNSPACED.search(folded):
        return _WORD.findall(folded)
    # A run of Han characters is taken apart many times faster than it is matched one by one.
    return chain.from_iterable([run if run[0] in _HAN else (run,) for run in _PIECE.findall(folded)])


_words_of = Memo(lambda chunk: tuple(_pieces(fold(chunk))))


def _language(text: str, counts: Counter[str]) -> str:
    if text.isascii():
        return _by_words(counts, _LATIN)
    text = "".join(_NOT_ASCII.findall(text))
    for script, language in ((_KANA, "ja"), (_UNSPACED, "zh"), (_HANGUL, "ko"), (_ARABIC, "ar")):
        if script.search(text):
            return language
    if _CYRILLIC.search(text):
        return _by_words(counts, ("ru", "kk"))
    return _by_words(counts, _LATIN)


def _by_words(counts: Counter[str], languages: Iterable[str]) -> str:
    scores = dict.fromkeys(FUNCTION_WORDS, 0)
    whose = _whose_words()
    for word in counts.keys() & whose.keys():
        count = counts[word]
        for language in whose[word]:
            scores[language] += count
    return max(languages, key=scores.__getitem__)


@lru_cache(maxsize=1)
def _whose_words() -> dict[str, tuple[str, ...]]:
    whose: dict[str, tuple[str, ...]] = {}
    for language, words in FUNCTION_WORDS.items():
        for word in words | NEGATIONS.get(language, frozenset()):
            whose[word] = (*whose.get(word, ()), language)
    return whose


@lru_cache(maxsize=512)
def _read_short(text: str) -> Reading:
    return Reading(text)


#: A question is compared with several others, and an entry that answers once often answers again.
#: A reading takes some 50 bytes for each character.
_read_long = lru_cache(maxsize=32)(Reading)


def read(text: str) -> Reading:
    """Return the reading of a text, from its last time if that is not long ago."""
    return _read_short(text) if len(text) <= 1_000 else _read_long(text[:LONGEST])


@lru_cache(maxsize=8)
def words_only_in(here: Reading, there: Reading) -> frozenset[str]:
    """Return the words of one text that the other has nowhere."""
    return frozenset(here.counts.keys() - there.counts.keys())


@lru_cache(maxsize=8)
def only_in(here: Reading, there: Reading) -> tuple[str, ...]:
    """Return the chunks of one text that the other has nowhere, in order, each once."""
    theirs = there.chunk_set
    return tuple([chunk for chunk in dict.fromkeys(here.chunks) if chunk not in theirs])
