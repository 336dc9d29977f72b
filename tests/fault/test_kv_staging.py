"""A save does what takes long beside the store's lock: others go on, and a kill breaks nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lix_cache.errors import ArchiveUnavailable, KvBusy
from lix_cache.kv.identity import as_ids
from lix_cache.kv.manifest import Manifest
from lix_cache.kv.saving import Piece, Saved
from lix_cache.kv.store import KvStore
from lix_cache.kv.tensors import State
from lix_cache.storage.files import Files, Write
from tests.support.kv import FINGERPRINT, loaded_tokens, pieces_of, save_tokens, tokens

IDS = tokens(700, 1)


class Gate:
    """Holds up who comes through it, until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        self.reached.set()
        assert self.opened.wait(60)


class SlowFiles(Files):
    """A disk on which state files are written when the gate is opened."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def write_many(self, writes: Sequence[Write]) -> list[ArchiveUnavailable | None]:
        if any(not one.path.endswith(".json.new") for one in writes) and any(
            len(one.data) > 4096 for one in writes
        ):
            self._gate.pass_through()
        return super().write_many(writes)


def held_up_in_export(folder: Path, gate: Gate) -> Callable[[], Saved]:
    def export(piece: Piece) -> State:
        gate.pass_through()
        return piece.export()

    pieces = [replace(one, export=lambda one=one: export(one)) for one in pieces_of(IDS, "ann")]  # type: ignore[misc]
    store = KvStore(folder)
    since = store.seen("ann", "s")
    return lambda: store.save(FINGERPRINT, Manifest("s", "ann", ids=IDS), pieces, since=since)


def held_up_in_write(folder: Path, gate: Gate) -> Callable[[], Saved]:
    store = KvStore(folder, files=SlowFiles(gate))
    since, manifest = store.seen("ann", "s"), Manifest("s", "ann", ids=IDS)
    return lambda: store.save(FINGERPRINT, manifest, pieces_of(IDS, "ann"), since=since)


@contextmanager
def saving(save: Callable[[], Saved], gate: Gate) -> Iterator[list[Saved]]:
    """Have another thread save, as far as the gate; at the end let it through, and wait for it."""
    done: list[Saved] = []
    thread = threading.Thread(target=lambda: done.append(save()))
    thread.start()
    try:
        assert gate.reached.wait(60)
        yield done
    finally:
        gate.opened.set()
        thread.join(60)
    assert len(done) == 1


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize("held_up", [held_up_in_export, held_up_in_write])
def test_others_change_the_store_while_a_state_is_exported_and_written(
    tmp_path: Path, held_up: Callable[[Path, Gate], Callable[[], Saved]]
) -> None:
    gate, other = Gate(), KvStore(tmp_path, lock_seconds=0.5)
    save_tokens(other, "old", tokens(300, 5))
    with saving(held_up(tmp_path, gate), gate):
        # A turn of an agent, another session's state, a pin, a purge: none waits for it.
        assert other.keep("bob", str(tmp_path / "agents" / "b" / "a.json"), b"{}", None)
        assert save_tokens(other, "t", tokens(600, 2), "ann").written == 3
        assert other.pin("ann", "t") == 1
        assert other.purge("", "old") == 2
        assert other.prune() == 0, "what is being written is nobody's garbage"
    assert loaded_tokens(other, IDS, "ann") == [256, 256, 188]
    assert loaded_tokens(other, tokens(600, 2), "ann") == [256, 256, 88]
    assert list((tmp_path / FINGERPRINT.hex / "saving").iterdir()) == []


@pytest.mark.promise("bad-bytes")
def test_what_a_killed_save_had_written_goes_with_the_next_change(tmp_path: Path) -> None:
    class Dying(Files):
        def write_many(self, writes: Sequence[Write]) -> list[ArchiveUnavailable | None]:
            made = super().write_many(writes)
            if any(one.path.endswith(".part") for one in writes):
                os.kill(os.getpid(), signal.SIGKILL)
            return made

    pid = os.fork()
    if pid == 0:
        save_tokens(KvStore(tmp_path, files=Dying()), "s", IDS, "ann")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    folder = tmp_path / FINGERPRINT.hex / "saving"
    assert len([one for one in folder.iterdir() if one.suffix == ".part"]) == 3
    store = KvStore(tmp_path)
    assert list(folder.iterdir()) == []
    catalogue = store.catalogue()
    assert (catalogue.underway, catalogue.garbage) == ({}, [])
    assert catalogue.total == sum(one.stat().st_size for one in tmp_path.rglob("*") if one.is_file())


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("session", ["s", None])
def test_a_purge_ends_when_what_was_being_saved_is_gone(tmp_path: Path, session: str | None) -> None:
    gate, store = Gate(), KvStore(tmp_path)
    purged: list[int] = []
    with saving(held_up_in_write(tmp_path, gate), gate) as saved:
        # It does not say that it is done while another may still write.
        with pytest.raises(KvBusy, match="being saved"):
            KvStore(tmp_path, lock_seconds=0.05).purge("ann", session)
        purging = threading.Thread(target=lambda: purged.append(store.purge("ann", session)))
        purging.start()
        gate.opened.set()
        purging.join(60)
        assert purged == [0]
        assert [one for one in (tmp_path / FINGERPRINT.hex).rglob("*") if one.is_file()] == [
            tmp_path / FINGERPRINT.hex / "model.json"
        ]
    assert saved[0].is_purged


def test_room_that_a_save_was_given_is_taken_while_it_writes(tmp_path: Path) -> None:
    measured = KvStore(tmp_path / "measured")
    save_tokens(measured, "s", IDS, "ann")
    whole = measured.catalogue().total
    gate, folder = Gate(), tmp_path / "kv"
    store = KvStore(folder, budget_bytes=whole + 10_000)
    with saving(held_up_in_write(folder, gate), gate):
        assert save_tokens(store, "t", tokens(600, 2)).left_out == 3
        quota = KvStore(folder, quotas={"ann": 60_000})
        assert save_tokens(quota, "u", tokens(256, 3), "ann").left_out == 1
    assert loaded_tokens(store, IDS, "ann") == [256, 256, 188]
    assert store.catalogue().total <= store.budget_bytes
    assert store.counters["evicted_files"] == 0


def test_what_others_removed_while_a_session_was_saved_is_written_after_all(tmp_path: Path) -> None:
    gate, store = Gate(), KvStore(tmp_path)
    # The first two blocks are there, and another session's: the save counts on them.
    save_tokens(store, "other", as_ids([*IDS[:512], *tokens(100, 9)]), "ann")
    with saving(held_up_in_write(tmp_path, gate), gate) as saved:
        assert store.purge("ann", "other") == 3
    assert (saved[0].written, saved[0].left_out) == (3, 0)
    assert loaded_tokens(store, IDS, "ann") == [256, 256, 188]
