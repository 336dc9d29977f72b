"""What Redis has lost of what it acknowledged: counted, as far as a process can know.

A replica that takes over and a server that starts from a snapshot hold all there was up to a moment. So
before a session is used over another connection, the newest message is looked for that this process added
and that Redis alone has, as far as it knows. Where neither tier has that one, the others are looked for too.

A process cannot know what others had added that have ended, or that do not use the session any more. It does
not ask for messages of more than a day ago: the archive may have forgotten by what it recognises them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lix_cache._log import logger
from lix_cache.effects import DiskCall, Flow
from lix_cache.errors import LixCacheError, told
from lix_cache.messages.session_key import named
from lix_cache.session.base import Session, find_hot, look, session_lock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lix_cache.messages.turn import MessageId

__all__ = ["count_lost"]

#: Clocks of servers and of those who archive may differ by so much.
_CLOCKS_MS = 3_600_000

#: The archive keeps nonces for a day.
_ASKED_MS = 86_400_000 - _CLOCKS_MS


def count_lost(session: Session, *, locked: bool) -> Flow[None]:
    """Count what this process added to a session and neither tier has: ``lost_messages`` in the counters.

    Args:
        session: the session.
        locked: whether the caller holds its lock.
    """
    store, entrusted = session.store, session.seen.entrusted
    if not entrusted:
        return
    added = entrusted.take()
    try:
        lost = yield from _lost(session, added, locked=locked)
    except LixCacheError as error:
        # It is looked for again over the next connection, and keeps no message out.
        store.last_error = told(error)
        entrusted.put_back(added)
        return
    except BaseException:
        entrusted.put_back(added)
        raise
    entrusted.put_back({nonce: given for nonce, given in added.items() if nonce not in lost})
    if lost:
        store.count("lost_messages", len(lost))
        logger.warning(
            "Redis has lost {} acknowledged messages of {}, which only a server had that is gone; "
            'durability="replica" or "disk" prevents that',
            len(lost),
            named(session.id),
        )


def _lost(session: Session, added: Mapping[bytes, MessageId], *, locked: bool) -> Flow[set[bytes]]:
    since = int(session.store.clock.time() * 1000) - _ASKED_MS
    asked = {nonce: given for nonce, given in added.items() if given.ms > since}
    if not asked:
        return set()
    newest = max(asked, key=asked.__getitem__)
    missing = yield from _in_neither(session, {newest: asked[newest]}, locked=locked)
    return (yield from _in_neither(session, asked, locked=locked)) if missing else set()


def _in_neither(session: Session, asked: Mapping[bytes, MessageId], *, locked: bool) -> Flow[set[bytes]]:
    """Return the nonces of those messages that neither tier has or had before they were taken out."""
    # Redis first: what moves to disk meanwhile is found there.
    oldest = min(asked.values())
    hot, _ = yield from find_hot(session, asked, oldest)
    missing = {nonce: given for nonce, given in asked.items() if nonce not in hot}
    if not missing:
        return set()
    lock = None if locked else (yield from session_lock(session))
    try:
        find = partial(
            session.store.cold.find_nonces_locked,
            session.id,
            list(missing),
            since_ms=max(0, oldest.ms - _CLOCKS_MS),
        )
        archived = yield DiskCall(find)
        yield from look(session, locked=True)
    finally:
        if lock is not None:
            lock.release()
    deleted = session.seen.deleted
    return {nonce for nonce, given in missing.items() if nonce not in archived and given > deleted}
