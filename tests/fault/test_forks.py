"""A process that forks while its other threads are anywhere: the child waits for none of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lix_cache._cached_property import cached_property
from lix_cache.config import CacheConfig

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.promise("no-stall")

SCRIPT = """
import faulthandler, functools, os, sys, threading, traceback, warnings, weakref

warnings.simplefilter("ignore", DeprecationWarning)
made = []
real = {"Lock": threading.Lock, "RLock": threading.RLock}


class Traced:
    '''A lock that says where it was made. Not one that the standard library takes at a fork.'''

    def __init__(self, kind):
        self._lock = real[kind]()
        stack = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()[:-2]]
        self.site = next(at for at in reversed(stack) if "/functools.py:" not in at)
        if "/lix_cache/" in self.site or "/redis/" in self.site:
            made.append(weakref.ref(self))

    def __getattr__(self, name):
        return getattr(self._lock, name)

    def __enter__(self):
        return self._lock.__enter__()

    def __exit__(self, *error):
        self._lock.release()


threading.Lock = lambda: Traced("Lock")
threading.RLock = functools.RLock = lambda: Traced("RLock")

from lix_cache import (
    CacheConfig, CacheCoordinator, ConversationArchive, HashingEmbedder, HybridConversationCache,
    SemanticCache,
)

config = CacheConfig(**WHERE, redis_key_prefix=PREFIX, archive_dir=FOLDER)
embedder = HashingEmbedder()


def work(name):
    cache = HybridConversationCache(name, config)
    cache.add_message("user", "hello")
    cache.get_context()
    cache.flush_to_disk()
    assert cache.get_full()
    semantic = SemanticCache(embedder, config)
    semantic.store("Who are you?", "a library")
    assert semantic.lookup("Who are you?").is_hit
    semantic.lookup("Where is my order?")
    both = CacheCoordinator(name, config, embedder=embedder)
    both.add_message_to_context("user", "again")
    both.cache_url_embedding("https://example.org", [0.5, 0.5])
    assert both.get_url_embedding("https://example.org") is not None
    assert ConversationArchive(FOLDER).load_all(name)
    cache.clear()


work("a")
work("b")
alive = [lock for lock in (ref() for ref in made) if lock is not None]
assert len(alive) > 15, len(alive)
waiting = []
for lock in alive:
    is_held, done = threading.Event(), threading.Event()

    def hold(lock=lock):
        with lock:
            is_held.set()
            done.wait()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert is_held.wait(20), lock.site
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(5, exit=True)
        try:
            work("c")
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        waiting.append(lock.site)
    done.set()
    thread.join()
print("waits for the locks of", waiting)
sys.stdout.flush()
os._exit(bool(waiting))
"""


@pytest.mark.slow
def test_a_forked_child_waits_for_no_lock_that_a_thread_of_its_parent_held(
    redis_config: CacheConfig, tmp_path: Path
) -> None:
    where = {name: getattr(redis_config, name) for name in ("redis_url", "redis_host", "redis_port")}
    values = {"WHERE": where, "PREFIX": redis_config.redis_key_prefix, "FOLDER": str(tmp_path)}
    head = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    done = subprocess.run(
        [sys.executable, "-c", head + SCRIPT],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


class Squares:
    def __init__(self) -> None:
        self.worked_out = 0

    @cached_property
    def first(self) -> list[int]:
        """One."""
        self.worked_out += 1
        return [1]


def test_a_cached_property_is_worked_out_once_for_each_object() -> None:
    one, other = Squares(), Squares()
    assert one.first is one.first
    assert one.first is not other.first
    assert (one.worked_out, other.worked_out) == (1, 1)
    assert Squares.first.__doc__ == "One."


def test_of_two_threads_that_work_it_out_both_get_the_first_one() -> None:
    class Slow:
        @cached_property
        def value(self) -> list[str]:
            # Another thread comes while this one is at it, and is done before.
            self.__dict__.setdefault("value", ["first"])
            return ["second"]

    assert Slow().value == ["first"]
