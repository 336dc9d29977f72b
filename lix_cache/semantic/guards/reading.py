"""A text as the guards see it: words, each with its place, and the language's guess. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from lix_cache.semantic.guards.lexicon.function_words import FUNCTION_WORDS

__all__ = ["MAX_CHARS", "Reading", "fold", "read", "stem"]

T = TypeVar("T")

#: Longer texts are read up to here: a guard looks at questions, not at documents.
MAX_CHARS = 20_000

# All but the breve of й and ў, which makes letters of their own.
_ACCENTS = re.compile("[\u0300-\u0305\u0307-\u036f]|(?<![\u0438\u0443])\u0306")
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "＇": "'"})
_WORD = re.compile(r"\w+(?:'\w+)*")
# A piece of a script that is written without spaces: a character, or a run of katakana.
_UNSPACED = re.compile(
    "[\u30a1-\u30fa\u30fc]+|[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f]"
)
_KANA = re.compile("[\u3040-\u30ff]")
_HANGUL = re.compile("[\uac00-\ud7a3\u1100-\u11ff]")
_CYRILLIC = re.compile("[\u0400-\u04ff]")
_ARABIC = re.compile("[\u0600-\u06ff]")
_LATIN = tuple(lang for lang in FUNCTION_WORDS if lang not in {"ru", "kk"})
_ENGLISH_ENDINGS = (("'s", ""), ("ies", "y"), ("ied", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""))


def fold(text: str) -> str:
    """Return the text in lower case, in compatibility form, without accents and curly apostrophes."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES).casefold())
    return unicodedata.normalize("NFC", _ACCENTS.sub("", decomposed))


def stem(word: str) -> str:
    """Return a folded word without its commonest ending: rough, for comparing two texts."""
    for ending, instead in _ENGLISH_ENDINGS:
        if word.endswith(ending) and len(word) >= len(ending) + 3:
            word = word[: len(word) - len(ending)] + instead
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word[-1] == "e" else word


@dataclass(frozen=True)
class Reading:
    """One text, read once.

    Attributes:
        text: as it was given, up to MAX_CHARS.
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
        return tuple(self._scan())

    def _scan(self) -> Iterator[str]:
        folded = self.folded
        for match in _WORD.finditer(folded):
            word = match.group()
            if word.isascii() or not _UNSPACED.search(word):
                yield word
            else:
                yield from _split_unspaced(word)

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter(self.words)

    @cached_property
    def language(self) -> str:
        """The likeliest language, by script and function words; ``en`` where nothing tells."""
        return _language(self.text, self.counts)

    @cached_property
    def content(self) -> tuple[str, ...]:
        """Stems of the words that are not glue, in order."""
        glue = FUNCTION_WORDS.get(self.language, frozenset())
        return tuple(stem(word) for word in self.words if word not in glue)

    @cached_property
    def content_set(self) -> frozenset[str]:
        return frozenset(self.content)

    @cached_property
    def unspaced(self) -> bool:
        """Whether most of it is written without spaces between words."""
        return self.language in {"zh", "ja", "th"}


def _split_unspaced(word: str) -> Iterator[str]:
    start = 0
    for match in _UNSPACED.finditer(word):
        if match.start() > start:
            yield word[start : match.start()]
        yield match.group()
        start = match.end()
    if start < len(word):
        yield word[start:]


def _language(text: str, counts: Counter[str]) -> str:
    if text.isascii():
        return _by_words(counts, _LATIN)
    for script, language in ((_KANA, "ja"), (_UNSPACED, "zh"), (_HANGUL, "ko"), (_ARABIC, "ar")):
        if script.search(text):
            return language
    if _CYRILLIC.search(text):
        return _by_words(counts, ("ru", "kk"))
    return _by_words(counts, _LATIN)


def _by_words(counts: Counter[str], languages: Iterable[str]) -> str:
    scores = dict.fromkeys(languages, 0)
    whose = _whose_words()
    for word, count in counts.items():
        for language in whose.get(word, ()):
            if language in scores:
                scores[language] += count
    return max(scores, key=scores.__getitem__)


@lru_cache(maxsize=1)
def _whose_words() -> dict[str, tuple[str, ...]]:
    whose: dict[str, tuple[str, ...]] = {}
    for language, words in FUNCTION_WORDS.items():
        for word in words:
            whose[word] = (*whose.get(word, ()), language)
    return whose


@lru_cache(maxsize=512)
def _read_short(text: str) -> Reading:
    return Reading(text)


def read(text: str) -> Reading:
    """Return the reading of a text; those of short ones are kept for the next comparison."""
    return _read_short(text) if len(text) <= 1_000 else Reading(text[:MAX_CHARS])
