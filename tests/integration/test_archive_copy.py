"""``lix-cache archive copy``: from a folder to object storage and back, while both are in use."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lix_cache import ConfigError, ConversationArchive, HybridConversationCache, StoreAdmin
from lix_cache.admin import copy_archive
from lix_cache.cli.app import app
from lix_cache.config import CacheConfig
from lix_cache.errors import ArchiveMismatch
from lix_cache.messages.turn import ZERO_ID
from tests.contract.cold_tier import append, delete, holding, said, turn

pytestmark = pytest.mark.promise("no-loss")


@pytest.fixture(params=["to objects", "to a folder"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    both = (str(tmp_path / "folder"), f"file://{tmp_path}/objects")
    return both if request.param == "to objects" else (both[1], both[0])


def same(one: Any, other: Any) -> None:
    assert {meta.session_id for meta in one.all_metadata()} == {
        meta.session_id for meta in other.all_metadata()
    }
    for meta in one.all_metadata():
        name = meta.session_id
        assert [(t.id, t.body, t.nonce) for t in other.turns(name)] == [
            (t.id, t.body, t.nonce) for t in one.turns(name)
        ]
        assert said(other.recent(name, 99, in_context=True)) == said(one.recent(name, 99, in_context=True))
        gone = {nonce for nonce, its_id in one.contested(name).items() if its_id == ZERO_ID}
        assert gone <= set(other.contested(name))


def test_a_copy_follows_what_was_done_since(places: tuple[str, str]) -> None:
    old, new = (ConversationArchive(place).store for place in places)
    for name in ("s", "t", "u", "\x1fns\x1fé"):
        append(old, *(turn(n) for n in range(6)), session_id=name)
    append(old, turn(8), contested=True)
    with holding(old):
        old.take_out_locked("s", [turn(2)])
    with holding(old, "t"):
        old.clear_locked("t")
    append(old, turn(9), session_id="t")
    with holding(old, "u"):
        old.replace_locked("u", [turn(50, "new")], 10)
        old.mark_pending_locked("u")
    done = copy_archive(*places)
    assert (done.sessions, done.failed) == (4, {})
    same(old, new)
    assert new.pending_sessions() == ["u"]
    assert copy_archive(*places).sessions == 0
    # What was taken out or replaced does not come back from a window of Redis either.
    assert append(new, turn(2), from_window=True) == 0
    assert append(new, turn(3), session_id="u", from_window=True) == 0
    append(old, turn(20))
    with holding(old):
        old.take_out_locked("s", [turn(3)], turn(3, "edited", nonce=77))
    with holding(old, "t"):
        old.clear_locked("t")
    with holding(old, "u"):
        old.replace_locked("u", [turn(51, "newest")], 60)
    delete(old, turn(9).id, session_id="\x1fns\x1fé")
    assert copy_archive(*places).failed == {}
    same(old, new)
    assert copy_archive(*places).messages == 0


def test_a_copy_while_the_source_is_in_use_misses_nothing_that_was_there(places: tuple[str, str]) -> None:
    old, new = (ConversationArchive(place).store for place in places)
    ended = threading.Event()
    count = 0

    def add() -> None:
        nonlocal count
        while not ended.is_set() and count < 60:
            append(old, turn(count), session_id=f"s{count % 3}")
            count += 1

    thread = threading.Thread(target=add)
    thread.start()
    for _ in range(3):
        before = count
        copy_archive(*places)
        assert sum(meta.num_turns for meta in new.all_metadata()) >= before
    ended.set()
    thread.join()
    copy_archive(*places)
    same(old, new)


def test_a_store_moves_to_object_storage(redis_config: CacheConfig, tmp_path: Path) -> None:
    old = HybridConversationCache("s", redis_config)
    for n in range(5):
        old.add_message("user", f"m{n}")
    old.flush_to_disk()
    old.add_message("user", "hot")
    url = f"file://{tmp_path}/objects"
    start = ["--env-prefix", "T", "--prefix", redis_config.redis_key_prefix]
    environment = {"T_REDIS_PORT": str(redis_config.redis_port)}
    for words in (
        ["archive", "copy", redis_config.archive_dir, url],
        ["--archive-dir", url, "archive", "adopt"],
    ):
        result = CliRunner().invoke(app, [*start, *words], env=environment)
        assert result.exit_code == 0, result.output
    new = redis_config.replace(archive_url=url)
    assert len(HybridConversationCache("s", new).get_full()) == 6
    with pytest.raises(ArchiveMismatch):
        StoreAdmin(redis_config).sessions()
    assert len(StoreAdmin(new).sessions()) == 1


def test_a_new_folder_is_adopted_before_any_session_has_made_it(
    redis_config: CacheConfig, tmp_path: Path
) -> None:
    """What the error advises can be done as it stands: nothing else could make the folder."""
    old = HybridConversationCache("s", redis_config)
    old.add_message("user", "first")
    old.delete_session()
    new = redis_config.replace(archive_dir=str(tmp_path / "another" / "folder"))
    with pytest.raises(ArchiveMismatch, match="a redis_key_prefix of its own"):
        HybridConversationCache("s", new).add_message("user", "x")
    words = ["--prefix", new.redis_key_prefix, "--archive-dir", new.archive_dir, "archive", "adopt"]
    result = CliRunner().invoke(app, ["--env-prefix", "T", *words], env={"T_REDIS_PORT": str(new.redis_port)})
    assert result.exit_code == 0, result.output
    assert new.archive_dir in result.output.replace("\n", "")
    HybridConversationCache("s", new).add_message("user", "x")
    assert [m["content"] for m in HybridConversationCache("s", new).get_full()] == ["x"]
    with pytest.raises(ArchiveMismatch):
        StoreAdmin(redis_config).sessions()


def test_the_doctor_tells_another_archive_from_another_number_of_buckets(
    redis_config: CacheConfig, tmp_path: Path
) -> None:
    HybridConversationCache("s", redis_config).add_message("user", "first")
    new = redis_config.replace(archive_dir=str(tmp_path / "another"))
    checks = {check.name: check for check in StoreAdmin(new).doctor()}
    assert "buckets" not in checks
    found = checks["store's archive"]
    assert found.status == "fail"
    assert "prefix" in found.advice
    assert "migrate" not in found.advice
    assert "is made at" not in checks["archive folder"].found


def test_an_archive_is_not_copied_to_itself(tmp_path: Path) -> None:
    folder = str(tmp_path / "a")
    ConversationArchive(folder).append_turn("s", {"role": "user", "content": "x"})
    with pytest.raises(ConfigError):
        copy_archive(folder, folder + "/")
    shutil.rmtree(folder)
