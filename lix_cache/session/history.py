"""Parts of a session's history, from both tiers, with no more of either read than is asked for."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from lix_cache.effects import DiskCall, Flow
from lix_cache.errors import RedisUnavailable
from lix_cache.hot.replies import Cold
from lix_cache.hot.window import HotWindow
from lix_cache.messages.turn import ZERO_ID, MessageId, Turn, once
from lix_cache.session import late
from lix_cache.session.base import Session, beside
from lix_cache.session.reconcile import ask_known, catch_up, reconcile_pending, without_redis

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["between", "last", "newest_hot"]


def last(session: Session, count: int, *, of_both: bool = False) -> Flow[list[Turn]]:
    """Return the newest messages, in order: from the disk only what Redis does not hold.

    Args:
        session: the session.
        count: how many.
        of_both: what the archive has alone will not do, whatever the policy says.
    """
    return (yield from between(session, count, None, None, of_both=of_both))


def between(
    session: Session,
    count: int,
    before: MessageId | None,
    after: MessageId | None,
    *,
    of_both: bool = False,
    again: bool = True,
) -> Flow[list[Turn]]:
    """Return messages between two ids: the oldest after ``after``, or else the newest before ``before``.

    Redis first, then the disk, as in ``read.get_full``, and for the same reason. Of either tier as many
    are read as are asked for: what both have together begins, or ends, with the right ones.
    """
    if not count:
        return []
    try:
        yield from reconcile_pending(session)
        if after is not None:
            hot = yield from _oldest_hot(session, count, before, after)
            enough = False
        else:
            hot, enough = yield from newest_hot(session, count, before)
        # Of two copies under two ids a part of a session may have either: both tiers must be one before.
        if not enough and again and (yield DiskCall(partial(session.store.cold.is_pending, session.id))):
            yield from catch_up(session, locked=False, went_back=False)
            return (yield from between(session, count, before, after, of_both=of_both, again=False))
    except RedisUnavailable as error:
        if of_both:
            raise
        found = yield from without_redis(session, _archived(session, count, before, after), error)
        return found if found is not None else (yield from between(session, count, before, after))
    if enough:
        return hot
    asked = count
    while True:
        look = partial(_beside, session, _archived(session, asked, before, after), hot)
        both: list[Turn]
        both, found_cold = yield DiskCall(look, waits=True)
        # Copies of what Redis holds under other ids: then the disk has more to give.
        if len(both) >= count or found_cold < asked:
            return both[:count] if after is not None else both[-count:]
        asked *= 2


def _beside(session: Session, read: Callable[[], list[Turn]], hot: list[Turn]) -> tuple[list[Turn], int]:
    """Return both, merged, and how many the archive has."""
    cold = read()
    return beside(session, cold, hot), len(cold)


def _archived(
    session: Session, count: int, before: MessageId | None, after: MessageId | None
) -> Callable[[], list[Turn]]:
    cold = session.store.cold
    return partial(
        cold.between,
        session.id,
        count,
        before=before,
        after=after or ZERO_ID,
        newest=after is None,
    )


def newest_hot(
    session: Session, count: int, before: MessageId | None, *, locked: bool = False
) -> Flow[tuple[list[Turn], bool]]:
    """Return the newest messages that Redis holds, and whether they are all that is asked for."""
    store, seen = session.store, session.seen
    pages: list[list[Turn]] = []
    below, found, lacks = before, list[Turn](), False
    while len(found) < count:
        # What is left out of a page, because it is gone or there twice, is asked for anew.
        left = count - len(found)
        command = store.hot.read(session.id, left, store.new_nonce(), below)
        page = HotWindow.newest((yield from ask_known(session, command, locked=locked)))
        if isinstance(page, Cold) or not page.turns:
            return found, False
        if below is None:
            lacks = page.turns[-1].id < seen.expected
            seen.compared = seen.compared if lacks else max(seen.compared, seen.opened)
        pages.append(page.turns)
        below = page.turns[0].id
        everything = list(chain.from_iterable(reversed(pages)))
        found = once(late.counted(seen, everything, seen.deleted))
        if len(page.turns) < left and not page.has_more:
            break
    # A Redis that went back has a window that ends too early, and so has one that another process did not
    # reach: then the disk has what comes after.
    return found[-count:], len(found) >= count and seen.compared >= seen.opened and not lacks


def _oldest_hot(session: Session, count: int, before: MessageId | None, after: MessageId) -> Flow[list[Turn]]:
    """Return the oldest messages after one that Redis holds, as many as are asked for."""
    hot, seen = session.store.hot, session.seen
    turns: list[Turn] = []
    found: list[Turn] = []
    while len(found) < count:
        start = turns[-1].id if turns else after
        command = hot.oldest(
            session.id, keep=0, limit=count - len(found), after=start, look_for_old=not turns
        )
        page = HotWindow.oldest_turns((yield from ask_known(session, command)))
        turns += page.turns
        found = once(late.counted(seen, turns, seen.deleted))
        if not page.turns or (before is not None and turns[-1].id >= before):
            break
    return [turn for turn in found if before is None or turn.id < before]
