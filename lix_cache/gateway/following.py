"""The way of a request that an equal one is ahead of: it gets what that one brings."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from lix_cache.gateway.asgi import cutting, watch
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.headers import Verdict
from lix_cache.gateway.outcomes import new_id, unanswered
from lix_cache.gateway.relay import Flight, Head, Reader, Stopped
from lix_cache.gateway.renaming import Renamed, RenamedBody

if TYPE_CHECKING:
    from lix_cache.gateway.cached_path import Exchange
    from lix_cache.gateway.prepared import Prepared

__all__ = ["check_failed", "follow", "say_whole"]


async def follow(call: Exchange, flight: Flight, asked: Prepared) -> bool:
    """Answer with what a request brings that is under way; say whether that was for this one.

    Raises:
        Refused: it was refused, or its provider failed: so would this one be.
        Broken: the answer ended before its end.
    """
    reader = Reader(flight, cutting(call.scope))
    watcher = watch(call.scope, call.receive, reader.gone)
    began = perf_counter()
    try:
        if not await reader.until_head():
            return True
        call.waited += perf_counter() - began
        call.verdict = Verdict("hit-l1-exact", "shared", 0.0)
        head = flight.head
        if head is not None and head.status == 200 and head.is_stream and flight.form == asked.form:
            identity = "" if asked.is_kept else new_id()
            await call.pass_on(reader, head.shared(), Renamed(identity) if identity else None)
            call.answer = flight.answer
            return True
        began = perf_counter()
        if not await reader.until_over():
            return True
        call.waited += perf_counter() - began
        return await _said_again(call, flight, asked, reader)
    finally:
        watcher.cancel()
        reader.leave()


async def _said_again(call: Exchange, flight: Flight, asked: Prepared, reader: Reader) -> bool:
    """Answer with what is over."""
    if flight.answer is not None and call.suits(flight.answer, asked):
        # Of an answer that the first one found: as old and as near as it said.
        call.verdict = flight.verdict or Verdict("hit-l1-exact", "shared", 0.0, None, flight.answer.saved)
        await call.say(flight.answer, asked)
        return True
    if flight.is_broken:
        check_failed(flight)
        return False
    head = flight.head
    if head is None or not flight.is_whole or not (head.status != 200 or flight.form == asked.form):
        return False
    # An error, or an answer that is not kept, such as one that was cut.
    identity = new_id() if head.status == 200 and not asked.is_kept else ""
    await say_whole(call, head.shared(), reader, identity)
    return True


async def say_whole(call: Exchange, head: Head, reader: Reader, identity: str) -> None:
    """Pass on what is over as it came, under another id if there is one."""
    reader.position = 0  # waiting for the end went past what there is to say
    told = Head(head.status, [pair for pair in head.headers if pair[0] != b"content-length"])
    await call.pass_on(reader, told, RenamedBody(identity) if identity else None)


def check_failed(flight: Flight) -> None:
    """Fail as the first request did, if it was its provider that failed."""
    if flight.error is None or isinstance(flight.error, Stopped):
        return
    if flight.head is None:
        raise unanswered(flight.error)
    raise Refused(502, "upstream_unavailable", "the provider's answer broke off")
