"""Dictionaries for tests: written from docs/huffman-format.md, not with the code under test."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from lix_cache.huffman_codec._table import limited_lengths

__all__ = ["SAMPLE", "lixt", "pack", "small_table", "write_small_table"]

#: Text of the kind that a chat holds, in several scripts.
SAMPLE = (
    "The quick brown fox jumps over the lazy dog, and then it thinks about the weather in Tokyo. "
    "Could you tell me how to sort a list of numbers in Python? Sure! You can use the sorted() function: "
    '{"role": "user", "content": "What is the capital of France?", "metadata": {"source": "test"}} '
    "Grüße aus Köln, und vielen Dank für die schnelle Antwort. "
    "你好，请问今天的天气怎么样？ こんにちは、元気ですか。 "
    "```python\nfor index in range(10):\n    print(index)\n```\n## Heading\n- one\n- two\n"
)


def pack(phrases: list[bytes], lengths: bytes) -> bytes:
    """Pack phrases and code lengths, right or wrong, as the format does."""
    out = bytearray()
    before = b""
    for phrase in phrases:
        shared = 0
        while phrase[shared : shared + 1] == before[shared : shared + 1] != b"":
            shared += 1
        out += bytes((shared, len(phrase) - shared)) + phrase[shared:]
        before = phrase
    return bytes(out) + lengths


def lixt(identity: str, raw: bytes, count: int) -> bytes:
    """Return the file of packed phrases."""
    head = (
        b"LXPT\x01" + bytes((len(identity),)) + identity.encode("ascii") + struct.pack("<II", count, len(raw))
    )
    body = head + zlib.compress(raw, 9)
    return body + struct.pack("<I", zlib.crc32(body))


def table_of(weights: Mapping[bytes, int], longest: int = 24) -> tuple[list[bytes], bytes]:
    """Return the phrases, single bytes included, and optimal code lengths for the weights."""
    every = {bytes((byte,)): 1 for byte in range(256)}
    every.update(weights)
    phrases = sorted(every)
    lengths = dict(limited_lengths({index: every[phrase] for index, phrase in enumerate(phrases)}, longest))
    return phrases, bytes(lengths[index] for index in range(len(phrases)))


def small_table(identity: str = "test-1", text: str = SAMPLE, phrases: int = 600, longest: int = 24) -> bytes:
    """Return a table of the substrings of a text that save most, as a file."""
    data = text.encode("utf-8")
    counts: Counter[bytes] = Counter()
    for size in range(1, 13):
        counts.update(data[at : at + size] for at in range(len(data) - size + 1))
    worth = sorted(counts, key=lambda phrase: (-(len(phrase) - 0.5) * counts[phrase], phrase))
    chosen = {phrase: counts[phrase] * len(phrase) for phrase in worth[:phrases]}
    # Long ones, and a deep code: what real tables have few of.
    chosen[b" " * 64] = 2
    chosen[b"=" * 40] = 2
    ordered, lengths = table_of(chosen, longest)
    return lixt(identity, pack(ordered, lengths), len(ordered))


def write_small_table(folder: Path, identity: str = "test-1") -> Path:
    """Write the small table to a folder, and say where."""
    path = folder / f"{identity}.lixt"
    path.write_bytes(small_table(identity))
    return path
