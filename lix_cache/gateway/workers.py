"""Several processes that serve one port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lix_cache.gateway.idling import Used
from lix_cache.gateway.serve import reload, run

if TYPE_CHECKING:
    from lix_cache.gateway.app import Gateway

__all__ = ["run_workers"]

#: What a worker ends with when none of them was used.
_IDLE = 75


def run_workers(gateway: Gateway, workers: int, listeners: list[socket.socket]) -> None:
    """Serve one port by several processes; one that dies is replaced until a signal or idling ends all.

    Forked before any connection or thread exists, so each has its own.
    """
    children: dict[int, int] = {}
    stopping: list[int] = []
    used = Used(workers)

    def stop(number: int, _: object) -> None:
        stopping.append(number)
        _send(children, signal.SIGTERM)

    def heed(number: int, _: object) -> None:
        # Here as well: a worker that is replaced starts with what this process holds.
        reload(gateway)
        _send(children, number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, heed)
    try:
        while not stopping:
            while len(children) < workers and not stopping:
                # A signal that comes while a child is made is heeded when it is known, or would miss it.
                with _held(before):
                    if not stopping:
                        used.number = min(set(range(workers)) - set(children.values()))
                        children[_forked(gateway, listeners, before, used)] = used.number
            # A child that cannot even start must not be forked as fast as the machine can.
            if _reap(children, pause=0.5) == _IDLE:
                stop(signal.SIGTERM, None)
        while children:
            _reap(children, pause=0.0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in listeners:
            one.close()


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


def _forked(
    gateway: Gateway, listeners: list[socket.socket], handlers: dict[signal.Signals, Any], used: Used
) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        # One that raises may do so in the callback of a weak reference, which swallows it: the
        # worker would never end. There is nothing to lose before the server has handlers of its own.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)
        code = _IDLE if run(gateway, listeners, used) else 0
    except KeyboardInterrupt:
        code = 0
    except SystemExit as error:  # of the signal that ended it; or of uvicorn, which could not start
        code = error.code if isinstance(error.code, int) else 1
    finally:
        os._exit(code)


def _reap(children: dict[int, int], pause: float) -> int:
    """Wait for the end of a child. Returns its exit code."""
    try:
        child, status = os.wait()
    except ChildProcessError:
        children.clear()
        return 0
    children.pop(child, None)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, _IDLE):
        time.sleep(pause)
    return code
