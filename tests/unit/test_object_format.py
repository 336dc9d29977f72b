"""The objects of docs/object-layout.md: by hand from that page, there and back, and bytes that are none."""

from __future__ import annotations

import contextlib
import struct
import zlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lix_cache.archive.catalogue import Place
from lix_cache.archive.codecs import packer
from lix_cache.archive.doubts import as_repeat
from lix_cache.archive.encoding import encode_frames
from lix_cache.archive.index import EMPTY as NO_FRAME
from lix_cache.archive.objects import layout, segment, snapshot
from lix_cache.archive.objects.order import entry_of, unpacked
from lix_cache.archive.objects.records import EMPTY, Part, Record, State, Trashed, folded
from lix_cache.archive.tombstones import Deletion
from lix_cache.errors import ArchiveCorrupt, CodecError
from lix_cache.messages.turn import ZERO_ID, MessageId
from tests.contract.cold_tier import turn

NUMBERS = st.integers(0, 2**64 - 1)
SMALL = st.integers(0, 2**31)
IDS = st.builds(MessageId, NUMBERS, NUMBERS)
NONCES = st.binary(min_size=6, max_size=6)
DOUBTS = st.dictionaries(NONCES, IDS, max_size=3)
PARTS = st.lists(st.builds(Part, SMALL, SMALL, SMALL, SMALL, IDS, IDS), max_size=3).map(tuple)
TOKENS = st.just(b"") | st.binary(min_size=16, max_size=16).filter(any)


@st.composite
def states(draw: Any, nested: bool = False) -> State:
    moved = draw(st.booleans())
    state = State(version=draw(NUMBERS), pending=draw(st.booleans()), token=draw(TOKENS), moved=moved)
    own: dict[str, Any] = {}
    if draw(st.booleans()):
        numbers = ("created_ms", "updated_ms", "stamped_ms", "hidden", "changes", "erased")
        own = {name: draw(NUMBERS) for name in numbers}
        own |= {name: draw(IDS) for name in ("cleared", "dropped", "largest")}
        own |= {"is_there": True, "parts": draw(PARTS), "doubts": draw(DOUBTS), "gone": draw(DOUBTS)}
    if draw(st.booleans()):
        own |= {"deletion": Deletion(draw(IDS), frozenset(draw(DOUBTS))), "noted_ms": draw(SMALL)}
        if own["deletion"] == Deletion():
            own["noted_ms"] = 0
    if not nested and draw(st.booleans()):
        own["trash"] = (Trashed(draw(SMALL), draw(states(nested=True))),)
    return State(**{**state.__dict__, **own})


# Every field is named: Hypothesis makes up what a named tuple could leave out.
RECORDS = st.one_of(
    st.builds(Record, st.text(min_size=1), NUMBERS, PARTS, DOUBTS, st.none(), st.none()),
    st.builds(Record, st.text(min_size=1), NUMBERS, st.just(()), st.just({}), states(), st.none()),
    st.builds(Record, st.text(min_size=1), NUMBERS, st.just(()), st.just({}), st.none(), TOKENS),
).filter(lambda record: _is_text(record.session_id))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def test_a_segment_written_by_hand_is_read() -> None:
    frame = encode_frames([turn(1)], NO_FRAME, 5, packer("stored"))
    ms = 1_700_000_000_001
    id_bytes = bytearray()
    while ms > 0x7F:
        id_bytes.append(ms & 0x7F | 0x80)
        ms >>= 7
    id_bytes += bytes((ms, 0))
    length = len(frame)
    assert length < 0x80
    record = (
        b"\x01s"  # the stored id
        b"\x01"  # turns
        b"\x05"  # at 5 ms
        b"\x01"  # one part
        b"\x00\x00"
        + bytes((length & 0x7F | 0x80, length >> 7))
        + b"\x01"
        + id_bytes * 2
        + b"\x00"  # no doubts
    )
    index = bytes(range(16)) + b"\x01" + record
    data = b"LXS1" + struct.pack("<II", len(index), zlib.crc32(index)) + index + frame
    found = segment.parsed(data, 7, "a segment")
    [said] = found.records
    assert found.nonce == bytes(range(16))
    begin = 12 + len(index)
    assert said.parts == (Part(7, begin, length, 1, turn(1).id, turn(1).id),)
    assert data[begin : begin + length] == frame
    assert segment.parts_of(frame, 0, [turn(1)]) == [Part(None, 0, length, 1, turn(1).id, turn(1).id)]
    state = folded(State(), said, 7)
    assert (state.is_there, state.total, state.newest, state.version) == (True, 1, turn(1).id, 8)


def test_what_a_writer_knows_of_its_commit_is_what_others_read() -> None:
    """It is not read back: so the two must not differ."""
    part = Part(None, 5, 40, 2, turn(1).id, turn(3).id)
    old = part._replace(segment=4)
    doubts = {b"second": turn(2).id, b"first!": as_repeat(turn(1).id)}
    lived = State(
        is_there=True, created_ms=1, updated_ms=2, stamped_ms=3, changed_ms=4, parts=(old, part), hidden=1,
        changes=5, cleared=turn(1).id, dropped=turn(0).id, largest=turn(9).id, doubts=doubts,
        gone={b"gone!!": turn(1).id},
        deletion=Deletion(turn(1).id, frozenset({b"nonces"})), noted_ms=7,
        pending=True, token=b"t" * 16, version=4, erased=3,
    )  # fmt: skip
    records = [
        Record("turns", 1_700_000_000_000, parts=(part,), doubts=doubts),
        Record("state", 1, state=replace(lived, trash=(Trashed(3, replace(lived, version=1)),))),
        Record("lease", 2, token=b"l" * 16),
        Record("let go", 2, token=b""),
        Record("nothing left", 2, state=State()),
    ]
    nonce = bytes(range(16))
    data = segment.encoded(nonce, records, bytes(45))
    assert segment.known(nonce, records, data, 12) == segment.parsed(data, 12, "a segment")


def test_a_snapshot_written_by_hand_is_read() -> None:
    entry = b"\x01s" + b"\x02" + b"\x02\x09"  # pending, changed by segment 8
    used = b"\x07\x01u" + b"\x06" + b"\x02\x03\x04\x00\x00\x05"  # at 7 ms: made, appended to, lived, …
    lives = bytes((1, 2, 3, 4, 7, 0, 0, 5, *(0,) * 6, 0, 0, 0, 5))
    entry += b"\x01u" + bytes((len(lives),)) + lives
    header = b"\x0a\x01\x01s" + bytes((len(entry),)) + struct.pack("<I", zlib.crc32(entry)) + b"\x01\x01s"
    header += b"\x01\x07\x01u" + bytes((len(used),)) + struct.pack("<I", zlib.crc32(used))
    data = b"LXI1" + struct.pack("<II", len(header), zlib.crc32(header)) + header + entry + used
    found = snapshot.parsed(data, "a snapshot")
    assert (found.number, found.pending) == (10, ("s",))
    block = found.blocks[snapshot.block_for(found, "s") or 0]
    part = data[block.offset : block.offset + block.length]
    states = {
        "s": State(pending=True, version=9),
        "u": State(
            is_there=True, created_ms=2, updated_ms=3, stamped_ms=4, changed_ms=7, version=5, erased=5
        ),
    }
    packed = snapshot.entries(part, block, "a snapshot")
    assert {name: snapshot.state_in(one, "a snapshot") for name, one in packed.items()} == states
    [run] = found.runs
    [one] = snapshot.placed(data[run.offset :], run, "a snapshot")
    assert unpacked(one) == entry_of("u", states["u"])
    assert snapshot.encoded(10, states) == data


@given(st.lists(RECORDS, max_size=4), st.binary(max_size=20))
def test_every_commit_comes_back(records: list[Record], frames: bytes) -> None:
    data = segment.encoded(bytes(16), records, frames)
    found = segment.parsed(data, 3, "x")
    assert list(found.records) == records
    assert data[found.begin :] == frames
    assert found.begin == segment.HEAD.needed(data, "x")


@given(st.dictionaries(st.text(min_size=1).filter(_is_text), states(), max_size=40))
def test_every_state_of_a_snapshot_comes_back(known: dict[str, State]) -> None:
    ordered = sorted(known.items(), key=lambda item: item[0].encode())
    data = snapshot.encoded(5, dict(ordered))
    header = snapshot.parsed(data, "x")
    for name, state in ordered:
        index = snapshot.block_for(header, name)
        found = {}
        if index is not None:
            block = header.blocks[index]
            packed = snapshot.entries(data[block.offset : block.offset + block.length], block, "x")
            found = {one: snapshot.state_in(said, "x") for one, said in packed.items()}
        assert found.get(name, State(version=state.version)) == (
            State(version=state.version) if state.is_empty else state
        )
    assert sorted(header.pending) == sorted(name for name, state in known.items() if state.pending)
    # By last use, each that is there; and the next snapshot takes over what did not change.
    used = [one for run in header.runs for one in snapshot.placed(data[run.offset :][: run.length], run, "x")]
    entries = [entry_of(name, state) for name, state in known.items()]
    assert [unpacked(one) for one in used] == sorted(one for one in entries if one is not None)
    blocks = [data[one.offset : one.offset + one.length] for one in header.blocks]
    packed = [snapshot.entries(part, one, "x") for part, one in zip(blocks, header.blocks, strict=True)]
    kept = [item for part in packed for item in part.items()]
    news = dict(ordered[: len(ordered) // 2])
    assert snapshot.encoded(5, news, kept, used, header.pending) == data


@pytest.mark.promise("bad-bytes")
@given(st.lists(RECORDS, max_size=3), st.data())
def test_any_change_of_an_index_is_refused(records: list[Record], data: st.DataObject) -> None:
    whole = bytearray(segment.encoded(bytes(16), records, b""))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ArchiveCorrupt):
        segment.parsed(bytes(whole), 0, "x")
    with pytest.raises(ArchiveCorrupt):
        segment.parsed(bytes(whole[:place]), 0, "x")


@pytest.mark.promise("bad-bytes")
@given(st.binary(max_size=80))
def test_bytes_with_a_right_crc_end_in_an_error_or_in_records(index: bytes) -> None:
    head = struct.pack("<4sII", b"LXS1", len(index), zlib.crc32(index))
    with contextlib.suppress(ArchiveCorrupt):
        segment.parsed(head + index, 0, "x")
    head = struct.pack("<4sII", b"LXI1", len(index), zlib.crc32(index))
    with contextlib.suppress(ArchiveCorrupt):
        snapshot.parsed(head + index, "x")
    block = snapshot.Block("", 0, len(index), zlib.crc32(index))
    with contextlib.suppress(ArchiveCorrupt):
        for said in snapshot.entries(index, block, "x").values():
            snapshot.state_in(said, "x")
    run = snapshot.Run(Place(0, b""), 0, len(index), zlib.crc32(index))
    with contextlib.suppress(ArchiveCorrupt, CodecError):
        for one in snapshot.placed(index, run, "x"):
            unpacked(one)


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("name", ["../s", "s/", "\0", "漢字", "x" * 3000, "%73"])
def test_no_session_names_an_object(name: str) -> None:
    assert 0 <= layout.shard_of(name, 16) < 16
    assert layout.setting_name(name).count("/") == 1
    assert layout.number_of(layout.log_name(3, 12)) == layout.number_of(layout.snap_name(3, 12)) == 12
    assert layout.number_of(f"0003/log/{name}.seg") is None


def test_a_change_replaces_what_was_known_and_a_lease_does_not() -> None:
    before = State(is_there=True, updated_ms=9, version=4, parts=(Part(0, 0, 1, 1, ZERO_ID, ZERO_ID),))
    held = folded(before, Record("s", 1, token=b"t" * 16), 9)
    assert held == State(**{**before.__dict__, "token": b"t" * 16})
    assert folded(held, Record("s", 1, state=State(pending=True)), 9) == State(pending=True, version=10)
    later = folded(before, Record("s", 3, parts=(Part(9, 0, 1, 1, MessageId(5, 0), MessageId(5, 0)),)), 9)
    assert (later.updated_ms, later.total, later.newest) == (9, 2, MessageId(5, 0))


def test_it_is_known_since_when_nothing_was_deleted_from_a_session() -> None:
    part = Part(3, 0, 1, 1, MessageId(5, 0), MessageId(5, 0))
    came = Record("s", 1, parts=(part,))
    state = folded(folded(EMPTY, came, 3), came, 4)
    assert (state.version, state.erased) == (5, 4)
    moved = folded(state, Record("s", 1, state=replace(state, moved=True)), 5)
    assert (moved.version, moved.erased) == (6, 4)
    assert folded(moved, Record("s", 1, token=b"t" * 16), 6).erased == 4
    assert folded(moved, Record("s", 1, state=replace(moved, moved=False, hidden=1)), 6).erased == 7
    # The trash of a session that was moved is emptied.
    thrown = folded(moved, Record("s", 1, state=replace(moved, trash=(Trashed(1, moved),))), 7)
    assert folded(thrown, Record("s", 1, state=replace(thrown, trash=())), 8).erased == 9
    gone = folded(moved, Record("s", 1, state=State(deletion=Deletion(part.last, frozenset()))), 6)
    assert gone.erased == 0
    assert folded(gone, came, 9).erased == 10
