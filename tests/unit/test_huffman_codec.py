"""HCv1: what the page says, byte by byte, and nothing else is accepted."""

from __future__ import annotations

import array
import json
import struct
import subprocess
import sys
import tracemalloc
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from lix_cache import CodecError, HuffmanCodec
from lix_cache.huffman_codec import _native, decode_bytes, encode_str
from lix_cache.huffman_codec._native import decode_prefix_v1
from lix_cache.huffman_codec._table import canonical_codes, code_lengths
from tests.support.kernels import kernel  # noqa: F401 - a fixture

#: Every test here is run with the Python kernel and with the one in C.
pytestmark = pytest.mark.usefixtures("kernel")
encode_v1 = partial(HuffmanCodec.encode, format=1)


def stream(
    length: int, table: list[tuple[int, int]], padding: int, body: bytes, magic: bytes = b"HCv1"
) -> bytes:
    """Put an HCv1 stream together from its parts, right or wrong."""
    pairs = bytes(value for pair in table for value in pair)
    return magic + struct.pack("<IH", length, len(table)) + pairs + struct.pack("<I", padding) + body


#: By hand: a 5, b 2, r 2, c 1, d 1; the merged weights are 2, 4, 6 and 11, and their sum is the
#: number of bits of any optimal code.
ABRACADABRA_BITS = 2 + 4 + 6 + 11


def test_a_stream_written_by_hand_is_read() -> None:
    # a = 0, b = 10, c = 11; "abaca" = 0 10 0 11 0, and one bit of padding.
    by_hand = b"HCv1\x05\0\0\0\x03\0a\x01b\x02c\x02\x01\0\0\0" + bytes([0b01001100])
    assert HuffmanCodec.decode(by_hand) == b"abaca"
    assert encode_v1(b"abaca") == by_hand


def test_empty_input_is_magic_zero_length_and_zero_symbols() -> None:
    assert encode_v1(b"") == b"HCv1\0\0\0\0\0\0"
    assert HuffmanCodec.decode(b"HCv1\0\0\0\0\0\0") == b""


def test_no_bytes_at_all_decode_to_no_bytes() -> None:
    assert HuffmanCodec.decode(b"") == b""


def test_one_symbol_gets_one_bit() -> None:
    assert encode_v1(b"aaa") == stream(3, [(97, 1)], 5, b"\0")


def test_the_code_is_optimal() -> None:
    lengths = dict(code_lengths(b"abracadabra"))
    assert sum(lengths[byte] for byte in b"abracadabra") == ABRACADABRA_BITS


def test_canonical_codes_count_up_within_a_length() -> None:
    assert canonical_codes([(1, 1), (2, 3), (3, 3), (4, 3), (5, 3)]) == [0, 0b100, 0b101, 0b110, 0b111]


@pytest.mark.parametrize(
    "data",
    [
        b"a",
        bytes(256),
        bytes(range(256)),
        bytes(range(256)) * 3 + b"\0" * 100,
        b"ab" * 1000,
        "日本語とemoji 🎉".encode() * 10,
    ],
    ids=["one", "one-symbol", "all-symbols", "skewed", "two-symbols", "utf-8"],
)
def test_what_was_encoded_comes_back(data: bytes) -> None:
    assert HuffmanCodec.decode(encode_v1(data)) == data


def test_the_longest_codes_come_back() -> None:
    # Fibonacci counts make the deepest tree: codes longer than the look-up table is wide.
    counts = [1, 1]
    while len(counts) < 20:
        counts.append(counts[-1] + counts[-2])
    data = b"".join(bytes([symbol]) * count for symbol, count in enumerate(counts))
    assert max(length for _, length in code_lengths(data)) == 19
    assert HuffmanCodec.decode(encode_v1(data)) == data


def test_a_code_of_255_bits_is_read() -> None:
    # No real input makes one, but the table can say it: lengths 1, 2, ... 254, 255, 255.
    table = [(symbol, symbol + 1) for symbol in range(255)] + [(255, 255)]
    bits = "1" * 255 + "0" + "1" * 254 + "0"
    padding = -len(bits) % 8
    body = int(bits + "0" * padding, 2).to_bytes((len(bits) + padding) // 8, "big")
    assert HuffmanCodec.decode(stream(3, table, padding, body)) == bytes([255, 0, 254])


@pytest.mark.parametrize("kind", [bytearray, memoryview, lambda data: array.array("B", data)])
def test_any_bytes_like_object_will_do(kind: Any) -> None:
    assert encode_v1(kind(b"abcab")) == encode_v1(b"abcab")
    assert HuffmanCodec.decode(kind(encode_v1(b"abcab"))) == b"abcab"


@pytest.mark.parametrize("value", [5, "text", None, [1, 2]])
def test_what_is_not_bytes_is_a_type_error(value: Any) -> None:
    wanted = rf"^data must be a bytes-like object, got {type(value).__name__}"
    with pytest.raises(TypeError, match=wanted):
        encode_v1(value)
    with pytest.raises(TypeError, match=wanted + (".*encode_str" if value == "text" else "")):
        HuffmanCodec.encode(value)
    with pytest.raises(TypeError, match=wanted):
        HuffmanCodec.decode(value)
    with pytest.raises(TypeError, match=wanted):
        decode_bytes(value)


@pytest.mark.parametrize("value", [5, b"x", None])
def test_what_is_no_text_is_a_type_error_that_says_so(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^encode_str needs a str, got {type(value).__name__}"):
        encode_str(value)


def test_text_that_has_no_utf_8_is_refused_without_being_shown() -> None:
    with pytest.raises(CodecError, match="character 6 is half of a surrogate pair") as error:
        encode_str("secret\ud800")
    assert "secret" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize("data", [b"xx", b"x" * 40, b"\0", b"HCx"])
def test_what_is_of_neither_format_is_said_to_be_of_neither(data: bytes) -> None:
    with pytest.raises(CodecError, match=r"^neither an HCv1 nor an HCv2 stream: it starts with"):
        HuffmanCodec.decode(data)


def test_text_goes_and_comes_as_utf_8() -> None:
    assert decode_bytes(encode_str("Grüße, 世界")) == "Grüße, 世界"
    assert encode_str("Grüße") == HuffmanCodec.encode("Grüße".encode())


def test_bytes_that_are_not_text_are_refused_as_text() -> None:
    with pytest.raises(CodecError, match="not UTF-8"):
        decode_bytes(encode_v1(b"\xff\xfe"))


def test_more_than_the_format_can_say_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 32

    with pytest.raises(CodecError, match="4294967295"):
        _native.encode_v1(Huge(b"x"))


GOOD_TABLE = [(97, 1), (98, 2), (99, 2)]

BAD = {
    "cut header": (b"HCv1\x05", "too few for a header"),
    "another magic": (stream(5, GOOD_TABLE, 0, b"\x5a", magic=b"HCv9"), "starts with b'HCv9'"),
    "bytes after nothing": (b"HCv1\0\0\0\0\0\0x", "follow an empty stream"),
    "symbols of nothing": (b"HCv1\0\0\0\0\x01\0", "follow an empty stream"),
    "no symbols": (stream(5, [], 0, b"\x5a"), "the table does not fit"),
    "too many symbols": (b"HCv1\x05\0\0\0\x01\x01" + bytes(600), "the table does not fit"),
    "cut table": (b"HCv1\x05\0\0\0\x03\0a\x01b", "the table does not fit"),
    "a code of no bits": (stream(5, [(97, 0), (98, 1)], 0, b"\x5a"), "a code of no bits"),
    "symbols out of order": (stream(5, [(97, 1), (99, 2), (98, 2)], 0, b"\x5a"), "canonical order"),
    "lengths out of order": (stream(5, [(97, 2), (98, 1), (99, 2)], 0, b"\x5a"), "canonical order"),
    "a symbol twice": (stream(5, [(97, 1), (97, 2), (98, 2)], 0, b"\x5a"), "twice"),
    "too many codes": (stream(5, [(97, 1), (98, 1), (99, 1)], 0, b"\x5a"), "complete code"),
    "too few codes": (stream(5, [(97, 1), (98, 2)], 0, b"\x5a"), "complete code"),
    "too much padding": (stream(5, GOOD_TABLE, 8, b"\x5a\0"), "bits of padding"),
    "padding of nothing": (stream(5, GOOD_TABLE, 1, b""), "bits of padding"),
    "padding that is not zero": (stream(3, [(97, 1)], 5, b"\x01"), "not zero"),
    "bits left over": (stream(4, GOOD_TABLE, 0, b"\x5a"), "take 6 bits, not 8"),
    "bytes left over": (stream(5, GOOD_TABLE, 0, b"\x5a\0"), "take 8 bits, not 16"),
    "code words in the padding": (stream(5, GOOD_TABLE, 2, b"\x58"), "take 7 bits, not 6"),
    "more than the bits hold": (stream(6, GOOD_TABLE, 0, b"\x5a"), "5 of 6 bytes"),
    "more than any bits hold": (stream(2**32 - 1, GOOD_TABLE, 0, b"\x5a"), "more than its bits can hold"),
    "no such code word": (stream(2, [(97, 1)], 6, b"\x40"), "no code word at bit 1"),
    "no such long code word": (stream(2, [(97, 13)], 6, b"\0\x07\xff\xc0"), "no code word"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_stream_is_refused_with_its_reason(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(CodecError) as refused:
        HuffmanCodec.decode(data)
    assert reason in str(refused.value)


def test_a_cut_stream_gives_back_what_is_before_the_cut() -> None:
    text = b"the quick brown fox jumps over the lazy dog " * 5
    whole = encode_v1(text)
    lengths = dict(code_lengths(text))
    start = 14 + 2 * len(lengths)
    for size in range(len(whole)):
        decoded, wanted, problem = decode_prefix_v1(whole[:size])
        used = 0
        complete = 0
        while complete < len(text) and used + lengths[text[complete]] <= 8 * (size - start):
            used += lengths[text[complete]]
            complete += 1
        assert decoded == text[:complete], size
        assert problem or len(decoded) < wanted or size == 0


def test_a_declared_length_is_not_believed_before_memory_is_taken() -> None:
    data = stream(2**32 - 1, GOOD_TABLE, 0, bytes(1000))
    tracemalloc.start()
    with pytest.raises(CodecError):
        HuffmanCodec.decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000


def test_every_short_input_is_a_result_or_a_codec_error() -> None:
    header = b"HCv1\x02\0\0\0\x01\0"
    for rest in product(range(0, 256, 51), repeat=4):
        for data in (bytes(rest), header + b"a\x01" + bytes(rest)):
            try:
                assert isinstance(HuffmanCodec.decode(data), bytes)
            except CodecError:
                continue


#: Looked up when a test runs; that all of them are here is tested below.
GOLDEN = [
    "empty",
    "one_byte",
    "one_symbol_run",
    "two_symbols",
    "all_bytes",
    "skewed",
    "random_4k",
    "fibonacci_depth",
    "english_turn",
    "json_turns",
    "chinese_turns",
    "english_30k",
]


@pytest.mark.shared
@pytest.mark.parametrize("name", GOLDEN)
def test_streams_of_the_old_package_are_read_and_ours_are_as_short(shared_dir: Path, name: str) -> None:
    folder = shared_dir / "golden" / "hcv1"
    raw = (folder / f"{name}.raw").read_bytes()
    golden = (folder / f"{name}.hcv1").read_bytes()
    assert HuffmanCodec.decode(golden) == raw
    ours = encode_v1(raw)
    assert HuffmanCodec.decode(ours) == raw
    # Both codes are optimal; where frequencies tie, the lengths differ, and their sum does not.
    assert len(ours) == len(golden)


@pytest.mark.shared
def test_every_golden_stream_is_tested(shared_dir: Path) -> None:
    manifest = json.loads((shared_dir / "golden" / "hcv1" / "manifest.json").read_text())
    assert sorted(manifest) == sorted(GOLDEN)


def test_using_the_codec_imports_nothing_else() -> None:
    program = """
import sys
before = set(sys.modules)  # what the interpreter, or who measures it, has imported by itself
from lix_cache import HuffmanCodec
assert HuffmanCodec.decode(HuffmanCodec.encode(b"text")) == b"text"
try:
    HuffmanCodec.decode(b"damaged")
except ValueError:
    pass
new = set(sys.modules) - before
print(sorted(name for name in new if name.startswith("lix_cache")))
print(sorted(new & {"redis", "hiredis", "numpy", "loguru", "asyncio", "json", "threading", "socket"}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    ours, others = done.stdout.splitlines()
    assert others == "[]"
    # The extension in C is here or not.
    assert {*json.loads(ours.replace("'", '"'))} - {"lix_cache.huffman_codec._speedups"} == {
        "lix_cache",
        "lix_cache._cached_property",
        "lix_cache.errors",
        "lix_cache.huffman_codec",
        *(
            f"lix_cache.huffman_codec.{room}"
            for room in (
                *("_backend", "_bytecode", "_copies", "_native", "_numbers", "_dictionary", "_phrases"),
                *("_registry", "_table", "_v2"),
            )
        ),
    }
