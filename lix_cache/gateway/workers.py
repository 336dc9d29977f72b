"""Several processes that serve one port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lix_cache._log import logger
from lix_cache.errors import told
from lix_cache.gateway.errors import CannotServe
from lix_cache.gateway.idling import Used
from lix_cache.gateway.serve import reload, run
from lix_cache.hot.clients import close_async_redis_clients

if TYPE_CHECKING:
    from lix_cache.gateway.app import Gateway

__all__ = ["run_workers"]

#: What a worker ends with when none of them was used.
_IDLE = 75
#: A child that cannot even start must not be forked as fast as the machine can.
_PAUSE = 0.5
#: Workers that may fail before one has served: what ails so many ails the next one too.
_MOST_FAILED = 5


def run_workers(gateway: Gateway, workers: int, listeners: list[socket.socket]) -> None:
    """Serve one port by several processes; one that dies is replaced until a signal or idling ends all.

    Forked before any connection or thread exists, so each has its own. When all have ended, this process
    writes the snapshot: what the last of them has answered is in it.

    Raises:
        CannotServe: none of them could begin.
    """
    children: dict[int, int] = {}
    stopping: list[int] = []
    gateway.used = Used(workers)

    def stop(number: int, _: object = None) -> None:
        stopping.append(number)
        # Open in this process alone, it would take connections that no worker serves.
        for one in listeners:
            one.close()
        _send(children, signal.SIGTERM)

    def heed(number: int, _: object) -> None:
        # Here as well: a worker that is replaced starts with what this process holds.
        reload(gateway)
        _send(children, number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, heed)
    failed = 0
    try:
        while not stopping and failed < _MOST_FAILED:
            is_full = _filled(gateway, workers, children, listeners, before, stopping)
            code = _reap(children, waits=is_full)
            if code == _IDLE:
                stop(signal.SIGTERM)
            elif code:
                logger.error("a worker of the gateway ended with code {}; another takes its place", code)
                failed += not gateway.used.has_served
            if code or not is_full:
                time.sleep(_PAUSE)
        if not stopping:
            raise CannotServe("no worker of the gateway could begin to serve; the log says why")
        _end(children)
        asyncio.run(_save(gateway))
    finally:
        # Whatever ends it: workers that are left would hold the port, and no signal would find them.
        stop(signal.SIGTERM)
        _end(children)
        for number, handler in before.items():
            signal.signal(number, handler)


def _filled(
    gateway: Gateway,
    workers: int,
    children: dict[int, int],
    listeners: list[socket.socket],
    handlers: dict[signal.Signals, Any],
    stopping: list[int],
) -> bool:
    """Fork the workers that are missing. False if the system gives no process now."""
    while len(children) < workers and not stopping:
        # A signal that comes while a child is made is heeded when it is known, or would miss it.
        with _held(handlers):
            if stopping:
                break
            gateway.used.number = min(set(range(workers)) - set(children.values()))
            try:
                children[_forked(gateway, listeners, handlers)] = gateway.used.number
            except OSError as error:
                logger.error(
                    "the system gives no process for a worker of the gateway now: {}", error.strerror
                )
                return False
    return True


async def _save(gateway: Gateway) -> None:
    core = gateway.core
    await core.snapshot.save_at_end()
    if core.redis is not None:
        core.redis.close()
        await close_async_redis_clients()


def _send(children: dict[int, int], number: int) -> None:
    for child in list(children):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)


@contextlib.contextmanager
def _held(numbers: dict[signal.Signals, Any]) -> Iterator[None]:
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def _forked(gateway: Gateway, listeners: list[socket.socket], handlers: dict[signal.Signals, Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        # One that raises may do so in the callback of a weak reference, which swallows it: the worker would
        # never end. There is nothing to lose before the server has handlers of its own. It sends itself the
        # signal again when it has ended, and then the worker has acts to do.
        signal.signal(signal.SIGTERM, lambda *_: None if gateway.has_begun else os._exit(0))
        # Until the loop heeds it: by default it would end a worker that is starting.
        signal.signal(signal.SIGHUP, lambda *_: reload(gateway))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)
        code = _IDLE if run(gateway, listeners) else 0
    except KeyboardInterrupt:
        code = 0
    except SystemExit as error:  # of the signal that ended it; or of uvicorn, which could not start
        code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:  # noqa: BLE001 - it is told here or nowhere
        logger.error("a worker of the gateway failed: {}", told(error))
    finally:
        try:
            _do_last_acts(gateway)
        finally:
            # Not by the interpreter's end: what the parent has registered for that is not a worker's to do.
            os._exit(code)


def _do_last_acts(gateway: Gateway) -> None:
    """Do what a process does at its exit, as far as it is the worker's own."""
    # Those that were never imported have nothing to do. Sessions that move to disk let go of leases.
    acts = [("lix_cache.session.evictor", "stop_all"), ("lix_cache.archive.objects.leases", "settle")]
    found = [getattr(sys.modules[module], act) for module, act in acts if module in sys.modules]
    if gateway.core.traces is not None:
        found.append(gateway.core.traces.flush)
    for act in found:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - the others are to be done too
            logger.error("a worker of the gateway did not end all that it had begun: {}", told(error))


def _end(children: dict[int, int]) -> None:
    while children:
        _reap(children)


def _reap(children: dict[int, int], *, waits: bool = True) -> int:
    """Return the exit code of a child that has ended; 0 if there is none."""
    try:
        child, status = os.waitpid(-1, 0 if waits else os.WNOHANG)
    except ChildProcessError:
        children.clear()
        return 0
    if not child:
        return 0
    children.pop(child, None)
    return os.waitstatus_to_exitcode(status)
