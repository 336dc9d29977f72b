"""The KV store: what is saved is found, by its owner alone, within the budget, and goes when it should."""

from __future__ import annotations

import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from lix_cache.errors import ConfigError, KvBusy, KvUnavailable, MissingExtra
from lix_cache.kv import reader
from lix_cache.kv.catalogue import NEW, SESSIONS
from lix_cache.kv.identity import as_ids, chain_of, fingerprint_of
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.manifest import Manifest
from lix_cache.kv.mapped import mapped
from lix_cache.kv.store import KvStore
from tests.support.kv import FINGERPRINT, loaded_tokens, pieces_of, save_tokens, tokens
from tests.support.kv_engine import ToyEngine

OTHER = fingerprint_of({"weights": "two", "engine": "none"})


def size_of(folder: Path | str) -> int:
    return sum(
        os.path.getsize(os.path.join(path, name)) for path, _, names in os.walk(folder) for name in names
    )


def states_in(folder: Path | str) -> list[Path]:
    return sorted(Path(folder).rglob("*.safetensors"))


def age(folder: Path, ids: object, seconds: float, tenant: str = "") -> None:
    """Let the files of a sequence look as if they were used so long ago."""
    for piece in pieces_of(ids, tenant):  # type: ignore[arg-type]
        path = folder / FINGERPRINT.hex / piece.name[:2] / f"{piece.name}.safetensors"
        if path.exists():
            os.utime(path, (path.stat().st_atime - seconds, path.stat().st_mtime - seconds))


@pytest.fixture
def store(tmp_path: Path) -> KvStore:
    return KvStore(tmp_path / "kv")


def test_what_is_saved_is_found_by_another_store(store: KvStore) -> None:
    ids = tokens(700)
    saved = save_tokens(store, "s", ids)
    assert (saved.written, saved.shared, saved.left_out) == (3, 0, 0)
    other = KvStore(store.folder)
    assert loaded_tokens(other, ids) == [256, 256, 188]
    manifest = other.manifest(FINGERPRINT, "", "s")
    assert manifest is not None
    assert (manifest.ids == ids).all()
    assert list(manifest.files) == [piece.name for piece in pieces_of(ids)]
    chain = chain_of(FINGERPRINT, "", ids)
    assert other.partials(FINGERPRINT, chain[2]) == [(700, pieces_of(ids)[2].name)]
    assert other.partials(FINGERPRINT, chain[1]) == []


def test_sessions_share_the_blocks_of_a_common_prefix(store: KvStore) -> None:
    prefix = tokens(512)
    one, two = (as_ids([*prefix, *tokens(300, seed)]) for seed in (1, 2))
    save_tokens(store, "one", one)
    saved = save_tokens(store, "two", two)
    assert (saved.written, saved.shared) == (2, 2)
    assert len(states_in(store.folder)) == 6
    assert save_tokens(store, "three", two).written == 0


@pytest.mark.promise("isolation")
def test_tenants_and_models_share_nothing(store: KvStore) -> None:
    ids = tokens(300)
    save_tokens(store, "s", ids, "ann")
    assert loaded_tokens(store, ids, "bob") == []
    assert loaded_tokens(store, ids, "") == []
    assert loaded_tokens(store, ids, "ann", OTHER) == []
    assert store.manifest(FINGERPRINT, "bob", "s") is None
    assert save_tokens(store, "s", ids, "bob").written == 2
    assert save_tokens(store, "s", ids, "ann", OTHER).written == 2
    assert next(iter(store.manifests(FINGERPRINT, "bob"))).tenant == "bob"


@pytest.mark.promise("isolation")
def test_a_file_of_another_tenant_under_the_right_name_is_not_used(store: KvStore) -> None:
    ids = tokens(256)
    save_tokens(store, "s", ids, "ann")
    save_tokens(store, "s", ids, "bob")
    ann, bob = (
        Path(store.folder) / FINGERPRINT.hex / name[:2] / f"{name}.safetensors"
        for name in (pieces_of(ids, tenant)[0].name for tenant in ("ann", "bob"))
    )
    bob.write_bytes(ann.read_bytes())
    assert loaded_tokens(store, ids, "bob") == []
    assert store.counters["bad_files"] == 1


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("session", ["../../evil", "", "a/b", "\0", "\ud800", "x" * 10_000])
def test_no_id_becomes_a_path(store: KvStore, session: str, tmp_path: Path) -> None:
    save_tokens(store, session, tokens(300), session)
    assert {path.name for path in tmp_path.iterdir()} == {"kv"}
    assert store.manifest(FINGERPRINT, session, session) is not None
    assert store.purge(session, session) == 2


@pytest.mark.promise("no-leak")
def test_files_are_their_owners_alone(store: KvStore) -> None:
    old = os.umask(0)
    try:
        save_tokens(store, "s", tokens(300))
    finally:
        os.umask(old)
    for path, _, names in os.walk(store.folder):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
        for name in names:
            assert stat.S_IMODE(os.stat(os.path.join(path, name)).st_mode) == 0o600


# -- budget ----------------------------------------------------------------------------


def test_the_budget_holds_over_models_tenants_and_sessions(tmp_path: Path) -> None:
    budget = 300_000
    store = KvStore(tmp_path, budget_bytes=budget)
    for number in range(12):
        fingerprint = FINGERPRINT if number % 2 else OTHER
        save_tokens(store, f"s{number}", tokens(700, number), f"t{number % 3}", fingerprint)
        assert size_of(tmp_path) <= budget
        assert loaded_tokens(store, tokens(700, number), f"t{number % 3}", fingerprint) == [256, 256, 188]
    assert store.counters["evicted_files"] > 0
    assert size_of(tmp_path) > budget / 2


def test_the_least_recently_used_leaves_go_first(tmp_path: Path) -> None:
    store = KvStore(tmp_path)
    old, new = tokens(700, 1), tokens(700, 2)
    save_tokens(store, "old", old)
    save_tokens(store, "new", new)
    age(tmp_path, old, 1000)
    a_tail_and_a_block = 40_000
    store.prune(size_of(tmp_path) - a_tail_and_a_block)
    # What is left of a chain is a beginning of it.
    assert loaded_tokens(store, old) == [256]
    assert loaded_tokens(store, new) == [256, 256, 188]
    store.used(FINGERPRINT, [piece.name for piece in pieces_of(old)])
    age(tmp_path, new, 2000)
    store.prune(size_of(tmp_path) - a_tail_and_a_block)
    assert loaded_tokens(store, old) == [256]
    assert loaded_tokens(store, new) == [256]


def test_a_smaller_budget_holds_from_the_start(tmp_path: Path) -> None:
    save_tokens(KvStore(tmp_path), "s", tokens(2000))
    assert size_of(tmp_path) > 100_000
    KvStore(tmp_path, budget_bytes=100_000)
    assert 0 < size_of(tmp_path) <= 100_000


def test_a_budget_that_nothing_fits_into_keeps_nothing(tmp_path: Path) -> None:
    store = KvStore(tmp_path, budget_bytes=10_000)
    saved = save_tokens(store, "s", tokens(700))
    assert (saved.written, saved.left_out) == (0, 3)
    assert states_in(tmp_path) == []
    assert size_of(tmp_path) <= 10_000


def test_a_session_that_does_not_fit_is_kept_from_its_start(tmp_path: Path) -> None:
    store = KvStore(tmp_path, budget_bytes=130_000)
    ids = tokens(2000)
    saved = save_tokens(store, "s", ids)
    assert saved.left_out > 0
    assert size_of(tmp_path) <= 130_000
    assert loaded_tokens(store, ids) == [256] * saved.written
    assert saved.written > 2
    # Of what no manifest names nothing stays.
    store.prune()
    assert loaded_tokens(store, ids) == [256] * saved.written


def test_pinned_sessions_stay_and_others_make_room(tmp_path: Path) -> None:
    store = KvStore(tmp_path, budget_bytes=160_000)
    kept = tokens(700, 1)
    save_tokens(store, "kept", kept)
    assert store.pin("", "kept") == 1
    age(tmp_path, kept, 1000)
    for number in range(2, 8):
        save_tokens(store, f"s{number}", tokens(700, number))
        assert size_of(tmp_path) <= 160_000
    assert loaded_tokens(store, kept) == [256, 256, 188]
    # A save does not unpin it.
    save_tokens(store, "kept", kept)
    manifest = store.manifest(FINGERPRINT, "", "kept")
    assert manifest is not None
    assert manifest.pinned
    store.pin("", "kept", pinned=False)
    store.prune(1)
    assert loaded_tokens(store, kept) == []


def test_a_quota_holds_for_its_tenant_and_takes_from_nobody_else(tmp_path: Path) -> None:
    store = KvStore(tmp_path, quotas={"ann": 60_000, "*": 1 << 30})
    bob = tokens(700, 9)
    save_tokens(store, "b", bob, "bob")
    for number in range(5):
        save_tokens(store, f"a{number}", tokens(256, number), "ann")
        assert store.catalogue().tenants["ann"] <= 60_000
    assert loaded_tokens(store, tokens(256, 4), "ann") == [256]
    assert loaded_tokens(store, bob, "bob") == [256, 256, 188]
    assert save_tokens(KvStore(tmp_path, quotas={"*": 0}), "c", bob, "cid").written == 0
    assert KvStore(tmp_path, quotas={"bob": 0}).catalogue().tenants["bob"] == 0


@pytest.mark.parametrize("arguments", [{"budget_bytes": 0}, {"quotas": {"ann": -1}}])
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        KvStore(tmp_path, **arguments)  # type: ignore[arg-type]


def test_a_package_that_is_missing_is_said_before_there_is_something_to_lose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, "zstandard", None)
        with pytest.raises(MissingExtra, match="kv"):
            LocalModel(ToyEngine(), encoding="zstd")
        missing.setitem(sys.modules, "xxhash", None)
        with pytest.raises(MissingExtra, match="kv"):
            KvStore(tmp_path)
    with pytest.raises(ConfigError):
        LocalModel(ToyEngine(), encoding="q2")


# -- purging ---------------------------------------------------------------------------


@pytest.mark.promise("isolation")
def test_a_purge_takes_a_session_and_leaves_what_others_share(store: KvStore) -> None:
    prefix = tokens(256)
    one, two = (as_ids([*prefix, *tokens(300, seed)]) for seed in (1, 2))
    save_tokens(store, "one", one)
    save_tokens(store, "two", two)
    save_tokens(store, "one", one, tenant="ann")
    assert store.purge("", "one") == 2
    assert store.manifest(FINGERPRINT, "", "one") is None
    assert loaded_tokens(store, one) == [256]
    assert loaded_tokens(store, two) == [256, 256, 44]
    assert loaded_tokens(store, one, "ann") == [256, 256, 44]
    assert store.purge("") == 3
    assert store.purge("ann") == 3
    assert states_in(store.folder) == []
    assert store.purge("nobody") == 0


@pytest.mark.promise("isolation")
def test_a_purge_finds_what_an_edited_prompt_left(store: KvStore) -> None:
    before, after = tokens(700, 1), tokens(700, 2)
    save_tokens(store, "s", before)
    save_tokens(store, "s", after)
    assert loaded_tokens(store, before) == [256, 256, 188]
    assert store.purge("", "s") == 6
    assert states_in(store.folder) == []


def test_what_a_session_keeps_no_longer_goes_with_the_save(store: KvStore) -> None:
    ids = tokens(700)
    save_tokens(store, "s", ids[:600])
    tail = pieces_of(ids[:600])[2].name
    store.save(
        FINGERPRINT,
        Manifest("s", "", ids=ids),
        pieces_of(ids),
        keep=lambda before: {name: needs for name, needs in before.files.items() if name != tail},
    )
    assert loaded_tokens(store, ids) == [256, 256, 188]
    assert not store.has(FINGERPRINT, tail)
    assert len(states_in(store.folder)) == 3


# -- damage ----------------------------------------------------------------------------


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("damage", ["torn", "empty", "flipped", "foreign", "folder", "link", "gone"])
def test_a_damaged_file_is_a_miss_and_what_comes_before_it_is_used(
    store: KvStore, damage: str, tmp_path: Path
) -> None:
    ids = tokens(700)
    save_tokens(store, "s", ids)
    piece = pieces_of(ids)[1]
    path = Path(store.folder) / FINGERPRINT.hex / piece.name[:2] / f"{piece.name}.safetensors"
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "torn":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "flipped":
        data[5000] ^= 1
        path.write_bytes(data)
    elif damage == "foreign":
        path.write_bytes(b"something else entirely" * 1000)
    elif damage == "folder":
        path.mkdir()
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere")
    assert loaded_tokens(store, ids) == [256]
    assert sum(store.counters[name] for name in ("bad_files", "unreadable_files")) == (damage != "gone")


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("bad", range(8))
def test_several_threads_find_what_comes_before_the_first_bad_file(
    store: KvStore, bad: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = tokens(7 * 256)
    save_tokens(store, "s", ids)
    pieces = pieces_of(ids)
    for piece in pieces[bad:][:2]:
        path = Path(store.folder) / FINGERPRINT.hex / piece.name[:2] / f"{piece.name}.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    found = store.load(FINGERPRINT, [(piece.name, piece.about, piece.ids) for piece in pieces])
    assert [{name: one.array("<f4").tolist() for name, one in state.items()} for state in found] == [
        {name: one.array("<f4").tolist() for name, one in piece.export().items()} for piece in pieces[:bad]
    ]
    assert store.counters["bad_files"] == (bad < 7)


def test_one_file_is_read_without_a_thread_and_none_behind_a_missing_one_is(
    store: KvStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = tokens(5 * 256)
    save_tokens(store, "s", ids)
    files = [(piece.name, piece.about, piece.ids) for piece in pieces_of(ids)]
    opened = []

    def noted(path: str) -> memoryview:
        opened.append(os.path.basename(path).removesuffix(".safetensors"))
        return mapped(path)

    def refused(thread: threading.Thread) -> None:
        raise AssertionError(f"{thread} was started")

    monkeypatch.setattr(reader, "mapped", noted)
    monkeypatch.setattr(threading.Thread, "start", refused)
    (path,) = Path(store.folder).rglob(f"{files[1][0]}.safetensors")
    path.unlink()
    assert len(store.load(FINGERPRINT, files)) == 1
    assert opened == [files[0][0], files[1][0]]


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("data", [b"", b"{}", b"x" * 100_000])
def test_a_damaged_manifest_is_a_session_that_is_not_there(store: KvStore, data: bytes) -> None:
    ids = tokens(300)
    save_tokens(store, "s", ids)
    path = next((Path(store.folder) / FINGERPRINT.hex / SESSIONS).iterdir())
    path.write_bytes(data)
    assert store.manifest(FINGERPRINT, "", "s") is None
    assert list(store.manifests(FINGERPRINT, "")) == []
    # Nothing knows whose the files are: they go with the next change, and the session can be saved anew.
    assert save_tokens(store, "s", ids).written == 2
    assert loaded_tokens(store, ids) == [256, 44]


@pytest.mark.promise("isolation")
def test_a_manifest_in_the_place_of_another_is_not_taken_for_it(store: KvStore) -> None:
    save_tokens(store, "s", tokens(300), "ann")
    save_tokens(store, "s", tokens(300, 1), "bob")
    ann, bob = (Path(store._manifest_path(FINGERPRINT.hex, tenant, "s")) for tenant in ("ann", "bob"))
    bob.write_bytes(ann.read_bytes())
    assert store.manifest(FINGERPRINT, "bob", "s") is None


def test_what_a_killed_save_left_goes_with_the_next_change(store: KvStore) -> None:
    ids = tokens(300)
    save_tokens(store, "s", ids)
    folder = Path(store.folder) / FINGERPRINT.hex
    (folder / "ab").mkdir(exist_ok=True)
    (folder / "ab" / f"{'ab' * 32}.safetensors{NEW}").write_bytes(b"x" * 1000)
    (folder / "ab" / f"{'ab' * 32}.safetensors").write_bytes(b"x" * 1000)
    (folder / SESSIONS / f"{'ab' * 32}.json{NEW}").write_bytes(b"x" * 1000)
    mine = folder / "notes.txt"
    mine.write_text("not the store's")
    KvStore(store.folder)
    assert len(states_in(folder)) == 2
    assert not list(folder.rglob(f"*{NEW}"))
    assert mine.exists()


# -- others ----------------------------------------------------------------------------


def test_a_change_waits_for_another_and_gives_up(tmp_path: Path) -> None:
    store = KvStore(tmp_path, lock_seconds=0.05)
    lock = store._files.try_lock(str(tmp_path / "store.lock"))
    assert lock is not None
    with lock, pytest.raises(KvBusy):
        save_tokens(store, "s", tokens(300))
    assert KvStore(tmp_path, lock_seconds=0.05).counters["failed_changes"] == 0
    assert save_tokens(store, "s", tokens(300)).written == 2


def test_a_store_that_cannot_be_written_says_so_and_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = KvStore(tmp_path / "file" / "kv")
    with pytest.raises(KvUnavailable):
        save_tokens(store, "s", tokens(300))
    assert loaded_tokens(store, tokens(300)) == []


def test_threads_that_save_at_once_lose_nothing(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            store = KvStore(tmp_path)
            for turn in range(3):
                save_tokens(store, f"s{number}", tokens(300 + 100 * turn, number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for number in range(4):
        assert sum(loaded_tokens(KvStore(tmp_path), tokens(500, number))) == 500
