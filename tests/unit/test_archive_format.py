"""The archive's bytes are those of docs/archive-format.md, and nothing else is accepted.

What is read here was put together from the page alone, without the encoder; what the encoder
writes is taken apart by a second reader, written from the page as well.
"""

from __future__ import annotations

import base64
import json
import math
import os
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lix_cache import (
    ArchiveCorrupt,
    AsyncConversationArchive,
    AsyncHybridConversationCache,
    CacheConfig,
    CacheCoordinator,
    CodecError,
    ConfigError,
    ConversationArchive,
    HuffmanCodec,
    HybridConversationCache,
    MissingExtra,
)
from lix_cache.archive import codecs, decoding, encoding, legacy
from lix_cache.archive import header as header_flow
from lix_cache.archive import index as index_flow
from lix_cache.archive.codecs import codec_by_id, packer
from lix_cache.archive.identity import local_id
from lix_cache.archive.reading import parse_contents
from lix_cache.archive.verify import verify_bytes, verify_file
from lix_cache.huffman_codec import _backend
from lix_cache.huffman_codec._backend import Kernel
from lix_cache.messages.message import Message
from lix_cache.messages.turn import LARGEST_MS, ZERO_ID, MessageId, Turn, from_turn, to_turn
from lix_cache.storage.varints import Reader, put_varint
from lix_cache.vectors import Vector
from tests.support.kernels import kernel, native_or_skip  # noqa: F401 - a fixture

pytestmark = pytest.mark.promise("bad-bytes")

# -- a file written by hand --------------------------------------------------------------


def varint(value: int) -> bytes:
    """Unsigned LEB128, as every textbook has it."""
    out = []
    while True:
        value, low = divmod(value, 128)
        out.append(low + (128 if value else 0))
        if not value:
            return bytes(out)


def varints(*values: int) -> bytes:
    return b"".join(varint(value) for value in values)


def crc(data: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(data))


def header(session_id: bytes, created: float, *, minor: int = 0, flags: int = 0, more: bytes = b"") -> bytes:
    fields = varint(len(session_id)) + session_id + varint(0) + more
    length = 20 + len(fields) + 4
    front = b"CAv2" + bytes((minor, flags)) + b"\0\0" + struct.pack("<Id", length, created) + fields
    return front + crc(front)


def section(kind: int, data: bytes, *, codec: int = 0, stored: bytes | None = None) -> bytes:
    kept = data if stored is None else stored
    return bytes((kind, codec)) + varints(len(data), len(kept)) + kept


def frame(body: bytes, index: bytes) -> bytes:
    length = 8 + len(body) + len(index) + 13
    front = b"\xf5\x4c\x58\x66" + struct.pack("<I", length) + body
    middle = index + bytes((len(index),)) + crc(front)
    return front + middle + crc(middle) + struct.pack("<I", length)


MS = 1_700_000_000_000


def body(columns: bytes, words: bytes = b"", vectors: bytes = b"") -> bytes:
    return (
        section(5, columns)
        + (section(6, words) if words else b"")
        + (section(4, vectors) if vectors else b"")
    )


#: Frame 1: three turns, everything in the columns, three shapes that take turns.
BODY_1 = body(
    varint(3 << 1)  # three shapes, which take turns
    + bytes((0b00010111, 2))  # role, text, time of the id, empty metadata; system
    + bytes((0b00010111, 0))  # the same; user
    + bytes((0b00010111, 1))  # assistant
    + bytes((2,))  # ids of any kind:
    + varints(0, 1)  # the second, same ms, seq one more
    + varints(1500, 7)  # the third, 1,500 ms later, seq 7
    + varints(9, 3),  # the last length is what is left
    "Be brief.Hi!日本".encode(),
)
FRAME_1 = frame(
    BODY_1,
    # kind, flags (in order), count, total, updated; first ms and seq; last ms - first ms, last seq
    varints(0, 0b00001, 3, 3, MS + 5000) + varints(MS, 5) + varints(1500, 7),
)
TURNS_1: list[Message] = [
    {"role": "system", "content": "Be brief.", "timestamp": MS / 1000, "metadata": {}},
    {"role": "user", "content": "Hi!", "timestamp": MS / 1000, "metadata": {}},
    {"role": "assistant", "content": "日本", "timestamp": (MS + 1500) / 1000, "metadata": {}},
]
IDS_1 = [MessageId(MS, 5), MessageId(MS, 6), MessageId(MS + 1500, 7)]

#: Frame 2: roles of their own, a time of its own, extras, vectors and a nonce.
EXTRAS_2 = [b'{"content":[{"type":"text"}],"metadata":{"k":1}}', b'{"timestamp":"today","name":"x"}']
SHAPES_2 = (
    varint(4 << 1)  # four shapes, one after the other
    + bytes((0b00101001, 6))  # role, explicit time, extras; a role of its own
    + varint(6)
    + b"critic"
    + bytes((0b01110011, 6))  # role, text, empty metadata, extras, vector
    + varint(6)
    + "Küche".encode()
    + bytes((0b00000000,))  # nothing at all
    + bytes((0b11000111, 3))  # role, text, time of the id, vector, nonce; tool
    + bytes((2,))
    + varints(1, 0, 2, 3, 4, 2**46)  # ids
)
REST_2 = (
    # Extras of the first; text and extras of the second; the text of the last is what is left.
    varints(len(EXTRAS_2[0]), 38, len(EXTRAS_2[1]))
    + (b"\0" + varint(2))  # float32, two numbers
    + (b"\1" + varint(1))  # float64, one
    + b"nonce!"
)
WORDS_2 = EXTRAS_2[0] + b"a" * 38 + EXTRAS_2[1] + b"aa"
VECTORS_2 = struct.pack("<2f", 0.5, -1.5) + struct.pack("<d", 0.1)
DOUBT = b"nonce!" + struct.pack("<QQ", MS + 2007, 2**46)
AT_2 = len(header("käse/1".encode(), 0.0) + FRAME_1)
FRAME_2 = frame(
    section(5, SHAPES_2 + b"\0" + struct.pack("<d", 12.5) + REST_2)  # the one explicit time
    + section(6, WORDS_2)
    + section(200, b"from the future", codec=99)
    + section(4, VECTORS_2)
    + section(129, DOUBT + crc(DOUBT)),
    # in order, nonces, vectors, contested: this frame, none before it, one nonce in doubt
    varints(0, 0b10111, 4, 7, MS + 9000) + varints(MS + 2000, 1) + varints(7, 2**46) + varints(AT_2, 0, 1),
)
IDS_2 = [
    MessageId(MS + 2000, 1),
    MessageId(MS + 2001, 0),
    MessageId(MS + 2003, 3),
    MessageId(MS + 2007, 2**46),
]
TURNS_2: list[Message] = [
    {"role": "critic", "content": [{"type": "text"}], "timestamp": 12.5, "metadata": {"k": 1}},
    {
        "role": "Küche",
        "content": "a" * 38,
        "metadata": {},
        "timestamp": "today",
        "name": "x",
        "embedding": [0.5, -1.5],
    },
    {},
    {"role": "tool", "content": "aa", "timestamp": (MS + 2007) / 1000, "embedding": [0.1]},
]

#: Frame 3: a mark that clears everything up to the last id.
FRAME_3 = frame(
    b"",
    varints(1, 0b11001, 0, 7, MS + 9500)
    + varints(MS + 2007, 2**46)
    + varints(MS + 2007, 2**46)
    + varints(AT_2, 0, 0),
)

#: Frame 4: not in order, older than what is there; so `earlier` is given. The words under HCv1.
ONE = varint(2) + bytes((0b00000011, 0))
HCV1_4 = b"HCv1" + struct.pack("<IH", 40, 1) + b"a\x01" + struct.pack("<I", 0) + bytes(5)
FRAME_4 = frame(
    section(5, ONE) + section(6, b"a" * 40, codec=1, stored=HCV1_4),
    varints(0, 0b11000, 1, 8, MS + 9900)
    + varints(MS + 1, 0)
    + varints(0, 0)
    + varints(MS + 2007, 2**46)
    + varints(MS + 2007, 2**46)
    + varints(AT_2, 0, 0),
)
TURN_4: Message = {"role": "user", "content": "a" * 40}

BY_HAND = header("käse/1".encode(), 1_699_999_999.5) + FRAME_1 + FRAME_2 + FRAME_3 + FRAME_4
ALL_TURNS = [*TURNS_1[:2], TURN_4, TURNS_1[2], *TURNS_2]
ALL_IDS = [*IDS_1[:2], MessageId(MS + 1, 0), IDS_1[2], *IDS_2]


@pytest.fixture
def by_hand(tmp_path: Path) -> ConversationArchive:
    (tmp_path / "k%C3%A4se%2F1.huff").write_bytes(BY_HAND)
    return ConversationArchive(tmp_path)


def test_a_file_written_by_hand_from_the_page_is_read(by_hand: ConversationArchive) -> None:
    assert by_hand.load_all("käse/1") == ALL_TURNS
    turns = by_hand.store.turns("käse/1")
    assert [turn.id for turn in turns] == ALL_IDS
    assert [turn.nonce for turn in turns] == [None] * 7 + [b"nonce!"]
    assert by_hand.store.counters["damaged_reads"] == 0


def test_a_file_written_by_hand_is_read_from_its_end(by_hand: ConversationArchive) -> None:
    for count in range(1, 10):
        assert by_hand.load_recent("käse/1", count) == ALL_TURNS[-count:]
    # All of it was cleared but what came after, and what came after is older than the mark.
    assert by_hand.store.recent("käse/1", 9, in_context=True) == []


def test_a_file_written_by_hand_tells_its_metadata(by_hand: ConversationArchive) -> None:
    expected = {
        "session_id": "käse/1",
        "created_at": 1_699_999_999.5,
        "updated_at": (MS + 9900) / 1000,
        "num_turns": 8,
        "size_bytes": len(BY_HAND),
    }
    assert by_hand.get_metadata("käse/1") == expected
    assert by_hand.list_sessions() == [expected]


def test_a_file_written_by_hand_is_intact(by_hand: ConversationArchive) -> None:
    report = by_hand.verify("käse/1")
    assert report is not None
    assert report.problems == ()
    assert (report.version, report.frames, report.turns, report.damaged_bytes) == (2, 4, 8, 0)


def test_a_file_written_by_hand_can_be_appended_to(by_hand: ConversationArchive) -> None:
    by_hand.append_turn("käse/1", {"content": "new"})
    assert by_hand.load_all("käse/1") == [*ALL_TURNS, {"content": "new"}]
    data = by_hand.store.raw("käse/1")
    assert data is not None
    assert data.startswith(BY_HAND)


# -- what the encoder writes, by hand as well -----------------------------------------------

#: Frame 1 with an index entry that is brief.
BRIEF_1 = frame(
    BODY_1,
    # kind, flags (in order, brief), count, total, updated: 5,000 ms after the first id, as zigzag;
    # first ms and seq; last ms - first ms, last seq
    varints(0, 0b1000001, 3, 3, 10_000) + varints(MS, 5) + varints(1500, 7),
)
#: Frame 2 in a file that is written whole, its one time in milliseconds: 12,500, written as how far
#: it is from the id's.
WHOLE_2 = frame(
    body(SHAPES_2 + bytes((2,)) + varint(2 * (MS + 2000 - 12_500) - 1) + REST_2, WORDS_2, VECTORS_2),
    # in order, nonces, vectors, brief, whole; updated 7,000 ms after the first id
    varints(0, 0b11000111, 4, 7, 14_000) + varints(MS + 2000, 1) + varints(7, 2**46),
)
#: Eight messages of one moment under ids that only count; the times are their own, in whole seconds.
TURNS_8: list[Message] = [{"role": "user", "content": str(n), "timestamp": 1000.0 + n % 2} for n in range(8)]
FRAME_8 = frame(
    body(
        varint(1 << 1)
        + bytes((0b00001011, 0))  # role, text, explicit time; user
        + bytes((0,))  # each id is the next
        + bytes((1,))
        + varint(2 * (MS // 1000 + 3 - 1000) - 1)
        + varints(2, 1, 2, 1, 2, 1, 2)
        + varints(*[1] * 7),
        b"01234567",
    ),
    # updated 1 ms before the first id
    varints(0, 0b1000001, 8, 15, 1) + varints(MS + 3000, 2**46) + varints(0, 7),
)
#: Three messages as Redis numbers them, in milliseconds of their own.
FRAME_5 = frame(
    body(
        varint(2 << 1 | 1)  # two shapes, listed for each turn
        + bytes((0b00000111, 0))
        + bytes((0b00000111, 1))
        + bytes((0b100,))  # one bit each, the first turn lowest
        + bytes((1,))
        + varints(300, 5)
        + varints(1, 1),
        b"abc",
    ),
    varints(0, 0b1000001, 3, 18, 2) + varints(MS + 4000, 0) + varints(305, 0),
)
WRITTEN = header("käse/1".encode(), 1_699_999_999.5) + BRIEF_1 + WHOLE_2 + FRAME_8 + FRAME_5
WRITTEN_TURNS: list[Message] = [
    *TURNS_1,
    *TURNS_2,
    *TURNS_8,
    {"role": "user", "content": "a", "timestamp": (MS + 4000) / 1000},
    {"role": "user", "content": "b", "timestamp": (MS + 4300) / 1000},
    {"role": "assistant", "content": "c", "timestamp": (MS + 4305) / 1000},
]
WRITTEN_IDS = [
    *IDS_1,
    *IDS_2,
    *(MessageId(MS + 3000, 2**46 + n) for n in range(8)),
    *(MessageId(MS + 4000 + n, 0) for n in (0, 300, 305)),
]


def test_frames_as_the_encoder_writes_them_are_read(tmp_path: Path) -> None:
    (tmp_path / "k%C3%A4se%2F1.huff").write_bytes(WRITTEN)
    archive = ConversationArchive(tmp_path, on_damage="raise")
    assert archive.load_all("käse/1") == WRITTEN_TURNS
    assert [turn.id for turn in archive.store.turns("käse/1")] == WRITTEN_IDS
    assert archive.load_recent("käse/1", 4) == WRITTEN_TURNS[-4:]
    assert [frame.index.whole for frame in decoding.scan(WRITTEN).frames] == [False, True, False, False]
    assert [frame.index.updated_ms - MS for frame in decoding.scan(WRITTEN).frames] == [
        5000,
        9000,
        2999,
        4001,
    ]
    report = archive.verify("käse/1")
    assert report is not None
    assert report.problems == ()


def test_the_encoder_writes_the_same_bytes_as_the_hand() -> None:
    nonces = [None] * 6 + [b"nonce!"] + [None] * 11
    turns = [to_turn(m, i, n) for m, i, n in zip(WRITTEN_TURNS, WRITTEN_IDS, nonces, strict=True)]
    before, position = index_flow.EMPTY, 0
    for frame_by_hand, count, updated in (
        (BRIEF_1, 3, 5000),
        (WHOLE_2, 4, 9000),
        (FRAME_8, 8, 2999),
        (FRAME_5, 3, 4001),
    ):
        part = turns[position : position + count]
        made = encoding.encode_frames(
            part, before, MS + updated, packer("stored"), whole=frame_by_hand is WHOLE_2
        )
        assert made == frame_by_hand
        found = decoding.frame_at(made, 0)
        assert found is not None
        before, position = found.index, position + count
    third = encoding.encode_mark(
        decoding.scan(BY_HAND).frames[1].index, MS + 9500, MessageId(MS + 2007, 2**46)
    )
    assert third == FRAME_3
    assert (
        header_flow.encode_header(header_flow.FileHeader(1_699_999_999.5, "käse/1"))
        == BY_HAND[: len(BY_HAND) - len(FRAME_1 + FRAME_2 + FRAME_3 + FRAME_4)]
    )


# -- a second reader, from the page ------------------------------------------------------


class Page:
    """Reads a version 2 file as the page says, and checks on the way all that the page says."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        assert self.take(8) == b"CAv2\0\0\0\0"
        length, self.created = struct.unpack("<Id", self.take(12))
        self.session_id = self.take(self.varint()).decode()
        assert self.take(self.varint()) == b"", "the key id is empty"
        assert self.position == length - 4
        assert self.take(4) == crc(data[: length - 4])
        self.turns: list[tuple[MessageId, Message, bytes | None]] = []
        self.indexes: list[dict[str, Any]] = []
        self.starts: list[int] = []
        while self.position < len(data):
            self.frame()

    def take(self, count: int) -> bytes:
        self.position += count
        assert self.position <= len(self.data)
        return self.data[self.position - count : self.position]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise AssertionError("more than 10 bytes")

    def frame(self) -> None:
        start = self.position
        self.starts.append(start)
        assert self.take(4) == bytes.fromhex("F54C5866")
        (length,) = struct.unpack("<I", self.take(4))
        end = start + length
        size, body_crc, index_crc, again = struct.unpack_from("<B4s4sI", self.data, end - 13)
        assert again == length
        index_start = end - 13 - size
        assert body_crc == crc(self.data[start:index_start])
        assert index_crc == crc(self.data[index_start : end - 8])
        sections = self.sections(index_start)
        names = ["kind", "flags", "count", "total", "updated"]
        index: dict[str, Any] = {name: self.varint() for name in names}
        if index["count"]:
            index["first"] = first = MessageId(self.varint(), self.varint())
            step, seq = self.varint(), self.varint()
            if index["flags"] & 64:
                zigzag = index["updated"]
                index["updated"] = first.ms + (-(zigzag + 1) // 2 if zigzag % 2 else zigzag // 2)
                seq += 0 if step else first.seq
            index["last"] = MessageId(first.ms + step, seq)
        if not (index["flags"] & 1 and index["count"]):
            index["earlier"] = MessageId(self.varint(), self.varint())
        if index["flags"] & 8:
            index["cleared"] = MessageId(self.varint(), self.varint())
        if index["flags"] & 16:
            index["contested at"], index["contested before"] = self.varint(), self.varint()
            index["doubts"] = self.varint()
            assert index["contested before"] < index["contested at"] <= start
            assert (index["doubts"] > 0) == (index["contested at"] == start)
        if index["flags"] & 256:
            index["changes"], removed, taken = self.varint(), self.varint(), self.varint()
            assert index["changes"] >= 1
            assert (removed, taken, self.varint(), self.varint()) == (0, 0, 0, 0), "nothing was taken out"
        assert self.position == end - 13, "the index entry is as long as it says"
        self.position = end
        packed = sections.pop(129, b"")
        doubts = [packed[n : n + 22] for n in range(0, 22 * index.get("doubts", 0), 22)]
        nonces = [doubt[:6] for doubt in doubts]
        assert nonces == sorted(set(nonces))
        assert packed == (b"".join(doubts) + crc(b"".join(doubts)) if doubts else b"")
        if index["kind"] == 0:
            self.columns(sections, index)
        else:
            assert not sections
        self.check_index(index)
        self.indexes.append(index)

    def sections(self, end: int) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        while self.position < end:
            kind, codec = self.take(2)
            raw, stored = self.varint(), self.varint()
            data = self.take(stored)
            assert codec == 0 or stored < raw, "stored as it is where the codec does not make it smaller"
            if codec in (1, 3):
                assert data.startswith(b"HCv1") == (codec == 1)
                data = HuffmanCodec.decode(data)
            elif codec == 2:
                import lz4.block

                data = lz4.block.decompress(data, uncompressed_size=raw)
            elif codec == 4:
                import zstandard

                data = zstandard.ZstdDecompressor().decompress(data, max_output_size=raw)
            elif codec == 5:
                data = zlib.decompress(data, -15)
            assert len(data) == raw
            assert kind not in found
            assert kind != 4 or codec == 0
            found[kind] = data
        return found

    def shapes(self, count: int) -> list[tuple[int, str | None]]:
        head = self.varint()
        listed = []
        for _ in range(head >> 1):
            (flags,) = self.take(1)
            role = None
            if flags & 1:
                number = self.varint()
                role = (
                    ["user", "assistant", "system", "tool", "function", "developer"][number]
                    if number < 6
                    else self.take(self.varint()).decode("utf-8", "surrogatepass")
                )
            listed.append((flags, role))
        assert len(set(listed)) == len(listed)
        if not head & 1:
            assert len(listed) <= 4
            assert any(flags & 34 for flags, _ in listed)
            return [listed[n % len(listed)] for n in range(count)]
        bits = max(1, math.ceil(math.log2(len(listed))))
        number = int.from_bytes(self.take(math.ceil(count * bits / 8)), "little")
        return [listed[number >> n * bits & (1 << bits) - 1] for n in range(count)]

    def ids(self, first: MessageId, count: int) -> list[MessageId]:
        ids = [first]
        form = self.take(1)[0] if count > 1 else -1
        for _ in range(count - 1):
            before = ids[-1]
            if form == 0:
                ids.append(MessageId(before.ms, before.seq + 1))
            elif form == 1:
                ids.append(MessageId(before.ms + self.varint(), 0))
            else:
                step, seq = self.varint(), self.varint()
                ids.append(MessageId(before.ms + step, seq if step else before.seq + seq))
        return ids

    def times(self, id_ms: list[int]) -> list[float]:
        if not id_ms:
            return []
        (unit,) = self.take(1)
        if unit == 0:
            return [struct.unpack("<d", self.take(8))[0] for _ in id_ms]
        ticks = {1: 1, 2: 1000, 3: 10**6, 4: 2**22}[unit]
        found, last = [], id_ms[0] * ticks // 1000
        for _ in id_ms:
            zigzag = self.varint()
            last += -(zigzag + 1) // 2 if zigzag % 2 else zigzag // 2
            found.append(last / ticks)
        return found

    def columns(self, sections: dict[int, bytes], index: dict[str, Any]) -> None:
        assert set(sections) <= {4, 5, 6}
        outer, position = self.data, self.position
        self.data, self.position = sections[5], 0
        count = index["count"]
        shapes = self.shapes(count)
        ids = self.ids(index["first"], count)
        times = self.times([i.ms for i, (flags, _) in zip(ids, shapes, strict=True) if flags & 8])
        words = [(n, bit) for n, (flags, _) in enumerate(shapes) for bit in (2, 32) if flags & bit]
        lengths = [self.varint() for _ in words[1:]]
        lengths += [len(sections.get(6, b"")) - sum(lengths)] if words else []
        vectors = {n: (self.take(1)[0], self.varint()) for n, (flags, _) in enumerate(shapes) if flags & 64}
        nonces = {n: self.take(6) for n, (flags, _) in enumerate(shapes) if flags & 128}
        assert self.position == len(self.data), "nothing is left over"
        self.data, self.position = sections.get(6, b""), 0
        cut = {word: self.take(length) for word, length in zip(words, lengths, strict=True)}
        self.data, self.position = sections.get(4, b""), 0
        for n, (flags, role) in enumerate(shapes):
            body: Message = {} if role is None else {"role": role}
            if flags & 2:
                body["content"] = cut[n, 2].decode("utf-8", "surrogatepass")
            if flags & 4:
                body["timestamp"] = ids[n].ms / 1000
            if flags & 8:
                body["timestamp"] = times.pop(0)
            if flags & 16:
                body["metadata"] = {}
            if flags & 32:
                more = json.loads(cut[n, 32].decode("utf-8", "surrogatepass"))
                assert not set(more) & set(body), "extras hold what the bits do not account for"
                body |= more
            if n in vectors:
                kind, dim = vectors[n]
                form, width = ("<%dd", 8) if kind else ("<%df", 4)
                body["embedding"] = list(struct.unpack(form % dim, self.take(dim * width)))
            self.turns.append((ids[n], body, nonces.get(n)))
        assert self.position == len(self.data), "nothing is left over"
        assert ids[-1] == index["last"]
        assert bool(nonces) == bool(index["flags"] & 2)
        assert bool(vectors) == bool(index["flags"] & 4)
        self.data, self.position = outer, position

    def check_index(self, index: dict[str, Any]) -> None:
        before = self.turns[: len(self.turns) - index["count"]]
        earlier = max((i for i, _, _ in before), default=ZERO_ID)
        mine = [i for i, _, _ in self.turns[len(before) :]]
        assert mine == sorted(mine)
        assert bool(index["flags"] & 1) == (not mine or mine[0] > earlier)
        assert index.get("earlier", earlier) == earlier
        assert index["total"] == len(self.turns)


SAMPLES: list[list[Message]] = [
    [*TURNS_1],
    [{"role": "user", "content": "x" * 500, "timestamp": float(n), "metadata": {}} for n in range(20)],
    [{}, {"role": None}, {"content": None}, {"timestamp": 5}, {"metadata": None}, {"metadata": []}],
    [{"role": role, "content": role} for role in ("user", "zebra", "ape", "tool", "\ud800", "")],
    [{"content": "\ud800 alone"}, {"content": ""}, {"content": [], "role": {"name": "x"}}],
    [{"content": "v", "embedding": [0.5] * 3}, {"content": "w"}, {"embedding": [0.1, 1e300]}],
    [{"content": {"tool_calls": [{"id": "1", "function": {"arguments": "{}"}}]}, "extra": [1, None]}],
    [{"timestamp": 1e-300, "content": "日本語" * 100, "metadata": {"deep": [[{}]]}}],
    [{"timestamp": -0.0}, {"timestamp": True}, {"timestamp": "now"}, {"role": 5, "content": 5}],
    [{"content": "t", "timestamp": 1.7e9 + n / 7} for n in range(9)],
    [{"content": "t", "timestamp": 1.7e9 + n / 1e6} for n in range(3)],
    [{"content": "t", "timestamp": 1e18 + n} for n in range(3)],
    [{"role": f"role {n % 20}"} for n in range(50)],
]


@pytest.mark.parametrize("codec", ["stored", "huffman", "hcv1", "lz4", "zstd", "deflate"])
@pytest.mark.parametrize("messages", SAMPLES, ids=range(len(SAMPLES)))
def test_what_the_encoder_writes_is_what_the_page_says(
    tmp_path: Path, codec: str, messages: list[Message]
) -> None:
    archive = ConversationArchive(tmp_path, codec=codec)
    for message in messages:
        archive.append_turn("one by one/", message)
    archive.append_turns("one by one/", messages)
    with archive.store.lock("one by one/"):
        archive.store.clear_locked("one by one/")
        old = [to_turn(m, MessageId(5, n), b"n%05d" % n if n % 2 else None) for n, m in enumerate(messages)]
        archive.store.append_locked("one by one/", old, contested=True)
    data = archive.store.raw("one by one/")
    assert data is not None
    page = Page(data)
    assert page.session_id == "one by one/"
    assert [body for _, body, _ in page.turns] == messages * 3
    in_order = sorted(page.turns, key=lambda turn: turn[0])
    assert archive.load_all("one by one/") == [body for _, body, _ in in_order]
    assert [t.id for t in archive.store.turns("one by one/")] == [i for i, _, _ in in_order]
    assert [n for _, _, n in page.turns] == [None] * 2 * len(messages) + [t.nonce for t in old]
    *_, mark, last = page.indexes
    assert mark["kind"] == 1
    assert last["cleared"] == mark["cleared"] == mark["earlier"] == in_order[-1][0]
    # What has no nonce cannot be recognised, so there is no doubt about it.
    assert last.get("contested at", 0) == (page.starts[-1] if len(messages) > 1 else 0)


@pytest.mark.promise("no-loss")
def test_a_message_keeps_its_nonce_however_old_it_is(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    turn = to_turn({"content": "old"}, MessageId(5, 0), b"nonce!")
    with archive.store.lock("s"):
        archive.store.append_locked("s", [turn])
    assert [turn.nonce for turn in archive.store.turns("s")] == [b"nonce!"]


# -- local ids ---------------------------------------------------------------------------


def test_local_ids_are_never_those_that_redis_gives(tmp_path: Path) -> None:
    from tests.support.twins import ManualClock

    clock = ManualClock(MS / 1000)
    archive = ConversationArchive(tmp_path, clock=clock)
    archive.append_turns("s", [{"content": str(n)} for n in range(5)])
    clock.now -= 3600
    archive.append_turns("s", [{"content": str(n)} for n in range(5, 8)])
    ids = [turn.id for turn in archive.store.turns("s")]
    assert ids == sorted(set(ids))
    assert {i.ms for i in ids} == {MS}, "the clock's, or the largest so far"
    assert all(2**46 <= i.seq < 2**47 + 2**30 for i in ids)
    with archive.store.lock("s"):
        archive.store.append_locked("s", [to_turn({"content": "8"}, MessageId(MS + 7, 3))])
    archive.append_turn("s", {"content": "9"})
    last = archive.store.turns("s")[-1]
    assert last.id.ms == MS + 7
    assert last.id.seq >= 2**46
    assert [m["content"] for m in archive.load_all("s") or []] == list("0123456789")


def test_behind_the_largest_local_number_comes_the_next_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever the random step is: 0 is one, too.
    for bits in (0, 2**16 - 1):
        monkeypatch.setattr(random, "getrandbits", lambda _, bits=bits: bits)
        below = local_id(MessageId(MS, 2**52 - 1), MS / 1000)
        assert below == MessageId(MS, 2**52 + bits)
        assert local_id(below, MS / 1000).ms == MS + 1


# -- headers -----------------------------------------------------------------------------


def test_a_later_minor_version_is_read_and_its_fields_are_skipped() -> None:
    data = header(b"s", 5.0, minor=7, more=b"fields of the future") + FRAME_1
    found = decoding.scan(data)
    assert found.is_clean
    assert found.header == header_flow.FileHeader(5.0, "s", len(data) - len(FRAME_1))


@pytest.mark.parametrize(
    "work",
    [
        lambda a: a.load_all("s"),
        lambda a: a.load_recent("s", 3),
        lambda a: a.append_turn("s", {"content": "x"}),
        lambda a: a.get_metadata("s"),
        lambda a: a.delete_session("s"),
        lambda a: a.store.clear_locked("s"),
    ],
    ids=["load_all", "load_recent", "append", "get_metadata", "delete", "clear"],
)
def test_a_file_with_a_flag_of_the_future_is_refused_and_left_as_it_is(
    tmp_path: Path, work: Callable[[ConversationArchive], Any]
) -> None:
    data = header(b"s", 5.0, flags=1) + FRAME_1
    (tmp_path / "s.huff").write_bytes(data)
    archive = ConversationArchive(tmp_path)
    with pytest.raises(ArchiveCorrupt, match="flags 0x1 that this version does not know"):
        work(archive)
    assert (tmp_path / "s.huff").read_bytes() == data
    assert sorted(p.name for p in tmp_path.glob("*.huff*")) == ["s.huff"]
    report = archive.verify("s")
    assert report is not None
    assert "flags 0x1" in report.problems[0]
    again = ConversationArchive(tmp_path)
    assert again.list_sessions() == []
    assert again.store.counters["damaged_reads"] == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a version 2 archive"),
        (b"CAv2", "not a version 2 archive"),
        (b"CAv3" + BY_HAND[4:], "starts with b'CAv3'"),
        (BY_HAND[:30], "the file has 30"),
        (b"CAv2\0\0\0\0" + struct.pack("<I", 25) + BY_HAND[12:], "says it has 25"),
        (BY_HAND[:21] + b"X" + BY_HAND[22:], "CRC"),
    ],
)
def test_a_damaged_header_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ArchiveCorrupt, match=reason):
        header_flow.parse_header(data)
    assert decoding.scan(data).header is None


def test_a_session_id_that_is_not_text_is_damage() -> None:
    data = header(b"\xff\xfe", 5.0)
    with pytest.raises(CodecError):
        header_flow.parse_header(data)
    assert decoding.scan(data).header is None


# -- frames ------------------------------------------------------------------------------


def decoded(sections: bytes, *, count: int = 1) -> list[Turn]:
    """Decode a frame with this body and a right index entry and right CRCs."""
    data = frame(sections, varints(0, 1, count, count, MS) + varints(MS, 0) + varints(count - 1, 0))
    found = decoding.frame_at(data, 0)
    assert found is not None
    return decoding.decode_frame(data, found)


BAD_BODIES = {
    "more turns than bits": (body(ONE), "40 turns cannot be in columns of 3 bytes"),
    "no shape": (body(varint(0)), "0 shapes for 1 turns"),
    "more shapes than turns": (body(varint(4) + bytes(2)), "2 shapes for 1 turns"),
    "turns without words in turn": (body(varint(2) + bytes((1, 0))), "may not take turns"),
    "too many in turn": (
        body(varint(10) + bytes((2,)) * 5 + bytes((0,)) + varints(*[0] * 4)),
        "5 shapes that may not take turns",
    ),
    "a shape beyond": (body(varint(7) + bytes(3) + bytes((0b11_01_00,)) + b"\0"), "not listed"),
    "bits left over": (body(varint(3) + bytes((0, 2))), "bits are left over"),
    "a role beyond": (body(varint(2) + bytes((3, 7)), b"hi"), "a role of the number 7"),
    "ids of another form": (body(varint(3) + bytes((0, 0, 3))), "ids of the form 3"),
    "ms of no step": (body(varint(3) + bytes((0, 0, 1, 0))), "an id stands twice"),
    "an id twice": (body(varint(3) + bytes((0, 0, 2, 0, 0))), "an id stands twice"),
    "times of another unit": (body(varint(3) + bytes((8, 0, 5)) + varint(0)), "in the unit 5"),
    "a time before 1970": (body(varint(3) + bytes((8, 0, 1)) + varint(2**60 - 1)), "a time of"),
    "a time too late": (body(varint(3) + bytes((8, 0, 4)) + varint(2**60)), "a time of"),
    "extras that are not JSON": (body(varint(2) + bytes((0b00100000,)), b"{]"), "not JSON"),
    "extras that are no object": (body(varint(2) + bytes((0b00100000,)), b"[]"), "not a JSON object"),
    "numbers of an unknown kind": (
        body(varint(3) + bytes((0b01000000, 0)) + b"\2" + varint(1), vectors=bytes(8)),
        "of the kind 2",
    ),
    "a vector of more than is there": (
        body(varint(3) + bytes((0b01000000, 0)) + b"\0" + varint(2**60), vectors=bytes(8)),
        "bytes wanted",
    ),
    "a vector of less than is there": (
        body(varint(3) + bytes((0b01000000, 0)) + b"\0" + varint(1), vectors=bytes(8)),
        "left over in a section",
    ),
    "an id of 65 bits": (
        body(varint(3) + bytes((0, 0, 2)) + varints(2**64 - 1, 0)),
        "an id beyond",
    ),
    "words left over": (body(varint(3) + bytes((0, 0)), b"hi"), "left over"),
    "lengths of more words": (
        body(varint(3) + bytes((0b00100010, 0)) + varint(9), b"hi"),
        "9 bytes wanted, 2 are left",
    ),
    "extras cut short": (body(varint(3) + bytes((0b00100010, 0)) + varint(2), b"hi"), "not JSON"),
    "columns left over": (body(ONE + b"x", b"hi"), "left over in the columns"),
    "damaged deflate": (body(ONE) + section(6, b"hi", codec=5, stored=b"\xff\xff"), "not a valid deflate"),
    "deflate of another length": (
        body(ONE) + section(6, b"hi", codec=5, stored=codec_by_id(5).encode(b"hi!")),
        "does not end after 2 bytes",
    ),
    "more than deflate can say": (body(ONE) + b"\x06\x05" + varints(10**6, 10) + bytes(10), "in 10"),
    "damaged zstd": (body(ONE) + section(6, b"hi", codec=4, stored=b"\xff\xff"), "not a valid zstd"),
    "zstd of another length": (
        body(ONE) + section(6, b"hi", codec=4, stored=bytes.fromhex("28b52ffd2000010000")),
        "says it holds 0 bytes, not 2",
    ),
    "no columns": (b"", "1 turns cannot be in columns of 0 bytes"),
    "a cut section": (body(ONE)[:-1], "bytes wanted"),
    "half a section head": (b"\x05", "bytes wanted"),
    "an unknown section": (body(ONE, b"hi") + section(8, b"x"), "section 8 is not known"),
    "ids taken out that the index does not count": (
        body(ONE, b"hi") + section(7, b"\x01\x00"),
        "does not take out 0 turns",
    ),
    "a section below those of turns": (section(3, b"x") + body(ONE, b"hi"), "section 3 is not known"),
    "a section twice": (body(ONE, b"hi") + section(6, b"hi"), "there twice"),
    "an unknown codec": (section(5, ONE, codec=9), "codec 9 is not known"),
    "more than HCv1 can say": (
        body(ONE) + b"\x06\x01" + varints(10**9, 10) + bytes(10),
        "1000000000 bytes in 10",
    ),
    "more than LZ4 can say": (body(ONE) + b"\x06\x02" + varints(10**9, 10) + bytes(10), "in 10"),
    "stored, and longer": (body(ONE) + b"\x06\0" + varints(3, 2) + b"hi", "3 bytes in 2"),
    "stored, and shorter": (body(ONE) + b"\x06\0" + varints(1, 2) + b"hi", "says it has 1"),
    "HCv1 of another length": (
        body(ONE) + section(6, b"hi!", codec=1, stored=HuffmanCodec.encode(b"hi", format=1)),
        "says it holds 2 bytes, not 3",
    ),
    "damaged HCv1": (
        body(ONE) + section(6, b"hi", codec=1, stored=b"HCv9\2\0\0\0xxxx"),
        "neither an HCv1",
    ),
    "damaged LZ4": (body(ONE) + section(6, b"hi", codec=2, stored=b"\xff\xff"), "not a valid LZ4"),
    "LZ4 of another length": (
        body(ONE) + section(6, b"hi!", codec=2, stored=b"\x20hi"),
        "decodes to 2 bytes, not 3",
    ),
    "text that is not UTF-8": (body(ONE, b"\xff\xff"), "not UTF-8"),
    "a cut number": (body(b"\x80"), "cut short"),
    "a number of 65 bits": (body(b"\xff" * 9 + b"\x02"), "more than 64 bits"),
    "a number of 11 bytes": (body(b"\x80" * 11), "more than 10 bytes"),
    "more turns than its length may hold": (body(ONE), "more turns than one of its length may"),
}
COUNTS = {
    "an id of 65 bits": 2,
    "more turns than bits": 40,
    "more turns than its length may hold": 1_000_000,
    "too many in turn": 5,
    "a shape beyond": 3,
    "ids of another form": 2,
    "ms of no step": 2,
    "an id twice": 2,
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_makes_no_sense_is_refused_with_its_reason(name: str) -> None:
    sections, reason = BAD_BODIES[name]
    tracemalloc.start()
    with pytest.raises(ArchiveCorrupt, match="the frame at byte 0 cannot be decoded") as refused:
        decoded(sections, count=COUNTS.get(name, 1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reason in str(refused.value)
    assert peak < 2_000_000


def test_a_section_that_says_more_than_an_integer_can_is_refused() -> None:
    with pytest.raises(CodecError, match="not a valid LZ4 block"):
        codec_by_id(2).decode(bytes(100), 2**40)


def test_sections_of_the_future_are_skipped() -> None:
    between = section(128, b"?") + section(255, b"!", codec=77)
    whole = section(5, ONE) + between + section(6, b"hi")
    assert [from_turn(turn) for turn in decoded(whole)] == [{"role": "user", "content": "hi"}]


def test_a_frame_that_cannot_be_decoded_costs_its_own_turns_alone(tmp_path: Path) -> None:
    bad = frame(section(7, b"x"), varints(0, 1, 1, 4, MS) + varints(MS + 1600, 0) + varints(0, 0))
    last = frame(body(ONE, b"hi"), varints(0, 1, 1, 5, MS) + varints(MS + 1700, 0) + varints(0, 0))
    (tmp_path / "s.huff").write_bytes(header(b"s", 5.0) + FRAME_1 + bad + last)
    archive = ConversationArchive(tmp_path)
    expected = [*TURNS_1, {"role": "user", "content": "hi"}]
    assert archive.load_all("s") == expected
    assert archive.load_recent("s", 9) == expected
    assert archive.load_recent("s", 1) == expected[-1:]
    assert archive.store.counters["damaged_reads"] == 2
    report = archive.verify("s")
    assert report is not None
    assert any("cannot be decoded" in problem for problem in report.problems)
    (tmp_path / "s.huff").write_bytes(header(b"s", 5.0) + bad)
    with pytest.raises(ArchiveCorrupt, match="none of its 1 frames"):
        archive.load_all("s")


BAD_INDEXES = {
    "an unknown kind": varints(2, 1, 0, 3, MS) + varints(MS, 0),
    "an unknown flag": varints(1, 0b100001, 0, 3, MS) + varints(MS, 0),
    "cut": varints(0, 1, 3, 3, MS) + varints(MS),
    "empty": b"",
    "an id of 65 bits": varints(0, 1, 1, 1, MS) + varints(2**64 - 1, 0) + varints(1, 0),
    "an id of the year 10000": varints(0, 1, 1, 1, MS) + varints(LARGEST_MS + 1, 0) + varints(0, 0),
    "an id that gets there": varints(0, 1, 2, 2, MS) + varints(LARGEST_MS, 0) + varints(1, 0),
    "earlier ids of the year 10000": varints(1, 1, 0, 3, MS) + varints(LARGEST_MS + 1, 0),
    "cleared up to the year 10000": varints(1, 9, 0, 3, MS) + varints(MS, 0) + varints(LARGEST_MS + 1, 0),
    "written in the year 10000": varints(1, 1, 0, 3, LARGEST_MS + 1) + varints(MS, 0),
}


@pytest.mark.parametrize("name", BAD_INDEXES)
def test_an_index_entry_that_makes_no_sense_makes_its_frame_damage(name: str) -> None:
    bad = frame(b"", BAD_INDEXES[name])
    assert index_flow.index_at_end(bad, len(bad)) is None
    found = decoding.scan(header(b"s", 5.0) + bad + FRAME_1)
    start = len(header(b"s", 5.0))
    assert found.damage == ((start, start + len(bad)),)
    assert len(found.frames) == 1


def test_a_frame_is_no_frame_where_its_lengths_disagree() -> None:
    data = bytearray(FRAME_1)
    struct.pack_into("<I", data, 4, len(data) - 1)
    assert decoding.frame_at(bytes(data), 0) is None
    data = bytearray(FRAME_1 + bytes(100))
    struct.pack_into("<I", data, 4, len(data))
    assert decoding.frame_at(bytes(data), 0) is None


def test_a_frame_is_checked_again_before_it_is_decoded() -> None:
    found = decoding.scan(BY_HAND)
    first = found.frames[0]
    data = BY_HAND[first.offset : first.end]
    damaged = data[:20] + bytes((data[20] ^ 1,)) + data[21:]
    for wrong in (damaged, data[:-1], data + b"x", b""):
        with pytest.raises(ArchiveCorrupt, match=f"the frame at byte {first.offset} is damaged"):
            decoding.decode_frame(wrong, first)
    assert [turn.body for turn in decoding.decode_frame(data, first)] == TURNS_1


def test_a_frame_larger_than_the_format_allows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_FRAME", 1000)
    turn = to_turn({"content": random.Random(1).randbytes(1000).hex()}, MessageId(1, 0))
    with pytest.raises(ArchiveCorrupt, match="more than the format allows"):
        encoding.encode_frames([turn], index_flow.EMPTY, 0, packer("stored"))


def test_text_that_looks_like_a_frame_is_text(tmp_path: Path) -> None:
    """A frame inside a frame's text is not found: the outer one is walked over whole."""
    text = (FRAME_1 + FRAME_4).decode("latin-1")
    archive = ConversationArchive(tmp_path, codec="stored")
    archive.append_turn("s", {"content": text})
    archive.append_turn("s", {"content": "after"})
    assert [m["content"] for m in archive.load_all("s") or []] == [text, "after"]
    # F5 never occurs in UTF-8, so not even a scan that lost its way can take text for a frame.
    assert index_flow.SYNC not in text.encode("utf-8", "surrogatepass")


# -- verify ------------------------------------------------------------------------------


def problems(data: bytes, session_id: str = "s") -> str:
    return "; ".join(verify_bytes(data, session_id).problems)


def test_verify_says_what_is_wrong() -> None:
    good = header(b"s", 5.0) + FRAME_1
    assert problems(good) == ""
    assert "the file is of session 's'" in problems(good, "t")
    assert verify_file(good, "t") == ("s", verify_bytes(good, "s"))
    assert "header is damaged" in problems(b"X" + good)
    assert verify_bytes(b"something else", "s").version == 0
    assert "bytes 0 to 14 are no intact frame" in problems(b"something else")
    wrong_total = frame(body(ONE, b"hi"), varints(0, 1, 1, 9, MS) + varints(MS + 1700, 0) + varints(0, 0))
    assert "counts 9 turns so far, not 4" in problems(good + wrong_total)
    wrong_last = frame(body(ONE, b"hi"), varints(0, 1, 1, 4, MS) + varints(MS + 1700, 0) + varints(5, 0))
    assert "its last id is" in problems(good + wrong_last)
    too_old = frame(body(ONE, b"hi"), varints(0, 1, 1, 4, MS) + varints(MS - 5, 0) + varints(0, 0))
    assert "says that it is in order, and is not" in problems(good + too_old)


# -- varints -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**63, 2**64 - 1])
def test_numbers_are_leb128(value: int) -> None:
    out = bytearray()
    put_varint(out, value)
    assert bytes(out) == varint(value)
    reader = Reader(bytes(out))
    assert reader.varint() == value
    assert reader.at_end


def test_a_reader_never_reads_past_the_end() -> None:
    reader = Reader(b"abc", 1)
    assert reader.remaining == 2
    with pytest.raises(CodecError, match="3 bytes wanted, 2 are left"):
        reader.take(3)
    with pytest.raises(CodecError, match="8 bytes wanted"):
        reader.float64()


# -- codecs ------------------------------------------------------------------------------


def test_an_unknown_codec_is_refused_by_name() -> None:
    with pytest.raises(
        ConfigError, match="must be one of stored, huffman, lz4, zstd, deflate, hcv1, got a str"
    ):
        packer("zip")
    with pytest.raises(ConfigError):
        ConversationArchive("anywhere", codec="zip")


@pytest.mark.parametrize("number", range(6))
def test_each_codec_gives_back_what_it_got(number: int) -> None:
    codec = codec_by_id(number)
    assert codec.id == number
    for data in (b"x", b"abc" * 1000, bytes(range(256)), bytes(10_000), bytes(1_000_000)):
        stored = codec.encode(data)
        assert codec.decode(stored, len(data)) == data
        assert len(data) <= codec.largest(len(stored))


def test_a_codec_that_does_not_help_is_not_used() -> None:
    noise = base64.b85encode(random.Random(1).randbytes(2000)).decode()[:64]
    turn = to_turn({"content": noise}, MessageId(MS, 0))
    for name in ("huffman", "hcv1", "lz4"):
        assert noise.encode() in encoding.encode_frames([turn], index_flow.EMPTY, MS, packer(name))


def test_codecs_make_text_smaller_and_may_be_mixed_in_one_file(tmp_path: Path) -> None:
    sizes = {}
    contents = ["the same words over and over again " * 30 + str(n) for n in range(6)]
    for codec, content in zip(("stored", "hcv1", "lz4", "zstd", "deflate", "huffman"), contents, strict=True):
        archive = ConversationArchive(tmp_path, codec=codec)
        before = len(archive.store.raw("s") or b"")
        archive.append_turn("s", {"content": content})
        sizes[codec] = len(archive.store.raw("s") or b"") - before
    assert [m["content"] for m in ConversationArchive(tmp_path).load_all("s") or []] == contents
    assert sizes["huffman"] <= sizes["deflate"] < sizes["hcv1"] < sizes["stored"]
    assert max(sizes["zstd"], sizes["lz4"]) < sizes["hcv1"]


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize(("codec", "module"), [("lz4", "lz4.block"), ("zstd", "zstandard")])
def test_a_codec_without_its_package_is_refused_before_anything_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    monkeypatch.setitem(sys.modules, module, None)
    config = CacheConfig(archive_dir=str(tmp_path), archive_codec=codec, evictor_enabled=False)
    for make in (
        lambda: ConversationArchive(tmp_path, codec=codec),
        lambda: AsyncConversationArchive(tmp_path, codec=codec),
        lambda: HybridConversationCache("s", config),
        lambda: AsyncHybridConversationCache("s", config),
        lambda: CacheCoordinator("s", config),
    ):
        with pytest.raises(MissingExtra, match=rf"archive_codec='{codec}' needs .* pip install"):
            make()


def test_a_missing_lz4_is_said_and_nothing_is_written_or_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = ConversationArchive(tmp_path, codec="lz4")
    archive.append_turn("s", {"content": "x" * 1000})
    before = (tmp_path / "s.huff").read_bytes()
    monkeypatch.setitem(sys.modules, "lz4", None)
    monkeypatch.setitem(sys.modules, "lz4.block", None)
    with pytest.raises(MissingExtra, match=r"archive_codec='lz4' needs .* pip install 'lix-cache\[lz4\]'"):
        archive.append_turn("s", {"content": "x" * 1000})
    with pytest.raises(MissingExtra, match="reading an archive that was written with lz4"):
        archive.load_all("s")
    with pytest.raises(MissingExtra):
        archive.load_recent("s", 1)
    assert (tmp_path / "s.huff").read_bytes() == before


# -- version 1 ---------------------------------------------------------------------------


def version_1(text: str | bytes, count: int) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<4sddI", b"CAv1", 5.0, 6.0, count) + HuffmanCodec.encode(data, format=1)


def test_a_version_1_file_written_by_hand_is_read() -> None:
    text = b'[{"content":"a","timestamp":1.5},{"content":"b","timestamp":0.5},{"content":"c"}]'
    found = legacy.parse_legacy(version_1(text, 3))
    assert (found.created_at, found.updated_at, found.missing) == (5.0, 6.0, 0)
    # The time of its own, never smaller than the turn's before it; then counting.
    assert [turn.id for turn in found.turns] == [MessageId(1500, 0), MessageId(1500, 1), MessageId(1500, 2)]
    assert [turn.body for turn in found.turns] == json.loads(text)


@pytest.mark.parametrize("data", [b"", b"CAv1", b"CAv1" + bytes(19), b"CAv2" + bytes(100)])
def test_what_is_no_version_1_file_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveCorrupt, match="not a version 1 archive"):
        legacy.parse_legacy(data)
    with pytest.raises(ArchiveCorrupt, match="not a version 1 archive"):
        legacy.legacy_metadata(data)


@pytest.mark.parametrize(
    ("text", "count", "expected", "missing"),
    [
        ("[]", 0, [], 0),
        ("", 0, [], 0),
        ('[{"a":1},{"b":2}', 2, [{"a": 1}, {"b": 2}], 0),
        ('[{"a":1}, {"b":2} , {"c"', 3, [{"a": 1}, {"b": 2}], 1),
        ('[{"a":1};{"b":2}]', 2, [{"a": 1}], 1),
        ('[{"a":1},12', 2, [{"a": 1}], 1),
        ('[{"a":1},"x', 2, [{"a": 1}], 1),
        ('["text",5]', 2, [{"content": "text"}, {"content": 5}], 0),
        (b'[{"a":1},{"b":"\xff"}]', 2, [{"a": 1}, {"b": ""}], 0),
        ('[{"a":1}]', 3, [{"a": 1}], 2),
    ],
)
def test_what_a_version_1_file_still_holds_is_recovered(
    text: str | bytes, count: int, expected: list[Message], missing: int
) -> None:
    found = legacy.parse_legacy(version_1(text, count))
    assert [turn.body for turn in found.turns] == expected
    assert found.missing == missing


@pytest.mark.parametrize("text", ["", "{}", "nonsense", "[", "[" * 100_000])
def test_a_version_1_file_that_promises_turns_and_has_none_is_corrupt(text: str) -> None:
    with pytest.raises(ArchiveCorrupt, match="none of the 2 turns can be recovered"):
        legacy.parse_legacy(version_1(text, 2))


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ('{"a":NaN,"b":[-Infinity]}', {"a": "NaN", "b": ["-Infinity"]}),
        ('{"embedding":[1e999]}', {"embedding": ["Infinity"]}),
        (f'{{"embedding":[{2**70}]}}', {"embedding": [2**70]}),
        (f'{{"timestamp":{10**400}}}', {"timestamp": 10**400}),
        ('{"timestamp":true}', {"timestamp": True}),
        ('{"a":"kept","b":%s}' % ("[" * 250 + "]" * 250), {"a": "kept", "b": "[" * 250 + "]" * 250}),
    ],
    ids=["nan", "infinite", "huge", "late", "bool", "deep"],
)
def test_what_old_files_may_hold_and_we_refuse_is_kept_as_text(
    tmp_path: Path, turn: str, expected: Message
) -> None:
    (tmp_path / "s.huff").write_bytes(version_1(f"[{turn}]", 1))
    archive = ConversationArchive(tmp_path)
    assert archive.load_all("s") == [expected]
    archive.append_turn("s", {"content": "next"})
    assert archive.load_all("s") == [expected, {"content": "next"}]


def test_a_version_1_turn_nested_beyond_reading_is_corrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_deep(*args: Any, **kwargs: Any) -> Any:
        raise RecursionError

    monkeypatch.setattr(legacy.json, "dumps", too_deep)
    with pytest.raises(ArchiveCorrupt, match="nested too deeply"):
        legacy.parse_legacy(version_1('[{"a":NaN}]', 1))


def test_a_version_1_file_has_no_index_of_its_own_but_gets_one() -> None:
    found = parse_contents(version_1('[{"timestamp":1.5},{"timestamp":2.5}]', 2), "s")
    assert (found.index.total, found.index.newest, found.updated_at) == (2, MessageId(2500, 0), 6.0)
    assert parse_contents(version_1("[]", 0), "s").index.newest == ZERO_ID


@pytest.mark.shared
@pytest.mark.parametrize("name", ["chinese", "long-english", "plain-english", "with-embeddings"])
def test_archives_of_the_old_package_are_read_before_and_after_their_upgrade(
    shared_dir: Path, tmp_path: Path, name: str
) -> None:
    golden = shared_dir / "golden" / "cav1"
    turns = json.loads((golden / f"{name}.json").read_text())
    data = (golden / f"{name}.huff").read_bytes()
    (tmp_path / f"{name}.huff").write_bytes(data)
    archive = ConversationArchive(tmp_path)
    assert archive.load_all(name) == turns
    assert archive.load_recent(name, 3) == turns[-3:]
    before = archive.get_metadata(name)
    assert before is not None
    assert before["num_turns"] == len(turns)
    assert (before["created_at"], before["updated_at"]) == struct.unpack_from("<dd", data, 4)
    report = archive.verify(name)
    assert report is not None
    assert (report.version, report.problems) == (1, ())
    more = {"role": "user", "content": "one more", "timestamp": 1.8e9, "metadata": {}}
    archive.append_turn(name, more)
    again = ConversationArchive(tmp_path)
    assert again.load_all(name) == [*turns, more]
    after = again.get_metadata(name)
    assert after is not None
    assert (after["num_turns"], after["created_at"]) == (len(turns) + 1, before["created_at"])
    report = again.verify(name)
    assert report is not None
    assert (report.version, report.problems) == (2, ())
    assert archive.store.counters["upgrades"] == 1


@pytest.mark.shared
def test_every_golden_archive_is_tested(shared_dir: Path) -> None:
    names = sorted(path.stem for path in (shared_dir / "golden" / "cav1").glob("*.huff"))
    assert names == ["chinese", "long-english", "plain-english", "with-embeddings"]


def test_vectors_of_a_frame_cost_four_bytes_a_number() -> None:
    plain = [to_turn({"content": "x"}, MessageId(MS + n, 0)) for n in range(10)]
    vector = Vector(0, struct.pack("<384f", *(math.sin(n) for n in range(384))))
    with_vectors = [Turn(turn.id, turn.body, vector) for turn in plain]
    codec = packer("huffman")
    sizes = [
        len(encoding.encode_frames(turns, index_flow.EMPTY, MS, codec)) for turns in (plain, with_vectors)
    ]
    assert sizes[1] - sizes[0] < 10 * 384 * 4 + 100


def test_a_file_written_whole_can_still_be_read_from_its_end_alone() -> None:
    turns = [Turn(MessageId(MS + i, 0), {"role": "user", "content": f"message {i}"}) for i in range(300)]
    data = encoding.encode_file(header_flow.FileHeader(1.0, "s"), turns, MS, packer("stored"))
    found = decoding.scan(data)
    assert found.is_clean
    assert [frame.index.total for frame in found.frames] == [64, 128, 192, 256, 300]
    assert all(frame.index.in_order for frame in found.frames)
    decoded = [t for f in found.frames for t in decoding.decode_frame(data[f.offset : f.end], f)]
    assert decoded == turns


# -- tables of one's own, and what is missing ------------------------------------------------


@pytest.fixture(scope="module")
def own_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from lix_cache.huffman_codec.training import train_dictionary

    path = tmp_path_factory.mktemp("tables") / "own.lixt"
    texts = [f"the quokka number {n} hops over the wallaby".encode() for n in range(50)]
    path.write_bytes(train_dictionary({"own": texts}, id="own", size=400, vocabulary=[]))
    return path


QUOKKA: Message = {
    "role": "user",
    "content": "the quokka number 51 hops over the wallaby, and the quokka sleeps",
}

READ_ELSEWHERE = """
import sys
from lix_cache import ConversationArchive, MissingDictionary
folder, table = sys.argv[1], sys.argv[2] or None
archive = ConversationArchive(folder, dictionary=table)
try:
    print([turn["content"] for turn in archive.load_all("s")])
except MissingDictionary as error:
    archive.append_turn("s", {"content": "the next"})
    print("missing", error.number, archive.store.counters["damaged_reads"], error)
"""


def read_elsewhere(folder: Path, table: Path | str = "") -> str:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", READ_ELSEWHERE, str(folder), str(table)],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    return done.stdout


def test_a_table_of_ones_own_is_carried_by_its_number_and_asked_for_by_it(
    tmp_path: Path, own_table: Path
) -> None:
    from lix_cache.huffman_codec._dictionary import Dictionary

    number = Dictionary.load(own_table).number
    archive = ConversationArchive(tmp_path / "archive", dictionary=own_table)
    archive.append_turn("s", QUOKKA)
    data = archive.store.raw("s") or b""
    assert number in data
    assert QUOKKA["content"].encode() not in data
    assert archive.load_all("s") == [QUOKKA]
    shown = read_elsewhere(tmp_path / "archive")
    # Not damage: nothing is left out, set aside or counted, and a new turn is taken.
    assert shown.startswith(f"missing {number.hex()} 0 ")
    assert "archive_dictionary" in shown
    assert not list((tmp_path / "archive").glob("*.damaged-*"))
    assert read_elsewhere(tmp_path / "archive", own_table) == str([QUOKKA["content"], "the next"]) + "\n"


def test_a_dictionary_that_cannot_be_used_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"archive_dictionary .*no\.lixt.* cannot be read"):
        ConversationArchive(tmp_path, dictionary=tmp_path / "no.lixt")
    (tmp_path / "bad.lixt").write_bytes(b"no table")
    with pytest.raises(ConfigError, match="is not a dictionary"):
        packer("huffman", tmp_path / "bad.lixt")


def test_a_missing_zstd_is_said_and_nothing_is_written_or_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = ConversationArchive(tmp_path, codec="zstd")
    archive.append_turn("s", {"content": "x" * 1000})
    before = (tmp_path / "s.huff").read_bytes()
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtra, match=r"archive_codec='zstd' needs .* pip install 'lix-cache\[zstd\]'"):
        archive.append_turn("s", {"content": "x" * 1000})
    with pytest.raises(MissingExtra, match="reading an archive that was written with zstd"):
        archive.load_all("s")
    report = archive.verify("s")
    assert report is not None
    assert "needs the package 'zstandard'" in report.problems[0]
    assert (tmp_path / "s.huff").read_bytes() == before


def test_the_smaller_of_phrases_and_deflate_is_kept(kernel: Kernel) -> None:  # noqa: F811
    fresh = b"How are you today, and what can I do for you?"
    assert packer("huffman").pack(fresh)[0] == 3
    assert packer("huffman").pack(b"tiny") == (0, b"tiny")
    # With copies among the phrases there is nothing left for deflate; Python, which would take
    # too long to find them, leaves it some.
    repeats = fresh * 20
    chosen, stored = packer("huffman").pack(repeats)
    assert chosen == (3 if kernel.name == "c" else 5)
    assert len(stored) < len(HuffmanCodec.encode(repeats))
    assert packer("huffman").patient().pack(repeats) == (chosen, stored)
    # A hash has nothing for either, and digits that repeat little are deflate's.
    digits = "".join(f"{n * 7919 % 9973:04d}" for n in range(400)).encode()
    chosen, stored = packer("huffman").pack(digits)
    assert len(stored) <= min(len(HuffmanCodec.encode(digits)), len(codec_by_id(5).encode(digits)))


NOISE = random.Random(3).randbytes(900)


def test_deflate_is_asked_only_where_it_may_win(monkeypatch: pytest.MonkeyPatch) -> None:
    native_or_skip()
    if _backend.kernel.name != "c":
        pytest.skip("LIX_CACHE_PURE is set")
    deflate, asked = codecs.DEFLATE, list[bytes]()

    def encode(data: bytes) -> bytes:
        asked.append(data)
        return deflate.encode(data)

    monkeypatch.setattr(codecs, "DEFLATE", replace(deflate, encode=encode))
    talk = (
        b"Thank you for calling. I would like to change the address of my order, because we are moving next "
        b"week. Of course, what is the number of the order? It is on the first page of the letter that we "
        b"sent you. I have it here, just a moment. There it is. And where shall we send it instead? To my "
        b"sister, she lives around the corner and is at home most of the day. That is no problem at all, you "
        b"will get a message as soon as it is on its way. Can I do anything else for you today? No, that was "
        b"everything, have a nice evening!"
    )
    digits = "".join(f"{n * 7919 % 9973:04d}" for n in range(400)).encode()
    for data in (talk, talk + digits, digits, NOISE, talk * 2, talk * 40):
        _, stored = packer("huffman").pack(data)
        assert len(stored) <= min(len(data), len(HuffmanCodec.encode(data)), len(deflate.encode(data)))
    assert asked == [talk + digits, digits, NOISE, talk * 2, talk * 40]


def test_a_patient_packer_finds_what_an_append_does_not_look_for() -> None:
    native_or_skip()
    if _backend.kernel.name != "c":
        pytest.skip("LIX_CACHE_PURE is set")
    # Ordinary talk in which one unusual thing is said twice.
    demo = Path(__file__).resolve().parents[2] / "lix_cache" / "cli" / "data" / "demo.jsonl"
    conversation = json.loads(demo.read_text("utf-8").splitlines()[0])["messages"]
    odd = "Wrzeszcz-Oliwa 7Q4ZK, platform 12b"
    talk = "\n".join([odd, *(str(message["content"]) for message in conversation[:8]), odd]).encode()
    quick, patient = packer("huffman").pack(talk), packer("huffman").patient().pack(talk)
    assert len(patient[1]) < len(quick[1]) < len(talk)
