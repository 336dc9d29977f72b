"""The dictionary's training: a valid file, the same one every time, and a use."""

from __future__ import annotations

import json
import random
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import pytest

from lix_cache.errors import ConfigError
from lix_cache.huffman_codec import HuffmanCodec, training
from lix_cache.huffman_codec._dictionary import Dictionary
from lix_cache.huffman_codec._train_lengths import limited_lengths
from lix_cache.huffman_codec.training import TrainingOptions, pack_dictionary, train_dictionary

DEMO = Path(__file__).resolve().parents[2] / "lix_cache" / "cli" / "data" / "demo.jsonl"
SIZE = 2000


@pytest.fixture(scope="module")
def texts() -> list[bytes]:
    found = []
    for line in DEMO.read_text(encoding="utf-8").splitlines():
        found += [turn["content"].encode() for turn in json.loads(line)["messages"] if turn["content"]]
    return found


@pytest.fixture(scope="module")
def table(texts: list[bytes]) -> bytes:
    return train_dictionary(texts[::2], id="demo", size=SIZE)


def test_same_input_same_bytes(texts: list[bytes], table: bytes) -> None:
    assert train_dictionary(texts[::2], id="demo", size=SIZE) == table


def test_it_loads_with_every_byte_and_a_complete_code(table: bytes) -> None:
    loaded = Dictionary.parse(table)
    assert loaded.id == "demo"
    assert len(loaded.phrases) == SIZE
    assert loaded.phrases == sorted(set(loaded.phrases))
    assert set(map(len, loaded.phrases)) <= set(range(1, 65))
    assert {phrase for phrase in loaded.phrases if len(phrase) == 1} == {bytes([v]) for v in range(256)}
    assert all(1 <= length <= 24 for length in loaded.lengths)
    assert sum(Fraction(1, 1 << length) for length in loaded.lengths) == 1


def test_smaller_than_hcv1_and_zlib_on_its_kind_of_text(
    texts: list[bytes], table: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "demo.lixt"
    path.write_bytes(table)
    unseen = [text for text in texts[1::2] if text not in set(texts[::2])]
    coded = [HuffmanCodec.encode(text, dictionary=path) for text in unseen]
    assert [HuffmanCodec.decode(one, dictionary=path) for one in coded] == unseen
    size = sum(map(len, coded))
    assert size < 0.75 * sum(len(HuffmanCodec.encode(text, format=1)) for text in unseen)
    assert size < 0.9 * sum(len(zlib.compress(text, 6)) for text in unseen)


def test_sets_are_balanced_and_words_need_no_text() -> None:
    small = [b"the colour of the sea %d" % number for number in range(40)]
    large = [b"der Hund und die Katze %d" % number for number in range(4000)]
    reports: list[tuple[str, float]] = []
    built = train_dictionary(
        {"small": small, "large": large, "none": []},
        id="two",
        size=420,
        vocabulary=[b" quixotic", b"x", b""],
        options=TrainingOptions(candidates=20),
        progress=lambda what, share: reports.append((what, share)),
    )
    phrases = Dictionary.parse(built).phrases
    assert any(b"colour" in phrase for phrase in phrases)
    assert any(b"Katze" in phrase for phrase in phrases)
    assert b" quixotic" in phrases
    assert [what for what, share in reports if share == 1.0][-1] == "fitting the code"
    assert all(0 < share <= 1 for _, share in reports)


@pytest.mark.parametrize("texts", [[], [b""], [b"a"], [b"\x80\xff\x00"], [bytes(range(256)) * 30]])
def test_any_bytes_or_none(texts: list[bytes]) -> None:
    loaded = Dictionary.parse(train_dictionary(texts, id="any", size=300))
    assert {bytes([value]) for value in range(256)} <= set(loaded.phrases)


def test_bytes_that_are_no_text() -> None:
    source = random.Random(3)
    texts = [source.randbytes(900) + b"\xe4\xb8\xad" * 90 for _ in range(20)]
    loaded = Dictionary.parse(train_dictionary(texts, id="noise", size=600))
    assert "中".encode() in loaded.phrases


@pytest.mark.parametrize("size", [0, 255, 65_537])
def test_size_that_cannot_be(size: int) -> None:
    with pytest.raises(ConfigError, match=str(size)):
        train_dictionary([b"text"], id="x", size=size)


@pytest.mark.parametrize("name", ["", "a" * 256, "naïve", "a\nb"])
def test_id_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigError, match="id"):
        train_dictionary([b"text"], id=name, size=256)


def test_packed_file_is_what_the_format_says() -> None:
    data = pack_dictionary([b"ab", b"a", b"abc"], [2, 1, 2], id="lix-0")
    assert data[:11] == b"LXPT\x01\x05lix-0"
    count, size = struct.unpack_from("<II", data, 11)
    assert zlib.decompress(data[19:-4]) == b"\x00\x01a\x01\x01b\x02\x01c\x01\x02\x02"
    assert (count, size) == (3, 12)
    assert struct.unpack("<I", data[-4:])[0] == zlib.crc32(data[:-4])


def test_limited_lengths() -> None:
    assert limited_lengths([7], 24).tolist() == [1]
    assert limited_lengths([1, 1, 2, 4], 24).tolist() == [3, 3, 2, 1]
    assert limited_lengths([1, 1, 2, 4], 2).tolist() == [2, 2, 2, 2]
    # Fibonacci weights would make a code of 29 bits.
    weights = [1, 1]
    while len(weights) < 30:
        weights.append(weights[-1] + weights[-2])
    lengths = limited_lengths(weights, 24).tolist()
    assert max(lengths) == 24
    assert sum(Fraction(1, 1 << length) for length in lengths) == 1
    with pytest.raises(ValueError, match="do not fit"):
        limited_lengths([1] * 5, 2)


def test_more_text_than_there_is_memory_for_is_sampled() -> None:
    options = TrainingOptions(most_bytes=4000)
    many = [b"message number %d" % number for number in range(2000)]
    share = 4000 / sum(map(len, many))
    few = [text for n, text in enumerate(many) if int((n + 1) * share) > int(n * share)]
    assert 3000 < sum(map(len, few)) < 5000
    assert train_dictionary(many, id="x", size=300, options=options) == train_dictionary(
        few, id="x", size=300
    )


def test_the_shipped_table() -> None:
    path = Path(training.__file__).parent / "tables" / "lix-1.lixt"
    assert path.stat().st_size <= 400_000
    loaded = Dictionary.load(path)
    assert loaded.id == "lix-1"
    assert len(loaded.phrases) == 65_536
    greeting = b"Hello! How can I help you today?"
    assert len(HuffmanCodec.encode(greeting, dictionary=path)) < len(greeting) // 2
