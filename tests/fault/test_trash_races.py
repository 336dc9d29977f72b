"""Two processes at one session's files: what comes of it is what comes of one after the other."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lix_cache import ConversationArchive, HuffmanCodec
from lix_cache.archive.names import file_stem
from lix_cache.archive.tombstones import Deletion
from lix_cache.errors import ArchiveBusy, ArchiveCorrupt
from lix_cache.messages.turn import MessageId
from lix_cache.storage.locks import FileLock
from tests.fault.files import FaultyFiles, Step, copy_folder
from tests.support.sampling import Part, in_parts
from tests.support.twins import ManualClock

pytestmark = pytest.mark.promise("no-loss")

ROOT = Path(__file__).resolve().parents[2]
DAY = 86_400.0
SESSION = "the session 1"
NOW_MS = int(time.time() * 1000)
LONG_AGO = MessageId(1000, 0)
JUST_NOW = MessageId(NOW_MS, 0)


class Shared(FaultyFiles):
    """Another process does something before one of the steps of this one.

    Attributes:
        unlocked: the steps that were done without the session's lock.
    """

    def __init__(self, number: int = -1, other: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.unlocked: list[int] = []
        self._number = number
        self._other = other
        self._lock: FileLock | None = None

    def _do(self, step: Step, call: Callable[[], Any], tear: Any = None) -> Any:
        if len(self.steps) == self._number:
            self._number = -1
            self._other()
        if self._lock is None or not self._lock.is_held:
            self.unlocked.append(len(self.steps))
        result = super()._do(step, call, tear)
        if isinstance(result, FileLock):
            self._lock = result
        return result


def opened(folder: Path, ahead_days: float = 0, **options: Any) -> ConversationArchive:
    clock = ManualClock(time.time() + ahead_days * DAY)
    return ConversationArchive(folder, 14, clock=clock, lock_timeout_seconds=0.001, **options)


def say(archive: ConversationArchive, *said: str) -> None:
    for text in said:
        archive.append_turn(SESSION, {"role": "user", "content": text})


def texts(archive: ConversationArchive) -> list[str] | None:
    found = archive.load_all(SESSION)
    return None if found is None else [str(message["content"]) for message in found]


def age(folder: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(folder / f"{file_stem(SESSION)}.huff", (then, then))


def expire(archive: ConversationArchive) -> object:
    return archive.cleanup_expired()


def restore(archive: ConversationArchive) -> object:
    return archive.restore(SESSION)


def append(archive: ConversationArchive) -> object:
    say(archive, "new")
    return None


def clear(archive: ConversationArchive) -> object:
    with archive.store.lock(SESSION):
        archive.store.clear_locked(SESSION)
    return None


def compact(archive: ConversationArchive) -> object:
    archive.compact(idle_seconds=0)
    return None


def delete(archive: ConversationArchive) -> object:
    with archive.store.lock(SESSION):
        return archive.store.delete_locked(SESSION, JUST_NOW)


def forget(archive: ConversationArchive) -> object:
    archive.store.forget_deletions(NOW_MS - int(DAY * 1000))
    return None


def empty(archive: ConversationArchive) -> object:
    archive.store.empty_trash(archive.store.now(), 7)
    return None


def read(archive: ConversationArchive) -> object:
    return texts(archive)


def read_recent(archive: ConversationArchive) -> object:
    return [message["content"] for message in archive.load_recent(SESSION, 4)]


def read_metadata(archive: ConversationArchive) -> object:
    meta = archive.get_metadata(SESSION)
    return None if meta is None else meta["num_turns"]


def read_end(archive: ConversationArchive) -> object:
    index = archive.store.last_index(SESSION)
    return index.total, index.cleared > LONG_AGO


WRITERS = [append, clear, compact, delete, empty, expire, forget, restore]
READERS = [read, read_recent, read_metadata, read_end]
#: What leaves a session alone that another process has the lock of.
PATIENT = {compact, empty, expire, forget}

Begun = Callable[[Path], None]


def cold(folder: Path) -> None:
    """A session expired, one piece of it in the trash for long, and deleted long ago."""
    say(opened(folder, -40), "t")
    age(folder, 40)
    archive = opened(folder, trash_days=365)
    archive.cleanup_expired()
    for path in (folder / ".trash").rglob("*.huff.*"):
        os.rename(path, f"{str(path).rpartition('.')[0]}.{int((time.time() - 8 * DAY) * 1000)}")
    with archive.store.lock(SESSION):
        archive.store._note_deletion_locked(SESSION, Deletion(LONG_AGO))
    say(opened(folder, -20), "0", "1", "2")
    (folder / f"{file_stem(SESSION)}.huff.damaged-1").write_bytes(b"aside")
    age(folder, 20)


def gone(folder: Path) -> None:
    """The same, all of it in the trash."""
    cold(folder)
    assert opened(folder, trash_days=365).cleanup_expired() == 1


def old_format(folder: Path) -> None:
    """The session as the old package left it, under a name that is not ours."""
    cold(folder)
    (folder / f"{file_stem(SESSION)}.huff").unlink()
    text = json.dumps([{"role": "user", "content": said} for said in "012"])
    head = struct.pack("<4sddI", b"CAv1", 1.5e9, 1.5e9, 3)
    (folder / f"{SESSION}.huff").write_bytes(head + HuffmanCodec.encode(text.encode(), format=1))
    os.utime(folder / f"{SESSION}.huff", (1.5e9, 1.5e9))


def outcome(folder: Path) -> object:
    """What any process sees afterwards, and what can still be taken back."""
    archive = opened(folder)
    deleted = archive.store.deleted_up_to(SESSION)
    now = texts(archive)
    metadata = read_metadata(archive)
    aside = len(list(folder.glob("*.damaged-*")))
    trashed = sorted(one["size_bytes"] > 0 for one in archive.trashed())
    archive.restore(SESSION)
    return deleted, now, metadata, aside, trashed, texts(archive)


def run(folder: Path, act: Callable[[ConversationArchive], object], files: Any = None) -> object:
    # Of the trash only "empty" removes anything.
    return act(opened(folder, files=files, trash_days=365))


@in_parts(7)
@pytest.mark.parametrize("begun", [cold, gone, old_format])
@pytest.mark.parametrize("first", WRITERS + READERS, ids=lambda act: act.__name__)
def test_what_two_processes_do_at_once_comes_out_as_one_after_the_other(
    tmp_path: Path, begun: Begun, first: Callable[[ConversationArchive], object], part: Part
) -> None:
    saved, folder = tmp_path / "saved", tmp_path / "archive"
    begun(saved)

    def sequence(*acts: Callable[[ConversationArchive], object]) -> tuple[dict[Any, object], object]:
        copy_folder(saved, folder)
        results = {act: run(folder, act) for act in acts}
        return results, outcome(folder)

    copy_folder(saved, folder)
    files = Shared()
    run(folder, first, files)
    # Under the lock the other one has to wait, whatever the step.
    steps = files.unlocked
    assert steps
    for place, second in enumerate(WRITERS):
        if second is first:
            continue
        allowed = [sequence(first, second), sequence(second, first)]
        ends = [end for _, end in allowed]
        is_patient = first in PATIENT or second in PATIENT
        if is_patient:
            # It left the session alone, and comes again.
            ends += [sequence(first)[1], sequence(second)[1]]
        for number in part.of(steps, place):
            copy_folder(saved, folder)
            results: dict[Any, object] = {}

            def other(second: Any = second, results: Any = results) -> None:
                with contextlib.suppress(ArchiveBusy):
                    results[second] = run(folder, second)

            results[first] = run(folder, first, Shared(number, other))
            if second not in results:
                results[second] = run(folder, second)
            found = results, outcome(folder)
            at = second.__name__, files.steps[number]
            assert found[1] in ends if is_patient else found in allowed, at


def test_one_file_in_the_trash_that_makes_no_sense_keeps_no_other_from_coming_back(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    gone(folder)
    first, *_ = sorted((folder / ".trash").rglob("*.huff.[0-9]*"), key=lambda path: path.suffix)
    first.write_bytes(b"nothing intact")
    say(opened(folder), "new")
    with pytest.raises(ArchiveCorrupt):
        opened(folder).restore(SESSION)
    assert texts(opened(folder)) == ["0", "1", "2", "new"]
    assert first.read_bytes() == b"nothing intact"


def test_what_is_damaged_in_the_live_file_is_set_aside_before_it_is_merged(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    gone(folder)
    say(opened(folder), "new")
    live = folder / f"{file_stem(SESSION)}.huff"
    live.write_bytes(live.read_bytes() + b"a torn tail")
    before = live.read_bytes()
    assert opened(folder).restore(SESSION)
    assert texts(opened(folder)) == ["t", "0", "1", "2", "new"]
    assert before in [path.read_bytes() for path in folder.glob("*.damaged-*")]


WORKER = """
import os, sys, time
from pathlib import Path
from lix_cache import ConversationArchive
from lix_cache.archive.expiry import Now
from lix_cache.errors import ArchiveBusy, ArchiveCorrupt

folder, role, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
archive = ConversationArchive(folder, 14, lock_timeout_seconds=20)
store, now, until = archive.store, time.time(), time.monotonic() + float(seconds)
number = 0
while time.monotonic() < until:
    number += 1
    if role == "append":
        archive.append_turn("s", {"role": "user", "content": str(number)})
        print(number, flush=True)
    elif role == "trash":
        with store.lock("s"):
            store.trash_locked("s", Now(now, time.time()))
    elif role == "restore":
        archive.restore("s")
    elif role == "compact":
        archive.compact(["s"], idle_seconds=0)
    elif role == "empty":
        # What is in there for a day; nothing is.
        store.empty_trash(store.now(), 1)
        store.forget_deletions(int((now - 86400) * 1000))
    elif role == "read":
        store.recent("s", 3), archive.load_all("s"), archive.get_metadata("s")
"""


def test_processes_that_trash_restore_compact_and_die_lose_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "archive"

    def begin(role: str, seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, str(folder), role, str(seconds)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    said: list[str] = []
    for _ in range(2):
        writer = begin("append", 4)
        killed = [begin(role, 600) for role in ("trash", "restore", "compact")]
        others = [begin(role, 4) for role in ("empty", "read")]
        time.sleep(2.5)
        for other in killed:
            other.kill()
        out, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors[-2000:]
        said += out.split()
        for other in others:
            _, errors = other.communicate(timeout=120)
            assert other.returncode == 0, errors[-2000:]
        for other in killed:
            other.communicate(timeout=120)
            assert other.returncode == -9, "it ended by itself"
    archive = ConversationArchive(folder, 14, lock_timeout_seconds=20)
    archive.restore("s")
    found = [str(message["content"]) for message in archive.load_all("s") or []]
    assert sorted(found) == sorted(said)
    assert archive.trashed() == []
