"""Train a dictionary: which byte strings get a code word, and how long it is.

A dictionary is evaluated on text it has not seen, so it is trained that way. The text is
parsed with costs estimated from *other* text only, in two manners: costs for each set
from the other sets, and costs for each quarter of the texts from the other quarters. What
a phrase is used in those parses, not how often it occurs, is its count: phrases of one
set alone count little, and the pieces that unseen words are made of count much.

The rest is the usual way to a unigram vocabulary: begin with far more candidates than
are wanted; parse, count, and give each a cost of -log2 of its share; drop those without which
the text would cost least more; repeat until as many are left as are wanted.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lix_cache.errors import ConfigError
from lix_cache.huffman_codec._train_corpus import (
    VOCABULARY,
    Corpus,
    Matches,
    build_corpus,
    find_candidates,
)
from lix_cache.huffman_codec._train_lengths import limited_lengths
from lix_cache.huffman_codec._train_parse import UNIT, Parser

__all__ = ["TrainingOptions", "pack_dictionary", "train_dictionary"]

MAGIC = b"LXPT"
VERSION = 1
MAX_PHRASES = 65_536
MAX_PHRASE_BYTES = 64
MAX_CODE_BITS = 24
_NEVER = 1 << 24
_WEIGHT_BITS = 40


@dataclass(frozen=True)
class TrainingOptions:
    """What can be turned; the defaults are those of the shipped dictionary.

    Attributes:
        candidates: how many times the wanted size to begin with.
        longest: the most bytes of a phrase.
        min_texts: in how many texts a candidate must be.
        folds: into how many parts the texts are dealt for the second manner of parsing.
        across: the share of the first manner (other sets) in the counts.
        balance: the weight of a set grows with this power of its size.
        prior: counted for every phrase besides its use.
        prior_character: the same for a single byte or character, so that the rare ones stay cheap.
        prior_word: the same for a phrase of the vocabulary.
        shrink: the share of the candidates that survives a round.
        most_bytes: of more text, an even sample is taken; see :func:`train_dictionary` on memory.
    """

    candidates: int = 5
    longest: int = 32
    min_texts: int = 4
    folds: int = 4
    across: float = 0.5
    balance: float = 0.6
    prior: float = 0.01
    prior_character: float = 2.0
    prior_word: float = 3.0
    shrink: float = 0.6
    most_bytes: int = 12_000_000


def train_dictionary(
    texts: Iterable[bytes] | Mapping[str, Iterable[bytes]],
    *,
    id: str,  # noqa: A002
    size: int = MAX_PHRASES,
    vocabulary: Iterable[bytes] = (),
    options: TrainingOptions | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> bytes:
    """Return the file of a dictionary for text like ``texts``.

    The same input and options give the same bytes. Takes 0.6 GB of memory and 10 to 15
    seconds for every MB of text.

    Args:
        texts: single messages; or several sets of them by name, which are then balanced.
        id: the name that archives written with the dictionary will carry: ASCII, 1 to 255 characters.
        size: the most phrases; at least 256, because every byte is one.
        vocabulary: phrases to consider even where the texts do not have them.
        options: for those who want to turn them.
        progress: called with what is being done and the share of it that is done.

    Raises:
        ConfigError: the id or the size cannot be written.
    """
    if not 256 <= size <= MAX_PHRASES:
        raise ConfigError(f"a dictionary has 256 to {MAX_PHRASES} phrases, got {size}")
    _check_id(id)
    options = options or TrainingOptions()
    groups = [list(group) for group in texts.values()] if isinstance(texts, Mapping) else [list(texts)]
    groups = _sample(groups, options.most_bytes)
    words = {word for word in vocabulary if 2 <= len(word) <= options.longest}
    corpus = build_corpus(groups, words)
    if not len(corpus.data):
        return pack_dictionary([bytes([value]) for value in range(256)], [8] * 256, id=id)
    report = progress or (lambda _what, _share: None)
    matches = find_candidates(
        corpus,
        limit=size * options.candidates,
        longest=min(options.longest, MAX_PHRASE_BYTES),
        min_texts=options.min_texts,
        progress=lambda share: report("counting substrings", share),
    )
    training = _Training(corpus, matches, words, options)
    phrases, weights = training.run(size, report)
    return pack_dictionary(phrases, limited_lengths(weights, MAX_CODE_BITS).tolist(), id=id)


def _sample(groups: list[list[bytes]], most: int) -> list[list[bytes]]:
    """Leave out texts, evenly in every set, so that about ``most`` bytes are left."""
    total = sum(len(text) for group in groups for text in group)
    if total <= most:
        return groups
    share = most / total
    # A text stays where the running number of those to keep passes a whole one.
    return [
        [text for number, text in enumerate(group) if int((number + 1) * share) > int(number * share)]
        for group in groups
    ]


def pack_dictionary(phrases: list[bytes], lengths: list[int], *, id: str) -> bytes:  # noqa: A002
    """Return the file of a dictionary, whatever the order of the phrases."""
    name = _check_id(id)
    pairs = sorted(zip(phrases, lengths, strict=True))
    raw = bytearray()
    before = b""
    for phrase, _ in pairs:
        shared = 0
        while shared < min(len(before), len(phrase)) and before[shared] == phrase[shared]:
            shared += 1
        raw += bytes((shared, len(phrase) - shared)) + phrase[shared:]
        before = phrase
    raw += bytes(length for _, length in pairs)
    head = MAGIC + bytes((VERSION, len(name))) + name + struct.pack("<II", len(pairs), len(raw))
    body = head + zlib.compress(bytes(raw), 9)
    return body + struct.pack("<I", zlib.crc32(body))


def _check_id(name: str) -> bytes:
    if not name or len(name) > 255 or not name.isascii() or not name.isprintable():
        raise ConfigError("a dictionary's id is 1 to 255 printable ASCII characters")
    return name.encode("ascii")


def _is_character(phrase: bytes) -> bool:
    """One byte, one character, or the beginning of one character."""
    return len(phrase) == 1 or (phrase[0] >= 0xC2 and all(byte & 0xC0 == 0x80 for byte in phrase[1:]))


class _Folds:
    """One manner of parsing: every piece pays costs counted on the pieces of other folds."""

    def __init__(self, fold: Any, phrases: int) -> None:
        import numpy as np

        self.fold = fold
        self.count = int(fold.max()) + 1
        self.costs: Any = np.zeros((phrases, self.count), dtype=np.int64)


class _Training:
    def __init__(self, corpus: Corpus, matches: Matches, words: set[bytes], options: TrainingOptions) -> None:
        import numpy as np

        self.options = options
        self.phrases = matches.phrases
        self.length = np.array([len(phrase) for phrase in matches.phrases], dtype=np.int64)
        self.alive = np.ones(len(matches.phrases), dtype=bool)
        self.prior = np.array(
            [
                options.prior_character
                if _is_character(phrase)
                else options.prior_word
                if phrase in words
                else options.prior
                for phrase in matches.phrases
            ]
        )
        sizes = corpus.sizes
        piece = np.repeat(np.arange(len(sizes)), sizes)[matches.position]
        column = matches.position - corpus.starts[piece]
        self.parser = Parser(sizes, piece, column, self.length[matches.phrase], matches.phrase)
        self.long, self.inner = _parser_of_phrases(matches, self.length)
        group = np.where(corpus.group == VOCABULARY, 0, corpus.group)
        self.weight = self._weights(corpus)
        self.manners = self._manners(corpus, group)
        uses = np.bincount(matches.phrase, weights=self.weight[piece], minlength=len(self.phrases))
        self.share = uses + self.prior
        self.share /= self.share.sum()
        for _, folds in self.manners:
            folds.costs[:] = self._costs(self.share)[:, None]

    def _weights(self, corpus: Corpus) -> Any:
        """What a use in each piece counts: balanced between the sets, 1 on average."""
        import numpy as np

        real = corpus.group != VOCABULARY
        size = np.bincount(corpus.group[real], weights=corpus.sizes[real])
        weight = np.where(size > 0, np.maximum(size, 1.0) ** (self.options.balance - 1), 0.0)
        weight *= size.sum() / (weight * size).sum() if size.any() else 0.0
        return np.where(real, weight[np.where(real, corpus.group, 0)] if len(weight) else 0.0, 0.0)

    def _manners(self, corpus: Corpus, group: Any) -> list[tuple[float, _Folds]]:

        across = self.options.across if group.max() > 0 else 0.0
        # Neighbouring texts are often of one conversation: dealt in blocks, they stay together.
        texts = int(corpus.text.max()) + 1
        block = corpus.text * (5 * self.options.folds) // texts
        manners = [(across, group), (1 - across, block % self.options.folds)]
        return [(share, _Folds(fold, len(self.phrases))) for share, fold in manners if share > 0]

    def _costs(self, share: Any) -> Any:
        import numpy as np

        bits = -np.log2(np.maximum(share, 2.0**-30))
        return np.where(self.alive, np.rint(bits * UNIT).astype(np.int64), _NEVER)

    def _to_shares(self, uses: Any) -> Any:
        import numpy as np

        uses = np.where(self.alive, np.maximum(uses, 0.0) + self.prior, 0.0)
        return uses / uses.sum()

    def _step(self) -> None:
        """Parse, count, and estimate the costs anew."""
        import numpy as np

        total = np.zeros(len(self.phrases))
        for part, folds in self.manners:
            _, piece, phrase = self.parser.parse(folds.costs, folds.fold)
            uses = np.bincount(
                phrase.astype(np.int64) * folds.count + folds.fold[piece],
                weights=self.weight[piece],
                minlength=len(self.phrases) * folds.count,
            ).reshape(-1, folds.count)
            everywhere = uses.sum(axis=1)
            total += part * everywhere
            for fold in range(folds.count):
                folds.costs[:, fold] = self._costs(self._to_shares(everywhere - uses[:, fold]))
        self.share = self._to_shares(total)

    def _prune(self, size: int) -> None:
        """Keep the ``size`` phrases without which the text would cost most more."""
        import numpy as np

        costs = self._costs(self.share)
        loss = np.where(self.alive, np.inf, -np.inf)
        if len(self.long):
            instead, _, _ = self.inner.parse(costs[:, None], np.zeros(len(self.long), dtype=np.int32))
            loss[self.long] = self.share[self.long] * (instead - costs[self.long])
            loss[~self.alive] = -np.inf
        self.alive[np.argsort(loss, kind="stable")[: len(loss) - size]] = False
        self.parser.keep(self.alive)
        self.inner.keep(self.alive)
        for _, folds in self.manners:
            folds.costs[~self.alive] = _NEVER

    def run(self, size: int, report: Callable[[str, float], None]) -> tuple[list[bytes], Any]:
        """Return the phrases that are left, and their weights."""
        import numpy as np

        self._step()
        self._step()
        begin = left = int(self.alive.sum())
        while left > size:
            left = max(size, int(left * self.options.shrink))
            self._prune(left)
            self._step()
            report("choosing phrases", (begin - left) / (begin - size))
        for round_ in range(3):
            self._step()
            report("fitting the code", (round_ + 1) / 3)
        kept = np.flatnonzero(self.alive)
        weights = np.maximum(1, np.rint(self.share[kept] * 2.0**_WEIGHT_BITS)).astype(np.int64)
        return [self.phrases[number] for number in kept.tolist()], weights


def _parser_of_phrases(matches: Matches, length: Any) -> tuple[Any, Parser]:
    """Make a parser that says what each phrase would cost if it were not there.

    A phrase is somewhere in the text, and so are all the phrases within it.
    """
    import numpy as np

    long = np.flatnonzero(length > 1)
    long = long[np.argsort(-length[long], kind="stable")]
    order = np.argsort(matches.position, kind="stable")
    phrase_at = matches.phrase[order]
    begin = np.searchsorted(matches.position[order], np.arange(int(matches.position.max()) + 2))
    parts: list[tuple[Any, Any, Any, Any]] = []
    for column in range(int(length.max())):
        piece = np.flatnonzero(length[long] > column)
        if not len(piece):
            break
        at = matches.first[long[piece]] + column
        count = begin[at + 1] - begin[at]
        skip = np.repeat(begin[at] - np.concatenate(([0], np.cumsum(count)[:-1])), count)
        phrase = phrase_at[skip + np.arange(int(count.sum()))]
        piece = np.repeat(piece, count)
        end = column + length[phrase]
        whole = length[long[piece]]
        inside = (end <= whole) & (length[phrase] < whole)
        piece, phrase = piece[inside], phrase[inside]
        parts.append((piece, np.full(len(piece), column), length[phrase], phrase))
    if not parts:
        empty = np.zeros(0, dtype=np.int64)
        return long, Parser(empty, empty, empty, empty, empty)
    piece, start, size, phrase = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return long, Parser(length[long], piece, start, size, phrase)
