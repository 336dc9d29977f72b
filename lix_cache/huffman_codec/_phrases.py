"""Mode 2 of HCv2 in readable Python: the cheapest sequence of phrases, in their canonical code.

docs/huffman-format.md is the specification. No I/O but the dictionary's own.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from math import lcm
from typing import TYPE_CHECKING

from lix_cache.errors import CodecError
from lix_cache.huffman_codec._dictionary import LONGEST_CODE, LONGEST_PHRASE, Dictionary

if TYPE_CHECKING:
    from collections.abc import Callable

    #: What else may stand at a position: called with it, the costs from all later ones (the
    #: last one's first), and the cost and number of the best phrase; returns those of what is better.
    Rival = Callable[[int, list[int], int, int], tuple[int, int]]

__all__ = ["Dictionary", "decode_phrases", "encode_phrases"]

#: The parse starts over here, so that it needs no memory for each byte of a large input.
BLOCK = 16384
#: Codes up to this long are found in one look-up.
LOOKUP_BITS = 12
#: Divisible by every code length: bytes per bit become integers.
_UNIT = lcm(*range(1, LONGEST_CODE + 1))


def encode_phrases(dictionary: Dictionary, data: bytes) -> tuple[bytes, int]:
    """Return the code words of the cheapest parse, filled up to a byte, and their number of bits."""
    encoder: Encoder | None = dictionary.__dict__.get("encoder")
    if encoder is None:
        encoder = dictionary.__dict__["encoder"] = Encoder(dictionary)
    words: list[str] = []
    for start in range(0, len(data), BLOCK):
        choice = encoder.parse(data[start : start + BLOCK])
        left = len(choice)
        while left:
            word, size = encoder.word(choice[left - 1])
            words.append(word)
            left -= size
    bits = "".join(words)
    return to_bytes(bits), len(bits)


def to_bytes(bits: str) -> bytes:
    """Return zeros and ones as bytes, the last one filled up with zeros."""
    size = -(-len(bits) // 8)
    return (int(bits or "0", 2) << (8 * size - len(bits))).to_bytes(size, "big")


def decoder_of(dictionary: Dictionary) -> Decoder:
    """Return what decoding looks up; made once for a dictionary."""
    decoder: Decoder | None = dictionary.__dict__.get("decoder")
    if decoder is None:
        decoder = dictionary.__dict__["decoder"] = Decoder(dictionary)
    return decoder


def decode_phrases(dictionary: Dictionary, bits: bytes, raw_length: int) -> bytes:
    """Return the ``raw_length`` bytes that the code words say.

    Raises:
        CodecError: they say more, or less, or something follows them.
    """
    decoder = decoder_of(dictionary)
    available = 8 * len(bits)
    if raw_length * _UNIT > available * decoder.reach:
        raise CodecError("not a valid HCv2 stream: the declared length is more than its bits can hold")
    short, limits, offsets = decoder.short, decoder.limits, decoder.offsets
    order, phrases = decoder.order, decoder.phrases
    out: list[bytes] = []
    done = used = window = held = position = 0
    mask = (1 << LOOKUP_BITS) - 1
    while done < raw_length:
        if held < LONGEST_CODE:
            # Bits wait in an integer that is refilled 32 bytes at a time, so it never
            # grows; zeros follow the end, and ``used`` tells that they were taken.
            chunk = bits[position : position + 32]
            position += 32
            window = (window & ((1 << held) - 1)) << 256 | int.from_bytes(chunk, "big") << 8 * (
                32 - len(chunk)
            )
            held += 256
        phrase, length = short[window >> (held - LOOKUP_BITS) & mask]
        if not length:
            ahead = window >> (held - LONGEST_CODE) & ((1 << LONGEST_CODE) - 1)
            length = bisect_right(limits, ahead)
            phrase = phrases[order[(ahead >> (LONGEST_CODE - length)) + offsets[length]]]
        used += length
        if used > available:
            raise CodecError(f"not a valid HCv2 stream: its phrases end after {done} of {raw_length} bytes")
        held -= length
        done += len(phrase)
        out.append(phrase)
    if done > raw_length:
        raise CodecError("not a valid HCv2 stream: a phrase reaches past the declared length")
    left = available - used
    if left >= 8 or (left and bits[-1] & ((1 << left) - 1)):
        raise CodecError("not a valid HCv2 stream: bits are left over after its phrases")
    return b"".join(out)


class _Node(dict[int, "_Node | None"]):
    """A place in the trie: what text has been read. Its children are found when text asks for them.

    Most of a dictionary is never met, and a dict answers in a few dozen nanoseconds.
    """

    __slots__ = ("depth", "high", "links", "low", "model")

    def __init__(self, model: Encoder, low: int, high: int, depth: int, links: tuple[Link, ...]) -> None:
        super().__init__()
        self.model = model
        #: The phrases that begin with this text are those from low to high - 1.
        self.low = low
        self.high = high
        self.depth = depth
        #: The phrases this text begins with, the longest first.
        self.links = links

    def __missing__(self, byte: int) -> _Node | None:
        phrases = self.model.phrases
        text = (phrases[self.low][: self.depth] if self.depth else b"") + bytes((byte,))
        depth = self.depth + 1
        low = bisect_left(phrases, text, self.low, self.high)
        child = None
        if low < self.high and phrases[low].startswith(text):
            high = bisect_right(phrases, text + b"\xff" * LONGEST_PHRASE, low, self.high)
            links = self.links
            if len(phrases[low]) == depth:
                links = ((depth, self.model.lengths[low], low), *links)
            child = _Node(self.model, low, high, depth, links)
        self[byte] = child
        return child


#: Size, code length and number of a phrase.
Link = tuple[int, int, int]
#: Text that is remembered at most, so that noise does not fill the memory.
_MOST_STARTS = 100_000


class Encoder:
    """What encoding looks up, worked out from a dictionary when it is first needed.

    Args:
        dictionary: the dictionary.
        flagged: put a 1 before the code words that begin with 11, as mode 3 does.
    """

    def __init__(self, dictionary: Dictionary, *, flagged: bool = False) -> None:
        self.phrases = dictionary.phrases
        self.starts: dict[bytes, _Node] = {}
        self.words: dict[int, tuple[str, int]] = {}
        following = first_codes(dictionary.lengths)
        self.codes: list[int] = []
        add = self.codes.append
        lengths = bytearray()
        for length in dictionary.lengths:
            code = following[length]
            following[length] = code + 1
            # A word of one bit is 0: two of them would be the whole code.
            flag = int(flagged and length > 1 and code >> (length - 2) == 0b11)
            add(code | flag << length)
            lengths.append(length + flag)
        self.lengths = bytes(lengths)
        self.root = _Node(self, 0, dictionary.count, 0, ())

    def word(self, index: int) -> tuple[str, int]:
        """Return a phrase's code word as text, and its size."""
        found = self.words.get(index)
        if found is None:
            word = format(self.codes[index], f"0{self.lengths[index]}b")
            found = self.words[index] = word, len(self.phrases[index])
        return found

    def start(self, text: bytes) -> _Node:
        """Return the place of the longest beginning of a text of up to 3 bytes."""
        node = self.root
        for byte in text:
            child = node[byte]
            if child is None:
                # Nothing goes on from here: a place of the same phrases without children.
                node = _Node(self, 0, 0, LONGEST_PHRASE, node.links)
                break
            node = child
        if len(self.starts) >= _MOST_STARTS:
            self.starts.clear()
        self.starts[text] = node
        return node

    def parse(self, block: bytes, rival: Rival | None = None) -> list[int]:
        """Return the number of what is best at each position of a block, the last position first."""
        starts = self.starts
        # Grown from the end of the block, so that best[-size] is the best after size bytes.
        best = [0]
        choice = []
        for at in range(len(block) - 1, -1, -1):
            text = block[at : at + 3]
            node = starts.get(text)
            if node is None:
                node = self.start(text)
            for byte in block[at + 3 : at + LONGEST_PHRASE]:
                child = node[byte]
                if child is None:
                    break
                node = child
            lowest = 1 << 62
            index = 0
            for size, cost, candidate in node.links:
                total = cost + best[-size]
                if total < lowest:
                    lowest = total
                    index = candidate
            if rival is not None:
                lowest, index = rival(at, best, lowest, index)
            best.append(lowest)
            choice.append(index)
        return choice


class Decoder:
    """What decoding looks up, worked out from a dictionary when it is first needed."""

    def __init__(self, dictionary: Dictionary) -> None:
        self.phrases = phrases = dictionary.phrases
        lengths = dictionary.lengths
        units = [0] + [_UNIT // length for length in range(1, LONGEST_CODE + 1)]
        #: The most bytes that a bit can stand for, times _UNIT.
        self.reach = max(map(int.__mul__, map(len, phrases), map(units.__getitem__, lengths)))
        by_length: list[list[int]] = [[] for _ in range(LONGEST_CODE + 1)]
        for index, length in enumerate(lengths):
            by_length[length].append(index)
        #: Phrases in the order of their code words.
        self.order = [index for group in by_length for index in group]
        #: Place in the order, minus the code word, of the codes of each length.
        before = accumulate(map(len, by_length), initial=0)
        self.offsets = [place - code for place, code in zip(before, first_codes(lengths), strict=False)]
        #: For each length, the first LONGEST_CODE bits that belong to a longer code.
        self.limits = list(accumulate(len(group) << (LONGEST_CODE - n) for n, group in enumerate(by_length)))
        self.short: list[tuple[bytes, int]] = []
        for index in self.order:
            length = lengths[index]
            if length > LOOKUP_BITS:
                break
            self.short += [(phrases[index], length)] * (1 << (LOOKUP_BITS - length))
        self.short += [(b"", 0)] * ((1 << LOOKUP_BITS) - len(self.short))


def first_codes(lengths: bytes) -> list[int]:
    """Return the first code word of each length."""
    codes = [0]
    for length in range(1, LONGEST_CODE + 1):
        codes.append((codes[-1] + (lengths.count(length - 1) if length > 1 else 0)) << 1)
    return codes
