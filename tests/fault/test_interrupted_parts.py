"""The parts that sync calls are made of: an exception out of a signal handler leaves each of them usable.

Where a lock is taken by a ``with``, no signal is handled between its end and the lock's (CPython looks for
signals at calls and jumps alone), but a tracer can raise there. So those places are left out here, as
the lines are on which nothing is done (tests/support/interrupts.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lix_cache import SemanticCache, compute
from lix_cache.config import CacheConfig
from lix_cache.daemon import Bell, Crew, Promise
from lix_cache.drivers import aio, threads
from lix_cache.effects import Compute, Flow
from lix_cache.embedders import running
from lix_cache.errors import EmbedderUnavailable
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.semantic.calls_in_flight import alanded
from lix_cache.semantic.single_flight import ABANDONED, Flight, Flights
from lix_cache.storage import parallel
from lix_cache.storage.files import Files, Write
from lix_cache.storage.locks import file_lock
from lix_cache.storage.parallel import side_by_side
from tests.support.forks import Child, Report
from tests.support.interrupts import Interrupt, interrupt_at, lines_of, under_signals

pytestmark = pytest.mark.promise("no-stall")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def each_interruption(call: Callable[[], Any], after: Callable[[], None], least: int = 4) -> None:
    """Make a call as often as it has lines, interrupt it at each, and look afterwards."""
    call()
    interrupted = 0
    for step in range(1, lines_of(call) + 1):
        error = interrupt_at(call, step)  # kept: what is in its frames must not be needed
        interrupted += error is not None
        after()
    assert interrupted >= least


# -- syncs side by side -----------------------------------------------------------------------


def test_no_helper_is_at_work_when_syncs_side_by_side_were_interrupted() -> None:
    working: list[int] = []
    busy: list[int] = []

    def sync() -> None:
        busy.append(1)
        time.sleep(0.002)
        busy.pop()
        working.append(1)

    def after() -> None:
        assert busy == []
        so_far = len(working)
        time.sleep(0.004)
        assert (busy, len(working)) == ([], so_far)

    each_interruption(lambda: side_by_side([sync] * 6, 3), after, 10)


def test_a_helper_whose_start_is_interrupted_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    begun = threading.Event()

    def sync() -> None:
        begun.set()
        time.sleep(0.05)
        ended.append(1)

    started = parallel._started

    def interrupted(work: Callable[[], None]) -> bool:
        started(work)
        assert begun.wait(20)
        raise Interrupt

    monkeypatch.setattr(parallel, "_started", interrupted)
    with pytest.raises(Interrupt):
        side_by_side([sync] * 4, 3)
    assert ended == [1]


def test_an_interrupted_sync_leaves_no_descriptor_open(tmp_path: Path) -> None:
    files = Files()
    folder = str(tmp_path)
    writes = [Write(str(tmp_path / str(number)), None, b"x") for number in range(3)]
    interrupted = 0
    for call in (partial(files.sync_folder, folder), partial(files.write_many, writes)):
        call()
        before = descriptors()
        for step in range(1, lines_of(call) + 1):
            interrupted += interrupt_at(call, step) is not None
            if descriptors() != before:
                gc.collect()
            assert descriptors() == before, step
    assert interrupted > 20


def test_a_lock_of_a_private_server_closes_itself(tmp_path: Path) -> None:
    import fcntl

    path = str(tmp_path / "lock")

    def use() -> None:
        lock = file_lock(path)
        try:
            assert lock.try_lock(fcntl.LOCK_EX)
        finally:
            lock.release()

    use()
    before = descriptors()

    def after() -> None:
        # Dropped with the frames of the error, which each_interruption keeps one step long.
        if descriptors() != before:
            gc.collect()
        assert descriptors() <= before + 1

    each_interruption(use, after)
    other = file_lock(path)
    assert other.try_lock(fcntl.LOCK_EX)
    other.release()


# -- threads ------------------------------------------------------------------------------------


def test_calls_that_compute_find_a_thread_after_any_interruption() -> None:
    pool = compute._Pool()
    gate = threading.Event()
    gate.set()

    def after() -> None:
        assert pool.submit(lambda: 5).result(20) == 5

    each_interruption(lambda: pool.submit(gate.wait), after, 8)
    # None of them has taken up a thread that others would lack: as many as there may be hang at once.
    gate.clear()
    futures = [pool.submit(lambda: gate.wait(20)) for _ in range(compute.MOST_THREADS)]
    deadline = time.monotonic() + 60
    while sum(future.running() for future in futures) < compute.MOST_THREADS:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    gate.set()
    assert all(future.result(20) for future in futures)


def test_a_crew_has_all_its_places_after_any_interruption() -> None:
    crew, gate = Crew(3), threading.Event()
    gate.set()

    def after() -> None:
        deadline = time.monotonic() + 60
        while len(crew):
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        gate.clear()
        assert [crew.start(partial(gate.wait, 20), "t") for _ in range(4)] == [True, True, True, False]
        gate.set()
        while len(crew):
            assert time.monotonic() < deadline
            time.sleep(0.0005)

    each_interruption(lambda: crew.start(partial(gate.wait, 20), "t"), after)


def test_a_thread_that_was_refused_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew(1)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            with pytest.raises(RuntimeError):
                crew.start(lambda: None, "t")
    assert crew.start(lambda: None, "t")


def test_a_forked_child_without_a_free_thread_has_usable_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if os.getpid() != parent:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    cleaners = [SemanticCache(None, CacheConfig())._cleaner for _ in range(3)]
    for cleaner in cleaners:
        cleaner.start(3600)

    def child(report: Report) -> None:
        report("f", sum(cleaner._lock.acquire(timeout=1) for cleaner in cleaners))
        report("e", sum(cleaner.join(1) for cleaner in cleaners))

    with contextlib.ExitStack() as held:
        for cleaner in cleaners:
            held.enter_context(cleaner._lock)
        with Child(child) as process:
            assert process.wait() == 0
            assert process.records() == [("f", 3), ("e", 3)]
    for cleaner in cleaners:
        cleaner.stop()


# -- flights ------------------------------------------------------------------------------------


def test_a_flight_ends_however_who_leads_it_was_interrupted() -> None:
    flights = Flights()
    waiting: list[Promise[Any]] = []

    def fly() -> None:
        flight = flights.join("key")
        assert isinstance(flight, Flight)
        future = flights.join("key")
        assert isinstance(future, Promise)
        waiting.append(future)
        flights.land(flight, 7)

    fly()
    for step in range(1, lines_of(fly) + 1):
        waiting.clear()
        error = interrupt_at(fly, step)
        if error is not None:
            error.__traceback__ = None  # who was interrupted is gone, and its frames
        del error
        for future in waiting:
            assert future.wait(20)
            assert future.result(0) in (7, ABANDONED)
        flight = flights.join("key")
        assert isinstance(flight, Flight)
        flights.land(flight, ABANDONED)


def test_one_who_waits_looks_again_where_it_was_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    promise: Promise[int] = Promise()
    # What sets it is interrupted after the result is there.
    monkeypatch.setattr(promise, "_invoke_callbacks", lambda: None)
    waiter = threading.Timer(0.05, promise.set_result, (7,))
    waiter.start()
    assert promise.wait(20)
    assert promise.result(0) == 7
    assert not Promise[int]().wait(0.01)


def test_one_who_awaits_looks_again_where_it_was_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    flown, computed, asked = Promise[int](), Promise[int](), Promise[int]()

    def tell_no_one() -> None:
        for promise in (flown, computed, asked):
            promise.set_result(7)

    for promise in (flown, computed, asked):
        monkeypatch.setattr(promise, "_invoke_callbacks", lambda: None)
    monkeypatch.setattr(threads, "submit", lambda *_, **__: computed)
    monkeypatch.setattr(running, "_start", lambda *_: asked)

    def computing() -> Flow[int]:
        return (yield Compute(lambda: 0, 20, "it"))

    async def main() -> list[Any]:
        endpoint = endpoint_for(CacheConfig().redis, 0)
        waits = asyncio.gather(
            alanded(flown, 20),
            aio.AsyncDriver(endpoint)(computing()),
            running.acall_within(lambda: 0, 20, "it", EmbedderUnavailable),
        )
        await asyncio.sleep(0.01)
        tell_no_one()
        assert not await Promise[int]().wait_async(0.01)
        return await waits

    assert asyncio.run(main()) == [7, 7, 7]


def test_a_bell_rings_after_any_interruption() -> None:
    bell = Bell()

    def ring() -> None:
        bell.set()
        bell.clear()

    def after() -> None:
        bell.set()
        assert bell.wait(0)
        bell.clear()
        assert not bell.is_set()

    each_interruption(ring, after, 3)


# -- real signals ---------------------------------------------------------------------------------

WORKER = """
import random, signal, sys, threading, time
from lix_cache.storage.parallel import side_by_side
from lix_cache.compute import submit
from lix_cache.daemon import Crew, Promise
from lix_cache.semantic.single_flight import Flight, Flights

class Soft(Exception):
    pass

def fire(*_):
    raise Soft

random.seed(int(sys.argv[1]))
signal.signal(signal.SIGALRM, fire)
flights, crew, shared = Flights(), Crew(4), [Promise()]
busy = []

def sync():
    if threading.current_thread() is threading.main_thread():
        return
    busy.append(1)
    time.sleep(0.0001)
    busy.pop()

def fly():
    flight = flights.join("key")
    if isinstance(flight, Flight):
        flights.land(flight, 1)
    else:
        flight.wait(5)

def others():
    while not ended.is_set():
        fly()
        shared[0].done()
        time.sleep(0.0002)

ended = threading.Event()
helpers = [threading.Thread(target=others, daemon=True) for _ in range(2)]
for helper in helpers:
    helper.start()

def promise():
    shared[0] = Promise()
    shared[0].set_result(1)
    shared[0].done()

acts = [fly, promise, lambda: submit(lambda: 1).wait(5), lambda: side_by_side([sync] * 4, 2),
        lambda: crew.start(lambda: None, "t")]
interrupted = 0
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00002, 0.0008))
        try:
            for _ in range(300):  # it may come inside __del__, and go nowhere
                random.choice(acts)()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Soft:
        interrupted += 1
    assert busy == [], busy
ended.set()
for helper in helpers:
    helper.join(20)
    assert not helper.is_alive(), "a thread waits for ever"
assert submit(lambda: 7).result(20) == 7
deadline = time.monotonic() + 60
while len(crew) and time.monotonic() < deadline:
    time.sleep(0.01)
assert len(crew) == 0
print(interrupted)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_real_signals_leave_no_thread_waiting(seed: int) -> None:
    assert int(under_signals(WORKER, str(seed), "4")) > 100
