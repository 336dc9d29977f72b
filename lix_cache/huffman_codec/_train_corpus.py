"""Training, step 1: the text in pieces, the candidates, and every place where one matches.

Everything is an array over positions, so that numpy does the counting: the substrings
of length L + 1 are found by numbering the pairs (substring of length L, next byte).
What occurs too rarely is not extended, so there is less to do with every length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Corpus", "Matches", "build_corpus", "find_candidates"]

#: Longer texts are cut: the parser works on the same column of all pieces at a time.
PIECE = 256
#: The group of the pieces that are words of the vocabulary, not text.
VOCABULARY = -1


@dataclass(frozen=True)
class Corpus:
    """The pieces of all texts, one after another; the longest first.

    Attributes:
        data: their bytes.
        starts: where each begins, and the end of the last.
        group: the set each piece is of, or ``VOCABULARY``.
        text: the number of the text each piece is of.
    """

    data: Any
    starts: Any
    group: Any
    text: Any

    @property
    def sizes(self) -> Any:
        """The length of each piece."""
        return self.starts[1:] - self.starts[:-1]


@dataclass(frozen=True)
class Matches:
    """The candidates, and where they match.

    Attributes:
        phrases: the candidates; the first 256 are the single bytes.
        first: a position at which each matches, or -1 for a byte that does not occur.
        position: the places, in no particular order.
        phrase: which candidate matches there.
    """

    phrases: list[bytes]
    first: Any
    position: Any
    phrase: Any


def _cut(text: bytes) -> list[bytes]:
    """Cut a text into pieces, preferably before a space, never within a character."""
    pieces = []
    start = 0
    while len(text) - start > PIECE:
        end = text.rfind(b" ", start + PIECE // 2, start + PIECE)
        if end < 0:
            end = start + PIECE
            while end > start + PIECE - 4 and text[end] & 0xC0 == 0x80:
                end -= 1
        pieces.append(text[start:end])
        start = end
    pieces.append(text[start:])
    return pieces


def build_corpus(groups: Sequence[Iterable[bytes]], vocabulary: Iterable[bytes]) -> Corpus:
    """Lay out the texts of every group. A text that comes again, in any group, is left out."""
    import numpy as np

    pieces: list[tuple[bytes, int, int]] = []
    seen: set[bytes] = set()
    for group, texts in enumerate(groups):
        for text in texts:
            if text and text not in seen:
                pieces += [(piece, group, len(seen)) for piece in _cut(text)]
                seen.add(text)
    words = sorted(set(vocabulary) - {b""})
    pieces += [(word, VOCABULARY, len(seen) + number) for number, word in enumerate(words)]
    pieces.sort(key=lambda item: (-len(item[0]), item[2]))
    starts = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece, _, _ in pieces], out=starts[1:])
    return Corpus(
        data=np.frombuffer(b"".join(piece for piece, _, _ in pieces), dtype=np.uint8),
        starts=starts,
        group=np.array([group for _, group, _ in pieces], dtype=np.int64),
        text=np.array([text for _, _, text in pieces], dtype=np.int64),
    )


class _Levels:
    """The substrings of each length in turn, and what they are worth as candidates."""

    def __init__(self, corpus: Corpus, min_texts: int) -> None:
        import numpy as np

        self.data = data = corpus.data
        sizes = corpus.sizes
        piece = np.repeat(np.arange(len(sizes)), sizes)
        self.left = corpus.starts[1:][piece] - np.arange(len(data))
        self.text = corpus.text[piece].astype(np.int32)
        self.word = (corpus.group == VOCABULARY)[piece]
        self.word_length = np.zeros(len(data), dtype=np.int64)
        whole = corpus.group == VOCABULARY
        self.word_length[corpus.starts[:-1][whole]] = sizes[whole]
        self.min_texts = min_texts
        #: Bytes of UTF-8 still to come after each byte, then after each substring.
        self.lacking_after = np.zeros(256, dtype=np.int64)
        self.lacking_after[0xC2:0xE0] = 1
        self.lacking_after[0xE0:0xF0] = 2
        self.lacking_after[0xF0:0xF5] = 3
        self.lacking = self.lacking_after
        self.characters = np.ones(256, dtype=np.int64)
        self.position = np.flatnonzero((data & 0xC0) != 0x80)
        self.node = data[self.position].astype(np.int64)
        self.previous: Any = np.zeros(256)
        self.scores: list[Any] = []
        self.firsts: list[Any] = []
        self.places: list[tuple[Any, Any]] = []

    def extend(self, length: int) -> bool:
        """Go from the substrings of ``length - 1`` bytes to those of ``length``."""
        import numpy as np

        keep = self.left[self.position] >= length
        position = self.position[keep]
        if not len(position):
            return False
        key = self.node[keep] << 8 | self.data[position + length - 1]
        order = np.argsort(key, kind="stable")
        key, position = key[order], position[order]
        new = np.concatenate(([True], key[1:] != key[:-1]))
        node = np.cumsum(new) - 1
        heads = np.flatnonzero(new)
        parent, last = key[heads] >> 8, key[heads] & 0xFF
        # Within a substring the places are in the order of the pieces. A text of several
        # pieces may count several times; that is not worth sorting again.
        text, real = self.text[position], ~self.word[position]
        fresh = real & np.concatenate(([True], text[1:] != text[:-1])) | real & new
        texts = np.bincount(node[fresh], minlength=len(heads))
        count = np.bincount(node[real], minlength=len(heads))
        whole = self.word_length[position]
        wanted = np.bincount(node[whole == length], minlength=len(heads)) > 0
        alive = (texts >= self.min_texts) | (np.bincount(node[whole > 0], minlength=len(heads)) > 0)
        continues = (last & 0xC0) == 0x80
        self.lacking = np.where(continues, np.maximum(self.lacking[parent] - 1, 0), self.lacking_after[last])
        self.characters = self.characters[parent] + ~continues
        good = (texts >= self.min_texts) & ((self.lacking == 0) | (self.characters == 1))
        if self.scores:
            # A substring always followed by the same byte is worth less than with it.
            longer = np.zeros(len(self.previous), dtype=np.int64)
            np.maximum.at(longer, parent, np.where(good, count, 0))
            self.scores[-1][(longer >= self.previous) & np.isfinite(self.scores[-1])] = 0.0
        self.scores.append(np.where(wanted, np.inf, np.where(good, count * float(length), 0.0)))
        self.firsts.append(position[heads])
        self.places.append((position.astype(np.int32), node.astype(np.int32)))
        self.previous = count
        keep = alive[node]
        self.position, self.node = position[keep], node[keep]
        return True


def find_candidates(
    corpus: Corpus, *, limit: int, longest: int, min_texts: int, progress: Callable[[float], None]
) -> Matches:
    """Return the most promising substrings and their places.

    A candidate begins and ends between two characters of UTF-8, or is the beginning of
    a single character. It is in ``min_texts`` texts, or it is in the vocabulary.
    """
    import numpy as np

    levels = _Levels(corpus, min_texts)
    for length in range(2, longest + 1):
        if not levels.extend(length):
            break
        progress((length - 1) / (longest - 1))
    every = np.concatenate([*levels.scores, np.zeros(0)])
    chosen = np.argsort(-every, kind="stable")[: max(0, limit - 256)]
    chosen = np.sort(chosen[every[chosen] > 0])
    number = np.full(len(every), -1, dtype=np.int64)
    number[chosen] = 256 + np.arange(len(chosen))

    raw = corpus.data.tobytes()
    phrases = [bytes([value]) for value in range(256)]
    first = np.full(256, -1, dtype=np.int64)
    values, where = np.unique(corpus.data, return_index=True)
    first[values] = where
    firsts = [first]
    positions = [np.arange(len(raw), dtype=np.int32)]
    ids = [corpus.data.astype(np.int32)]
    offset = 0
    for level, (position, node) in enumerate(levels.places):
        mine = number[offset : offset + len(levels.scores[level])]
        offset += len(mine)
        where = levels.firsts[level][mine >= 0]
        phrases += [raw[begin : begin + level + 2] for begin in where.tolist()]
        firsts.append(where)
        found = mine[node]
        positions.append(position[found >= 0])
        ids.append(found[found >= 0].astype(np.int32))
    return Matches(phrases, np.concatenate(firsts), np.concatenate(positions), np.concatenate(ids))
