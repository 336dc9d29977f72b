"""A writer of the failover drill: adds one message after the other, and notes what was acknowledged.

Started with a file that says what it is; takes ``begin`` and ``end`` as lines (``_chaos_process.py``).
At the end, when all is well again, it writes down what ``get_stats`` reports.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from _chaos_log import Log, message_text

from lix_cache import CacheConfig, HybridConversationCache, LixCacheError

#: One read comes after so many adds.
_READ_EVERY = 8
#: Seconds that a machine which many share may take until a session's lock is free.
_PATIENCE = 30.0


class Writer:
    """One process with one thread.

    Args:
        spec: its name, sessions, configuration, seed, pace and files.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec, self.name = spec, spec["name"]
        config = CacheConfig(**spec["config"])
        self.caches = {name: HybridConversationCache(name, config) for name in spec["sessions"]}
        self.log = Log(spec["log"], synced=False)
        self.begun, self.ending = threading.Event(), threading.Event()
        self.failed: Counter[str] = Counter()
        self.longest: list[float] = []
        self.calls = 0

    def listen(self) -> None:
        for line in sys.stdin:
            {"begin": self.begun, "end": self.ending}[json.loads(line)["do"]].set()
        # Its owner is gone.
        os._exit(3)

    def run(self) -> None:
        threading.Thread(target=self.listen, daemon=True).start()
        print("ready", flush=True)
        self.begun.wait()
        dice, number, sessions = random.Random(self.spec["seed"]), 0, self.spec["sessions"]
        while not self.ending.is_set():
            session = dice.choice(sessions)
            self.add(session, number)
            number += 1
            if number % _READ_EVERY == 0:
                self.timed(self.caches[session].get_context)
            time.sleep(self.spec["pace"])
        self.report()

    def add(self, session: str, number: int) -> None:
        cache, text = self.caches[session], message_text(session, self.name, number)
        began, ended, is_done = self.timed(lambda: cache.add_message("user", text))
        if is_done:
            words = {"session": session, "writer": self.name, "number": number}
            self.log.write("add", **words, began=began, ended=ended)

    def timed(self, call: Any) -> tuple[float, float, bool]:
        began, is_done = time.monotonic(), True
        try:
            call()
        except LixCacheError as error:
            self.failed[type(error).__name__] += 1
            is_done = False
        except Exception as error:
            is_done = False
            self.log.write("trouble", kind="error", detail=f"{self.name}: {error!r}"[:300])
            traceback.print_exc()
        ended = time.monotonic()
        self.calls += 1
        self.longest = sorted([*self.longest, ended - began])[-5:]
        return began, ended, is_done

    def report(self) -> None:
        counters: Counter[str] = Counter()
        for cache in self.caches.values():
            stats = cache.get_stats()
            end = time.monotonic() + _PATIENCE
            # A daemon that has the session's lock puts off the counting to the next use.
            while cache._session.seen.doubted is not None and time.monotonic() < end:
                time.sleep(0.05)
                stats = cache.get_stats()
            # Each object counts for itself; the one whose store the daemon shares has its counts too.
            counters.update({name: n for name, n in stats["counters"].items() if isinstance(n, int)})
        found = {
            "counters": counters,
            "failed": self.failed,
            "longest": self.longest,
            "calls": self.calls,
        }
        Path(self.spec["result"]).write_text(json.dumps(found))


if __name__ == "__main__":
    Writer(json.loads(Path(sys.argv[1]).read_text())).run()
