"""The KV store beside other processes, foreign files, full budgets and engines that fail."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from lix_cache.errors import EngineBusy, EngineError, KvUnavailable
from lix_cache.kv.engine import Halt, Live
from lix_cache.kv.identity import Ids, as_ids, fingerprint_of
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.manifest import Manifest
from lix_cache.kv.store import KvStore
from lix_cache.kv.swap import SwappableModel
from lix_cache.kv.tensors import State
from tests.support.kv import FINGERPRINT, loaded_tokens, pieces_of, save_tokens, state_of, tokens
from tests.support.kv_engine import ToyEngine
from tests.support.twins import ManualClock

ROOT = Path(__file__).resolve().parents[2]


def talk(number: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"Number {number}: " + "tell me more. " * 40}]


def files_in(folder: Path) -> int:
    return len(list(folder.rglob("*.safetensors")))


class FailingEngine(ToyEngine):
    """Its exports fail as an engine without memory does."""

    fails = True

    def export(self, live: Live, first: int, end: int) -> State:
        if self.fails:
            raise RuntimeError("out of memory")
        return super().export(live, first, end)


# -- other processes -------------------------------------------------------------------

_CHILD = """
import sys
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.manifest import Manifest
from lix_cache.kv.store import KvStore
from tests.support.kv_engine import ToyEngine
from tests.support.twins import ManualClock
from tests.fault.test_kv_company import talk

model = LocalModel(ToyEngine(), KvStore(sys.argv[1], budget_bytes=int(sys.argv[2])), fewest_tokens=8)
for line in sys.stdin:
    what, number = line.split()
    if what == "say":
        model.generate(talk(int(number)), session="s" + number, tenant="t", max_tokens=5).all()
    else:
        model.flush()
    print(sum(entry.is_dirty for entry in model._memory.all()), flush=True)
"""


class Child:
    """Another process with a model on the same store."""

    def __init__(self, folder: Path, budget: int = 1 << 30) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(folder), str(budget)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def ask(self, what: str, number: int = 0) -> int:
        self.send(what, number)
        return self.answer()

    def send(self, what: str, number: int = 0) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {number}\n")
        self._process.stdin.flush()

    def answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("whole_tenant", [False, True])
def test_what_was_purged_is_not_written_again_by_a_process_that_still_held_it(
    tmp_path: Path, whole_tenant: bool
) -> None:
    with Child(tmp_path) as child:
        assert child.ask("say", 1) == 1  # dirty: not on disk yet
        KvStore(tmp_path).purge("t", None if whole_tenant else "s1")
        assert child.ask("flush") == 0
        assert files_in(tmp_path) == 0
        # A conversation that begins behind it is another one.
        assert child.ask("say", 1) == 1
        assert child.ask("flush") == 0
        assert files_in(tmp_path) > 0


def test_a_session_that_goes_on_where_it_was_purged_elsewhere_begins_anew(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        child.ask("say", 1)
        child.ask("flush")
        KvStore(tmp_path).purge("t", "s1")
        child.ask("say", 1)
        child.ask("flush")
    assert files_in(tmp_path) > 0


def test_the_budget_holds_over_processes(tmp_path: Path) -> None:
    budget = 60_000
    with Child(tmp_path, budget) as one, Child(tmp_path, budget) as two:
        for number in range(8):
            one.ask("say", number)
            two.ask("say", 100 + number)
            one.send("flush")
            two.send("flush")
            one.answer()
            two.answer()
            used = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
            assert 0 < used <= budget


def test_marks_of_purges_that_no_process_needs_go(tmp_path: Path) -> None:
    store = KvStore(tmp_path)
    store.purge("t", "old")
    store.purge("t", "new")
    marks = sorted(tmp_path.glob("purged/*/*"))
    assert len(marks) == 2
    os.utime(marks[0], (0, 0))
    store.prune()
    assert list(tmp_path.glob("purged/*/*")) == marks[1:]


@pytest.mark.promise("isolation")
def test_many_purges_of_one_tenant_undo_none_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lix_cache.kv.purges._MOST", 5)
    store = KvStore(tmp_path)
    before = store.seen("ann", "s")
    store.purge("ann", "s")
    for number in range(20):
        store.purge("bob", f"s{number}")
    store.prune()
    assert store.is_purged("ann", "s", before)
    assert len(list(tmp_path.glob("purged/*/*"))) == 6


@pytest.mark.promise("isolation")
def test_a_model_whose_folder_is_a_link_is_counted_and_purged(tmp_path: Path) -> None:
    root, disk = tmp_path / "kv", tmp_path / "disk"
    save_tokens(KvStore(root), "s", tokens(700), "ann")
    (root / FINGERPRINT.hex).rename(disk)
    (root / FINGERPRINT.hex).symlink_to(disk)
    (disk / "circle").symlink_to(disk)
    store = KvStore(root)
    assert loaded_tokens(store, tokens(700), "ann") == [256, 256, 188]
    assert save_tokens(store, "two", tokens(300, 1), "ann").written == 2
    assert files_in(disk) == 5
    store.purge("ann")
    assert files_in(disk) == 0
    save_tokens(store, "s", tokens(700))
    KvStore(root, budget_bytes=10)
    assert files_in(disk) == 0


def test_a_state_file_in_another_folder_is_no_state(tmp_path: Path) -> None:
    store = KvStore(tmp_path)
    save_tokens(store, "s", tokens(300))
    (lost, *_) = tmp_path.rglob("*.safetensors")
    moved = lost.parent.parent / "zz" / lost.name
    moved.parent.mkdir()
    lost.rename(moved)
    assert save_tokens(store, "s", tokens(300)).written == 1
    assert not moved.exists()
    assert loaded_tokens(store, tokens(300)) == [256, 44]


# -- what fails ------------------------------------------------------------------------


def test_an_engine_that_cannot_export_stops_neither_other_sessions_nor_the_thread(tmp_path: Path) -> None:
    engine = FailingEngine(most_live=1)
    model = LocalModel(engine, KvStore(tmp_path), fewest_tokens=8, idle_seconds=0.0)
    model.start(interval=0.01)
    model.generate(talk(1), session="a", max_tokens=5).all()
    assert model.generate(talk(2), session="b", max_tokens=5).all()  # which had to make room
    while not model.counters["failed_saves"]:
        threading.Event().wait(0.01)
    engine.fails = False
    model.generate(talk(3), session="c", max_tokens=5).all()
    while not files_in(tmp_path):
        threading.Event().wait(0.01)  # the thread still writes behind
    model.close()


def test_a_swap_goes_on_where_the_old_model_cannot_be_written(tmp_path: Path) -> None:
    engine = FailingEngine()

    def old() -> LocalModel:
        return LocalModel(engine, KvStore(tmp_path), fewest_tokens=8)

    swappable = SwappableModel(old)
    swappable.generate(talk(1), session="a", max_tokens=5).all()
    first = swappable.model
    swappable.swap(lambda: LocalModel(ToyEngine(weights=2), KvStore(tmp_path), fewest_tokens=8))
    assert first.counters["lost_sessions"] == 1
    assert swappable.generate(talk(1), session="a", max_tokens=5).all()


def test_a_model_can_be_loaded_after_one_that_could_not_be_loaded_again(tmp_path: Path) -> None:
    loads = [lambda: LocalModel(ToyEngine())]

    def first() -> LocalModel:
        return loads.pop()()

    def failing() -> LocalModel:
        raise EngineError("no memory")

    swappable = SwappableModel(first)
    loads.append(failing)
    with pytest.raises(EngineError):
        swappable.swap(failing)
    with pytest.raises(EngineBusy):
        swappable.generate(talk(1))
    swappable.swap(lambda: LocalModel(ToyEngine()))
    assert swappable.generate(talk(1), max_tokens=5).all()


def test_a_session_that_its_caller_named_like_one_without_a_name_stays_as_it_is(tmp_path: Path) -> None:
    model = LocalModel(ToyEngine())
    said = model.generate(talk(1), session="auto-mine", max_tokens=5).all()
    messages = [*talk(1), {"role": "assistant", "content": said}, {"role": "user", "content": "And?"}]
    reply = model.generate(messages, max_tokens=5)
    reply.all()
    assert reply.session != "auto-mine"
    again = model.generate(messages, session=reply.session, max_tokens=5)
    again.all()
    assert model.generate([*messages, *talk(2)], max_tokens=5).session != reply.session


def test_what_did_not_fit_is_still_to_be_written(tmp_path: Path) -> None:
    store = KvStore(tmp_path, budget_bytes=3_000)
    model = LocalModel(ToyEngine(), store, fewest_tokens=8)
    model.generate(talk(1), session="a", max_tokens=5).all()
    assert model.flush() == 0
    assert model.stats()["store_left_out"] > 0
    store.budget_bytes = 1 << 30
    assert model.flush() == 1
    assert model.flush() == 0


def test_one_who_waits_for_a_session_can_be_halted(tmp_path: Path) -> None:
    model = LocalModel(ToyEngine(serial=False), KvStore(tmp_path))
    first = model.generate(talk(1), session="a", max_tokens=50)
    next(first)
    halt = Halt()
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            model.generate(talk(2), session="a", halt=halt)
        except EngineError as error:
            raised.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    halt.set()
    waiting.join(30)
    assert not waiting.is_alive()
    assert "halted" in str(raised[0])
    assert first.all()
    assert model.generate(talk(2), session="a", max_tokens=5).all()


# -- room ------------------------------------------------------------------------------


def test_a_save_that_can_never_fit_evicts_nothing(tmp_path: Path) -> None:
    store = KvStore(tmp_path, budget_bytes=200_000)
    for number in range(3):
        save_tokens(store, f"s{number}", tokens(256, number))
    before = files_in(tmp_path)
    whole = pieces_of(tokens(200, 9))[0]
    large = type(whole)(whole.name, "", whole.about, whole.ids, _large)

    saved = store.save(FINGERPRINT, Manifest("large", "", ids=whole.ids), [large])
    assert (saved.written, saved.left_out) == (0, 1)
    assert files_in(tmp_path) == before
    assert store.counters["evicted_files"] == 0


def test_a_save_whose_manifest_cannot_fit_evicts_nothing_and_says_so(tmp_path: Path) -> None:
    first = KvStore(tmp_path / "first")
    save_tokens(first, "new", tokens(200, 9), "ann")
    size = sum(path.stat().st_size for path in (tmp_path / "first").rglob("*") if path.name != "model.json")
    size -= sum(path.stat().st_size for path in (tmp_path / "first").rglob("*") if path.is_dir())
    # What goes for it is counted without its manifest.
    for missing, written, sessions in ((-2_000, 1, {"new"}), (1, 0, {"old"})):
        store = KvStore(tmp_path / str(missing), quotas={"ann": size - missing})
        save_tokens(store, "old", tokens(64, 1), "ann")
        saved = save_tokens(store, "new", tokens(200, 9), "ann")
        assert (saved.written, saved.left_out) == (written, 1 - written)
        with store._changing() as catalogue:
            assert {one.session for _, one, _ in catalogue.manifests.values()} == sessions
            assert catalogue.removed == 0, "no garbage"


def test_a_new_model_takes_no_room_of_a_tenants_quota(tmp_path: Path) -> None:
    save_tokens(KvStore(tmp_path), "s", tokens(300))
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.*") if path.name != "model.json")
    store = KvStore(tmp_path, quotas={"": size})
    before = files_in(tmp_path)
    save_tokens(store, "x", tokens(300), "ann", fingerprint_of({"weights": "two"}))
    assert sum(loaded_tokens(store, tokens(300))) == 300
    assert files_in(tmp_path) == 2 * before


def test_an_open_reply_keeps_no_other_session_from_the_disk(tmp_path: Path) -> None:
    model = LocalModel(ToyEngine(serial=False), KvStore(tmp_path), fewest_tokens=8)
    held = model.generate(talk(1), session="held", max_tokens=50)
    next(held)
    model.generate(talk(2), session="other", max_tokens=5).all()
    assert model.flush() == 1
    held.close()
    assert model.flush() == 1


class PassingClock(ManualClock):
    """Sleeping takes as long as it says."""

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)


def test_closing_waits_for_a_lock_no_longer_than_it_is_told(tmp_path: Path) -> None:
    clock = PassingClock()
    store = KvStore(tmp_path, lock_seconds=10.0, clock=clock)
    model = LocalModel(ToyEngine(most_live=10), store, fewest_tokens=8, clock=clock)
    for number in range(6):
        model.generate(talk(number), session=f"s{number}", max_tokens=5).all()
    began = clock.monotonic()
    with KvStore(tmp_path)._locked(1.0):
        model.close(seconds=2)
    assert 2 <= clock.monotonic() - began < 2.1
    assert model.counters["lost_sessions"] == 6


def _large() -> State:

    return state_of(tokens(200, 9), layers=40, dim=64)


def test_a_pin_for_which_there_is_no_room_is_not_said_to_be_one(tmp_path: Path) -> None:
    store = KvStore(tmp_path)
    save_tokens(store, "s", tokens(300))
    used = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    # The manifest takes the place, and the room, of the one before.
    assert KvStore(tmp_path, budget_bytes=used).pin("", "s") == 1
    assert KvStore(tmp_path, budget_bytes=used, quotas={"": 1}, tidy=False).pin("", "s", pinned=False) == 0
    manifest = store.manifest(FINGERPRINT, "", "s")
    assert manifest is not None
    assert manifest.pinned


def test_sessions_of_which_a_common_beginning_is_left_keep_no_manifest(tmp_path: Path) -> None:
    store = KvStore(tmp_path)
    for number in range(20):
        save_tokens(store, f"s{number}", _with_prefix(number))
    store.prune(sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) // 2)
    manifests = list(tmp_path.rglob("sessions/*.json"))
    assert 0 < len(manifests) <= 11
    assert loaded_tokens(store, _with_prefix(99)[:512]) == [256, 256]


def _with_prefix(number: int) -> Ids:

    return as_ids([*tokens(512), *tokens(200, 1000 + number)])


# -- foreign and damaged files ---------------------------------------------------------


@pytest.mark.promise("bad-bytes")
def test_a_purge_removes_what_a_damaged_manifest_and_a_killed_save_left(tmp_path: Path) -> None:
    store = KvStore(tmp_path)
    save_tokens(store, "s", tokens(700), "t")
    (manifest,) = tmp_path.rglob("sessions/*.json")
    manifest.write_bytes(manifest.read_bytes()[:-5])
    (manifest.parent / "left.json.new").write_bytes(b"half")
    store.purge("t", "s")
    assert files_in(tmp_path) == 0
    assert not list(tmp_path.rglob("*.new"))
    assert not manifest.exists()


@pytest.mark.promise("no-stall")
def test_a_pipe_in_the_place_of_a_state_file_makes_nothing_wait(tmp_path: Path) -> None:
    model = LocalModel(ToyEngine(), KvStore(tmp_path), fewest_tokens=8)
    said = model.generate(talk(1), session="s", max_tokens=5).all()
    model.close()
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
        os.mkfifo(path)
    again = LocalModel(ToyEngine(), KvStore(tmp_path), fewest_tokens=8)
    assert again.generate(talk(1), session="s", max_tokens=5).all() == said


def test_a_foreign_folder_that_cannot_be_read_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir

    def refusing(folder: str) -> Any:
        if str(folder).endswith(refused):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    # Tests may run as root, to whom no folder is closed.
    monkeypatch.setattr("lix_cache.kv.mapped.os.scandir", refusing)
    refused = "lost+found"
    store = KvStore(tmp_path)
    assert save_tokens(store, "s", tokens(300)).written == 2
    # One of ours is not passed over: its states would look as if no session had them.
    refused = "sessions"
    with pytest.raises(KvUnavailable):
        store.prune()
    assert list(store.manifests(FINGERPRINT, "")) == []
    refused = "no folder"
    assert loaded_tokens(store, tokens(300)) == [256, 44]
