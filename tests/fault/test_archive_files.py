"""The door to the operating system: what is promised durable is synced, what is refused is said."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache import ArchiveUnavailable, ConversationArchive
from lix_cache.storage.files import Files
from tests.fault.files import CountingFiles, Crash, FaultyFiles, ForgetfulFiles, folder_contents


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was given to fsync: the path and the size it had then."""
    found: list[tuple[str, int]] = []
    real = os.fsync

    def record(fd: int) -> None:
        found.append((os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size))
        real(fd)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc here that tells which file was synced")
    monkeypatch.setattr(os, "fsync", record)
    return found


def test_what_is_written_is_synced_before_the_call_returns(
    tmp_path: Path, synced: list[tuple[str, int]]
) -> None:
    files, path = Files(), str(tmp_path / "file")
    files.write_synced(path, b"12345")
    files.append(path, 5, b"678")
    files.truncate(path, 2)
    assert synced == [(path, 5), (path, 8), (path, 2)]
    assert Path(path).read_bytes() == b"12"


def test_names_are_durable_after_sync_folder(tmp_path: Path, synced: list[tuple[str, int]]) -> None:
    Files().sync_folder(str(tmp_path))
    assert [path for path, _ in synced] == [str(tmp_path)]


def test_a_new_folder_and_its_parents_are_durable(tmp_path: Path, synced: list[tuple[str, int]]) -> None:
    folder = tmp_path / "a" / "b" / "c"
    Files().make_folder(str(folder))
    assert {path for path, _ in synced} == {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")}
    synced.clear()
    Files().make_folder(str(folder))
    assert synced == []


def test_a_relative_folder_is_made_where_the_process_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Files().make_folder("./data/conversations")
    assert (tmp_path / "data" / "conversations").is_dir()


CALLS: dict[str, Callable[[Files, str], Any]] = {
    "make_folder": lambda files, path: files.make_folder(path),
    "read": lambda files, path: files.read(path),
    "read_at": lambda files, path: files.read_at(path, 0, 10),
    "read_tail": lambda files, path: files.read_tail(path, 10),
    "append": lambda files, path: files.append(path, 0, b"x"),
    "write_synced": lambda files, path: files.write_synced(path, b"x"),
    "truncate": lambda files, path: files.truncate(path, 0),
    "rename": lambda files, path: files.rename(path, f"{path}-2"),
    "remove": lambda files, path: files.remove(path),
    "sync_folder": lambda files, path: files.sync_folder(path),
    "exists": lambda files, path: files.exists(path),
    "names": lambda files, path: list(files.names(path)),
    "try_lock": lambda files, path: files.try_lock(path),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_path_that_is_too_long_is_refused_with_a_typed_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveUnavailable) as refused:
        CALLS[name](Files(), str(tmp_path / ("x" * 300)))
    assert refused.value.errno == errno.ENAMETOOLONG
    assert isinstance(refused.value.__cause__, OSError)


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"exists", "remove", "rename"}))
def test_a_file_where_a_folder_should_be_is_refused_in_words(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArchiveUnavailable, match=r"is not a folder|File exists"):
        CALLS[name](Files(), str(tmp_path / "file" / "below"))


@pytest.mark.parametrize(
    "name", ["read", "read_at", "read_tail", "append", "write_synced", "truncate", "try_lock"]
)
def test_a_symbolic_link_is_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"not ours")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ArchiveUnavailable, match="a symbolic link is in the way"):
        CALLS[name](Files(), str(tmp_path / "link"))
    assert (tmp_path / "secret").read_bytes() == b"not ours"


def test_a_link_is_something_that_exists_but_no_session_file(tmp_path: Path) -> None:
    (tmp_path / "link.huff").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.huff").mkdir()
    assert Files().exists(str(tmp_path / "link.huff"))
    assert list(Files().names(str(tmp_path))) == []


@pytest.mark.parametrize("name", ["read", "read_at", "read_tail"])
def test_a_folder_where_a_file_should_be_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveUnavailable) as refused:
        CALLS[name](Files(), str(tmp_path))
    assert refused.value.errno == errno.EISDIR


def test_what_is_not_there_is_told_apart_from_what_cannot_be_read(tmp_path: Path) -> None:
    files, path = Files(), str(tmp_path / "nothing")
    assert files.read(path) is None
    assert files.read_at(path, 0, 1) is None
    assert files.read_tail(path, 1) is None
    assert files.remove(path) is False
    assert files.exists(path) is False
    assert list(files.names(path)) == []


@pytest.fixture
def _no_more_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.open(os.devnull, os.O_RDONLY)
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_no_more_files")
@pytest.mark.parametrize("name", ["read", "append", "write_synced", "names", "sync_folder", "try_lock"])
def test_running_out_of_file_descriptors_is_refused_in_words(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveUnavailable, match="too many open files"):
        CALLS[name](Files(), str(tmp_path / "x" if name not in ("names", "sync_folder") else tmp_path))


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("read_at", "pread"),
        ("read_tail", "pread"),
        ("append", "pwrite"),
        ("append", "fsync"),
        ("write_synced", "fsync"),
        ("truncate", "fsync"),
        ("sync_folder", "fsync"),
    ],
)
def test_a_broken_disk_is_a_typed_error_and_leaks_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, refused: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")

    def break_down(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, refused, break_down)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with pytest.raises(ArchiveUnavailable) as error:
        CALLS[name](Files(), str(tmp_path if name == "sync_folder" else path))
    assert error.value.errno == errno.EIO
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before


def test_a_lock_that_the_system_does_not_have_is_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ArchiveUnavailable):
        Files().try_lock(str(tmp_path / "lock"))


def test_a_lock_keeps_others_out_until_it_is_let_go(tmp_path: Path) -> None:
    files, path = Files(), str(tmp_path / "lock")
    lock = files.try_lock(path)
    assert lock is not None
    assert files.try_lock(path) is None
    lock.release()
    lock.release()
    with files.try_lock(path) or pytest.fail("it was let go"):
        assert files.try_lock(path) is None
    again = files.try_lock(path)
    assert again is not None
    again.release()


# -- the fakes themselves ----------------------------------------------------------------


def test_after_a_crash_nothing_more_is_done(tmp_path: Path) -> None:
    files = FaultyFiles()
    path = str(tmp_path / "x")
    files.crash(1, "after")
    files.write_synced(path, b"1")
    with pytest.raises(Crash):
        files.append(path, 1, b"2")
    assert Path(path).read_bytes() == b"12"
    with pytest.raises(Crash):
        files.remove(path)
    assert os.path.exists(path)


def test_a_crash_lets_go_of_locks(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.crash(0, "after")
    with pytest.raises(Crash):
        files.try_lock(str(tmp_path / "lock"))
    lock = Files().try_lock(str(tmp_path / "lock"))
    assert lock is not None
    lock.release()


def test_a_power_cut_takes_what_was_not_synced(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    files = ForgetfulFiles(tmp_path)
    files.write_synced(str(tmp_path / "named"), b"1")
    files.sync_folder(str(tmp_path))
    files.write_synced(str(tmp_path / "unnamed"), b"2")
    files.append(str(tmp_path / "named"), 1, b"2")
    with open(tmp_path / "named", "ab") as file:
        file.write(b"unsynced")
    files.rename(str(tmp_path / "old"), str(tmp_path / "new"))
    files.power_cut()
    assert folder_contents(tmp_path) == {"old": b"old", "named": b"12"}


def test_a_power_cut_may_keep_names_and_lose_contents(tmp_path: Path) -> None:
    files = ForgetfulFiles(tmp_path)
    files.write_synced(str(tmp_path / "synced"), b"1")
    faulty = FaultyFiles(files)
    faulty.tear(0, 3)
    with pytest.raises(Crash):
        faulty.write_synced(str(tmp_path / "torn"), b"12345")
    assert (tmp_path / "torn").read_bytes() == b"123"
    files.power_cut(keep_names=True)
    assert folder_contents(tmp_path) == {"synced": b"1", "torn": b""}


def test_bytes_that_are_read_are_counted(tmp_path: Path) -> None:
    files = CountingFiles()
    path = str(tmp_path / "x")
    files.write_synced(path, bytes(100))
    files.read(path)
    files.read_at(path, 90, 50)
    files.read_tail(path, 30)
    files.read_tail(f"{path}-2", 30)
    assert (files.reads, files.bytes_read) == (4, 140)


@pytest.mark.promise("no-false-empty")
def test_a_file_in_the_place_of_the_folder_is_not_an_empty_archive(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        archive = ConversationArchive(folder)
        for work in (archive.load_all, archive.session_exists, archive.get_metadata):
            with pytest.raises(ArchiveUnavailable):
                work("s")
        with pytest.raises(ArchiveUnavailable):
            archive.load_recent("s", 3)
