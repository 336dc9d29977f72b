"""Reading a session: its context, or all of it, from both tiers."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from lix_cache.effects import DiskCall, Flow, RedisCall
from lix_cache.errors import (
    RedisUnavailable,
)
from lix_cache.hot.replies import Cold
from lix_cache.hot.window import BYTES_AT_ONCE, HotWindow
from lix_cache.messages.turn import ZERO_ID, MessageId, Turn, once
from lix_cache.session import late, old_sessions
from lix_cache.session.base import Session, ask, beside, look, merged, session_lock
from lix_cache.session.reconcile import ask_known, catch_up, reconcile_pending, without_redis

if TYPE_CHECKING:
    from collections.abc import Callable

    from lix_cache.archive.facts import Extent

__all__ = ["get_context", "get_full", "peek", "read_window", "rehydrate"]


#: How often a context is read again that others moved, cleared or deleted while it was read.
READS_AGAIN = 2


def get_context(session: Session, count: int = 0, again: int = READS_AGAIN) -> Flow[list[Turn]]:
    """Return the newest messages of the context, oldest first: those of the window, and more.

    Args:
        session: the session.
        count: as many of the newest as Redis holds anyway, if that is more than the window.
        again: how often to read again where others were at the session meanwhile.
    """
    store = session.store
    try:
        yield from reconcile_pending(session)
        turns = yield from read_window(session, count)
        if isinstance(turns, Cold) or not (turns or session.seen.is_stale):
            pass
        elif session.seen.is_stale or session.seen.goes_beyond(turns[-1].id):
            is_stale, ends_early = session.seen.is_stale, False
            if turns and session.seen.goes_beyond(turns[-1].id):
                ends_early = not (yield from _was_shortened(session, turns[-1].id))
            # What was taken out may stand there because a process was killed before it told Redis.
            if (is_stale or ends_early) and (
                yield from catch_up(session, locked=False, went_back=ends_early)
            ):
                turns = yield from read_window(session, count)
        else:
            session.seen.compared = max(session.seen.compared, session.seen.opened)
    except RedisUnavailable as error:
        context = partial(store.cold.recent, session.id, session.window, in_context=True)
        found = yield from without_redis(session, context, error)
        return found if found is not None else (yield from get_context(session, count))
    if isinstance(turns, Cold):
        if not (yield DiskCall(partial(store.cold.exists, session.id))):
            return []
        archived, is_current = yield from rehydrate(session, turns)
        if not is_current and again:
            return (yield from get_context(session, count, again - 1))
        return session.saw(archived)
    if len(turns) >= session.window and not session.seen.goes_beyond(turns[-1].id):
        return session.saw(once(turns))
    # The window began after the session had moved to disk, or a cache with a smaller window kept it:
    # the rest is archived. One disk call also says if there is nothing.
    read = partial(store.cold.recent, session.id, session.window, in_context=True)
    both = yield from _with_archive(session, turns, read, again=again > 0)
    if both is None:
        return (yield from get_context(session, count, again - 1))
    return session.saw(both[-session.window :])


def _with_archive(
    session: Session, hot: list[Turn], read: Callable[[], list[Turn]], *, again: bool
) -> Flow[list[Turn] | None]:
    """Return what is hot and what is archived, in one disk call.

    None if the caller is to read again (``again``): another process used the session without Redis, and what
    it took out stood in the window still. The session has been reconciled. Reads that need no disk show it
    until Redis is told.
    """
    cold = session.store.cold

    def call() -> list[Turn] | None:
        archived = read()
        # After the archive: the mark is there before what it is about.
        if again and cold.is_pending(session.id, just_read=True):
            return None
        return beside(session, archived, hot)

    # In a thread: it reads the archive, and sorts any number of messages.
    found: list[Turn] | None = yield DiskCall(call, waits=True)
    if found is not None:
        return found
    try:
        if (yield from catch_up(session, locked=False, went_back=False)):
            return None
    except RedisUnavailable:
        if session.store.settings.on_redis_error == "raise":
            raise
        # Redis has told what it holds, and goes with the archive: more than the archive alone.
        session.store.count("degraded_reads")
    return (yield from _with_archive(session, hot, read, again=False))


def _was_shortened(session: Session, last: MessageId) -> Flow[bool]:
    """Whether a window ends too early because others took out what came last, not because Redis went back."""
    seen = session.seen
    if seen.gone != ZERO_ID and last <= seen.gone:
        return False
    command = session.store.hot.given(session.id)
    if HotWindow.given_id((yield from ask(session.store, command))) < seen.expected:
        return False
    seen.expected = last
    seen.compared = max(seen.compared, seen.opened)
    return True


def read_window(session: Session, count: int) -> Flow[list[Turn] | Cold]:
    """Read what Redis holds of the context.

    Page by page from the newest on: a message that moves to disk meanwhile is looked for there
    afterwards, and what is added meanwhile came too late to be seen.
    """
    store, seen = session.store, session.seen
    left = max(count, session.window)
    pages: list[list[Turn]] = []
    below: MessageId | None = None
    while True:
        command = store.hot.read(session.id, left, store.new_nonce(), below)
        page = HotWindow.newest((yield from ask_known(session, command)))
        if isinstance(page, Cold):
            if not pages:
                return page
            break
        if not page.turns:
            break
        pages.append(page.turns)
        left -= len(page.turns)
        below = page.turns[0].id
        if not page.has_more or left <= 0:
            break
    # What was cleared or deleted: a Redis that went back still has it.
    turns = pages[0] if len(pages) == 1 else list(chain.from_iterable(reversed(pages)))
    seen.is_stale = late.holds_gone(seen, turns)
    return late.counted(seen, turns, seen.gone)


def rehydrate(session: Session, cold: Cold) -> Flow[tuple[list[Turn], bool]]:
    """Bring the end of a cold session back into Redis.

    Under the lock, because a deletion between reading and putting back would be undone by it.
    The lock does not hold back what was sent and is carried out later: for that there is the
    ticket, which everything under the lock that ends a window takes away. Putting back does
    nothing if another reader was first.

    Returns:
        The messages, and whether none was moved, cleared or deleted since it was found cold.
    """
    store, breaker = session.store, session.store.breaker_of(session.id)
    lock = yield from session_lock(session)
    done = 0
    try:
        turns: list[Turn]
        turns, archived = yield DiskCall(partial(_end_of, session))
        if turns:
            # Where the archive is damaged its index may promise more than can be read.
            session.seen.expected = turns[-1].id
            command = store.hot.rehydrate(session.id, turns, cold, archived.given)
            try:
                # What is too large for a command stays where it is, and is read from there.
                if cold.ticket and store.hot.size_of(command) <= BYTES_AT_ONCE:
                    done = int((yield RedisCall(command)))
            except RedisUnavailable as error:
                # The messages are in hand. Only the next read will be slower.
                store.count("redis_errors")
                breaker.met(error)
    finally:
        lock.release()
    store.count("rehydrations", max(0, done))
    return turns, done >= 0


def _end_of(session: Session) -> tuple[list[Turn], Extent]:
    cold = session.store.cold
    turns = cold.recent(session.id, session.window, in_context=True, locked=True)
    return turns, cold.look(session.id, locked=True)


def get_full(session: Session, *, again: bool = True) -> Flow[list[Turn]]:
    """Return every message once, in order.

    Redis first, then the disk: a message that moves meanwhile is seen twice, and counted
    once by its id. The other way round it could be missed.
    """
    store = session.store
    try:
        yield from reconcile_pending(session)
        hot = yield from _all_hot(session)
    except RedisUnavailable as error:
        found = yield from without_redis(session, partial(store.cold.turns, session.id), error)
        return found if found is not None else (yield from get_full(session))
    hot = late.counted(session.seen, hot, session.seen.deleted)
    everything = yield from _with_archive(session, hot, partial(store.cold.turns, session.id), again=again)
    return session.saw(everything) if everything is not None else (yield from get_full(session, again=False))


def peek(session: Session) -> Flow[list[Turn]]:
    """Return every message once, in order, and change nothing: no use, no move, no note.

    What lix-open-cache left stays where it is. It is read first: what moves meanwhile is seen twice, and
    counted once.
    """
    store = session.store
    left = yield from old_sessions.left(store, session.id)
    hot = yield from _all_hot(session, look_for_old=False)
    # What another process took out without Redis. Before the archive is read: what moves there meanwhile
    # must be seen in one of the two.
    yield from look(session)
    hot = late.counted(session.seen, hot, session.seen.deleted)

    def everything() -> list[Turn]:
        archived = store.cold.turns(session.id)
        old = old_sessions.turns_of(store, session.id, left, archived) if left else []
        return merged(beside(session, archived, hot), old)

    found: list[Turn] = yield DiskCall(everything, waits=True)
    return found


def _all_hot(session: Session, *, look_for_old: bool = True) -> Flow[list[Turn]]:
    """Read all that Redis holds: in one round trip, unless it is more than a page."""
    turns: list[Turn] = []
    while True:
        command = session.store.hot.oldest(
            session.id,
            keep=0,
            after=turns[-1].id if turns else None,
            look_for_old=look_for_old and not turns,
        )
        page = HotWindow.oldest_turns((yield from ask_known(session, command)))
        turns += page.turns
        if not page.has_more or not page.turns:
            return turns
