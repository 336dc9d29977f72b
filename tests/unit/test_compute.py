"""Calls that compute: where they run, when they are given up, and what they leave behind."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lix_cache import compute
from lix_cache.config import CacheConfig
from lix_cache.drivers.aio import AsyncDriver
from lix_cache.drivers.sync import SyncDriver
from lix_cache.effects import Compute, Flow
from lix_cache.errors import ComputeTimeout
from lix_cache.hot.endpoint import endpoint_for
from tests.support.forks import Child, Report
from tests.support.interrupts import interrupt_at, lines_of

pytestmark = pytest.mark.promise("no-stall")

ROOT = Path(__file__).resolve().parents[2]
ENDPOINT = endpoint_for(CacheConfig().redis, 0)


def one(effect: Compute) -> Flow[Any]:
    return (yield effect)


def run(variant: str, effect: Compute) -> Any:
    if variant == "sync":
        return SyncDriver(ENDPOINT)(one(effect))

    async def main() -> Any:
        return await AsyncDriver(ENDPOINT)(one(effect))

    return asyncio.run(main())


VARIANTS = pytest.mark.parametrize("variant", ["sync", "async"])
DEADLINES = pytest.mark.parametrize("seconds", [None, 30.0])


@VARIANTS
@DEADLINES
def test_the_result_comes_back(variant: str, seconds: float | None) -> None:
    assert run(variant, Compute(lambda: 7, seconds)) == 7


@VARIANTS
@DEADLINES
def test_a_failure_comes_back_as_it_was(variant: str, seconds: float | None) -> None:
    def fail() -> None:
        raise LookupError("no model")

    with pytest.raises(LookupError, match="no model"):
        run(variant, Compute(fail, seconds))


def test_without_a_deadline_the_sync_variants_computes_in_the_calling_thread() -> None:
    assert run("sync", Compute(threading.current_thread)) is threading.current_thread()
    assert run("sync", Compute(threading.current_thread, 30)) is not threading.current_thread()


@DEADLINES
def test_the_async_variants_never_computes_in_the_loops_thread(seconds: float | None) -> None:
    assert run("async", Compute(threading.current_thread, seconds)) is not threading.current_thread()


@VARIANTS
def test_at_the_deadline_the_flow_goes_on(variant: str) -> None:
    gate = threading.Event()
    with pytest.raises(ComputeTimeout, match=r"the embedder did not answer within 0\.05 s") as caught:
        run(variant, Compute(lambda: gate.wait(60), 0.05, "the embedder"))
    assert not gate.is_set()  # the call is still at work
    assert isinstance(caught.value, TimeoutError)
    gate.set()


@VARIANTS
def test_a_timeout_of_the_calls_own_is_told_from_the_deadline(variant: str) -> None:
    def fail() -> None:
        raise TimeoutError("the model's own")

    with pytest.raises(TimeoutError, match="the model's own") as caught:
        run(variant, Compute(fail, 30))
    assert not isinstance(caught.value, ComputeTimeout)


@VARIANTS
def test_stop_iteration_is_an_error_like_any_other(variant: str) -> None:
    def stop() -> None:
        raise StopIteration

    with pytest.raises(RuntimeError):
        run(variant, Compute(stop, 30))


@VARIANTS
def test_the_callers_context_variables_are_there(variant: str) -> None:
    trace: contextvars.ContextVar[str] = contextvars.ContextVar("trace")
    trace.set("abc")
    assert run(variant, Compute(trace.get, 30)) == "abc"


def test_the_loop_goes_on_while_a_call_computes() -> None:
    gate = threading.Event()

    async def main() -> list[str]:
        seen: list[str] = []

        async def computing() -> None:
            await AsyncDriver(ENDPOINT)(one(Compute(lambda: gate.wait(60))))
            seen.append("computed")

        task = asyncio.create_task(computing())
        await asyncio.sleep(0.01)
        seen.append("meanwhile")
        gate.set()
        await task
        return seen

    assert asyncio.run(main()) == ["meanwhile", "computed"]


def test_a_cancelled_wait_does_not_wait_for_the_call() -> None:
    gate = threading.Event()

    async def main() -> None:
        task = asyncio.create_task(AsyncDriver(ENDPOINT)(one(Compute(lambda: gate.wait(60)))))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not gate.is_set()  # the call is still at work

    asyncio.run(main())
    gate.set()


def test_a_call_that_ends_after_its_loop_harms_none() -> None:
    gate, ended = threading.Event(), threading.Event()

    def call() -> None:
        gate.wait(60)
        ended.set()

    with pytest.raises(ComputeTimeout):
        run("async", Compute(call, 0.01))
    gate.set()
    assert ended.wait(30)
    assert run("async", Compute(lambda: 1, 30)) == 1


def test_hung_calls_take_a_bounded_number_of_threads_and_those_behind_them_give_up() -> None:
    pool, gate = compute._Pool(), threading.Event()
    before = threading.active_count()
    futures = [pool.submit(lambda: gate.wait(60)) for _ in range(compute.MOST_THREADS + 20)]
    assert threading.active_count() - before == compute.MOST_THREADS
    ran: list[int] = []
    late = pool.submit(lambda: ran.append(1))
    assert late.cancel()
    gate.set()
    for future in futures:
        assert future.result(30)
    assert pool.submit(lambda: 5).result(30) == 5
    assert ran == []


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@VARIANTS
def test_a_call_that_no_thread_can_be_had_for_is_given_up(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    pool = compute._Pool()
    monkeypatch.setattr(compute, "_pools", {True: pool, False: pool})
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            with pytest.raises(ComputeTimeout, match="no thread"):
                run(variant, Compute(lambda: ran.append(1), 30, may_hang=True))
    assert not pool._open
    assert pool._jobs.empty()
    assert run(variant, Compute(lambda: 7, 30, may_hang=True)) == 7
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        # There is a thread, which takes what waits.
        assert run(variant, Compute(lambda: 8, 30, may_hang=True)) == 8
    assert ran == []


def test_a_thread_that_is_idle_is_used_again() -> None:
    pool = compute._Pool()
    names = set()
    for _ in range(50):
        names.add(pool.submit(lambda: threading.current_thread().name).result(30))
        if pool._open:
            time.sleep(0.001)
    assert len(names) < 25


def test_a_hung_call_does_not_keep_the_interpreter_from_ending() -> None:
    source = (
        "import threading\n"
        "from lix_cache.compute import submit\n"
        "started = threading.Event()\n"
        "submit(lambda: (started.set(), threading.Event().wait()))\n"
        "started.wait(30)\n"
        "print('end')"
    )
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "end\n"


def test_a_forked_child_has_threads_of_its_own() -> None:
    assert compute.submit(lambda: 1).result(30) == 1

    def work(report: Report) -> None:
        report("r", compute.submit(lambda: 2).result(30))

    with Child(work) as child:
        assert child.records() == [("r", 2)]
        assert child.wait() == 0


# -- whose error it was ---------------------------------------------------------------------


class _Soft(Exception):
    """What a signal handler raises."""


@VARIANTS
@DEADLINES
def test_an_error_of_foreign_code_says_that_it_is_its_own(variant: str, seconds: float | None) -> None:
    def fail() -> None:
        raise LookupError("no model")

    with pytest.raises(compute.Failed) as caught:
        run(variant, Compute(fail, seconds, may_hang=True))
    assert isinstance(caught.value.error, LookupError)


@DEADLINES
@pytest.mark.promise("no-loss")
def test_an_exception_out_of_a_signal_handler_is_no_error_of_foreign_code(seconds: float | None) -> None:
    gate = threading.Event()

    def fire(*_: object) -> None:
        raise _Soft

    before = signal.signal(signal.SIGUSR1, fire)
    main = threading.get_ident()

    def call() -> None:
        time.sleep(0.3)  # until its caller waits: a signal that comes just before is heard at the end
        signal.pthread_kill(main, signal.SIGUSR1)
        gate.wait(60)

    try:
        with pytest.raises(_Soft):
            run("sync", Compute(call, seconds, may_hang=True))
    finally:
        gate.set()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("fails", [False, True])
def test_an_exception_that_comes_once_comes_out(at: int, fails: bool) -> None:
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        if len(calls) == at + 1:
            raise _Soft
        if fails:
            raise KeyError
        return "done"

    if at == 1 and not fails:
        assert compute.settled(call) == "done"
        return
    with pytest.raises(_Soft):
        compute.settled(call)


def test_an_error_that_comes_twice_is_the_calls_own() -> None:
    def call() -> None:
        raise KeyError("x")

    with pytest.raises(compute.Failed) as caught:
        compute.settled(call)
    assert isinstance(caught.value.error, KeyError)


def test_calls_that_were_interrupted_while_they_began_take_no_thread_from_others() -> None:
    pool, gate = compute._Pool(), threading.Event()
    lines = lines_of(lambda: pool.submit(lambda: None))
    for _ in range(compute.MOST_THREADS + 1):
        for step in range(1, lines + 1):
            interrupt_at(lambda: pool.submit(lambda: None), step)
    try:
        blocked = [pool.submit(lambda: gate.wait(60)) for _ in range(compute.MOST_THREADS // 2)]
        assert pool.submit(lambda: 7).result(30) == 7
    finally:
        gate.set()
    assert all(future.result(30) for future in blocked)
