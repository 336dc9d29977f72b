"""Whatever stops a write, what was acknowledged is there once, in order, and the next append is safe."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import resource
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from lix_cache import ArchiveCorrupt, ArchiveUnavailable, ConversationArchive, HuffmanCodec
from lix_cache.archive import decoding
from lix_cache.archive import index as index_flow
from lix_cache.errors import ArchiveError
from lix_cache.messages.message import Message
from lix_cache.messages.turn import MessageId, Turn, from_turn, to_turn
from lix_cache.storage.files import Files, Write
from tests.fault.files import (
    Crash,
    FaultyFiles,
    ForgetfulFiles,
    Step,
    copy_folder,
    folder_contents,
)
from tests.support.sampling import Part, in_parts
from tests.support.twins import ManualClock

pytestmark = pytest.mark.promise("no-loss")


def message(number: int) -> Message:
    role = "user" if number % 2 == 0 else "assistant"
    return {"role": role, "content": f"text {number}", "timestamp": 1_700_000_000.0 + number, "metadata": {}}


MESSAGES = [message(number) for number in range(12)]
NEXT: Message = {"role": "user", "content": "the next one", "timestamp": 1_800_000_000.5, "metadata": {}}
#: A minute after the messages: their copies may still be on their way.
SOON = 1_700_000_060.0


def redis_turn(number: int, nonce: bytes | None = None) -> Turn:
    """A message under the id that Redis gave it."""
    return to_turn(message(number), MessageId(1_700_000_000_000 + number, 0), nonce)


def version_1(turns: list[Message]) -> bytes:
    text = json.dumps(turns, separators=(",", ":"), ensure_ascii=False).encode()
    head = struct.pack("<4sddI", b"CAv1", 1_700_000_000.0, 1_700_000_100.0, len(turns))
    return head + HuffmanCodec.encode(text, format=1)


def path_of(folder: Path | str, session: str) -> Path:
    from lix_cache.archive.names import file_stem

    return Path(folder) / f"{file_stem(session)}.huff"


def flip(data: bytes, position: int, mask: int = 0xFF) -> bytes:
    return data[:position] + bytes((data[position] ^ mask,)) + data[position + 1 :]


# -- crashes before, after and in the middle of every operation ------------------------


@dataclass(frozen=True)
class Scenario:
    """Something that is done to an archive, and what may be found when it was stopped.

    Attributes:
        name: for the test's name.
        prepare: makes what was acknowledged before.
        act: is stopped somewhere.
        before: what ``load_all`` gives before; an exception class where it must raise.
        after: and after.
        session: whose.
        between: what else may be found if it is stopped; only for what cannot be read anyway.
        torn: bytes of damage, which must never be gone from the folder.
        may_repeat: whether doing it once more changes nothing.
    """

    name: str
    prepare: Callable[[ConversationArchive], Any]
    act: Callable[[ConversationArchive], Any]
    before: Any
    after: Any
    session: str = "s"
    between: tuple[Any, ...] = ()
    torn: bytes = b""
    may_repeat: bool = False


def locked(archive: ConversationArchive, session: str, work: Callable[[], Any]) -> Any:
    with archive.store.lock(session):
        return work()


def put(session: str, *data: bytes) -> Callable[[ConversationArchive], Any]:
    """Prepare a file with these bytes."""

    def write(archive: ConversationArchive) -> None:
        os.makedirs(archive.archive_dir, exist_ok=True)
        Path(archive.archive_dir, f"{session}.huff").write_bytes(b"".join(data))

    return write


def append(session: str, *messages: Message) -> Callable[[ConversationArchive], Any]:
    return lambda archive: archive.append_turns(session, messages)


def damaged(change: Callable[[bytes], bytes]) -> Callable[[ConversationArchive], Any]:
    """Prepare the two frames 0-1 and 2-3 of session ``s``, and then damage the file."""

    def write(archive: ConversationArchive) -> None:
        archive.append_turns("s", MESSAGES[:2])
        archive.append_turns("s", MESSAGES[2:4])
        path = path_of(archive.archive_dir, "s")
        path.write_bytes(change(path.read_bytes()))

    return write


def stopped_upgrade(archive: ConversationArchive) -> None:
    """Leave what a crash leaves between the two steps of an upgrade: the old file beside the new."""
    put("a b", version_1(MESSAGES[:2]))(archive)
    archive.append_turns("a b", MESSAGES[2:4])
    put("a b", version_1(MESSAGES[:2]))(archive)


def spill(archive: ConversationArchive) -> None:
    """What the daemon does, for two sessions: one that is new and one that is not."""
    batch = {"s": [redis_turn(n) for n in range(6)], "t": [redis_turn(n) for n in range(3)]}
    with contextlib.ExitStack() as locks:
        for session in batch:
            locks.enter_context(archive.store.lock(session))
        for result in archive.store.append_many_locked(batch).values():
            if isinstance(result, ArchiveError):
                raise result


def spill_late(archive: ConversationArchive) -> None:
    """Messages older than those that are there, some of which are there under other ids."""
    turns = [redis_turn(0, b"nonce0"), redis_turn(1, b"nonce1"), redis_turn(3), redis_turn(5)]
    locked(archive, "s", lambda: archive.store.append_locked("s", turns, contested=True))


def prepare_late(archive: ConversationArchive) -> None:
    now = [
        redis_turn(2),
        redis_turn(4),
        replace(redis_turn(1, b"nonce1"), id=MessageId(1_700_000_000_009, 0)),
    ]
    locked(archive, "s", lambda: archive.store.append_locked("s", now))


def outage(archive: ConversationArchive) -> None:
    turn = to_turn(MESSAGES[4], MessageId(0, 0), b"nonce!")
    locked(archive, "s", lambda: archive.store.append_outage_locked("s", [turn], contested=True))


def clear(archive: ConversationArchive) -> None:
    locked(archive, "s", lambda: archive.store.clear_locked("s"))


FOUR = MESSAGES[:4]
V1_WHOLE = version_1(FOUR)
V1_CUT = V1_WHOLE[:-20]
V1_HOPELESS = V1_WHOLE[:40]

NEW = MESSAGES[4]
THREE_AND_NEW = [*MESSAGES[:3], NEW]
LONG = "x" * 500


def torn_tail(data: bytes) -> bytes:
    return data + b"half a frame"


def cut_frame(data: bytes) -> bytes:
    return data[:-3]


def damaged_header(data: bytes) -> bytes:
    return flip(data, 5)


def magic_of_version_1(data: bytes) -> bytes:
    return flip(data, 3, 0x03)


def spilled(archive: ConversationArchive) -> None:
    turns = [redis_turn(number) for number in range(4)]
    locked(archive, "s", lambda: archive.store.append_locked("s", turns))


def delete(session: str) -> Callable[[ConversationArchive], Any]:
    return lambda archive: archive.delete_session(session)


def expire(archive: ConversationArchive) -> None:
    locked(archive, "s", lambda: archive.store.trash_locked("s", archive.store.now()))


def many_frames(archive: ConversationArchive) -> None:
    """Frames of two and three, out of order, with a mark and nonces between them."""
    archive.append_turns("other", [NEXT])
    for start in (0, 4, 2, 6):
        turns = [redis_turn(n, b"nonce%d" % n) for n in (start, start + 1)]
        locked(archive, "s", lambda turns=turns: archive.store.append_locked("s", turns))
    clear(archive)
    locked(archive, "s", lambda: archive.store.append_locked("s", [redis_turn(n) for n in (8, 9)]))


def damaged_frames(change: Callable[[bytes], bytes]) -> Callable[[ConversationArchive], Any]:
    def write(archive: ConversationArchive) -> None:
        for number in range(6):
            archive.append_turns("s", MESSAGES[2 * number : 2 * number + 2])
        path = path_of(archive.archive_dir, "s")
        path.write_bytes(change(path.read_bytes()))

    return write


def compact(archive: ConversationArchive) -> None:
    done = archive.compact(["s"], idle_seconds=0)
    assert (done.compacted, done.failed) == (1, {})


def third_frame(data: bytes) -> bytes:
    frame = decoding.scan(data).frames[2]
    return flip(data, frame.offset + 20)


SCENARIOS = [
    Scenario("first append", append("other", NEXT), append("s", *MESSAGES[:3]), None, MESSAGES[:3]),
    Scenario("append", append("s", *FOUR), append("s", *MESSAGES[4:7]), FOUR, MESSAGES[:7]),
    Scenario("append under a long id", append(LONG, *FOUR), append(LONG, NEW), FOUR, MESSAGES[:5], LONG),
    Scenario("upgrade", put("s", V1_WHOLE), append("s", NEW), FOUR, MESSAGES[:5]),
    Scenario("upgrade of another name", put("a b", V1_WHOLE), append("a b", NEW), FOUR, MESSAGES[:5], "a b"),
    Scenario(
        "upgrade of a cut file",
        put("s", V1_CUT),
        append("s", NEW),
        MESSAGES[:3],
        THREE_AND_NEW,
        torn=V1_CUT,
    ),
    Scenario(
        "upgrade of a cut file of another name",
        put("a b", V1_CUT),
        append("a b", NEW),
        MESSAGES[:3],
        THREE_AND_NEW,
        session="a b",
        torn=V1_CUT,
    ),
    Scenario(
        "upgrade of a hopeless file",
        put("s", V1_HOPELESS),
        append("s", NEW),
        ArchiveCorrupt,
        [NEW],
        between=(None,),
        torn=V1_HOPELESS,
    ),
    Scenario(
        "upgrade of a file without turns",
        put("s", version_1([])),
        append("s", NEW),
        [],
        [NEW],
        # A header and half a frame: nothing says that there was no more.
        between=(ArchiveCorrupt,),
    ),
    Scenario(
        "repair of a torn tail",
        damaged(torn_tail),
        append("s", NEW),
        FOUR,
        MESSAGES[:5],
        torn=b"half a frame",
    ),
    Scenario(
        "repair of a cut frame", damaged(cut_frame), append("s", NEW), MESSAGES[:2], [*MESSAGES[:2], NEW]
    ),
    Scenario("repair of a header", damaged(damaged_header), append("s", NEW), FOUR, MESSAGES[:5]),
    Scenario("repair of a magic", damaged(magic_of_version_1), append("s", NEW), FOUR, MESSAGES[:5]),
    Scenario(
        "repair of nothing intact",
        put("s", b"no archive at all"),
        append("s", NEW),
        ArchiveCorrupt,
        [NEW],
        between=(None,),
        torn=b"no archive at all",
    ),
    Scenario("clear", append("s", *FOUR), clear, FOUR, FOUR),
    Scenario("clear of a version 1 file", put("s", V1_WHOLE), clear, FOUR, FOUR),
    Scenario("delete", damaged(torn_tail), delete("s"), FOUR, None),
    Scenario("delete after a stopped upgrade", stopped_upgrade, delete("a b"), FOUR, None, session="a b"),
    Scenario("spill", append("other", NEXT), spill, None, MESSAGES[:6], may_repeat=True),
    Scenario("spill again", spilled, spill, FOUR, MESSAGES[:6], may_repeat=True),
    Scenario(
        "spill of older messages",
        prepare_late,
        spill_late,
        [MESSAGES[2], MESSAGES[4], MESSAGES[1]],
        [MESSAGES[0], *MESSAGES[2:6], MESSAGES[1]],
        may_repeat=True,
    ),
    Scenario("outage", append("s", *FOUR), outage, FOUR, MESSAGES[:5]),
    Scenario("first outage", append("other", NEXT), outage, None, [NEW]),
    Scenario("expiry", append("s", *FOUR), expire, FOUR, None),
    Scenario("compaction", many_frames, compact, MESSAGES[:10], MESSAGES[:10]),
    Scenario(
        "compaction of a torn file",
        damaged_frames(torn_tail),
        compact,
        MESSAGES,
        MESSAGES,
        torn=b"half a frame",
    ),
]


@pytest.fixture
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut leaves is worked out in memory here: there is no disk to wait for."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@dataclass
class Stage:
    """A prepared folder that every run gets a copy of."""

    scenario: Scenario
    template: Path
    folder: Path

    def run(
        self, arm: Callable[[FaultyFiles], Any]
    ) -> tuple[FaultyFiles, ForgetfulFiles, BaseException | None]:
        """Do it once on a fresh copy; return the files and what it ended in."""
        copy_folder(self.template, self.folder)
        forgetful = ForgetfulFiles(self.folder)
        files = FaultyFiles(forgetful)
        arm(files)
        archive = ConversationArchive(self.folder, files=files, clock=ManualClock(SOON))
        try:
            self.scenario.act(archive)
        except (Crash, ArchiveError) as error:
            return files, forgetful, error
        return files, forgetful, None

    def check(self, allowed: list[Any], where: str) -> None:
        """Look with the eyes of a new process; then append, and look again."""
        scenario = self.scenario
        archive = ConversationArchive(self.folder)
        found = outcome(archive, scenario.session)
        assert found in allowed, where
        turns = found if isinstance(found, list) else []
        self.check_other_views(archive, found, where)
        if scenario.torn:
            assert any(scenario.torn in data for data in folder_contents(self.folder).values()), where
        if scenario.may_repeat:
            scenario.act(archive)
            turns = scenario.after
            assert archive.load_all(scenario.session) == turns, where
        archive.append_turn(scenario.session, NEXT)
        again = ConversationArchive(self.folder)
        assert again.load_all(scenario.session) == [*turns, NEXT], where
        assert again.load_recent(scenario.session, 2) == [*turns, NEXT][-2:], where
        assert again.store.counters["damaged_reads"] == 0, where
        report = again.verify(scenario.session)
        assert report is not None
        assert report.is_intact, f"{where}: {report}"
        meta = again.get_metadata(scenario.session)
        assert meta is not None
        assert meta["num_turns"] == len(turns) + 1, where
        assert [m["session_id"] for m in again.list_sessions()].count(scenario.session) == 1, where

    def check_other_views(self, archive: ConversationArchive, found: Any, where: str) -> None:
        session = self.scenario.session
        if isinstance(found, list):
            assert archive.load_recent(session, 50) == found, where
            assert archive.load_recent(session, 2) == found[-2:], where
        if self.scenario.act is outage and found == self.scenario.after:
            assert archive.store.pending_sessions() == [session], where
        if self.scenario.act is clear:
            turns = archive.store.recent(session, 50, in_context=True)
            assert [from_turn(turn) for turn in turns] in (found, []), where


def outcome(archive: ConversationArchive, session: str) -> Any:
    try:
        return archive.load_all(session)
    except ArchiveCorrupt:
        return ArchiveCorrupt


@pytest.fixture(params=SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "-"))
def stage(request: pytest.FixtureRequest, tmp_path: Path, _no_waiting: None) -> Stage:
    scenario: Scenario = request.param
    template = tmp_path / "template"
    scenario.prepare(ConversationArchive(template, clock=ManualClock(SOON)))
    return Stage(scenario, template, tmp_path / "folder")


def kept_sizes(step: Step) -> list[int]:
    return sorted({0, 1, step.size // 2, step.size - 1, step.size})


def all_crashes(steps: list[Step]) -> Iterator[tuple[str, Callable[[FaultyFiles], Any]]]:
    for number, step in enumerate(steps):
        where = f"operation {number}, {step.name} of {os.path.basename(step.path)}"
        yield f"before {where}", lambda files, n=number: files.crash(n, "before")
        yield f"after {where}", lambda files, n=number: files.crash(n, "after")
        if step.tears:
            for kept in kept_sizes(step):
                yield f"{kept} bytes into {where}", lambda files, n=number, k=kept: files.tear(n, k)


@in_parts(3)
def test_a_crash_at_any_step_loses_nothing_that_was_acknowledged(stage: Stage, part: Part) -> None:
    allowed = [stage.scenario.before, *stage.scenario.between, stage.scenario.after]
    files, _, error = stage.run(lambda files: None)
    assert error is None
    stage.check([stage.scenario.after], "no crash")
    for where, arm in part.of(all_crashes(files.steps)):
        _, _, error = stage.run(arm)
        assert isinstance(error, Crash), where
        stage.check(allowed, where)


@in_parts(3)
@pytest.mark.parametrize("keep_names", [False, True], ids=["nothing-unsynced", "names-only"])
def test_a_power_cut_at_any_step_loses_nothing_that_was_acknowledged(
    stage: Stage, keep_names: bool, part: Part
) -> None:
    allowed = [stage.scenario.before, *stage.scenario.between, stage.scenario.after]
    files, disk, error = stage.run(lambda files: None)
    assert error is None
    disk.power_cut(keep_names=keep_names)
    stage.check([stage.scenario.after], "a power cut after the acknowledgement")
    for where, arm in part.of(all_crashes(files.steps), keep_names):
        _, disk, error = stage.run(arm)
        assert isinstance(error, Crash), where
        disk.power_cut(keep_names=keep_names)
        stage.check(allowed, where)


@in_parts(3)
def test_what_another_process_acknowledges_after_a_crash_survives_a_power_cut(
    stage: Stage, part: Part
) -> None:
    """A file may have got its name from a process that died before it synced the folder."""
    scenario = stage.scenario
    allowed = [scenario.before, *scenario.between, scenario.after]
    texts = [found for found in allowed if isinstance(found, list)] + [
        [] for found in allowed if found in (None, ArchiveCorrupt)
    ]
    for where, arm in part.of(all_crashes(stage.run(lambda files: None)[0].steps)):
        _, disk, error = stage.run(arm)
        assert isinstance(error, Crash), where
        ConversationArchive(stage.folder, files=disk, clock=ManualClock(SOON)).append_turn(
            scenario.session, NEXT
        )
        disk.power_cut()
        found = ConversationArchive(stage.folder).load_all(scenario.session)
        assert found is not None, where
        assert found[-1] == NEXT, where
        assert found[:-1] in texts, where
        if scenario.may_repeat:
            # What is there already is acknowledged as well.
            _, disk, error = stage.run(arm)
            scenario.act(ConversationArchive(stage.folder, files=disk, clock=ManualClock(SOON)))
            disk.power_cut()
            assert ConversationArchive(stage.folder).load_all(scenario.session) == scenario.after, where


def test_what_the_system_refuses_is_an_error_and_leaves_the_archive_usable(stage: Stage) -> None:
    scenario = stage.scenario
    allowed = [scenario.before, *scenario.between, scenario.after]
    steps = stage.run(lambda files: None)[0].steps
    for number, step in enumerate(steps):
        where = f"disk full at operation {number}, {step.name} of {os.path.basename(step.path)}"
        for kept in [None, *(kept_sizes(step) if step.tears else [])]:
            if kept is None:
                arm = lambda files, n=number: files.fail(n)  # noqa: E731 - one line says it
            else:
                arm = lambda files, n=number, k=kept: files.fail(n, "torn", kept=k)  # noqa: E731
            _, _, error = stage.run(arm)
            assert isinstance(error, ArchiveUnavailable), where
            assert error.errno == errno.ENOSPC
            stage.check(allowed, f"{where}, {kept} bytes kept")


@pytest.mark.usefixtures("_no_waiting")
def test_compaction_of_a_file_damaged_in_the_middle_sets_all_of_it_aside(tmp_path: Path) -> None:
    prepare = damaged_frames(third_frame)
    rest = [*MESSAGES[:4], *MESSAGES[6:]]
    template = tmp_path / "template"
    scenario = Scenario("damage in the middle", prepare, compact, rest, rest)
    prepare(ConversationArchive(template, clock=ManualClock(SOON)))
    old = path_of(template, "s").read_bytes()
    stage = Stage(scenario, template, tmp_path / "folder")
    steps = stage.run(lambda files: None)[0].steps
    assert ConversationArchive(stage.folder, on_damage="raise").load_all("s") == rest
    assert (stage.folder / "s.huff.damaged-1").read_bytes() == old
    for where, arm in all_crashes(steps):
        _, disk, error = stage.run(arm)
        assert isinstance(error, Crash), where
        disk.power_cut()
        assert old in folder_contents(stage.folder).values(), where
        assert ConversationArchive(stage.folder).load_all("s") == rest, where
        ConversationArchive(stage.folder).compact(idle_seconds=0)
        assert ConversationArchive(stage.folder, on_damage="raise").load_all("s") == rest, where


# -- files that were cut, and files with a byte that changed -----------------------------

FRAMES = [MESSAGES[0:2], MESSAGES[2:3], MESSAGES[3:7], MESSAGES[7:9]]


@dataclass
class Sample:
    """An archive of a few small frames, as bytes."""

    data: bytes
    #: Where the header ends and where each frame ends.
    ends: list[int]
    folder: Path

    def open(self, data: bytes) -> ConversationArchive:
        """Return a fresh archive in which the session's file has these bytes."""
        for name in os.listdir(self.folder):
            if not name.startswith("."):
                os.unlink(self.folder / name)
        path_of(self.folder, "s").write_bytes(data)
        return ConversationArchive(self.folder)

    def set_aside(self) -> list[bytes]:
        names = sorted(name for name in os.listdir(self.folder) if ".damaged-" in name)
        return [(self.folder / name).read_bytes() for name in names]


@pytest.fixture
def sample(tmp_path: Path, _no_waiting: None) -> Sample:
    archive = ConversationArchive(tmp_path / "archive")
    for messages in FRAMES:
        archive.append_turns("s", messages)
    data = path_of(archive.archive_dir, "s").read_bytes()
    found = decoding.scan(data)
    assert found.header is not None
    return Sample(data, [found.header.length, *(frame.end for frame in found.frames)], tmp_path / "archive")


def check_next_append(archive: ConversationArchive, intact: list[Message]) -> None:
    """Append, and see that everything intact is still there and nothing is there twice."""
    archive.append_turn("s", NEXT)
    again = ConversationArchive(archive.archive_dir)
    assert again.load_all("s") == [*intact, NEXT]
    assert again.load_recent("s", 1) == [NEXT]


def test_a_file_cut_anywhere_gives_back_every_whole_frame(sample: Sample) -> None:
    for size in range(len(sample.data)):
        archive = sample.open(sample.data[:size])
        whole = sum(end <= size for end in sample.ends[1:])
        intact = [message for frame in FRAMES[:whole] for message in frame]
        at_an_end = size in sample.ends
        if whole == 0 and not at_an_end:
            with pytest.raises(ArchiveCorrupt):
                archive.load_all("s")
        else:
            assert archive.load_all("s") == intact, size
        report = archive.verify("s")
        assert report is not None
        # A file that ends where a frame ends is a whole archive of fewer frames.
        assert report.is_intact == at_an_end, size
        assert report.turns == len(intact)
        assert (archive.store.counters["damaged_reads"] == 0) == at_an_end, size
        check_next_append(archive, intact)
        again = archive.verify("s")
        assert again is not None
        assert again.is_intact, (size, again)
        start = max([0, *(end for end in sample.ends if end <= size)])
        assert sample.set_aside() == ([] if start == size else [sample.data[start:size]]), size
        assert archive.store.counters["repairs"] == len(sample.set_aside())


@in_parts(7)
@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF, 0x03])
def test_a_changed_byte_is_detected_and_costs_its_own_frame_alone(
    sample: Sample, mask: int, part: Part
) -> None:
    for position in part.of(range(len(sample.data)), mask):
        archive = sample.open(flip(sample.data, position, mask))
        number = sum(end <= position for end in sample.ends)
        intact = [m for i, frame in enumerate(FRAMES, 1) if i != number for m in frame]
        assert archive.load_all("s") == intact, position
        assert archive.store.counters["damaged_reads"] == 1, position
        assert archive.load_recent("s", 50) == intact, position
        meta = archive.get_metadata("s")
        assert meta is not None
        assert meta["session_id"] == "s"
        # What the last index entry that is intact counts; lost turns may be among them.
        assert len(intact) <= meta["num_turns"] <= 9
        report = archive.verify("s")
        assert report is not None
        assert not report.is_intact, position
        strict = ConversationArchive(sample.folder, on_damage="raise")
        with pytest.raises(ArchiveCorrupt):
            strict.load_all("s")
        check_next_append(archive, intact)
        # Whatever was damaged is still somewhere: in the file, or set aside.
        start, end = (0, *sample.ends)[number : number + 2]
        damaged_part = flip(sample.data, position, mask)[start:end]
        files = [*sample.set_aside(), path_of(sample.folder, "s").read_bytes()]
        assert any(damaged_part in data for data in files), position


def test_bytes_between_frames_are_damage_and_hide_nothing(sample: Sample) -> None:
    whole = [message for frame in FRAMES for message in frame]
    for end in sample.ends:
        archive = sample.open(sample.data[:end] + index_flow.SYNC + b"\xff\0garbage" + sample.data[end:])
        assert archive.load_all("s") == whole
        report = archive.verify("s")
        assert report is not None
        assert not report.is_intact
        assert report.damaged_bytes == 13
        check_next_append(archive, whole)


def test_an_append_does_not_go_behind_a_last_frame_that_has_lost_its_beginning(sample: Sample) -> None:
    start = sample.ends[-2]
    for position in range(start, start + 4):
        data = flip(sample.data, position)
        archive = sample.open(data)
        check_next_append(archive, [message for frame in FRAMES[:-1] for message in frame])
        assert sample.set_aside() == [data[start:]]
        report = archive.verify("s")
        assert report is not None
        assert report.is_intact


def test_a_frame_that_is_there_twice_is_reported_and_its_turns_come_back_once(sample: Sample) -> None:
    for start, end in zip(sample.ends, sample.ends[1:], strict=False):
        archive = sample.open(sample.data + sample.data[start:end])
        report = archive.verify("s")
        assert report is not None
        assert any("repeats" in problem for problem in report.problems)
        assert any("in order" in problem for problem in report.problems)


def test_a_file_whose_header_and_first_frames_are_lost_keeps_the_rest(sample: Sample) -> None:
    data = sample.data[sample.ends[2] :]
    archive = sample.open(data)
    intact = [*FRAMES[2], *FRAMES[3]]
    assert archive.load_all("s") == intact
    meta = archive.get_metadata("s")
    assert meta is not None
    assert meta["num_turns"] == len(intact)
    check_next_append(archive, intact)
    assert sample.set_aside() == [data]
    assert archive.store.counters["repairs"] == 1


def test_damage_set_aside_again_gets_a_number_of_its_own(sample: Sample) -> None:
    archive = sample.open(sample.data + b"first")
    archive.append_turn("s", NEXT)
    with open(path_of(sample.folder, "s"), "ab") as file:
        file.write(b"second")
    archive.append_turn("s", NEXT)
    assert sample.set_aside() == [b"first", b"second"]
    assert archive.delete_session("s")
    assert sample.set_aside() == []


def prefix_turns(turns: list[Message], stream: bytes, size: int) -> int:
    """Count the turns whose JSON is whole in the first ``size`` bytes of an HCv1 stream."""
    symbols = struct.unpack_from("<H", stream, 8)[0]
    table = stream[10 : 10 + 2 * symbols]
    bits_of = dict(zip(table[0::2], table[1::2], strict=True))
    text = json.dumps(turns, separators=(",", ":"), ensure_ascii=False).encode()
    start = 14 + 2 * symbols
    room = 8 * (size - start)
    ends = []
    for i in range(1, len(turns) + 1):
        ends.append(len(json.dumps(turns[:i], separators=(",", ":"), ensure_ascii=False).encode()) - 1)
    used = 0
    whole = 0
    for position, byte in enumerate(text, 1):
        used += bits_of[byte]
        if used > room:
            break
        whole += position in ends
    return whole


@pytest.mark.usefixtures("_no_waiting")
def test_a_version_1_file_cut_anywhere_gives_back_the_turns_before_the_cut(
    tmp_path: Path,
) -> None:
    turns = MESSAGES[:5]
    whole = version_1(turns)
    for size in range(len(whole)):
        folder = tmp_path / str(size)
        archive = ConversationArchive(folder)
        put("s", whole[:size])(archive)
        count = prefix_turns(turns, whole[24:], size - 24)
        report = archive.verify("s")
        assert report is not None
        assert not report.is_intact, size
        if count == 0:
            with pytest.raises(ArchiveCorrupt):
                archive.load_all("s")
        else:
            assert archive.load_all("s") == turns[:count], size
        assert archive.store.counters["damaged_reads"] == 1, size
        archive.append_turn("s", NEXT)
        assert archive.load_all("s") == [*turns[:count], NEXT], size
        if size:
            assert (folder / "s.huff.damaged-1").read_bytes() == whole[:size]


@pytest.mark.usefixtures("_no_waiting")
def test_a_changed_byte_in_a_version_1_file_is_no_other_error_and_loses_no_file(
    tmp_path: Path,
) -> None:
    """Version 1 has no checksum, so not every change can be seen; none may do more harm than it did."""
    whole = version_1(MESSAGES[:3])
    for position in range(len(whole)):
        for mask in (0x01, 0x40, 0xFF):
            folder = tmp_path / f"{position}-{mask}"
            archive = ConversationArchive(folder)
            data = flip(whole, position, mask)
            put("s", data)(archive)
            found = outcome(archive, "s")
            with contextlib.suppress(ArchiveCorrupt):
                assert archive.get_metadata("s") is not None
            assert archive.verify("s") is not None
            archive.append_turn("s", NEXT)
            again = ConversationArchive(folder)
            before = found if isinstance(found, list) else []
            assert again.load_all("s") == [*before, NEXT], (position, mask)
            if found is ArchiveCorrupt:
                assert (folder / "s.huff.damaged-1").read_bytes() == data


@pytest.mark.parametrize("updated", [float("nan"), float("inf"), -1.0, 1e300, 1e12])
def test_a_damaged_time_in_a_version_1_file_costs_no_turn(tmp_path: Path, updated: float) -> None:
    data = bytearray(version_1(FOUR))
    struct.pack_into("<dd", data, 4, updated, updated)
    archive = ConversationArchive(tmp_path)
    put("s", bytes(data))(archive)
    assert archive.load_all("s") == FOUR
    (meta,) = archive.list_sessions()
    assert (meta["created_at"], meta["updated_at"]) == (FOUR[0]["timestamp"], FOUR[-1]["timestamp"])
    archive.append_turn("s", NEXT)
    assert ConversationArchive(tmp_path).load_all("s") == [*FOUR, NEXT]
    assert archive.get_metadata("s")["created_at"] == FOUR[0]["timestamp"]  # type: ignore[index]


# -- disks that are really full ----------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_up(archive: ConversationArchive, session: str) -> tuple[list[Message], ArchiveUnavailable]:
    """Append until it is refused; return what was acknowledged and the refusal."""
    acknowledged: list[Message] = []
    while True:
        turn = {"role": "user", "content": os.urandom(1500).hex(), "metadata": {"n": len(acknowledged)}}
        try:
            archive.append_turn(session, turn)
        except ArchiveUnavailable as error:
            return acknowledged, error
        acknowledged.append(turn)


def check_after_refusal(archive: ConversationArchive, session: str, acknowledged: list[Message]) -> None:
    """The refused turn is not there, the others are, and there is no damage."""
    again = ConversationArchive(archive.archive_dir)
    assert again.load_all(session) == acknowledged
    assert again.load_recent(session, 3) == acknowledged[-3:]
    report = again.verify(session)
    assert report is not None
    assert report.is_intact


def test_a_full_disk_refuses_the_append_and_keeps_everything_before_it(small_disk: Path) -> None:
    archive = ConversationArchive(small_disk / "archive")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(30_000))
    acknowledged, error = fill_up(archive, "s")
    assert error.errno == errno.ENOSPC
    assert "the disk is full" in str(error)
    assert len(acknowledged) > 5
    check_after_refusal(archive, "s", acknowledged)
    with pytest.raises(ArchiveUnavailable):
        archive.append_turn("another", {"content": os.urandom(4000).hex()})
    assert not archive.session_exists("another")
    ballast.unlink()
    archive.append_turn("s", NEXT)
    archive.append_turn("another", NEXT)
    assert archive.load_all("s") == [*acknowledged, NEXT]
    assert archive.load_all("another") == [NEXT]
    assert archive.store.counters["repairs"] == 0


@pytest.fixture
def file_size_limit() -> Iterator[Callable[[int], None]]:
    """A function after whose call no file of this process can grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_stops_half_way_is_cut_back(
    tmp_path: Path, file_size_limit: Callable[[int], None]
) -> None:
    archive = ConversationArchive(tmp_path)
    archive.append_turns("s", FOUR)
    path = path_of(tmp_path, "s")
    before = path.read_bytes()
    # A few bytes of the frame fit: the write comes back short, and the next one is refused.
    file_size_limit(len(before) + 20)
    with pytest.raises(ArchiveUnavailable) as refused:
        archive.append_turn("s", NEXT)
    with pytest.raises(ArchiveUnavailable):
        archive.append_turn("another", {"content": random.Random(1).randbytes(len(before) * 20).hex()})
    file_size_limit(resource.RLIM_INFINITY)
    assert refused.value.errno == errno.EFBIG
    assert path.read_bytes() == before
    check_after_refusal(archive, "s", FOUR)
    assert [name for name in os.listdir(tmp_path) if not name.startswith(".")] == ["s.huff"]
    assert not (tmp_path / ".another.huff.tmp").exists()
    archive.append_turn("s", NEXT)
    assert archive.load_all("s") == [*FOUR, NEXT]


def test_a_file_that_cannot_be_cut_back_has_its_torn_tail_set_aside_by_the_next_append(
    tmp_path: Path, file_size_limit: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = ConversationArchive(tmp_path)
    archive.append_turns("s", FOUR)
    path = path_of(tmp_path, "s")
    size = path.stat().st_size

    def refuse(fd: int, length: int) -> None:
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", refuse)
        file_size_limit(size + 20)
        with pytest.raises(ArchiveUnavailable):
            archive.append_turn("s", NEXT)
        file_size_limit(resource.RLIM_INFINITY)
    torn = path.read_bytes()[size:]
    assert len(torn) == 20
    assert archive.load_all("s") == FOUR
    archive.append_turn("s", NEXT)
    assert archive.load_all("s") == [*FOUR, NEXT]
    assert (tmp_path / "s.huff.damaged-1").read_bytes() == torn


def test_one_session_that_is_refused_does_not_keep_the_others_from_disk(tmp_path: Path) -> None:
    files = FaultyFiles()
    archive = ConversationArchive(tmp_path, files=files)
    batch = {session: [redis_turn(0)] for session in ("a", "b", "c")}
    archive.append_turn("other", NEXT)
    first = next(
        number
        for number, step in enumerate(dry_run(batch, tmp_path / "dry"))
        if step.name == "write_synced" and step.path.endswith(".b.huff.tmp")
    )
    files.fail(len(files.steps) + first)
    results = archive.store.append_many_locked(batch)
    assert results["a"] == results["c"] == 1
    assert isinstance(results["b"], ArchiveUnavailable)
    again = ConversationArchive(tmp_path)
    assert [again.load_all(session) for session in batch] == [[MESSAGES[0]], None, [MESSAGES[0]]]


def dry_run(batch: dict[str, list[Turn]], folder: Path) -> list[Step]:
    files = FaultyFiles()
    archive = ConversationArchive(folder, files=files)
    archive.append_turn("other", NEXT)
    started = len(files.steps)
    archive.store.append_many_locked(batch)
    return files.steps[started:]


# -- a reader beside a writer ------------------------------------------------------------


def test_a_reader_waits_for_a_writer_rather_than_call_its_half_written_frame_damage(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    archive.append_turns("s", FOUR)
    path = path_of(tmp_path, "s")
    before = path.read_bytes()
    archive.append_turn("s", NEXT)
    after = path.read_bytes()
    reader = ConversationArchive(tmp_path)
    views: list[Callable[[], Any]] = [
        lambda: reader.load_all("s"),
        lambda: reader.load_recent("s", 5),
        lambda: [turn.body for turn in reader.store.turns("s")],
        lambda: reader.get_metadata("s")["num_turns"],  # type: ignore[index]
    ]
    for view in views:
        path.write_bytes(after[: len(before) + 30])
        seen: list[Any] = []
        lock = reader.store.lock("s")
        thread = threading.Thread(target=lambda view=view, seen=seen: seen.append(view()))
        thread.start()
        thread.join(0.05)
        assert thread.is_alive(), "it did not wait"
        path.write_bytes(after)
        lock.release()
        thread.join()
        assert seen in ([[*FOUR, NEXT]], [5])
    assert reader.store.counters["damaged_reads"] == 0


def test_damage_in_a_read_only_folder_is_read_without_a_lock(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    archive.append_turns("s", FOUR)
    with open(path_of(tmp_path, "s"), "ab") as file:
        file.write(b"torn")

    class ReadOnly(Files):
        def try_lock(self, path: str) -> Any:
            raise ArchiveUnavailable(errno.EROFS, "the file system is read-only")

    archive = ConversationArchive(tmp_path, files=ReadOnly())
    assert archive.load_all("s") == FOUR
    assert archive.store.counters["damaged_reads"] == 1


@pytest.mark.parametrize("seen", range(6))
@pytest.mark.parametrize("torn", [False, True])
def test_a_file_that_goes_while_it_is_read_is_no_session(tmp_path: Path, seen: int, torn: bool) -> None:
    """Another process deletes the session after so many of our operations on its file."""

    class Vanishing(Files):
        def __init__(self) -> None:
            self.left = seen

        def look(self, path: str) -> str:
            if path.endswith("s.huff"):
                self.left -= 1
                return path if self.left >= 0 else f"{path}-gone"
            return path

        def exists(self, path: str) -> bool:
            return super().exists(self.look(path))

        def read(self, path: str) -> bytes | None:
            return super().read(self.look(path))

        def read_at(self, path: str, offset: int, count: int) -> bytes | None:
            return super().read_at(self.look(path), offset, count)

        def read_tail(self, path: str, count: int) -> Any:
            return super().read_tail(self.look(path), count)

    ConversationArchive(tmp_path).append_turns("s", FOUR)
    if torn:
        with open(path_of(tmp_path, "s"), "ab") as file:
            file.write(b"torn")

    def archive() -> ConversationArchive:
        return ConversationArchive(tmp_path, files=Vanishing())

    assert archive().load_all("s") in (None, FOUR)
    assert archive().load_recent("s", 4) in ([], FOUR)
    assert (archive().get_metadata("s") or {"num_turns": None})["num_turns"] in (None, 4)
    assert archive().store.last_index("s").total in (0, 4)
    report = archive().verify("s")
    assert report is None or report.turns == 4
    assert archive().list_sessions() in ([], ConversationArchive(tmp_path).list_sessions())


def test_a_file_that_is_cut_while_it_is_walked_is_read_as_a_whole(tmp_path: Path) -> None:
    """A writer that mends the tail between two of our reads; what we hold no longer fits together."""
    writer = ConversationArchive(tmp_path, codec="stored")
    turns = [{"content": str(n) * 30_000} for n in range(4)]
    for turn in turns:
        writer.append_turn("s", turn)

    class Cut(Files):
        def read_at(self, path: str, offset: int, count: int) -> bytes | None:
            data = super().read_at(path, offset, count)
            return data[:-1] if data and count > 10_000 else data

    assert ConversationArchive(tmp_path, files=Cut()).load_recent("s", 3) == turns[-3:]


def test_the_last_index_entry_of_a_torn_file_is_that_of_its_last_frame(sample: Sample) -> None:
    archive = sample.open(sample.data + b"torn")
    index = archive.store.last_index("s")
    assert (index.total, index.newest) == (9, archive.store.turns("s")[-1].id)
    assert archive.store.counters["damaged_reads"] == 2


def test_a_message_is_found_by_its_nonce_however_long_ago_it_was_archived(tmp_path: Path) -> None:
    clock = ManualClock(SOON)
    archive = ConversationArchive(tmp_path, clock=clock)
    store = archive.store
    assert store.find_nonces_locked("s", [b"nonce0"]) == {}
    for number in (0, 1, 2):
        with store.lock("s"):
            assert store.append_locked("s", []) == 0
            assert store.append_locked("s", [redis_turn(number, b"nonce%d" % number)]) == 1
    assert store.find_nonces_locked("s", [b"nonce1"]) == {b"nonce1": redis_turn(1).id}
    assert store.find_nonces_locked("s", [b"nonce9"]) == {}
    with open(path_of(tmp_path, "s"), "ab") as file:
        file.write(b"torn")
    assert store.find_nonces_locked("s", [b"nonce1"]) == {b"nonce1": redis_turn(1).id}
    assert store.find_nonces_locked("s", [b"nonce9"]) == {}
    archive.append_turn("s", NEXT)
    clock.advance(200_000)
    archive.append_turn("s", NEXT)
    assert store.find_nonces_locked("s", [b"nonce1"]) == {b"nonce1": redis_turn(1).id}


@pytest.mark.parametrize("first", range(7))
def test_messages_that_are_moved_to_disk_again_are_there_once(tmp_path: Path, first: int) -> None:
    """The daemon was stopped between the append and the trim, and more has come since."""
    archive = ConversationArchive(tmp_path)
    for turns in ([0, 1], [2], [3, 4]):
        locked(archive, "s", lambda t=turns: archive.store.append_locked("s", [redis_turn(n) for n in t]))
    again = [redis_turn(number) for number in range(first, 7)]
    assert locked(archive, "s", lambda: archive.store.append_locked("s", again)) == len(
        range(max(5, first), 7)
    )
    assert archive.load_all("s") == [*MESSAGES[:5], *MESSAGES[max(5, first) : 7]]


def test_a_mark_that_a_crash_left_empty_is_made_anew(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path, clock=ManualClock(SOON))
    outage(archive)
    (mark,) = (tmp_path / ".pending").iterdir()
    mark.write_bytes(b"")
    assert archive.store.pending_sessions() == []
    outage(archive)
    assert archive.store.pending_sessions() == ["s"]


def test_a_stopped_deletion_brings_no_older_version_of_the_session_back(tmp_path: Path) -> None:
    stopped_upgrade(ConversationArchive(tmp_path))
    files = FaultyFiles()
    archive = ConversationArchive(tmp_path, files=files)
    removals = []
    copy_folder(tmp_path, tmp_path.parent / "dry")
    dry = FaultyFiles()
    ConversationArchive(tmp_path.parent / "dry", files=dry).delete_session("a b")
    removals = [
        n for n, step in enumerate(dry.steps) if step.name == "remove" and step.path.endswith("b.huff")
    ]
    assert len(removals) == 2
    files.crash(removals[0], "after")
    with pytest.raises(Crash):
        archive.delete_session("a b")
    assert ConversationArchive(tmp_path).load_all("a b") == FOUR


def test_a_deletion_leaves_nothing_of_a_session_behind(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    for session in ("s", "a b"):
        put(session, V1_CUT)(archive)
        archive.append_turn(session, NEW)
        with open(path_of(tmp_path, session), "ab") as file:
            file.write(b"torn")
        archive.append_turn(session, NEXT)
        path = path_of(tmp_path, session)
        Path(path.parent, f".{path.name}.tmp").write_bytes(b"what a crash left")
        archive.store.mark_pending_locked(session)
        assert archive.delete_session(session)
        assert folder_contents(tmp_path) == {}, session
        assert not archive.delete_session(session)


def test_a_deletion_takes_what_was_set_aside_even_where_the_file_itself_is_gone(tmp_path: Path) -> None:
    files = FaultyFiles()
    archive = ConversationArchive(tmp_path, files=files)
    put("s", b"no archive at all")(archive)
    with contextlib.suppress(ArchiveCorrupt):
        archive.load_all("s")
    dry = FaultyFiles()
    copy_folder(tmp_path, tmp_path.parent / "dry")
    dry_archive = ConversationArchive(tmp_path.parent / "dry", files=dry)
    with contextlib.suppress(ArchiveCorrupt):
        dry_archive.load_all("s")
    dry_archive.append_turn("s", NEXT)
    removal = next(n for n, step in enumerate(dry.steps) if step.name == "remove")
    files.crash(removal, "after")
    with pytest.raises(Crash):
        archive.append_turn("s", NEXT)
    assert folder_contents(tmp_path) == {"s.huff.damaged-1": b"no archive at all"}
    ConversationArchive(tmp_path).delete_session("s")
    assert folder_contents(tmp_path) == {}


def test_of_several_writes_one_that_is_refused_is_taken_back_and_the_others_stand(
    tmp_path: Path, file_size_limit: Callable[[int], None]
) -> None:
    old, made = tmp_path / "old", tmp_path / "made"
    for path in (old, tmp_path / "kept"):
        path.write_bytes(b"before")
    writes = [
        Write(str(tmp_path / "kept"), 6, b", after"),
        Write(str(old), 6, bytes(200)),
        Write(str(made), None, bytes(200)),
        Write(str(tmp_path / "new"), None, b"new"),
        Write(str(tmp_path / "absent"), 6, b"x"),
    ]
    file_size_limit(100)
    refusals = Files().write_many(writes)
    file_size_limit(resource.RLIM_INFINITY)
    assert [None if error is None else error.errno for error in refusals] == [
        None, errno.EFBIG, errno.EFBIG, None, errno.ENOENT,
    ]  # fmt: skip
    assert folder_contents(tmp_path) == {"kept": b"before, after", "old": b"before", "new": b"new"}


def test_a_sync_that_fails_is_a_write_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"before")
    sync, failing = os.fsync, iter([False, True, True])

    def fsync(fd: int) -> None:
        if next(failing):
            raise OSError(errno.EIO, "the disk is gone")
        sync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    writes = [
        Write(str(tmp_path / "a"), None, b"a"),
        Write(str(path), 6, b"x"),
        Write(str(tmp_path / "b"), None, b"b"),
    ]
    refusals = Files().write_many(writes)
    assert [None if error is None else error.errno for error in refusals] == [None, errno.EIO, errno.EIO]
    assert folder_contents(tmp_path) == {"a": b"a", "old": b"before"}


def test_sessions_whose_files_differ_in_case_alone_are_not_written_at_once(tmp_path: Path) -> None:
    batch = {session: [redis_turn(0)] for session in ("case", "CASE", "other")}
    files = FaultyFiles()
    archive = ConversationArchive(tmp_path, files=files)
    assert archive.store.append_many_locked(batch) == {"case": 1, "CASE": 1, "other": 1}
    written = [step.path for step in files.steps if step.name in ("write_synced", "rename")]
    assert [os.path.basename(path) for path in written][-2:] == [".CASE.huff.tmp", "CASE.huff"]
    assert all(ConversationArchive(tmp_path).load_all(session) == [MESSAGES[0]] for session in batch)
