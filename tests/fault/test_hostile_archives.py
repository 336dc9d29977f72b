"""What a file holds, or what was put into it, does not decide how much work it makes."""

from __future__ import annotations

import random
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lix_cache import ArchiveCorrupt, ConversationArchive, RedisCommandError
from lix_cache.archive import checksums, decoding, encoding, header, index, reading
from lix_cache.archive import index as index_flow
from lix_cache.archive.checksums import Checksums
from lix_cache.archive.codecs import packer
from lix_cache.archive.doubts import Doubts, Link, doubts_about
from lix_cache.config import CacheConfig
from lix_cache.messages.turn import LARGEST_MS, MessageId, Turn, to_turn
from lix_cache.session import offload
from lix_cache.session import whole as whole_flow
from tests.fault.files import CountingFiles
from tests.support.lab import Process
from tests.support.twins import ManualClock, Twins

MS = 1_700_000_000_000
STORED = packer("stored")


def turn(number: int, *, seq: int = 0, text: str = "", nonce: bytes | None = None) -> Turn:
    return to_turn({"content": text or str(number)}, MessageId(MS + number, seq), nonce or b"%06d" % number)


def put(archive: ConversationArchive, *turns: Turn, contested: bool = False) -> int:
    with archive.store.lock("s"):
        return archive.store.append_locked("s", turns, contested=contested)


def texts(archive: ConversationArchive) -> list[str]:
    return [one.body["content"] for one in archive.store.turns("s")]


def cost(archive: ConversationArchive, files: CountingFiles, number: int) -> tuple[int, int]:
    """Append one message; return how often was read, and how many bytes."""
    files.reads = files.bytes_read = 0
    assert put(archive, turn(number)) == 1
    return files.reads, files.bytes_read


# -- messages in doubt ---------------------------------------------------------------------


@pytest.mark.promise("no-stall")
def test_an_append_does_not_read_all_that_was_ever_contested(tmp_path: Path) -> None:
    files = CountingFiles()
    archive = ConversationArchive(tmp_path, files=files)
    put(archive, turn(0, text="first"))
    plain = cost(archive, files, 1)
    for number in range(2, 502):
        put(archive, turn(number, seq=2**46, text="x" * 300), contested=True)
    reads, count = cost(archive, files, 600)
    assert reads <= plain[0] + 20
    assert count <= plain[1] + 40_000
    put(archive, *(turn(700 + number, text="y" * 1000) for number in range(400)))
    assert cost(archive, files, 2000)[0] <= reads


@pytest.mark.promise("no-stall")
def test_an_append_does_not_read_the_messages_of_a_large_contested_frame(tmp_path: Path) -> None:
    files = CountingFiles()
    archive = ConversationArchive(tmp_path, codec="stored", files=files)
    put(archive, turn(0))
    put(archive, *(turn(number, text="x" * 100_000) for number in range(1, 50)), contested=True)
    assert cost(archive, files, 100)[1] < 10_000


@pytest.mark.promise("no-stall")
def test_compaction_leaves_one_frame_to_be_looked_at(tmp_path: Path) -> None:
    files = CountingFiles()
    archive = ConversationArchive(tmp_path, files=files)
    for number in range(300):
        put(archive, turn(number, seq=2**46), contested=number % 3 == 0)
    before = texts(archive)
    assert archive.compact(idle_seconds=0).compacted == 1
    assert texts(archive) == before
    frames = [frame.index for frame in decoding.scan((tmp_path / "s.huff").read_bytes()).frames]
    assert [index.doubts for index in frames] == [100] + [0] * (len(frames) - 1)
    assert cost(archive, files, 1000)[0] <= 8
    copies = [turn(2000 + number, nonce=b"%06d" % number) for number in range(0, 300, 3)]
    assert put(archive, *copies) == 0


@pytest.mark.promise("no-loss")
def test_every_message_in_doubt_is_recognised_however_many_there_are(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    for number in range(150):
        put(archive, turn(number, seq=2**46), contested=number % 2 == 0)
    expected = texts(archive)
    for number in range(0, 150, 2):
        late = turn(10_000 + number, nonce=b"%06d" % number)
        new = turn(20_000 + number)
        assert put(archive, late, new) == 1
    assert texts(archive) == expected + [str(20_000 + number) for number in range(0, 150, 2)]


@pytest.mark.promise("no-loss")
def test_what_is_in_doubt_is_left_out_only_where_the_file_has_it(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    put(archive, turn(0))
    path = tmp_path / "s.huff"
    data = path.read_bytes()
    before = decoding.scan(data).frames[-1].index
    doubts = Doubts({b"000007": turn(7).id}, len(data))
    path.write_bytes(data + encoding.encode_frames([turn(1)], before, MS, STORED, doubts=doubts))
    assert put(archive, turn(7)) == 1
    assert put(archive, turn(8, nonce=b"000007")) == 0
    assert texts(archive) == ["0", "1", "7"]


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("how", ["header", "doubts", "chain"])
def test_a_chain_that_is_broken_is_begun_anew(tmp_path: Path, how: str) -> None:
    files = CountingFiles()
    archive = ConversationArchive(tmp_path, files=files)
    for number in range(200):
        put(archive, turn(number, seq=2**46, text="x" * 200), contested=number % 10 == 0)
    put(archive, *(turn(300 + number) for number in range(3)))
    path = tmp_path / "s.huff"
    data = bytearray(path.read_bytes())
    frames = decoding.scan(bytes(data)).frames
    last = next(frame for frame in reversed(frames) if frame.index.doubts)
    if how == "header":
        data[20] ^= 1
    elif how == "doubts":
        data[last.end - 60] ^= 1
    else:
        data[last.offset] ^= 1
    path.write_bytes(data)
    put(archive, turn(1000))
    assert cost(archive, files, 1001)[0] <= 25
    assert put(archive, turn(2000, nonce=b"%06d" % 50), turn(2001, nonce=b"%06d" % 150)) == 0


@pytest.mark.promise("no-stall")
def test_a_chain_against_the_rules_is_begun_anew(tmp_path: Path) -> None:
    parts, index = [header.encode_header(header.FileHeader(1.0, "s"))], index_flow.EMPTY
    for number in range(3000):
        at = sum(map(len, parts)) if number < 2 else at + len(parts[-1])  # noqa: F821
        doubts = Doubts({b"%06d" % number: turn(number).id}, at, index.contested_at)
        parts.append(encoding.encode_frames([turn(number)], index, MS, STORED, doubts=doubts))
        index = encoding.index_of(parts[-1])
    (tmp_path / "s.huff").write_bytes(b"".join(parts))
    files = CountingFiles()
    archive = ConversationArchive(tmp_path, files=files)
    put(archive, turn(5000))
    assert cost(archive, files, 5001)[0] <= 8
    assert put(archive, turn(6000, nonce=b"000017")) == 0


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("at", [2**62, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("before", [0, 2**63, 2**64 - 1])
def test_a_file_that_points_beyond_any_offset_stops_no_session(
    redis_config: CacheConfig, at: int, before: int
) -> None:
    config = redis_config
    crafted, good = Process(config, "crafted"), Process(config, "good")
    crafted.add("x")
    crafted.flush()
    path = Path(config.archive_dir) / "crafted.huff"
    data = path.read_bytes()
    frame = decoding.scan(data).frames[-1]
    body = data[frame.offset + 8 : frame.end - 13 - data[-13]]
    index = replace(frame.index, contested_at=at, contested_before=before, doubts=1)
    path.write_bytes(data[: frame.offset] + encoding._seal(body, index))
    for process in (crafted, good):
        for number in range(5):
            process.add(str(number))
    other = Process(config, "crafted")
    other.add("6")
    moved = other.drive(offload.move_to_disk(other.store, {"crafted": 0, "good": 0}))
    assert (moved.failed, moved.sessions, good.hot()) == ({}, 2, 0)
    assert Process(config, "crafted").full() == ["x", "0", "1", "2", "3", "4", "6"]
    assert len(other.archive.look("crafted").contested) <= 1
    assert other.drive(whole_flow.delete(other.session))


@pytest.mark.promise("no-stall")
def test_a_look_reads_what_is_in_doubt_and_not_the_messages(tmp_path: Path) -> None:
    files = CountingFiles()
    store = ConversationArchive(tmp_path, files=files).store
    with store.lock("s"):
        store.append_locked("s", [turn(0, text="in doubt")], contested=True)
        for start in range(1, 2001, 100):
            store.append_locked("s", [turn(number, text="x" * 500) for number in range(start, start + 100)])
    files.reads = files.bytes_read = 0
    assert store.look("s").contested == {b"000000": turn(0).id}
    assert files.reads <= 6
    assert files.bytes_read < 2000


@pytest.mark.promise("no-stall")
def test_what_comes_back_from_the_trash_is_no_more_in_doubt_than_it_was(tmp_path: Path) -> None:
    store = ConversationArchive(tmp_path).store
    with store.lock("s"):
        store.append_locked("s", [turn(0, text="in doubt")], contested=True)
        store.append_locked("s", [turn(number) for number in range(1, 300)])
        assert store.trash_locked("s", store.now())
        store.append_locked("s", [turn(1000)])
        store.append_locked("s", [turn(1001, text="in doubt, too")], contested=True)
        assert store.restore_locked("s")
        doubts = {b"000000": turn(0).id, b"001001": turn(1001).id}
        assert store.look("s").contested == doubts
        # Where its copy comes, it is recognised all the same.
        assert store.append_locked("s", [turn(2000, nonce=b"000000"), turn(2001, nonce=b"001001")]) == 0
        store.delete_locked("s")
        assert store.look("s").contested.keys() == doubts.keys()


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize("how", ["chain", "middle", "first"])
def test_a_chain_that_is_broken_puts_no_message_in_doubt_that_was_not(tmp_path: Path, how: str) -> None:
    archive = ConversationArchive(tmp_path)
    for number in range(100):
        put(archive, turn(number, text="x" * 50), contested=number in (30, 60, 61))
    path = tmp_path / "s.huff"
    data = bytearray(path.read_bytes())
    frames = decoding.scan(bytes(data)).frames
    if how == "chain":
        at = frames[-1]
        body = bytes(data[at.offset + 8 : at.end - 13 - data[-13]])
        data[at.offset :] = encoding._seal(body, replace(at.index, contested_at=at.offset - 1))
    else:
        data[frames[61 if how == "middle" else 0].offset + 20] ^= 1
        data[frames[61].offset] ^= how == "first"
    path.write_bytes(data)
    store = archive.store
    in_doubt = {b"%06d" % number for number in (30, 60, 61)}
    assert store.look("s").contested.keys() <= in_doubt
    put(archive, turn(500), contested=True)
    put(archive, turn(501))
    assert {b"000030", b"000060", b"000500"} <= store.look("s").contested.keys() <= in_doubt | {b"000500"}
    assert put(archive, turn(600, nonce=b"000030"), turn(601, nonce=b"000060")) == 0


@pytest.mark.promise("no-loss")
def test_of_a_file_that_was_written_whole_nothing_in_doubt_is_forgotten(tmp_path: Path) -> None:
    """Its first frame says for all of it what is in doubt: where it is gone, that is not known."""
    archive = ConversationArchive(tmp_path)
    turns = [turn(number) for number in range(300)]
    doubts = {b"000250": turn(250).id}
    whole = encoding.encode_file(header.FileHeader(1.0, "s"), turns, MS, STORED, contested=doubts)
    data = bytearray(whole)
    data[decoding.scan(whole).frames[0].offset + 20] ^= 1
    (tmp_path / "s.huff").write_bytes(data)
    assert put(archive, turn(500, nonce=b"000250"), turn(501)) == 1


@pytest.mark.promise("no-loss")
def test_a_message_whose_frame_was_damaged_counts_where_it_came_again(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    put(archive, turn(0))
    put(archive, turn(1, text="in doubt"), contested=True)
    put(archive, turn(2), contested=True)
    data = bytearray((tmp_path / "s.huff").read_bytes())
    data[decoding.scan(bytes(data)).frames[1].offset + 20] ^= 1
    (tmp_path / "s.huff").write_bytes(data)
    again = turn(7, text="in doubt", nonce=b"000001")
    assert put(archive, again) == 1
    assert archive.store.look("s").contested[b"000001"] == again.id


def test_the_chain_is_short_and_no_doubt_is_written_often() -> None:
    chain: list[tuple[int, Link]] = []
    written = longest = 0
    for number in range(5000):
        head = chain[0][0] if chain else 0
        own = doubts_about([turn(number)])
        made = Doubts.linked(own, number + 1, head, [link for _, link in chain])
        written += len(made.ids)
        link = Link(made.packed()[:-4], made.before)
        chain = [(made.at, link), *(one for one in chain if one[0] <= made.before)]
        longest = max(longest, len(chain))
        assert chain[0][1].before == (chain[1][0] if len(chain) > 1 else 0)
    nonces = {b"%06d" % number for number in range(5000)}
    assert frozenset[bytes]().union(*(link for _, link in chain)) == nonces
    assert all(any(nonce in link for _, link in chain) for nonce in nonces)
    assert not any(nonce in link for _, link in chain for nonce in (b"", b"000000x", b"zzzzzz", None))
    assert longest <= 8
    assert written / 5000 < 60


# -- damage ----------------------------------------------------------------------------------


def test_the_checksum_of_any_part_is_that_of_zlib() -> None:
    data = random.Random(5).randbytes(5000)
    found = Checksums(data)
    parts = [(0, 0), (0, 5000), (5000, 5000), (511, 512), (512, 1024), (1, 4999)]
    parts += [tuple(sorted(random.Random(i).choices(range(5001), k=2))) for i in range(500)]
    assert all(found.of(start, end) == zlib.crc32(data[start:end]) for start, end in parts)


def nested(count: int) -> bytes:
    """Frames that begin one in another: all is right of each but the CRC of the body."""
    heads, tails, position = [], [], 0
    body_length = 8 * count
    entry = index_flow.encode_index(index_flow.FrameIndex(kind=1, in_order=True, total=1, updated_ms=MS))
    tail_length = len(entry) + 13
    for number in range(count):
        start = 8 * number
        end = body_length + tail_length * (number + 1)
        length = end - start
        heads.append(index_flow.SYNC + struct.pack("<I", length))
        middle = entry + struct.pack("<BI", len(entry), 1)
        tails.append(middle + struct.pack("<II", zlib.crc32(middle), length))
        position = end
    data = b"".join(heads + tails)
    assert len(data) == position
    return data


class Work:
    """Counts the bytes that go through CRC-32."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = self.calls = 0
        for module in (index, decoding, checksums):
            monkeypatch.setattr(module, "crc32", self)

    def __call__(self, data: Any, *start: int) -> int:
        self.bytes += len(data)
        self.calls += 1
        return zlib.crc32(data, *start)


@pytest.mark.promise("no-stall")
def test_the_next_good_frame_is_looked_for_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    good = encoding.encode_frames([turn(1)], index_flow.EMPTY, MS, STORED)
    head = header.encode_header(header.FileHeader(1.0, "s"))
    # Good frames between: a reader that restarts after each of them is quadratic too.
    for files in (
        lambda n: head + nested(n) + good,
        lambda n: head + b"".join(nested(n // 20) + good for _ in range(20)),
        lambda n: head + (index_flow.SYNC + struct.pack("<I", 8 * n)) * n + bytes(8 * n) + good,
        lambda n: head + index_flow.SYNC * (2 * n) + good,
    ):
        spent = []
        for count in (2_000, 8_000):
            data = files(count)
            with monkeypatch.context() as patched:
                work = Work(patched)
                found = decoding.scan(data)
            assert found.frames[-1].end == len(data)
            spent.append((work.bytes / len(data), work.calls / count))
        assert spent[1][0] <= 1.2 * spent[0][0] + 1
        assert spent[1][1] <= 1.2 * spent[0][1] + 1
        assert spent[1][0] < 200


@pytest.mark.promise("no-stall")
def test_the_last_messages_of_a_file_that_says_it_is_out_of_order_are_found_in_linear_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, index = [header.encode_header(header.FileHeader(1.0, "s"))], index_flow.EMPTY
    liar = index_flow.FrameIndex(earlier=MessageId(LARGEST_MS, 0))
    for number in range(3000):
        lie = index_flow.FrameIndex(total=number, earlier=liar.earlier)
        parts.append(encoding.encode_frames([turn(number)], lie, MS, STORED))
        index = encoding.index_of(parts[-1])
    assert not index.in_order
    (tmp_path / "s.huff").write_bytes(b"".join(parts))
    steps: Counter[str] = Counter()
    for name in ("heappush", "heappop", "largest_before"):
        real = getattr(reading, name)
        monkeypatch.setattr(
            reading, name, lambda *args, real=real, name=name: (steps.update([name]), real(*args))[1]
        )
    archive = ConversationArchive(tmp_path)
    assert [message["content"] for message in archive.load_recent("s", 3) or []] == ["2997", "2998", "2999"]
    assert max(steps.values()) <= 3000


# -- numbers near their limits -----------------------------------------------------------------


def crafted(
    tmp_path: Path, turns: Sequence[Turn], index: index_flow.FrameIndex = index_flow.EMPTY
) -> ConversationArchive:
    head = header.encode_header(header.FileHeader(1.0, "s"))
    (tmp_path / "s.huff").write_bytes(head + encoding.encode_frames(turns, index, MS, STORED))
    return ConversationArchive(tmp_path, clock=ManualClock(MS / 1000))


def ids_near_limits() -> list[MessageId]:
    near = [0, 1, 2**46, 2**52 - 1, 2**52, 2**63, 2**64 - 2, 2**64 - 1]
    return [MessageId(ms, seq) for ms in (1, MS, LARGEST_MS - 1, LARGEST_MS) for seq in near]


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("largest", ids_near_limits())
@pytest.mark.parametrize("where", ["last", "earlier", "cleared"])
def test_an_append_is_acknowledged_only_if_it_can_be_read_back(
    tmp_path: Path, largest: MessageId, where: str
) -> None:
    if where == "last":
        archive = crafted(tmp_path, [Turn(largest, {"content": "crafted"})])
    else:
        index = index_flow.FrameIndex(**{where: largest})
        archive = crafted(tmp_path, [Turn(MessageId(1, 1), {"content": "crafted"})], index)
    done, refused = ["crafted"], False
    for text in ("a", "b"):
        try:
            archive.append_turn("s", {"content": text})
            done.append(text)
        except ArchiveCorrupt:
            refused = True
        assert sorted(texts(archive)) == sorted(done)
    assert refused == (largest.ms == LARGEST_MS and largest.seq >= 2**52 - 1)
    # And what a window moves here, whose ids are those of Redis.
    for number, one in enumerate((turn(1), turn(1, nonce=b"nonce2"), Turn(largest, {"content": "last"}))):
        try:
            if put(archive, one):
                done.append(one.body["content"])
        except ArchiveCorrupt:
            assert number == 2
        assert sorted(texts(archive)) == sorted(done)


@pytest.mark.promise("no-loss")
def test_a_frame_of_ids_that_no_clock_gives_is_set_aside_as_other_damage(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    archive.append_turn("s", {"content": "a"})
    path = tmp_path / "s.huff"
    data = path.read_bytes()
    index = index_flow.FrameIndex(
        count=1, total=2, first=MessageId(2**64 - 1, 5), last=MessageId(2**64 - 1, 5), updated_ms=MS
    )
    path.write_bytes(data + encoding._seal(b"", index))
    archive.append_turn("s", {"content": "b"})
    assert texts(archive) == ["a", "b"]
    assert (tmp_path / "s.huff.damaged-1").exists()


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("total", [2**63 - 1, 2**63, 2**64 - 1])
def test_a_total_that_is_used_up_keeps_no_message_out(tmp_path: Path, total: int) -> None:
    archive = crafted(tmp_path, [turn(0)])
    path = tmp_path / "s.huff"
    data = path.read_bytes()
    index = index_flow.FrameIndex(kind=1, total=total, updated_ms=MS, earlier=MessageId(MS, 0))
    path.write_bytes(data + encoding._seal(b"", index))
    archive.append_turn("s", {"content": "b"})
    assert texts(archive) == ["0", "b"]


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("now", [-5.0, 0.0, 1e12, 1e18])
def test_no_clock_makes_a_frame_that_cannot_be_read(tmp_path: Path, now: float) -> None:
    archive = ConversationArchive(tmp_path, clock=ManualClock(now))
    done = []
    for number in range(3):
        try:
            archive.append_turn("s", {"content": str(number)})
            done.append(str(number))
        except ArchiveCorrupt:
            assert now > 1e11
        put(archive, turn(number, text=f"moved {number}"))
        done.append(f"moved {number}")
    assert sorted(texts(archive)) == sorted(done)
    assert archive.verify("s").is_intact  # type: ignore[union-attr]


@pytest.mark.parametrize("created", [float("nan"), float("inf"), -1.0, 1e300])
def test_a_file_made_at_a_time_that_no_clock_gives_has_a_time(tmp_path: Path, created: float) -> None:
    head = header.encode_header(header.FileHeader(created, "s"))
    (tmp_path / "s.huff").write_bytes(head + encoding.encode_frames([turn(0)], index_flow.EMPTY, MS, STORED))
    meta = ConversationArchive(tmp_path).get_metadata("s")
    assert meta is not None
    assert meta["created_at"] == 0.0


@pytest.mark.promise("no-loss")
def test_an_add_is_acknowledged_only_if_the_archive_can_hold_it(
    twins: Twins, redis_config: CacheConfig
) -> None:
    folder = Path(redis_config.archive_dir)
    folder.mkdir(parents=True)
    crafted(folder, [Turn(MessageId(LARGEST_MS, 2**64 - 1), {"content": "crafted"})])
    cache = twins.make("HybridConversationCache", "s", redis_config)
    done = ["crafted"]
    for number in range(3):
        try:
            cache.add_message("user", str(number))
            done.append(str(number))
        except (ArchiveCorrupt, RedisCommandError):
            pass
    assert sorted(message["content"] for message in cache.get_full()) == sorted(done)
    cache.flush_to_disk()
    assert sorted(message["content"] for message in cache.get_full()) == sorted(done)


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("seq", [0, 2**46, 2**63])
def test_a_window_goes_on_after_messages_from_the_end_of_time(
    twins: Twins, redis_config: CacheConfig, seq: int
) -> None:
    folder = Path(redis_config.archive_dir)
    folder.mkdir(parents=True)
    crafted(folder, [Turn(MessageId(LARGEST_MS - 1, seq), {"content": "crafted"})])
    cache = twins.make("HybridConversationCache", "s", redis_config)
    cache.get_context()
    for number in range(3):
        cache.add_message("user", str(number))
    cache.flush_to_disk()
    assert [message["content"] for message in cache.get_full()] == ["crafted", "0", "1", "2"]


@pytest.mark.promise("no-stall")
def test_a_file_whose_every_frame_takes_something_out_is_read_in_linear_time(tmp_path: Path) -> None:
    parts = [header.encode_header(header.FileHeader(1.0, "s"))]
    index = index_flow.EMPTY
    count = 3000
    for number in range(count):
        parts.append(encoding.encode_frames([turn(number)], index, MS, STORED))
        index = encoding.index_of(parts[-1])
    for number in range(0, count, 2):
        change = encoding.Change([turn(number).id])
        parts.append(encoding.encode_change([], index, MS, STORED, change))
        index = encoding.index_of(parts[-1])
    (tmp_path / "s.huff").write_bytes(b"".join(parts))
    archive = ConversationArchive(tmp_path)
    expected = [str(number) for number in range(1, count, 2)]
    looked = 0

    class Counting(MessageId):
        def __hash__(self) -> int:
            nonlocal looked
            looked += 1
            return tuple.__hash__(self)

    real = decoding.decode

    def counting(*args: Any) -> Any:
        found = real(*args)
        for one in found.turns:
            one.__dict__["id"] = Counting(*one.id)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "decode", counting)
        for read in (
            lambda: archive.load_all("s") or [],
            lambda: archive.load_recent("s", count),
            lambda: [t.body for t in archive.store.between("s", count, newest=False)],
        ):
            looked = 0
            assert [message["content"] for message in read()] == expected
            assert looked <= 8 * count


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("taken", [1, 2, 2**40])
def test_a_frame_that_says_that_it_takes_out_more_than_it_does_is_damage(taken: int) -> None:
    frame = encoding.encode_change([], index_flow.EMPTY, MS, STORED, encoding.Change([]))
    size = frame[-index_flow.FRAME_END.size]
    body = frame[index_flow.FRAME_HEAD.size : len(frame) - index_flow.FRAME_END.size - size]
    liar = replace(encoding.index_of(frame), taken=taken, removed=taken)
    crafted = encoding._seal(body, liar)
    found = index_flow.index_at_end(crafted, len(crafted))
    assert found is not None
    with pytest.raises(ArchiveCorrupt):
        decoding.decode(crafted, found)
