"""Few bytes from a stranger do not take much memory, and large windows move in parts."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lix_cache import ArchiveTooLarge, CodecError, ConversationArchive, HuffmanCodec, InvalidMessage
from lix_cache.archive import encoding
from lix_cache.archive import header as header_flow
from lix_cache.archive import index as index_flow
from lix_cache.archive.columns import encode_turns
from lix_cache.config import CacheConfig
from lix_cache.errors import ArchiveCorrupt
from lix_cache.hot.window import HotWindow
from lix_cache.messages.turn import MessageId, Turn
from lix_cache.session import offload
from lix_cache.session.base import ask
from lix_cache.storage.varints import put_varint
from lix_cache.values.codec import decode_value, encode_value
from tests.support.lab import Process

MB = 1 << 20
NOW = 1_700_000_000.0
TURN = Turn(
    MessageId(1_700_000_000_000, 0), {"role": "user", "content": "x", "timestamp": NOW, "metadata": {}}
)


def varints(*values: int) -> bytes:
    out = bytearray()
    for value in values:
        put_varint(out, value)
    return bytes(out)


def section(kind: int, codec: int, raw: int, stored: bytes) -> bytes:
    return bytes((kind, codec)) + varints(raw, len(stored)) + stored


def columns_of_one() -> bytes:
    columns = encode_turns([TURN])[0]
    return section(5, 0, len(columns), columns)


def write(folder: Path, *frames: bytes) -> ConversationArchive:
    folder.mkdir(exist_ok=True)
    header = header_flow.encode_header(header_flow.FileHeader(NOW, "s"))
    (folder / "s.huff").write_bytes(header + b"".join(frames))
    return ConversationArchive(folder)


def frame(body: bytes, count: int = 1, total: int | None = None) -> bytes:
    index = index_flow.FrameIndex(
        count=count, total=total or count, updated_ms=int(NOW * 1000), first=TURN.id, last=TURN.id
    )
    return encoding._seal(body, index)


def peak_of(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def zstd(size: int) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    made = zstandard.ZstdCompressor(level=12, write_content_size=False).compressobj()
    return b"".join(made.compress(bytes(MB)) for _ in range(size // MB)) + made.flush()


def zstd_that_says_so(size: int) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    return bytes(zstandard.ZstdCompressor(write_content_size=True).compress(bytes(size)))


def deflate(size: int) -> bytes:
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"".join(made.compress(bytes(MB)) for _ in range(size // MB)) + made.flush()


def lz4(size: int) -> bytes:
    block = pytest.importorskip("lz4.block")
    return bytes(block.compress(bytes(size), store_size=False))


BOMBS: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "zstd": (4, zstd),
    "zstd with a size": (4, zstd_that_says_so),
    "deflate": (5, deflate),
    "lz4": (2, lz4),
    "huffman": (3, lambda size: HuffmanCodec.encode(bytes(size), level=2)),
    "hcv1": (1, lambda size: HuffmanCodec.encode(bytes(size), format=1)),
}


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("name", BOMBS)
def test_a_section_takes_a_small_multiple_of_its_frame(tmp_path: Path, name: str) -> None:
    codec, encode = BOMBS[name]
    size = 8 * MB if "huffman" in name or "hcv1" in name else 64 * MB
    stored = encode(size)
    archive = write(tmp_path / "a", frame(columns_of_one() + section(6, codec, size, stored)))

    def load() -> None:
        try:
            archive.load_all("s")
        except ArchiveCorrupt:
            return
        # Codecs that cannot shrink that much may hold it.
        assert size <= index_flow.FREE_BYTES + index_flow.RATIO * len(stored) + 1000

    allowed = index_flow.FREE_BYTES + index_flow.RATIO * len(stored) + 4 * len(stored)
    assert peak_of(load) < 4 * min(allowed, 2 * size) + 4 * MB


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("form", [1, 2])
def test_a_huffman_stream_that_holds_more_than_its_section_says_is_refused_before_it_is_decoded(
    tmp_path: Path, form: int
) -> None:
    stored = HuffmanCodec.encode(bytes(32 * MB), format=form)
    body = columns_of_one() + section(6, 1 if form == 1 else 3, 1, stored)
    archive = write(tmp_path / "a", frame(body))

    def load() -> None:
        with pytest.raises(ArchiveCorrupt):
            archive.load_all("s")

    assert peak_of(load) < 6 * len(stored) + 4 * MB


@pytest.mark.promise("bad-bytes")
def test_turns_of_no_bytes_are_refused_before_they_are_made(tmp_path: Path) -> None:
    # One role for all, ids that count: eight turns take a byte.
    count = 4_000_000
    raw = varints(3) + bytes((1, 0)) + bytes(count // 8) + b"\0"
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    stored = made.compress(raw) + made.flush()
    archive = write(tmp_path / "a", frame(section(5, 5, len(raw), stored), count))

    def load() -> None:
        with pytest.raises(ArchiveCorrupt):
            archive.load_all("s")

    assert peak_of(load) < 4 * MB


@pytest.mark.promise("bad-bytes")
def test_many_small_frames_take_a_small_multiple_of_their_file(tmp_path: Path) -> None:
    size = index_flow.FREE_BYTES
    one = frame(columns_of_one() + section(6, 5, size, zlib.compress(bytes(size), 9)[2:-4]))
    archive = write(tmp_path / "a", *[one] * 300)

    def load() -> None:
        try:
            archive.load_all("s")
        except ArchiveCorrupt:
            return

    assert peak_of(load) < 1000 * 300 * len(one)


@pytest.mark.promise("bad-bytes")
def test_extras_that_are_nested_deeper_than_what_is_written_are_refused(tmp_path: Path) -> None:
    columns = varints(2) + bytes((1 << 5,))
    for depth, refused in ((190, False), (400, True), (100_000, True)):
        words = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
        archive = write(
            tmp_path / "a", frame(section(5, 0, len(columns), columns) + section(6, 0, len(words), words))
        )
        if refused:
            with pytest.raises(ArchiveCorrupt):
                archive.load_all("s")
        else:
            assert len(archive.load_all("s") or []) == 1


@pytest.mark.promise("bad-bytes")
def test_a_cached_value_takes_a_small_multiple_of_its_bytes() -> None:
    raw = b"l" + varints(30 * MB) + b"l\0" * (30 * MB)
    packed = zlib.compress(raw, 9)
    head = bytes((1, 1)) + varints(len(raw), len(packed), 0)
    head += zlib.crc32(packed, zlib.crc32(head)).to_bytes(4, "little")

    def decode() -> None:
        with pytest.raises(CodecError):
            decode_value(head + packed)

    del raw
    assert peak_of(decode) < 4 * MB


@pytest.mark.promise("no-loss")
@pytest.mark.sampled(3)
@pytest.mark.parametrize("codec", ["huffman", "deflate", "lz4", "zstd", "stored", "hcv1"])
def test_what_shrinks_to_almost_nothing_is_written_so_that_it_can_be_read(tmp_path: Path, codec: str) -> None:
    archive = ConversationArchive(tmp_path / "a", codec=codec)
    large: list[dict[str, Any]] = [{"content": "a" * 3_000_000}, {"content": [0] * 500_000}]
    many: list[dict[str, Any]] = [{"role": "user", "content": "ok"}] * 20_000
    archive.append_turns("large", large)
    archive.append_turns("many", many[:10])
    archive.append_turns("many", many[10:])
    assert [turn["content"] for turn in archive.load_all("large") or []] == [t["content"] for t in large]
    assert len(archive.load_all("many") or []) == len(many)
    for session in ("large", "many"):
        assert archive.verify(session).is_intact  # type: ignore[union-attr]
    archive.compact(idle_seconds=0)
    assert len(archive.load_all("many") or []) == len(many)
    assert archive.verify("many").is_intact  # type: ignore[union-attr]


@pytest.mark.promise("no-loss")
def test_a_cached_value_that_shrinks_to_almost_nothing_comes_back() -> None:
    for value in ("word " * 1_000_000, bytes(2 * MB), [0] * 500_000):
        encoded = encode_value(value)
        assert decode_value(encoded.head, encoded.chunks) == value


@pytest.mark.promise("bad-bytes")
def test_a_frame_of_more_than_the_setting_allows_is_not_read_and_no_damage(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path / "a")
    archive.append_turn("s", {"content": "x" * 3_000_000})
    archive.append_turn("s", {"content": "small"})
    careful = ConversationArchive(tmp_path / "a", max_frame_mb=2)
    with pytest.raises(ArchiveTooLarge, match="max_frame_mb"):
        careful.load_all("s")
    assert careful.load_recent("s", 1) == [{"content": "small"}]
    careful.append_turn("s", {"content": "one more"})
    assert len(archive.load_all("s") or []) == 3
    assert careful.store.counters["damaged_reads"] == 0


# -- frames by bytes -----------------------------------------------------------------------


@pytest.mark.promise("no-loss")
def test_turns_that_no_frame_holds_go_into_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "WHOLE_FRAME_BYTES", 100_000)
    archive = ConversationArchive(tmp_path / "a", codec="stored")
    contents = [f"{number:06}" * 5000 for number in range(40)]
    archive.append_turns("s", [{"content": content} for content in contents])
    assert [turn["content"] for turn in archive.load_all("s") or []] == contents
    report = archive.verify("s")
    assert report is not None
    assert report.is_intact
    assert report.frames > 10


def test_a_turn_that_no_frame_holds_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: Any, **__: Any) -> bytes:
        raise encoding.FrameTooLarge("too large")

    archive = ConversationArchive(tmp_path / "a")
    archive.append_turn("s", {"content": "0"})
    monkeypatch.setattr(encoding, "_encode_frame", encode)
    with pytest.raises(InvalidMessage):
        archive.append_turns("s", [{"content": "1"}, {"content": "2"}])
    monkeypatch.undo()
    assert archive.load_all("s") == [{"content": "0"}]


# -- windows by bytes ----------------------------------------------------------------------


def contents(number: int, sizes: list[int]) -> list[str]:
    return [f"{number}.{i}" + "x" * size for i, size in enumerate(sizes)]


@pytest.mark.promise("no-loss")
@pytest.mark.promise("no-stall")
def test_no_answer_holds_more_than_its_share_and_one_message(
    redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So large that no add moves anything by itself.
    redis_config = redis_config.replace(hot_window_size=1000)
    monkeypatch.setattr(offload, "BYTES_AT_ONCE", 100_000)
    sizes = {
        0: [10] * 300,
        1: [200_000] * 5,
        2: [10] * 40 + [90_000] * 20 + [10],
        3: [30_000] * 9,
        4: [150_000],
    }
    for number, each in sizes.items():
        process = Process(redis_config, f"s{number}")
        for text in contents(number, each):
            process.add(text)
    answers: list[list[int]] = []
    real = HotWindow.oldest_turns

    def measured(reply: Any) -> Any:
        answers.append([len(data) for data in reply[2::2]])
        return real(reply)

    monkeypatch.setattr(HotWindow, "oldest_turns", staticmethod(measured))
    process = Process(redis_config, "s0")
    moved = process.drive(offload.move_to_disk(process.store, {f"s{number}": 0 for number in sizes}))
    assert not moved.failed
    assert moved.messages == sum(map(len, sizes.values()))
    for answer in answers:
        assert sum(answer) <= 101_000 or len(answer) == 1
    for number, each in sizes.items():
        process = Process(redis_config, f"s{number}")
        assert process.hot() == 0
        assert process.archived() == contents(number, each)


@pytest.mark.promise("no-loss")
def test_a_window_keeps_what_it_should_however_large_it_is(
    redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "BYTES_AT_ONCE", 1000)
    process = Process(redis_config, "s")
    texts = contents(0, [600] * 30)
    for text in texts:
        process.add(text)
    process.drive(offload.move_to_disk(process.store, {"s": 4}))
    assert process.hot() == 4
    assert process.archived() == texts[:-4]
    assert process.full() == texts


def test_a_window_is_read_page_by_page(redis_config: CacheConfig) -> None:
    process = Process(redis_config, "s")
    texts = contents(0, [100] * 50)
    for text in texts:
        process.add(text)
    hot, found, after = process.store.hot, [], None
    for _ in range(100):
        command = hot.oldest("s", keep=0, limit=2**31, max_bytes=1000, after=after)
        page = hot.oldest_turns(process.drive(ask(process.store, command)))
        found += [turn.body["content"] for turn in page.turns]
        if not page.has_more:
            break
        after = page.turns[-1].id
    assert found == texts


def test_the_head_of_version_1_streams_is_where_it_is_read() -> None:
    from lix_cache.huffman_codec._v2 import declared_size

    for data in (b"", b"a", b"abc" * 1000):
        for form in (1, 2):
            assert declared_size(HuffmanCodec.encode(data, format=form)) == len(data)
    with pytest.raises(CodecError):
        declared_size(struct.pack("<4s", b"HCv1"))
