"""Whatever stops a change: what is read is right, what is left has an owner, and the budget holds."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lix_cache.errors import KvUnavailable
from lix_cache.kv.identity import as_ids
from lix_cache.kv.store import KvStore
from lix_cache.storage.files import Files
from tests.fault.files import Crash, FaultyFiles, ForgetfulFiles, copy_folder, disk_full
from tests.support.kv import FINGERPRINT, loaded_tokens, save_tokens, tokens

pytestmark = pytest.mark.promise("bad-bytes")

BUDGET = 200_000
OLD = tokens(700, 1)
NEW = as_ids([*OLD[:600], *tokens(400, 2)])
OTHER = tokens(400, 3)


def prepared(folder: Path) -> None:
    store = KvStore(folder, budget_bytes=BUDGET)
    save_tokens(store, "s", OLD)
    save_tokens(store, "other", OTHER)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check(folder: Path, *, purged: bool = False, cut: bool = False) -> None:
    """What is there is right, has an owner after the next change, and fits at every step."""
    # A power cut may bring back what was removed: it goes again when a store is opened.
    assert cut or size_of(folder) <= BUDGET
    before = KvStore(folder / "nowhere")
    before.folder = str(folder)  # looks before anything is tidied up
    for ids in (OLD, NEW, OTHER):
        loaded_tokens(before, ids)  # compares every byte of what it finds
    assert before.counters["bad_files"] == 0
    store = KvStore(folder, budget_bytes=BUDGET)
    assert store.catalogue().garbage == []
    assert size_of(folder) <= BUDGET
    manifest = store.manifest(FINGERPRINT, "", "s")
    if manifest is not None:
        assert [int(one) for one in manifest.ids] in ([int(one) for one in OLD], [int(one) for one in NEW])
    if purged:
        store.purge("", "s")
        assert sum(loaded_tokens(store, OLD)) == 0
        assert len(list(folder.rglob("*.safetensors"))) == len(loaded_tokens(store, OTHER))
    save_tokens(store, "s", NEW)
    assert sum(loaded_tokens(store, NEW)) == 1000
    assert size_of(folder) <= BUDGET


CHANGES: dict[str, Callable[[KvStore], object]] = {
    "save": lambda store: save_tokens(store, "s", NEW),
    "purge": lambda store: store.purge("", "s"),
    "prune": lambda store: store.prune(50_000),
    "pin": lambda store: store.pin("", "s"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cut", [False, True], ids=["kill", "power cut"])
def test_a_crash_at_any_step_leaves_nothing_wrong(tmp_path: Path, change: str, cut: bool) -> None:
    start, folder = tmp_path / "start", tmp_path / "kv"
    prepared(start)
    copy_folder(start, folder)
    counting = FaultyFiles()
    CHANGES[change](KvStore(folder, budget_bytes=BUDGET, files=counting))
    steps = list(counting.steps)
    assert len(steps) > 5
    for number, step in enumerate(steps):
        for when in ("before", "torn", "after") if step.tears else ("before", "after"):
            copy_folder(start, folder)
            disk = ForgetfulFiles(folder) if cut else Files()
            files = FaultyFiles(disk)
            if when == "torn":
                files.tear(number, step.size // 2)
            else:
                files.crash(number, when)  # type: ignore[arg-type]
            with contextlib.suppress(Crash):
                CHANGES[change](KvStore(folder, budget_bytes=BUDGET, files=files))
            if isinstance(disk, ForgetfulFiles):
                disk.power_cut()
            check(folder, purged=change == "purge", cut=cut)


def test_an_error_at_any_step_of_a_save_is_said_and_leaves_nothing_wrong(tmp_path: Path) -> None:
    start, folder = tmp_path / "start", tmp_path / "kv"
    prepared(start)
    copy_folder(start, folder)
    counting = FaultyFiles()
    store = KvStore(folder, budget_bytes=BUDGET, files=counting)
    opened = len(counting.steps)
    save_tokens(store, "s", NEW)
    for number in range(opened, len(counting.steps)):
        copy_folder(start, folder)
        files = FaultyFiles()
        files.fail(number, error=disk_full())
        store = KvStore(folder, budget_bytes=BUDGET, files=files)
        with pytest.raises(KvUnavailable):
            save_tokens(store, "s", NEW)
        check(folder)


def _live(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    store = KvStore(folder, budget_bytes=BUDGET)
    while True:
        assert store.counters["bad_files"] == 0
        number = chance.randrange(6)
        ids = as_ids([*tokens(300, number // 3), *tokens(chance.randrange(1, 500), number)])
        what = chance.random()
        if what < 0.7:
            save_tokens(store, f"s{number}", ids, f"t{number % 2}")
        elif what < 0.9:
            loaded_tokens(store, ids, f"t{number % 2}")
        else:
            store.purge(f"t{number % 2}", f"s{number}")


def _forked(folder: Path, seed: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(20)  # it ends by itself, whatever becomes of its parent
            _live(folder, seed)
        finally:
            os._exit(1)
    return pid


@pytest.mark.slow
def test_processes_that_are_killed_share_a_store_and_break_nothing(tmp_path: Path) -> None:
    """Two at a time, killed at any moment; the budget holds at every look, and what is read is right."""
    folder = tmp_path / "kv"
    folder.mkdir()  # it is locked here, perhaps before a child has come to it
    chance = random.Random(12)
    for round_number in range(12):
        children = [_forked(folder, 2 * round_number + number) for number in range(2)]
        try:
            until = time.monotonic() + chance.uniform(0.2, 0.8)
            while time.monotonic() < until:
                time.sleep(0.02)
                # Under the lock: a walk past files that come and go would count what never was at once.
                with KvStore(folder, budget_bytes=BUDGET)._locked(10.0):
                    assert size_of(folder) <= BUDGET
            # Still alive: neither has seen a wrong byte.
            assert [os.waitpid(pid, os.WNOHANG) for pid in children] == [(0, 0), (0, 0)]
        finally:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        store = KvStore(folder, budget_bytes=BUDGET)
        assert store.catalogue().garbage == []
        assert store.counters["bad_files"] == 0
    assert size_of(folder) <= BUDGET
