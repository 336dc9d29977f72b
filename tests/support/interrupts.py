"""Exceptions as a signal handler raises them: between any two lines of a call."""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["Interrupt", "interrupt_at", "lines_of"]

#: Where an interruption counts: our own code and redis-py's. In other people's it is the same
#: as at the line of ours that called it, and there are thousands of those lines.
_PLACES = ("/lix_cache/", "/redis/")

#: A line with nothing to do, as a "try:" in another. No handler of a signal runs there, and
#: CPython 3.11 leaves it out of the table of the outer "try": what is raised there skips it.
_NOTHING = dis.opmap["NOP"]


_CONSTANT = dis.opmap["LOAD_CONST"]
_SWAP = dis.opmap.get("SWAP", -1)
_ENDS_WITH = {dis.opmap[name] for name in ("WITH_EXCEPT_START",) if name in dis.opmap}


def _is_place(frame: FrameType, event: str) -> bool:
    code, at = frame.f_code.co_code, frame.f_lasti
    return event == "line" and code[at] != _NOTHING and not _ends_with(frame, code, at)


def _ends_with(frame: FrameType, code: bytes, at: int) -> bool:
    """Whether this is a "with" that is being left: from 3.11 on no handler of a signal runs before it is.

    It is left by __exit__(None, None, None), or where an exception was raised by an instruction of its own.
    """
    if code[at + 2 : at + 3] and code[at + 2] in _ENDS_WITH:
        return True
    if code[at] == _SWAP:  # what is returned from inside waits below
        at += 2
    is_twice = code[at] == _CONSTANT and code[at : at + 2] == code[at + 2 : at + 4]
    return is_twice and frame.f_code.co_consts[code[at + 1]] is None


def _is_dying(frame: FrameType | None) -> bool:
    """Whether a __del__ called this: what is raised there goes nowhere."""
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


class Interrupt(Exception):
    """What a worker's soft time limit raises: an Exception like others."""


def interrupt_at(call: Callable[[], Any], step: int) -> Interrupt | None:
    """Make a call and raise an Interrupt before its so-manieth line; None if it ended before.

    Raises:
        AssertionError: it was raised in our code, and did not come out of the call.
    """
    left = [step]
    places: list[str] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        # An exception in __del__ goes nowhere, and so does one out of a signal handler.
        if code.co_name == "__del__" or not any(place in code.co_filename for place in _PLACES):
            return None
        if _is_place(frame, event):
            left[0] -= 1
            if left[0] <= 0 and not _is_dying(frame):
                sys.settrace(None)
                places.append(f"{code.co_filename}:{frame.f_lineno}")
                raise Interrupt(places[0])
        return trace

    seen: list[BaseException] = []

    def run() -> None:
        try:
            sys.settrace(trace)
            call()
        except BaseException as error:
            seen.append(error)
        finally:
            sys.settrace(None)

    # In a thread of its own: an error out of a trace function that comes at the end of an
    # "except" leaves the thread with the error that was handled there, for ever.
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    error = seen.pop() if seen else None
    # redis-py swallows some in its telemetry.
    if any("/lix_cache/" in place for place in places) and not isinstance(error, Interrupt):
        raise AssertionError(f"the interruption at {places[0]} was swallowed") from error
    if error is not None and not isinstance(error, Interrupt):
        raise error
    return error


def lines_of(call: Callable[[], Any]) -> int:
    """Count the lines of a call at which it can be interrupted."""
    count = [0]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if code.co_name == "__del__" or not any(place in code.co_filename for place in _PLACES):
            return None
        count[0] += _is_place(frame, event)
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        call()
    finally:
        sys.settrace(before)
    return count[0]
