"""A store that others damaged: what cannot be used is written anew, and nothing is counted twice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lix_cache.kv.engines.slot_files import new_slot_folder
from lix_cache.kv.identity import as_ids
from lix_cache.kv.inspection import verify
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.store import KvStore
from tests.support.kv import loaded_tokens, save_tokens, tokens
from tests.support.kv_engine import ToyEngine

pytestmark = pytest.mark.promise("bad-bytes")

IDS = tokens(900, 1)
LONGER = as_ids([*IDS, *tokens(300, 2)])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def linked(path: Path) -> None:
    # Into the store or out of it: a link is followed nowhere.
    other = path.with_name("elsewhere")
    path.rename(other)
    path.symlink_to(other)


def swapped(path: Path) -> None:
    other = next(one for one in sorted(path.parents[1].rglob("*.safetensors")) if one != path)
    path.write_bytes(other.read_bytes())


def pathed(folder: Path, number: int) -> Path:
    """Return the file of a full block."""
    found = [path for path in folder.rglob("*.safetensors") if "-" not in path.stem]
    return sorted(found, key=lambda path: path.stem)[number]


@pytest.mark.parametrize("damage", [flipped, cut, emptied, linked, swapped])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_damaged_file_is_written_anew_by_the_next_save(
    tmp_path: Path, damage: Callable[[Path], None], number: int
) -> None:
    store = KvStore(tmp_path)
    for session in ("s", "t"):
        save_tokens(store, session, IDS)
    damage(pathed(tmp_path, number))
    assert sum(loaded_tokens(store, IDS)) < 900
    assert store.counters["bad_files"] + store.counters["unreadable_files"] == 1
    saved = save_tokens(store, "s", LONGER)
    assert saved.written == 3, "the damaged one, one more block, another tail"
    assert sum(loaded_tokens(store, LONGER)) == len(LONGER)
    assert [one for one in verify(store) if one.problem] == []
    # It is that of both sessions, and counted once.
    catalogue, fresh = store.catalogue(), KvStore(tmp_path, tidy=False).catalogue()
    assert (catalogue.total, catalogue.tenants) == (fresh.total, fresh.tenants)
    store.purge("", "s")
    assert sum(loaded_tokens(store, IDS)) == 900
    store.purge("", "t")
    assert list(tmp_path.rglob("*.safetensors")) == []


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_folder_in_the_place_of_a_file_costs_what_lies_behind_it(tmp_path: Path, number: int) -> None:
    store = KvStore(tmp_path)
    save_tokens(store, "s", IDS)
    path = pathed(tmp_path, number)
    path.unlink()
    path.mkdir()
    (path / "theirs").write_bytes(b"x")
    before = sum(loaded_tokens(store, IDS))
    assert before in (0, 256, 512)
    saved = save_tokens(store, "s", LONGER)
    assert saved.left_out > 0
    save_tokens(store, "other", tokens(600, 7))
    assert sum(loaded_tokens(store, LONGER)) == before
    assert sum(loaded_tokens(store, tokens(600, 7))) == 600
    assert (path / "theirs").read_bytes() == b"x", "what is not ours stays"
    again = KvStore(tmp_path, budget_bytes=1)
    assert again.catalogue().files == {}


@pytest.mark.parametrize("exports", ["blocks", "snapshots"])
def test_a_conversation_whose_state_was_damaged_resumes_the_next_time(tmp_path: Path, exports: str) -> None:
    messages = [{"role": "user", "content": "How much is a large latte with oat milk? " * 20}]
    engine = ToyEngine(exports)  # type: ignore[arg-type]
    wanted = LocalModel(engine).generate(messages, max_tokens=20).all()
    store = KvStore(tmp_path)

    def said() -> tuple[str, str]:
        model = LocalModel(engine, store)
        reply = model.generate(messages, session="s", max_tokens=20)
        text = reply.all()
        model.close()
        return text, reply.usage.source

    assert said() == (wanted, "none")
    assert said() == (wanted, "disk")
    for path in tmp_path.rglob("*.safetensors"):
        flipped(path)
    assert said() == (wanted, "none")
    assert said() == (wanted, "disk")


def test_a_restore_is_right_while_others_prune(tmp_path: Path) -> None:
    """Two that remove what they can, and one that resumes: each reply is the one it must be."""
    messages = [
        {"role": "user", "content": f"Order {number}: " + "a latte, please. " * 60} for number in range(3)
    ]
    engine = ToyEngine()
    plain = LocalModel(engine)
    wanted = [plain.generate([one], max_tokens=10).all() for one in messages]
    plain.close()
    over, errors = threading.Event(), []

    def prunes(budget: int) -> None:
        try:
            while not over.is_set():
                KvStore(tmp_path, lock_seconds=60).prune(budget)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=prunes, args=(budget,)) for budget in (1, 30_000)]
    for thread in threads:
        thread.start()
    try:
        store = KvStore(tmp_path, lock_seconds=60)
        for number in range(12):
            model = LocalModel(engine, store)
            one = number % 3
            assert model.generate([messages[one]], session=f"s{one}", max_tokens=10).all() == wanted[one]
            model.close()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert store.counters["bad_files"] == 0


def test_the_slot_folder_of_a_process_that_was_killed_is_removed(tmp_path: Path) -> None:
    program = (
        "import os, sys; from lix_cache.kv.engines.slot_files import new_slot_folder\n"
        "folder, lock = new_slot_folder(sys.argv[1]); open(folder + '/a.slot', 'w').close()\n"
        "print(folder, flush=True); sys.stdin.read(); os._exit(9)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    killed, alive = (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    try:
        folders = [Path(one.stdout.readline().strip()) for one in (killed, alive) if one.stdout]
        killed.kill()
        killed.wait()
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "in-use.lock").touch()
        (tmp_path / "lix-kv-link").symlink_to(outside)
        (tmp_path / "lix-kv-new").mkdir()  # its lock is about to be made
        own, lock = new_slot_folder(str(tmp_path))
        assert (folders[0].exists(), folders[1].exists()) == (False, True)
        assert (folders[1] / "a.slot").exists()
        assert (outside / "in-use.lock").exists()
        assert (tmp_path / "lix-kv-new").exists()
        other, _ = new_slot_folder(str(tmp_path))
        assert os.path.isdir(own)
        assert lock.is_held
        assert other != own
    finally:
        for one in (killed, alive):
            one.kill()
            one.wait()
            for pipe in (one.stdin, one.stdout):
                if pipe:
                    pipe.close()
