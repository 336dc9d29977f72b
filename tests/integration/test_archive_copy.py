"""``lix-cache archive copy``: from a folder to object storage and back, while both are in use."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lix_cache import ConfigError, ConversationArchive, HybridConversationCache, StoreAdmin
from lix_cache.admin import copy_archive
from lix_cache.archive.objects.base import LEASE_SECONDS
from lix_cache.archive.objects.leases import held_at
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.cli.app import app
from lix_cache.config import CacheConfig
from lix_cache.errors import ArchiveMismatch, ArchiveUnavailable, LixCacheError
from lix_cache.messages.turn import ZERO_ID
from lix_cache.storage.objects import FolderBucket
from tests.contract.cold_tier import append, delete, holding, long_after, said, turn

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


EVERY_WAY = [(one, other) for one in ("", "file://") for other in ("", "file://")]


@pytest.fixture(params=EVERY_WAY, ids=lambda way: " to ".join("objects" if one else "folder" for one in way))
def any_places(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    old, new = (f"{kind}{tmp_path}/{name}" for kind, name in zip(request.param, ("old", "new"), strict=True))
    return old, new


@pytest.mark.parametrize("is_repeated", [False, True], ids=["first", "repeated"])
def test_what_the_source_refuses_from_a_window_the_copy_refuses(
    any_places: tuple[str, str], is_repeated: bool
) -> None:
    """Added and taken away between two copies, or before the first one: the copy has never seen it."""
    old = ConversationArchive(any_places[0]).store
    names = ("deleted", "begun anew", "popped", "edited", "replaced", "emptied", "repeated")
    for name in names[2:]:
        append(old, turn(0), session_id=name)
    if is_repeated:
        copy_archive(*any_places)
    window = [turn(n) for n in range(1, 5)]
    for name in names:
        append(old, *window, session_id=name)
    for name in names[:2]:
        delete(old, turn(5).id, [(77).to_bytes(6, "big")], session_id=name)
    append(old, turn(20), session_id="begun anew")
    with holding(old, "popped"):
        old.take_out_locked("popped", [turn(4), turn(6)])
    with holding(old, "edited"):
        old.take_out_locked("edited", [turn(2)], turn(2, "new words", nonce=88))
    with holding(old, "replaced"):
        old.replace_locked("replaced", [turn(50, "summary")], turn(60).id.ms)
    with holding(old, "emptied"):
        old.take_out_locked("emptied", old.turns("emptied"))
    with holding(old, "repeated"):
        old.append_outage_locked("repeated", [turn(90, nonce=77)], contested=True, keyed=True)
    assert copy_archive(*any_places).failed == {}
    again = copy_archive(*any_places)
    assert (again.sessions, again.messages, again.failed) == (0, 0, {})
    new = ConversationArchive(any_places[1]).store
    same(old, new)
    late = [*window, turn(6), turn(8, nonce=77)]
    for name in names:
        counts = [append(tier, *late, session_id=name, from_window=True) for tier in (old, new)]
        assert counts[0] == counts[1], name
    same(old, new)
    assert said(new.turns("deleted")) == ["message 6"]


def test_a_copy_follows_what_the_first_copy_of_a_message_did_to_a_repeated_one(
    any_places: tuple[str, str],
) -> None:
    old, new = (ConversationArchive(place).store for place in any_places)
    append(old, turn(1))
    with holding(old):
        old.append_outage_locked("s", [turn(90, nonce=77)], contested=True, keyed=True)
    copy_archive(*any_places)
    append(old, turn(8, nonce=77), from_window=True)
    assert copy_archive(*any_places).sessions == 1
    assert (
        [one.id for one in new.turns("s")] == [one.id for one in old.turns("s")] == [turn(1).id, turn(8).id]
    )
    assert copy_archive(*any_places).sessions == 0


@pytest.mark.parametrize("is_compacted", [False, True])
def test_a_copy_follows_a_clear_below_its_newest_message(
    any_places: tuple[str, str], is_compacted: bool
) -> None:
    old, new = (ConversationArchive(place).store for place in any_places)
    append(old, turn(1), turn(2))
    copy_archive(*any_places)
    with holding(old):
        old.take_out_locked("s", [turn(2)])
        if is_compacted:
            assert not isinstance(dict(old.compact_many(["s"], idle_seconds=0))["s"], LixCacheError)
        old.clear_locked("s")
    copy_archive(*any_places)
    assert said(new.recent("s", 9, in_context=True)) == said(old.recent("s", 9, in_context=True)) == []
    same(old, new)


def test_what_expired_in_the_source_goes_to_the_trash_of_the_copy(any_places: tuple[str, str]) -> None:
    old, new = (ConversationArchive(place).store for place in any_places)
    for name in ("gone", "begun anew", "stays"):
        append(old, turn(1), session_id=name)
    append(new, turn(1), session_id="of another archive")
    with holding(old, "begun anew"):
        old.clear_locked("begun anew")
    copy_archive(*any_places)
    for name in ("gone", "begun anew"):
        with holding(old, name):
            assert old.expire_locked(name, 86_400, long_after(2), to_trash=True)
    append(old, turn(2), session_id="begun anew")
    for _ in range(2):
        copy_archive(*any_places)
        assert not new.exists("gone")
        assert said(new.turns("begun anew")) == ["message 2"]
        assert new.marks("begun anew") == old.marks("begun anew")
        assert said(new.turns("stays")) == said(new.turns("of another archive")) == ["message 1"]
    for tier in (old, new):
        for name in ("gone", "begun anew"):
            with holding(tier, name):
                assert tier.restore_locked(name)
    assert said(new.turns("begun anew")) == ["message 1", "message 2"]
    copy_archive(*any_places)
    assert said(new.turns("gone")) == ["message 1"]


def requests_of(monkeypatch: pytest.MonkeyPatch, source: str, target: str, **options: Any) -> Counter[str]:
    """Return what a copy asks of a target on object storage."""
    sent: Counter[str] = Counter()
    with monkeypatch.context() as patched:
        for name in ("_written", "remove"):
            whole = getattr(FolderBucket, name)

            def counted(bucket: FolderBucket, *args: Any, name: str = name, whole: Any = whole) -> Any:
                sent.update((name,) * (bucket.location == target))
                return whole(bucket, *args)

            patched.setattr(FolderBucket, name, counted)
        copy_archive(source, target, **options)
    return sent


@pytest.mark.parametrize("shards", [1, 4, 40])
def test_a_copy_puts_many_sessions_at_once_and_nothing_where_nothing_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    folder, url = str(tmp_path / "old"), f"file://{tmp_path}/new"
    old = ConversationArchive(folder).store
    names = [f"s{n}" for n in range(300)]
    assert old.append_many_locked({name: [turn(1), turn(2)] for name in names}) == dict.fromkeys(names, 2)
    # A probe of the condition, twice; the note of the store; a commit of each shard, and one more of that in
    # which the first 256 sessions end.
    making = {"_written": 3 + shards + 1, "remove": 1}
    assert requests_of(monkeypatch, folder, url, shards=shards) == making
    assert requests_of(monkeypatch, folder, url) == {}
    for name in names:
        with holding(old, name):
            old.clear_locked(name)
    append(old, turn(3), session_id=names[0])
    delete(old, turn(9).id, session_id="never there")
    # What is added and cleared, many at once; the note of a deletion, and that there is one.
    assert requests_of(monkeypatch, folder, url) == {"_written": 1 + shards + 1 + 2}
    assert requests_of(monkeypatch, folder, url) == {}
    same(old, ConversationArchive(url).store)
    # Marks come many at a time as well.
    anew = f"file://{tmp_path}/anew"
    assert requests_of(monkeypatch, url, anew) == {"_written": 3 + 2 * (shards + 1) + 2, "remove": 1}
    same(old, ConversationArchive(anew).store)


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


def shards_of(place: str) -> int | None:
    store = ConversationArchive(place).store
    note = store.identity() if isinstance(store, ObjectTier) else None
    return None if note is None else note.shards


#: From a folder, from one shard, from three: to a folder, and to other numbers of shards.
WAYS = [(None, 4), (1, 3), (3, 2), (3, 1), (3, None), (2, 2)]


@pytest.fixture(params=WAYS, ids=str)
def ways(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, int | None]:
    """A source with sessions, a target that is not there yet, and the shards it is to have."""
    of_old, of_new = request.param
    old, new = (
        str(tmp_path / name) if shards is None else f"file://{tmp_path}/{name}"
        for name, shards in (("old", of_old), ("new", of_new))
    )
    if of_old is not None:
        copy_archive(str(tmp_path / "nothing"), old, shards=of_old)
    store = ConversationArchive(old).store
    for number in range(9):
        name = f"s{number}"
        append(store, *(turn(n) for n in range(5)), session_id=name)
        with holding(store, name):
            store.clear_locked(name)
        append(store, *(turn(n) for n in range(5, 8)), session_id=name)
        with holding(store, name):
            store.take_out_locked(name, [turn(6)])
    return old, new, of_new


def test_a_copy_has_the_shards_that_were_asked_for(ways: tuple[str, str, int | None]) -> None:
    old, new, shards = ways
    assert copy_archive(old, new, shards=shards).sessions == 9
    same(ConversationArchive(old).store, ConversationArchive(new).store)
    assert shards_of(new) == shards
    assert copy_archive(old, new, shards=shards).sessions == 0
    assert copy_archive(old, new).sessions == 0, "what is there is said once"


def test_a_copy_has_as_many_shards_as_its_source(tmp_path: Path) -> None:
    one, two, folder = (f"file://{tmp_path}/one", f"file://{tmp_path}/two", str(tmp_path / "folder"))
    copy_archive(folder, one, shards=5)
    copy_archive(one, two)
    assert (shards_of(one), shards_of(two)) == (5, 5)


@pytest.mark.parametrize(
    ("environment", "shards", "why"),
    [
        ({}, 1, "neither --shards nor redis_buckets asks for more"),
        ({"T_REDIS_BUCKETS": "7"}, 7, "redis_buckets says so"),
        ({"T_REDIS_URL": "redis+cluster://127.0.0.1:1"}, 1024, "redis_buckets of a cluster"),
    ],
)
def test_a_copy_of_a_folder_has_a_shard_for_each_bucket_of_the_application_and_says_so(
    tmp_path: Path, environment: dict[str, str], shards: int, why: str
) -> None:
    folder, url = str(tmp_path / "a"), f"file://{tmp_path}/b"
    ConversationArchive(folder).append_turn("s", {"role": "user", "content": "x"})
    words = ["--env-prefix", "T", "archive", "copy", folder, url]
    result = CliRunner().invoke(app, words, env=environment)
    assert result.exit_code == 0, result.output
    assert why in result.output
    assert shards_of(url) == shards
    again = CliRunner().invoke(app, words, env=environment)
    assert again.exit_code == 0, again.output
    assert "was made" not in again.output


@pytest.mark.parametrize("shards", [0, -1, 65_537, 1.5, "2", True])
def test_shards_that_cannot_be_are_refused(tmp_path: Path, shards: Any) -> None:
    with pytest.raises(ConfigError, match="shards"):
        copy_archive(str(tmp_path / "a"), f"file://{tmp_path}/b", shards=shards)
    assert not (tmp_path / "b").exists()


def test_shards_never_change(tmp_path: Path) -> None:
    folder, url = str(tmp_path / "a"), f"file://{tmp_path}/b"
    ConversationArchive(folder).append_turn("s", {"role": "user", "content": "x"})
    copy_archive(folder, url, shards=2)
    for source, target, shards in ((folder, url, 3), (url, folder, 2)):
        with pytest.raises(ConfigError, match="shards"):
            copy_archive(source, target, shards=shards)
    assert shards_of(url) == 2
    words = ["archive", "copy", folder, f"file://{tmp_path}/c", "--shards", "7"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert shards_of(f"file://{tmp_path}/c") == 7


class Died(BaseException):
    """The process was killed."""


def test_a_copy_that_dies_at_any_put_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways between two numbers of shards: no session doubled, none that is done begun anew."""
    monkeypatch.setattr("lix_cache.archive.objects.base._LEASE_MARGIN", -LEASE_SECONDS)
    old, new = f"file://{tmp_path}/old", f"file://{tmp_path}/new"
    earlier = tmp_path / "earlier"
    copy_archive(str(tmp_path / "nothing"), old, shards=3)
    store = ConversationArchive(old).store
    for name in ("a", "b"):
        append(store, turn(0), turn(1), session_id=name)
    copy_archive(old, f"file://{earlier}", shards=2)
    for name in ("a", "b", "c"):
        append(store, turn(2), session_id=name)
        with holding(store, name):
            store.clear_locked(name)
            store.take_out_locked(name, [turn(1)])
        append(store, turn(3), session_id=name)
    delete(store, turn(1).id, session_id="d")
    put, left = FolderBucket.create, 0

    def dying(bucket: FolderBucket, name: str, data: bytes) -> bool:
        nonlocal left
        if bucket.location == new:
            left -= 1
            if left == 0:
                raise Died
            if left < 0:
                # Nothing more comes of a dead process, not the end of its lease either.
                raise ArchiveUnavailable("dead")
        return put(bucket, name, data)

    for step in range(1, 100):
        left = step
        shutil.copytree(earlier, tmp_path / "new")
        with monkeypatch.context() as patched:
            patched.setattr(FolderBucket, "create", dying)
            try:
                copy_archive(old, new, shards=2)
                break
            except (Died, ArchiveUnavailable):
                held_at(new)._holders.clear()
        assert copy_archive(old, new, shards=2).failed == {}
        same(store, ConversationArchive(new).store)
        assert ConversationArchive(new).store.deleted_up_to("d") == turn(1).id
        shutil.rmtree(tmp_path / "new")
    assert step > 10, "every put was the last one once"


@pytest.mark.parametrize("ways", [(None, 4), (3, 2), (3, None)], indirect=True, ids=str)
def test_a_copy_that_is_killed_goes_on(
    ways: tuple[str, str, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the source is in use, and the copying process is killed when it has done a part."""
    monkeypatch.setattr("lix_cache.archive.objects.base._LEASE_MARGIN", -LEASE_SECONDS)
    old, new, shards = ways
    script = (
        "import sys; from lix_cache.admin import copy_archive\n"
        "tell = lambda number, of: print(number, flush=True)\n"
        f"copy_archive({old!r}, {new!r}, shards={shards}, on_progress=tell)"
    )
    store = ConversationArchive(old).store
    for done in (3, 6):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        while process.stdout.readline().strip() not in (str(done), ""):
            pass
        process.kill()
        process.wait()
        process.stdout.close()
        for name in ("s0", "s8"):
            append(store, turn(100 + done), session_id=name)
    assert copy_archive(old, new, shards=shards).failed == {}
    same(store, ConversationArchive(new).store)
    assert copy_archive(old, new, shards=shards).messages == 0


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
