"""The two drivers: what they do with each effect, and that they do the same."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from lix_cache.config import CacheConfig
from lix_cache.drivers.aio import AsyncDriver
from lix_cache.drivers.sync import SyncDriver
from lix_cache.drivers.threads import in_disk_thread
from lix_cache.effects import DiskCall, Effect, Flow, LockCall, RedisBatch, RedisCall, Sleep
from lix_cache.errors import RedisAuthError, RedisCommandError, RedisUnavailable
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.scripts import Script, ScriptCall
from lix_cache.storage.files import Files
from lix_cache.storage.locks import FileLock
from tests.support import CountingProxy, RedisServer
from tests.support.redis_server import free_port
from tests.support.twins import ManualClock, Twins, close_connections

ROOT = Path(__file__).resolve().parents[2]
Drive = Callable[..., Any]
#: Seconds after which a call that is not released ends by itself, so that a failure has an end too.
LONG = 30


def script(source: str) -> Script:
    """Return a script that has no file."""
    made = Script("of a test")
    vars(made)["source"] = source
    return made


#: Scripts that no other test uses, so that only these tests decide whether the server knows them.
APPEND = script("return redis.call('RPUSH', KEYS[1], ARGV[1])")
LENGTH = script("return redis.call('LLEN', KEYS[1]) + 0")


@pytest.fixture
def drive(twins: Twins, redis_config: CacheConfig) -> Drive:
    """Run a flow in either variant."""
    return driver_of(twins, redis_config)


def driver_of(twins: Twins, config: CacheConfig) -> Drive:
    endpoint = endpoint_for(config.redis, 3)
    driver: Any = SyncDriver(endpoint) if twins.variant == "sync" else AsyncDriver(endpoint)
    return lambda flow: twins.run(driver(flow))


def asks(*effects: Effect) -> Flow[list[Any]]:
    """Ask for effects, one after the other; a failure counts as its result."""
    results: list[Any] = []
    for effect in effects:
        try:
            results.append((yield effect))
        except Exception as error:
            results.append(error)
    return results


def failing(error: BaseException) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


# -- results -------------------------------------------------------------------------------


def test_a_flow_gets_each_result_and_returns_its_own(drive: Drive, redis_config: CacheConfig) -> None:
    key = redis_config.redis_key_prefix
    results = drive(
        asks(
            RedisCall(("SET", key, b"\x00\xff", "PX", 60_000)),
            RedisCall(("GET", key)),
            RedisBatch((("INCR", key + "n"), ("INCRBY", key + "n", 41), ("GET", key + "n"))),
            RedisBatch(()),
            DiskCall(lambda: "from disk"),
            Sleep(0),
            RedisCall(("DEL", key, key + "n")),
        )
    )
    assert results[0] in (True, b"OK")
    assert results[1:] == [b"\x00\xff", [1, 42, b"42"], [], "from disk", None, 2]


def test_a_flow_that_asks_for_nothing_just_returns(drive: Drive) -> None:
    def flow() -> Flow[str]:
        return "done"
        yield

    assert drive(flow()) == "done"


def test_a_flows_own_error_comes_out(drive: Drive) -> None:
    def flow() -> Flow[None]:
        yield DiskCall(lambda: None)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        drive(flow())


# -- errors of Redis -----------------------------------------------------------------------


def test_a_refused_command_is_thrown_in_as_our_error_and_the_flow_may_go_on(drive: Drive) -> None:
    error, pong = drive(asks(RedisCall(("NONSENSE",)), RedisCall(("PING",))))
    assert type(error) is RedisCommandError
    assert "NONSENSE" in str(error)
    assert type(error.__cause__).__module__.startswith("redis")
    assert pong in (True, b"PONG")


def test_an_absent_server_is_thrown_in_as_unavailable(twins: Twins, redis_config: CacheConfig) -> None:
    drive = driver_of(twins, redis_config.replace(redis_port=free_port()))
    for error in drive(asks(RedisCall(("PING",)), RedisBatch((("PING",), ("PING",))))):
        assert type(error) is RedisUnavailable
        assert not error.maybe_done


def test_a_wrong_password_is_thrown_in_as_an_auth_error(twins: Twins, redis_config: CacheConfig) -> None:
    drive = driver_of(twins, redis_config.replace(redis_password="wrong"))
    for error in drive(asks(RedisCall(("PING",)), RedisBatch((("PING",),)))):
        assert type(error) is RedisAuthError


def test_a_lost_answer_is_thrown_in_as_maybe_done(
    twins: Twins, proxy_config: CacheConfig, proxy: CountingProxy
) -> None:
    drive = driver_of(twins, proxy_config)
    key = proxy_config.redis_key_prefix
    drive(asks(RedisCall(("PING",))))
    proxy.cut(when="after")
    error, count = drive(asks(RedisCall(("INCR", key)), RedisCall(("INCR", key))))
    assert type(error) is RedisUnavailable
    assert error.maybe_done
    # Done once: neither the driver nor the client under it repeats anything by itself.
    assert count == 2
    drive(asks(RedisCall(("DEL", key))))


def test_a_batch_raises_its_first_error_after_all_have_been_answered(
    drive: Drive, redis_config: CacheConfig
) -> None:
    key = redis_config.redis_key_prefix
    batch = RedisBatch((("SET", key, "1"), ("LPUSH", key, "x"), ("NONSENSE",), ("INCR", key)))
    error, value = drive(asks(batch, RedisCall(("GET", key))))
    assert type(error) is RedisCommandError
    assert "WRONGTYPE" in str(error)
    assert value == b"2"
    drive(asks(RedisCall(("DEL", key))))


def test_a_batch_can_answer_errors_in_the_place_of_values(drive: Drive, redis_config: CacheConfig) -> None:
    key = redis_config.redis_key_prefix
    batch = RedisBatch((("SET", key, "1"), ("LPUSH", key, "x"), ("INCR", key)), errors_as_values=True)
    ((ok, error, number),) = drive(asks(batch))
    assert ok in (True, b"OK")
    assert type(error) is RedisCommandError
    assert number == 2
    drive(asks(RedisCall(("DEL", key))))


def test_errors_as_values_does_not_hide_that_the_server_is_away(
    twins: Twins, redis_config: CacheConfig
) -> None:
    drive = driver_of(twins, redis_config.replace(redis_port=free_port()))
    (error,) = drive(asks(RedisBatch((("PING",),), errors_as_values=True)))
    assert type(error) is RedisUnavailable


def test_what_is_no_trouble_of_redis_is_thrown_in_as_it_is(drive: Drive) -> None:
    # redis-py cannot encode a lone surrogate.
    (error,) = drive(asks(RedisCall(("GET", "\ud800"))))
    assert type(error) is UnicodeEncodeError
    # A chain of causes must have an end.
    seen = set()
    cause: BaseException | None = error
    while cause is not None:
        assert id(cause) not in seen
        seen.add(id(cause))
        cause = cause.__cause__
    assert traceback.format_exception(error)


# -- scripts the server does not know ------------------------------------------------------


def test_an_unknown_script_is_sent_whole_once(
    twins: Twins, proxy_config: CacheConfig, proxy: CountingProxy, redis_server: RedisServer
) -> None:
    drive = driver_of(twins, proxy_config)
    key = proxy_config.redis_key_prefix
    call = RedisCall(ScriptCall(APPEND, (key,), ("x",)))
    with redis_server.client() as admin:
        admin.script_flush()
    drive(asks(RedisCall(("PING",))))
    proxy.reset()
    assert drive(asks(call, call, RedisCall(("DEL", key)))) == [1, 2, 1]
    assert proxy.batches == [["EVALSHA"], ["EVAL"], ["EVALSHA"], ["DEL"]]


def test_in_a_batch_only_the_unknown_scripts_are_sent_again_and_answers_keep_their_places(
    twins: Twins, proxy_config: CacheConfig, proxy: CountingProxy, redis_server: RedisServer
) -> None:
    drive = driver_of(twins, proxy_config)
    a, b = proxy_config.redis_key_prefix + "a", proxy_config.redis_key_prefix + "b"
    append, length = ScriptCall(APPEND, (a,), ("x",)), ScriptCall(LENGTH, (b,), ())
    with redis_server.client() as admin:
        admin.script_flush()
    # The server knows LENGTH, but not APPEND.
    drive(asks(RedisCall(("RPUSH", b, "1", "2", "3")), RedisCall(length)))
    proxy.reset()
    batch = RedisBatch((("PING",), append, length, ("LLEN", b), append, ("INCR", "{not a number"), append))
    with redis_server.client(db=3) as client:
        client.set("{not a number", "text")
        (answers,) = drive(asks(RedisBatch(batch.commands, errors_as_values=True)))
        client.delete("{not a number", a, b)
    assert answers[0] in (True, b"PONG")
    assert answers[1:5] == [1, 3, 3, 2]
    assert type(answers[5]) is RedisCommandError
    assert answers[6] == 3
    assert proxy.batches == [
        ["PING", "EVALSHA", "EVALSHA", "LLEN", "EVALSHA", "INCR", "EVALSHA"],
        ["EVAL", "EVAL", "EVAL"],
    ]


def test_an_error_inside_a_script_sent_whole_is_ours_too(drive: Drive, redis_config: CacheConfig) -> None:
    key = redis_config.redis_key_prefix
    broken = ScriptCall(script(f"return redis.call('LLEN', KEYS[1]) -- {key}"), (key,), ())
    drive(asks(RedisCall(("SET", key, "text"))))
    for error in drive(asks(RedisCall(broken), RedisBatch((broken, broken)))):
        assert type(error) is RedisCommandError
        assert "WRONGTYPE" in str(error)
    drive(asks(RedisCall(("DEL", key))))


# -- failures that are no Exception --------------------------------------------------------


class Stop(BaseException):
    """As KeyboardInterrupt, but nothing around the test reacts to it."""


@pytest.mark.parametrize("kind", [OSError, Stop, KeyError])
def test_any_failure_is_thrown_into_the_flow_and_what_it_holds_is_let_go(
    drive: Drive, kind: type[BaseException]
) -> None:
    happened: list[str] = []

    def flow() -> Flow[None]:
        happened.append("taken")
        try:
            yield DiskCall(failing(kind("what happened")))
            happened.append("not reached")
        finally:
            happened.append("let go")

    with pytest.raises(kind, match="what happened"):
        drive(flow())
    assert happened == ["taken", "let go"]


def test_a_flow_may_answer_a_failure_with_another_effect(drive: Drive) -> None:
    def flow() -> Flow[str]:
        try:
            yield DiskCall(failing(OSError("full")))
        except OSError:
            return (yield DiskCall(lambda: "another disk"))
        return "not reached"

    assert drive(flow()) == "another disk"


def test_a_stop_iteration_out_of_an_effect_does_not_pass_for_the_flows_end(drive: Drive) -> None:
    def flow() -> Flow[str]:
        yield DiskCall(lambda: next(iter(())))
        return "not reached"

    with pytest.raises(RuntimeError, match="StopIteration"):
        drive(flow())


# -- sleeping ------------------------------------------------------------------------------


def test_the_sync_driver_sleeps_by_its_clock(redis_config: CacheConfig) -> None:
    clock = ManualClock()
    assert SyncDriver(endpoint_for(redis_config.redis, 0), clock)(asks(Sleep(0.5), Sleep(3600))) == [
        None,
        None,
    ]
    assert clock.slept == [0.5, 3600]


def test_the_async_driver_lets_the_loop_go_on_while_it_sleeps(redis_config: CacheConfig) -> None:
    async def main() -> None:
        driver = AsyncDriver(endpoint_for(redis_config.redis, 0))
        woken = asyncio.Event()

        def flow() -> Flow[bool]:
            yield Sleep(0)
            while not woken.is_set():
                yield Sleep(0.001)
            return True

        sleeper = asyncio.create_task(driver(flow()))
        await asyncio.sleep(0)
        woken.set()
        assert await sleeper

    asyncio.run(main())


# -- threads -------------------------------------------------------------------------------


def test_the_sync_driver_stays_in_its_thread(redis_config: CacheConfig) -> None:
    drive = SyncDriver(endpoint_for(redis_config.redis, 0))
    effects = [DiskCall(threading.get_ident) for quick in (False, True)]
    assert drive(asks(*effects)) == [threading.get_ident()] * 2


def test_the_async_driver_touches_files_in_a_thread_of_its_own(redis_config: CacheConfig) -> None:
    drive = AsyncDriver(endpoint_for(redis_config.redis, 0))

    def who() -> str:
        return threading.current_thread().name

    for name in asyncio.run(drive(asks(DiskCall(who), DiskCall(who, waits=True), LockCall(lambda: None)))):
        assert name is None or name.startswith("lix-cache-")


def test_an_application_that_fills_the_loops_threads_stops_no_session(redis_config: CacheConfig) -> None:
    async def main() -> None:
        drive = AsyncDriver(endpoint_for(redis_config.redis, 0))
        release = threading.Event()
        busy = [asyncio.create_task(asyncio.to_thread(release.wait, LONG)) for _ in range(64)]
        assert await drive(asks(DiskCall(lambda: "done"))) == ["done"]
        release.set()
        # All were still waiting when the call was done.
        assert await asyncio.gather(*busy) == [True] * 64

    asyncio.run(main())


def test_calls_that_wait_for_a_lock_do_not_keep_its_holder_from_going_on() -> None:
    async def main() -> None:
        release = threading.Event()
        waiting = [
            asyncio.create_task(in_disk_thread(lambda: release.wait(LONG), may_wait_for_lock=True))
            for _ in range(64)
        ]
        await asyncio.sleep(0)
        assert await in_disk_thread(lambda: "done") == "done"
        release.set()
        assert await asyncio.gather(*waiting) == [True] * 64

    asyncio.run(main())


# -- cancelling ----------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("fails", [False, True])
def test_a_cancelled_disk_call_ends_before_the_flow_hears_of_it(
    redis_config: CacheConfig, times: int, fails: bool
) -> None:
    happened: list[str] = []
    begun, release = threading.Event(), threading.Event()

    def write() -> None:
        begun.set()
        assert release.wait(LONG)
        happened.append("written")
        if fails:
            raise OSError("full")

    def flow() -> Flow[None]:
        try:
            yield DiskCall(write)
            happened.append("not reached")
        except asyncio.CancelledError:
            happened.append("cancelled")
            raise
        finally:
            happened.append("let go")

    async def main() -> None:
        task = asyncio.create_task(AsyncDriver(endpoint_for(redis_config.redis, 0))(flow()))
        await asyncio.to_thread(begun.wait)
        for _ in range(times):
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
            assert not task.done()
            assert happened == []
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert happened == ["written", "cancelled", "let go"]


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize("moment", ["while it is taken", "before the flow hears of it"])
def test_a_lock_that_a_cancelled_flow_never_heard_of_is_free_although_the_task_is_kept(
    redis_config: CacheConfig, tmp_path: Path, moment: str
) -> None:
    files, path = Files(), str(tmp_path / "lock")
    taken, release = threading.Event(), threading.Event()
    let_go_in: list[int] = []

    class Watched(FileLock):
        def release(self) -> None:
            let_go_in.append(threading.get_ident())
            super().release()

    def take() -> FileLock | None:
        lock = files.try_lock(path)
        assert lock is not None
        lock.__class__ = Watched
        taken.set()
        assert release.wait(LONG)
        return lock

    def flow() -> Flow[None]:
        lock = yield LockCall(take)
        lock.release()

    async def main() -> None:
        kept = asyncio.create_task(AsyncDriver(endpoint_for(redis_config.redis, 0))(flow()))
        await asyncio.to_thread(taken.wait)
        if moment == "while it is taken":
            kept.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
            assert not kept.done()
            release.set()
        else:
            release.set()
            # The loop stands still: the call ends, and the task has not gone on yet.
            while any(thread_is_in(take, thread) for thread in threading.enumerate()):
                time.sleep(0.001)
            kept.cancel()
        await asyncio.wait([kept])
        assert kept.cancelled()
        again = files.try_lock(path)
        assert again is not None, "still held"
        again.release()
        assert let_go_in
        assert threading.get_ident() not in let_go_in
        del kept

    asyncio.run(main())


def thread_is_in(call: Callable[..., Any], thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    return any(it.f_code is call.__code__ for it, _ in traceback.walk_stack(frame)) if frame else False


def test_a_disk_call_that_was_cancelled_before_it_began_is_done_or_not_done_but_never_later(
    redis_config: CacheConfig,
) -> None:
    happened: list[str] = []

    def flow(i: int) -> Flow[None]:
        try:
            yield DiskCall(lambda: happened.append(f"{i} written"))
        finally:
            happened.append(f"{i} let go")

    async def main() -> None:
        drive = AsyncDriver(endpoint_for(redis_config.redis, 0))
        release = threading.Event()
        # All threads are taken, so the calls wait in line.
        full = [asyncio.create_task(in_disk_thread(lambda: release.wait(LONG))) for _ in range(64)]
        tasks = [asyncio.create_task(drive(flow(i))) for i in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0)
        release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 5
        at_the_end = list(happened)
        await asyncio.gather(*full)
        await in_disk_thread(lambda: None)
        assert happened == at_the_end

    asyncio.run(main())
    for i in range(5):
        mine = [what for what in happened if what.startswith(f"{i} ")]
        assert mine in ([f"{i} written", f"{i} let go"], [f"{i} let go"])


def test_a_cancelled_command_does_not_leave_its_answer_to_the_next_one(
    proxy_config: CacheConfig, proxy: CountingProxy
) -> None:
    key = proxy_config.redis_key_prefix

    def flow(heard: list[str]) -> Flow[Any]:
        try:
            return (yield RedisCall(("ECHO", "meant for the first")))
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    async def main() -> None:
        # With one connection the next command must take the same one.
        drive = AsyncDriver(endpoint_for(proxy_config.replace(redis_pool_size=1).redis, 3))
        await drive(asks(RedisCall(("SET", key, "mine"))))
        proxy.reset()
        proxy.delay(0.3)
        heard: list[str] = []
        task = asyncio.create_task(drive(flow(heard)))
        while not proxy.round_trips:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert heard == ["cancelled"]
        proxy.delay(0)
        assert await drive(asks(RedisCall(("GET", key)), RedisCall(("DEL", key)))) == [b"mine", 1]
        await close_connections()

    asyncio.run(main())


# -- loops and forks -----------------------------------------------------------------------


def test_one_driver_serves_one_loop_after_the_other(redis_config: CacheConfig) -> None:
    drive = AsyncDriver(endpoint_for(redis_config.redis, 3))

    async def main(i: int) -> list[Any]:
        results = await drive(asks(RedisCall(("ECHO", str(i))), DiskCall(lambda: "disk")))
        await close_connections()
        return results

    for i in range(3):
        assert asyncio.run(main(i)) == [str(i).encode(), "disk"]


FORK = """
import asyncio, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from lix_cache.drivers.threads import in_disk_thread
assert asyncio.run(in_disk_thread(lambda: 1)) == 1
child = os.fork()
if child == 0:
    os._exit(7 if asyncio.run(asyncio.wait_for(in_disk_thread(lambda: 2), 60)) == 2 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_has_disk_threads_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120, check=False
    )
    assert done.returncode == 7


def test_a_flow_is_a_generator_that_a_test_can_drive_by_hand() -> None:
    flow: Generator[Effect, Any, list[Any]] = asks(RedisCall(("PING",)), Sleep(1))
    assert flow.send(None) == RedisCall(("PING",))
    assert flow.throw(OSError("cut")) == Sleep(1)
    with pytest.raises(StopIteration) as done:
        flow.send(None)
    assert [type(x) for x in done.value.value] == [OSError, type(None)]
