"""Any session id can have a file, none can leave the folder with it, and no two share one."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lix_cache import ArchiveBusy, ArchiveCorrupt, ConversationArchive, HuffmanCodec, SessionKey
from lix_cache.archive.names import file_stem, is_encoded, plain_stem, session_id_of_stem, stripe_of
from lix_cache.archive.reading import read_header
from lix_cache.messages.message import Message
from lix_cache.messages.session_key import stored_id
from lix_cache.storage.files import Files

pytestmark = pytest.mark.promise("isolation")

HOSTILE = [
    "..",
    ".",
    "../evil",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a%2Fb",
    "a%252Fb",
    "a\\b",
    "..\\..\\evil",
    "nul\0byte",
    "\0",
    "*",
    "?[a-z]*",
    "{a,b}",
    "line\nbreak",
    "\r\n",
    "\x1b[2J",
    " ",
    " a",
    "a ",
    "a.",
    "a",
    "A",
    "aA",
    "Aa",
    "~",
    "~root",
    "~" + hashlib.sha256(b"x" * 10_000).hexdigest(),
    "x" * 10_000,
    "x" * 9_999 + "y",
    "x" * 180,
    "x" * 181,
    "é" * 60,
    "é" * 61,
    "会話",
    "הודעה",
    "🎉",
    "e\u0301",
    "\u00e9",
    "ﬁ",
    "fi",
    "İ",
    "ſ",
    "s",
    "con",
    "CON",
    "con.txt",
    "nul",
    "com1",
    "lpt9.huff",
    "aux.huff",
    ".hidden",
    ".a.huff.tmp",
    "a.huff",
    "a.huff.damaged-1",
    ".locks",
    ".locks/000",
    ".pending",
    ".pending/a",
    "-rf",
    "--help",
    "$(id)",
    "`id`",
    "%",
    "%%",
    "%00",
    "%2F",
    "%2f",
    "/",
    "//",
    "a:b",
    "C:\\x",
    "a|b",
    "<>",
    '"',
    "'",
    "\u202e",
    "\ufeff",
    "\uffff",
    "lix:{b0}:s:x",
]


def test_the_hostile_ids_are_all_different() -> None:
    assert len(set(HOSTILE)) == len(HOSTILE)


@pytest.mark.parametrize("session_id", HOSTILE, ids=range(len(HOSTILE)))
def test_a_name_is_one_plain_visible_file(session_id: str) -> None:
    stem = file_stem(session_id)
    assert re.fullmatch(r"[A-Za-z0-9_%~-][A-Za-z0-9_.%-]*", stem)
    assert len(stem) <= 180
    assert stem.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}
    if not stem.startswith("~"):
        assert session_id_of_stem(stem) == session_id


def test_hostile_ids_have_a_file_each_inside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "archive"
    (tmp_path / "canary").write_bytes(b"untouched")
    archive = ConversationArchive(folder)
    for session_id in HOSTILE:
        archive.append_turn(session_id, {"content": session_id})
        archive.store.mark_pending_locked(session_id)
    for session_id in HOSTILE:
        assert archive.load_all(session_id) == [{"content": session_id}]
        meta = archive.get_metadata(session_id)
        assert meta is not None
        assert meta["session_id"] == session_id
    assert sorted(m["session_id"] for m in archive.list_sessions()) == sorted(HOSTILE)
    assert sorted(report.session_id for report in archive.verify_all()) == sorted(HOSTILE)
    assert sorted(archive.store.pending_sessions()) == sorted(HOSTILE)
    assert len(list(folder.glob("*.huff"))) == len(HOSTILE)
    outside = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if folder not in (p, *p.parents)}
    assert outside == {"canary", "deep"}
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {".deleted", ".locks", ".pending"}
    for number, session_id in enumerate(HOSTILE, 1):
        assert archive.delete_session(session_id)
        assert len(list(folder.glob("*.huff"))) == len(HOSTILE) - number
        assert not archive.session_exists(session_id)
    assert archive.store.pending_sessions() == []
    assert (tmp_path / "canary").read_bytes() == b"untouched"


@pytest.mark.parametrize(
    "pair", [("A", "a"), ("%2F", "/"), ("e\u0301", "\u00e9"), ("x" * 9_999, "x" * 10_000)]
)
def test_ids_that_look_alike_do_not_share_a_file(tmp_path: Path, pair: tuple[str, str]) -> None:
    archive = ConversationArchive(tmp_path)
    for session_id in pair:
        archive.append_turn(session_id, {"content": ascii(session_id)})
    for session_id in pair:
        assert archive.load_all(session_id) == [{"content": ascii(session_id)}]


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True, max_size=20))
def test_two_ids_never_have_one_name(session_ids: list[str]) -> None:
    stems = [file_stem(session_id) for session_id in session_ids]
    assert len(set(stems)) == len(stems)
    assert [session_id_of_stem(stem) for stem in stems if stem[0] != "~"] == [
        session_id for session_id, stem in zip(session_ids, stems, strict=True) if stem[0] != "~"
    ]


@settings(deadline=None)
@given(st.text(st.sampled_from("aA./%~2Fcon\\\0\n é"), min_size=1))
def test_no_id_escapes_or_hides(session_id: str) -> None:
    stem = file_stem(session_id)
    assert os.path.basename(stem) == stem
    assert not stem.startswith(".")
    assert "\0" not in stem
    assert "\\" not in stem


def test_a_session_has_one_lock_in_every_process() -> None:
    # The numbers are part of what processes of different versions must agree on.
    assert (stripe_of("user-abc"), stripe_of("会話")) == (134, 534)
    assert {stripe_of(str(n)) for n in range(20_000)} == set(range(1024))


# -- another session's file under our name ----------------------------------------------


def test_a_file_of_another_session_is_neither_read_nor_written_nor_removed(tmp_path: Path) -> None:
    """What a file system that ignores case, or a user who renames files, does to us."""
    archive = ConversationArchive(tmp_path)
    archive.append_turn("alice", {"content": "hers"})
    (tmp_path / "alice.huff").rename(tmp_path / "Alice.huff")
    before = (tmp_path / "Alice.huff").read_bytes()
    for work in (
        lambda: archive.load_all("Alice"),
        lambda: archive.load_recent("Alice", 5),
        lambda: archive.search_by_text("Alice", "hers"),
        lambda: archive.get_metadata("Alice"),
        lambda: archive.append_turn("Alice", {"content": "his"}),
        lambda: archive.delete_session("Alice"),
    ):
        with pytest.raises(ArchiveCorrupt, match="belongs to session 'alice', not 'Alice'"):
            work()
    assert (tmp_path / "Alice.huff").read_bytes() == before
    report = archive.verify("Alice")
    assert report is not None
    assert "the file is of session 'alice'" in report.problems


# -- long ids ------------------------------------------------------------------------------


def test_a_file_named_by_a_digest_tells_whose_it_is_even_where_its_tail_is_torn(tmp_path: Path) -> None:
    session_id = "very long " * 100
    archive = ConversationArchive(tmp_path)
    archive.append_turn(session_id, {"content": "x"})
    (path,) = tmp_path.glob("*.huff")
    assert path.stem == "~" + hashlib.sha256(session_id.encode()).hexdigest()
    with open(path, "ab") as file:
        file.write(b"torn")
    assert [meta["session_id"] for meta in archive.list_sessions()] == [session_id]
    assert [report.session_id for report in archive.verify_all()] == [session_id]
    header = read_header(Files(), str(path))
    assert header is not None
    assert header.session_id == session_id


def test_a_file_named_by_a_digest_whose_header_is_lost_is_listed_by_its_name(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    archive.append_turn("x" * 500, {"content": "x"})
    (path,) = tmp_path.glob("*.huff")
    path.write_bytes(b"????" + path.read_bytes()[4:])
    assert [meta["session_id"] for meta in archive.list_sessions()] == [path.stem]
    assert archive.load_all("x" * 500) == [{"content": "x"}]


# -- files of the old package --------------------------------------------------------------


def version_1(*messages: str) -> bytes:
    text = "[" + ",".join(f'{{"content":"{message}"}}' for message in messages) + "]"
    head = struct.pack("<4sddI", b"CAv1", 1.5e9, 1.5e9, len(messages))
    return head + HuffmanCodec.encode(text.encode(), format=1)


def contents(archive: ConversationArchive, session_id: str) -> list[str] | None:
    turns: list[Message] | None = archive.load_all(session_id)
    return None if turns is None else [turn["content"] for turn in turns]


@pytest.mark.parametrize("session_id", ["a b", "a%2Fb", "100%", ".hidden", "é" * 100, "con", "*", "~x"])
def test_a_version_1_file_is_found_under_the_name_it_had(tmp_path: Path, session_id: str) -> None:
    old = tmp_path / f"{session_id}.huff"
    old.write_bytes(version_1("old"))
    os.utime(old, (1.5e9, 1.5e9))
    archive = ConversationArchive(tmp_path)
    assert archive.session_exists(session_id)
    assert contents(archive, session_id) == ["old"]
    meta = archive.get_metadata(session_id)
    assert meta is not None
    assert meta["session_id"] == session_id
    if not session_id.startswith("."):
        assert [m["session_id"] for m in archive.list_sessions()] == [session_id]
        assert archive.expired_sessions() == [session_id]
    archive.append_turn(session_id, {"content": "new"})
    assert contents(archive, session_id) == ["old", "new"]
    assert not old.exists()
    assert [m["session_id"] for m in archive.list_sessions()] == [session_id]


@pytest.mark.parametrize("data", [b"", b"C", version_1("old")[4:], b"XAv1" + version_1("old")[4:]])
@pytest.mark.parametrize("session_id", ["a b", "plain", "100%"])
def test_a_version_1_file_whose_magic_is_lost_is_damage_and_not_a_miss(
    tmp_path: Path, session_id: str, data: bytes
) -> None:
    (tmp_path / f"{session_id}.huff").write_bytes(data)
    archive = ConversationArchive(tmp_path)
    for work in (archive.load_all, archive.get_metadata):
        with pytest.raises(ArchiveCorrupt, match="no intact frame"):
            work(session_id)
    archive.append_turn(session_id, {"content": "new"})
    assert contents(archive, session_id) == ["new"]
    kept = [path.read_bytes() for path in tmp_path.glob("*.damaged-1")]
    assert kept == [data] or not data


@pytest.mark.parametrize("name", ["plain", "a%20b", "%2E.", "~" + "0" * 64, "%63on", "x" * 180])
def test_a_name_that_the_encoding_may_have_made_is_known(name: str) -> None:
    assert is_encoded(name)


@pytest.mark.parametrize("name", ["a b", "100%", "%2f", "%41", ".a", "con", "é", "x" * 181])
def test_a_name_that_the_encoding_cannot_have_made_is_known(name: str) -> None:
    assert not is_encoded(name)


def test_an_expired_version_1_file_of_any_name_is_removed(tmp_path: Path) -> None:
    for session_id in ("a b", "a%2Fb", "plain"):
        path = tmp_path / f"{session_id}.huff"
        path.write_bytes(version_1("old"))
        os.utime(path, (1.5e9, 1.5e9))
    archive = ConversationArchive(tmp_path)
    assert archive.cleanup_expired() == 3
    assert list(tmp_path.glob("*.huff")) == []


def test_a_version_1_file_whose_name_looks_encoded_is_its_own_session(tmp_path: Path) -> None:
    (tmp_path / "a%2Fb.huff").write_bytes(version_1("of a%2Fb"))
    archive = ConversationArchive(tmp_path)
    assert contents(archive, "a/b") is None
    assert contents(archive, "a%2Fb") == ["of a%2Fb"]
    archive.append_turn("a%2Fb", {"content": "more"})
    archive.append_turn("a/b", {"content": "of a/b"})
    assert contents(archive, "a%2Fb") == ["of a%2Fb", "more"]
    assert contents(archive, "a/b") == ["of a/b"]


@pytest.mark.parametrize(
    ("old", "session"),
    [
        ("a%2Fb", "a/b"),
        ("%1Facme%1Fx", SessionKey("acme", "x")),
        ("%1F%1Fx", "\x1fx"),
        ("~" + "0" * 64, None),
    ],
)
def test_a_version_1_file_keeps_no_other_session_from_having_the_name(
    tmp_path: Path, old: str, session: str | SessionKey | None
) -> None:
    if session is None:
        session = SessionKey("a" * 200, "x")
        old = file_stem(stored_id(session))
    (tmp_path / f"{old}.huff").write_bytes(version_1("old"))
    archive = ConversationArchive(tmp_path, lock_timeout_seconds=0.001)
    with archive.store.lock(stored_id(old)), pytest.raises(ArchiveBusy):
        archive.append_turn(session, {"content": "new"})
    assert [path.name for path in tmp_path.glob("*.huff")] == [f"{old}.huff"]
    archive.append_turn(session, {"content": "new"})
    turns = archive.load_all(session)
    assert turns == [{"content": "new"}]
    assert contents(archive, old) == ["old"]
    assert {meta["session_id"] for meta in archive.list_sessions()} == {old, session}
    archive.append_turn(old, {"content": "more"})
    assert contents(archive, old) == ["old", "more"]
    assert archive.delete_session(session)
    assert contents(archive, old) == ["old", "more"]


def test_a_version_1_file_beside_the_newer_one_of_its_session_is_not_put_in_its_place(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    archive.append_turn("a%2Fb", {"content": "newer"})
    (tmp_path / "a%2Fb.huff").write_bytes(version_1("old"))
    with pytest.raises(ArchiveCorrupt, match="version 1 file of another session"):
        archive.append_turn("a/b", {"content": "of a/b"})
    assert contents(archive, "a%2Fb") == ["newer"]
    assert (tmp_path / "a%2Fb.huff").read_bytes() == version_1("old")


def test_a_version_2_file_is_not_taken_for_the_plain_name_of_another_session(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    archive.append_turn("a/b", {"content": "of a/b"})
    assert contents(archive, "a%2Fb") is None
    assert not archive.delete_session("a%2Fb")
    archive.append_turn("a%2Fb", {"content": "of a%2Fb"})
    assert contents(archive, "a/b") == ["of a/b"]


def test_what_a_stopped_upgrade_left_is_not_listed_twice(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    archive.append_turn("a b", {"content": "new"})
    (tmp_path / "a b.huff").write_bytes(version_1("old"))
    assert contents(archive, "a b") == ["new"]
    assert [m["session_id"] for m in archive.list_sessions()] == ["a b"]
    assert archive.delete_session("a b")
    assert list(tmp_path.glob("*.huff")) == []


@pytest.mark.parametrize("session_id", ["a/b", "a\\b", "a\0b", "x" * 251, "é" * 126, "plain"])
def test_ids_that_the_old_package_could_not_name_have_no_plain_name(session_id: str) -> None:
    assert plain_stem(session_id) is None


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    archive = ConversationArchive(tmp_path)
    archive.append_turn("s", {"content": "x"})
    for name in ("notes.txt", "x.huff.damaged-1", ".y.huff.tmp", "._z.huff"):
        (tmp_path / name).write_bytes(b"something")
    (tmp_path / "folder.huff").mkdir()
    assert [m["session_id"] for m in archive.list_sessions()] == ["s"]
    assert [report.session_id for report in archive.verify_all()] == ["s"]
    assert archive.delete_session("s")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [
        "._z.huff",
        ".y.huff.tmp",
        "notes.txt",
        "x.huff.damaged-1",
    ]
