"""HCv2: what docs/huffman-format.md says, byte by byte, on both kernels, and nothing else is accepted."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from binascii import crc_hqx
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import pytest

from lix_cache import CodecError, HuffmanCodec
from lix_cache.huffman_codec import _backend, _registry, _v2, decode_bytes, encode_str
from lix_cache.huffman_codec._backend import Kernel
from lix_cache.huffman_codec._bytecode import FOUR_STREAMS_FROM
from lix_cache.huffman_codec._dictionary import Dictionary
from lix_cache.huffman_codec._native import decode_prefix_v1
from lix_cache.huffman_codec._numbers import read_varint, write_varint
from lix_cache.huffman_codec._phrases import BLOCK
from lix_cache.huffman_codec._table import code_lengths, limited_lengths
from tests.support.kernels import kernel, native_or_skip  # noqa: F401 - a fixture
from tests.support.tables import SAMPLE, lixt, pack, small_table, table_of, write_small_table

pytestmark = pytest.mark.usefixtures("kernel")

TEXT = SAMPLE.encode()
_SINGLES = [bytes((byte,)) for byte in range(256)]
#: Fibonacci counts make the deepest tree: the limit of 12 bits is reached, and HCv1's is not.
_COUNTS = [1, 1]
while len(_COUNTS) < 21:
    _COUNTS.append(_COUNTS[-1] + _COUNTS[-2])
DEEP = b"".join(bytes([symbol]) * count for symbol, count in enumerate(_COUNTS))

CASES = {
    "nothing": b"",
    "one byte": b"a",
    "two": b"ab",
    "one symbol": b"a" * 100,
    "one symbol, four streams": b"a" * 5000,
    "symbol 255": b"\xff" * 300,
    "all bytes": bytes(range(256)),
    "all bytes, often": bytes(range(256)) * 40,
    "text": TEXT,
    "long text": TEXT * 200,
    "below four streams": (TEXT * 10)[: FOUR_STREAMS_FROM - 1],
    "four streams": (TEXT * 10)[:FOUR_STREAMS_FROM],
    "uneven streams": (TEXT * 10)[: FOUR_STREAMS_FROM + 1],
    "deep": DEEP,
    "noise": bytes((i * i * 31 + (i >> 3) * 7 + (i % 97)) & 255 for i in range(3000)),
    "spaces": b" " * 1000,
    "a block": (TEXT * 50)[:BLOCK],
    "a block and a byte": (TEXT * 50)[: BLOCK + 1],
    "sparse": bytes((0, 40, 41, 42, 43, 255)) * 50,
}


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_table(tmp_path_factory.mktemp("tables"))


def checked(body: bytes, number: bytes = b"", *, short: bool = True) -> bytes:
    """Put the check behind a stream."""
    if short:
        return body + struct.pack("<H", crc_hqx(number + body, 0xFFFF))
    return body + struct.pack("<I", zlib.crc32(number + body))


@pytest.fixture
def nothing_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "SHIPPED", {})


# ---------------------------------------------------------------- by hand


@pytest.mark.usefixtures("nothing_shipped")
def test_a_stored_stream_written_by_hand_is_read() -> None:
    by_hand = checked(b"\x80\x03abc")
    assert HuffmanCodec.decode(by_hand) == b"abc"
    assert HuffmanCodec.encode(b"abc") == by_hand
    assert HuffmanCodec.encode(b"") == checked(b"\x80\x00")


def test_a_byte_code_stream_written_by_hand_is_read() -> None:
    # a = 0, b = 10, c = 11. 97 symbols without: 14, 97 - 18 = 4 * 16 + 15; then 1, 2, 2.
    body = b"\x81\x05" + bytes((0xE4, 0xF1, 0x22)) + bytes([0b01001100])
    assert HuffmanCodec.decode(checked(body)) == b"abaca"


@pytest.mark.usefixtures("nothing_shipped")
def test_a_byte_code_stream_is_written_as_the_page_says() -> None:
    data = b"abaca" * 10
    bits = "01001100"[:7] * 10
    size = -(-len(bits) // 8)
    body = b"\x81\x32\xe4\xf1\x22" + (int(bits, 2) << (8 * size - len(bits))).to_bytes(size, "big")
    assert HuffmanCodec.encode(data) == checked(body)


def test_equal_lengths_are_written_as_a_run() -> None:
    # 256 lengths of 8 bits: once, and 255 times in runs of at most 18.
    encoded = _backend.kernel.encode_bytecode(bytes(range(256)) * 20, 1 << 40)
    assert encoded is not None
    # 1 + 14 * 2 + 2 nibbles: 14 runs of 18 are 252, one of 3 more.
    nibbles = "8" + "ff" * 14 + "f0"
    assert encoded[:16].hex() == nibbles + "0" * (32 - len(nibbles))


def test_a_phrase_stream_written_by_hand_is_read(tmp_path: Path) -> None:
    # 255 singles of 8 bits and one of 9, beside "the " of 9.
    phrases = sorted([bytes((byte,)) for byte in range(256)] + [b"the "])
    lengths = bytes(9 if phrase in (b"\xff", b"the ") else 8 for phrase in phrases)
    raw = pack(phrases, lengths)
    path = tmp_path / "by-hand.lixt"
    path.write_bytes(lixt("by-hand", raw, 257))
    number = blake2b(raw, digest_size=16).digest()[:4]
    # Codes of 8 bits first, by symbol: a byte below 255 is itself. Then "the " and 0xff.
    bits = f"{255:08b}0" + f"{ord('a'):08b}" + f"{255:08b}1" + f"{255:08b}0"
    body = bytes((0x82 | 15 << 2, 10)) + number + (int(bits, 2) << 5).to_bytes(5, "big")
    expected = b"the a\xffthe "
    assert HuffmanCodec.decode(checked(body, number), dictionary=path) == expected
    kernel_bits, count = _backend.kernel.encode_phrases(Dictionary.load(path), expected)
    assert (kernel_bits, count) == (body[6:], 35)
    again = b"the the the the the the the the the the "
    assert HuffmanCodec.encode(again, dictionary=path)[:6] == bytes((0x82 | 15 << 2, 40)) + number


def test_a_shipped_table_costs_no_byte(monkeypatch: pytest.MonkeyPatch, table: Path) -> None:
    loaded = Dictionary.load(table)
    monkeypatch.setitem(_registry.SHIPPED, 0, _registry.Shipped("test-1", loaded.number.hex()))
    monkeypatch.setitem(_registry._dictionaries, 0, loaded)
    message = b"Could you tell me how to sort a list of"
    encoded = HuffmanCodec.encode(message)
    assert encoded[0] == 0x82
    bits, _ = _backend.kernel.encode_phrases(loaded, message)
    assert encoded == checked(bytes((0x82, len(message))) + bits, loaded.number)
    assert len(encoded) == len(bits) + 4
    assert HuffmanCodec.decode(encoded) == message
    # The same table, named by its file, is the same table.
    assert HuffmanCodec.encode(message, dictionary=table) == encoded


@pytest.mark.parametrize("missing", [False, True], ids=["with _blake2", "without _blake2"])
def test_a_tables_number_does_not_depend_on_the_build_of_python(
    missing: bool, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing:
        monkeypatch.setitem(sys.modules, "_blake2", None)
    loaded = Dictionary.parse(table.read_bytes())
    assert loaded.number == blake2b(loaded.raw, digest_size=16).digest()[:4]


def test_the_first_message_does_not_load_openssl() -> None:
    pytest.importorskip("_blake2", reason="this build of Python has blake2b elsewhere")
    program = (
        "import sys; from lix_cache.huffman_codec import HuffmanCodec; "
        "HuffmanCodec.encode(b'a message'); print('_hashlib' in sys.modules)"
    )
    # Measuring coverage in the child would load it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout.strip() == "False"


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("named", [False, True], ids=["without a table", "with a table"])
def test_what_was_encoded_comes_back(name: str, named: bool, table: Path) -> None:
    data = CASES[name]
    path = table if named else None
    for format_ in (1, 2):
        if format_ == 1 and named:
            continue
        encoded = HuffmanCodec.encode(data, format=format_, dictionary=path)
        assert HuffmanCodec.decode(encoded, dictionary=path) == data
        if format_ == 2:
            over = 5 if len(data) <= 1024 else 8
            assert len(encoded) <= len(data) + over
            assert encoded[0] & 0xC0 == 0x80


@pytest.mark.parametrize("name", CASES)
def test_both_kernels_write_the_same(name: str, table: Path) -> None:
    native = native_or_skip()
    pure = _backend.PURE
    data = CASES[name]
    loaded = Dictionary.load(table)
    assert native.encode_v1(data) == pure.encode_v1(data)
    assert native.encode_phrases(loaded, data) == pure.encode_phrases(loaded, data)
    coded = pure.encode_bytecode(data, 1 << 40)
    assert native.encode_bytecode(data, 1 << 40) == coded
    if coded is not None:
        for limit in (len(coded) - 1, len(coded), len(coded) + 1):
            assert native.encode_bytecode(data, limit) == pure.encode_bytecode(data, limit)


@pytest.mark.parametrize("name", CASES)
def test_the_smallest_mode_is_chosen(name: str, table: Path, kernel: Kernel) -> None:  # noqa: F811
    data = CASES[name]
    loaded = Dictionary.load(table)
    bits, _ = kernel.encode_phrases(loaded, data)
    coded = kernel.encode_bytecode(data, 1 << 40)
    smallest = min(len(data), 4 + len(bits), len(data) if coded is None else len(coded))
    head = 1 + len(write_varint(len(data))) + (2 if len(data) <= 1024 else 4)
    assert len(HuffmanCodec.encode(data, dictionary=table)) == head + smallest


def test_code_lengths_stay_within_12_bits() -> None:
    counts = dict(enumerate(_COUNTS))
    limited = limited_lengths(counts, 12)
    assert max(length for _, length in limited) == 12
    assert sum(1 << (12 - length) for _, length in limited) == 1 << 12
    # Without a limit that matters, the cost is Huffman's.
    free = sum(counts[symbol] * length for symbol, length in code_lengths(DEEP))
    assert sum(counts[symbol] * length for symbol, length in limited_lengths(counts, 30)) == free
    assert free < sum(counts[symbol] * length for symbol, length in limited) < free * 1.01


def test_the_parse_is_the_cheapest(table: Path) -> None:
    # All parses of a short text, tried.
    loaded = Dictionary.load(table)
    cost = dict(zip(loaded.phrases, loaded.lengths, strict=True))
    data = b"the lazy dog, and then it"
    best = [0] * (len(data) + 1)
    for at in range(len(data) - 1, -1, -1):
        ends = range(at + 1, len(data) + 1)
        best[at] = min(best[end] + cost[data[at:end]] for end in ends if data[at:end] in cost)
    assert _backend.kernel.encode_phrases(loaded, data)[1] == best[0]


@pytest.mark.parametrize("longest", [9, 12, 24])
def test_tables_of_any_depth_are_used(longest: int) -> None:
    weights = {bytes((65 + i % 26, 66 + i // 26)): 1 << min(i, 60) for i in range(200)}
    phrases, lengths = table_of(weights, longest)
    loaded = Dictionary.parse(lixt("deep", pack(phrases, lengths), len(phrases)))
    assert max(lengths) == longest
    data = b"".join(phrases) * 3 + b"".join(reversed(phrases))
    bits, _ = _backend.kernel.encode_phrases(loaded, data)
    assert _backend.kernel.decode_phrases(loaded, bits, len(data)) == data
    assert _backend.PURE.encode_phrases(loaded, data)[0] == bits


def test_text_goes_and_comes_as_utf_8() -> None:
    assert decode_bytes(encode_str("Grüße, 世界")) == "Grüße, 世界"
    with pytest.raises(CodecError, match="not UTF-8"):
        decode_bytes(HuffmanCodec.encode(b"\xff\xfe"))


@pytest.mark.parametrize("kind", [bytearray, memoryview])
@pytest.mark.promise("bad-bytes")
def test_any_bytes_like_object_will_do(kind: type) -> None:
    assert HuffmanCodec.encode(kind(TEXT)) == HuffmanCodec.encode(TEXT)
    assert HuffmanCodec.decode(kind(HuffmanCodec.encode(TEXT))) == TEXT


@pytest.mark.promise("bad-bytes")
def test_a_format_that_does_not_exist_is_refused(table: Path) -> None:
    with pytest.raises(ValueError, match="level must be 1 or 2, got 3"):
        HuffmanCodec.encode(b"", level=3)
    with pytest.raises(ValueError, match="format must be 1 or 2, got 3"):
        HuffmanCodec.encode(b"", format=3)
    with pytest.raises(ValueError, match="no dictionaries"):
        HuffmanCodec.encode(b"", format=1, dictionary=table)


# ---------------------------------------------------------------- damage

#: A payload for each way a byte code can be wrong, the raw length, and what is said.
BAD_BYTECODE = {
    "no table": (b"", 0, "the code length table is cut short"),
    "a cut table": (b"\xe4\xf1", 3, "the code length table is cut short"),
    "a run cut": (b"\xe4", 3, "the code length table is cut short"),
    "a run of nothing": (b"\xf0\x00", 3, "the code length table does not fit"),
    "past symbol 255": (b"\xee\xe1\xee\xe1", 3, "the code length table does not fit"),
    "over-full": (b"\x12\x10\x00", 3, "the code lengths do not make a complete code"),
    "table padding": (b"\x12\x2f\x00", 3, "the code length table's padding is not zero"),
    "more than bits": (b"\x11\x00", 17, "the declared length is more than its bits can hold"),
    "bits end": (b"\x11\x00", 9, "part 1 of 1 is not code words of 9 bytes"),
    "a byte more": (b"\x11\x00\x00", 8, "part 1 of 1 is not code words of 8 bytes"),
    "padding": (b"\x11\x01", 7, "part 1 of 1 is not code words of 7 bytes"),
    "cut sizes": (b"\x11" + b"\x80" * 600, 4100, "a number of more than 9 bytes"),
    "long number": (b"\x11\x80\x00" + bytes(600), 4100, "a number is longer than it needs to be"),
    "sizes": (b"\x11\xff\x7f\x01\x01" + bytes(600), 4100, "its parts are longer than the stream"),
    "part 2": (
        b"\x11\x81\x01\x80\x01\x81\x01" + bytes(514),
        4100,
        "part 2 of 4 is not code words",
    ),
    "part 4": (
        b"\x11\x81\x01\x81\x01\x81\x01" + bytes(515),
        4100,
        "part 4 of 4 is not code words",
    ),
}


@pytest.mark.parametrize("name", BAD_BYTECODE)
@pytest.mark.promise("bad-bytes")
def test_a_wrong_byte_code_is_refused_with_its_reason(name: str) -> None:
    payload, size, reason = BAD_BYTECODE[name]
    stream = checked(b"\x81" + write_varint(size) + payload, short=size <= 1024)
    with pytest.raises(CodecError) as refused:
        HuffmanCodec.decode(stream)
    assert str(refused.value).startswith("not a valid HCv2 stream: ")
    assert reason in str(refused.value)


@pytest.mark.promise("bad-bytes")
def test_wrong_phrases_are_refused_with_their_reason(kernel: Kernel) -> None:  # noqa: F811
    # No code word is shorter than a byte, so none hides in the padding.
    phrases = sorted([*_SINGLES, b"the "])
    lengths = bytes(9 if phrase in (b"\xff", b"the ") else 8 for phrase in phrases)
    loaded = Dictionary.parse(lixt("by-hand", pack(phrases, lengths), 257))
    message = b"the a the the "
    bits, count = kernel.encode_phrases(loaded, message)
    assert count == 9 + 8 + 8 + 9 + 9
    assert kernel.decode_phrases(loaded, bits, len(message)) == message
    for payload, size, reason in (
        (bits, len(message) + 1, "its phrases end after 14 of 15 bytes"),
        (bits, len(message) - 1, "a phrase reaches past the declared length"),
        (bits + b"\0", len(message), "bits are left over after its phrases"),
        (bits[:-1] + bytes((bits[-1] | 1,)), len(message), "bits are left over after its phrases"),
        (b"", 1, "the declared length is more than its bits can hold"),
        (bits, 1 << 62, "the declared length is more than its bits can hold"),
        (bits[:-1], len(message), "its phrases end after 10 of 14 bytes"),
    ):
        with pytest.raises(CodecError, match=reason):
            kernel.decode_phrases(loaded, payload, size)


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"\x80", "a number is cut short"),
        (b"\x80\x80", "a number is cut short"),
        (b"\x80\x00", "2 bytes are too few"),
        (b"\x80\x00\x00", "3 bytes are too few"),
        (checked(b"\x80\x80\x00"), "a number is longer than it needs to be"),
        (b"\x80" + b"\x80" * 9 + b"\x01\0\0", "a number of more than 9 bytes"),
        (b"\x85\x00\0\0", "it starts with b'\\x85'"),
        (b"\x84\x00\0\0", "it starts with b'\\x84'"),
        (b"\xc0\x00\0\0", "it starts with b'\\xc0'"),
        (checked(b"\x80\x02a"), "1 of 2 bytes are there"),
        (checked(b"\x80\x01ab"), "2 of 1 bytes are there"),
        (checked(b"\x80\x01a", b"\0"), "its check does not agree"),
        (checked(b"\xbe\x01abc"), "7 bytes are too few"),
    ],
)
@pytest.mark.promise("bad-bytes")
def test_a_wrong_container_is_refused_with_its_reason(stream: bytes, reason: str) -> None:
    with pytest.raises(CodecError) as refused:
        HuffmanCodec.decode(stream)
    assert reason in str(refused.value)


SAMPLES = {
    "stored": (bytes(range(40)), False),
    "bytes": (b"abaca" * 30, False),
    "four streams": (b"abacabad" * 520, False),
    "phrases": (b"The quick brown fox jumps over the lazy dog", True),
    "long phrases": (TEXT * 3, True),
}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.promise("bad-bytes")
def test_every_truncation_and_every_changed_byte_is_refused(name: str, table: Path) -> None:
    data, named = SAMPLES[name]
    path = table if named else None
    whole = HuffmanCodec.encode(data, dictionary=path)
    for size in range(1, len(whole)):
        with pytest.raises(CodecError):
            HuffmanCodec.decode(whole[:size], dictionary=path)
    for extra in (b"\0", b"\xff", whole):
        with pytest.raises(CodecError):
            HuffmanCodec.decode(whole + extra, dictionary=path)
    damaged = bytearray(whole)
    for at in range(len(whole)):
        # All values for small streams, all single bits and some more for the others.
        masks = range(1, 256) if len(whole) < 100 else (1, 2, 4, 8, 16, 32, 64, 128, 255, 0x5A)
        for mask in masks:
            damaged[at] ^= mask
            with pytest.raises(CodecError):
                HuffmanCodec.decode(bytes(damaged), dictionary=path)
            damaged[at] ^= mask


@pytest.mark.parametrize("name", ["bytes", "four streams", "phrases", "long phrases"])
@pytest.mark.promise("bad-bytes")
def test_what_the_check_cannot_see_ends_in_content_or_the_same_error(name: str, table: Path) -> None:
    # Below the container, where nothing has been checked: both kernels agree on every damage.
    native = native_or_skip()
    pure = _backend.PURE
    data, named = SAMPLES[name]
    loaded = Dictionary.load(table)

    def outcome(kernel: Kernel, payload: bytes, size: int) -> bytes | str:  # noqa: F811
        try:
            if named:
                return kernel.decode_phrases(loaded, payload, size)
            return kernel.decode_bytecode(payload, size)
        except CodecError as error:
            return str(error)

    whole = pure.encode_phrases(loaded, data)[0] if named else pure.encode_bytecode(data, 1 << 40)
    assert whole is not None
    sizes = {0, 1, len(data) - 1, len(data), len(data) + 1, 8 * len(data), 4095, 4096, 1 << 40, (1 << 63) - 1}
    for size in sizes:
        assert outcome(native, whole, size) == outcome(pure, whole, size)
    step = max(1, len(whole) // 150)
    for at in range(0, len(whole), step):
        assert outcome(native, whole[:at], len(data)) == outcome(pure, whole[:at], len(data))
        for mask in (1, 16, 128, 255):
            damaged = whole[:at] + bytes((whole[at] ^ mask,)) + whole[at + 1 :]
            assert outcome(native, damaged, len(data)) == outcome(pure, damaged, len(data))


@pytest.mark.promise("bad-bytes")
def test_both_kernels_refuse_a_damaged_hcv1_stream_in_the_same_words() -> None:
    native = native_or_skip()
    pure = _backend.PURE

    def outcome(kernel: Kernel, stream: bytes) -> bytes | str:  # noqa: F811
        try:
            return kernel.decode_v1(stream)
        except CodecError as error:
            return str(error)

    for data in (TEXT, DEEP[:3000], b"aaaa", b"ab" * 3000):
        whole = pure.encode_v1(data)
        for at in range(0, len(whole), max(1, len(whole) // 100)):
            assert outcome(native, whole[:at]) == outcome(pure, whole[:at])
            for mask in (1, 32, 255):
                damaged = whole[:at] + bytes((whole[at] ^ mask,)) + whole[at + 1 :]
                assert outcome(native, damaged) == outcome(pure, damaged)
        _, _, problem = decode_prefix_v1(whole)
        assert problem == ""


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("size", [1 << 20, 1 << 32, (1 << 63) - 1])
@pytest.mark.parametrize("mode", ["stored", "bytes", "phrases"])
def test_a_declared_length_is_not_believed_before_memory_is_taken(mode: str, size: int, table: Path) -> None:
    loaded = Dictionary.load(table)
    _backend.kernel.encode_phrases(loaded, b"")  # what is built once does not count
    with pytest.raises(CodecError):
        _backend.kernel.decode_phrases(loaded, b"", 1)
    body = {
        "stored": b"\x80" + write_varint(size) + bytes(1000),
        "bytes": b"\x81" + write_varint(size) + b"\x11" + bytes(1000),
        "phrases": bytes((0x82 | 15 << 2,)) + write_varint(size) + loaded.number + bytes(1000),
    }[mode]
    stream = checked(body, loaded.number if mode == "phrases" else b"", short=False)
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            HuffmanCodec.decode(stream, dictionary=table)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


# ---------------------------------------------------------------- tables


def test_a_table_is_read_once_and_says_what_it_is(table: Path) -> None:
    loaded = Dictionary.load(table)
    assert Dictionary.load(str(table)) is loaded
    assert loaded.id == "test-1"
    assert loaded.number == blake2b(loaded.raw, digest_size=16).digest()[:4]
    assert len(loaded.phrases) == len(loaded.lengths) == loaded.count
    assert repr(loaded) == f"<Dictionary 'test-1' number {loaded.number.hex()}, {loaded.count} phrases>"
    assert pack(loaded.phrases, loaded.lengths) == loaded.raw


def test_a_missing_table_is_named(table: Path, tmp_path: Path) -> None:
    encoded = HuffmanCodec.encode(TEXT, dictionary=table)
    number = Dictionary.load(table).number
    assert _v2.dictionary_number(encoded) == number
    assert _v2.dictionary_number(HuffmanCodec.encode(b"")) is None
    with pytest.raises(CodecError, match=f"dictionary number {number.hex()}, which is not here"):
        HuffmanCodec.decode(encoded)
    other = tmp_path / "other.lixt"
    other.write_bytes(small_table("other", TEXT.decode() * 2, 50))
    with pytest.raises(CodecError, match=f"{number.hex()}, which is not here.*the one given is 'other'"):
        HuffmanCodec.decode(encoded, dictionary=other)
    with pytest.raises(CodecError, match="dictionary 7 of a later version"):
        HuffmanCodec.decode(checked(bytes((0x82 | 7 << 2, 1)) + b"a"))
    with pytest.raises(FileNotFoundError):
        HuffmanCodec.encode(b"", dictionary=tmp_path / "none.lixt")


def test_every_shipped_table_is_the_one_that_was_released() -> None:
    for index in _registry.SHIPPED:
        loaded = _registry.shipped_dictionary(index)
        assert _registry.index_of(loaded) == index
        assert index < 15


@pytest.mark.promise("bad-bytes")
def test_a_shipped_dictionary_that_is_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_registry.SHIPPED, 3, _registry.Shipped("none", "00000000"))
    with pytest.raises(CodecError, match="dictionary 'none' of this package cannot be read"):
        HuffmanCodec.decode(checked(bytes((0x82 | 3 << 2, 1)) + b"a"))


GOOD = small_table()


def resealed(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not a dictionary"),
        (b"LXPX" + GOOD[4:], "is not a dictionary"),
        (GOOD[:10], "is cut short"),
        (b"LXPT\x01\xff" + bytes(100), "is cut short"),
        (resealed(b"LXPT\x02" + GOOD[5:]), "version 2, which is not known here"),
        (GOOD[:-1], "its check does not agree"),
        (GOOD[:60] + b"\0" + GOOD[61:], "its check does not agree"),
        (lixt("few", b"", 255), "says that it has 255 phrases"),
        (lixt("many", b"", 65537), "says that it has 65537 phrases"),
        (resealed(GOOD[:30] + b"\xff" + GOOD[31:]), "is damaged"),
        (resealed(GOOD[:16] + b"\xff\xff\0\0" + GOOD[20:]), "does not unpack to the 65535 bytes"),
        (resealed(GOOD[:6] + b"\xff" + GOOD[7:]), "is damaged"),
        (resealed(GOOD[:-4] + b"more" + bytes(4)), "does not unpack"),
    ],
)
@pytest.mark.promise("bad-bytes")
def test_a_file_that_is_no_table_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        Dictionary.parse(data, "this file")


@pytest.mark.parametrize(
    ("raw", "count", "reason"),
    [
        (pack(_SINGLES, bytes([8] * 255)), 256, "the phrases do not fit"),
        (pack(_SINGLES, bytes([8] * 255 + [9])), 256, "do not make a complete code"),
        (pack(_SINGLES, bytes([8] * 255 + [0])), 256, "do not make a complete code"),
        (pack(_SINGLES, bytes([8] * 255 + [25])), 256, "do not make a complete code"),
        (pack(_SINGLES, bytes([7] * 256)), 256, "do not make a complete code"),
        (pack([*_SINGLES[:-1], b"\xfe\xff"], bytes([8] * 256)), 256, "a single byte is not a phrase"),
        (pack([b"\1", b"\0", *_SINGLES[2:]], bytes([8] * 256)), 256, "not in ascending order"),
        (pack([b"\0", b"\0", *_SINGLES[2:]], bytes([8] * 256)), 256, "not in ascending order"),
        (pack([b"", *_SINGLES[1:]], bytes([8] * 256)), 256, "a phrase has 0 or more than 64 bytes"),
        (pack([*_SINGLES, b"\xff" * 65], bytes([8] * 255 + [9] * 2)), 257, "a phrase has 0 or more than 64"),
        (pack(_SINGLES, bytes([8] * 256))[1:] + b"\x08", 256, "the phrases do not fit"),
        (b"\x01\x01\x00" + pack(_SINGLES, bytes([8] * 256))[3:], 256, "the phrases do not fit"),
        (pack([*_SINGLES[:255], b"\xff" * 3], bytes([8] * 256))[:-258] + bytes([8] * 256), 256, "do not fit"),
    ],
)
@pytest.mark.promise("bad-bytes")
def test_a_dictionary_that_means_nothing_is_refused_by_both(
    raw: bytes,
    count: int,
    reason: str,
    kernel: Kernel,  # noqa: F811
) -> None:
    loaded = Dictionary.parse(lixt("wrong", raw, count))
    with pytest.raises(CodecError, match=reason):
        kernel.encode_phrases(loaded, b"a")
    with pytest.raises(CodecError, match=reason):
        kernel.decode_phrases(loaded, b"a", 1)


def test_a_table_may_share_less_than_it_could(kernel: Kernel) -> None:  # noqa: F811
    phrases = sorted([*_SINGLES, b"tha", b"the", b"them"])
    lengths = bytes([8] * 253 + [9] * 6)
    lazily = b"".join(bytes((0, len(phrase))) + phrase for phrase in phrases) + lengths
    loaded = Dictionary.parse(lixt("lazy", lazily, len(phrases)))
    assert loaded.phrases == phrases
    data = b"the them tha th t thema"
    bits, _ = kernel.encode_phrases(loaded, data)
    assert bits == _backend.PURE.encode_phrases(loaded, data)[0]
    assert kernel.decode_phrases(loaded, bits, len(data)) == data


# ---------------------------------------------------------------- threads


def test_threads_share_a_table(table: Path) -> None:
    # Large enough for C to let the others run meanwhile.
    data = [(TEXT * 100)[start : start + 40_000] for start in range(8)]
    loaded = Dictionary.parse(table.read_bytes())  # built by the first caller

    def there_and_back(one: bytes) -> bool:
        bits, _ = _backend.kernel.encode_phrases(loaded, one)
        coded = _backend.kernel.encode_bytecode(one, 1 << 40)
        assert coded is not None
        return (
            _backend.kernel.decode_phrases(loaded, bits, len(one)) == one
            and _backend.kernel.decode_bytecode(coded, len(one)) == one
            and _backend.kernel.decode_v1(_backend.kernel.encode_v1(one)) == one
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(there_and_back, data))


# ---------------------------------------------------------------- the choice of a kernel


@pytest.mark.parametrize(("value", "expected"), [("1", "python"), ("0", None), ("", None)])
def test_the_environment_can_force_python(value: str, expected: str | None) -> None:
    native = _backend.native_kernel()
    expected = expected or ("c" if native else "python")
    program = "from lix_cache.huffman_codec import _backend; print(_backend.kernel.name)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LIX_CACHE_PURE": value},
    )
    assert done.stdout.strip() == expected


@pytest.mark.parametrize("value", [0, 1, 127, 128, 16383, 16384, (1 << 63) - 1])
def test_numbers_come_back(value: int) -> None:
    encoded = write_varint(value)
    assert read_varint(b"x" + encoded + b"y", 1) == (value, 1 + len(encoded))
    assert len(encoded) == max(1, -(-value.bit_length() // 7))
