"""ConversationArchive and AsyncConversationArchive: one suite, no Redis."""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lix_cache import (
    ArchiveBusy,
    ArchiveCorrupt,
    AsyncConversationArchive,
    ConfigError,
    ConversationArchive,
    DimensionMismatch,
    InvalidInput,
    InvalidMessage,
    InvalidSessionId,
    InvalidVector,
)
from lix_cache.archive.store import ArchiveStore
from lix_cache.messages.message import Message
from tests.fault.files import ClockedFiles, CountingFiles
from tests.fault.workers import append_many
from tests.support.twins import ManualClock, Twins

NOW = 1_700_000_000.0


def message(number: int, **more: Any) -> Message:
    role = "user" if number % 2 == 0 else "assistant"
    return {"role": role, "content": f"text {number}", "timestamp": NOW + number, "metadata": {}, **more}


def messages(*numbers: int) -> list[Message]:
    return [message(number) for number in numbers]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def make(twins: Twins, tmp_path: Path, clock: ManualClock) -> Callable[..., Any]:
    """A function that opens the archive of this test, in one variant or the other."""

    def open_archive(**options: Any) -> Any:
        return twins.make(
            "ConversationArchive",
            tmp_path / "archive",
            **{"clock": clock, "files": ClockedFiles(clock), **options},
        )

    return open_archive


@pytest.fixture
def archive(make: Callable[..., Any]) -> Any:
    return make()


def store_of(archive: Any) -> ArchiveStore:
    """The store behind an archive of either variant."""
    target = getattr(archive, "target", archive)
    store: ArchiveStore = getattr(target, "sync", target).store
    return store


# -- appending and loading -----------------------------------------------------------------


def test_turns_come_back_once_in_order_and_as_they_were(archive: Any, make: Callable[..., Any]) -> None:
    assert archive.append_turn("s", message(0)) is True
    assert archive.append_turns("s", messages(1, 2, 3)) is True
    assert archive.append_turn("s", message(4)) is True
    for reader in (archive, make()):
        assert reader.load_all("s") == messages(0, 1, 2, 3, 4)


def test_a_missing_session_is_a_miss(archive: Any) -> None:
    assert archive.load_all("s") is None
    assert archive.load_recent("s", 5) == []
    assert archive.get_metadata("s") is None
    assert archive.verify("s") is None
    assert archive.session_exists("s") is False
    assert archive.delete_session("s") is False
    assert archive.search_by_text("s", "x") == []
    assert archive.search_by_embedding("s", [1.0]) == []
    assert archive.list_sessions() == []
    assert list(archive.verify_all()) == []
    assert archive.cleanup_expired() == 0


def test_looking_makes_no_folder(archive: Any, tmp_path: Path) -> None:
    archive.load_all("s")
    archive.list_sessions()
    assert list(tmp_path.iterdir()) == []


def test_appending_nothing_makes_no_session(archive: Any) -> None:
    assert archive.append_turns("s", []) is True
    assert archive.session_exists("s") is False


def test_sessions_do_not_see_each_other(archive: Any) -> None:
    for number, session in enumerate(("a", "b", "A", "a.huff")):
        archive.append_turn(session, message(number))
    for number, session in enumerate(("a", "b", "A", "a.huff")):
        assert archive.load_all(session) == [message(number)]


@pytest.mark.parametrize(("n", "expected"), [(-1, 0), (0, 0), (1, 1), (3, 3), (7, 7), (9, 9), (50, 9)])
def test_the_last_turns_come_oldest_first(archive: Any, n: int, expected: int) -> None:
    for start in range(0, 9, 3):
        archive.append_turns("s", messages(start, start + 1, start + 2))
    assert archive.load_recent("s", n) == messages(*range(9 - expected, 9))


@pytest.mark.parametrize("codec", ["stored", "huffman", "hcv1", "lz4", "zstd", "deflate"])
def test_whatever_json_carries_comes_back(make: Callable[..., Any], codec: str) -> None:
    archive = make(codec=codec)
    turns = [
        {},
        {"role": "user", "content": ""},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"arguments": '{"a":1}'}}],
        },
        {"role": "tool", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "url": "data:"}]},
        {"role": "user", "content": "a lone \ud800 surrogate, 会話, 🎉, \0, \x1b"},
        {"role": "\udfff", "content": {"deep": [[[[{}]]]], "\ud800": 1}},
        {
            "role": "user",
            "content": "x",
            "timestamp": 5,
            "metadata": {"ok": True, "n": -(2**70), "f": 1e-300},
        },
        {"role": None, "timestamp": None, "metadata": None},
        {"timestamp": -0.0, "metadata": []},
        {"role": "critic", "content": 5, "timestamp": "today"},
    ]
    for turn in turns:
        archive.append_turn("s", turn)
    archive.append_turns("s", turns)
    found = archive.load_all("s")
    assert found == turns * 2
    # Equal is not yet the same: 1 == True == 1.0.
    assert [json.dumps(turn, sort_keys=True) for turn in found] == [
        json.dumps(turn, sort_keys=True) for turn in turns * 2
    ]
    assert archive.load_recent("s", 4) == turns[-4:]


@pytest.mark.parametrize(
    "embedding", [[0.5, -1.0], [0.1, 1e300], np.array([0.1, 0.2]), np.float32([0.1, 0.2])]
)
def test_an_embedding_comes_back_as_numbers(archive: Any, embedding: Any) -> None:
    archive.append_turn("s", {"content": "x", "embedding": embedding})
    expected = {"content": "x", "embedding": np.asarray(embedding).tolist()}
    assert archive.load_all("s") == [expected]
    assert archive.load_recent("s", 1) == [expected]


@pytest.mark.parametrize("codec", ["stored", "lz4", "deflate"])
def test_a_content_of_20_mb_comes_back(make: Callable[..., Any], codec: str) -> None:
    check_20_mb(make(codec=codec))


@pytest.mark.slow
def test_a_content_of_20_mb_comes_back_from_huffman(tmp_path: Path) -> None:
    check_20_mb(ConversationArchive(tmp_path))


def check_20_mb(archive: Any) -> None:
    text = random.Random(1).randbytes(100_000).hex() * 100
    assert len(text) == 20_000_000
    archive.append_turn("s", message(0))
    archive.append_turn("s", {"role": "user", "content": text})
    archive.append_turn("s", message(1))
    found = archive.load_all("s")
    assert found[::2] == messages(0, 1)
    # Compared first, so that a failure does not print it.
    assert (found[1]["content"] == text) is True


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("turn", "error"),
    [
        ({"content": math.nan}, InvalidMessage),
        ({"content": [math.inf]}, InvalidMessage),
        ({"content": {1: "x"}}, InvalidMessage),
        ({5: "x"}, InvalidMessage),
        ({"content": b"x"}, InvalidMessage),
        ({"content": {"a", "b"}}, InvalidMessage),
        ({"metadata": nested(201)}, InvalidMessage),
        ({"content": 10**5000}, InvalidMessage),
        ({"embedding": [math.nan]}, InvalidVector),
        ({"embedding": np.zeros((2, 2))}, InvalidVector),
        ("text", InvalidMessage),
        (None, InvalidMessage),
    ],
    ids=range(12),
)
def test_what_cannot_be_kept_is_refused_and_nothing_is_written(
    archive: Any, turn: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        archive.append_turn("s", turn)
    assert archive.session_exists("s") is False
    archive.append_turn("s", message(0))
    with pytest.raises(error):
        archive.append_turns("s", [message(1), turn, message(2)])
    assert archive.load_all("s") == [message(0)]


def test_nesting_as_deep_as_is_allowed_comes_back(archive: Any) -> None:
    archive.append_turn("s", {"content": nested(199)})
    assert archive.load_all("s") == [{"content": nested(199)}]


@pytest.mark.parametrize("session_id", ["", None, 5, b"s", "\ud800", "x" * 65_537])
def test_what_cannot_name_a_session_is_refused_everywhere(archive: Any, session_id: Any) -> None:
    for work in (
        lambda: archive.append_turn(session_id, message(0)),
        lambda: archive.append_turns(session_id, []),
        lambda: archive.load_all(session_id),
        lambda: archive.load_recent(session_id, 1),
        lambda: archive.search_by_text(session_id, "x"),
        lambda: archive.search_by_embedding(session_id, [1.0]),
        lambda: archive.delete_session(session_id),
        lambda: archive.session_exists(session_id),
        lambda: archive.get_metadata(session_id),
        lambda: archive.verify(session_id),
    ):
        with pytest.raises(InvalidSessionId):
            work()


# -- metadata ------------------------------------------------------------------------------


def test_metadata_tell_who_when_and_how_much(archive: Any, clock: ManualClock, tmp_path: Path) -> None:
    archive.append_turns("a/b", messages(0, 1, 2))
    clock.advance(100.5)
    archive.append_turn("a/b", message(3))
    size = (tmp_path / "archive" / "a%2Fb.huff").stat().st_size
    expected = {
        "session_id": "a/b",
        "created_at": NOW,
        "updated_at": NOW + 100.5,
        "num_turns": 4,
        "size_bytes": size,
    }
    assert archive.get_metadata("a/b") == expected
    assert archive.list_sessions() == [expected]


def test_a_file_of_which_nothing_is_intact_is_an_error_and_is_left_out_of_the_list(
    archive: Any, tmp_path: Path
) -> None:
    archive.append_turn("good", message(0))
    (tmp_path / "archive" / "bad.huff").write_bytes(b"nothing of ours")
    for work in (
        lambda: archive.load_all("bad"),
        lambda: archive.load_recent("bad", 1),
        lambda: archive.get_metadata("bad"),
        lambda: archive.search_by_text("bad", "x"),
    ):
        with pytest.raises(ArchiveCorrupt, match="no intact frame"):
            work()
    assert [meta["session_id"] for meta in archive.list_sessions()] == ["good"]
    reports = {report.session_id: report.is_intact for report in archive.verify_all()}
    assert reports == {"good": True, "bad": False}
    assert store_of(archive).counters["damaged_reads"] >= 5


@pytest.mark.parametrize("policy", ["recover", "raise"])
def test_damage_is_read_around_or_raised_as_the_policy_says(
    make: Callable[..., Any], tmp_path: Path, policy: str
) -> None:
    archive = make(on_damage=policy)
    archive.append_turns("s", messages(0, 1))
    with open(tmp_path / "archive" / "s.huff", "ab") as file:
        file.write(b"torn")
    for work in (lambda: archive.load_all("s"), lambda: archive.load_recent("s", 5)):
        if policy == "raise":
            with pytest.raises(ArchiveCorrupt, match="2 turns in it are intact"):
                work()
        else:
            assert work() == messages(0, 1)
    assert store_of(archive).counters["damaged_reads"] == 2
    # Writing goes on under both: the damage is set aside, and nothing intact is lost.
    archive.append_turn("s", message(2))
    assert archive.load_all("s") == messages(0, 1, 2)
    assert (tmp_path / "archive" / "s.huff.damaged-1").read_bytes() == b"torn"


# -- deletion and expiry -------------------------------------------------------------------


def test_a_deleted_session_is_gone_and_may_begin_anew(archive: Any) -> None:
    archive.append_turns("s", messages(0, 1))
    archive.append_turn("t", message(5))
    assert archive.delete_session("s") is True
    assert archive.delete_session("s") is False
    assert archive.load_all("s") is None
    assert archive.load_all("t") == [message(5)]
    archive.append_turn("s", message(2))
    assert archive.load_all("s") == [message(2)]


def test_sessions_expire_by_their_last_append(make: Callable[..., Any], clock: ManualClock) -> None:
    archive = make(session_ttl_days=10)
    archive.append_turn("old", message(0))
    archive.append_turn("used", message(1))
    clock.advance(9 * 86400)
    archive.append_turn("used", message(2))
    assert archive.cleanup_expired() == 0
    clock.advance(1 * 86400 + 1)
    assert archive.expired_sessions() == ["old"]
    assert archive.cleanup_expired() == 1
    assert archive.session_exists("old") is False
    assert archive.load_all("used") == messages(1, 2)


def test_what_is_to_be_kept_does_not_expire(make: Callable[..., Any], clock: ManualClock) -> None:
    archive = make(session_ttl_days=1)
    for session in ("a", "b", "c"):
        archive.append_turn(session, message(0))
    clock.advance(2 * 86400)
    asked: list[str] = []

    def keep(session_id: str) -> bool:
        asked.append(session_id)
        assert store_of(archive).try_lock(session_id) is None, "asked under the session's lock"
        return session_id == "b"

    assert archive.cleanup_expired(keep) == 2
    assert sorted(asked) == ["a", "b", "c"]
    assert [meta["session_id"] for meta in archive.list_sessions()] == ["b"]


def test_a_session_that_is_written_to_in_the_last_moment_does_not_expire(
    make: Callable[..., Any], clock: ManualClock, tmp_path: Path
) -> None:
    archive = make(session_ttl_days=1)
    archive.append_turn("s", message(0))
    clock.advance(2 * 86400)
    other = ConversationArchive(tmp_path / "archive", clock=clock)

    def keep(session_id: str) -> bool:
        store = other.store
        store.append_locked("s", store.number_locked("s", [store.turns("s", locked=True)[0]]))
        return False

    assert archive.cleanup_expired(keep) == 0
    assert len(archive.load_all("s")) == 2


@pytest.mark.parametrize("days", [0, -1])
def test_a_life_of_no_days_is_refused(make: Callable[..., Any], days: float) -> None:
    with pytest.raises(ConfigError, match="session_ttl_days"):
        make(session_ttl_days=days)


@pytest.mark.parametrize("options", [{"codec": "zip"}, {"on_damage": "ignore"}])
def test_options_that_make_no_sense_are_refused(make: Callable[..., Any], options: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        make(**options)


def test_any_path_like_folder_will_do(twins: Twins, tmp_path: Path) -> None:
    archive = twins.make("ConversationArchive", tmp_path / "deep" / "folder", 3)
    assert archive.archive_dir == str(tmp_path / "deep" / "folder")
    assert archive.session_ttl_days == 3
    archive.append_turn("s", message(0))
    assert twins.make("ConversationArchive", str(tmp_path / "deep" / "folder")).load_all("s") == [message(0)]


# -- search --------------------------------------------------------------------------------


def test_what_asks_for_nothing_is_refused_by_name(archive: Any) -> None:
    archive.append_turns("s", [{"role": "user", "content": "x", "embedding": [1.0, 0.5]}] * 3)
    for query in (None, b"x", 5, ["x"]):
        with pytest.raises(InvalidInput, match=r"the query must be a str, got"):
            archive.search_by_text("s", query)
    for wrong in ("3", None, 3.0, True, [3]):
        with pytest.raises(ConfigError, match=r"\bn must be a whole number"):
            archive.load_recent("s", wrong)
        with pytest.raises(ConfigError, match=r"top_k must be a whole number"):
            archive.search_by_text("s", "x", wrong)
        with pytest.raises(ConfigError, match=r"top_k must be a whole number"):
            archive.search_by_embedding("s", [1.0, 0.5], top_k=wrong)
    assert len(archive.load_recent("s", np.int64(2))) == 2


def test_text_is_found_by_the_words_it_shares(archive: Any) -> None:
    texts = [
        "The weather in Tokyo",
        "tokyo TOWER opening hours",
        "nothing here",
        "weather: Tokyo, tomorrow",
        "",
    ]
    archive.append_turns("s", [{"role": "user", "content": text} for text in texts])
    found = [turn["content"] for turn in archive.search_by_text("s", "Weather tokyo tomorrow")]
    assert found == [texts[3], texts[0], texts[1]]
    assert [t["content"] for t in archive.search_by_text("s", "weather tokyo tomorrow", top_k=1)] == [
        texts[3]
    ]
    assert archive.search_by_text("s", "weather", top_k=0) == []
    assert archive.search_by_text("s", "weather", top_k=-3) == []
    assert archive.search_by_text("s", "") == []
    assert archive.search_by_text("s", "unheard") == []


def test_text_without_spaces_is_compared_character_by_character(archive: Any) -> None:
    archive.append_turns(
        "s", [{"content": "北京的天气"}, {"content": "東京タワー"}, {"content": [{"text": "天"}]}]
    )
    assert [t["content"] for t in archive.search_by_text("s", "天气怎么样")] == [
        "北京的天气",
        [{"text": "天"}],
    ]


def test_ties_come_oldest_first(archive: Any) -> None:
    archive.append_turns("s", [{"content": f"same {n}"} for n in range(5)])
    assert [t["content"] for t in archive.search_by_text("s", "same", 3)] == ["same 0", "same 1", "same 2"]
    archive.append_turns("t", [{"content": n, "embedding": [1.0, 0.0]} for n in range(5)])
    assert [t["content"] for t in archive.search_by_embedding("t", [2.0, 0.0], 3)] == [0, 1, 2]


def test_vectors_are_found_by_their_direction(archive: Any) -> None:
    vectors = {"east": [2.0, 0.0], "north": [0.0, 0.1], "north-east": [1.0, 1.0], "nowhere": [0.0, 0.0]}
    archive.append_turns("s", [{"content": name, "embedding": v} for name, v in vectors.items()])
    archive.append_turn("s", {"content": "no vector"})
    archive.append_turn("s", {"content": "another model's", "embedding": [1.0, 0.0, 0.0]})
    found = [turn["content"] for turn in archive.search_by_embedding("s", [1.0, 0.1])]
    assert found == ["east", "north-east", "north", "nowhere"]
    assert len(archive.search_by_embedding("s", np.array([1.0, 0.1]), top_k=2)) == 2
    assert archive.search_by_embedding("s", [1.0, 0.1], top_k=-1) == []
    assert archive.search_by_embedding("s", [0.0, 0.0])[0]["content"] == "east"


def test_a_query_of_an_unknown_dimension_is_refused(archive: Any) -> None:
    archive.append_turn("s", {"content": "x", "embedding": [1.0, 0.0]})
    with pytest.raises(DimensionMismatch, match="dimension 2, but got one of dimension 3"):
        archive.search_by_embedding("s", [1.0, 0.0, 0.0])
    with pytest.raises(InvalidVector):
        archive.search_by_embedding("s", [math.nan])
    archive.append_turn("t", {"content": "no vector"})
    assert archive.search_by_embedding("t", [1.0]) == []


# -- clocks --------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-86400.0, -0.001, 0.0, 86400.0])
def test_order_does_not_depend_on_the_clock(
    make: Callable[..., Any], clock: ManualClock, jump: float
) -> None:
    archive = make()
    for number in range(6):
        archive.append_turn("s", message(number))
        clock.now += jump
    assert archive.load_all("s") == messages(*range(6))
    assert make().load_recent("s", 2) == messages(4, 5)


# -- what it costs: bytes, whatever the file's length --------------------------------------


def costs(make: Callable[..., Any], turns: int) -> dict[str, tuple[int, int]]:
    """Return (reads, bytes) of each operation on a session of so many turns, in frames of ten."""
    session = f"session of {turns}"
    make().append_turns(session, messages(0))
    writer = make()
    for start in range(0, turns, 10):
        writer.append_turns(session, messages(*range(start, start + 10)))
    files = CountingFiles()
    archive = make(files=files)
    found = {}
    for name, work in {
        "load_recent": lambda: archive.load_recent(session, 20),
        "get_metadata": lambda: archive.get_metadata(session),
        "session_exists": lambda: archive.session_exists(session),
        "append": lambda: archive.append_turns(session, messages(*range(10))),
    }.items():
        files.reads = files.bytes_read = 0
        work()
        found[name] = (files.reads, files.bytes_read)
    return found


def test_reading_the_end_and_appending_cost_the_same_at_any_length(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # nothing here is about durability
    small, large = costs(make, 4_000), costs(make, 12_000)
    assert small == large
    assert large["load_recent"][1] < 40_000
    assert large["get_metadata"][1] < 1_500
    assert large["append"][1] < 3_000


def test_many_turns_at_once_are_as_cheap_to_read_the_end_of(make: Callable[..., Any]) -> None:
    turns = [{"role": "user", "content": f"{n} " * 200} for n in range(500)]
    make(codec="stored").append_turns("s", turns)
    files = CountingFiles()
    archive = make(files=files)
    assert archive.load_recent("s", 20) == turns[-20:]
    assert files.bytes_read < 120_000
    assert archive.load_all("s") == turns


def test_a_long_session_id_costs_its_own_length(make: Callable[..., Any]) -> None:
    session = "x" * 50_000
    make().append_turns(session, messages(0, 1))
    files = CountingFiles()
    archive = make(files=files)
    assert archive.get_metadata(session)["session_id"] == session
    assert files.bytes_read < 60_000


def test_frames_larger_than_what_is_read_ahead_are_read_from_the_end(make: Callable[..., Any]) -> None:
    archive = make(codec="stored")
    sizes = [10, 40_000, 5, 100_000, 32_500, 33_000, 1, 1, 70_000, 2]
    turns = [{"content": chr(97 + n) * size} for n, size in enumerate(sizes)]
    for turn in turns:
        archive.append_turn("s", turn)
    for count in range(1, len(turns) + 2):
        assert archive.load_recent("s", count) == turns[-count:]
    files = CountingFiles()
    assert make(files=files).load_recent("s", 2) == turns[-2:]
    assert files.bytes_read < 150_000


# -- many at once --------------------------------------------------------------------------


def test_a_lock_that_is_not_let_go_is_an_error_in_time(
    make: Callable[..., Any], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make(lock_timeout_seconds=5)
    archive.append_turn("s", message(0))
    # The fake clock stands still unless the code sleeps.
    monkeypatch.setattr(clock, "sleep", clock.advance)
    with store_of(archive).lock("s"):
        for work in (lambda: archive.append_turn("s", message(1)), lambda: archive.delete_session("s")):
            with pytest.raises(ArchiveBusy, match="locked by another writer for more than 5 s"):
                work()
        assert archive.load_all("s") == [message(0)], "reading needs no lock"
    archive.append_turn("s", message(1))
    assert archive.load_all("s") == messages(0, 1)


def test_threads_that_append_to_one_session_lose_nothing(make: Callable[..., Any], tmp_path: Path) -> None:
    shared = ConversationArchive(tmp_path / "archive")
    seen: list[Any] = []

    def work(number: int) -> None:
        for n in range(10):
            shared.append_turn("s", {"content": [number, n]})
            seen.append(len(shared.load_all("s") or []))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_all_once(make().load_all("s"), 4, 10)
    assert shared.store.counters["damaged_reads"] == 0
    assert shared.store.counters["repairs"] == 0


def check_all_once(found: list[Message], writers: int, each: int) -> None:
    contents = [turn["content"] for turn in found]
    assert sorted(contents) == [[number, n] for number in range(writers) for n in range(each)]
    for number in range(writers):
        assert [n for w, n in contents if w == number] == list(range(each)), "each writer's own order"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_processes_that_append_to_one_session_lose_nothing(tmp_path: Path, method: Any) -> None:
    context = multiprocessing.get_context(method)
    processes = [context.Process(target=append_many, args=(str(tmp_path), n, 50)) for n in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 8
    archive = ConversationArchive(tmp_path)
    check_all_once(archive.load_all("s") or [], 8, 50)
    report, meta = archive.verify("s"), archive.get_metadata("s")
    assert report is not None
    assert meta is not None
    assert report.is_intact
    assert report.turns == meta["num_turns"] == 400
    assert not list(tmp_path.glob("*.damaged-*"))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    store = ConversationArchive(tmp_path).store
    store.lock("s").release()
    ready, done = os.pipe(), os.pipe()
    with store.lock("s") as lock:
        child = os.fork()
        if child == 0:
            # Whatever happens here, no test may go on in the child.
            try:
                os.write(ready[1], b"x")
                os.read(done[0], 1)
            finally:
                os._exit(0)
        os.read(ready[0], 1)
        lock.release()
    try:
        again = store.try_lock("s")
        assert again is not None, "the child still holds it"
        again.release()
    finally:
        os.write(done[1], b"x")
        os.waitpid(child, 0)
        for fd in (*ready, *done):
            os.close(fd)


# -- of the async twin alone ---------------------------------------------------------------


@pytest.mark.promise("no-stall")
def test_the_loop_goes_on_while_files_are_touched(tmp_path: Path) -> None:
    async def work() -> int:
        archive = AsyncConversationArchive(tmp_path)
        lock = archive.sync.store.lock("s")
        task = asyncio.create_task(archive.append_turn("s", message(0)))
        turns_of_the_loop = 0
        for _ in range(20):
            await asyncio.sleep(0.001)
            turns_of_the_loop += 1
        assert not task.done()
        lock.release()
        assert await task is True
        return turns_of_the_loop

    assert asyncio.run(work()) == 20


def test_many_sessions_are_written_to_at_once(tmp_path: Path) -> None:
    async def work() -> list[Any]:
        archive = AsyncConversationArchive(tmp_path)
        await asyncio.gather(*(archive.append_turn("s", {"content": [n, 0]}) for n in range(40)))
        return await archive.load_all("s") or []

    check_all_once(asyncio.run(work()), 40, 1)


def test_a_cancelled_append_ends_before_the_cancellation_arrives(tmp_path: Path) -> None:
    async def work() -> None:
        archive = AsyncConversationArchive(tmp_path)
        lock = archive.sync.store.lock("s")
        task = asyncio.create_task(archive.append_turn("s", message(0)))
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done(), "it waits for its thread"
        lock.release()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The write does not go on behind our back: it is done by now.
        assert archive.sync.load_all("s") == [message(0)]

    asyncio.run(work())


# -- what is imported ----------------------------------------------------------------------

SYNC_PROGRAM = """
import sys
from lix_cache import ConversationArchive
archive = ConversationArchive(sys.argv[1])
archive.append_turn("s", {"role": "user", "content": "x"})
archive.load_recent("s", 1), archive.load_all("s"), archive.list_sessions(), archive.verify("s")
archive.search_by_text("s", "x"), archive.cleanup_expired(), archive.delete_session("s")
print(sorted(name for name in ("redis", "hiredis", "numpy") if name in sys.modules))
archive.append_turn("s", {"role": "user", "content": "x", "embedding": [1.0]})
archive.search_by_embedding("s", [1.0])
print(sorted(name for name in ("redis", "hiredis", "numpy") if name in sys.modules))
"""

ASYNC_PROGRAM = """
import asyncio, sys
from lix_cache import AsyncConversationArchive
archive = AsyncConversationArchive(sys.argv[1])
asyncio.run(archive.append_turn("s", {"role": "user", "content": "x"}))
asyncio.run(archive.load_all("s"))
print(sorted(name for name in ("redis", "hiredis", "numpy") if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("program", "expected"),
    [(SYNC_PROGRAM, ["[]", "['numpy']"]), (ASYNC_PROGRAM, ["[]"])],
    ids=["sync", "async"],
)
def test_the_archive_imports_no_redis_and_numpy_only_for_vectors(
    tmp_path: Path, program: str, expected: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected


def test_reports_come_one_by_one_in_both_variants(tmp_path: Path) -> None:
    archive = AsyncConversationArchive(tmp_path)

    async def main() -> tuple[list[str], list[str]]:
        for name in ("a", "b", "c"):
            await archive.append_turn(name, message(0))
        one_by_one = [report.session_id async for report in archive.verify_all()]
        return one_by_one, [report.session_id for report in await archive.verify_all()]

    one_by_one, at_once = asyncio.run(main())
    assert one_by_one == at_once == [report.session_id for report in archive.sync.verify_all()]
    assert sorted(one_by_one) == ["a", "b", "c"]
