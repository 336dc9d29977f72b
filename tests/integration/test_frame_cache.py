"""What was read from object storage and is kept on the local disk: a cache that never decides anything."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from lix_cache import CacheConfig, HybridConversationCache
from lix_cache.archive.objects.frame_cache import FrameCache
from lix_cache.archive.objects.records import Part
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.messages.turn import MessageId, Turn, new_turn, with_id
from lix_cache.storage.objects import FolderBucket
from tests.support.waiting import wait_until

BUDGET = 1 << 20


def turn(number: int) -> Turn:
    made = new_turn("user", f"message {number}", {}, None, None, number.to_bytes(6, "big"))
    return with_id(made, MessageId(1_700_000_000_000 + number, 0))


def tier(tmp_path: Path) -> ObjectTier:
    made = ObjectTier(FolderBucket(str(tmp_path / "objects")))
    made.cache_frames(str(tmp_path / "cache"), BUDGET)
    return made


def kept(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").glob("*") if path.is_file()]


def filled(tmp_path: Path) -> list[Turn]:
    writer, turns = tier(tmp_path), [turn(n) for n in range(6)]
    with writer.lock("s"):
        for start in (0, 3):
            writer.append_locked("s", turns[start : start + 3])
    assert tier(tmp_path).turns("s") == turns
    return turns


def test_a_frame_that_was_read_is_not_fetched_again(tmp_path: Path) -> None:
    turns = filled(tmp_path)
    assert len(kept(tmp_path)) == 2
    assert {path.stat().st_mode & 0o777 for path in kept(tmp_path)} == {0o600}
    other = tier(tmp_path)
    other.exists("s")
    before = Counter(other.bucket.requests)
    assert other.turns("s") == turns
    # Only the look for what is new.
    assert Counter(other.bucket.requests) - before == Counter(get=1)
    assert other.counters["frame_cache_hits"] == 2


@pytest.mark.promise("no-false-empty")
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "folder", "gone"])
def test_what_is_wrong_with_the_disk_is_not_wrong_with_the_session(tmp_path: Path, damage: str) -> None:
    turns = filled(tmp_path)
    for path in kept(tmp_path):
        data = path.read_bytes()
        if damage == "flip":
            path.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
        elif damage == "cut":
            path.write_bytes(data[:-3])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "folder":
            path.unlink()
            path.mkdir()
    if damage == "gone":
        shutil.rmtree(tmp_path / "cache")
        (tmp_path / "cache").write_bytes(b"a file in its place")
    reader = tier(tmp_path)
    assert reader.turns("s") == turns
    assert reader.counters["damaged_reads"] == 0
    assert reader.turns("s") == turns


@pytest.mark.promise("isolation")
def test_an_archive_that_took_the_place_of_another_finds_nothing_of_it(tmp_path: Path) -> None:
    filled(tmp_path)
    shutil.rmtree(tmp_path / "objects")
    new = tier(tmp_path)
    with new.lock("s"):
        new.append_locked("s", [turn(9)])
    assert tier(tmp_path).turns("s") == [turn(9)]


def test_a_deletion_takes_it_away_and_age_does(tmp_path: Path) -> None:
    turns = filled(tmp_path)
    for path in kept(tmp_path):
        os.utime(path, (0, 0))
    reader = tier(tmp_path)
    assert reader.turns("s") == turns
    assert reader.counters["frame_cache_hits"] == 0
    # The look for old ones, in a thread, may take one away that has just been put in the place of its like.
    wait_until(lambda: reader.turns("s") == turns and len(kept(tmp_path)) == 2, 60, "both frames to be kept")
    with reader.lock("s"):
        assert reader.delete_locked("s")
    assert kept(tmp_path) == []
    assert tier(tmp_path).turns("s") == []


@pytest.mark.promise("no-leak")
def test_what_others_deleted_goes_by_age_where_nothing_more_is_written(tmp_path: Path) -> None:
    """The process that deletes removes what is on its own machine alone."""
    filled(tmp_path)
    old, other = kept(tmp_path)
    os.utime(old, (0, 0))
    cache = FrameCache(str(tmp_path / "cache"), BUDGET, 86_400, Counter())
    cache.get("archive", 0, Part(99, 0, 10, 1, MessageId(1, 0), MessageId(1, 0)))
    wait_until(lambda: kept(tmp_path) == [other], 60, "the sweep")


def test_it_keeps_within_its_budget_and_drops_the_oldest(tmp_path: Path) -> None:
    cache = FrameCache(str(tmp_path / "cache"), 80_000, 1e10, Counter())
    parts = [Part(n, 0, 1000, 1, MessageId(n, 0), MessageId(n, 0)) for n in range(300)]
    for number, part in enumerate(parts):
        cache.put("archive", 0, part, bytes(1000))
        # Younger ones have a later time, whatever the file system's clock ticks by.
        os.utime(cache._path("archive", 0, part), (1e9 + number, 1e9 + number))
        assert sum(path.stat().st_size for path in kept(tmp_path)) <= 80_000
    cache = FrameCache(str(tmp_path / "cache"), 80_000, 1e10, Counter())
    there = [cache.get("archive", 0, part) is not None for part in parts]
    assert there[-60:] == [True] * 60
    assert not any(there[:200])
    cache.put("archive", 0, parts[0]._replace(length=20_000), bytes(20_000))
    assert cache.get("archive", 0, parts[0]._replace(length=20_000)) is None, (
        "as large as an eighth, and more"
    )


@pytest.mark.promise("one-trip")
def test_a_session_is_brought_back_by_few_requests(redis_config: CacheConfig, tmp_path: Path) -> None:
    config = redis_config.replace(
        archive_url=f"file://{tmp_path}/objects", hot_window_size=20, archive_cache_mb=1
    )
    writer = HybridConversationCache("s", config)
    for n in range(57):
        writer.add_message("user", f"message {n}")
    writer.flush_to_disk()
    reader = HybridConversationCache("s", config)
    cold = reader._store.cold
    assert isinstance(cold, ObjectTier)
    cold.exists("s")
    before = Counter(cold.bucket.requests)
    assert len(reader.get_context()) == 20
    sent = Counter(cold.bucket.requests) - before
    assert sent["get"] <= 3
    assert sent["put"] <= 2
    assert sent["list"] == 0
    assert Path(config.archive_dir, ".frames").is_dir()
