"""HCv1 for any bytes: what goes in comes out, in as few bits as any code of whole bits can."""

from __future__ import annotations

import heapq
import os
import struct
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lix_cache import CodecError, HuffmanCodec
from lix_cache.huffman_codec import decode_bytes, encode_str
from lix_cache.huffman_codec._native import decode_prefix_v1
from lix_cache.huffman_codec._table import canonical_codes, code_lengths

pytestmark = pytest.mark.promise("bad-bytes")

EXAMPLES = int(os.environ.get("LIX_CACHE_FUZZ_EXAMPLES", "150"))
several = settings(max_examples=EXAMPLES, deadline=None)

#: Bytes as they come: text, few symbols, one symbol, all symbols.
data = st.one_of(
    st.binary(max_size=2000),
    st.text(max_size=800).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(st.sampled_from(b"ab\0"), max_size=500).map(bytes),
    st.tuples(st.binary(min_size=1, max_size=1), st.integers(1, 500)).map(lambda pair: pair[0] * pair[1]),
    st.lists(st.integers(1, 60), min_size=2, max_size=30).map(
        lambda counts: b"".join(bytes([symbol]) * count for symbol, count in enumerate(counts))
    ),
)


def optimal_bits(text: bytes) -> int:
    """The sum of the merged weights: what no code of whole bits can be below."""
    heap = list(Counter(text).values())
    if len(heap) == 1:
        return len(text)
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


@several
@given(data)
def test_what_was_encoded_comes_back(text: bytes) -> None:
    assert HuffmanCodec.decode(HuffmanCodec.encode(text, format=1)) == text


@several
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_comes_back(text: str) -> None:
    assert decode_bytes(encode_str(text)) == text


@several
@given(data)
def test_no_code_of_whole_bits_is_shorter(text: bytes) -> None:
    encoded = HuffmanCodec.encode(text, format=1)
    if not text:
        assert encoded == b"HCv1" + bytes(6)
        return
    symbols = len(set(text))
    assert len(encoded) == 10 + 2 * symbols + 4 + (optimal_bits(text) + 7) // 8


@several
@given(data.filter(bool))
def test_the_code_is_canonical_and_complete(text: bytes) -> None:
    lengths = code_lengths(text)
    assert [length for _, length in lengths] == sorted(length for _, length in lengths)
    assert lengths == sorted(lengths, key=lambda pair: (pair[1], pair[0]))
    assert {symbol for symbol, _ in lengths} == set(text)
    if len(lengths) > 1:
        assert sum(2.0**-length for _, length in lengths) == 1
    words = [
        format(code, f"0{length}b")
        for code, (_, length) in zip(canonical_codes(lengths), lengths, strict=True)
    ]
    # Sorted, a prefix would stand right before what it is a prefix of.
    assert words == sorted(words)
    assert not any(after.startswith(before) for before, after in pairwise(words))


@several
@given(data.filter(bool), st.data())
def test_a_cut_stream_gives_back_a_prefix(text: bytes, draw: st.DataObject) -> None:
    encoded = HuffmanCodec.encode(text, format=1)
    size = draw.draw(st.integers(0, len(encoded) - 1))
    decoded, wanted, problem = decode_prefix_v1(encoded[:size])
    assert text.startswith(decoded)
    assert problem or len(decoded) < wanted or size == 0


@several
@given(data.filter(bool), st.data())
def test_a_changed_stream_is_refused_or_is_the_stream_of_something_else(
    text: bytes, draw: st.DataObject
) -> None:
    encoded = bytearray(HuffmanCodec.encode(text, format=1))
    position = draw.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= draw.draw(st.integers(1, 255))
    try:
        decoded = HuffmanCodec.decode(bytes(encoded))
    except CodecError:
        return
    # No checksum here, so another text may come out; but as long as the header says, and in
    # a stream that this text has under that table: nothing is ignored.
    assert len(decoded) == struct.unpack_from("<I", encoded, 4)[0]
    assert decoded != text


@several
@given(st.binary(max_size=300))
def test_any_bytes_are_a_result_or_a_codec_error(noise: bytes) -> None:
    for stream in (noise, b"HCv1" + noise, b"HCv1\x05\0\0\0\x02\0" + noise):
        try:
            decoded = HuffmanCodec.decode(stream)
        except CodecError:
            continue
        assert len(decoded) <= 8 * len(stream)
