"""``lix-cache archive copy`` of sessions that began anew: what is sent again by its key is there once."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lix_cache import ConversationArchive
from lix_cache.admin import copy_archive
from lix_cache.archive.objects.base import LEASE_SECONDS
from lix_cache.archive.objects.leases import held_at
from lix_cache.errors import ArchiveUnavailable
from lix_cache.storage.files import Files
from lix_cache.storage.objects import FolderBucket
from tests.contract.cold_tier import append, compact, delete, holding, said, turn
from tests.integration.test_archive_copy import EVERY_WAY, Died, same

pytestmark = pytest.mark.promise("no-loss")


@pytest.fixture(params=EVERY_WAY, ids=lambda way: " to ".join("objects" if one else "folder" for one in way))
def any_places(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    old, new = (f"{kind}{tmp_path}/{name}" for kind, name in zip(request.param, ("old", "new"), strict=True))
    return old, new


def again(store: Any, at: int, *numbers: int) -> None:
    """Have messages sent again by their keys, under later ids: those that the store does not know."""
    keys = {number: number.to_bytes(6, "big") for number in numbers}
    with holding(store):
        known = store.find_nonces_locked("s", set(keys.values()))
    fresh = [turn(at + number, f"message {number}", nonce=number) for number in numbers]
    append(store, *[one for one in fresh if one.nonce not in known])


@pytest.mark.parametrize("is_copied_between", [False, True])
@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_message_that_is_sent_again_by_its_key_is_in_the_copy_once(
    any_places: tuple[str, str], how: str, is_copied_between: bool
) -> None:
    old, new = (ConversationArchive(place).store for place in any_places)
    append(old, *(turn(n) for n in range(1, 5)))
    copy_archive(*any_places)
    if how == "deleted":
        delete(old, turn(9).id)
    else:
        with holding(old):
            old.replace_locked("s", [turn(50, "summary", nonce=50)], 10)
        compact(old)
    if is_copied_between:
        # What goes is not known as taken out, or what comes again would be refused for ever.
        copy_archive(*any_places)
    again(old, 100, 1, 3)
    append(old, turn(200, "z"))
    assert said(old.turns("s")) == [*(["summary"] * (how == "replaced")), "message 1", "message 3", "z"]
    assert copy_archive(*any_places).failed == {}
    same(old, new)
    assert ConversationArchive(any_places[1]).load_all("s") == ConversationArchive(any_places[0]).load_all(
        "s"
    )
    assert new.marks("s") == old.marks("s")
    assert copy_archive(*any_places).sessions == 0
    assert append(new, turn(1), from_window=True) == append(new, turn(2), from_window=True) == 0


def test_what_was_taken_out_before_a_deletion_may_come_again_in_the_copy(any_places: tuple[str, str]) -> None:
    old, new = (ConversationArchive(place).store for place in any_places)
    append(old, turn(1))
    with holding(old):
        old.take_out_locked("s", [turn(1)])
    copy_archive(*any_places)
    delete(old, turn(9).id)
    again(old, 100, 1)
    copy_archive(*any_places)
    assert said(new.turns("s")) == said(old.turns("s")) == ["message 1"]
    assert copy_archive(*any_places).sessions == 0


def test_what_the_target_alone_has_outlives_a_deletion_in_the_source(any_places: tuple[str, str]) -> None:
    old, new = (ConversationArchive(place).store for place in any_places)
    append(old, turn(1), turn(2))
    copy_archive(*any_places)
    append(new, turn(300, "of the target"), contested=True)
    append(new, turn(301))
    with holding(new):
        new.take_out_locked("s", [turn(301)])
    delete(old, turn(9).id)
    again(old, 100, 1)
    copy_archive(*any_places)
    assert said(new.turns("s")) == ["message 1", "of the target"]
    assert append(new, turn(301), from_window=True) == 0
    assert set(new.contested("s")) >= {turn(300).nonce, turn(301).nonce}
    assert copy_archive(*any_places).sessions == 0


@pytest.mark.parametrize("seed", range(6))
def test_every_reader_of_a_copy_says_what_its_source_says(
    any_places: tuple[str, str], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was done to the source between copies, some of which die at a write and are repeated."""
    monkeypatch.setattr("lix_cache.archive.objects.base._LEASE_MARGIN", -LEASE_SECONDS)
    rng = random.Random(seed)
    old, new = (ConversationArchive(place).store for place in any_places)
    at = 1000
    done: list[str] = []
    for _ in range(60):
        at += 100
        act = rng.choice(["add", "add", "again", "delete", "replace", "clear", "take out", "compact", "copy"])
        done.append(act)
        if act == "add":
            append(old, turn(at))
        elif act == "again":
            again(old, at, *rng.sample(range(1, 9), 3))
        elif act == "delete":
            delete(old, turn(at).id)
        elif act == "compact":
            compact(old)
        elif act == "copy":
            if rng.random() < 0.5:
                dying_copy(any_places, rng.randrange(1, 6), monkeypatch)
            assert copy_archive(*any_places).failed == {}
            same(old, new)
            assert said(new.recent("s", 3)) == said(old.recent("s", 3)), done
            found = [ConversationArchive(place).load_all("s") for place in any_places]
            assert found[0] == found[1], done
            assert copy_archive(*any_places).messages == 0, done
        else:
            with holding(old):
                turns = old.turns("s")
                if act == "replace":
                    old.replace_locked("s", [turn(0, f"summary {at}", nonce=at)], at)
                elif act == "clear":
                    old.clear_locked("s")
                elif turns:
                    old.take_out_locked("s", [rng.choice(turns)])


def dying_copy(places: tuple[str, str], left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy in a process that dies at a write to the target."""

    def dying(whole: Any, is_there: Any) -> Any:
        def write(one: Any, name: str, *args: Any) -> Any:
            nonlocal left
            left -= is_there(one, name)
            if left == 0 and is_there(one, name):
                raise Died
            if left < 0:
                raise ArchiveUnavailable("dead")
            return whole(one, name, *args)

        return write

    target = places[1].removeprefix("file://")
    with monkeypatch.context() as patched:
        if places[1] == target:
            for name in ("append", "write_synced", "rename"):
                whole = getattr(Files, name)
                patched.setattr(Files, name, dying(whole, lambda _, path: path.startswith(target)))
        else:
            whole = FolderBucket.create
            patched.setattr(
                FolderBucket, "create", dying(whole, lambda bucket, _: bucket.location == places[1])
            )
        with suppress(Died, ArchiveUnavailable):
            copy_archive(*places)
    if places[1] != target:
        held_at(places[1])._holders.clear()
