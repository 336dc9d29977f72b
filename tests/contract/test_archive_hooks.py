"""A hook hears of every change of a session's archive, whichever object of the process makes it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lix_cache import CacheConfig, ConversationArchive, SessionKey, StoreAdmin
from lix_cache.session.evictor import Evictor
from tests.support.lab import Process
from tests.support.sessions import batch
from tests.support.twins import ManualClock, Twins

NAME = SessionKey("acme", "s")

CHANGES: dict[str, Callable[[Any, CacheConfig], Any]] = {
    "flush": lambda cache, config: cache.flush_to_disk(),
    "pop": lambda cache, config: cache.pop_last(),
    "edit": lambda cache, config: cache.edit(cache.get_last(1)[0].id, "edited"),
    "delete a message": lambda cache, config: cache.delete_message(cache.get_last(1)[0].id),
    "replace": lambda cache, config: cache.replace_all(batch("x")),
    "clear": lambda cache, config: cache.clear(),
    "spill": lambda cache, config: Evictor(Process(config).store).run_once(),
    "offload": lambda cache, config: StoreAdmin(config).offload(0),
    "delete": lambda cache, config: cache.delete_session(),
}


class Heard:
    def __init__(self) -> None:
        self.calls: list[frozenset[Any]] = []
        self._bell = threading.Condition()

    def __call__(self, sessions: frozenset[Any]) -> None:
        with self._bell:
            self.calls.append(sessions)
            self._bell.notify_all()

    def wait(self) -> bool:
        with self._bell:
            return self._bell.wait_for(lambda: self.calls, 20)


@pytest.mark.parametrize("change", CHANGES)
def test_a_hook_hears_of_a_change_by_any_object(twins: Twins, redis_config: CacheConfig, change: str) -> None:
    config = redis_config.replace(hot_window_size=2, archive_batch_turns=2)
    cache = twins.make("HybridConversationCache", NAME, config)
    cache.add_messages(batch(*"abcdefgh"))
    archive = ConversationArchive(config.archive_dir)
    if change == "delete":
        cache.flush_to_disk()
    before = archive.stamps()
    heard = Heard()
    stop = archive.on_change(heard)
    try:
        CHANGES[change](cache, config)
        assert heard.wait()
        assert {name for call in heard.calls for name in call} == {NAME}
        assert archive.stamps() != before
    finally:
        stop()


def test_a_hook_hears_of_expiry_and_of_taking_back(redis_config: CacheConfig) -> None:
    then = time.time() - 30 * 86_400
    folder = Path(redis_config.archive_dir)
    ConversationArchive(folder, 14, clock=ManualClock(then)).append_turn(
        NAME, {"role": "user", "content": "old"}
    )
    (file,) = folder.glob("*.huff")
    os.utime(file, (then, then))
    archive = ConversationArchive(folder, 14)
    for step in (archive.cleanup_expired, lambda: archive.restore(NAME)):
        heard = Heard()
        stop = archive.on_change(heard)
        assert step()
        assert heard.wait()
        stop()
        assert heard.calls == [{NAME}]
