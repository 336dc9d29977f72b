"""Forked processes that report through a pipe, to be killed or waited for."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import threading
import traceback
import warnings
from collections.abc import Callable

from tests.support.closing import Closing

__all__ = ["Child", "Report"]

_RECORD = struct.Struct("<ci")
#: Of prctl(2).
_PR_SET_PDEATHSIG = 1


class Report:
    """The child's end of the pipe. A record is there or not, never a part of one."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, kind: str, number: int) -> None:
        os.write(self._fd, _RECORD.pack(kind.encode(), number))


class Child(Closing):
    """A forked process that runs a function and ends with it.

    Args:
        work: gets a :class:`Report`; an exception becomes exit code 1.
    """

    def __init__(self, work: Callable[[Report], None]) -> None:
        self._read, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        # The child of a thread would end with the thread.
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else None
        with warnings.catch_warnings():
            # Of other threads there are those of the test runner, which do nothing of ours.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            _run(work, write, parent)
        os.close(write)
        #: Exit code, negative for a signal; None while it runs or its end was not looked at.
        self.code: int | None = None

    def records(self) -> list[tuple[str, int]]:
        """Wait for the end and return what was reported."""
        data = bytearray()
        while self._read >= 0:
            part = os.read(self._read, 1 << 16)
            if not part:
                os.close(self._read)
                self._read = -1
            data += part
        return [(kind.decode(), number) for kind, number in _RECORD.iter_unpack(bytes(data))]

    def kill(self) -> None:
        """End it in the middle of whatever it does. What it reported can still be read."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it if it runs, and the pipe."""
        if self.code is None:
            self.kill()
            self.wait()
        if self._read >= 0:
            os.close(self._read)
            self._read = -1

    def wait(self) -> int:
        """Wait for its end and return its exit code, negative for a signal."""
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def poll(self) -> int | None:
        """Return its exit code if it has ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code


def _run(work: Callable[[Report], None], write: int, parent: int | None) -> None:
    # Never back into the test runner: os._exit runs nothing of the parent's.
    code = 1
    try:
        if parent is not None:
            _end_with(parent)
        work(Report(write))
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _end_with(parent: int) -> None:
    """Let this process end when its parent does, however that ends.

    One that stays keeps the pipes of the test runner open, which then waits for a worker that is gone.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
