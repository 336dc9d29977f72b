"""Mode 3 of HCv2 in readable Python: phrases, and copies of what is already there.

docs/huffman-format.md is the specification. No I/O but the dictionary's own.
"""

from __future__ import annotations

from bisect import bisect_right

from lix_cache.errors import CodecError
from lix_cache.huffman_codec._dictionary import LONGEST_CODE, Dictionary
from lix_cache.huffman_codec._phrases import BLOCK, LOOKUP_BITS, Encoder, decoder_of, to_bytes

__all__ = ["MOST_BYTES_A_BYTE", "REPEATS_REACH", "count_repeats", "decode_copies", "encode_copies"]

#: A phrase of 64 bytes may have a code word of one bit; no copy says more by bit.
MOST_BYTES_A_BYTE = 512
SHORTEST, LONGEST = 3, 1022
FARTHEST = 65535
#: How many places with the same three bytes are tried, and a match at which that ends.
_TRIES, _LONG_ENOUGH = 64, 128
#: Up to here every length of a match is considered; of a longer one, only the whole.
_EVERY_LENGTH = 32
_FLAG = "110"
#: The most bits of a copy: its flag, a length, a distance.
_LONGEST_COPY = 3 + 16 + 13 + 15

#: By number of digits of (length + 1), less 3: the beginning of the word.
_LENGTH_CLASSES = ("0", "10", "110", "1110", "11110", "111110", "1111110", "1111111")
_DISTANCE_CLASSES = (
    *("100", "00", "01", "101", "110"),
    *("111" + "1" * ones + "0" for ones in range(10)),
    "111" + "1" * 10,
)
_CLASS_BITS = tuple(map(len, _DISTANCE_CLASSES))


def _length_bits(length: int) -> int:
    digits = (length + 1).bit_length()
    return len(_LENGTH_CLASSES[digits - 3]) + digits - 1


_LENGTH_BITS = (*([0] * SHORTEST), *map(_length_bits, range(SHORTEST, LONGEST + 1)))


#: Where repeats are counted: in so many bytes at most.
REPEATS_REACH = 1 << 14
#: A place is remembered by 14 bits of a product of its eight bytes; a later one takes its room.
_PLACE_FACTOR, _PLACE_SHIFT = 0x9E3779B97F4A7C15, 64 - 14


def count_repeats(data: bytes) -> int:
    """Return at how many places the next eight bytes stood before, or a few less.

    That says whether there is anything to copy, in a hundredth of the time that looking for copies takes.
    """
    data = data[:REPEATS_REACH]
    room: dict[int, bytes] = {}
    repeats = 0
    for at in range(len(data) - 7):
        eight = data[at : at + 8]
        slot = (int.from_bytes(eight, "big") * _PLACE_FACTOR & (1 << 64) - 1) >> _PLACE_SHIFT
        repeats += room.get(slot) == eight
        room[slot] = eight
    return repeats


def encode_copies(dictionary: Dictionary, data: bytes) -> bytes:
    """Return the code words of phrases and copies, filled up to a byte."""
    encoder: Encoder | None = dictionary.__dict__.get("flagged_encoder")
    if encoder is None:
        encoder = dictionary.__dict__["flagged_encoder"] = Encoder(dictionary, flagged=True)
    earlier = _earlier(data)
    words: list[str] = []
    for start in range(0, len(data), BLOCK):
        block = data[start : start + BLOCK]
        choice = encoder.parse(block, _Copies(data, earlier, start, len(block)).best)
        left = len(choice)
        while left:
            index = choice[left - 1]
            if index < 0:
                distance, size = -index >> 10, -index & 1023
                word = _copy_word(distance, size, start + len(block) - left)
            else:
                word, size = encoder.word(index)
            words.append(word)
            left -= size
    return to_bytes("".join(words))


def _earlier(data: bytes) -> list[int]:
    """Return, for each position, the last one before it with the same three bytes, or -1."""
    last: dict[bytes, int] = {}
    found = []
    for at in range(len(data) - 2):
        key = data[at : at + 3]
        found.append(last.get(key, -1))
        last[key] = at
    return [*found, -1, -1]


def _copy_word(distance: int, length: int, at: int) -> str:
    """Return the code word of a copy."""
    digits = (length + 1).bit_length() - 1
    first = _LENGTH_CLASSES[digits - 2] + format(length + 1, "b")[1:]
    kind = min(at, FARTHEST).bit_length() - distance.bit_length()
    return _FLAG + first + _DISTANCE_CLASSES[kind] + format(distance, "b")[1:]


class _Copies:
    """The copies at each position of a block."""

    def __init__(self, data: bytes, earlier: list[int], start: int, size: int) -> None:
        self.data = data
        self.earlier = earlier
        self.start = start
        self.size = size

    def best(self, at: int, best: list[int], lowest: int, index: int) -> tuple[int, int]:
        """Return the cheapest of a phrase and all copies: its cost and number.

        A copy's number is below zero: -(1024 * distance + length).
        """
        data, earlier = self.data, self.earlier
        room = min(LONGEST, self.size - at)
        at += self.start
        source = earlier[at]
        reached = SHORTEST - 1
        tries = _TRIES
        far = min(at, FARTHEST).bit_length()
        while source >= at - FARTHEST and source >= 0 and tries and reached < min(room, _LONG_ENOUGH):
            tries -= 1
            # Most places fail at the byte that would make them longer than what was found.
            if data[source + reached] == data[at + reached]:
                match = _match(data, source, at, room)
                distance = at - source
                digits = distance.bit_length()
                price = len(_FLAG) + _CLASS_BITS[far - digits] + digits - 1
                lengths = [*range(reached + 1, min(match, _EVERY_LENGTH) + 1)]
                if match > max(reached, _EVERY_LENGTH):
                    lengths.append(match)
                for length in lengths:
                    total = price + _LENGTH_BITS[length] + best[-length]
                    if total < lowest:
                        lowest = total
                        index = -(distance << 10 | length)
                reached = max(reached, match)
            source = earlier[source]
        return lowest, index


def _match(data: bytes, source: int, at: int, room: int) -> int:
    """Return for how many bytes two places agree, at most ``room``."""
    size = 0
    while size + 16 <= room and data[source + size : source + size + 16] == data[at + size : at + size + 16]:
        size += 16
    while size < room and data[source + size] == data[at + size]:
        size += 1
    return size


def decode_copies(dictionary: Dictionary, bits: bytes, raw_length: int) -> bytes:
    """Return the ``raw_length`` bytes that the code words say.

    Raises:
        CodecError: they say more, or less, or something that is not there; or something follows them.
    """
    if raw_length > MOST_BYTES_A_BYTE * len(bits):
        raise CodecError("not a valid HCv2 stream: the declared length is more than its bits can hold")
    decoder = decoder_of(dictionary)
    short, limits, offsets = decoder.short, decoder.limits, decoder.offsets
    order, phrases = decoder.order, decoder.phrases
    available = 8 * len(bits)
    out = bytearray()
    used = window = held = position = 0
    mask = (1 << LOOKUP_BITS) - 1
    while len(out) < raw_length:
        if held < _LONGEST_COPY:
            # As in decode_phrases.
            chunk = bits[position : position + 32]
            position += 32
            window = (window & ((1 << held) - 1)) << 256 | int.from_bytes(chunk, "big") << 8 * (
                32 - len(chunk)
            )
            held += 256
        flag = window >> (held - 3) & 7
        distance = 0
        if flag == 0b110:
            ahead = window >> (held - _LONGEST_COPY) & ((1 << _LONGEST_COPY) - 1)
            length, distance, size = _read_copy(ahead, len(out))
        else:
            if flag == 0b111:
                held -= 1
                used += 1
            phrase, length = short[window >> (held - LOOKUP_BITS) & mask]
            if not length:
                ahead = window >> (held - LONGEST_CODE) & ((1 << LONGEST_CODE) - 1)
                length = bisect_right(limits, ahead)
                phrase = phrases[order[(ahead >> (LONGEST_CODE - length)) + offsets[length]]]
            size = len(phrase)
        used += length
        held -= length
        if used > available:
            raise CodecError(
                f"not a valid HCv2 stream: its phrases end after {len(out)} of {raw_length} bytes"
            )
        if distance > len(out) or (flag == 0b110 and not distance):
            raise CodecError("not a valid HCv2 stream: a copy of what is before the beginning")
        if size > raw_length - len(out):
            raise CodecError("not a valid HCv2 stream: a phrase reaches past the declared length")
        if distance:
            source = out[-distance:] if distance > size else out[-distance:] * (size // distance + 1)
            phrase = bytes(source[:size])
        out += phrase
    left = available - used
    if left >= 8 or (left and bits[-1] & ((1 << left) - 1)):
        raise CodecError("not a valid HCv2 stream: bits are left over after its phrases")
    return bytes(out)


def _read_copy(ahead: int, done: int) -> tuple[int, int, int]:
    """Return the bits of a copy's word, its distance (0: there is none such), and its length."""
    word = format(ahead, f"0{_LONGEST_COPY}b")
    ones = 7 - len(word[3:10].lstrip("1"))
    at = 3 + min(ones + 1, 7)
    length = int("1" + word[at : at + ones + 2], 2) - 1
    at += ones + 2
    if word[at : at + 3] == "111":
        ones = 10 - len(word[at + 3 : at + 13].lstrip("1"))
        kind = 5 + ones
    else:
        kind = _DISTANCE_CLASSES.index(word[at : at + 2] if word[at] == "0" else word[at : at + 3])
    at += _CLASS_BITS[kind]
    digits = min(done, FARTHEST).bit_length() - kind
    if digits < 1:
        return at, 0, length
    return at + digits - 1, int("1" + word[at : at + digits - 1], 2), length
