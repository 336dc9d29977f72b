"""What expires does so by two signs, and can be taken back from the trash."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lix_cache import ConversationArchive
from lix_cache.archive.names import file_stem
from lix_cache.errors import ArchiveCorrupt
from tests.fault.files import Crash, FaultyFiles, ForgetfulFiles, copy_folder
from tests.support.twins import ManualClock, Twins

DAY = 86_400.0
SESSION = "the session/1"


def texts(archive: ConversationArchive, session: str = SESSION) -> list[str]:
    return [message["content"] for message in archive.load_all(session) or []]


def say(archive: ConversationArchive, *said: str, session: str = SESSION) -> None:
    for text in said:
        archive.append_turn(session, {"role": "user", "content": text})


def age(folder: Path, days: float, session: str = SESSION) -> None:
    then = time.time() - days * DAY
    os.utime(folder / f"{file_stem(session)}.huff", (then, then))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def opened(folder: Path, ahead_days: float = 0, **options: object) -> ConversationArchive:
    """An archive with a time to live of 14 days, in a process whose clock is wrong by so much."""
    clock = ManualClock(time.time() + ahead_days * DAY)
    return ConversationArchive(folder, 14, clock=clock, **options)  # type: ignore[arg-type]


def old(folder: Path, *said: str, days: float = 20) -> ConversationArchive:
    """Return the archive with a session that is expired."""
    say(opened(folder, -days), *(said or ("0", "1", "2")))
    age(folder, days)
    return opened(folder)


def words_on_disk(folder: Path) -> list[str]:
    """Return every file that may hold what the session said."""
    skipped = {".locks", ".pending"}
    return [
        os.path.join(path, name)
        for path, _, names in os.walk(folder)
        if os.path.basename(path) not in skipped
        for name in names
    ]


# -- two signs of age ----------------------------------------------------------------


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("days", [15, 40, 4000])
def test_a_process_whose_clock_is_ahead_expires_nothing(folder: Path, days: float) -> None:
    say(opened(folder), "new")
    assert opened(folder, days).cleanup_expired() == 0
    assert opened(folder, days).expired_sessions() == []
    assert texts(opened(folder)) == ["new"]


@pytest.mark.promise("no-loss")
def test_what_a_process_writes_whose_clock_is_behind_does_not_expire(folder: Path) -> None:
    say(opened(folder, -20), "new")
    assert opened(folder).cleanup_expired() == 0
    assert texts(opened(folder)) == ["new"]


@pytest.mark.promise("no-loss")
def test_a_process_whose_clock_is_ahead_removes_nothing_from_the_trash(folder: Path) -> None:
    assert old(folder).cleanup_expired() == 1
    for days in (8, 400):
        opened(folder, days).cleanup_expired()
    assert opened(folder).restore(SESSION)
    assert texts(opened(folder)) == ["0", "1", "2"]


def test_what_is_past_its_life_by_every_sign_goes_to_the_trash_and_then_for_good(folder: Path) -> None:
    archive = old(folder)
    say(archive, "young", session="young")
    assert archive.expired_sessions() == [SESSION]
    assert archive.cleanup_expired() == 1
    assert archive.load_all(SESSION) is None
    assert archive.session_exists(SESSION) is False
    assert [meta["session_id"] for meta in archive.list_sessions()] == ["young"]
    (trashed,) = archive.trashed()
    assert trashed["session_id"] == SESSION
    assert trashed["size_bytes"] > 0
    for path in (folder / ".trash").rglob("*.huff.*"):
        os.rename(path, f"{str(path).rpartition('.')[0]}.{int((time.time() - 8 * DAY) * 1000)}")
    assert archive.cleanup_expired() == 0
    assert archive.trashed() == []
    assert archive.restore(SESSION) is False
    assert texts(archive, "young") == ["young"]


def test_without_days_in_the_trash_what_expires_is_gone(folder: Path) -> None:
    old(folder)
    archive = opened(folder, trash_days=0)
    assert archive.cleanup_expired() == 1
    assert archive.trashed() == []
    assert words_on_disk(folder) == []


@pytest.mark.promise("no-loss")
def test_a_session_that_is_written_to_does_not_keep_the_others_from_expiring(folder: Path) -> None:
    archive = old(folder)
    say(opened(folder, -20), "0", session="busy")
    age(folder, 20, "busy")
    with archive.store.lock("busy"):
        assert archive.cleanup_expired() == 1
    assert archive.session_exists("busy")
    assert archive.cleanup_expired() == 1


# -- taking back ---------------------------------------------------------------------------


@pytest.mark.promise("no-loss")
def test_what_is_taken_back_is_as_it_was_and_lives_on(folder: Path, twins: Twins) -> None:
    archive = old(folder)
    before = (folder / f"{file_stem(SESSION)}.huff").read_bytes()
    archive.cleanup_expired()
    other = twins.make("ConversationArchive", folder, 14)
    assert other.restore("never there") is False
    assert [one["session_id"] for one in other.trashed()] == [SESSION]
    assert other.restore(SESSION) is True
    assert (folder / f"{file_stem(SESSION)}.huff").read_bytes() == before
    assert other.trashed() == []
    assert other.cleanup_expired() == 0
    assert texts(archive) == ["0", "1", "2"]


@pytest.mark.promise("no-loss")
def test_a_session_that_began_anew_is_merged_with_what_is_in_the_trash(folder: Path) -> None:
    archive = old(folder)
    archive.cleanup_expired()
    assert archive.load_all(SESSION) is None, "what has expired does not come back by itself"
    say(archive, "3", "4")
    assert texts(archive) == ["3", "4"]
    assert archive.restore(SESSION)
    assert texts(archive) == ["0", "1", "2", "3", "4"]
    say(archive, "5")
    assert [m["content"] for m in archive.load_recent(SESSION, 2)] == ["4", "5"]
    assert archive.verify(SESSION).is_intact  # type: ignore[union-attr]


@pytest.mark.promise("no-loss")
def test_a_session_that_expired_more_than_once_comes_back_whole(folder: Path) -> None:
    old(folder, "0", days=60).cleanup_expired()
    old(folder, "1", days=40).cleanup_expired()
    old(folder, "2", days=20).cleanup_expired()
    archive = opened(folder)
    assert len(archive.trashed()) == 3
    assert archive.restore(SESSION)
    assert texts(archive) == ["0", "1", "2"]
    assert archive.trashed() == []


@pytest.mark.promise("no-loss")
def test_two_messages_of_one_id_both_come_back(folder: Path) -> None:
    archive = old(folder)
    turns = archive.store.turns(SESSION)
    archive.cleanup_expired()
    with archive.store.lock(SESSION):
        archive.store.append_locked(SESSION, [type(turns[0])(turns[0].id, {"content": "another"})])
    archive.restore(SESSION)
    assert sorted(texts(archive)) == ["0", "1", "2", "another"]


def test_what_was_out_of_the_context_stays_out_of_it(folder: Path) -> None:
    archive = old(folder)
    with archive.store.lock(SESSION):
        archive.store.clear_locked(SESSION)
    age(folder, 20)
    with archive.store.lock(SESSION):
        archive.store.trash_locked(SESSION, archive.store.now())
    say(archive, "3")
    archive.restore(SESSION)
    recent = archive.store.recent(SESSION, 9, in_context=True)
    assert [turn.body["content"] for turn in recent] == ["3"]
    assert texts(archive) == ["0", "1", "2", "3"]


def test_damaged_bytes_go_to_the_trash_and_come_back_with_their_session(folder: Path) -> None:
    archive = old(folder)
    aside = folder / f"{file_stem(SESSION)}.huff.damaged-2"
    aside.write_bytes(b"what was said")
    archive.cleanup_expired()
    assert not aside.exists()
    archive.restore(SESSION)
    assert [path.read_bytes() for path in folder.glob("*.damaged-*")] == [b"what was said"]


def test_what_makes_no_sense_stays_in_the_trash(folder: Path) -> None:
    archive = old(folder)
    archive.cleanup_expired()
    (trashed,) = (folder / ".trash").rglob("*.huff.*")
    trashed.write_bytes(b"nothing intact")
    say(archive, "new")
    with pytest.raises(ArchiveCorrupt):
        archive.restore(SESSION)
    assert trashed.read_bytes() == b"nothing intact"
    assert texts(archive) == ["new"]


# -- deletion ------------------------------------------------------------------------------


@pytest.mark.parametrize("anew", [False, True])
def test_a_deletion_takes_what_is_in_the_trash(folder: Path, anew: bool) -> None:
    archive = old(folder)
    (folder / f"{file_stem(SESSION)}.huff.damaged-7").write_bytes(b"what was said")
    archive.cleanup_expired()
    if anew:
        say(archive, "new")
    assert archive.delete_session(SESSION) is True
    assert words_on_disk(folder) == []
    assert archive.delete_session(SESSION) is False


@pytest.mark.parametrize("numbers", [(2,), (1, 3), (10, 200)])
def test_a_deletion_takes_damaged_bytes_whatever_their_number(folder: Path, numbers: tuple[int, ...]) -> None:
    archive = opened(folder)
    # Sessions whose file names begin as this one's do.
    others = [SESSION + ".huff.damaged-1", SESSION + "0", SESSION[:-1]]
    for session in (SESSION, *others):
        say(archive, "said", session=session)
    for number in numbers:
        (folder / f"{file_stem(SESSION)}.huff.damaged-{number}").write_bytes(b"what was said")
    archive.delete_session(SESSION)
    left = {os.path.basename(path) for path in words_on_disk(folder)}
    assert left == {f"{file_stem(session)}.huff" for session in others}


# -- crashes -------------------------------------------------------------------------------


def steps_of(folder: Path, act: Callable[[ConversationArchive], object]) -> int:
    files = FaultyFiles()
    act(opened(folder, files=files))
    return len(files.steps)


def trash(archive: ConversationArchive) -> None:
    archive.cleanup_expired()


def restore(archive: ConversationArchive) -> None:
    archive.restore(SESSION)


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("act", [trash, restore])
@pytest.mark.parametrize("power_cut", [False, True])
def test_a_crash_at_any_step_loses_nothing(
    folder: Path, tmp_path: Path, act: Callable[[ConversationArchive], object], anew: bool, power_cut: bool
) -> None:
    archive = old(folder)
    expected = ["0", "1", "2"]
    (folder / f"{file_stem(SESSION)}.huff.damaged-1").write_bytes(b"aside")
    if act is restore or anew:
        archive.cleanup_expired()
    if anew:
        expected += ["3"]
        say(opened(folder, -18), "3")
        age(folder, 18)
    saved = tmp_path / "saved"
    copy_folder(folder, saved)
    for number in range(steps_of(folder, act)):
        for when in ("before", "after"):
            copy_folder(saved, folder)
            forgetful = ForgetfulFiles(folder)
            files = FaultyFiles(forgetful)
            files.crash(number, when)  # type: ignore[arg-type]
            with pytest.raises(Crash):
                act(opened(folder, files=files))
            if power_cut:
                forgetful.power_cut()
            again = opened(folder)
            again.restore(SESSION)
            assert texts(again) == expected, (number, when)
            # A power cut may leave such a file under both of its names.
            aside = {path.read_bytes() for path in folder.glob("*.damaged-*")}
            assert aside == {b"aside"}, (number, when)


# -- who may read --------------------------------------------------------------------------


@pytest.mark.promise("isolation")
def test_only_the_owner_may_read_what_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "archive"
    before = os.umask(0)
    try:
        archive = old(folder)
        with archive.store.lock(SESSION):
            archive.store.mark_pending_locked(SESSION)
        path = folder / f"{file_stem(SESSION)}.huff"
        with open(path, "ab") as file:
            file.write(b"a torn tail")
        say(archive, "3")
        archive.compact(idle_seconds=0)
        archive.append_turns("many", [{"content": "x"}] * 3)
        archive.store.append_many_locked({s: archive.store.turns(SESSION) for s in ("a", "b")})
        age(folder, 20)
        with archive.store.lock(SESSION):
            archive.store.trash_locked(SESSION, archive.store.now())
    finally:
        os.umask(before)
    modes = {
        os.path.join(path, name): stat.S_IMODE(os.stat(os.path.join(path, name)).st_mode)
        for path, folders, names in os.walk(tmp_path / "new")
        for name in (*folders, *names)
    }
    assert len(modes) > 10
    shared = {path: oct(mode) for path, mode in modes.items() if mode & 0o077}
    assert shared == {}


# -- a folder that goes away ---------------------------------------------------------------


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("missing", [".", ".locks", ".pending"])
def test_a_folder_that_was_removed_is_made_again(folder: Path, missing: str) -> None:
    import shutil

    archive = opened(folder)
    say(archive, "0")
    shutil.rmtree(folder / missing)
    with archive.store.lock(SESSION):
        archive.store.mark_pending_locked(SESSION)
    say(archive, "1")
    assert texts(archive)[-1] == "1"
    assert archive.store.pending_sessions() == [SESSION]
    assert archive.cleanup_expired() == 0
