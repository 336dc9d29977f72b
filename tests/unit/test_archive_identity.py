"""Which turns are new to a file: a message is its id and its nonce, and no clock is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lix_cache import ConversationArchive
from lix_cache.archive.identity import AGAIN, Known, newcomers
from lix_cache.messages.turn import LARGEST_MS, MessageId, Turn, once
from tests.support.twins import ManualClock

pytestmark = pytest.mark.promise("no-loss")

MS = 1_700_000_000_000


def turn(ms: int, text: str, nonce: bytes | None = None, seq: int = 0) -> Turn:
    body = {"role": "user", "content": text, "timestamp": ms / 1000, "metadata": {}}
    return Turn(MessageId(ms, seq), body, None, nonce)


def texts(turns: list[Turn]) -> list[str]:
    return [one.body["content"] for one in turns]


def put(archive: ConversationArchive, *turns: Turn, contested: bool = False) -> int:
    with archive.store.lock("s"):
        return archive.store.append_locked("s", turns, contested=contested)


@pytest.mark.parametrize("ms", [5, MS, LARGEST_MS])
@pytest.mark.parametrize("text", ["the same", "another"])
def test_one_id_and_two_nonces_are_two_messages(tmp_path: Path, ms: int, text: str) -> None:
    archive = ConversationArchive(tmp_path)
    assert put(archive, turn(ms, "the same", b"nonce1")) == 1
    assert put(archive, turn(ms, text, b"nonce2")) == 1
    assert put(archive, turn(ms, text, b"nonce2"), turn(ms, "the same", b"nonce1")) == 0
    assert texts(archive.store.turns("s")) == ["the same", text]
    assert len({one.id for one in archive.store.turns("s")}) == 2


def test_without_a_nonce_the_contents_tell_messages_apart(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    put(archive, turn(MS, "a", b"nonce1"))
    assert put(archive, turn(MS, "a")) == 0
    assert put(archive, turn(MS, "b")) == 1
    assert put(archive, turn(MS, "b")) == 0
    assert texts(archive.store.turns("s")) == ["a", "b"]


def test_what_follows_a_message_that_was_numbered_anew_stays_behind_it(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    put(archive, turn(MS, "old", b"old--1"), turn(MS + 1, "old too", b"old--2"))
    for seq in range(4):
        put(archive, turn(MS, f"new {seq}", b"new--%d" % seq, seq))
    assert texts(archive.store.turns("s")) == ["old", "new 0", "new 1", "new 2", "new 3", "old too"]


@pytest.mark.parametrize("days", [0, 1, 400])
@pytest.mark.parametrize("between", [0, 1, 200])
def test_a_copy_that_comes_late_is_recognised_however_late(tmp_path: Path, days: int, between: int) -> None:
    clock = ManualClock(MS / 1000)
    archive = ConversationArchive(tmp_path, clock=clock)
    put(archive, turn(MS, "before", b"before"))
    put(archive, turn(MS + 1, "in doubt", b"doubt1", 2**46), contested=True)
    for number in range(between):
        put(archive, turn(MS + 2 + number, f"{number}", b"%06d" % number))
    put(archive, turn(MS + 1000, "in doubt too", b"doubt2", 2**46), contested=True)
    clock.advance(days * 86_400)
    late = MS + 5000 + days * 86_400_000
    assert put(archive, turn(late, "in doubt", b"doubt1"), turn(late + 1, "new", b"new---")) == 1
    assert put(archive, turn(late + 2, "in doubt too", b"doubt2")) == 0
    assert len(archive.store.turns("s")) == between + 4


@pytest.mark.parametrize("hours", [0, 1, 100])
def test_a_message_in_doubt_is_not_kept_again_however_long_ago_its_copy_was_moved(
    tmp_path: Path, hours: int
) -> None:
    clock = ManualClock(MS / 1000)
    archive = ConversationArchive(tmp_path, clock=clock)
    put(archive, turn(MS, "in doubt", b"doubt1"))
    for number in range(20):
        put(archive, turn(MS + 2 + number, f"{number}", b"%06d" % number))
    clock.advance(hours * 3600)
    assert put(archive, turn(MS + 10**7, "in doubt", b"doubt1", 2**46), contested=True) == 0


def test_only_contested_frames_are_read_to_recognise_a_late_copy(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    put(archive, turn(MS, "in doubt", b"doubt1", 2**46), contested=True)
    for number in range(300):
        put(archive, turn(MS + 1 + number, "x" * 400, b"%06d" % number))
    read = []
    real = archive.store._files.read_at
    archive.store._files.read_at = lambda path, at, count: read.append(count) or real(path, at, count)  # type: ignore[method-assign,func-returns-value]
    put(archive, turn(MS + 1000, "new", b"newest"))
    size = (tmp_path / "s.huff").stat().st_size
    assert sum(read) < size / 2


def test_a_repair_that_moves_contested_frames_does_not_hide_them(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    put(archive, turn(MS, "first", b"nonce1"))
    put(archive, turn(MS + 1, "in doubt", b"doubt1", 2**46), contested=True)
    put(archive, turn(MS + 2, "last", b"nonce2"))
    path = tmp_path / "s.huff"
    data = bytearray(path.read_bytes())
    data[20] ^= 255  # the header
    data[data.index(b"\xf5LXf") + 9] ^= 255  # the first frame, so the others move
    path.write_bytes(data)
    assert put(archive, turn(MS + 3, "new", b"nonce3")) == 1
    assert put(archive, turn(MS + 4, "in doubt", b"doubt1")) == 0
    assert texts(archive.store.turns("s")) == ["in doubt", "last", "new"]


# -- any sequence ----------------------------------------------------------------------------

IDS = st.builds(MessageId, st.integers(1, 3), st.integers(0, 3))


@given(st.lists(st.tuples(IDS, st.booleans()), max_size=12), st.data())
def test_nothing_is_lost_or_doubled_however_the_moves_are_cut(
    given_ids: list[tuple[MessageId, bool]], data: st.DataObject
) -> None:
    """Several servers number their messages as they like; moves stop anywhere and begin anew."""
    messages = [
        Turn(at, {"content": str(n)}, None, b"%06d" % n if with_nonce else None)
        for n, (at, with_nonce) in enumerate(given_ids)
    ]
    known = Known()
    for start in range(0, len(messages), 3):
        batch = once(messages[start : start + 3])
        stopped_after = data.draw(st.integers(0, 1))
        for _ in range(stopped_after + 1):
            known.add(newcomers(batch, known))
    assert sorted(int(one.body["content"]) for one in known.turns.values()) == list(range(len(messages)))


@given(st.lists(IDS, unique=True, max_size=8), st.lists(IDS, unique=True, max_size=8))
def test_within_a_millisecond_each_server_keeps_its_order(one: list[MessageId], two: list[MessageId]) -> None:
    known = Known()
    for name, ids in (("one", one), ("two", two)):
        for number, at in enumerate(sorted(ids)):
            known.add(newcomers([Turn(at, {"content": name}, None, name.encode() + b"%03d" % number)], known))
    for name, ids in (("one", one), ("two", two)):
        mine = [t for _, t in sorted(known.turns.items()) if t.body["content"] == name]
        assert [t.nonce for t in mine] == [name.encode() + b"%03d" % n for n in range(len(ids))]
        assert all(t.id.seq < AGAIN for t in mine) or name == "two"
