"""Whether an object store answers: one call finds out that it does not, and the others need not."""

from __future__ import annotations

from collections.abc import Callable

from lix_cache.circuit import PlainBreaker
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.daemon import Crew
from lix_cache.errors import ArchiveUnavailable

__all__ = ["MOST_PROBES", "PROBED_EVERY", "WAITED_FOR", "Presence"]

#: Seconds from one probe to the next, while there are calls.
PROBED_EVERY = 3.0
#: So many seconds of a probe's time others wait for it.
WAITED_FOR = 1.0
#: Probes that are under way at once: each hangs for as long as any request.
MOST_PROBES = 10
_LOOK_AGAIN = 0.005


class Presence:
    """Whether an object store answers, as all clients of it in a process know. Safe between threads.

    A request that gets no answer says that the store is away. From then on none is sent, until one gets an
    answer: a probe, in a thread of its own, so that no call waits for longer than a moment. It is sent at
    once, for it may have been the one request that was at fault, such as a large put over a slow line; and
    again when there are calls. It has all the time that a request has: a store that is only slow is there.

    Args:
        probe: asks for something small; whether there was an answer, if only a refusal.
        clock: time.
    """

    def __init__(self, probe: Callable[[], bool], clock: Clock = SYSTEM_CLOCK) -> None:
        self._probe = probe
        self._clock = clock
        #: What was said when there was no answer; empty where there is one.
        self._why = ""
        #: Open: a probe was sent a moment ago.
        self._probed = PlainBreaker(PROBED_EVERY, clock)
        self._waited_until = 0.0
        self._crew = Crew(MOST_PROBES)

    def check(self) -> None:
        """Return if the store may be asked.

        Raises:
            ArchiveUnavailable: it did not answer a moment ago, nor does it now. Nothing was sent.
        """
        if not self._why or not self._is_probed():
            return
        while self._why and self._clock.monotonic() < self._waited_until:
            self._clock.sleep(_LOOK_AGAIN)
        if self._why:
            raise ArchiveUnavailable(
                "nothing was sent: the object store did not answer a moment ago, and is asked again when it "
                f"answers a probe: {self._why}"
            )

    def fails(self, why: str) -> None:
        """Note that a request got no answer."""
        self._why = why
        self._is_probed()

    def answers(self) -> None:
        """Note that a request got an answer."""
        # The probe too where nothing is wrong: one that was sent would keep the next from being sent.
        self._why = ""
        self._probed.reset()

    def _is_probed(self) -> bool:
        """Send a probe if it is time for one; False if the one who calls must find out."""
        if not self._probed.is_open:
            self._waited_until = self._clock.monotonic() + WAITED_FOR
            self._probed.trip()
            try:
                self._crew.start(self._ask, "lix-cache-probe")
            except RuntimeError:
                # No thread is to be had: the interpreter is ending.
                return False
        return True

    def _ask(self) -> None:
        if self._probe():
            self.answers()
