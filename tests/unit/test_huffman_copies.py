"""Mode 3 of HCv2, phrases and copies: what the page says, on both kernels, and nothing else is accepted."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import pytest

from lix_cache import CodecError, HuffmanCodec
from lix_cache.huffman_codec import _backend, _v2
from lix_cache.huffman_codec._backend import Kernel
from lix_cache.huffman_codec._copies import REPEATS_REACH
from lix_cache.huffman_codec._dictionary import Dictionary
from lix_cache.huffman_codec._numbers import write_varint
from lix_cache.huffman_codec._phrases import BLOCK
from tests.support.kernels import kernel, native_or_skip  # noqa: F401 - a fixture
from tests.support.tables import SAMPLE, lixt, pack, small_table
from tests.unit.test_huffman_v2 import CASES, checked

pytestmark = pytest.mark.usefixtures("kernel")

NOISE = random.Random(3).randbytes(70_000)
COPIED = {
    **CASES,
    "far": NOISE[:65535] + NOISE[:400],
    "too far": NOISE[:65536] + NOISE[:400],
    "farther than the index": NOISE * 5,
    "long": NOISE[:1500] * 2,
    "two of three bytes": b"abcab" + b"abdab" * 9 + b"ab",
    "a match longer than the one before, beyond those of which every length is tried": (
        b"[" * 33 + b" " + b"[" * 33 + b" is" + b"[" * 34 + b" is" + b"[" * 40
    ),
    "runs": b"".join(bytes((65 + n % 7,)) * n for n in range(200)),
    "many places": b"".join(b"xyz%d" % (n * n % 97) for n in range(900)),
}


@cache
def plain() -> Dictionary:
    """255 singles of 8 bits, which are their own code words, and one of 9 beside "the "."""
    phrases = sorted([bytes((byte,)) for byte in range(256)] + [b"the "])
    lengths = bytes(9 if phrase in (b"\xff", b"the ") else 8 for phrase in phrases)
    return Dictionary.parse(lixt("by-hand", pack(phrases, lengths), 257))


@cache
def small() -> Dictionary:
    return Dictionary.parse(small_table())


def packed(bits: str) -> bytes:
    size = -(-len(bits) // 8)
    return (int(bits or "0", 2) << (8 * size - len(bits))).to_bytes(size, "big")


def literal(data: bytes) -> str:
    """The words of single bytes in the plain table: those from 0xC0 on begin with 11."""
    return "".join(("1" if byte >= 0xC0 else "") + f"{byte:08b}" + "1" * (byte == 255) for byte in data)


#: The page's table of lengths: the first of each row, the beginning of the word, the bits after it.
LENGTHS = [(3, "0", 2), (7, "10", 3), (15, "110", 4), (31, "1110", 5), (63, "11110", 6), (127, "111110", 7)]
LENGTHS += [(255, "1111110", 8), (511, "1111111", 9)]
CLASSES = ["100", "00", "01", "101", "110", *("111" + "1" * n + "0" for n in range(10)), "1111111111111"]


def copy(length: int, distance: int, there: int) -> str:
    """The word of a copy, written from the page's tables."""
    first, start, bits = next(row for row in reversed(LENGTHS) if row[0] <= length)
    kind = min(there, 65535).bit_length() - distance.bit_length()
    far = distance.bit_length() - 1
    return f"110{start}{length - first:0{bits}b}{CLASSES[kind]}" + (
        f"{distance - (1 << far):0{far}b}" if far else ""
    )


# ---------------------------------------------------------------- by hand


def test_a_stream_written_by_hand_is_read_and_written(kernel: Kernel, tmp_path: Path) -> None:  # noqa: F811
    data = b"abcdabcd\xc3the "
    # "abcd" as it is; a copy: 3 + 1 bytes, class 0 of the 4 that are there, 4 back; then the words
    # 11000011 and 111111110 behind a 1.
    bits = literal(b"abcd") + "11000110000" + "111000011" + "1111111110"
    assert kernel.decode_copies(plain(), packed(bits), len(data)) == data
    assert kernel.encode_copies(plain(), data) == packed(bits)
    body = bytes((0x83 | 15 << 2, len(data))) + plain().number + packed(bits)
    path = tmp_path / "by-hand.lixt"
    path.write_bytes(lixt("by-hand", plain().raw, 257))
    stream = checked(body, plain().number)
    assert HuffmanCodec.decode(stream, dictionary=path) == data
    assert _v2.dictionary_number(stream) == plain().number
    with pytest.raises(CodecError, match=f"dictionary number {plain().number.hex()}, which is not here"):
        HuffmanCodec.decode(stream)


@pytest.mark.parametrize("length", sorted({n + d for n, _, _ in LENGTHS for d in (-1, 0, 1)} - {2} | {1022}))
def test_every_length_is_read(kernel: Kernel, length: int) -> None:  # noqa: F811
    data = NOISE[:1100]
    bits = literal(data) + copy(length, 1100, 1100) + copy(length, 1, 1100 + length) + literal(b"x")
    expected = data + data[:length] + data[length - 1 : length] * length + b"x"
    assert kernel.decode_copies(plain(), packed(bits), len(expected)) == expected


@pytest.mark.parametrize("there", [1, 2, 3, 255, 256, 65534, 65535, 65536, 69_000])
def test_every_distance_is_read(kernel: Kernel, there: int) -> None:  # noqa: F811
    expected = bytearray(NOISE[:there])
    bits = [literal(expected)]
    for power in range(17):
        for distance in {(1 << power) - 1, 1 << power}:
            if 1 <= distance <= min(there, 65535):
                bits.append(copy(5, distance, len(expected)))
                expected += (expected[-distance:] * 5)[:5]
    assert kernel.decode_copies(plain(), packed("".join(bits)), len(expected)) == expected


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("name", COPIED)
def test_what_was_encoded_comes_back(kernel: Kernel, name: str) -> None:  # noqa: F811
    if kernel.name == "python" and len(COPIED[name]) > 100_000:
        pytest.skip("takes Python long, and both kernels are compared below")
    data = COPIED[name]
    for table in (small(), plain()):
        coded = kernel.encode_copies(table, data)
        assert kernel.decode_copies(table, coded, len(data)) == data
    stream = HuffmanCodec.encode(data, level=2)
    assert HuffmanCodec.decode(stream) == data
    assert len(stream) <= len(HuffmanCodec.encode(data))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", COPIED)
def test_both_kernels_write_the_same(name: str) -> None:
    native = native_or_skip()
    data = COPIED[name]
    assert native.encode_copies(small(), data) == _backend.PURE.encode_copies(small(), data)


def test_repeats_are_counted_where_eight_bytes_stood_before(kernel: Kernel) -> None:  # noqa: F811
    for data, repeats in (
        (b"", 0),
        (b"abcdefg", 0),
        (b"abcdefgh", 0),
        (b"abcdefgh" * 3, 9),
        (b"abcdefgh 1 abcdefgh 2 bcdefgh 3", 3),
        (bytes(100), 92),
        (NOISE[:900], 0),
        # As far as it looks, and no further.
        (bytes(REPEATS_REACH + 1), REPEATS_REACH - 8),
        (NOISE[:REPEATS_REACH] + bytes(100), 0),
    ):
        assert kernel.count_repeats(data) == repeats


@pytest.mark.parametrize("name", COPIED)
def test_both_kernels_count_the_same_repeats(name: str) -> None:
    assert native_or_skip().count_repeats(COPIED[name]) == _backend.PURE.count_repeats(COPIED[name])


def test_copies_end_within_the_block_and_begin_anywhere(kernel: Kernel) -> None:  # noqa: F811
    data = (SAMPLE.encode() * 40)[: BLOCK + 500]
    coded = kernel.encode_copies(small(), data)
    assert len(coded) < 700
    assert kernel.decode_copies(small(), coded, len(data)) == data


def test_what_is_said_again_is_copied_and_what_is_not_stays_phrases() -> None:
    text = SAMPLE.encode()
    for data, mode in ((text, 0x82), (text * 3, 0x83)):
        stream = HuffmanCodec.encode(data, level=2)
        assert stream[0] == mode
        assert HuffmanCodec.decode(stream) == data
        assert HuffmanCodec.encode(data)[0] == 0x82
    assert len(HuffmanCodec.encode(text * 3, level=2)) < 1.2 * len(HuffmanCodec.encode(text))


# ---------------------------------------------------------------- damage

ABC = literal(b"abc")
BAD = {
    "cut": (ABC + copy(3, 3, 3), 7, "its phrases end after 6 of 7 bytes"),
    "cut copy": ((ABC + copy(600, 3, 3))[:40], 900, "its phrases end after 3 of 900 bytes"),
    "past": (ABC + copy(4, 3, 3), 6, "a phrase reaches past the declared length"),
    "past by a phrase": (ABC + "1111111110", 5, "a phrase reaches past the declared length"),
    "at the beginning": (copy(3, 1, 1) + ABC, 6, "a copy of what is before the beginning"),
    "a class that is not there": (ABC + "110000" + "01" + ABC, 9, "a copy of what is before the beginning"),
    "the last class": (ABC + "110000" + CLASSES[15] + ABC, 9, "a copy of what is before the beginning"),
    "a byte more": (ABC + copy(3, 3, 3) + "0" * 13, 6, "bits are left over after its phrases"),
    "padding": (ABC + copy(3, 3, 3) + "1", 6, "bits are left over after its phrases"),
    "more than bits": (ABC, 3 * 512 + 1, "the declared length is more than its bits can hold"),
    "nothing": ("", 1, "the declared length is more than its bits can hold"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("before", [0, 2000], ids=["short", "long"])
def test_wrong_copies_are_refused_with_their_reason(kernel: Kernel, name: str, before: int) -> None:  # noqa: F811
    bits, size, reason = BAD[name]
    if before and name in ("a class that is not there", "the last class"):
        # With more before it they are right; the fast way is asked for what is wrong with as much after it.
        bits, size = bits + literal(bytes(2000)), size + 2000
    elif before and name not in ("at the beginning", "more than bits", "nothing"):
        pytest.skip("at the end")
    with pytest.raises(CodecError, match=reason):
        kernel.decode_copies(plain(), packed(bits), size)


def test_a_copy_that_reaches_before_the_beginning_is_refused(kernel: Kernel) -> None:  # noqa: F811
    # 3 bytes are there: two digits, so class 0 can say 3 and 2, class 1 can say 1; 5 bytes: 7.
    bits = literal(b"abcde") + "11000010011"
    for more in (0, 2000):
        with pytest.raises(CodecError, match="a copy of what is before the beginning"):
            kernel.decode_copies(plain(), packed(bits + literal(bytes(more))), 8 + more)


@pytest.mark.parametrize("size", [1 << 20, 1 << 40, (1 << 63) - 1])
def test_a_declared_length_is_not_believed(kernel: Kernel, size: int) -> None:  # noqa: F811
    body = bytes((0x83,)) + write_varint(size) + bytes(1000)
    from lix_cache.huffman_codec._registry import default_dictionary

    table = default_dictionary()
    assert table is not None
    with pytest.raises(CodecError, match="more than its bits can hold"):
        HuffmanCodec.decode(checked(body, table.number, short=False))


def test_every_changed_bit_and_every_cut_is_refused() -> None:
    data = SAMPLE.encode() * 2
    stream = HuffmanCodec.encode(data, level=2)
    assert stream[0] == 0x83
    for at in range(0, len(stream), 3):
        with pytest.raises(CodecError):
            HuffmanCodec.decode(stream[:at] if at else b"\x83")
        with pytest.raises(CodecError):
            HuffmanCodec.decode(stream[:at] + bytes((stream[at] ^ 1 << at % 8,)) + stream[at + 1 :])
