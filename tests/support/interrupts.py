"""Exceptions as a signal handler raises them: between any two lines of a call."""

from __future__ import annotations

import dis
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

__all__ = ["Interrupt", "interrupt_at", "lines_of", "under_signals"]

_ROOT = Path(__file__).resolve().parents[2]

#: Where an interruption counts: our own code and redis-py's. In other people's it is the same
#: as at the line of ours that called it, and there are thousands of those lines.
_PLACES = ("/lix_cache/", "/redis/")

#: A line with nothing to do, as a "try:" in another. No handler of a signal runs there, and
#: CPython 3.11 leaves it out of the table of the outer "try": what is raised there skips it.
_NOTHING = dis.opmap["NOP"]


#: What CPython 3.10 to 3.13 do at the end of a "with" that no exception has ended: they load three times
#: None and call "__exit__". No handler of a signal runs between the block and that call.
_LEFT_BY_EXCEPTION = bytes([dis.opmap["WITH_EXCEPT_START"]]) if "WITH_EXCEPT_START" in dis.opmap else b"-"
_END_OF_WITH = re.compile(
    r"(?:(?:POP_BLOCK|ROT_TWO|SWAP|NOT_TAKEN|NOP) )*LOAD_CONST (?:LOAD_CONST|DUP_TOP) (?:LOAD_CONST|DUP_TOP) "
    r"(?:PRECALL )?(?:CALL|CALL_FUNCTION) "
)


@cache
def _ends_of_with(code: CodeType) -> frozenset[int]:
    """Return the offsets in a function at which it leaves a "with"."""
    found = [one for one in dis.get_instructions(code) if one.opname not in ("CACHE", "EXTENDED_ARG")]
    places = set()
    for number, one in enumerate(found):
        rest = found[number : number + 9]
        match = _END_OF_WITH.match("".join(f"{each.opname} " for each in rest))
        nothing = [each.argval for each in rest if each.opname == "LOAD_CONST"][:1]
        if match and nothing == [None]:
            places.add(one.offset)
    return frozenset(places)


def _is_place(frame: FrameType, event: str) -> bool:
    if event != "line":
        return False
    code, at = frame.f_code, frame.f_lasti
    if code.co_code[at] == _NOTHING or at in _ends_of_with(code):
        return False
    # Nor where a block is left by an exception.
    return code.co_code[at + 2 : at + 3] != _LEFT_BY_EXCEPTION


def _is_dying(frame: FrameType | None) -> bool:
    """Whether a __del__ called this: what is raised there goes nowhere."""
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def under_signals(worker: str, *arguments: str) -> str:
    """Run a program whose signal handlers raise, and return what it prints.

    It is not measured: coverage has a lock that a signal leaves taken.
    """
    done = subprocess.run(
        [sys.executable, "-c", worker, *arguments],
        cwd=_ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


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
