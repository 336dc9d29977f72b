"""What follows the archive: hooks that hear of every change after it is durable.

A hook is told in a thread of its own, some time after the change: whatever it does, a message is stored
and a session's lock is let go without it. So it may be late, a process may end before it was told,
and it hears of its own process alone. What it missed it finds by the stamps (:class:`SessionStamp`): it
keeps the stamp of each session beside what it made of it, takes the stamp before it reads the session,
and compares. That costs one listing, and no clock has a say in it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, TypeAlias

from lix_cache._log import logger
from lix_cache.daemon import Bell, Crew
from lix_cache.errors import told

__all__ = ["ChangeHook", "Changes", "SessionStamp", "changes_of"]

#: Sessions whose changes wait for the hooks. Beyond it the hooks are told to compare the stamps.
MOST_WAITING = 10_000

#: Called with the ids of sessions that have changed, each once however often; empty where more have
#: changed than could be remembered. What changed is in the archive.
ChangeHook: TypeAlias = Callable[[frozenset[str]], None]


class SessionStamp(NamedTuple):
    """What a session's archive looked like at a moment, in a word.

    Attributes:
        session_id: the session.
        stamp: equal as long as nothing was appended, cleared, compacted, deleted or restored.
    """

    session_id: str
    stamp: str


class Changes:
    """The changes of one archive in this process, and the hooks that follow them.

    Attributes:
        counters: ``hook_calls``, ``hook_failures`` and ``hook_overflows``.
    """

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        #: The last failure of a hook, in words.
        self.last_error: str | None = None
        self._hooks: tuple[ChangeHook, ...] = ()
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        # Added to and taken from in single steps, which neither threads nor signals come between.
        self._waiting: dict[str, None] = {}
        self._overflowed = False
        self._bell, self._idle = Bell(), Bell()
        self._idle.set()
        self._crew = Crew(1)

    def follow(self, hook: ChangeHook) -> Callable[[], None]:
        """Have a hook told of changes from now on. Returns what ends that.

        Args:
            hook: is called in a thread, one call at a time; an error of it is counted and logged.
        """
        self._hooks = (*self._hooks, hook)

        def unfollow() -> None:
            self._hooks = tuple(one for one in self._hooks if one is not hook)

        return unfollow

    def note(self, session_id: str) -> None:
        """Note that a session has changed, durably. Never raises and never waits for a hook."""
        if not self._hooks:
            return
        if self._pid != os.getpid():
            # The thread did not come along with a fork.
            self._begin()
        if len(self._waiting) >= MOST_WAITING:
            self._overflowed = True
            self._waiting.clear()
            self.counters.update(("hook_overflows",))
        self._waiting[session_id] = None
        self._idle.clear()
        self._bell.set()
        if not len(self._crew):
            try:
                self._crew.start(self._run, "lix-cache-archive-hooks")
            except RuntimeError as error:
                # No thread is to be had, or the interpreter ends: the next change tries again.
                self._failed(error)

    def wait(self, timeout: float) -> bool:
        """Wait until the hooks have heard of all that has changed; False if it took longer."""
        return not self._hooks or self._idle.wait(timeout)

    def _run(self) -> None:
        bell, waiting = self._bell, self._waiting
        while True:
            bell.wait()
            bell.clear()
            while waiting or self._overflowed:
                missed, self._overflowed = self._overflowed, False
                changed = set[str]()
                with suppress(KeyError):  # it is empty
                    while True:
                        changed.add(waiting.popitem()[0])
                self._tell(frozenset() if missed else frozenset(changed))
            self._idle.set()
            if waiting:
                self._idle.clear()

    def _tell(self, changed: frozenset[str]) -> None:
        for hook in self._hooks:
            self.counters.update(("hook_calls",))
            try:
                hook(changed)
            except BaseException as error:  # noqa: BLE001 - a hook is not ours, and must not end the thread
                self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self.counters.update(("hook_failures",))
        self.last_error = told(error)
        # Without the traceback: a sink may show its variables, and with them messages.
        logger.warning("a hook of the archive failed: {}", self.last_error)


_changes: dict[str, Changes] = {}


def changes_of(location: str) -> Changes:
    """Return the changes of an archive in this process, however many objects look at it."""
    return _changes.setdefault(location, Changes())
