"""Responses get their vectors behind the callers' backs, some at a time.

A store answers as soon as Redis has the response. Its text waits here for a thread that embeds what
has come together, and the vector goes to Redis with the next request to the scope, so that it costs
neither time of a caller nor a round trip. A response whose vector is lost on the way (the process
ended, the embedder failed, too many waited) is compared by equality, which costs hits and no answer.
"""

from __future__ import annotations

import atexit
import os
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lix_cache.compat.ring import unit_vector
from lix_cache.daemon import Bell, launch
from lix_cache.values.streamed import Streamed

if TYPE_CHECKING:
    from lix_cache.embedders.protocol import Embedder
    from lix_cache.vectors import FloatArray

__all__ = ["Meanings", "text_of"]

#: Characters of a response that are embedded. Models read less than that.
_READ = 2_000
#: Words from which on a text may be a paraphrase of an answer. A label, a number or a name is the answer.
_LEAST_WORDS = 4
_LEAST_LETTERS = 12
_SOME = 16
_MOST = 1024
#: Seconds without work after which the thread ends.
_IDLE = 5.0
#: Seconds between two looks of who waits for all of them.
_LOOK_AGAIN = 0.002
_SIGN = re.compile(r"[^\w\s.,;:!?'’\"()\-–—…*#`$€£¥%]|_")
_STATEMENT = re.compile(
    r"\s*(?:[{\[<]|(?:select|with|insert|update|delete|create|alter|drop)\b[^.?!]*\b(?:from|as|into|set|table)\b)",
    re.IGNORECASE,
)
_NOT_ASCII = re.compile(r"[^\W\d_\x00-\x7f]")


def text_of(response: Any) -> str | None:
    """Return the text of a response whose meaning can be compared; None where only equality tells.

    Prose can say one thing in many ways. What is short, or is code or data, says another thing when
    it differs.
    """
    if isinstance(response, Streamed):
        response = response.body
    if not isinstance(response, str):
        return None
    text = response[:_READ]
    if len(text.split()) < _LEAST_WORDS and len(_NOT_ASCII.findall(text)) < _LEAST_LETTERS:
        return None
    if _STATEMENT.match(text) or len(_SIGN.findall(text)) > 0.04 * len(text):
        return None
    return text


@dataclass(frozen=True)
class _Wanted:
    text: str
    then: Callable[[FloatArray], None]
    trouble: Callable[[BaseException], None]


class Meanings:
    """Texts to embed, and the thread that does it. Safe between threads.

    Args:
        embedder: of the caches that share it.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.renew()
        _all.add(self)

    def renew(self) -> None:
        """Begin anew, as in a forked child: the parent embeds its own."""
        self._lock = threading.Lock()
        self._bell = Bell()
        self._waiting: deque[_Wanted] = deque(maxlen=_MOST)  # those that waited longest are given up
        self._busy = False
        self._ends = False
        self._thread: threading.Thread | None = None

    def add(
        self, text: str, then: Callable[[FloatArray], None], trouble: Callable[[BaseException], None]
    ) -> None:
        """Embed a text some time, and hand its vector on, in the thread.

        Without a thread it waits for the next one: the response is stored, whatever comes of its vector.

        Args:
            text: of a response.
            then: takes the vector.
            trouble: told of what went wrong instead.
        """
        refused: RuntimeError | None = None
        # Not a Condition, which is entered and left in Python: an exception out of a signal handler
        # in there leaves it taken for ever.
        with self._lock:
            if self._ends:
                return
            self._waiting.append(_Wanted(text, then, trouble))
            self._bell.set()
            if not self._is_alive():
                self._thread = threading.Thread(target=self._run, name="lix-cache-meanings", daemon=True)
                try:
                    launch(self._thread)
                except RuntimeError as error:
                    self._thread, refused = None, error
        if refused is not None:
            trouble(refused)

    def _is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until nothing is waiting; False if it took longer."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                if not self._busy and (not self._waiting or not self._is_alive()):
                    return not self._waiting
            if until is not None and time.monotonic() > until:
                return False
            time.sleep(_LOOK_AGAIN)

    def stop(self, timeout: float = 2.0) -> None:
        """Give up what waits, and wait for what is at work."""
        with self._lock:
            self._ends = True
            self._waiting.clear()
            thread = self._thread
        self._bell.set()
        # One whose start was interrupted has no number.
        if thread is not None and thread.ident is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        while True:
            self._bell.wait(_IDLE)
            with self._lock:
                # Before the look: what is added after it rings again.
                self._bell.clear()
                if not self._waiting:
                    self._thread = None
                    return
                some = [self._waiting.popleft() for _ in range(min(_SOME, len(self._waiting)))]
                self._busy = True
            try:
                self._embed(some)
            finally:
                self._busy = False
                if self._waiting:
                    self._bell.set()

    def _embed(self, some: list[_Wanted]) -> None:
        try:
            vectors = self._embedder.embed([wanted.text for wanted in some])
            for wanted, vector in zip(some, vectors, strict=True):
                wanted.then(unit_vector(vector, "what the embedder made"))
        except Exception as error:  # noqa: BLE001  an embedder may raise anything; the thread goes on
            # A cache that gave several of these texts is told once.
            for trouble in {wanted.trouble: None for wanted in some}:
                trouble(error)


_all: weakref.WeakSet[Meanings] = weakref.WeakSet()


def _stop_all() -> None:
    # A thread in the middle of native code when the interpreter goes down can take the process with it.
    for one in list(_all):
        one.stop()


def _after_fork_in_child() -> None:
    for one in list(_all):
        one.renew()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
