"""Compaction makes fewer frames of the same turns, and leaves alone what it must."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from lix_cache import ConversationArchive, StoreAdmin
from lix_cache.archive import compaction as compaction_module
from lix_cache.archive import decoding, encoding
from lix_cache.archive import index as index_flow
from lix_cache.config import CacheConfig
from lix_cache.messages.turn import MessageId, Turn, to_turn
from tests.support.twins import ManualClock, Twins

MS = 1_700_000_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(MS / 1000)


@pytest.fixture
def archive(tmp_path: Path, clock: ManualClock) -> ConversationArchive:
    return ConversationArchive(tmp_path, clock=clock)


def message(number: int) -> dict[str, Any]:
    return {
        "role": "assistant" if number % 2 else "user",
        "content": f"What is {number} times {number}? It is {number * number}.",
        "timestamp": 1_600_000_000.0 + number,
        "metadata": {"model": "m"} if number % 5 == 0 else {},
    }


def fill(
    archive: ConversationArchive, turns: int, session: str = "s", size: int = 10
) -> list[dict[str, Any]]:
    messages = [message(number) for number in range(turns)]
    for start in range(0, turns, size):
        archive.append_turns(session, messages[start : start + size])
    return messages


def frames(archive: ConversationArchive, session: str = "s") -> list[index_flow.FrameIndex]:
    data = archive.store.raw(session)
    assert data is not None
    found = decoding.scan(data)
    assert found.is_clean
    return [frame.index for frame in found.frames]


def put(archive: ConversationArchive, *turns: Turn, contested: bool = False) -> None:
    with archive.store.lock("s"):
        archive.store.append_locked("s", turns, contested=contested)


def test_small_frames_become_few_and_every_turn_stays(
    archive: ConversationArchive, clock: ManualClock
) -> None:
    messages = fill(archive, 205)
    meta, turns = archive.get_metadata("s"), archive.store.turns("s")
    assert meta is not None
    clock.advance(7200)
    done = archive.compact()
    assert (done.files, done.compacted, done.active, done.failed) == (1, 1, 0, {})
    assert (done.frames_before, done.frames_after) == (21, 4)
    assert done.bytes_before == meta["size_bytes"]
    assert done.bytes_after < 0.75 * done.bytes_before
    assert [index.count for index in frames(archive)] == [64, 64, 64, 13]
    again = ConversationArchive(archive.archive_dir, on_damage="raise")
    assert again.store.turns("s") == turns
    assert again.load_all("s") == messages
    # Neither its age nor anything else but its size has changed.
    assert again.get_metadata("s") == {**meta, "size_bytes": done.bytes_after}
    report = again.verify("s")
    assert report is not None
    assert report.problems == ()
    assert archive.store.counters["compactions"] == 1


def test_a_second_time_there_is_nothing_to_win(archive: ConversationArchive, clock: ManualClock) -> None:
    fill(archive, 70)
    fill(archive, 5, "one frame")
    clock.advance(7200)
    assert archive.compact().compacted == 1
    before = archive.store.raw("s")
    done = archive.compact()
    assert (done.files, done.compacted, done.active) == (2, 0, 0)
    assert archive.store.raw("s") == before


def test_full_frames_are_taken_over_as_they_are(archive: ConversationArchive, clock: ManualClock) -> None:
    messages = fill(archive, 130)
    clock.advance(7200)
    archive.compact()
    first = archive.store.raw("s") or b""
    end = decoding.scan(first).frames[1].end
    messages += fill(archive, 20)
    clock.advance(7200)
    assert archive.compact().frames_after == 3
    assert (archive.store.raw("s") or b"")[:end] == first[:end]
    assert archive.load_all("s") == messages


def test_frames_stay_small_enough_to_read_the_last_turns_cheaply(
    archive: ConversationArchive, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction_module, "MAX_BYTES", 2_000)
    messages = fill(archive, 200)
    clock.advance(7200)
    done = archive.compact()
    data = archive.store.raw("s") or b""
    assert all(frame.length <= 2_100 for frame in decoding.scan(data).frames)
    assert 1 < done.frames_after < done.frames_before
    assert archive.load_recent("s", 30) == messages[-30:]


def test_a_session_in_use_is_left_alone(archive: ConversationArchive, clock: ManualClock) -> None:
    fill(archive, 30)
    fill(archive, 30, "locked")
    clock.advance(60)
    before = archive.store.raw("s")
    done = archive.compact(["s"], idle_seconds=61)
    assert (done.compacted, done.active) == (0, 1)
    with archive.store.lock("locked"):
        done = archive.compact(["locked"], idle_seconds=0)
    assert (done.compacted, done.active) == (0, 1)
    assert archive.store.raw("s") == before
    assert archive.compact(idle_seconds=60).compacted == 2


def test_a_dry_run_says_what_would_be_and_changes_nothing(
    archive: ConversationArchive, clock: ManualClock
) -> None:
    fill(archive, 40)
    before = archive.store.raw("s")
    would_be = archive.compact(idle_seconds=0, dry_run=True)
    assert archive.store.raw("s") == before
    assert archive.compact(idle_seconds=0) == would_be
    assert would_be.compacted == 1


def test_what_was_cleared_stays_cleared(archive: ConversationArchive) -> None:
    messages = fill(archive, 20)
    with archive.store.lock("s"):
        archive.store.clear_locked("s")
    messages += fill(archive, 3)
    archive.compact(idle_seconds=0)
    assert len(frames(archive)) == 1
    in_context = archive.store.recent("s", 50, in_context=True)
    assert [turn.body for turn in in_context] == messages[20:]
    assert archive.load_all("s") == messages
    fill(archive, 2)
    assert len(archive.store.recent("s", 50, in_context=True)) == 5


def test_messages_out_of_order_come_into_order(archive: ConversationArchive) -> None:
    for ms in (5, 3, 9, 1):
        put(archive, to_turn({"content": str(ms)}, MessageId(ms, 0)))
    archive.compact(idle_seconds=0)
    assert [index.in_order for index in frames(archive)] == [True]
    assert [turn.body["content"] for turn in archive.store.turns("s")] == ["1", "3", "5", "9"]


# -- nonces ------------------------------------------------------------------------------


def test_nonces_go_when_a_day_has_passed(archive: ConversationArchive, clock: ManualClock) -> None:
    for number in range(3):
        put(archive, to_turn({"content": str(number)}, MessageId(MS + number, 0), b"nonce%d" % number))
    clock.advance(86_300)
    archive.compact(idle_seconds=0)
    assert [turn.nonce for turn in archive.store.turns("s")] == [b"nonce0", b"nonce1", b"nonce2"]
    put(archive, to_turn({"content": "3"}, MessageId(MS + 86_300_000, 0), b"nonce3"))
    clock.advance(86_401)
    archive.compact(idle_seconds=0)
    assert [turn.nonce for turn in archive.store.turns("s")] == [None] * 4
    assert not frames(archive)[0].has_nonces


@pytest.mark.promise("no-loss")
def test_nonces_of_contested_messages_stay_for_ever(archive: ConversationArchive, clock: ManualClock) -> None:
    put(archive, to_turn({"content": "0"}, MessageId(MS, 0), b"nonce0"))
    put(archive, to_turn({"content": "1"}, MessageId(MS + 1, 2**46), b"nonce1"), contested=True)
    put(archive, *(to_turn({"content": f"2.{n}"}, MessageId(MS + 2 + n, 2**46)) for n in range(64)))
    put(archive, to_turn({"content": "3"}, MessageId(MS + 99, 2**46), b"nonce3"), contested=True)
    clock.advance(10 * 86400)
    assert archive.compact().frames_after == 2
    nonces = {turn.body["content"]: turn.nonce for turn in archive.store.turns("s")}
    assert (nonces["1"], nonces["2.1"], nonces["3"]) == (b"nonce1", None, b"nonce3")
    first, last = frames(archive)
    assert 0 < first.contested_at == last.contested_at
    assert (first.doubts, last.doubts) == (2, 0)
    # The hot copy of a contested message is recognised however late it comes.
    put(archive, to_turn({"content": "1"}, MessageId(MS + 10**9, 0), b"nonce1"))
    put(archive, to_turn({"content": "3"}, MessageId(MS + 10**9, 1), b"nonce3"))
    assert len(archive.store.turns("s")) == 67


# -- what cannot be compacted ---------------------------------------------------------------


def test_a_frame_that_is_intact_and_cannot_be_decoded_is_never_dropped(archive: ConversationArchive) -> None:
    fill(archive, 30)
    path = Path(archive.archive_dir, "s.huff")
    data = path.read_bytes()
    frame = decoding.scan(data).frames[1]
    # A section of a codec of the future, under right CRCs.
    body = data[frame.offset + 8 : frame.end - 13 - data[frame.end - 13]]
    strange = encoding._seal(body[:1] + b"\x63" + body[2:], frame.index)
    path.write_bytes(data[: frame.offset] + strange + data[frame.end :])
    before = path.read_bytes()
    done = archive.compact(idle_seconds=0)
    assert done.compacted == 0
    assert "codec 99 is not known" in done.failed["s"]
    assert path.read_bytes() == before


def test_a_file_with_a_damaged_header_waits_for_its_owner(archive: ConversationArchive) -> None:
    messages = fill(archive, 30)
    path = Path(archive.archive_dir, "s.huff")
    path.write_bytes(b"X" + path.read_bytes()[1:])
    before = path.read_bytes()
    assert archive.compact(["s"], idle_seconds=0).compacted == 0
    assert path.read_bytes() == before
    archive.append_turn("s", message(1))
    assert archive.compact(["s"], idle_seconds=0).compacted == 1
    assert archive.load_all("s") == [*messages, message(1)]


def test_a_version_1_file_and_no_file_are_left_alone(archive: ConversationArchive, tmp_path: Path) -> None:
    import struct

    from lix_cache import HuffmanCodec

    text = HuffmanCodec.encode(b'[{"content":"a"},{"content":"b"}]', format=1)
    (tmp_path / "old.huff").write_bytes(struct.pack("<4sddI", b"CAv1", 5.0, 6.0, 2) + text)
    done = archive.compact(["old", "none"], idle_seconds=0)
    assert (done.files, done.compacted, done.failed) == (2, 0, {})


def test_an_empty_archive_is_compact(tmp_path: Path) -> None:
    done = ConversationArchive(tmp_path / "not there").compact()
    assert (done.files, done.compacted) == (0, 0)


# -- who may call it -------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["sync", "async"])
def test_both_variants_tell_how_far_they_are(variant: str, tmp_path: Path) -> None:
    twins = Twins(variant)
    told: list[tuple[int, int]] = []
    archive = twins.make("ConversationArchive", tmp_path)
    for session in ("a", "b"):
        for number in range(3):
            archive.append_turn(session, message(number))
    done = archive.compact(idle_seconds=0, on_progress=lambda *step: told.append(step))
    assert (done.compacted, done.frames_after) == (2, 2)
    assert told == [(0, 2), (1, 2), (2, 2)]
    twins.close()


def test_the_keeper_of_a_store_compacts_without_redis(tmp_path: Path) -> None:
    config = CacheConfig(archive_dir=str(tmp_path), redis_port=1, evict_after_minutes=0)
    fill(ConversationArchive(tmp_path), 30)
    admin = StoreAdmin(config)
    assert StoreAdmin(config.replace(evict_after_minutes=5)).compact().active == 1
    assert admin.compact(dry_run=True).compacted == 1
    assert admin.compact(session_ids=["s"]).compacted == 1


def test_readers_and_writers_beside_it_see_every_turn_once(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    messages = fill(archive, 60)
    stop, wrong = threading.Event(), []

    def read() -> None:
        reader = ConversationArchive(tmp_path, on_damage="raise")
        while not stop.is_set():
            found = reader.load_all("s") or []
            recent = reader.load_recent("s", 25)
            if [m["content"] for m in found[:60]] != [m["content"] for m in messages] or len(recent) != 25:
                wrong.append((found, recent))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(25):
        archive.append_turn("s", message(number))
        archive.compact(["s"], idle_seconds=0)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert archive.load_all("s") == [*messages, *(message(number) for number in range(25))]
